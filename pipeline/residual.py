"""The residual of a frame, and the frame back from it.

A residual runs from -255 to 255. It is kept as one byte modulo 256, from which the frame comes
back without loss, plus a list of the few values that do not fit into int8, so that the signed
residual is known without rebuilding anything.

:mod:`gopstream.pipeline.plain.residual` is the same in plain NumPy.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline import vector_rows
from gopstream.pipeline.compensation import side_by_side
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.kernel import kernel

Samples = npt.NDArray[np.uint8]


class Residual(NamedTuple):
    """Decoded minus predicted, one frame."""

    planes: Planes
    """uint8, the difference modulo 256 (the same bits as int8 where it fits)."""
    exceptions: npt.NDArray[np.int32]
    """(E, 4) rows of plane (0 Y, 1 Cb, 2 Cr), y, x, signed value outside of int8."""


def residual_between(
    decoded: Planes, predicted: Planes, *, into: Samples | None = None
) -> Residual:
    """Subtract the prediction from the decoded planes.

    Args:
        decoded: Coded planes; rows may be padded.
        predicted: Planes of the same sizes, rows side by side.
        into: (Hc * 3 / 2 * Wc,) uint8 to hold the planes of the result, Y, Cb, Cr one after the
            other; a new array by default.
    """
    if into is None:
        into = np.empty(sum(plane.size for plane in decoded), np.uint8)
    wrapped = []
    exceptions = []
    start = 0
    for index, (plane, prediction) in enumerate(zip(decoded, predicted, strict=True)):
        difference = into[start : start + plane.size].reshape(plane.shape)
        if _subtract(side_by_side(plane), prediction.reshape(-1), difference):
            exceptions.append(_exceptions(index, plane, prediction))
        wrapped.append(difference)
        start += plane.size
    listed = np.concatenate(exceptions) if exceptions else np.empty((0, 4), np.int32)
    return Residual(Planes(*wrapped), listed)


def add_residual(predicted: Planes, residual: Planes) -> Planes:
    """Return the decoded planes: the exact inverse of :func:`residual_between`."""
    # uint8 arithmetic is modulo 256, which is all that is needed.
    return Planes(*(p + r for p, r in zip(predicted, residual, strict=True)))


def zero_macroblocks(residual: Planes) -> npt.NDArray[np.bool_]:
    """Return (Hc / 16, Wc / 16), True where a macroblock is zero in Y, Cb and Cr."""
    rows, columns = residual.y.shape[0] // 16, residual.y.shape[1] // 16
    zero = np.ones((rows, columns), np.bool_)
    # Eight samples are compared at once; chroma has eight in a row of a macroblock, luma 16.
    for plane, words, side in zip(residual, (2, 1, 1), (16, 8, 8), strict=True):
        _clear_nonzero(np.ascontiguousarray(plane).view(np.uint64), words, side, zero)
    return zero


def _exceptions(
    index: int, plane: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32]:
    signed = plane.astype(np.int16) - prediction
    rows, columns = np.nonzero((signed < -128) | (signed > 127))
    listed = [np.full_like(rows, index), rows, columns, signed[rows, columns]]
    return np.stack(listed, axis=1).astype(np.int32)


@kernel
def _subtract(plane: Samples, predicted: Samples, difference: Samples) -> bool:
    """Fill (H, W) with decoded - predicted modulo 256; tells whether any does not fit int8."""
    height, width = difference.shape
    target = difference.reshape(-1)
    decoded, stride = vector_rows.flatten(plane), plane.strides[0]
    overflows = np.uint8(0)
    for i in range(height):
        read, write = np.uintp(i * stride), np.uintp(i * width)
        for j in range(width):
            value, guess = decoded[read + np.uintp(j)], predicted[write + np.uintp(j)]
            wrapped = np.uint8(value - guess)
            target[write + np.uintp(j)] = wrapped
            # It fits where the sign bit says the same as the comparison.
            overflows |= np.uint8(value >= guess) ^ np.uint8(wrapped < 128)
    return bool(overflows)


@kernel
def _clear_nonzero(
    words: npt.NDArray[np.uint64], per_block: int, side: int, zero: npt.NDArray[np.bool_]
) -> None:
    for row in range(zero.shape[0]):
        for column in range(zero.shape[1]):
            found = np.uint64(0)
            for i in range(row * side, row * side + side):
                for j in range(column * per_block, column * per_block + per_block):
                    found |= words[np.uintp(i), np.uintp(j)]
            if found != 0:
                zero[row, column] = False
