"""Batches from worker processes: torch's ``DataLoader`` with memory of our own.

Batch systems and terminals send a signal that ends a run to all of its processes. Workers live
through it, so that the trainer can finish its step and save: they end when the trainer leaves the
iterator or ends itself, and not before.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, Final, NamedTuple, cast

import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, Dataset

from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_reader import clip_arrays
from gopstream.shards.loading.clip_spec import ClipSpec
from gopstream.shards.loading.clips import ClipDataset, ViewDataset
from gopstream.shards.loading.slots import Filled, SharedSlots
from gopstream.shards.value_checks import check_value

_TRAINER_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GRACE_SECONDS: Final = 0.5
"""How long a worker may finish what it reads when it is told to end."""


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
        ends = multiprocessing.Pipe(duplex=False) if self._workers else None
        loader = DataLoader(
            _Guarded(self._clips) if self._workers else self._clips,
            batch_size=None,
            sampler=cast(Any, _Once(places)),
            num_workers=self._workers,
            prefetch_factor=self._prefetch if self._workers else None,
            worker_init_fn=partial(_begin_worker, told=ends[0]) if ends else None,
            # Its own, or each pass would draw from the generator that dropout draws from.
            generator=torch.Generator(),
        )
        for item in _items(loader, ends[1] if ends else None):
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


def _items(loader: "DataLoader[Any]", tell: Connection | None) -> Iterator[Any]:
    """Yield what workers hand over.

    Args:
        loader: Starts the workers.
        tell: Where workers are told to end; None without workers.

    Raises:
        ShardError: If a worker has ended.
    """
    if tell is None:
        yield from loader
        return
    # A worker that is just being started still does what the trainer does with a signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TRAINER_SIGNALS)
    try:
        items: Any = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # Also when this process ends: multiprocessing would send SIGTERM and then wait without end. Not
    # in a process that was forked from this one, which has a copy of the iterator.
    end = Finalize(None, _end_workers, (items, tell), exitpriority=1)
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
        # Torch does so when the last reference goes: the traceback of an error holds one in a
        # circle, and where that is found first in a forked child, the workers stay.
        end()


def _end_workers(items: Any, tell: Connection) -> None:  # noqa: ANN401 - torch's
    """End the workers of torch's iterator, within their grace."""
    with tell:
        tell.send_bytes(b"end")  # nobody reads it: all workers see that it is there
        items._shutdown_workers()  # does nothing where this process is about to end
        if items._worker_pids_set:  # or torch would raise an error for each that is killed
            _remove_worker_pids(id(items))
            items._worker_pids_set = False
        for worker in items._workers:
            worker.join(2 * _GRACE_SECONDS)
        # One that stands still heard nothing, and torch's SIGTERM is ignored.
        for worker in items._workers:
            if worker.is_alive():
                worker.kill()
        for worker in items._workers:
            worker.join()


def _begin_worker(worker: int, *, told: Connection) -> None:
    """Let a worker end with the iterator or the process that started it, and by no signal."""
    del worker
    for number in _TRAINER_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TRAINER_SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        # Torch's own look at the parent comes every five seconds.
        if sentinel in wait([sentinel, told]):
            os._exit(1)
        # Torch asks first, and waits five seconds for a worker that reads from a silent server.
        time.sleep(_GRACE_SECONDS)
        os._exit(0)

    threading.Thread(target=watch, name="gopstream-parent", daemon=True).start()


class _Once:
    """A sampler that hands on an iterator."""

    def __init__(self, places: Iterator[Any]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[Any]:
        return self._places
