"""Random access to the samples of one split; every byte that is read is checked.

No torch, no video library: this is what training machines use.
"""

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.shards.dataset_files import DatasetFacts, Manifest, load_dataset, load_manifest
from gopstream.shards.encoding import decode_chunk
from gopstream.shards.errors import DamageError, FormatError, ShardError
from gopstream.shards.index import (
    BIDIRECTIONAL_FRAME,
    INTRA_FRAME,
    MAIN_TAR,
    RESIDUAL_TAR,
    SCENE_CUT,
    ShardIndex,
    load_index,
)
from gopstream.shards.label_view import Selection, load_label_view, positions_and_labels
from gopstream.shards.layout import JSON_MEMBER, RESIDUAL_JSON_MEMBER, index_name, tar_name
from gopstream.shards.storage import Storage, as_storage


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


@dataclass(frozen=True, slots=True)
class _Row:
    shard: str
    index: ShardIndex
    position: int

    @property
    def key(self) -> str:
        return str(self.index.keys[self.position].decode())


class ShardDataset:
    """The samples of a finished split, by position."""

    def __init__(
        self,
        root: Storage | Path | str,
        split: str,
        *,
        shards: Sequence[str] | None = None,
        labels: str | None = None,
    ) -> None:
        """Open a split.

        Args:
            root: Folder of the dataset, which holds ``dataset.json``. From object storage its
                facts and indexes are read, and no samples.
            split: Name of the split.
            shards: Names of the shards to open; None opens all.
            labels: Name of other labels, from ``gopstream relabel``: samples that they leave
                out are not there. Of all shards.

        Raises:
            ShardError: If there is no such dataset or split, it is not finished, or the labels
                are not there or were made before samples were appended or removed.
        """
        assert shards is None or labels is None
        storage = as_storage(root)
        self.root = storage.url
        """The dataset's folder or address, for messages."""
        self.split = split
        self.facts: DatasetFacts = load_dataset(storage)
        self.manifest: Manifest = load_manifest(storage, split)
        self._storage = storage
        self._shards = [
            shard.name for shard in self.manifest.shards if shards is None or shard.name in shards
        ]
        self._indexes = [
            load_index(storage, f"{split}/{index_name(name)}") for name in self._shards
        ]
        counts = [len(index.keys) for index in self._indexes]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._files: dict[tuple[str, int], int] = {}
        self.classes: tuple[str, ...] = self.facts.classes
        """Names of the classes that ``labels`` counts."""
        self._selection: Selection | None = None
        if labels is not None:
            view = load_label_view(storage, split, labels)
            self.classes, self._selection = view.classes, positions_and_labels(view)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._num_stored if self._selection is None else len(self._selection.positions)

    @property
    def _num_stored(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: a worker process opens its own."""
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        """Close the files."""
        for descriptor in self.__dict__.get("_files", {}).values():
            os.close(descriptor)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) class indices, -1 for a sample without one."""
        if self._selection is not None:
            return self._selection.labels
        return np.concatenate([index.labels for index in self._indexes])

    @cached_property
    def keys(self) -> list[str]:
        """Keys of all samples, in order."""
        keys = [key.decode() for index in self._indexes for key in index.keys]
        if self._selection is not None:
            return [keys[position] for position in self._selection.positions]
        return keys

    def sample(self, position: int) -> SampleFacts:
        """Return the sizes of a sample."""
        row = self._row(position)
        index, i = row.index, row.position
        pieces = slice(index.frames.start[i], index.frames.start[i + 1])
        rect = index.display_rect[i].tolist()
        return SampleFacts(
            num_frames=int(index.num_frames[i]),
            coded_size=(int(index.coded_size[i, 0]), int(index.coded_size[i, 1])),
            display_rect=(rect[0], rect[1], rect[2], rect[3]),
            frame_size=(int(index.frame_size[i, 0]), int(index.frame_size[i, 1])),
            frame_index_of_jpeg=index.frames.first_frame[pieces],
        )

    def name_of(self, position: int) -> str:
        """Return a sample's shard and key, for messages."""
        row = self._row(position)
        return f"shard {self.root}/{self.split}/{row.shard}, sample {row.key}"

    def read_jpegs(self, position: int, numbers: npt.NDArray[np.integer[Any]]) -> list[bytes]:
        """Read some of a sample's JPEGs.

        Args:
            position: Of the sample.
            numbers: (J,) positions among its stored JPEGs (not frame indices).

        Raises:
            DamageError: If a JPEG's bytes differ from their checksum.
        """
        row = self._row(position)
        start = int(row.index.frames.start[row.position])
        return [self._read_piece(row, "frames", start + int(number)) for number in numbers]

    def read_motion(self, position: int, first: int, last: int) -> MotionWindow:
        """Read motion and coverage of the GOPs that hold frames ``first`` to ``last``.

        Raises:
            DamageError: If a chunk's bytes differ from their checksum.
            IndexError: If the frames are not in the sample.
        """
        row = self._row(position)
        if not 0 <= first <= last < row.index.num_frames[row.position]:
            raise IndexError(f"{row.key} has no frames {first} to {last}")
        pieces = self._pieces_of(row, "motion", first, last)
        motion = [self._chunk(row, "motion", piece) for piece in pieces]
        coverage = [self._chunk(row, "coverage", piece) for piece in pieces]
        start = int(row.index.motion.first_frame[pieces.start])
        num_frames = sum(len(chunk) for chunk in motion)
        flags = self.frame_flags(position)[start : start + num_frames]
        return MotionWindow(
            start,
            np.concatenate(motion),
            np.concatenate(coverage),
            flags & INTRA_FRAME != 0,
            flags & BIDIRECTIONAL_FRAME != 0,
            flags & SCENE_CUT != 0,
        )

    def frame_flags(self, position: int) -> npt.NDArray[np.uint8]:
        """Return the bits of each frame of a sample, as ``ShardIndex.frame_flags`` names them."""
        row = self._row(position)
        end = int(row.index.num_frames[: row.position + 1].sum())
        return row.index.frame_flags[end - int(row.index.num_frames[row.position]) : end]

    def has_residual(self, position: int) -> bool:
        """Tell whether a sample has a residual; native samples have one only where it is exact."""
        row = self._row(position)
        start, end = row.index.residual.start[row.position : row.position + 2]
        return bool(start < end)

    def read_residual(self, position: int, first: int, last: int) -> npt.NDArray[np.uint8]:
        """Read the residual of frames ``first`` to ``last``: (N, Hc * 3 / 2 * Wc), modulo 256.

        Raises:
            DamageError: If a chunk's bytes differ from their checksum.
            ShardError: If the dataset has no residual.
        """
        row = self._row(position)
        if not self.has_residual(position):
            reason = (
                f"{row.key} has none: {self.read_json(position).get('exactness')}"
                if "residual" in self.facts.planes
                else "the dataset has no residual plane"
            )
            raise ShardError(f"{self.root}: {reason}")
        pieces = self._pieces_of(row, "residual", first, last)
        planes = np.concatenate([self._chunk(row, "residual", piece) for piece in pieces])
        start = first - int(row.index.residual.first_frame[pieces.start])
        return planes[start : start + last - first + 1]

    def read_json(self, position: int, *, residual: bool = False) -> dict[str, Any]:
        """Read a sample's json, or the one beside its residual."""
        suffix = RESIDUAL_JSON_MEMBER if residual else JSON_MEMBER
        loaded: dict[str, Any] = json.loads(self.read_member(position, suffix))
        return loaded

    def read_member(self, position: int, suffix: str) -> bytes:
        """Read a whole member of a sample, such as ``cls``.

        Raises:
            DamageError: If its bytes differ from their checksum.
            ShardError: If the sample has no such member.
        """
        row = self._row(position)
        index = row.index
        kinds = index.member_names.tolist()
        kind = kinds.index(suffix.encode()) if suffix.encode() in kinds else -1
        found = np.flatnonzero((index.member_sample == row.position) & (index.member_kind == kind))
        if len(found) != 1:
            raise ShardError(f"shard {row.shard}, {row.key}: no member {suffix}")
        member = int(found[0])
        return self._read(
            row,
            tar=int(index.member_tar[member]),
            offset=int(index.member_offset[member]),
            length=int(index.member_length[member]),
            crc32=int(index.member_crc32[member]),
            what=suffix,
        )

    def _row(self, position: int) -> _Row:
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        if self._selection is not None:
            position = int(self._selection.positions[position])
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        return _Row(
            self._shards[number], self._indexes[number], position - int(self._starts[number])
        )

    def _pieces_of(self, row: _Row, plane: str, first: int, last: int) -> range:
        """Return the rows of the chunks that hold frames ``first`` to ``last``."""
        table = row.index.table(plane)
        start, end = table.start[row.position : row.position + 2].tolist()
        begins = table.first_frame[start:end]
        return range(
            start + int(np.searchsorted(begins, first, side="right")) - 1,
            start + int(np.searchsorted(begins, last, side="right")),
        )

    def _chunk(self, row: _Row, plane: str, piece: int) -> npt.NDArray[Any]:
        width, height = row.index.coded_size[row.position].tolist()
        lists = int(row.index.num_lists[row.position])
        frames = int(row.index.table(plane).num_frames[piece])
        shape, dtype = chunk_shape(plane, frames, lists=lists, coded_size=(width, height))
        content = self._read_piece(row, plane, piece)
        try:
            return decode_chunk(content, dtype=dtype, shape=shape)
        except FormatError as error:
            raise DamageError(f"shard {row.shard}, {row.key}: {plane}: {error}") from error

    def _read_piece(self, row: _Row, plane: str, piece: int) -> bytes:
        table = row.index.table(plane)
        return self._read(
            row,
            tar=RESIDUAL_TAR if plane == "residual" else MAIN_TAR,
            offset=int(table.offset[piece]),
            length=int(table.length[piece]),
            crc32=int(table.crc32[piece]),
            what=f"{plane} from frame {int(table.first_frame[piece])} on",
        )

    def _read(
        self, row: _Row, *, tar: int, offset: int, length: int, crc32: int, what: str
    ) -> bytes:
        name = tar_name(row.shard, "residual" if tar == RESIDUAL_TAR else None)
        descriptor = self._files.get((row.shard, tar))
        if descriptor is None:
            if self._storage.local_root is None:
                raise ShardError(
                    f"{self.root}: samples are read from local disks alone; copy the dataset to one"
                )
            descriptor = os.open(self._storage.local_root / self.split / name, os.O_RDONLY)
            self._files[row.shard, tar] = descriptor
        content = os.pread(descriptor, length, offset)
        if len(content) != length or zlib.crc32(content) != crc32:
            raise DamageError(
                f"shard {self.root}/{self.split}/{name}, sample {row.key}: {what} is damaged "
                f"({length} bytes at {offset} do not match their checksum); "
                "run 'gopstream verify' to see all faults"
            )
        return content


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
