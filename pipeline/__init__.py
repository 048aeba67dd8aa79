"""One video file in, one clip of frames, motion and residual out.

The names below are imported on first use, so that a training machine, which needs only
``gopstream.pipeline.accumulation``, does not have to have PyAV or ffmpeg.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gopstream.pipeline.clip import Clip
    from gopstream.pipeline.extract import extract_clip, extract_segments
    from gopstream.pipeline.probe import VideoFacts, open_video

__all__ = ["Clip", "VideoFacts", "extract_clip", "extract_segments", "open_video"]

_HOME = {
    "Clip": "gopstream.pipeline.clip",
    "VideoFacts": "gopstream.pipeline.probe",
    "extract_clip": "gopstream.pipeline.extract",
    "extract_segments": "gopstream.pipeline.extract",
    "open_video": "gopstream.pipeline.probe",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
