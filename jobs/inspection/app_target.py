"""What the app shows: the splits of a dataset, one shard, or a single clip."""

from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any, Final, NamedTuple

import numpy as np

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.app_clips import ClipKey, OpenClips
from gopstream.jobs.inspection.catalogue import Catalogue
from gopstream.jobs.inspection.inspected import InspectedClip
from gopstream.jobs.inspection.open_target import open_clip, open_dataset, shard_of, target_kind
from gopstream.jobs.inspection.sample_clip import SampleClip
from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.object_store import StoreOptions
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.dataset_files import is_finished, load_dataset, planned_splits
from gopstream.shards.reader import ShardDataset
from gopstream.shards.shard_table import read_shard_table
from gopstream.shards.storage import Storage, open_storage

ONE_CLIP: Final[ClipKey] = ("-", 0)
"""The key of a clip that is no sample; not asked of a dataset, which may have such a split."""
READING: Final = ReadOptions(cache=None)
"""Only what is looked at is read, and nothing is left on the disk."""


class NotThereError(UserError):
    """A request for what the target does not have."""


class ViewedSplit(NamedTuple):
    """A split that is looked at."""

    dataset: ShardDataset
    catalogue: Catalogue
    storage: Storage


class ViewedTarget:
    """A target, opened as far as it was looked at. For several threads."""

    def __init__(
        self,
        target: str,
        *,
        split: str | None = None,
        store: StoreOptions | None = None,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
        """Look what the target is.

        Args:
            target: As the command takes it.
            split: The split to begin with; a dataset on a web server needs it. None takes the
                first that is finished.
            store: How object storage is reached; None takes the defaults.
            on_frames: Called with numbers of frames while all of a video is read once; may raise.

        Raises:
            UserError: If it is nothing that can be shown, or there is no such split.
            ShardError, PipelineError, StoreError: If it cannot be read.
        """
        self.target = target
        self.kind = target_kind(target)
        self._store = store
        self._on_frames = on_frames
        self.reading = RLock()
        """Held by whoever reads samples or clips: they are not for several threads."""
        self.clips = OpenClips(self._open_clip, lock=self.reading)
        self._splits: dict[str, ViewedSplit] = {}
        self.splits: tuple[str, ...] = ()
        """Names of those that can be looked at; empty for a single clip."""
        self.unfinished: tuple[str, ...] = ()
        """Names of the other splits."""
        if self.kind == "dataset":
            self._find_splits(split)
        elif self.kind == "shard":
            dataset = open_dataset(target, split, storage_options=store, reading=READING)
            self.splits = (dataset.split,)
            self._splits[dataset.split] = self._view(dataset)
        elif split is not None:
            raise UserError(f"--split is for datasets; {target} is a {self.kind}")
        else:
            self.clips.facts(ONE_CLIP)  # says now what cannot be opened

    @property
    def is_clip(self) -> bool:
        """Whether it is one clip, without samples."""
        return not self.splits

    def facts(self) -> dict[str, Any]:
        """Return what the app must know first, for JSON."""
        return {
            "target": self.target,
            "kind": self.kind,
            "is_clip": self.is_clip,
            "splits": list(self.splits),
            "unfinished": list(self.unfinished),
        }

    def split(self, name: str) -> ViewedSplit:
        """Return a split, opened.

        Raises:
            NotThereError: If there is no such split.
            ShardError, StoreError: If it cannot be read.
        """
        if name not in self.splits:
            # Also what would lead out of the dataset: nothing is looked for under such a name.
            raise NotThereError(f"there is no finished split {name[:64]!r}")
        with self.reading:
            viewed = self._splits.get(name)
            if viewed is None:
                dataset = open_dataset(
                    self.target, name, storage_options=self._store, reading=READING
                )
                viewed = self._splits[name] = self._view(dataset)
            return viewed

    def split_facts(self, name: str) -> dict[str, Any]:
        """Return what is known of a split without its samples, for JSON.

        Raises:
            NotThereError: If there is no such split.
            ShardError, StoreError: If it cannot be read.
        """
        viewed = self.split(name)
        dataset = viewed.dataset
        counts: Mapping[str, int] = dataset.class_counts
        return {
            "split": name,
            "samples": len(dataset),
            "shards": len(dataset.shard_starts) - 1,
            "is_whole": self.kind == "dataset",
            "classes": [
                {"name": label, "samples": counts.get(label, 0)} for label in dataset.classes
            ],
            "unlabelled": counts.get("", 0),
            "planes": list(dataset.facts.planes),
            "settings": dict(dataset.facts.settings),
        }

    def thumbnail(self, key: ClipKey) -> bytes:
        """Return the JPEG in the middle of a sample, as it is stored.

        Raises:
            NotThereError, IndexError: If there is no such sample, or it has no pictures.
            ShardError, StoreError: If it cannot be read.
        """
        dataset = self.split(key[0]).dataset
        with self.reading:
            stored = len(dataset.sample(key[1]).frame_index_of_jpeg)
            if not stored:
                raise NotThereError("the sample has no pictures")
            (content,) = dataset.read_jpegs(key[1], np.array([stored // 2]))
            return bytes(content)

    def close(self) -> None:
        """Let go of everything that is open."""
        self.clips.close()
        for viewed in self._splits.values():
            viewed.catalogue.close()

    def _open_clip(self, key: ClipKey) -> InspectedClip:
        if self.is_clip:
            if key != ONE_CLIP:
                raise NotThereError(f"{self.target} is one clip; it has no sample {key[1]}")
            return open_clip(self.target, on_frames=self._on_frames)
        dataset = self.split(key[0]).dataset
        if not 0 <= key[1] < len(dataset):
            raise NotThereError(f"{key[0]} has no sample {key[1]}; it has {len(dataset)}")
        return SampleClip(dataset, key[1])

    def _find_splits(self, wanted: str | None) -> None:
        """List the splits, the wanted one first."""
        storage = open_storage(self.target, self._store or StoreOptions())
        load_dataset(storage)
        try:
            names = planned_splits(storage)
        except StoreError as error:
            if wanted is None:
                raise UserError(
                    f"{self.target}: its splits cannot be listed ({error}); name one with --split"
                ) from error
            names = [wanted]
        finished = [name for name in names if is_finished(storage, name)]
        if wanted is not None and wanted not in finished:
            raise UserError(
                f"{self.target}: no finished split {wanted!r}; there is "
                f"{', '.join(finished) or 'none'}"
            )
        if not finished:
            raise UserError(
                f"{self.target}: no split is finished; run 'gopstream shard' again to complete one"
            )
        self.splits = tuple(sorted(finished, key=lambda name: name != wanted))
        self.unfinished = tuple(name for name in names if name not in finished)

    def _view(self, dataset: ShardDataset) -> ViewedSplit:
        """Return an opened split with the catalogue of its samples."""
        storage = open_storage(dataset.root, self._store or StoreOptions())
        table = read_shard_table(storage, dataset.split)
        rows = None
        if (name := shard_of(self.target)) is not None:
            number = table.names.tolist().index(name.encode())
            rows = range(int(table.starts[number]), int(table.starts[number + 1]))
        catalogue = Catalogue(
            storage,
            dataset.split,
            classes=dataset.classes,
            num_stored=table.num_samples,
            rows=rows,
        )
        return ViewedSplit(dataset, catalogue, storage)
