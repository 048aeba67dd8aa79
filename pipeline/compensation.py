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
Buffers = tuple[Floats, Floats, Floats, Floats]
Area = tuple[int, int, int, int]
"""Top, left, height and width in samples."""


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


def flat_rows(plane: Samples) -> tuple[Samples, int]:
    """Return a plane as a flat array that starts at its first sample, and the samples per row.

    Nothing is copied where rows lie side by side, or where the plane is the visible part of a
    flat buffer with padded rows, as FFmpeg's are.
    """
    if plane.flags.c_contiguous:
        return plane.reshape(-1), plane.shape[1]
    buffer = plane.base
    if (
        isinstance(buffer, np.ndarray)
        and buffer.ndim == 1
        and buffer.dtype == np.uint8
        and buffer.flags.c_contiguous
        and plane.strides[1] == 1
        and plane.strides[0] > 0
        and buffer.__array_interface__["data"][0] == plane.__array_interface__["data"][0]
    ):
        return buffer, plane.strides[0]
    return np.ascontiguousarray(plane).reshape(-1), plane.shape[1]


# How a macroblock divides into blocks of equal prediction, bits: 16x16, 16x8, 8x16, 8x8.
_HALVED_DOWN: Final = 1
_HALVED_ACROSS: Final = 2


@kernel
def _predict_luma(
    reference: Samples,
    stride: int,
    predicted: Samples,
    motion: npt.NDArray[np.int16],
    coverage: Samples,
) -> None:
    buffers = _new_buffers()
    for row in range(0, coverage.shape[0], 2):
        for column in range(0, coverage.shape[1], 2):
            shape = _shape_of(motion, coverage, row, column)
            down, right = _steps(shape)
            for r in range(row, row + 2, down):
                for c in range(column, column + 2, right):
                    area = (r * 8, c * 8, down * 8, right * 8)
                    if coverage[r, c] == 0:
                        _fill_block(predicted, area)
                        continue
                    dx, dy = int(motion[r, c, 0]), int(motion[r, c, 1])
                    _luma_block(reference, stride, predicted, area, dx, dy, buffers)


@kernel
def _predict_chroma(
    reference: Samples,
    stride: int,
    predicted: Samples,
    motion: npt.NDArray[np.int16],
    coverage: Samples,
) -> None:
    buffers = _new_buffers()
    for row in range(0, coverage.shape[0], 2):
        for column in range(0, coverage.shape[1], 2):
            shape = _shape_of(motion, coverage, row, column)
            down, right = _steps(shape)
            for r in range(row, row + 2, down):
                for c in range(column, column + 2, right):
                    area = (r * 4, c * 4, down * 4, right * 4)
                    if coverage[r, c] == 0:
                        _fill_block(predicted, area)
                        continue
                    dx, dy = int(motion[r, c, 0]), int(motion[r, c, 1])
                    _chroma_block(reference, stride, predicted, area, dx, dy, buffers)


@kernel
def _new_buffers() -> Buffers:
    """Return a patch, sums, and two intermediate results.

    Zeros, since loops run over unused samples too, and leftovers of memory may be denormal
    numbers, which are a hundred times slower.
    """
    return (
        np.zeros(_BUFFER, np.float32),
        np.zeros(_BUFFER, np.float32),
        np.zeros(_BUFFER, np.float32),
        np.zeros(_BUFFER, np.float32),
    )


@kernel
def _steps(shape: int) -> tuple[int, int]:
    """Return the cells, down and across, of the blocks of a macroblock."""
    return (1 if shape & _HALVED_DOWN else 2), (1 if shape & _HALVED_ACROSS else 2)


@kernel
def _shape_of(motion: npt.NDArray[np.int16], coverage: Samples, row: int, column: int) -> int:
    """Return how few blocks of equal prediction a macroblock divides into."""
    r, c = np.uintp(row), np.uintp(column)
    down, right = np.uintp(row + 1), np.uintp(column + 1)
    x, y = np.uintp(0), np.uintp(1)
    upper = (motion[r, c, x] ^ motion[r, right, x]) | (motion[r, c, y] ^ motion[r, right, y])
    upper |= coverage[r, c] ^ coverage[r, right]
    lower = motion[down, c, x] ^ motion[down, right, x]
    lower |= motion[down, c, y] ^ motion[down, right, y]
    lower |= coverage[down, c] ^ coverage[down, right]
    left = (motion[r, c, x] ^ motion[down, c, x]) | (motion[r, c, y] ^ motion[down, c, y])
    left |= coverage[r, c] ^ coverage[down, c]
    if upper == 0 and lower == 0:
        return 0 if left == 0 else _HALVED_DOWN
    across = motion[r, right, x] ^ motion[down, right, x]
    across |= motion[r, right, y] ^ motion[down, right, y]
    across |= coverage[r, right] ^ coverage[down, right]
    return _HALVED_ACROSS if left == 0 and across == 0 else _HALVED_DOWN | _HALVED_ACROSS


@kernel
def _fill_block(plane: Samples, area: Area) -> None:
    top, left, height, width = area
    target = plane.reshape(-1)
    for i in range(height):
        write = np.uintp((top + i) * plane.shape[1] + left)
        for j in range(width):
            target[write + np.uintp(j)] = INTRA_PREDICTION


@kernel
def _luma_block(
    reference: Samples,
    stride: int,
    predicted: Samples,
    area: Area,
    dx: int,
    dy: int,
    buffers: Buffers,
) -> None:
    """Interpolate one block; letters as in figure 8-4 of the standard."""
    top, left, height, width = area
    fx, fy = dx & 3, dy & 3
    y, x = top + (dy >> 2), left + (dx >> 2)
    if fx == 0 and fy == 0 and _is_inside(predicted, y, x, height, width):
        _copy_block(reference, y * stride + x, stride, predicted, area)
        return
    patch, sums, first, second = buffers
    step = width + 8
    size = height * step
    _gather(reference, stride, predicted, y - 2, x - 2, height + 5, width + 5, patch, step)
    at = 2 * step + 2
    if fx == 0 and fy == 0:
        _store(patch, at, step, predicted, area)
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
    _store(first, 0, step, predicted, area)


@kernel
def _chroma_block(
    reference: Samples,
    stride: int,
    predicted: Samples,
    area: Area,
    dx: int,
    dy: int,
    buffers: Buffers,
) -> None:
    """Interpolate one block bilinearly, equation 8-266; a luma quarter is a chroma eighth."""
    top, left, height, width = area
    fx, fy = dx & 7, dy & 7
    y, x = top + (dy >> 3), left + (dx >> 3)
    if fx == 0 and fy == 0 and _is_inside(predicted, y, x, height, width):
        _copy_block(reference, y * stride + x, stride, predicted, area)
        return
    patch, result = buffers[0], buffers[1]
    step = width + 8
    _gather(reference, stride, predicted, y, x, height + 1, width + 1, patch, step)
    a, b = np.float32((8 - fx) * (8 - fy)), np.float32(fx * (8 - fy))
    c, d = np.float32((8 - fx) * fy), np.float32(fx * fy)
    right, below, both = patch[1:], patch[step:], patch[step + 1 :]
    for k in range(height * step):
        total = a * patch[k] + b * right[k] + c * below[k] + d * both[k]
        result[k] = np.floor((total + np.float32(32)) * np.float32(1 / 64))
    _store(result, 0, step, predicted, area)


@kernel
def _is_inside(plane: Samples, y: int, x: int, height: int, width: int) -> bool:
    return y >= 0 and x >= 0 and y + height <= plane.shape[0] and x + width <= plane.shape[1]


@kernel
def _copy_block(
    source: Samples,
    start: int,
    stride: int,
    plane: Samples,
    area: Area,
) -> None:
    top, left, height, width = area
    target = plane.reshape(-1)
    for i in range(height):
        # Unsigned positions spare the test for Python's negative ones.
        read, write = np.uintp(start + i * stride), np.uintp((top + i) * plane.shape[1] + left)
        for j in range(width):
            target[write + np.uintp(j)] = source[read + np.uintp(j)]


@kernel
def _gather(
    source: Samples,
    stride: int,
    plane: Samples,
    y: int,
    x: int,
    height: int,
    width: int,
    patch: Floats,
    step: int,
) -> None:
    """Copy ``height`` x ``width`` samples from (y, x) on; outside, the picture's border repeats."""
    if _is_inside(plane, y, x, height, width):
        for i in range(height):
            read, write = np.uintp((y + i) * stride + x), np.uintp(i * step)
            for j in range(width):
                patch[write + np.uintp(j)] = np.float32(np.int32(source[read + np.uintp(j)]))
        return
    num_left = min(max(-x, 0), width)
    end = min(max(plane.shape[1] - x, 0), width)
    for i in range(height):
        line = min(max(y + i, 0), plane.shape[0] - 1) * stride
        read, write = np.uintp(line + x), np.uintp(i * step)
        for j in range(num_left):
            patch[write + np.uintp(j)] = source[line]
        for j in range(num_left, end):
            patch[write + np.uintp(j)] = np.float32(np.int32(source[read + np.uintp(j)]))
        for j in range(end, width):
            patch[write + np.uintp(j)] = source[line + plane.shape[1] - 1]


@kernel
def _store(
    values: Floats,
    start: int,
    step: int,
    plane: Samples,
    area: Area,
) -> None:
    top, left, height, width = area
    target = plane.reshape(-1)
    for i in range(height):
        read, write = np.uintp(start + i * step), np.uintp((top + i) * plane.shape[1] + left)
        for j in range(width):
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
