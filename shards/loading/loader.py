"""Batches for training and testing, from shards, by position.

The state of a run is (seed, epoch, position). Workers only say who reads what: the order and
every random draw are functions of those three numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gopstream.shards.errors import ShardError
from gopstream.shards.loading.clip_reader import (
    ClipSpec,
    LoadedClip,
    View,
    training_clip,
    view_clip,
)
from gopstream.shards.loading.order import epoch_order
from gopstream.shards.reader import ShardDataset


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """B clips."""

    frames: Tensor
    """(B, 3, T, H, W) uint8 RGB."""
    motion: Tensor | None
    """(B, Q, 2, J, h, w) float32 pixels, (dx, dy); 0 where not valid."""
    valid: Tensor | None
    """(B, Q, J, h, w) bool."""
    labels: Tensor
    """(B,) int64."""
    keys: list[str]


def collate(clips: Sequence[LoadedClip]) -> ClipBatch:
    """Stack clips of one form into a batch."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    motions = [clip.motion for clip in clips if clip.motion is not None]
    valids = [clip.valid for clip in clips if clip.valid is not None]
    motion = torch.from_numpy(np.stack(motions)) if motions else None
    valid = torch.from_numpy(np.stack(valids)) if valids else None
    return ClipBatch(
        frames=frames.permute(0, 4, 1, 2, 3),
        motion=motion,
        valid=valid,
        labels=torch.tensor([clip.label for clip in clips], dtype=torch.int64),
        keys=[clip.key for clip in clips],
    )


class StreamingLoader:
    """Shuffled training batches; iterating gives the rest of the present epoch.

    After the last batch of an epoch the next one begins. The samples that do not fill a last
    batch are left out of that epoch (another epoch has another order).
    """

    def __init__(
        self,
        dataset: ShardDataset,
        spec: ClipSpec,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
    ) -> None:
        """Prepare to load.

        Args:
            dataset: The split.
            spec: What a clip is.
            batch_size: Clips in a batch.
            seed: Of order and draws.
            workers: Processes that read; 0 reads in this one.

        Raises:
            ShardError: If the split has fewer samples than a batch.
        """
        if len(dataset) < batch_size:
            raise ShardError(
                f"{dataset.root}/{dataset.split} has {len(dataset)} samples, fewer than a batch "
                f"of {batch_size}"
            )
        self._batch_size = batch_size
        self._dataset_size = self._num_samples = len(dataset)
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._plan = _BatchPlan()
        self._loader = _data_loader(_TrainingClips(dataset, spec, seed), self._plan, workers)

    def __len__(self) -> int:
        """Return the batches of the whole present epoch."""
        return self._num_samples // self._batch_size

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yield the batches that are left of the present epoch, then step to the next."""
        order = epoch_order(self._num_samples, seed=self._seed, epoch=self._epoch)
        end = len(self) * self._batch_size
        self._plan.batches = [
            [(self._epoch, p, int(order[p])) for p in range(first, first + self._batch_size)]
            for first in range(self._position, end, self._batch_size)
        ]
        for batch in self._loader:
            self._position += self._batch_size
            yield batch
        self._epoch, self._position = self._epoch + 1, 0
        self._num_samples = self._dataset_size

    def state_dict(self) -> dict[str, int]:
        """Return seed, epoch, the position of the next batch, and the samples of the epoch."""
        return {
            "seed": self._seed,
            "epoch": self._epoch,
            "position": self._position,
            "num_samples": self._num_samples,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where a state was taken.

        Samples that were appended to the dataset since come with the next epoch: the present one
        goes on over those that it began with, which are the first ones.

        Raises:
            ValueError: If the state is of a run with another seed, or of a dataset with more
                samples.
        """
        if state["seed"] != self._seed:
            raise ValueError(f"the state has seed {state['seed']}, this loader {self._seed}")
        num_samples = state.get("num_samples", self._dataset_size)
        if num_samples > self._dataset_size:
            raise ValueError(
                f"the state is of an epoch over {num_samples} samples, the dataset has "
                f"{self._dataset_size} now: some were removed, so that the epoch cannot be "
                "continued; begin the next one"
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._num_samples = num_samples


def view_batches(
    dataset: ShardDataset,
    spec: ClipSpec,
    *,
    batch_size: int,
    views: Sequence[View],
    workers: int = 0,
) -> Iterator[ClipBatch]:
    """Yield all views of all samples once, in order; the last batch may be smaller.

    Args:
        dataset: The split.
        spec: What a clip is.
        batch_size: Clips in a batch.
        views: The views of each sample, which follow each other.
        workers: Processes that read; 0 reads in this one.
    """
    plan = _BatchPlan()
    places = [(sample, number) for sample in range(len(dataset)) for number in range(len(views))]
    plan.batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    yield from _data_loader(_TestClips(dataset, spec, views), plan, workers)


class _BatchPlan(Sampler[list[Any]]):
    """The places of each batch; replaced before each iteration."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _TrainingClips(Dataset[LoadedClip]):
    def __init__(self, dataset: ShardDataset, spec: ClipSpec, seed: int) -> None:
        self._dataset, self._spec, self._seed = dataset, spec, seed

    def __getitem__(self, place: tuple[int, int, int]) -> LoadedClip:
        epoch, position, sample = place
        return training_clip(
            self._dataset, sample, self._spec, seed=self._seed, epoch=epoch, position=position
        )


class _TestClips(Dataset[LoadedClip]):
    def __init__(self, dataset: ShardDataset, spec: ClipSpec, views: Sequence[View]) -> None:
        self._dataset, self._spec, self._views = dataset, spec, views

    def __getitem__(self, place: tuple[int, int]) -> LoadedClip:
        sample, number = place
        return view_clip(self._dataset, sample, self._spec, view=self._views[number])


def _data_loader(
    clips: Dataset[LoadedClip], plan: _BatchPlan, workers: int
) -> "DataLoader[LoadedClip]":
    return DataLoader(
        clips,
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        # Its own, or each epoch would draw from the generator that dropout draws from.
        generator=torch.Generator(),
    )
