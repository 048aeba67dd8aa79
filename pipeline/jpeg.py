"""Stored frames: JPEG of the scaled source, with the colours that JPEG readers assume.

A JPEG file is full-range BT.601. Video is mostly limited range, and BT.709 above standard
definition; writing its planes as they are costs 13 dB. The conversion is done on the 4:2:0
planes themselves, in integers: chroma is never resampled, and each machine gets the same bytes.

:mod:`gopstream.pipeline.plain.jpeg` is the conversion in plain NumPy.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.pipeline.kernel import kernel

# Kr and Kb of each matrix: ITU-T H.273, table 4 (MatrixCoefficients).
_LUMA_WEIGHTS: Final = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
SHIFT: Final = 14
"""Binary places of the weights."""

Samples = npt.NDArray[np.uint8]


def encode_frame(picture: npt.NDArray[np.uint8], *, matrix: str, quality: int) -> bytes:
    """Encode one picture as a 4:2:0 JPEG.

    Args:
        picture: (H * 3 / 2, W) uint8 I420, limited range.
        matrix: FFmpeg's name of the picture's colour matrix.
        quality: JPEG quality, 1 to 100.
    """
    y, cb, cr = to_jpeg_colours(picture, matrix=matrix)
    # fastdct stays off: the accurate transform gives the same bytes on each CPU.
    encoded: bytes = simplejpeg.encode_jpeg_yuv_planes(y, cb, cr, quality=quality, fastdct=False)
    return encoded


def decode_frame(encoded: bytes | memoryview) -> npt.NDArray[np.uint8]:
    """Decode a stored frame to (H, W, 3) uint8 RGB.

    Raises:
        ValueError: If the bytes are not a whole JPEG.
    """
    picture: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, strict=True)
    return picture


def to_jpeg_colours(
    picture: npt.NDArray[np.uint8], *, matrix: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Convert limited-range planes of any matrix to full-range BT.601.

    Args:
        picture: (H * 3 / 2, W) uint8 I420, H and W even.
        matrix: A key of H.273's table by FFmpeg's name.

    Returns:
        Y (H, W), Cb and Cr (H / 2, W / 2), uint8.
    """
    width = picture.shape[1]
    height = picture.shape[0] * 2 // 3
    y = np.empty((height, width), np.uint8)
    cb = np.empty((height // 2, width // 2), np.uint8)
    cr = np.empty_like(cb)
    _convert(np.ascontiguousarray(picture).reshape(-1), conversion_weights(matrix), y, cb, cr)
    return y, cb, cr


@kernel
def _convert(
    picture: Samples,
    weights: npt.NDArray[np.int32],
    y: Samples,
    cb: Samples,
    cr: Samples,
) -> None:
    """Convert one picture; sums stay below 2^24, so that float32 holds them exactly."""
    height, width = y.shape
    num_luma, num_chroma = y.size, cb.size
    luma, flat_cb, flat_cr = y.reshape(-1), cb.reshape(-1), cr.reshape(-1)
    scale, zero = np.float32(weights[0, 0]), np.float32(0)
    luma_cb, luma_cr = np.float32(weights[0, 1]), np.float32(weights[0, 2])
    correction = np.zeros(width, np.float32)
    for row in range(height):
        chroma = num_luma + row // 2 * (width // 2)
        if row % 2 == 0 and (luma_cb != zero or luma_cr != zero):
            for i in range(width // 2):
                value = luma_cb * _sample(picture, chroma + i, 128)
                value += luma_cr * _sample(picture, chroma + num_chroma + i, 128)
                correction[2 * i] = value
                correction[2 * i + 1] = value
        start = row * width
        for column in range(width):
            value = scale * _sample(picture, start + column, 16) + correction[column]
            luma[np.uintp(start + column)] = _rounded(value, 0)
    for i in range(num_chroma):
        blue = _sample(picture, num_luma + i, 128)
        red = _sample(picture, num_luma + num_chroma + i, 128)
        value = np.float32(weights[1, 1]) * blue + np.float32(weights[1, 2]) * red
        flat_cb[i] = _rounded(value, 128)
        value = np.float32(weights[2, 1]) * blue + np.float32(weights[2, 2]) * red
        flat_cr[i] = _rounded(value, 128)


@kernel
def _sample(picture: Samples, at: int, middle: int) -> np.float32:
    return np.float32(picture[np.uintp(at)]) - np.float32(middle)


@kernel
def _rounded(value: np.float32, offset: int) -> np.uint8:
    value = np.floor((value + np.float32(1 << (SHIFT - 1))) * np.float32(1 / (1 << SHIFT)))
    value += np.float32(offset)
    return np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255))))


@cache
def conversion_weights(matrix: str) -> npt.NDArray[np.int32]:
    """Return the (3, 3) fixed-point map of (Y - 16, Cb - 128, Cr - 128) to full-range BT.601.

    Its first column is (a, 0, 0) for every matrix: grey stays grey, so that chroma needs no
    luma and keeps its resolution.
    """
    limited = np.diag([255 / 219, 255 / 224, 255 / 224])
    weights = _from_rgb(*_LUMA_WEIGHTS["smpte170m"]) @ np.linalg.inv(
        _from_rgb(*_LUMA_WEIGHTS[matrix])
    )
    return np.round(weights @ limited * (1 << SHIFT)).astype(np.int32)


def _from_rgb(red: float, blue: float) -> npt.NDArray[np.float64]:
    """Return the (3, 3) matrix from R'G'B' to Y'CbCr (H.273, equations 38 to 40)."""
    luma = np.array([red, 1 - red - blue, blue])
    return np.stack(
        [
            luma,
            (np.array([0.0, 0.0, 1.0]) - luma) / (2 * (1 - blue)),
            (np.array([1.0, 0.0, 0.0]) - luma) / (2 * (1 - red)),
        ]
    )
