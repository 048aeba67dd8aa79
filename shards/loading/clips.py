"""Clips as a dataset of torch: what a worker process does to make a batch."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, get_worker_info

from gopstream.shards.errors import DamageError, FormatError, ShardError
from gopstream.shards.loading.batch import BatchFacts, ClipBatch, Skipped, make_batch
from gopstream.shards.loading.clip_reader import (
    StartedClip,
    UnreadableClip,
    clip_arrays,
    start_training_clip,
    start_view,
)
from gopstream.shards.loading.clip_spec import ClipSpec, View, check_views
from gopstream.shards.loading.device_frames import EncodedClip, collate_frames
from gopstream.shards.loading.device_motion import ClipMotion, collate_motion
from gopstream.shards.loading.frame_decoding import FrameBuffer
from gopstream.shards.loading.places import BatchPlaces, Place
from gopstream.shards.loading.slots import Filled, SharedSlots
from gopstream.shards.missing_planes import commands_to_add, missing_planes
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset
from gopstream.shards.value_checks import check_value

Clip = StartedClip | UnreadableClip
OnError = Literal["raise", "skip"]
_DAMAGE: Final = (DamageError, FormatError)
ON_ERROR: Final[tuple[OnError, ...]] = get_args(OnError)


class ClipDataset(Dataset[ClipBatch | Filled]):
    """Training clips; an item is a whole batch, by its places.

    Give it to a ``DataLoader`` with a sampler of places (``EpochBatches``) and
    ``batch_size=None``.
    """

    def __init__(
        self,
        dataset: ShardDataset | MixedDataset,
        spec: ClipSpec,
        *,
        seed: int,
        on_error: OnError = "raise",
    ) -> None:
        """Prepare to read.

        Args:
            dataset: The split.
            spec: What a clip is.
            seed: Of the run.
            on_error: ``skip`` leaves out clips whose bytes are damaged or missing.

        Raises:
            ShardError: If the dataset lacks planes that the spec asks for.
            ValueError: If something else is given.
        """
        check_value("dataset", dataset, ShardDataset | MixedDataset)
        check_value("seed", seed, int)
        check_planes(dataset, spec)
        self._dataset, self._spec, self._seed = dataset, spec, seed
        self._reader = _BatchReader(
            spec, where=f"{dataset.root}/{dataset.split}", on_error=on_error
        )
        self._started: dict[Place, Clip] = {}
        self._process = os.getpid()

    def __len__(self) -> int:
        """Return the number of samples; items are batches."""
        return len(self._dataset)

    def __getitem__(self, batch: BatchPlaces) -> ClipBatch | Filled:
        """Read a batch.

        Raises:
            ShardError: If a clip cannot be read; names shard and key.
        """
        if self._process != os.getpid():
            # A worker was forked: it would wait for ever for what its parent asked for.
            self._started, self._process = {}, os.getpid()
        soon = [*batch.places, *(batch.ahead if self._dataset.is_remote else ())]
        self._dataset.prefetch([place.sample for place in soon if place not in self._started])
        started = [
            self._started.pop(place) if place in self._started else self._start(place)
            for place in batch.places
        ]
        # The next batch is on its way while this one is decoded. What was expected and did not
        # come, since another batch was asked for, is dropped.
        self._started = {}
        if self._dataset.is_remote:
            self._start_ahead(batch.ahead)
        return self._reader.read(started, [place.is_repeat for place in batch.places])

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is on its way to this process."""
        return self.__dict__ | {"_started": {}}

    def use(self, slots: SharedSlots | None) -> None:
        """Let workers fill shared slots; to be said before they are started."""
        self._reader.use(slots)

    def _start_ahead(self, places: Sequence[Place]) -> None:
        for place in places:
            try:
                self._started[place] = self._start(place)
            except ShardError:
                return  # the store is away: asked again, and said, in its turn

    def _start(self, place: Place) -> Clip:
        def start() -> StartedClip:
            return start_training_clip(
                self._dataset,
                place.sample,
                self._spec,
                seed=self._seed,
                epoch=place.epoch,
                position=place.position,
            )

        return _start(start, self._dataset, place.sample, position=place.position)


class ViewDataset(Dataset[ClipBatch | Filled]):
    """Test views; an item is a batch, by the numbers of its views."""

    def __init__(
        self,
        dataset: ShardDataset | MixedDataset,
        spec: ClipSpec,
        views: Sequence[View],
        *,
        on_error: OnError = "raise",
    ) -> None:
        """Prepare to read the views of each sample, which follow each other.

        Raises:
            ShardError: If the dataset lacks planes that the spec asks for.
            ValueError: If there is no view, or one that there cannot be.
        """
        check_value("dataset", dataset, ShardDataset | MixedDataset)
        check_planes(dataset, spec)
        check_views(views)
        self._dataset, self._spec, self._views = dataset, spec, views
        self._reader = _BatchReader(
            spec, where=f"{dataset.root}/{dataset.split}", on_error=on_error, may_be_empty=True
        )

    def __len__(self) -> int:
        """Return the number of views of all samples."""
        return len(self._dataset) * len(self._views)

    def __getitem__(self, numbers: Sequence[int]) -> ClipBatch | Filled:
        """Read a batch.

        Raises:
            ShardError: If a clip cannot be read; names shard and key.
        """
        self._dataset.prefetch([number // len(self._views) for number in numbers])
        started = [self._start(number) for number in numbers]
        return self._reader.read(started, [False] * len(started))

    def use(self, slots: SharedSlots | None) -> None:
        """Let workers fill shared slots; to be said before they are started."""
        self._reader.use(slots)

    def _start(self, number: int) -> Clip:
        sample, view = divmod(number, len(self._views))

        def start() -> StartedClip:
            return start_view(
                self._dataset, sample, self._spec, view=self._views[view], position=number
            )

        return _start(start, self._dataset, sample, position=number)


def _start(
    start: Callable[[], StartedClip],
    dataset: ShardDataset | MixedDataset,
    sample: int,
    *,
    position: int,
) -> Clip:
    """Ask for a clip; one that cannot be must not end the batch that it is ahead of.

    Raises:
        ShardError: If the store does not give the index; who waited for it once waits no more.
    """
    try:
        return start()
    except OSError as error:
        where = f"sample {sample} of {dataset.root}/{dataset.split}"
        raise ShardError(f"{where}: {error}") from error
    except ShardError as error:  # said in its turn
        key = dataset.known_key(sample)
        if key not in str(error):
            error = type(error)(f"sample {key}: {error}")
        return UnreadableClip(error, key=key, position=position)


def check_planes(dataset: ShardDataset | MixedDataset, spec: ClipSpec) -> None:
    """Refuse a dataset, or a part of a mixture, that cannot make the clips of a spec.

    Raises:
        ShardError: Naming the dataset and the plane.
    """
    check_value("spec", spec, ClipSpec)
    needed = {"frames": "clips have frames"}
    if spec.motion is not None or spec.vectors is not None:
        needed["motion"] = "the ClipSpec asks for motion or vectors"
    if spec.residual:
        needed["residual"] = "the ClipSpec asks for the residual"
    if spec.rgb_residual is not None:
        needed["motion"] = needed["residual"] = "the ClipSpec asks for the rgb_residual"
    for part in dataset.datasets if isinstance(dataset, MixedDataset) else [dataset]:
        missing = missing_planes(part.facts, needed)
        if missing:
            commands = commands_to_add(missing, facts=part.facts, url=part.root)
            reasons = dict.fromkeys(needed[plane] for plane in missing)
            raise ShardError(
                f"{part.root}/{part.split}: the dataset has no {' and no '.join(missing)} plane "
                f"(it has {', '.join(part.facts.planes)}), and {' and '.join(reasons)}: "
                f"{'; '.join(commands)}"
            )


class _BatchReader:
    """Decodes started clips into arrays: in a worker into its shared slots, if there are any."""

    def __init__(
        self, spec: ClipSpec, *, where: str, on_error: OnError, may_be_empty: bool = False
    ) -> None:
        check_value("on_error", on_error, OnError)
        self._may_be_empty = may_be_empty
        self._arrays = clip_arrays(spec)
        self._where = where
        self._on_error = on_error
        self._slots: SharedSlots | None = None
        self._num_filled = 0
        self._buffer = FrameBuffer()

    def use(self, slots: SharedSlots | None) -> None:
        """Let workers fill shared slots; to be said before they are started."""
        self._slots, self._num_filled = slots, 0

    def read(self, started: Sequence[Clip], is_repeat: Sequence[bool]) -> ClipBatch | Filled:
        """Decode a batch; in a worker with slots, hand over where it is."""
        worker = get_worker_info()
        if self._slots is not None and worker is not None:
            slot, arrays = self._slots.arrays(worker.id, self._num_filled)
            self._num_filled += 1
            return Filled(worker.id, slot, self._fill(arrays, started, is_repeat))
        arrays = {
            name: np.empty((len(started), *shape), dtype)
            for name, (shape, dtype) in self._arrays.items()
        }
        facts = self._fill(arrays, started, is_repeat)
        count = len(facts.keys)
        return make_batch(
            facts, {name: torch.from_numpy(array[:count]) for name, array in arrays.items()}
        )

    def _fill(
        self,
        arrays: Mapping[str, npt.NDArray[Any]],
        started: Sequence[Clip],
        is_repeat: Sequence[bool],
    ) -> BatchFacts:
        """Decode clips into the first rows of arrays.

        Raises:
            ShardError: If a clip cannot be read, or all of them were left out and that may not be.
        """
        facts = BatchFacts([], [], [], [], ())
        skipped: list[Skipped] = []
        frames: list[EncodedClip] = []
        motions: list[ClipMotion] = []
        for clip, was_shown in zip(started, is_repeat, strict=True):
            row = len(facts.keys)
            try:
                rows = {name: array[row] for name, array in arrays.items()}
                left = clip.read_into(rows, self._buffer)
            except _DAMAGE as error:
                if self._on_error == "raise":
                    raise
                skipped.append(Skipped(clip.key, clip.position, str(error)))
                continue
            if left.frames is not None:
                frames.append(left.frames)
            if left.motion is not None:
                motions.append(left.motion)
            facts.keys.append(clip.key)
            facts.labels.append(clip.label)
            facts.positions.append(clip.position)
            facts.is_repeat.append(was_shown)
        if not facts.keys and not self._may_be_empty:
            raise ShardError(
                f"{self._where}: no clip of a batch of {len(started)} can be read; the first: "
                f"{skipped[0].message}"
            )
        return facts._replace(
            skipped=tuple(skipped),
            jpegs=collate_frames(frames) if frames else None,
            windows=collate_motion(motions) if motions else None,
        )
