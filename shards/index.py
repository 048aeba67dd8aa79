"""The index of a shard: where each member, JPEG and GOP chunk lies, and its checksum.

With it a reader fetches exactly the bytes that a clip needs, without walking the tar.
Stored as ``.npz`` without pickle.

Dimensions: N samples, M members, and per plane P pieces (JPEGs or chunks), sorted by sample.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.shards.array_file import array_file_bytes, parse_array_file
from gopstream.shards.errors import FormatError

if TYPE_CHECKING:
    from gopstream.shards.storage import Storage

MAIN_TAR: Final = 0
RESIDUAL_TAR: Final = 1
PIECE_PLANES: Final = ("frames", "motion", "coverage", "residual")

# Bits of frame_flags.
INTRA_FRAME: Final = 1
BIDIRECTIONAL_FRAME: Final = 2
SCENE_CUT: Final = 4
DAMAGED: Final = 8


@dataclass(frozen=True, slots=True)
class PieceTable:
    """The pieces of one plane in one shard; offsets count from the start of the tar."""

    start: npt.NDArray[np.int64]
    """(N + 1,) the pieces of sample i are rows start[i] to start[i + 1]."""
    first_frame: npt.NDArray[np.int32]
    """(P,) index of the piece's first frame in its sample."""
    num_frames: npt.NDArray[np.int32]
    """(P,)"""
    offset: npt.NDArray[np.int64]
    """(P,)"""
    length: npt.NDArray[np.int64]
    """(P,)"""
    crc32: npt.NDArray[np.uint32]
    """(P,)"""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Everything about a shard that a loader needs besides the pixels."""

    keys: npt.NDArray[np.bytes_]
    """(N,) ASCII."""
    labels: npt.NDArray[np.int64]
    """(N,) class index, -1 without one."""
    num_frames: npt.NDArray[np.int32]
    """(N,) T of each sample."""
    num_lists: npt.NDArray[np.int32]
    """(N,) L of each sample's motion."""
    coded_size: npt.NDArray[np.int32]
    """(N, 2) width, height."""
    display_rect: npt.NDArray[np.int32]
    """(N, 4) x, y, width, height."""
    frame_size: npt.NDArray[np.int32]
    """(N, 2) width, height of the JPEGs."""
    frame_flags: npt.NDArray[np.uint8]
    """(sum of T,) bits of every frame, sample after sample: INTRA_FRAME, BIDIRECTIONAL_FRAME,
    SCENE_CUT (another scene than in the frame before), DAMAGED."""
    member_names: npt.NDArray[np.bytes_]
    """(K,) suffixes that ``member_kind`` counts."""
    member_sample: npt.NDArray[np.int32]
    """(M,)"""
    member_kind: npt.NDArray[np.uint8]
    """(M,)"""
    member_tar: npt.NDArray[np.uint8]
    """(M,) MAIN_TAR or RESIDUAL_TAR."""
    member_offset: npt.NDArray[np.int64]
    """(M,) of the content, from the start of the tar."""
    member_length: npt.NDArray[np.int64]
    """(M,)"""
    member_crc32: npt.NDArray[np.uint32]
    """(M,)"""
    frames: PieceTable
    motion: PieceTable
    coverage: PieceTable
    residual: PieceTable

    def table(self, plane: str) -> PieceTable:
        """Return the pieces of ``frames``, ``motion``, ``coverage`` or ``residual``."""
        assert plane in PIECE_PLANES, plane
        table: PieceTable = getattr(self, plane)
        return table


def index_bytes(index: ShardIndex) -> bytes:
    """Return the index as an ``.npz`` file; the same index gives the same bytes."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for field in fields(ShardIndex):
        value = getattr(index, field.name)
        if isinstance(value, PieceTable):
            for column in fields(PieceTable):
                arrays[f"{field.name}.{column.name}"] = getattr(value, column.name)
        else:
            arrays[field.name] = value
    return array_file_bytes(arrays)


def load_index(storage: "Storage", name: str) -> ShardIndex:
    """Read the index of a shard.

    Args:
        storage: Of the dataset.
        name: Of the index, with the split.

    Raises:
        FileNotFoundError: If it is not there.
        FormatError: If it is damaged, not an index, or of a newer version.
    """
    return parse_index(storage.read(name), where=f"{storage.url}/{name}")


def parse_index(content: bytes, *, where: str) -> ShardIndex:
    """Return the index that a file holds.

    Args:
        content: The file.
        where: Its place, for messages.

    Raises:
        FormatError: If it is damaged, not an index, or of a newer version.
    """
    arrays = parse_array_file(content, names=(), where=where)
    try:
        if "frame_flags" not in arrays:
            arrays["frame_flags"] = _flags_from_chunks(arrays)
        return _from_arrays(arrays)
    except KeyError as error:
        raise FormatError(f"{where}: the index lacks {error}") from error


def _flags_from_chunks(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Return the flags of an early index that has none: each chunk begins with an I-frame."""
    flags = np.zeros(int(arrays["num_frames"].sum()), np.uint8)
    starts = np.cumsum(arrays["num_frames"]) - arrays["num_frames"]
    num_chunks = np.diff(arrays["motion.start"])
    flags[np.repeat(starts, num_chunks) + arrays["motion.first_frame"]] = INTRA_FRAME
    return flags


def _from_arrays(arrays: dict[str, npt.NDArray[Any]]) -> ShardIndex:
    content: dict[str, Any] = {}
    for field in fields(ShardIndex):
        if field.name in PIECE_PLANES:
            columns = {
                column.name: arrays[f"{field.name}.{column.name}"] for column in fields(PieceTable)
            }
            content[field.name] = PieceTable(**columns)
        else:
            content[field.name] = arrays[field.name]
    return ShardIndex(**content)
