"""Colours of stored frames, in plain NumPy."""

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.jpeg import SHIFT, conversion_weights


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
    weights = conversion_weights(matrix)
    out_luma = luma * weights[0, 0]
    if weights[0, 1] or weights[0, 2]:
        correction = cb * weights[0, 1] + cr * weights[0, 2]
        out_luma += np.repeat(np.repeat(correction, 2, axis=0), 2, axis=1)
    out_cb = cb * weights[1, 1] + cr * weights[1, 2]
    out_cr = cb * weights[2, 1] + cr * weights[2, 2]
    return _round(out_luma, 0), _round(out_cb, 128), _round(out_cr, 128)


def _round(values: npt.NDArray[np.int32], offset: int) -> npt.NDArray[np.uint8]:
    rounded = ((values + (1 << (SHIFT - 1))) >> SHIFT) + offset
    clipped: npt.NDArray[np.int32] = np.clip(rounded, 0, 255)
    return clipped.astype(np.uint8)
