"""Views of decoded pictures, into FFmpeg's own padded rows."""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.plane import VideoPlane

LUMA_FORMATS: Final = frozenset(
    f"yuv{full}{chroma}p" for full in ("", "j") for chroma in (411, 420, 422, 440, 444)
) | {"gray", "nv12", "nv21", "yuva420p"}
"""Pixel formats whose first plane holds one byte of luma per pixel."""


def luma_view(picture: "VideoFrame") -> npt.NDArray[np.uint8] | None:
    """Return a view of the (Hc, Wc) luma plane, or None if its samples are not bytes.

    It stays valid as long as the picture lives.
    """
    if picture.format.name not in LUMA_FORMATS:
        return None
    return plane_view(picture.planes[0])


def plane_view(plane: "VideoPlane") -> npt.NDArray[np.uint8]:
    """Return the (H, W) bytes of a plane where they are; the view keeps the picture alive."""
    buffer: Any = plane  # of one dimension; its stub does not say so
    return np.ndarray((plane.height, plane.width), np.uint8, buffer, strides=(plane.line_size, 1))
