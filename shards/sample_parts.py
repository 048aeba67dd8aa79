"""Where the parts of a sample lie, and what their bytes say."""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.accumulation import BLOCK_PIXELS
from gopstream.shards.byte_ranges import Span
from gopstream.shards.encoding import decode_chunk
from gopstream.shards.errors import DamageError, FormatError, ShardError
from gopstream.shards.index import (
    BIDIRECTIONAL_FRAME,
    INTRA_FRAME,
    MAIN_TAR,
    RESIDUAL_TAR,
    SCENE_CUT,
    ShardIndex,
)
from gopstream.shards.layout import tar_name

Buffer = bytes | memoryview

# ITU-T T.81, B.2.2: a JPEG states its sides in 16 bits.
_LARGEST_SIDE: Final = 65_535
# ITU-T H.264, 8.4.1: past and future.
_MOST_LISTS: Final = 2


class MotionWindow(NamedTuple):
    """Motion of the whole GOPs that hold a range of frames."""

    first_frame: int
    """Index in the sample of the window's first frame."""
    motion: npt.NDArray[np.int16]
    """(N, L, Hb, Wb, 2) quarter pixels."""
    coverage: npt.NDArray[np.uint8]
    """(N, L, Hb, Wb)."""
    is_intra_frame: npt.NDArray[np.bool_]
    """(N,)."""
    is_bidirectional: npt.NDArray[np.bool_]
    """(N,) True at B-frames."""
    is_scene_cut: npt.NDArray[np.bool_]
    """(N,) True where a frame shows another scene than the one before it."""


class SampleFacts(NamedTuple):
    """Sizes of one sample."""

    num_frames: int
    coded_size: tuple[int, int]
    display_rect: tuple[int, int, int, int]
    frame_size: tuple[int, int]
    frame_index_of_jpeg: npt.NDArray[np.int32]

    @property
    def display_end(self) -> tuple[int, int]:
        """(x, y) in coded pixels where the picture that is shown ends."""
        x, y, width, height = self.display_rect
        return x + width, y + height


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A sample's place: its shard, and its row of the shard's index."""

    split: str
    shard: str
    index: ShardIndex
    position: int

    @property
    def key(self) -> str:
        """Return the sample's key."""
        return str(self.index.keys[self.position].decode())

    def tar(self, number: int) -> str:
        """Return the name below the dataset's root of one of the shard's tars."""
        name = tar_name(self.shard, "residual" if number == RESIDUAL_TAR else None)
        return f"{self.split}/{name}"

    def facts(self) -> SampleFacts:
        """Return the sizes of the sample.

        Raises:
            DamageError: If there is no such sample: nothing is allocated by these numbers before.
        """
        index, i = self.index, self.position
        pieces = slice(index.frames.start[i], index.frames.start[i + 1])
        rect = index.display_rect[i].tolist()
        facts = SampleFacts(
            num_frames=int(index.num_frames[i]),
            coded_size=(int(index.coded_size[i, 0]), int(index.coded_size[i, 1])),
            display_rect=(rect[0], rect[1], rect[2], rect[3]),
            frame_size=(int(index.frame_size[i, 0]), int(index.frame_size[i, 1])),
            frame_index_of_jpeg=index.frames.first_frame[pieces],
        )
        _check_facts(self, facts)
        return facts

    def frame_flags(self) -> npt.NDArray[np.uint8]:
        """Return the bits of each frame, as ``ShardIndex.frame_flags`` names them."""
        end = int(self.index.num_frames[: self.position + 1].sum())
        return self.index.frame_flags[end - int(self.index.num_frames[self.position]) : end]

    def has_residual(self) -> bool:
        """Tell whether there is one; native samples have one only where it is exact."""
        start, end = self.index.residual.start[self.position : self.position + 2]
        return bool(start < end)


class Part(NamedTuple):
    """Bytes of a sample, and how damage is noticed."""

    span: Span
    crc32: int
    what: str
    """For messages."""

    def is_intact(self, content: Buffer) -> bool:
        """Tell whether bytes are those that were written."""
        return len(content) == self.span.length and zlib.crc32(content) == self.crc32


def jpeg_parts(row: SampleRow, numbers: npt.NDArray[np.integer[Any]]) -> list[Part]:
    """Return some of a sample's JPEGs, by their positions among the stored ones."""
    start = int(row.index.frames.start[row.position])
    return list(_piece_parts(row, "frames", start + numbers))


def chunk_parts(row: SampleRow, plane: str, first: int, last: int) -> list[Part]:
    """Return the chunks of a plane that hold frames ``first`` to ``last``.

    Raises:
        DamageError: If the index lists chunks that do not make the sample.
    """
    _check_chunks(row, plane)
    return list(_piece_parts(row, plane, np.array(_chunk_rows(row, plane, first, last))))


def first_of_gop(row: SampleRow, frame: int) -> int:
    """Return the I-frame from which a frame is rebuilt: each chunk of the residual is a GOP.

    Raises:
        DamageError: If the index lists chunks that do not make the sample.
    """
    _check_chunks(row, "residual")
    return int(row.index.residual.first_frame[_chunk_rows(row, "residual", frame, frame).start])


def member_part(row: SampleRow, suffix: str) -> Part:
    """Return a whole member of a sample, such as ``cls``.

    Raises:
        DamageError: If it lies where nothing can.
        ShardError: If the sample has no such member.
    """
    index = row.index
    kinds = index.member_names.tolist()
    kind = kinds.index(suffix.encode()) if suffix.encode() in kinds else -1
    found = np.flatnonzero((index.member_sample == row.position) & (index.member_kind == kind))
    if len(found) != 1:
        raise ShardError(f"shard {row.shard}, {row.key}: no member {suffix}")
    member = int(found[0])
    if min(index.member_offset[member], index.member_length[member]) < 0:
        raise _nonsense(
            row,
            f"{index.member_length[member]} bytes of {suffix} at {index.member_offset[member]}",
        )
    span = Span(
        row.tar(int(index.member_tar[member])),
        int(index.member_offset[member]),
        int(index.member_length[member]),
    )
    return Part(span, int(index.member_crc32[member]), suffix)


def decode_motion(
    row: SampleRow, first: int, last: int, contents: Sequence[Buffer]
) -> MotionWindow:
    """Return the motion of the GOPs that hold frames ``first`` to ``last``.

    Args:
        row: The sample.
        first: A frame of it.
        last: A frame of it.
        contents: Of the chunks of motion, then of those of coverage.

    Raises:
        DamageError: If a chunk does not decode.
    """
    half = len(contents) // 2
    motion = _decode_chunks(row, "motion", first, last, contents[:half])
    coverage = _decode_chunks(row, "coverage", first, last, contents[half:])
    start = int(row.index.motion.first_frame[_chunk_rows(row, "motion", first, last).start])
    flags = row.frame_flags()[start : start + len(motion)]
    return MotionWindow(
        start,
        motion,
        coverage,
        flags & INTRA_FRAME != 0,
        flags & BIDIRECTIONAL_FRAME != 0,
        flags & SCENE_CUT != 0,
    )


def decode_residual(
    row: SampleRow, first: int, last: int, contents: Sequence[Buffer]
) -> npt.NDArray[np.uint8]:
    """Return the residual of frames ``first`` to ``last``: (N, Hc * 3 / 2 * Wc), modulo 256.

    Raises:
        DamageError: If a chunk does not decode.
    """
    planes = _decode_chunks(row, "residual", first, last, contents)
    begin = int(row.index.residual.first_frame[_chunk_rows(row, "residual", first, last).start])
    return planes[first - begin : last - begin + 1]


def signed_residual(
    planes: npt.NDArray[np.uint8],
    exceptions: npt.NDArray[np.int64],
    *,
    first_frame: int,
    frames: npt.NDArray[np.integer[Any]],
    coded_size: tuple[int, int],
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Return the signed residual of some frames.

    Args:
        planes: (N, Hc * 3 / 2 * Wc) modulo 256.
        exceptions: (E, 5) frame in the sample, plane, row, column and value of the few that do
            not fit into eight bits.
        first_frame: Index in the sample of the first of the planes' frames.
        frames: (T,) which of the N frames.
        coded_size: (width, height).

    Returns:
        Y (T, Hc, Wc), Cb and Cr (T, Hc / 2, Wc / 2).
    """
    width, height = coded_size
    signed = planes.view(np.int8).astype(np.int16)
    own = exceptions[
        (exceptions[:, 0] >= first_frame) & (exceptions[:, 0] < first_frame + len(planes))
    ]
    frame, plane, row, column, value = own.T
    starts = np.array([0, height * width, height * width * 5 // 4])
    widths = np.array([width, width // 2, width // 2])
    signed[frame - first_frame, starts[plane] + row * widths[plane] + column] = value
    chosen = signed[frames]
    luma, blue, red = np.split(chosen, starts[1:].tolist(), axis=1)
    half = (-1, height // 2, width // 2)
    return luma.reshape(-1, height, width), blue.reshape(half), red.reshape(half)


def chunk_shape(
    plane: str, frames: int, *, lists: int, coded_size: tuple[int, int]
) -> tuple[tuple[int, ...], str]:
    """Return (shape, dtype) of a chunk of ``motion``, ``coverage`` or ``residual``."""
    width, height = coded_size
    grid = (frames, lists, height // 8, width // 8)
    if plane == "motion":
        return (*grid, 2), "<i2"
    if plane == "coverage":
        return grid, "|u1"
    return (frames, height * width * 3 // 2), "|u1"


def decode_exceptions(row: SampleRow, content: Buffer) -> npt.NDArray[np.int64]:
    """Return what a sample's ``residual.json`` lists of values beyond eight bits.

    Returns:
        (E, 5) frame, plane, row, column, value.

    Raises:
        DamageError: If it does not say it, or names a place outside of the residual.
    """
    width, height = row.index.coded_size[row.position].tolist()
    half = height // 2, width // 2
    try:
        listed = np.array(json.loads(bytes(content))["exceptions"], np.int64).reshape(-1, 5)
        limits = np.array([(height, width), half, half])[listed[:, 1]]
        places = np.column_stack([listed[:, 0], listed[:, 2:4]])
        ends = np.column_stack([np.full(len(listed), row.facts().num_frames), limits])
        if (listed[:, 1] < 0).any() or (places < 0).any() or (places >= ends).any():
            raise IndexError("an exception lies outside of the residual")
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise DamageError(f"shard {row.shard}, {row.key}: residual.json: {error}") from error
    return listed


def _check_facts(row: SampleRow, facts: SampleFacts) -> None:
    """Refuse sizes that no sample has.

    Raises:
        DamageError: Naming shard, key and size.
    """
    x, y, width, height = facts.display_rect
    stored, num_lists = facts.frame_index_of_jpeg, int(row.index.num_lists[row.position])
    for name, value, is_right in (
        ("frames", facts.num_frames, 0 < facts.num_frames == len(row.frame_flags())),
        ("num_lists", num_lists, 0 < num_lists <= _MOST_LISTS),
        ("frame_size", facts.frame_size, _is_size(facts.frame_size, 1)),
        ("coded_size", facts.coded_size, _is_size(facts.coded_size, BLOCK_PIXELS)),
        (
            "display_rect",
            facts.display_rect,
            min(x, y) >= 0
            and min(width, height) > 0
            and facts.display_end[0] <= facts.coded_size[0]
            and facts.display_end[1] <= facts.coded_size[1],
        ),
        (
            "frame_index_of_jpeg",
            stored.tolist(),
            not len(stored)
            or (stored[0] >= 0 and stored[-1] < facts.num_frames and (np.diff(stored) > 0).all()),
        ),
    ):
        if not is_right:
            raise _nonsense(row, f"{name} {value}")


def _is_size(size: tuple[int, int], multiple: int) -> bool:
    return all(0 < side <= _LARGEST_SIDE and side % multiple == 0 for side in size)


def _nonsense(row: SampleRow, what: str) -> DamageError:
    return DamageError(
        f"shard {row.shard}, sample {row.key}: the index says {what}, which cannot be; it is "
        "damaged; run 'gopstream verify' to see all faults"
    )


def _check_chunks(row: SampleRow, plane: str) -> None:
    """Refuse chunks that do not follow each other from the first frame to the last.

    Raises:
        DamageError: Naming shard, key and plane.
    """
    table = row.index.table(plane)
    rows = slice(*table.start[row.position : row.position + 2].tolist())
    num_frames = table.num_frames[rows]
    ends = np.cumsum(num_frames, dtype=np.int64)
    if (
        not len(ends)
        or (num_frames <= 0).any()
        or ends[-1] != row.index.num_frames[row.position]
        or (table.first_frame[rows] != ends - num_frames).any()
    ):
        raise _nonsense(
            row,
            f"chunks of {plane} from frames {table.first_frame[rows].tolist()} on, of "
            f"{num_frames.tolist()} frames",
        )


def _piece_parts(row: SampleRow, plane: str, rows: npt.NDArray[np.integer[Any]]) -> Iterator[Part]:
    table = row.index.table(plane)
    tar = row.tar(RESIDUAL_TAR if plane == "residual" else MAIN_TAR)
    columns = (table.offset, table.length, table.crc32, table.first_frame)
    for values in zip(*(column[rows].tolist() for column in columns), strict=True):
        offset, length, crc32, first_frame = values
        if offset < 0 or length < 0:
            raise _nonsense(row, f"{length} bytes of {plane} at {offset}")
        yield Part(Span(tar, offset, length), crc32, f"{plane} from frame {first_frame} on")


def _chunk_rows(row: SampleRow, plane: str, first: int, last: int) -> range:
    """Return the rows of a plane's table whose chunks hold frames ``first`` to ``last``."""
    table = row.index.table(plane)
    start, end = table.start[row.position : row.position + 2].tolist()
    begins = table.first_frame[start:end]
    return range(
        start + int(np.searchsorted(begins, first, side="right")) - 1,
        start + int(np.searchsorted(begins, last, side="right")),
    )


def _decode_chunks(
    row: SampleRow, plane: str, first: int, last: int, contents: Sequence[Buffer]
) -> npt.NDArray[Any]:
    width, height = row.index.coded_size[row.position].tolist()
    lists = int(row.index.num_lists[row.position])
    table = row.index.table(plane)
    chunks = []
    for piece, content in zip(_chunk_rows(row, plane, first, last), contents, strict=True):
        frames = int(table.num_frames[piece])
        shape, dtype = chunk_shape(plane, frames, lists=lists, coded_size=(width, height))
        try:
            chunks.append(decode_chunk(content, dtype=dtype, shape=shape))
        except FormatError as error:
            raise DamageError(f"shard {row.shard}, {row.key}: {plane}: {error}") from error
    return np.concatenate(chunks)
