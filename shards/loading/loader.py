"""Batches for training and testing, from shards, by position.

The state of a run is (seed, epoch, position). Ranks and workers only say who reads what: the
order and every random draw are functions of those three numbers.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch

from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch import ClipBatch, Skipped
from gopstream.shards.loading.batch_stream import BatchStream
from gopstream.shards.loading.clip_spec import ClipSpec, View
from gopstream.shards.loading.clips import ClipDataset, OnError, ViewDataset
from gopstream.shards.loading.epoch_orders import EpochOrders
from gopstream.shards.loading.order import Shuffle
from gopstream.shards.loading.places import (
    BatchPlaces,
    EpochBatches,
    LastBatch,
    Share,
    with_ahead,
)
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset
from gopstream.shards.value_checks import check_value

_SHOWN_SKIPS = 1000


class StreamingLoader:
    """Shuffled training batches; iterating gives the rest of the present epoch.

    After the last batch of an epoch the next one begins, and workers read on into it meanwhile.
    """

    def __init__(
        self,
        dataset: ShardDataset | MixedDataset,
        spec: ClipSpec,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        weights: npt.ArrayLike | None = None,
        shuffle: Shuffle | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        batches_per_step: int = 1,
        last: LastBatch = "drop",
        on_error: OnError = "raise",
        prefetch: int = 2,
        pin_memory: bool | None = None,
    ) -> None:
        """Prepare to load.

        Args:
            dataset: The split, or a mixture of several.
            spec: What a clip is.
            batch_size: Clips in a batch of this process.
            seed: Of order and draws.
            workers: Processes that read; 0 reads in this one.
            weights: (N,) of the samples: one of weight w comes N * w / sum(weights) times in an
                epoch, rounded up or down at random; see ``ShardDataset.class_weights``. None
                shows each once.
            shuffle: How samples are mixed; None mixes all of them. A part of the run: another
                one shows another order.
            rank: Of this process; None asks ``torch.distributed``, and is 0 without it.
            world_size: Number of processes that train together; None likewise, and 1 without it.
            batches_per_step: Batches of each rank that one step of the optimiser adds up. An epoch
                has whole steps, and which samples make a step depends on ``batch_size`` times
                ``world_size`` times this alone.
            last: What becomes of positions that do not fill a step of all ranks: ``drop`` leaves
                them out of the epoch, ``fill`` completes the step with the epoch's first
                positions, marked in ``ClipBatch.is_repeat``.
            on_error: ``skip`` leaves out clips whose bytes are damaged or missing, and reports
                them; batches are then smaller, never fewer and never others. ``raise`` stops, as
                do both where a store does not answer or no clip of a batch can be read.
            prefetch: Batches that each worker holds ready.
            pin_memory: Whether batches come in pinned memory; None does so where CUDA is there.

        Raises:
            ShardError: If the split has fewer samples than a step of all ranks, or lacks planes
                that the spec asks for.
            ValueError: If another value cannot be meant; names it.
        """
        check_value("pin_memory", pin_memory, bool | None)
        rank, world_size = _process_place(rank, world_size)
        share = Share(
            batch_size,
            rank=rank,
            world_size=world_size,
            last=last,
            batches_per_step=batches_per_step,
        )
        orders = EpochOrders(
            dataset, seed=seed, shuffle=Shuffle() if shuffle is None else shuffle, weights=weights
        )
        if not orders.num_samples:
            raise ShardError(f"{dataset.root}/{dataset.split} has no samples")
        if orders.num_samples < share.step_size and last == "drop":
            raise ShardError(
                f"an epoch of {dataset.root}/{dataset.split} has {orders.num_samples} samples, "
                f"fewer than {_step_in_words(share)}"
            )
        self._workers = workers
        self._state = EpochBatches(orders, share)
        clips = ClipDataset(dataset, spec, seed=seed, on_error=on_error)
        self._stream = BatchStream(
            clips,
            spec,
            batch_size=batch_size,
            workers=workers,
            prefetch=prefetch,
            pin_memory=pin_memory,
        )
        self._batches: Iterator[ClipBatch] | None = None
        self._num_passes = 0
        self.num_skipped = 0
        """Clips that were left out since the loader was made, on this rank."""
        self.skipped: list[Skipped] = []
        """The first thousand of them."""

    def __len__(self) -> int:
        """Return the batches of the whole present epoch."""
        return len(self._state)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yield the batches that are left of the present epoch, then step to the next.

        Raises:
            ShardError: If a clip cannot be read; names shard and key.
        """
        state = self._state
        if not state.num_left():  # whoever counts batches never asked for the end
            state.next_epoch()
        number = self._num_passes
        # Between two batches another iterator may end the epoch, or a state be loaded.
        while self._num_passes == number and state.num_left():
            yield self._next()
        if self._num_passes == number:
            self._num_passes += 1
            state.next_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Return seed, epoch and the position of the next step, and what makes the order.

        With several batches per step, in the middle of one: where that step begins, so that a run
        that continues takes all of its batches again.
        """
        return self._state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a state was taken, with any ranks, workers, batches and clips a batch.

        Samples that were appended to the dataset since come with the next epoch: the present one
        goes on over those that it began with, which are the first ones. At the beginning of an
        epoch the dataset may have lost samples as well. States of earlier versions do not know the
        samples' content (``content``): they are taken without it.

        Raises:
            ValueError: If it is no state; a :class:`SettingsError` if it is of a run with another
                seed or order, or of other samples; see :meth:`start_epoch`.
        """
        self._state.load_state_dict(state)
        self._batches = None

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch anew, over all samples that the dataset has.

        For a run whose state the dataset no longer fits, since samples were removed or it was made
        again; and to show one epoch twice.

        Args:
            epoch: Its number, counted from 0.

        Raises:
            ValueError: If it is no such number.
        """
        self._state.start_epoch(epoch)
        self._batches = None

    def _next(self) -> ClipBatch:
        try:
            if self._batches is None:
                self._batches = self._stream.batches(self._endless())
            batch = next(self._batches)
            self._report(batch)
        except BaseException:
            self._batches = None  # what workers hold ready is no longer what comes next
            raise
        self._state.advance()
        return batch

    def _endless(self) -> Iterator[BatchPlaces]:
        """Yield the rest of the present epoch and all of those that follow."""
        return with_ahead(self._state.endless(), max(1, self._workers))

    def _report(self, batch: ClipBatch) -> None:
        if batch.skipped and not self.num_skipped:
            warnings.warn(
                f"a clip was left out: {batch.skipped[0].message} (further ones are counted in "
                "num_skipped)",
                stacklevel=4,
            )
        self.num_skipped += len(batch.skipped)
        self.skipped += batch.skipped[: _SHOWN_SKIPS - len(self.skipped)]


def view_batches(
    dataset: ShardDataset,
    spec: ClipSpec,
    *,
    batch_size: int,
    views: Sequence[View],
    samples: Sequence[int] | None = None,
    workers: int = 0,
    on_error: OnError = "raise",
) -> Iterator[ClipBatch]:
    """Return all views of all samples once, in order; the last batch may be smaller.

    Args:
        dataset: The split.
        spec: What a clip is.
        batch_size: Clips in a batch.
        views: The views of each sample, which follow each other.
        samples: Which samples, such as a ``range``; None takes all. ``positions`` of a batch count
            the views of all samples in either case.
        workers: Processes that read; 0 reads in this one.
        on_error: ``skip`` leaves out views whose bytes are damaged or missing; see
            ``ClipBatch.skipped``. A batch may then have no clip at all.

    Raises:
        ShardError: If the dataset lacks planes that the spec asks for; and, by the iterator, if a
            clip cannot be read.
        ValueError: If another value cannot be meant; names it.
    """
    check_value("batch_size", batch_size, int, at_least=1)
    clips = ViewDataset(dataset, spec, views, on_error=on_error)
    chosen = range(len(dataset)) if samples is None else samples
    for sample in () if samples is None else samples:
        check_value("a sample", sample, int, at_least=0)
        if sample >= len(dataset):
            raise ValueError(f"there are {len(dataset)} samples, got sample {sample}")
    num_views = len(views)
    num_clips = len(chosen) * num_views
    numbers = (
        [
            chosen[place // num_views] * num_views + place % num_views
            for place in range(first, min(first + batch_size, num_clips))
        ]
        for first in range(0, num_clips, batch_size)
    )
    stream = BatchStream(clips, spec, batch_size=batch_size, workers=workers)
    return stream.batches(numbers)


def _step_in_words(share: Share) -> str:
    batches = "a batch" if share.batches_per_step == 1 else f"{share.batches_per_step} batches"
    ranks = f" on each of {share.world_size} ranks" if share.world_size > 1 else ""
    return f"{batches} of {share.batch_size}{ranks}"


def _process_place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size, as given or as ``torch.distributed`` knows them."""
    if (rank is None) != (world_size is None):
        raise ValueError("give both rank and world_size, or neither")
    if rank is not None and world_size is not None:
        return rank, world_size
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
