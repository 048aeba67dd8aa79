"""Batches from worker processes: torch's ``DataLoader`` with memory of our own."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch.utils.data import DataLoader, Dataset

from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_reader import clip_arrays
from gopstream.shards.loading.clip_spec import ClipSpec
from gopstream.shards.loading.clips import ClipDataset, ViewDataset
from gopstream.shards.loading.slots import Filled, SharedSlots
from gopstream.shards.value_checks import check_value


class BatchStream:
    """Reads batches in the order in which it is told their places."""

    def __init__(
        self,
        clips: ClipDataset | ViewDataset,
        spec: ClipSpec,
        *,
        batch_size: int,
        workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            clips: What makes a batch of its places.
            spec: What a clip is.
            batch_size: Clips in a batch, at most.
            workers: Processes that read; 0 reads in this one.
            prefetch: Batches that each worker holds ready.
            pin_memory: Whether batches come in pinned memory; None does so where CUDA is there.

        Raises:
            ValueError: If there are fewer workers than none, or nothing is held ready.
        """
        check_value("workers", workers, int, at_least=0)
        check_value("prefetch", prefetch, int, at_least=1)
        self._clips = clips
        self._arrays = clip_arrays(spec)
        self._batch_size = batch_size
        self._workers = workers
        self._prefetch = prefetch
        self._pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory

    def batches(self, places: Iterator[Any]) -> Iterator[ClipBatch]:
        """Start workers that read batch after batch; leaving the iterator ends them.

        Args:
            places: Of each batch, as the clips take them.

        Raises:
            ShardError: If a clip cannot be read, or there is not enough shared memory.
        """
        slots = None
        if self._workers:
            slots = SharedSlots(
                self._arrays,
                batch_size=self._batch_size,
                workers=self._workers,
                prefetch=self._prefetch,
            )
        self._clips.use(slots)
        loader = DataLoader(
            _Guarded(self._clips) if self._workers else self._clips,
            batch_size=None,
            sampler=cast(Any, _Once(places)),
            num_workers=self._workers,
            prefetch_factor=self._prefetch if self._workers else None,
            worker_init_fn=_end_with_parent if self._workers else None,
            # Its own, or each pass would draw from the generator that dropout draws from.
            generator=torch.Generator(),
        )
        for item in _items(loader):
            if isinstance(item, Failed):
                raise item.error
            if isinstance(item, Filled):
                assert slots is not None
                yield slots.take(item, pin_memory=self._pin_memory)
            else:
                yield item.pin_memory() if self._pin_memory else item


class Failed(NamedTuple):
    """Why a worker has no batch.

    A value: torch wraps an error that a worker raises into pages of traceback, and then waits for
    seconds.
    """

    error: Exception


class _Guarded(Dataset[Any]):
    def __init__(self, clips: ClipDataset | ViewDataset) -> None:
        self._clips = clips

    def __getitem__(self, places: Any) -> ClipBatch | Filled | Failed:  # noqa: ANN401
        try:
            return self._clips[places]
        except (ShardError, OSError) as error:
            return Failed(error)


def _items(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Yield what workers hand over.

    Raises:
        ShardError: If a worker has ended.
    """
    items: Any = iter(loader)
    try:
        yield from items
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        hint = "if memory is short, use fewer workers, a smaller batch or a smaller prefetch"
        if multiprocessing.get_start_method() != "fork":
            hint += (
                "; worker processes run the script again as they are not forked, so its loop must "
                "stand below: if __name__ == '__main__':"
            )
        raise ShardError(f"a process that reads clips has ended ({error}); {hint}") from error
    finally:
        if loader.num_workers:
            # Torch does so when the last reference goes: the traceback of an error holds one in a
            # circle, and where that is found first in a forked child, the workers stay.
            items._shutdown_workers()


def _end_with_parent(worker: int) -> None:
    """End a worker with the process that started it: torch's own look comes every five seconds."""
    del worker
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="gopstream-parent", daemon=True).start()


class _Once:
    """A sampler that hands on an iterator."""

    def __init__(self, places: Iterator[Any]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[Any]:
        return self._places
