"""Dumps in the layout of mvextractor's ``extract_mvs --dump``, written and read.

    FOLDER/frames/frame-N.jpg             the picture, display size; the folder is empty without
    FOLDER/motion_vectors/mvs-N.npy       (K, 10) int32, as mvextractor_backend.TABLE_COLUMNS
    FOLDER/frame_types.txt                a line per frame: I, P, B or ?

N counts from 0 and is not padded. mvextractor draws the vectors into the pictures that it dumps;
ours are clean. The layout has no time stamps.

Dimensions: K vectors of a frame, H x W pixels of the display size.
"""

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.pipeline.decode import DecodedFrame, open_coded
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.mvextractor_backend import TABLE_COLUMNS, table_from_records

_VECTORS: Final = "motion_vectors"
_PICTURES: Final = "frames"
_KINDS_FILE: Final = "frame_types.txt"
_VECTORS_NAME: Final = re.compile(r"mvs-(0|[1-9][0-9]{0,8})\.npy")
_PICTURE_NAME: Final = re.compile(r"frame-(0|[1-9][0-9]{0,8})\.jpg")
_KINDS: Final = frozenset("IPBSipb?")  # av_get_picture_type_char (libavutil/utils.c)
_JPEG_QUALITY: Final = 95  # what mvextractor's dumps have
# A 16384x16384 picture in 8x8 blocks of both lists has 8.4 million vectors.
_MAX_VECTORS: Final = 1 << 24


class DumpFrame(NamedTuple):
    """One frame to be dumped."""

    kind: str
    """``I``, ``P``, ``B`` or ``?``."""
    vectors: npt.NDArray[np.int32]
    """(K, 10)."""
    picture: npt.NDArray[np.uint8] | None = None
    """(H, W, 3) RGB, or None to dump none."""


class DumpedFrame(NamedTuple):
    """One frame of a dump."""

    kind: str
    vectors: npt.NDArray[np.int32]
    """(K, 10)."""
    picture_path: Path | None
    """The JPEG file; None in a dump without pictures."""


def write_dump(folder: Path, frames: Iterable[DumpFrame]) -> int:
    """Write a dump; it appears under its name when it is whole.

    Args:
        folder: Must not exist.
        frames: In presentation order; all with a picture, or none.

    Returns:
        The number of frames.

    Raises:
        FileExistsError: If the folder exists.
        BitstreamError: If a kind or a table has another form than the layout's.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: exists already; name a folder that does not")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        building = Path(temporary) / "dump"
        (building / _VECTORS).mkdir(parents=True)
        (building / _PICTURES).mkdir()
        kinds: list[str] = []
        num_pictures = 0
        for index, frame in enumerate(frames):
            _check_frame(frame, index)
            num_pictures += frame.picture is not None
            if num_pictures not in (0, index + 1):
                raise BitstreamError(f"frame {index}: pictures for all frames, or for none")
            np.save(building / _VECTORS / f"mvs-{index}.npy", frame.vectors.astype(np.int32))
            if frame.picture is not None:
                encoded = simplejpeg.encode_jpeg(
                    np.ascontiguousarray(frame.picture),
                    quality=_JPEG_QUALITY,
                    colorsubsampling="420",
                    fastdct=False,
                )
                (building / _PICTURES / f"frame-{index}.jpg").write_bytes(encoded)
            kinds.append(f"{frame.kind}\n")
        (building / _KINDS_FILE).write_text("".join(kinds))
        building.rename(folder)
    return len(kinds)


def _check_frame(frame: DumpFrame, index: int) -> None:
    if frame.kind not in _KINDS:
        raise BitstreamError(f"frame {index}: a kind must be of I, P, B or ?, got {frame.kind!r}")
    shape, dtype = frame.vectors.shape, frame.vectors.dtype
    if len(shape) != 2 or shape[1] != len(TABLE_COLUMNS) or dtype.kind not in "iu":
        raise BitstreamError(
            f"frame {index}: vectors must be an (N, 10) table of integers, got {shape} {dtype}"
        )


def dump_video(path: Path, folder: Path, *, with_pictures: bool) -> int:
    """Dump a video's vectors, decoded by us, for tools that read mvextractor's dumps.

    Args:
        path: A video file.
        folder: Must not exist.
        with_pictures: Also write JPEGs of the display size, not rotated, as mvextractor.

    Returns:
        The number of frames.

    Raises:
        FileExistsError: If the folder exists.
        PipelineError: If the video cannot be decoded.
    """
    with open_coded(path) as stream:
        size = (stream.display_height, stream.display_width)
        frames = (
            DumpFrame(
                frame.kind,
                table_from_records(frame.vectors),
                _display_picture(frame, size) if with_pictures else None,
            )
            for frame in stream.frames
        )
        return write_dump(folder, frames)


def _display_picture(frame: DecodedFrame, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Convert to (H, W, 3) RGB and cut the coded picture to what is shown."""
    picture = frame.picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return picture[: size[0], : size[1]]


def read_dump(folder: Path) -> Iterator[DumpedFrame]:
    """Read a dump, mvextractor's or ours, frame by frame.

    Names, kinds, numbers and gaps are checked before the first frame; each table's header is
    checked against its file before it is loaded, never with pickle. Links are not followed.

    Raises:
        FileNotFoundError: If the folder is not there.
        BitstreamError: If the folder is not a whole dump; the message names the file.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    tables = _numbered_files(folder / _VECTORS, _VECTORS_NAME)
    pictures = _numbered_files(folder / _PICTURES, _PICTURE_NAME)
    kinds = _read_kinds(folder / _KINDS_FILE, num_frames=len(tables))
    for found, name, optional in (
        (tables, f"{_VECTORS}/mvs-{{}}.npy", False),
        (pictures, f"{_PICTURES}/frame-{{}}.jpg", True),
    ):
        if optional and not found:
            continue
        gaps = [index for index in range(len(kinds)) if index not in found]
        extra = sorted(set(found) - set(range(len(kinds))))
        if gaps or extra:
            faults = [_fault(name, gaps, "missing"), _fault(name, extra, "not of them")]
            raise BitstreamError(
                f"{folder}: {_KINDS_FILE} has {len(kinds)} frames, but "
                f"{' and '.join(filter(None, faults))}"
            )
    return (
        DumpedFrame(kind, _read_table(tables[index]), pictures.get(index))
        for index, kind in enumerate(kinds)
    )


def _fault(name: str, numbers: list[int], what: str) -> str:
    """Name the first of some files, such as ``mvs-189.npy is missing``; empty for none."""
    if not numbers:
        return ""
    more = f" and {len(numbers) - 1} more are" if len(numbers) > 1 else " is"
    return f"{name.format(numbers[0])}{more} {what}"


def _numbered_files(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    if folder.is_symlink() or not folder.is_dir():
        raise BitstreamError(f"{folder}: not a folder; a dump of mvextractor has it")
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match is None or not entry.is_file(follow_symlinks=False):
                raise BitstreamError(f"{folder}: {entry.name!r} is not a file of a dump; remove it")
            found[int(match.group(1))] = folder / entry.name
    return found


def _read_kinds(path: Path, *, num_frames: int) -> list[str]:
    """Read the kinds; the file may be a little larger than the tables allow, not much."""
    with _open_regular(path) as file:
        text = file.read(3 * num_frames + 4096).decode("ascii", errors="replace")
        if file.read(1):
            raise BitstreamError(f"{path}: too large for the {num_frames} tables of the dump")
    kinds = text.splitlines()
    for number, kind in enumerate(kinds, start=1):
        if kind not in _KINDS:
            raise BitstreamError(f"{path}, line {number}: expected I, P, B or ?, got {kind[:20]!r}")
    return kinds


def _open_regular(path: Path) -> BinaryIO:
    """Open a file that is no link, pipe or device, any of which a hostile dump may hold."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BitstreamError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BitstreamError(f"{path}: not a regular file")
    return os.fdopen(descriptor, "rb")


def _read_table(path: Path) -> npt.NDArray[np.int32]:
    with _open_regular(path) as file:
        try:
            _check_header(file, path)
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            if isinstance(error, BitstreamError):
                raise
            raise BitstreamError(f"{path}: not a NumPy file: {error}") from error
    table: npt.NDArray[np.int32] = loaded.astype(np.int32, copy=False)
    if not np.array_equal(table, loaded):
        raise BitstreamError(f"{path}: a value does not fit into int32")
    return table


def _check_header(file: BinaryIO, path: Path) -> None:
    """Refuse a header that does not describe an (N, 10) table of the file's very size.

    int64 is read too: that is what mvextractor 1 wrote.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise BitstreamError(f"{path}: NumPy format {version} is not what mvextractor writes")
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(file)
    if len(shape) != 2 or shape[1] != len(TABLE_COLUMNS) or not 0 <= shape[0] <= _MAX_VECTORS:
        raise BitstreamError(f"{path}: vectors must be an (N, 10) table, got {shape}")
    if dtype not in (np.dtype("<i4"), np.dtype("<i8")) or fortran_order:
        raise BitstreamError(f"{path}: vectors must be int32 in C order, got {dtype}")
    expected = file.tell() + shape[0] * shape[1] * dtype.itemsize
    size = os.fstat(file.fileno()).st_size
    if size != expected:
        raise BitstreamError(f"{path}: {size} bytes, but its header asks for {expected}")
