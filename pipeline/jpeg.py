"""Stored frames: JPEG of the scaled source, with the colours that JPEG readers assume.

A JPEG file is full-range BT.601. Video is mostly limited range, and BT.709 above standard
definition; writing its planes as they are costs 13 dB. The conversion is done on the 4:2:0
planes themselves, in integers: chroma is never resampled, and each machine gets the same bytes.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg

# Kr and Kb of each matrix: ITU-T H.273, table 4 (MatrixCoefficients).
_LUMA_WEIGHTS: Final = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
_SHIFT: Final = 14


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
    chroma_shape = (height // 2, width // 2)
    flat = picture.reshape(-1)
    num_luma, num_chroma = height * width, height * width // 4
    luma = picture[:height].astype(np.int32) - 16
    cb = flat[num_luma : num_luma + num_chroma].reshape(chroma_shape).astype(np.int32) - 128
    cr = flat[num_luma + num_chroma :].reshape(chroma_shape).astype(np.int32) - 128
    weights = _conversion_weights(matrix)
    out_luma = luma * weights[0, 0]
    if weights[0, 1] or weights[0, 2]:
        correction = cb * weights[0, 1] + cr * weights[0, 2]
        out_luma += np.repeat(np.repeat(correction, 2, axis=0), 2, axis=1)
    out_cb = cb * weights[1, 1] + cr * weights[1, 2]
    out_cr = cb * weights[2, 1] + cr * weights[2, 2]
    return _round(out_luma, 0), _round(out_cb, 128), _round(out_cr, 128)


def _round(values: npt.NDArray[np.int32], offset: int) -> npt.NDArray[np.uint8]:
    rounded = ((values + (1 << (_SHIFT - 1))) >> _SHIFT) + offset
    clipped: npt.NDArray[np.int32] = np.clip(rounded, 0, 255)
    return clipped.astype(np.uint8)


@cache
def _conversion_weights(matrix: str) -> npt.NDArray[np.int32]:
    """Return the (3, 3) fixed-point map of (Y - 16, Cb - 128, Cr - 128) to full-range BT.601.

    Its first column is (a, 0, 0) for every matrix: grey stays grey, so that chroma needs no
    luma and keeps its resolution.
    """
    limited = np.diag([255 / 219, 255 / 224, 255 / 224])
    weights = _from_rgb(*_LUMA_WEIGHTS["smpte170m"]) @ np.linalg.inv(
        _from_rgb(*_LUMA_WEIGHTS[matrix])
    )
    return np.round(weights @ limited * (1 << _SHIFT)).astype(np.int32)


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
