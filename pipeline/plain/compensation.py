"""Motion-compensated prediction with the interpolation of H.264.

Luma: ITU-T H.264, clause 8.4.2.2.1 (six-tap half samples, averaged quarter samples).
Chroma of 4:2:0 pictures: clause 8.4.2.2.2 (bilinear at eighth samples).
Reference samples outside of the picture repeat its border, without limit (clause 8.4.2.2.1,
clipping of xInt and yInt), and the picture is the coded one: predictions do read the columns
and rows that cropping hides.
"""

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.grid import BLOCK, Planes

Scalar = TypeVar("Scalar", bound=np.generic)

INTRA_PREDICTION: Final = 128
"""What an unpredicted block is compared with, so that its residual still fits in a byte."""

_TAP_MARGIN: Final = 3
# Beyond this distance all six taps read the repeated border, so that farther is the same.
_BORDER: Final = 8


def predict_planes(
    reference: Planes, motion: npt.NDArray[np.int16], coverage: npt.NDArray[np.uint8]
) -> Planes:
    """Predict a picture from the one before it.

    Args:
        reference: The decoded coded planes of the reference picture.
        motion: (Hb, Wb, 2) int16 quarter pixels, one vector (dx, dy) per 8x8 luma block.
        coverage: (Hb, Wb) uint8, 0 at intra blocks.

    Returns:
        The predicted planes, with :data:`INTRA_PREDICTION` at intra blocks.
    """
    intra = coverage == 0
    luma = _predict_luma(reference.y, motion)
    luma[_per_pixel(intra, BLOCK)] = INTRA_PREDICTION
    chroma = []
    for plane in (reference.cb, reference.cr):
        predicted = _predict_chroma(plane, motion)
        predicted[_per_pixel(intra, BLOCK // 2)] = INTRA_PREDICTION
        chroma.append(predicted)
    return Planes(luma, chroma[0], chroma[1])


def _per_pixel(grid: npt.NDArray[Scalar], block: int) -> npt.NDArray[Scalar]:
    """Repeat each value of an (Hb, Wb) grid over ``block`` x ``block`` pixels."""
    return np.repeat(np.repeat(grid, block, axis=0), block, axis=1)


def _predict_luma(
    reference: npt.NDArray[np.uint8], motion: npt.NDArray[np.int16]
) -> npt.NDArray[np.uint8]:
    """Gather each pixel from the sample planes that its quarter position needs.

    Returns (Hc, Wc) uint8.
    """
    planes = _half_sample_planes(reference)
    # Each quarter position is one sample plane or the rounded mean of two (table 8-12 and
    # equations 8-245 to 8-260); which, and from which whole position, is in _QUARTERS.
    fraction_x, whole_x = _split(motion[..., 0], 2)
    fraction_y, whole_y = _split(motion[..., 1], 2)
    quarter = fraction_y * 4 + fraction_x
    rows, columns = _positions(reference.shape, whole_y, whole_x, BLOCK)
    per_pixel = _per_pixel(quarter, BLOCK)
    first = _gather(planes, _QUARTERS[per_pixel, 0], rows, columns)
    second = _gather(planes, _QUARTERS[per_pixel, 1], rows, columns)
    return ((first + second + 1) >> 1).astype(np.uint8)


def _split(
    values: npt.NDArray[np.int16], bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split fixed-point values into (fraction, whole part), the latter rounded down."""
    wide = values.astype(np.int64)
    return wide & ((1 << bits) - 1), wide >> bits


def _positions(
    shape: tuple[int, ...],
    whole_y: npt.NDArray[np.int64],
    whole_x: npt.NDArray[np.int64],
    block: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return each pixel's whole source position inside the bordered plane: two (H, W) arrays."""
    height, width = shape
    rows = np.arange(height)[:, None] + _per_pixel(whole_y, block)
    columns = np.arange(width)[None, :] + _per_pixel(whole_x, block)
    margin = _BORDER - _TAP_MARGIN
    rows = np.clip(rows, -margin, height + margin - 1) + _BORDER
    columns = np.clip(columns, -margin, width + margin - 1) + _BORDER
    return rows, columns


# Sample planes: 0 G (whole), 1 b (half a pixel right), 2 h (half down), 3 j (both).
# Row = 4 * y fraction + x fraction; each entry is (plane, rows down, columns right).
_QUARTERS: Final = np.array(
    [
        [(0, 0, 0), (0, 0, 0)],  # G
        [(0, 0, 0), (1, 0, 0)],  # a
        [(1, 0, 0), (1, 0, 0)],  # b
        [(1, 0, 0), (0, 0, 1)],  # c
        [(0, 0, 0), (2, 0, 0)],  # d
        [(1, 0, 0), (2, 0, 0)],  # e
        [(1, 0, 0), (3, 0, 0)],  # f
        [(1, 0, 0), (2, 0, 1)],  # g, with m = h one column to the right
        [(2, 0, 0), (2, 0, 0)],  # h
        [(2, 0, 0), (3, 0, 0)],  # i
        [(3, 0, 0), (3, 0, 0)],  # j
        [(3, 0, 0), (2, 0, 1)],  # k
        [(2, 0, 0), (0, 1, 0)],  # n
        [(2, 0, 0), (1, 1, 0)],  # p, with s = b one row down
        [(3, 0, 0), (1, 1, 0)],  # q
        [(2, 0, 1), (1, 1, 0)],  # r
    ],
    np.int64,
)


def _gather(
    planes: npt.NDArray[np.uint8],
    choice: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint16]:
    """Pick (H, W) samples; ``choice`` is (H, W, 3): plane, rows down, columns right."""
    _, height, width = planes.shape
    flat = (choice[..., 0] * height + rows + choice[..., 1]) * width + columns + choice[..., 2]
    samples: npt.NDArray[np.uint8] = planes.reshape(-1)[flat]
    return samples.astype(np.uint16)


def _half_sample_planes(reference: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return (4, H + 2 border, W + 2 border) uint8: G, b, h and j at each whole position."""
    margin = _TAP_MARGIN
    padded = np.pad(reference, _BORDER + margin, mode="edge").astype(np.int32)
    inner = slice(margin, -margin)
    across = _six_taps(padded, axis=1)  # not rounded; columns lose the margin
    down = _six_taps(padded, axis=0)
    centre = _six_taps(across, axis=0)
    planes = np.stack(
        [
            padded[inner, inner],
            np.clip((across[inner] + 16) >> 5, 0, 255),
            np.clip((down[:, inner] + 16) >> 5, 0, 255),
            np.clip((centre + 512) >> 10, 0, 255),
        ]
    )
    return planes.astype(np.uint8)


def _six_taps(plane: npt.NDArray[np.int32], *, axis: int) -> npt.NDArray[np.int32]:
    """Apply (1, -5, 20, 20, -5, 1) around each half position; drops 3 samples at each end."""
    size = plane.shape[axis] - 2 * _TAP_MARGIN

    def tap(offset: int) -> npt.NDArray[np.int32]:
        start = _TAP_MARGIN + offset
        return plane[start : start + size] if axis == 0 else plane[:, start : start + size]

    taps: npt.NDArray[np.int32] = (
        (tap(-2) + tap(3)) - 5 * (tap(-1) + tap(2)) + 20 * (tap(0) + tap(1))
    )
    return taps


def _predict_chroma(
    reference: npt.NDArray[np.uint8], motion: npt.NDArray[np.int16]
) -> npt.NDArray[np.uint8]:
    """Interpolate bilinearly; a luma quarter is a chroma eighth. Returns (Hc / 2, Wc / 2) uint8."""
    fraction_x, whole_x = _split(motion[..., 0], 3)
    fraction_y, whole_y = _split(motion[..., 1], 3)
    block = BLOCK // 2
    padded = np.pad(reference, _BORDER, mode="edge").astype(np.int32)
    rows, columns = _positions(reference.shape, whole_y, whole_x, block)
    right = _per_pixel(fraction_x, block).astype(np.int32)
    below = _per_pixel(fraction_y, block).astype(np.int32)
    top = (8 - right) * padded[rows, columns] + right * padded[rows, columns + 1]
    bottom = (8 - right) * padded[rows + 1, columns] + right * padded[rows + 1, columns + 1]
    return (((8 - below) * top + below * bottom + 32) >> 6).astype(np.uint8)
