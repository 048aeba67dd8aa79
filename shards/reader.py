"""Random access to the samples of one split; every byte that is read is checked.

No torch, no video library: this is what training machines use.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.shards.byte_ranges import ReadCounters, ReadOptions
from gopstream.shards.dataset_files import DatasetFacts, Manifest, load_dataset, load_manifest
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.errors import ShardError
from gopstream.shards.layout import DATASET_FILE, JSON_MEMBER, RESIDUAL_JSON_MEMBER
from gopstream.shards.sample_parts import (
    Buffer,
    MotionWindow,
    SampleFacts,
    SampleRow,
    member_part,
)
from gopstream.shards.sample_reading import PendingSample, Wanted, checked_contents
from gopstream.shards.selection import (
    Selection,
    class_weights,
    column_weights,
    select,
    stored_labels,
)
from gopstream.shards.shard_indexes import INDEX_KIND, ShardIndexes
from gopstream.shards.shard_table import read_shard_table
from gopstream.shards.storage import Storage, as_storage
from gopstream.shards.value_checks import check_value

if TYPE_CHECKING:
    import pyarrow as pa

_MAIN_KIND: Final = "tar"


class ShardDataset:
    """The samples of a finished split, by position."""

    def __init__(
        self,
        root: Storage | Path | str,
        split: str,
        *,
        shards: Sequence[str] | None = None,
        labels: str | None = None,
        where: "str | pa.compute.Expression | None" = None,
        classes: Sequence[str] | None = None,
        reading: ReadOptions | None = None,
    ) -> None:
        """Open a split.

        Args:
            root: Folder or address of the dataset, which holds ``dataset.json``.
            split: Name of the split.
            shards: Names of the shards to open; None opens all.
            labels: Name of other labels, from ``gopstream relabel``: samples that they leave
                out are not there. Of all shards.
            where: Only the samples that fulfil a condition on the columns of
                ``samples.parquet``, such as ``duration_seconds > 4``; see
                :mod:`gopstream.shards.where`. Of all shards.
            classes: Only the samples of these classes, whose labels become 0, 1, ... in this
                order. Of all shards.
            reading: How samples are read from object storage; None takes the defaults.

        Raises:
            ShardError: If there is no such dataset or split, it is not finished, or the labels
                are not there or were made before samples were appended or removed.
            WhereError: If the condition or a class cannot be meant.
            ValueError: If an argument is of another type.
        """
        if shards is not None and not (labels is None and where is None and classes is None):
            raise ShardError("shards cannot be combined with labels, where or classes")
        check_value("split", split, str)
        check_value("reading", reading, ReadOptions | None)
        for name, names in (("shards", shards), ("classes", classes)):
            if isinstance(names, str):
                raise ValueError(f"{name} must be a list of names, got {names!r}")
        storage = as_storage(root)
        if storage.url.endswith(".tar"):
            raise ShardError(
                f"{storage.url}: is a shard, not a dataset; give the folder with {DATASET_FILE} "
                "and the name of the split, or read single shards with read_shards"
            )
        self.root = storage.url
        """The dataset's folder or address, for messages."""
        self.split = split
        self.facts: DatasetFacts = load_dataset(storage)
        self._storage = storage
        reading = reading or ReadOptions()
        self._planes = reading.planes
        self._expected: set[int] = set()
        kinds = [] if storage.local_root is not None else _cached_kinds(reading.planes)
        files_read = dict.fromkeys([INDEX_KIND, _MAIN_KIND, *kinds])
        table = read_shard_table(storage, split, files=list(files_read))
        self._has_all_shards = shards is None
        if shards is not None:
            table = table.only(shards)
        files = table.records(kinds)
        self._ranges = open_ranges(storage, files=files, options=reading)
        self._indexes = ShardIndexes(storage, table, ranges=self._ranges)
        self._content = table.files[_MAIN_KIND].sha256
        self._latest_row: tuple[int, SampleRow] | None = None
        self.class_counts = table.class_counts
        """Stored samples of each class of the dataset; under the empty name those without one."""
        self.classes: tuple[str, ...] = self.facts.classes
        """Names of the classes that ``labels`` count."""
        self._selection: Selection | None = None
        if labels is not None or where is not None or classes is not None:
            self._selection = select(
                self._indexes,
                dataset_classes=self.facts.classes,
                where=where,
                classes=classes,
                labels=labels,
            )
        if self._selection is not None and self._selection.classes is not None:
            self.classes = self._selection.classes

    def __repr__(self) -> str:
        """Say where the split is, and how many samples of it are loaded."""
        stored = int(self._indexes.starts[-1])
        of = "" if self._selection is None else f" of {stored}"
        return f"ShardDataset({self.root!r}, {self.split!r}: {len(self)}{of} samples)"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the latest row behind: another process opens its own indexes."""
        return self.__dict__ | {"_latest_row": None}

    def __len__(self) -> int:
        """Return the number of samples."""
        if self._selection is None:
            return int(self._indexes.starts[-1])
        return len(self._selection.positions)

    @cached_property
    def manifest(self) -> Manifest:
        """The split's manifest, whole."""
        return load_manifest(self._storage, self.split)

    @property
    def is_remote(self) -> bool:
        """Whether samples come from object storage or a web server."""
        return self._storage.local_root is None

    @property
    def counters(self) -> ReadCounters:
        """What this process has read of the samples."""
        return self._ranges.counters

    @property
    def shard_starts(self) -> npt.NDArray[np.int64]:
        """(S + 1,) the samples of the i-th shard are those from starts[i] to starts[i + 1]."""
        if self._selection is None:
            return self._indexes.starts
        return np.searchsorted(self._selection.positions, self._indexes.starts).astype(np.int64)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) class indices, -1 for a sample without one.

        Opens all indexes. Where these would have to be fetched from object storage, labels are
        read from ``samples.parquet`` instead, if pyarrow is installed: a hundredth of the bytes.
        """
        if self._selection is not None and self._selection.labels is not None:
            return self._selection.labels
        if self._has_all_shards and self.is_remote and find_spec("pyarrow") is not None:
            labels = stored_labels(self._indexes, self.facts.classes)
        else:
            labels = self._indexes.labels()
        return labels if self._selection is None else labels[self._selection.positions]

    @property
    def num_unlabelled(self) -> int:
        """Samples without a class."""
        if self._selection is None:
            return self.class_counts.get("", 0)
        return int((self.labels < 0).sum())

    @cached_property
    def keys(self) -> list[str]:
        """Keys of all samples, in order. Opens all indexes."""
        keys = list(self._indexes.keys())
        if self._selection is not None:
            return [keys[position] for position in self._selection.positions]
        return keys

    def selection_hash(self, num_samples: int) -> int:
        """Return what tells the first samples of a selection from those of others; 0 for all."""
        if self._selection is None:
            return 0
        return zlib.crc32(self._selection.positions[:num_samples].astype("<i8").tobytes())

    def content_hash(self, num_samples: int) -> int:
        """Return what tells the shards of the first samples from those with other content.

        By their main tars, which no command writes again but the one that removes samples: labels
        and further planes change nothing here, other videos or settings do.
        """
        if not num_samples:
            return 0
        last = num_samples - 1
        if self._selection is not None:
            last = int(self._selection.positions[last])
        return zlib.crc32(self._content[: self._indexes.shard_of(last) + 1].tobytes())

    def class_weights(self, weights: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """Return the weight of each sample by its class, for a loader; 1 for those not named.

        Raises:
            WhereError: If there is no such class.
        """
        return class_weights(self.labels, self.classes, weights=weights)

    def column_weights(self, column: str) -> npt.NDArray[np.float64]:
        """Return the weight of each sample from a column of ``samples.parquet``, for a loader.

        Raises:
            WhereError: If there is no such column, or a weight is missing, negative or not finite.
        """
        return column_weights(self._indexes, column, selection=self._selection)

    def label(self, position: int) -> int:
        """Return the class index of a sample, -1 without one."""
        if self._selection is not None and self._selection.labels is not None:
            return int(self._selection.labels[position])
        row = self._row(position)
        return int(row.index.labels[row.position])

    def key(self, position: int) -> str:
        """Return the key of a sample."""
        return self._row(position).key

    def known_key(self, position: int) -> str:
        """Return a sample's key if anything says it: its index, or else ``samples.parquet``.

        Empty if neither does. The table is read from a local disk alone.
        """
        try:
            return self.key(position)
        except (ShardError, OSError):
            folder = self._storage.local_root
        if folder is None or not self._has_all_shards or find_spec("pyarrow") is None:
            return ""
        from gopstream.shards.sample_table import key_at

        try:
            return key_at(self._storage, self.split, self._stored(position))
        except (ShardError, OSError):
            return ""

    def sample(self, position: int) -> SampleFacts:
        """Return the sizes of a sample."""
        return self._row(position).facts()

    def name_of(self, position: int) -> str:
        """Return a sample's shard and key, for messages."""
        row = self._row(position)
        return f"shard {self.root}/{self.split}/{row.shard}, sample {row.key}"

    def expect(self, samples: npt.NDArray[np.integer[Any]]) -> None:
        """Say which samples will be read soon: where whole shards are fetched, theirs are now."""
        if self._selection is not None:
            samples = self._selection.positions[samples]
        shards = set(self._indexes.shards_of(samples).tolist())
        new = [self._indexes.name(number) for number in sorted(shards - self._expected)]
        self._expected = shards
        kinds = _cached_kinds(self._planes)
        self._ranges.expect([f"{self.split}/{name}.{kind}" for name in new for kind in kinds])

    def prefetch(self, samples: Sequence[int]) -> None:
        """Say whose sizes will be asked for next, in this order; returns at once.

        From object storage the indexes of their shards are fetched together, not one by one as
        they are needed. Errors come with the sample that is asked for.
        """
        if not self.is_remote:
            return
        positions = np.asarray(samples, np.int64)
        if self._selection is not None:
            positions = self._selection.positions[positions]
        self._indexes.prefetch(self._indexes.shards_of(positions).tolist())

    def start(self, wanted: Wanted) -> PendingSample:
        """Ask for parts of a sample; from object storage they are on their way at once.

        Raises:
            IndexError: If the sample has no such frames.
            ShardError: If it has no residual and one is wanted.
        """
        row = self._row(wanted.sample)
        num_frames = int(row.index.num_frames[row.position])
        for frames in (wanted.motion, wanted.residual):
            if frames is not None and not 0 <= frames[0] <= frames[1] < num_frames:
                raise IndexError(f"{row.key} has no frames {frames[0]} to {frames[1]}")
        if wanted.residual is not None and not row.has_residual():
            raise ShardError(f"{self.root}: {self._why_without_residual(row, wanted.sample)}")
        where = self.name_of(wanted.sample)
        return PendingSample(self._ranges, row, wanted=wanted, where=where)

    def read_jpegs(self, position: int, numbers: npt.NDArray[np.integer[Any]]) -> list[Buffer]:
        """Read some of a sample's JPEGs.

        Args:
            position: Of the sample.
            numbers: (J,) positions among its stored JPEGs (not frame indices).

        Raises:
            DamageError: If a JPEG's bytes differ from their checksum.
        """
        return self.start(Wanted(position, jpegs=numbers)).result().jpegs

    def read_motion(self, position: int, first: int, last: int) -> MotionWindow:
        """Read motion and coverage of the GOPs that hold frames ``first`` to ``last``.

        Raises:
            DamageError: If a chunk's bytes differ from their checksum.
            IndexError: If the frames are not in the sample.
        """
        motion = self.start(Wanted(position, motion=(first, last))).result().motion
        assert motion is not None
        return motion

    def frame_flags(self, position: int) -> npt.NDArray[np.uint8]:
        """Return the bits of each frame of a sample, as ``ShardIndex.frame_flags`` names them."""
        return self._row(position).frame_flags()

    def has_residual(self, position: int) -> bool:
        """Tell whether a sample has a residual; native samples have one only where it is exact."""
        return self._row(position).has_residual()

    def read_residual(self, position: int, first: int, last: int) -> npt.NDArray[np.uint8]:
        """Read the residual of frames ``first`` to ``last``: (N, Hc * 3 / 2 * Wc), modulo 256.

        Raises:
            DamageError: If a chunk's bytes differ from their checksum.
            ShardError: If the dataset has no residual.
        """
        residual = self.start(Wanted(position, residual=(first, last))).result().residual
        assert residual is not None
        return residual

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
        part = member_part(self._row(position), suffix)
        pending = self._ranges.start([part.span])
        where = self.name_of(position)
        return bytes(checked_contents(self._ranges, [part], pending, where=where)[0])

    def _why_without_residual(self, row: SampleRow, position: int) -> str:
        if "residual" not in self.facts.planes:
            return "the dataset has no residual plane"
        return f"{row.key} has none: {self.read_json(position).get('exactness')}"

    def _row(self, position: int) -> SampleRow:
        # A clip asks several times for its sample.
        if self._latest_row is not None and self._latest_row[0] == position:
            return self._latest_row[1]
        stored = self._stored(position)
        number = self._indexes.shard_of(stored)
        first = int(self._indexes.starts[number])
        name = self._indexes.name(number)
        row = SampleRow(self.split, name, self._indexes[number], stored - first)
        self._latest_row = position, row
        return row

    def _stored(self, position: int) -> int:
        """Return the place in the split of a sample of the selection."""
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        return position if self._selection is None else int(self._selection.positions[position])


def _cached_kinds(planes: Sequence[str]) -> list[str]:
    """Return the kinds of files that a cache of a remote dataset holds."""
    return ["tar", *(["residual.tar"] if "residual" in planes else [])]
