"""Motion-compensated prediction with the interpolation of H.264, block by block.

Luma: ITU-T H.264, clause 8.4.2.2.1 (six-tap half samples, averaged quarter samples).
Chroma of 4:2:0 pictures: clause 8.4.2.2.2 (bilinear at eighth samples).
Reference samples outside of the picture repeat its border, without limit (clause 8.4.2.2.1,
clipping of xInt and yInt), and the picture is the coded one: predictions do read the columns
and rows that cropping hides.

Only what a block asks for is interpolated. Sums are kept in float32: every value is an integer
below 2^24, so that nothing is ever rounded, and unlike Numba's 64-bit integers eight of them fit
into a vector register. :mod:`gopstream.pipeline.plain.compensation` is the same in plain NumPy.

In the kernels planes are flat arrays with a number of samples per row, so that FFmpeg's padded
rows are read where they are.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.grid import BLOCK, Planes
from gopstream.pipeline.kernel import kernel

INTRA_PREDICTION: Final = 128
"""What an unpredicted block is compared with, so that its residual still fits in a byte."""

# Two buffers' worth of the largest patch, 21 rows of 24 samples, and what long loops overrun.
_BUFFER: Final = 24 * 24

Samples = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Buffers = tuple[Floats, ...]


def predict_planes(
    reference: Planes, motion: npt.NDArray[np.int16], coverage: npt.NDArray[np.uint8]
) -> Planes:
    """Predict a picture from the one before it.

    Args:
        reference: The decoded coded planes of the reference picture. Rows may be padded, samples
            within a row lie side by side.
        motion: (Hb, Wb, 2) int16 quarter pixels, one vector (dx, dy) per 8x8 luma block.
        coverage: (Hb, Wb) uint8, 0 at intra blocks.

    Returns:
        The predicted planes, with :data:`INTRA_PREDICTION` at intra blocks.
    """
    height, width = reference.y.shape
    grid = (height // BLOCK, width // BLOCK)
    if motion.shape != (*grid, 2) or coverage.shape != grid:
        raise ValueError(
            f"a picture of {width}x{height} has motion {(*grid, 2)} and coverage {grid}, "
            f"got {motion.shape} and {coverage.shape}"
        )
    predicted = Planes(
        np.empty((height, width), np.uint8),
        np.empty((height // 2, width // 2), np.uint8),
        np.empty((height // 2, width // 2), np.uint8),
    )
    flat_motion, flat_coverage = np.ascontiguousarray(motion), np.ascontiguousarray(coverage)
    _predict_luma(*flat_rows(reference.y), predicted.y, flat_motion, flat_coverage)
    for source, target in zip(reference[1:], predicted[1:], strict=True):
        _predict_chroma(*flat_rows(source), target, flat_motion, flat_coverage)
    return predicted


def flat_rows(plane: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], int]:
    """Return a plane as a flat array that starts at its first sample, and the samples per row."""
    row, sample = plane.strides
    if sample != 1 or row < plane.shape[1]:
        plane = np.ascontiguousarray(plane)
        row = plane.shape[1]
    num_samples = (plane.shape[0] - 1) * row + plane.shape[1]
    return np.lib.stride_tricks.as_strided(plane, (num_samples,), (1,), writeable=False), row


@kernel
def _predict_luma(
    reference: Samples,
    stride: int,
    predicted: Samples,
    motion: npt.NDArray[np.int16],
    coverage: Samples,
) -> None:
    patch, sums = np.empty(_BUFFER, np.float32), np.empty(_BUFFER, np.float32)
    first, second = np.empty(_BUFFER, np.float32), np.empty(_BUFFER, np.float32)
    buffers = (patch, sums, first, second)
    for row in range(0, coverage.shape[0], 2):
        for column in range(0, coverage.shape[1], 2):
            if _is_uniform(motion, coverage, row, column):
                dx, dy = int(motion[row, column, 0]), int(motion[row, column, 1])
                top, left = row * 8, column * 8
                _luma_block(reference, stride, predicted, top, left, 16, dx, dy, buffers)
                continue
            for r in range(row, row + 2):
                for c in range(column, column + 2):
                    if coverage[r, c] == 0:
                        _fill_block(predicted, r * 8, c * 8, 8)
                        continue
                    dx, dy = int(motion[r, c, 0]), int(motion[r, c, 1])
                    _luma_block(reference, stride, predicted, r * 8, c * 8, 8, dx, dy, buffers)


@kernel
def _is_uniform(motion: npt.NDArray[np.int16], coverage: Samples, row: int, column: int) -> bool:
    """Tell whether a macroblock is predicted whole, by one vector."""
    r, c = np.uintp(row), np.uintp(column)
    down, right = np.uintp(row + 1), np.uintp(column + 1)
    x, y = np.uintp(0), np.uintp(1)
    covered = coverage[r, c] & coverage[r, right] & coverage[down, c] & coverage[down, right]
    differs = (motion[r, c, x] ^ motion[r, right, x]) | (motion[r, c, y] ^ motion[r, right, y])
    differs |= (motion[r, c, x] ^ motion[down, c, x]) | (motion[r, c, y] ^ motion[down, c, y])
    differs |= motion[r, c, x] ^ motion[down, right, x]
    differs |= motion[r, c, y] ^ motion[down, right, y]
    return covered != 0 and differs == 0


@kernel
def _fill_block(plane: Samples, top: int, left: int, side: int) -> None:
    target = plane.reshape(-1)
    for i in range(side):
        write = np.uintp((top + i) * plane.shape[1] + left)
        for j in range(side):
            target[write + np.uintp(j)] = INTRA_PREDICTION


@kernel
def _luma_block(
    reference: Samples,
    stride: int,
    predicted: Samples,
    top: int,
    left: int,
    side: int,
    dx: int,
    dy: int,
    buffers: Buffers,
) -> None:
    """Interpolate one block; letters as in figure 8-4 of the standard."""
    fx, fy = dx & 3, dy & 3
    y, x = top + (dy >> 2), left + (dx >> 2)
    if fx == 0 and fy == 0 and _is_inside(predicted, y, x, side, side):
        _copy_block(reference, y * stride + x, stride, predicted, top, left, side)
        return
    patch, sums, first, second = buffers
    step = side + 8
    size = side * step
    _gather(reference, stride, predicted, y - 2, x - 2, side + 5, patch, step)
    at = 2 * step + 2
    if fx == 0 and fy == 0:
        _store(patch, at, step, predicted, top, left, side)
        return
    if fx == 0:  # d, h, n
        _half(patch, at, step, first, size)
        if fy != 2:
            _average(first, patch, at + (fy >> 1) * step, size)
    elif fy == 0:  # a, b, c
        _half(patch, at, 1, first, size)
        if fx != 2:
            _average(first, patch, at + (fx >> 1), size)
    elif fx != 2 and fy != 2:  # e, g, p, r
        _half(patch, at + (fy >> 1) * step, 1, first, size)
        _half(patch, at + (fx >> 1), step, second, size)
        _average(first, second, 0, size)
    else:  # f, i, j, k, q
        _sums(patch, at - 2 * step, sums, size + 5 * step)
        _centre(sums, 2 * step, step, first, size)
        if fy != 2:
            _rounded(sums, (2 + (fy >> 1)) * step, second, size)
            _average(first, second, 0, size)
        elif fx != 2:
            _half(patch, at + (fx >> 1), step, second, size)
            _average(first, second, 0, size)
    _store(first, 0, step, predicted, top, left, side)


@kernel
def _is_inside(plane: Samples, y: int, x: int, height: int, width: int) -> bool:
    return y >= 0 and x >= 0 and y + height <= plane.shape[0] and x + width <= plane.shape[1]


@kernel
def _copy_block(
    source: Samples,
    start: int,
    stride: int,
    plane: Samples,
    top: int,
    left: int,
    side: int,
) -> None:
    target = plane.reshape(-1)
    width = plane.shape[1]
    for i in range(side):
        # Unsigned positions spare the test for Python's negative ones.
        read, write = np.uintp(start + i * stride), np.uintp((top + i) * width + left)
        for j in range(side):
            target[write + np.uintp(j)] = source[read + np.uintp(j)]


@kernel
def _gather(
    source: Samples,
    stride: int,
    plane: Samples,
    y: int,
    x: int,
    side: int,
    patch: Floats,
    step: int,
) -> None:
    """Copy ``side`` x ``side`` samples from (y, x) on; beyond the picture its border repeats."""
    height, width = plane.shape
    if _is_inside(plane, y, x, side, side):
        for i in range(side):
            read, write = np.uintp((y + i) * stride + x), np.uintp(i * step)
            for j in range(side):
                patch[write + np.uintp(j)] = np.float32(np.int32(source[read + np.uintp(j)]))
        return
    for i in range(side):
        start = min(max(y + i, 0), height - 1) * stride
        for j in range(side):
            patch[i * step + j] = source[start + min(max(x + j, 0), width - 1)]


@kernel
def _store(
    values: Floats,
    start: int,
    step: int,
    plane: Samples,
    top: int,
    left: int,
    side: int,
) -> None:
    target = plane.reshape(-1)
    width = plane.shape[1]
    for i in range(side):
        read, write = np.uintp(start + i * step), np.uintp((top + i) * width + left)
        for j in range(side):
            target[write + np.uintp(j)] = np.uint8(np.int32(values[read + np.uintp(j)]))


# The loops below run over whole patches, a few unused columns included: one long loop over
# contiguous samples is what a compiler turns into vector instructions.


@kernel
def _half(values: Floats, at: int, step: int, result: Floats, size: int) -> None:
    """Half samples b (step 1) or h (step of a row): equations 8-241 to 8-244."""
    a, b, c = values[at - 2 * step :], values[at - step :], values[at:]
    d, e, f = values[at + step :], values[at + 2 * step :], values[at + 3 * step :]
    for k in range(size):
        total = a[k] + f[k] - np.float32(5) * (b[k] + e[k]) + np.float32(20) * (c[k] + d[k])
        total = np.floor((total + np.float32(16)) * np.float32(1 / 32))
        result[k] = min(max(total, np.float32(0)), np.float32(255))


@kernel
def _sums(values: Floats, at: int, result: Floats, size: int) -> None:
    """Horizontal sums b1, not rounded."""
    a, b, c = values[at - 2 :], values[at - 1 :], values[at:]
    d, e, f = values[at + 1 :], values[at + 2 :], values[at + 3 :]
    for k in range(size):
        total = a[k] + f[k] - np.float32(5) * (b[k] + e[k])
        result[k] = total + np.float32(20) * (c[k] + d[k])


@kernel
def _centre(sums: Floats, at: int, step: int, result: Floats, size: int) -> None:
    """Centre samples j: equations 8-245 to 8-247."""
    a, b, c = sums[at - 2 * step :], sums[at - step :], sums[at:]
    d, e, f = sums[at + step :], sums[at + 2 * step :], sums[at + 3 * step :]
    for k in range(size):
        total = a[k] + f[k] - np.float32(5) * (b[k] + e[k]) + np.float32(20) * (c[k] + d[k])
        total = np.floor((total + np.float32(512)) * np.float32(1 / 1024))
        result[k] = min(max(total, np.float32(0)), np.float32(255))


@kernel
def _rounded(sums: Floats, at: int, result: Floats, size: int) -> None:
    """Half samples b from their sums."""
    shifted = sums[at:]
    for k in range(size):
        total = np.floor((shifted[k] + np.float32(16)) * np.float32(1 / 32))
        result[k] = min(max(total, np.float32(0)), np.float32(255))


@kernel
def _average(result: Floats, other: Floats, at: int, size: int) -> None:
    """Quarter samples: the mean of two neighbours, rounded up (equations 8-250 to 8-261)."""
    shifted = other[at:]
    for k in range(size):
        result[k] = np.floor((result[k] + shifted[k] + np.float32(1)) * np.float32(0.5))


@kernel
def _predict_chroma(
    reference: Samples,
    stride: int,
    predicted: Samples,
    motion: npt.NDArray[np.int16],
    coverage: Samples,
) -> None:
    buffers = np.empty(_BUFFER, np.float32), np.empty(_BUFFER, np.float32)
    for row in range(0, coverage.shape[0], 2):
        for column in range(0, coverage.shape[1], 2):
            if _is_uniform(motion, coverage, row, column):
                dx, dy = int(motion[row, column, 0]), int(motion[row, column, 1])
                top, left = row * 4, column * 4
                _chroma_block(reference, stride, predicted, top, left, 8, dx, dy, buffers)
                continue
            for r in range(row, row + 2):
                for c in range(column, column + 2):
                    if coverage[r, c] == 0:
                        _fill_block(predicted, r * 4, c * 4, 4)
                        continue
                    dx, dy = int(motion[r, c, 0]), int(motion[r, c, 1])
                    _chroma_block(reference, stride, predicted, r * 4, c * 4, 4, dx, dy, buffers)


@kernel
def _chroma_block(
    reference: Samples,
    stride: int,
    predicted: Samples,
    top: int,
    left: int,
    side: int,
    dx: int,
    dy: int,
    buffers: Buffers,
) -> None:
    """Interpolate one block bilinearly, equation 8-266; a luma quarter is a chroma eighth."""
    fx, fy = dx & 7, dy & 7
    y, x = top + (dy >> 3), left + (dx >> 3)
    if fx == 0 and fy == 0 and _is_inside(predicted, y, x, side, side):
        _copy_block(reference, y * stride + x, stride, predicted, top, left, side)
        return
    patch, result = buffers
    step = side + 8
    _gather(reference, stride, predicted, y, x, side + 1, patch, step)
    a, b = np.float32((8 - fx) * (8 - fy)), np.float32(fx * (8 - fy))
    c, d = np.float32((8 - fx) * fy), np.float32(fx * fy)
    right, below, both = patch[1:], patch[step:], patch[step + 1 :]
    for k in range(side * step):
        total = a * patch[k] + b * right[k] + c * below[k] + d * both[k]
        result[k] = np.floor((total + np.float32(32)) * np.float32(1 / 64))
    _store(result, 0, step, predicted, top, left, side)
