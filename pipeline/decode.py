"""Decode a stream to its coded planes and exported motion vectors.

Only ever with one decoding thread: under frame threading FFmpeg exports wrong vectors from
streams with B-frames, silently and differently in each run, while the pictures stay right
(measured). Work is spread over videos instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import av.video.frame
import numpy as np
import numpy.typing as npt
from av.sidedata.motionvectors import MotionVectors

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.probe import best_video_stream, open_container


class Planes(NamedTuple):
    """The three planes of one coded 4:2:0 picture."""

    y: npt.NDArray[np.uint8]
    """(Hc, Wc), multiples of 16."""
    cb: npt.NDArray[np.uint8]
    """(Hc / 2, Wc / 2)."""
    cr: npt.NDArray[np.uint8]
    """(Hc / 2, Wc / 2)."""


class DecodedFrame(NamedTuple):
    """One picture in presentation order."""

    planes: Planes
    kind: str
    """``I``, ``P`` or ``B``."""
    pts: int
    """Presentation time in units of the stream's time base."""
    vectors: npt.NDArray[np.void] | None
    """(K,) records, FFmpeg's AVMotionVector; None in an I-frame."""


class CodedStream(NamedTuple):
    """A stream being decoded."""

    display_width: int
    display_height: int
    time_base: tuple[int, int]
    """Seconds per unit of pts, as (numerator, denominator)."""
    frames: Iterator[DecodedFrame]


@contextmanager
def open_coded(path: Path) -> Iterator[CodedStream]:
    """Open a canonical stream for decoding; leaving the context closes the file.

    Raises:
        BitstreamError: If the pixels are not 8-bit 4:2:0, a time stamp is missing, or the
            stream does not decode cleanly.
    """
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        context = stream.codec_context
        display_width, display_height = context.width, context.height
        context.thread_type = "NONE"
        # The container's cropping would hide coded columns and rows, which predictions read.
        context.options = {"flags2": "+export_mvs", "apply_cropping": "0"}
        assert stream.time_base is not None
        time_base = (stream.time_base.numerator, stream.time_base.denominator)
        yield CodedStream(
            display_width, display_height, time_base, _decode_frames(container, stream, path)
        )


def _decode_frames(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, path: Path
) -> Iterator[DecodedFrame]:
    try:
        for frame in container.decode(stream):
            yield _decoded_frame(frame, path)
    except av.error.FFmpegError as error:
        raise BitstreamError(f"{path.name}: decoding failed: {error.strerror}") from error


def _decoded_frame(frame: av.video.frame.VideoFrame, path: Path) -> DecodedFrame:
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        raise BitstreamError(
            f"{path.name}: pixels must be 8-bit 4:2:0 (yuv420p), got {frame.format.name}"
        )
    if frame.pts is None:
        raise BitstreamError(f"{path.name}: a frame has no time stamp")
    side_data = frame.side_data.get("MOTION_VECTORS")
    vectors = side_data.to_ndarray() if isinstance(side_data, MotionVectors) else None
    kind = av.video.frame.PictureType(frame.pict_type).name
    return DecodedFrame(coded_planes(frame), kind, frame.pts, vectors)


def coded_planes(frame: av.video.frame.VideoFrame) -> Planes:
    """Copy the planes of a 4:2:0 frame out of FFmpeg's padded rows."""
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        planes.append(rows[:, : plane.width].copy())
    return Planes(*planes)
