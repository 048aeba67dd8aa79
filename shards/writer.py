"""Write one shard: tar, residual tar, index, files, report, in this order and each at once.

The report comes last. Its presence means that the shard is whole, so that a job that was
killed continues by looking for reports. Before it, ``NNNNNN.files.json`` says how large the others
are and what their sha256 is, so that the manifest is made without reading them again.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.clip import Clip
from gopstream.shards.dataset_files import FileRecord, save_shard_files
from gopstream.shards.encoding import (
    EncodedMember,
    Piece,
    encode_frames,
    encode_plane,
    index_pieces,
)
from gopstream.shards.index import (
    BIDIRECTIONAL_FRAME,
    DAMAGED,
    INTRA_FRAME,
    MAIN_TAR,
    PIECE_PLANES,
    RESIDUAL_TAR,
    SCENE_CUT,
    ShardIndex,
    index_bytes,
)
from gopstream.shards.layout import (
    COVERAGE_MEMBER,
    FRAMES_MEMBER,
    JSON_MEMBER,
    LABEL_MEMBER,
    MOTION_MEMBER,
    RESIDUAL_JSON_MEMBER,
    RESIDUAL_MEMBER,
    dump_json,
    index_name,
    report_name,
    tar_name,
)
from gopstream.shards.sample_json import residual_json, sample_json
from gopstream.shards.storage import Storage
from gopstream.shards.tar import TarWriter

_MEMBER_NAMES = (
    FRAMES_MEMBER,
    MOTION_MEMBER,
    COVERAGE_MEMBER,
    LABEL_MEMBER,
    JSON_MEMBER,
    RESIDUAL_MEMBER,
    RESIDUAL_JSON_MEMBER,
)


class _SampleRow(NamedTuple):
    """What the index says of a sample besides its members."""

    key: str
    label: int
    num_frames: int
    num_lists: int
    coded_size: tuple[int, int]
    display_rect: tuple[int, int, int, int]
    frame_size: tuple[int, int]
    flags: npt.NDArray[np.uint8]


class ShardWriter:
    """Gathers clips into one shard; nothing is visible under its final name before publish."""

    def __init__(self, storage: Storage, split: str, shard: str, *, with_residual: bool) -> None:
        """Start a shard.

        Args:
            storage: Of the dataset.
            split: Name of the split.
            shard: Name of the shard, six digits.
            with_residual: Whether its clips have a residual.
        """
        self._storage = storage
        self._split = split
        self._shard = shard
        self._stack = ExitStack()
        self._tars: dict[str, TarWriter] = {}
        try:
            self._start(tar_name(shard))
            if with_residual:
                self._start(tar_name(shard, "residual"))
        except BaseException:
            self._stack.close()
            raise
        self._samples: list[_SampleRow] = []
        self._members: list[tuple[int, int, int, int, int, int]] = []
        self._pieces: dict[str, list[list[Piece]]] = {plane: [] for plane in PIECE_PLANES}

    def _start(self, name: str) -> None:
        tar = TarWriter(self._storage, f"{self._split}/{name}")
        self._tars[name] = self._stack.enter_context(tar)

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not published."""
        self._stack.close()

    def add(self, key: str, clip: Clip, *, label: int, facts: Mapping[str, Any]) -> None:
        """Append one sample.

        Args:
            key: Its key, unique in the dataset.
            clip: Its content.
            label: Class index, -1 without one.
            facts: What else the sample's json says, such as source and labels.
        """
        planes = {
            "frames": encode_frames(clip),
            "motion": encode_plane("motion", clip.motion.astype("<i2"), clip.chunk_starts),
            "coverage": encode_plane("coverage", clip.coverage, clip.chunk_starts),
        }
        if clip.residual is not None:
            planes["residual"] = encode_plane("residual", clip.residual.planes, clip.gop_starts)
        sample = len(self._samples)
        if clip.jpegs:
            self._add_member(sample, key, FRAMES_MEMBER, planes["frames"])
        self._add_member(sample, key, MOTION_MEMBER, planes["motion"])
        self._add_member(sample, key, COVERAGE_MEMBER, planes["coverage"])
        self._add_member(sample, key, LABEL_MEMBER, EncodedMember(str(label).encode(), []))
        content = sample_json(key, clip, label=label, members=planes) | dict(facts)
        self._add_member(sample, key, JSON_MEMBER, EncodedMember(dump_json(content), []))
        if clip.residual is not None:
            self._add_member(sample, key, RESIDUAL_MEMBER, planes["residual"], RESIDUAL_TAR)
            side = EncodedMember(dump_json(residual_json(key, clip, planes["residual"])), [])
            self._add_member(sample, key, RESIDUAL_JSON_MEMBER, side, RESIDUAL_TAR)
        for tables in self._pieces.values():
            if len(tables) == sample:
                tables.append([])
        self._samples.append(
            _SampleRow(
                key,
                label,
                clip.num_frames,
                clip.motion.shape[1],
                clip.coded_size,
                clip.display_rect,
                clip.frame_size,
                _frame_flags(clip),
            )
        )

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Drop what was added inside the context if it ends with an error.

        A video that breaks in its third segment must not leave two behind. What was added before
        is on its way to the storage from now on; these contexts do not nest.
        """
        marks = [tar.mark() for tar in self._tars.values()]
        num_samples, num_members = len(self._samples), len(self._members)
        try:
            yield
        except BaseException:
            for tar, mark in zip(self._tars.values(), marks, strict=True):
                tar.rewind(mark)
            del self._samples[num_samples:], self._members[num_members:]
            for tables in self._pieces.values():
                del tables[num_samples:]
            raise

    def _add_member(
        self, sample: int, key: str, suffix: str, member: EncodedMember, tar: int = MAIN_TAR
    ) -> None:
        offset = list(self._tars.values())[tar].add(f"{key}.{suffix}", member.content)
        kind = _MEMBER_NAMES.index(suffix)
        crc32 = zlib.crc32(member.content)
        self._members.append((sample, kind, tar, offset, len(member.content), crc32))
        plane = suffix.split(".")[0]
        if plane in self._pieces and suffix != RESIDUAL_JSON_MEMBER:
            moved = [piece._replace(offset=piece.offset + offset) for piece in member.pieces]
            self._pieces[plane].append(moved)

    def publish(self, report: Sequence[Mapping[str, Any]]) -> dict[str, FileRecord]:
        """Make the shard visible: tars, then index, then their facts, then report.

        Args:
            report: One row per planned video, in plan order.

        Returns:
            Size and sha256 of tars and index, by file name.
        """
        files = {name: tar.publish() for name, tar in self._tars.items()}
        index = index_bytes(self._index())
        self._storage.write(f"{self._split}/{index_name(self._shard)}", index)
        files[index_name(self._shard)] = FileRecord.of(index)
        save_shard_files(self._storage, self._split, self._shard, files)
        rows = b"".join(dump_json(row) + b"\n" for row in report)
        self._storage.write(f"{self._split}/{report_name(self._shard)}", rows)
        return files

    def _index(self) -> ShardIndex:
        members = np.array(self._members, np.int64).reshape(-1, 6).T
        rows = self._samples
        return ShardIndex(
            keys=np.array([row.key.encode() for row in rows], np.bytes_),
            labels=np.array([row.label for row in rows], np.int64),
            num_frames=np.array([row.num_frames for row in rows], np.int32),
            num_lists=np.array([row.num_lists for row in rows], np.int32),
            coded_size=np.array([row.coded_size for row in rows], np.int32).reshape(-1, 2),
            display_rect=np.array([row.display_rect for row in rows], np.int32).reshape(-1, 4),
            frame_size=np.array([row.frame_size for row in rows], np.int32).reshape(-1, 2),
            frame_flags=np.concatenate([row.flags for row in rows] or [np.empty(0, np.uint8)]),
            member_names=np.array([name.encode() for name in _MEMBER_NAMES], np.bytes_),
            member_sample=members[0].astype(np.int32),
            member_kind=members[1].astype(np.uint8),
            member_tar=members[2].astype(np.uint8),
            member_offset=members[3],
            member_length=members[4],
            member_crc32=members[5].astype(np.uint32),
            frames=index_pieces(self._pieces["frames"]),
            motion=index_pieces(self._pieces["motion"]),
            coverage=index_pieces(self._pieces["coverage"]),
            residual=index_pieces(self._pieces["residual"]),
        )


def _frame_flags(clip: Clip) -> npt.NDArray[np.uint8]:
    """Return what the index says of each frame."""
    kinds = np.array(list(clip.kinds))
    flags = np.zeros(len(kinds), np.uint8)
    flags[kinds == "I"] = INTRA_FRAME
    flags[kinds == "B"] = BIDIRECTIONAL_FRAME
    flags[list(clip.scene_cuts)] |= SCENE_CUT
    flags[list(clip.damaged_frames)] |= DAMAGED
    return flags
