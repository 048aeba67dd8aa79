"""Extractors as the suite sees them: a path goes in, kinds and tables of vectors come out.

To check another extractor, dump its vectors in mvextractor's layout and give the folder
(:func:`dumps_extractor`), or write a function of this form and an :class:`Extractor` of it.
"""

from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.motionvectors import MotionVectors

from gopstream.jobs.errors import UserError
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.mvextractor_backend import (
    MissingPackageError,
    new_capture,
    table_from_records,
)
from gopstream.pipeline.mvextractor_dump import read_dump

FrameTable = tuple[str, npt.NDArray[np.int32]]
"""Kind of a frame, and its (N, 10) vectors: source, w, h, src_x, src_y, dst_x, dst_y, motion_x,
motion_y, motion_scale. N is 0 where there are none."""
ReadVectors = Callable[[Path], Iterator[FrameTable]]
"""Reads a stream's frames in presentation order."""


class Extractor(NamedTuple):
    """Something to be checked."""

    name: str
    version: str
    read: ReadVectors
    missing: str = ""
    """Why it cannot be run here; empty when it can."""


def read_gopstream(path: Path) -> Iterator[FrameTable]:
    """Read through this package's own decoder."""
    with open_coded(path) as stream:
        for frame in stream.frames:
            yield frame.kind, table_from_records(frame.vectors)


def read_pyav(
    path: Path, *, thread_type: Literal["NONE", "SLICE", "FRAME", "AUTO"], thread_count: int
) -> Iterator[FrameTable]:
    """Read through PyAV, as a user would write it.

    Args:
        path: The stream.
        thread_type: FFmpeg's kind of threading; AUTO allows both.
        thread_count: Threads; 0 is one per core.
    """
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.video.stream.VideoStream)
        stream.codec_context.thread_type = thread_type
        stream.codec_context.thread_count = thread_count
        stream.codec_context.options = {"flags2": "+export_mvs"}
        for frame in container.decode(stream):
            side_data = frame.side_data.get("MOTION_VECTORS")
            records = side_data.to_ndarray() if isinstance(side_data, MotionVectors) else None
            kind = av.video.frame.PictureType(frame.pict_type).name
            yield kind, table_from_records(records)


def one_thread_vectors(path: Path) -> Iterator[FrameTable]:
    """Read with one decoding thread: where the suite's hashes come from."""
    return read_pyav(path, thread_type="NONE", thread_count=1)


def read_mvextractor(path: Path) -> Iterator[FrameTable]:
    """Read through mvextractor as it is, without the guards of our backend."""
    capture = new_capture()
    if not capture.open(str(path)):
        raise UserError(f"{path.name}: mvextractor cannot open it")
    capture.set_decode_frames(False)
    while True:
        succeeded, _, vectors, kind = capture.read()
        if not succeeded:
            break
        yield kind, vectors
    capture.release()


def dumps_extractor(folder: Path) -> Extractor:
    """Make an extractor of dumps in mvextractor's layout, ``FOLDER/STREAM_STEM/...``.

    Raises:
        UserError: If there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --dumps takes the folder of the dumps")

    def read(path: Path) -> Iterator[FrameTable]:
        for frame in read_dump(folder / path.stem):
            yield frame.kind, frame.vectors

    return Extractor("dumps", str(folder), read)


def _pyav_auto(path: Path) -> Iterator[FrameTable]:
    return read_pyav(path, thread_type="AUTO", thread_count=0)


def _pyav_slice(path: Path) -> Iterator[FrameTable]:
    return read_pyav(path, thread_type="SLICE", thread_count=4)


def _pyav_frame16(path: Path) -> Iterator[FrameTable]:
    return read_pyav(path, thread_type="FRAME", thread_count=16)


_PYAV_READERS: Final[dict[str, ReadVectors]] = {
    "pyav-auto": _pyav_auto,
    "pyav-slice": _pyav_slice,
    "pyav-frame16": _pyav_frame16,
}
OURS: Final = "gopstream"
EXTRACTOR_NAMES: Final = (OURS, *_PYAV_READERS, "mvextractor")


def extractor(name: str) -> Extractor:
    """Return a built-in extractor; one that is not installed says so in ``missing``.

    Raises:
        UserError: If the name is not one of :data:`EXTRACTOR_NAMES`.
    """
    if name == OURS:
        return Extractor(name, metadata.version("gopstream"), read_gopstream)
    if name in _PYAV_READERS:
        version = f"PyAV {av.__version__}, libavcodec {_dotted(av.library_versions['libavcodec'])}"
        return Extractor(name, version, _PYAV_READERS[name])
    if name == "mvextractor":
        try:
            new_capture()
        except MissingPackageError as error:
            return Extractor(name, "", read_mvextractor, missing=str(error))
        return Extractor(name, metadata.version("motion-vector-extractor"), read_mvextractor)
    raise UserError(f"no extractor {name!r}; there are {', '.join(EXTRACTOR_NAMES)}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
