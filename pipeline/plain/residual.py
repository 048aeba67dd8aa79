"""The residual of a frame, and the frame back from it.

A residual runs from -255 to 255. It is kept as one byte modulo 256, from which the frame comes
back without loss, plus a list of the few values that do not fit into int8, so that the signed
residual is known without rebuilding anything.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.grid import Planes


class Residual(NamedTuple):
    """Decoded minus predicted, one frame."""

    planes: Planes
    """uint8, the difference modulo 256 (the same bits as int8 where it fits)."""
    exceptions: npt.NDArray[np.int32]
    """(E, 4) rows of plane (0 Y, 1 Cb, 2 Cr), y, x, signed value outside of int8."""


def residual_between(decoded: Planes, predicted: Planes) -> Residual:
    """Subtract the prediction from the decoded planes."""
    wrapped = []
    exceptions = []
    for index, (plane, prediction) in enumerate(zip(decoded, predicted, strict=True)):
        signed = plane.astype(np.int16) - prediction
        wrapped.append(signed.astype(np.uint8))
        rows, columns = np.nonzero((signed < -128) | (signed > 127))
        exceptions.append(
            np.stack([np.full_like(rows, index), rows, columns, signed[rows, columns]], axis=1)
        )
    return Residual(Planes(*wrapped), np.concatenate(exceptions).astype(np.int32))


def add_residual(predicted: Planes, residual: Planes) -> Planes:
    """Return the decoded planes: the exact inverse of :func:`residual_between`."""
    # uint8 arithmetic is modulo 256, which is all that is needed.
    return Planes(*(p + r for p, r in zip(predicted, residual, strict=True)))


def zero_macroblocks(residual: Planes) -> npt.NDArray[np.bool_]:
    """Return (Hc / 16, Wc / 16), True where a macroblock is zero in Y, Cb and Cr."""
    rows, columns = residual.y.shape[0] // 16, residual.y.shape[1] // 16
    zero = np.ones((rows, columns), np.bool_)
    for plane, side in zip(residual, (16, 8, 8), strict=True):
        zero &= ~plane.reshape(rows, side, columns, side).any(axis=(1, 3))
    return zero
