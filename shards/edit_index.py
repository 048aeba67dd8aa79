"""Make a shard's index again after its tars have changed.

Dimensions as in :mod:`gopstream.shards.index`: N samples, M members, P pieces of a plane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.shards.encoding import Piece, index_pieces
from gopstream.shards.errors import DamageError
from gopstream.shards.index import PIECE_PLANES, RESIDUAL_TAR, PieceTable, ShardIndex
from gopstream.shards.layout import (
    COVERAGE_MEMBER,
    FRAMES_MEMBER,
    MOTION_MEMBER,
    RESIDUAL_MEMBER,
)

_MEMBER_OF_PLANE: Final = {
    "frames": FRAMES_MEMBER,
    "motion": MOTION_MEMBER,
    "coverage": COVERAGE_MEMBER,
    "residual": RESIDUAL_MEMBER,
}


class SideMember(NamedTuple):
    """A member of the residual tar, for the index."""

    sample: int
    suffix: str
    offset: int
    length: int
    crc32: int
    pieces: Sequence[Piece]
    """Of a residual; offsets count from the start of the member."""


def select_samples(index: ShardIndex, keep: npt.NDArray[np.bool_]) -> ShardIndex:
    """Return an index of some of its samples; offsets are as before.

    Args:
        index: Of a shard.
        keep: (N,) which samples stay.
    """
    members = keep[index.member_sample]
    renumbered = np.cumsum(keep) - 1
    changes: dict[str, Any] = {
        field.name: getattr(index, field.name)[members]
        for field in fields(ShardIndex)
        if field.name.startswith("member_") and field.name != "member_names"
    }
    changes["member_sample"] = renumbered[index.member_sample[members]].astype(np.int32)
    for name in ("labels", "num_frames", "num_lists", "coded_size", "display_rect", "frame_size"):
        changes[name] = getattr(index, name)[keep]
    # As wide as the longest that is left: the same bytes as of a shard that never had more.
    changes["keys"] = np.array(index.keys[keep].tolist(), np.bytes_)
    changes["frame_flags"] = index.frame_flags[np.repeat(keep, index.num_frames)]
    for plane in PIECE_PLANES:
        changes[plane] = _select_pieces(index.table(plane), keep)
    return replace(index, **changes)


def move_members(index: ShardIndex, tar: int, offsets: Mapping[str, int]) -> ShardIndex:
    """Return an index whose members lie where a tar has them now.

    Args:
        index: Of a shard.
        tar: MAIN_TAR or RESIDUAL_TAR.
        offsets: Of the tar's members, by name.

    Raises:
        DamageError: If the tar lacks a member.
    """
    rows = np.flatnonzero(index.member_tar == tar)
    names = [member_name(index, row) for row in rows.tolist()]
    missing = [name for name in names if name not in offsets]
    if missing:
        raise DamageError(f"the tar has no member {missing[0]}; run 'gopstream verify'")
    moved = index.member_offset.copy()
    moved[rows] = [offsets[name] for name in names]
    shift = moved - index.member_offset
    changes: dict[str, Any] = {"member_offset": moved}
    kinds = index.member_names.tolist()
    for plane, suffix in _MEMBER_OF_PLANE.items():
        table = index.table(plane)
        of_sample = np.zeros(len(index.keys), np.int64)
        own = index.member_kind == kinds.index(suffix.encode())
        of_sample[index.member_sample[own]] = shift[own]
        by_piece = np.repeat(of_sample, np.diff(table.start))
        changes[plane] = replace(table, offset=table.offset + by_piece)
    return replace(index, **changes)


def member_name(index: ShardIndex, row: int) -> str:
    """Return the name in its tar of a member."""
    key = index.keys[index.member_sample[row]].decode()
    return f"{key}.{index.member_names[index.member_kind[row]].decode()}"


def drop_residual(index: ShardIndex) -> ShardIndex:
    """Return an index without the residual tar."""
    keep = index.member_tar != RESIDUAL_TAR
    changes: dict[str, Any] = {
        field.name: getattr(index, field.name)[keep]
        for field in fields(ShardIndex)
        if field.name.startswith("member_") and field.name != "member_names"
    }
    return replace(index, **changes, residual=index_pieces([[] for _ in index.keys]))


def add_residual(index: ShardIndex, members: Sequence[SideMember]) -> ShardIndex:
    """Return an index with a residual tar; one that it had is forgotten.

    Args:
        index: Of a shard.
        members: Of the residual tar, in its order.
    """
    index = drop_residual(index)
    kinds = index.member_names.tolist()
    added = {
        "member_sample": [member.sample for member in members],
        "member_kind": [kinds.index(member.suffix.encode()) for member in members],
        "member_tar": [RESIDUAL_TAR for _ in members],
        "member_offset": [member.offset for member in members],
        "member_length": [member.length for member in members],
        "member_crc32": [member.crc32 for member in members],
    }
    columns = {
        name: np.concatenate([getattr(index, name), np.array(rows, getattr(index, name).dtype)])
        for name, rows in added.items()
    }
    # A sample's members stand together, those of the main tar first, as the writer has them.
    order = np.lexsort((columns["member_kind"], columns["member_sample"]))
    pieces: list[list[Piece]] = [[] for _ in index.keys]
    for member in members:
        pieces[member.sample] += [
            piece._replace(offset=piece.offset + member.offset) for piece in member.pieces
        ]
    ordered: dict[str, Any] = {name: column[order] for name, column in columns.items()}
    return replace(index, **ordered, residual=index_pieces(pieces))


def _select_pieces(table: PieceTable, keep: npt.NDArray[np.bool_]) -> PieceTable:
    counts = np.diff(table.start)
    rows = np.repeat(keep, counts)
    columns: dict[str, Any] = {
        field.name: getattr(table, field.name)[rows]
        for field in fields(PieceTable)
        if field.name != "start"
    }
    start = np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64)
    return PieceTable(start=start, **columns)
