"""Motion-compensated prediction with the interpolation of H.264, block by block.

Luma: ITU-T H.264, clause 8.4.2.2.1 (six-tap half samples, averaged quarter samples).
Chroma of 4:2:0 pictures: clause 8.4.2.2.2 (bilinear at eighth samples).
Reference samples outside of the picture repeat its border, without limit (clause 8.4.2.2.1,
clipping of xInt and yInt), and the picture is the coded one: predictions do read the columns
and rows that cropping hides.

Only what a block asks for is interpolated, row by row with the vector operations of
:mod:`gopstream.pipeline.vector_rows`. :mod:`gopstream.pipeline.plain.compensation` is the same in
plain NumPy.

In the kernels planes are flat arrays with a number of samples per row, so that FFmpeg's padded
rows are read where they are.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.pipeline import vector_rows as rows
from gopstream.pipeline.grid import BLOCK, Planes
from gopstream.pipeline.kernel import kernel

INTRA_PREDICTION: Final = 128
"""What an unpredicted block is compared with, so that its residual still fits in a byte."""

# A patch of the largest block has 21 rows of 21 samples; rows are kept apart by 24.
_STEP: Final = 24
_PATCH: Final = 21 * _STEP

Samples = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int16]
Buffers = tuple[Samples, Samples, Sums]
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
    for source, target in zip(reference, predicted, strict=True):
        _predict(side_by_side(source), target, flat_motion, flat_coverage)
    return predicted


def side_by_side(plane: Samples) -> Samples:
    """Return a plane whose rows kernels can read: copied only if its samples lie apart."""
    row, sample = plane.strides
    return plane if sample == 1 and row >= plane.shape[1] else np.ascontiguousarray(plane)


# How a macroblock divides into blocks of equal prediction, bits: 16x16, 16x8, 8x16, 8x8.
_HALVED_DOWN: Final = 1
_HALVED_ACROSS: Final = 2


@kernel
def _predict(
    plane: Samples,
    predicted: Samples,
    motion: npt.NDArray[np.int16],
    coverage: Samples,
) -> None:
    """Predict a plane: luma if a cell of the grid has eight of its samples, chroma if four."""
    buffers = _new_buffers()
    reference, stride = rows.flatten(plane), plane.strides[0]
    cell = predicted.shape[0] // coverage.shape[0]
    for row in range(0, coverage.shape[0], 2):
        for column in range(0, coverage.shape[1], 2):
            down, right = _steps(_shape_of(motion, coverage, row, column))
            for r in range(row, row + 2, down):
                for c in range(column, column + 2, right):
                    area = (r * cell, c * cell, down * cell, right * cell)
                    dx, dy = int(motion[r, c, 0]), int(motion[r, c, 1])
                    if coverage[r, c] == 0:
                        _fill_block(predicted, area)
                    elif cell == BLOCK:
                        _luma_block(reference, stride, predicted, area, dx, dy, buffers)
                    else:
                        _chroma_block(reference, stride, predicted, area, dx, dy, buffers)


@kernel
def _new_buffers() -> Buffers:
    """Return a patch, intermediate samples, and sums."""
    return np.empty(_PATCH, np.uint8), np.empty(_PATCH, np.uint8), np.empty(_PATCH, np.int16)


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
    """Interpolate one block, from the reference itself or from a patch across its border."""
    top, left, height, width = area
    fx, fy, y, x = dx & 3, dy & 3, top + (dy >> 2), left + (dx >> 2)
    patch, samples, sums = buffers
    out, step = predicted.reshape(-1), predicted.shape[1]
    source, line, at = reference, stride, y * stride + x
    is_whole = fx == 0 and fy == 0 and _is_inside(predicted, y, x, height, width)
    if not (is_whole or _is_inside(predicted, y - 2, x - 2, height + 5, width + 5)):
        _gather(reference, stride, predicted, y - 2, x - 2, height + 5, width + 5, patch)
        source, line, at = patch, _STEP, 2 * _STEP + 2
    to = top * step + left
    if width == 16:
        _luma_rows_16(source, at, line, out, to, step, height, fx, fy, samples, sums)
    else:
        _luma_rows_8(source, at, line, out, to, step, height, fx, fy, samples, sums)


# An operation has a fixed width, so that there is a function for each; the loops are inside, since
# luma takes two and a half times as long with a call for every row (measured).


@kernel
def _luma_rows_16(
    source: Samples,
    at: int,
    stride: int,
    out: Samples,
    to: int,
    step: int,
    height: int,
    fx: int,
    fy: int,
    samples: Samples,
    sums: Sums,
) -> None:
    """Interpolate rows of 16 samples; letters as in figure 8-4 of the standard."""
    if (fx == 2 and fy != 0) or (fy == 2 and fx != 0):
        for i in range(height + 5):
            rows.sums_16(sums, i * 16, source, at + (i - 2) * stride)
    for i in range(height):
        line, target = at + i * stride, to + i * step
        right, below = line + (fx >> 1), line + (fy >> 1) * stride
        if fx == 0 and fy == 0:
            rows.copy_16(out, target, source, line)
        elif fx == 0:  # d, h, n
            rows.half_16(out, target, source, line, stride)
            if fy != 2:
                rows.average_16(out, target, source, below)
        elif fy == 0:  # a, b, c
            rows.half_16(out, target, source, line, 1)
            if fx != 2:
                rows.average_16(out, target, source, right)
        elif fx != 2 and fy != 2:  # e, g, p, r
            rows.half_16(out, target, source, below, 1)
            rows.half_16(samples, 0, source, right, stride)
            rows.average_16(out, target, samples, 0)
        else:  # f, i, j, k, q
            rows.centre_16(out, target, sums, (i + 2) * 16, 16)
            if fy != 2:
                rows.rounded_16(samples, 0, sums, (i + 2 + (fy >> 1)) * 16)
                rows.average_16(out, target, samples, 0)
            elif fx != 2:
                rows.half_16(samples, 0, source, right, stride)
                rows.average_16(out, target, samples, 0)


@kernel
def _luma_rows_8(
    source: Samples,
    at: int,
    stride: int,
    out: Samples,
    to: int,
    step: int,
    height: int,
    fx: int,
    fy: int,
    samples: Samples,
    sums: Sums,
) -> None:
    """Interpolate rows of 8 samples; letters as in figure 8-4 of the standard."""
    if (fx == 2 and fy != 0) or (fy == 2 and fx != 0):
        for i in range(height + 5):
            rows.sums_8(sums, i * 8, source, at + (i - 2) * stride)
    for i in range(height):
        line, target = at + i * stride, to + i * step
        right, below = line + (fx >> 1), line + (fy >> 1) * stride
        if fx == 0 and fy == 0:
            rows.copy_8(out, target, source, line)
        elif fx == 0:  # d, h, n
            rows.half_8(out, target, source, line, stride)
            if fy != 2:
                rows.average_8(out, target, source, below)
        elif fy == 0:  # a, b, c
            rows.half_8(out, target, source, line, 1)
            if fx != 2:
                rows.average_8(out, target, source, right)
        elif fx != 2 and fy != 2:  # e, g, p, r
            rows.half_8(out, target, source, below, 1)
            rows.half_8(samples, 0, source, right, stride)
            rows.average_8(out, target, samples, 0)
        else:  # f, i, j, k, q
            rows.centre_8(out, target, sums, (i + 2) * 8, 8)
            if fy != 2:
                rows.rounded_8(samples, 0, sums, (i + 2 + (fy >> 1)) * 8)
                rows.average_8(out, target, samples, 0)
            elif fx != 2:
                rows.half_8(samples, 0, source, right, stride)
                rows.average_8(out, target, samples, 0)


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
    """Interpolate one block bilinearly; a luma quarter is a chroma eighth."""
    top, left, height, width = area
    fx, fy = dx & 7, dy & 7
    y, x = top + (dy >> 3), left + (dx >> 3)
    patch = buffers[0]
    out, step = predicted.reshape(-1), predicted.shape[1]
    to = top * step + left
    is_whole = fx == 0 and fy == 0
    if _is_inside(predicted, y, x, height + 1, width + 1) or (
        is_whole and _is_inside(predicted, y, x, height, width)
    ):
        at = y * stride + x
        _chroma_samples(reference, at, stride, out, to, step, height, width, fx, fy)
        return
    _gather(reference, stride, predicted, y, x, height + 1, width + 1, patch)
    _chroma_samples(patch, 0, _STEP, out, to, step, height, width, fx, fy)


@kernel
def _chroma_samples(
    source: Samples,
    at: int,
    stride: int,
    out: Samples,
    to: int,
    step: int,
    height: int,
    width: int,
    fx: int,
    fy: int,
) -> None:
    for i in range(height):
        line, target = at + i * stride, to + i * step
        if width == 8:
            if fx == 0 and fy == 0:
                rows.copy_8(out, target, source, line)
            else:
                rows.bilinear_8(out, target, source, line, stride, fx, fy)
        elif fx == 0 and fy == 0:
            rows.copy_4(out, target, source, line)
        else:
            rows.bilinear_4(out, target, source, line, stride, fx, fy)


@kernel
def _is_inside(plane: Samples, y: int, x: int, height: int, width: int) -> bool:
    return y >= 0 and x >= 0 and y + height <= plane.shape[0] and x + width <= plane.shape[1]


@kernel
def _gather(
    source: Samples,
    stride: int,
    plane: Samples,
    y: int,
    x: int,
    height: int,
    width: int,
    patch: Samples,
) -> None:
    """Copy ``height`` x ``width`` samples from (y, x) on; outside, the picture's border repeats."""
    num_left = min(max(-x, 0), width)
    end = min(max(plane.shape[1] - x, 0), width)
    for i in range(height):
        line = min(max(y + i, 0), plane.shape[0] - 1) * stride
        write = i * _STEP
        for j in range(num_left):
            patch[write + j] = source[line]
        for j in range(num_left, end):
            patch[write + j] = source[line + x + j]
        for j in range(end, width):
            patch[write + j] = source[line + plane.shape[1] - 1]
