"""Motion vectors through mvextractor, where that package gives the right ones.

mvextractor 2.0 (``pip install 'gopstream[mvextractor]'``) decodes with frame threads and has no
way to turn them off. While a picture that is output late is copied out, another thread may
still be writing its vectors: on streams with B-frames they are wrong, differently in each run
(measured: up to a fifth of the B-frames). Its flush loses the last three frames of a file whose
video is not stream 0, and where FFmpeg exports no vectors it returns none, without an error.
Such files are refused here, before anything is returned.
"""

import importlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

from gopstream.pipeline.decode import DecodedFrame, decoder_options
from gopstream.pipeline.errors import BitstreamError, PipelineError
from gopstream.pipeline.motion import VECTOR_DTYPE
from gopstream.pipeline.probe import best_video_stream, open_container

TABLE_COLUMNS: Final = (
    "source",
    "w",
    "h",
    "src_x",
    "src_y",
    "dst_x",
    "dst_y",
    "motion_x",
    "motion_y",
    "motion_scale",
)
"""The ten columns of mvextractor's tables: fields of AVMotionVector without ``flags``."""

VECTOR_CODECS: Final = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
"""Codecs whose vectors FFmpeg exports and that are compared with mvextractor's by tests."""


_FRAME_THREADED: Final = frozenset({"h264", "mpeg4"})


class MissingPackageError(PipelineError, ImportError):
    """A package that is only installed on request; the message says how."""


class VideoCapture(Protocol):
    """What is used of mvextractor's ``VideoCap``."""

    def open(self, address: str, /) -> bool:
        """Open a file or an address; False where it cannot."""

    def set_decode_frames(self, decode: bool, /) -> None:
        """Choose whether pictures are returned too."""

    def read(
        self,
    ) -> tuple[bool, npt.NDArray[np.uint8] | None, npt.NDArray[np.int32], str]:
        """Return (is there a frame, BGR picture, (N, 10) vectors, kind)."""

    def release(self) -> None:
        """Close."""


class VectorTable(NamedTuple):
    """One frame as mvextractor returns it, in presentation order."""

    vectors: npt.NDArray[np.int32]
    """(N, 10), the columns of :data:`TABLE_COLUMNS`; N is 0 in an I-frame."""
    kind: str
    """``I`` or ``P``."""


def read_vector_tables(path: Path) -> Iterator[VectorTable]:
    """Read each frame's vectors through mvextractor.

    The file is decoded once before, with one thread and without vectors, to learn the frame
    kinds: no header says for sure that a stream has no B-frames. This makes the backend one of
    parity, not of speed.

    Args:
        path: A local file.

    Returns:
        An iterator; all refusals but a disagreement about the frames come before it.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingPackageError: If mvextractor is not installed.
        NotAVideoError: If the file holds no video.
        BitstreamError: If mvextractor would give wrong or no vectors, with the reason; later,
            if its frames are not those that the stream has.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    capture = new_capture()
    kinds = _kinds_of_usable_stream(path)
    # "file:" keeps a name such as "http:x.mp4" from being read as an address.
    if not capture.open(f"file:{path.absolute()}"):
        raise BitstreamError(f"{path.name}: mvextractor cannot open it; use the default backend")
    capture.set_decode_frames(False)
    return _read_captured(capture, kinds, name=path.name)


def replace_vectors(frames: Iterator[DecodedFrame], path: Path) -> Iterator[DecodedFrame]:
    """Give decoded frames the vectors that mvextractor reads from the same file.

    Raises:
        MissingPackageError: If the package is not installed.
        BitstreamError: If mvextractor cannot be trusted with the stream, or sees other frames.
    """
    for frame, table in zip_longest(frames, read_vector_tables(path)):
        if frame is None or table is None or frame.kind != table.kind:
            raise BitstreamError(f"{path.name}: mvextractor does not see the frames of the decoder")
        yield frame._replace(vectors=records_from_table(table.vectors))


def new_capture() -> VideoCapture:
    """Return mvextractor's unopened ``VideoCap``.

    Raises:
        MissingPackageError: If mvextractor is not installed.
    """
    try:
        # By name: the package has no type information, and is only there on request.
        videocap = importlib.import_module("mvextractor.videocap")
    except ImportError as error:
        raise MissingPackageError(
            f"mvextractor cannot be imported ({error}); pip install 'gopstream[mvextractor]'"
        ) from error
    capture: VideoCapture = videocap.VideoCap()
    return capture


def _kinds_of_usable_stream(path: Path) -> str:
    """Return a letter per frame; raise where mvextractor would not be right."""
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        videos = [
            other.index
            for other in container.streams.video
            if not other.disposition & Disposition.attached_pic
        ]
        if len(videos) > 1:
            raise _refusal(
                path, f"it has several video streams {videos}, and which one it reads is not known"
            )
        if stream.index != 0:
            raise _refusal(
                path, f"its video is stream {stream.index}, and it loses the last frames"
            )
        context = stream.codec_context
        if context.name not in VECTOR_CODECS:
            raise _refusal(
                path, f"FFmpeg exports no vectors of {context.name}, or they are untried"
            )
        context.thread_type = "NONE"
        # Kinds need no finished pictures.
        context.options = decoder_options(with_vectors=False) | {"skip_loop_filter": "all"}
        try:
            kinds = [_kind(frame, context, path) for frame in container.decode(stream)]
        except av.error.FFmpegError as error:
            raise _refusal(
                path, f"decoding fails ({error.strerror}), and it would skip that silently"
            ) from error
    return "".join(kinds)


def _kind(
    frame: av.video.frame.VideoFrame,
    context: av.video.codeccontext.VideoCodecContext,
    path: Path,
) -> str:
    kind = av.video.frame.PictureType(frame.pict_type).name
    if kind == "B":
        raise _refusal(path, "it has B-frames, and its frame threads make their vectors wrong")
    # A header that allows B-frames delays all pictures, and what is output late is copied late.
    if context.has_b_frames and context.name in _FRAME_THREADED:
        raise _refusal(
            path, "its pictures are output late, as with B-frames, which its threads race"
        )
    if frame.is_corrupt:
        raise _refusal(path, "a frame is damaged, and it would not say so")
    return kind


def _refusal(path: Path, reason: str) -> BitstreamError:
    return BitstreamError(
        f"{path.name}: not for the mvextractor backend: {reason}; use the default backend"
    )


def _read_captured(capture: VideoCapture, kinds: str, *, name: str) -> Iterator[VectorTable]:
    num_frames = 0
    try:
        while True:
            succeeded, _, vectors, kind = capture.read()
            if not succeeded:
                break
            expected = kinds[num_frames : num_frames + 1]
            if kind != expected:
                raise BitstreamError(
                    f"{name}: mvextractor's frame {num_frames} is of kind {kind}, the stream's is "
                    f"{expected or 'missing'}; use the default backend"
                )
            num_frames += 1
            yield VectorTable(vectors, kind)
    finally:
        capture.release()
    if num_frames != len(kinds):
        raise BitstreamError(
            f"{name}: mvextractor gave {num_frames} of {len(kinds)} frames; use the default backend"
        )


def table_from_records(records: npt.NDArray[np.void] | None) -> npt.NDArray[np.int32]:
    """Return the decoder's records as mvextractor's (N, 10) int32 table, in the same order.

    Args:
        records: (N,) of the decoder's dtype, or None for an intra frame.
    """
    if records is None:
        return np.zeros((0, len(TABLE_COLUMNS)), np.int32)
    return np.stack([records[name].astype(np.int32) for name in TABLE_COLUMNS], axis=1)


def records_from_table(table: npt.NDArray[np.int32]) -> npt.NDArray[np.void]:
    """Return a table as records of the decoder's dtype (``VECTOR_DTYPE``); ``flags`` is 0.

    Args:
        table: (N, 10) integers.

    Raises:
        BitstreamError: If the shape is another, or a value does not fit into its field.
    """
    if table.ndim != 2 or table.shape[1] != len(TABLE_COLUMNS):
        raise BitstreamError(f"vectors must be an (N, 10) table, got {table.shape}")
    records = np.zeros(len(table), VECTOR_DTYPE)
    for name, values in zip(TABLE_COLUMNS, table.T, strict=True):
        limits = np.iinfo(VECTOR_DTYPE[name])
        if len(values) and (values.min() < limits.min or values.max() > limits.max):
            raise BitstreamError(
                f"{name} must be between {limits.min} and {limits.max}, "
                f"got {values.min()} to {values.max()}"
            )
        records[name] = values
    return records
