"""Worker processes that may crash or hang without harm to the job.

``concurrent.futures`` gives up the whole pool when one process dies, and knows no progress.
Here each worker has a pipe of its own to the parent and shares nothing with the others: no lock
or queue exists that a dying process could leave taken. A task is a list of items (a shard and its
videos); the worker says when it begins and ends an item, so that the parent knows which item a
dead or silent worker was busy with. It gives the task to a fresh worker then, from its beginning,
with that item excluded. What a task makes must depend on the task and the excluded items alone;
it is then the same for any number of workers.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from gopstream.jobs.worker_folder import WorkerFolder, remove_leftovers
from gopstream.jobs.worker_process import (
    STOP_SIGNALS,
    ItemFault,
    Reporter,
    Result,
    Task,
    Work,
    serve,
)

__all__ = ["DEFAULT_STALL_SECONDS", "ItemFault", "Reporter", "Work", "WorkerError", "run_tasks"]

DEFAULT_STALL_SECONDS: Final = 300.0

# An interpreter with its imports starts in seconds, but perhaps from a cold network disk.
_START_SECONDS: Final = 120.0
_EXIT_SECONDS: Final = 10.0
_SIGNAL_NAMES: Final = {member.value: member.name for member in signal.Signals}


class WorkerError(RuntimeError):
    """Worker processes died, or went silent, without any item being at fault."""


def run_tasks(
    tasks: Iterable[Task],
    work: Work[Task, Result],
    *,
    workers: int,
    stall_seconds: float = DEFAULT_STALL_SECONDS,
    on_item: Callable[[bool], None],
    on_killed: Callable[[], None] = lambda: None,
    on_look: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Do all tasks in worker processes, whatever single items do to them.

    An item is excluded, and its task begun again in a fresh worker, if the worker

    * dies while busy with it (``CrashedError``). SIGKILL may be the kernel's choice when memory
      ran out, which another worker may have used up: such an item is tried once more, at the end
      of the job with no other worker beside it, and is excluded if it is killed again;
    * says nothing for ``stall_seconds`` while busy with it (``StalledError``); the worker is
      killed with every process that it has started.

    An exception from ``work`` or ``tasks``, or an interrupt, ends the job: each worker ends its
    present item and leaves its task; a second interrupt kills them. Workers die with their
    parent, and no other signal than SIGKILL ends them.

    Args:
        tasks: The tasks, pickled; each is drawn when a worker is free for it, so that they need
            not all be in memory.
        work: A function that can be imported. It is called with a task, its reporter and the
            faults of the excluded items by index. It says ``started`` and ``finished`` for each
            item that it does, and only ``finished`` (without success) for an excluded one.
        workers: Number of processes at a time.
        stall_seconds: Longest silence of a worker.
        on_item: Called once for each item of each task, with whether it succeeded.
        on_killed: Called when SIGKILL has met an item for the first time. It may raise, to have
            the task done elsewhere with no other beside it.
        on_look: Called about once a second; may raise to end the job.

    Returns:
        What ``work`` returned, in the order of ``tasks``.

    Raises:
        WorkerError: If two workers died or went silent on one task between its items.
    """
    if workers < 1 or stall_seconds <= 0:
        raise ValueError(
            f"workers and stall seconds must be positive, got {workers} and {stall_seconds}"
        )
    remove_leftovers()
    pool = _Pool(work, workers, stall_seconds, on_item, on_killed, on_look, iter(tasks))
    try:
        pool.run()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.kill()
    return pool.results


@dataclass(slots=True, eq=False)
class _Job:
    """A task and what has been learned about it."""

    task: Any
    index: int
    faults: dict[int, ItemFault] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)
    """Items that SIGKILL has met once."""
    reported: set[int] = field(default_factory=set)
    num_losses: int = 0
    """Workers lost between two items."""


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, as the parent sees it."""

    process: SpawnProcess
    connection: "Connection[Any, Any]"
    folder: WorkerFolder
    job: _Job
    item: int | None = None
    is_up: bool = False
    has_ended_job: bool = False
    quiet_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class _Pool:
    """The parent's side."""

    work: Work[Any, Any]
    limit: int
    stall_seconds: float
    on_item: Callable[[bool], None]
    on_killed: Callable[[], None]
    on_look: Callable[[], None]
    tasks: Iterator[Any]
    results: list[Any] = field(default_factory=list)
    again: deque[_Job] = field(default_factory=deque)
    """Jobs that have lost their worker."""
    alone: deque[_Job] = field(default_factory=deque)
    """Jobs that are to run, after all others, with no worker beside theirs."""
    workers: list[_Worker] = field(default_factory=list)

    def run(self) -> None:
        """Do all jobs."""
        while True:
            while len(self.workers) < self.limit and (job := self._next_job()):
                self._start(job)
            if not self.workers:
                if not self.alone:
                    return
                self._start(self.alone.popleft())
            self.on_look()
            speaking, silent = self._listen()
            for worker in speaking:
                self._hear(worker)
            for worker in silent:
                self._remove(worker, patience=0)
                self._lose(worker, None)

    def stop(self) -> None:
        """Let each worker end its item, and wait until all are gone."""
        for worker in list(self.workers):
            # It has no task yet, or the interrupt came while it was removed.
            if not worker.is_up or worker.connection.closed:
                self._remove(worker, patience=0)
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        while self.workers:
            speaking, silent = self._listen()
            for worker in speaking:
                try:
                    worker.connection.recv_bytes()
                except (EOFError, OSError):
                    self._remove(worker)
            for worker in silent:
                self._remove(worker, patience=0)

    def kill(self) -> None:
        """End all workers that there still are."""
        for worker in list(self.workers):
            self._remove(worker, patience=0)

    def _next_job(self) -> _Job | None:
        if self.again:
            return self.again.popleft()
        for task in self.tasks:
            self.results.append(None)
            return _Job(task, len(self.results) - 1)
        return None

    def _start(self, job: _Job) -> None:
        context = multiprocessing.get_context("spawn")
        connection, far_end = context.Pipe()
        folder = WorkerFolder()
        process = context.Process(
            target=serve,
            args=(far_end, self.work, str(folder.path), _look_seconds(self.stall_seconds)),
            daemon=True,
        )
        # Before it runs: an interrupt can come at any moment.
        self.workers.append(_Worker(process, connection, folder, job))
        # Until it has a session of its own, Ctrl-C reaches the new process too, and would end it
        # with a traceback. It inherits the mask; starting the tracker would lift it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
            far_end.close()  # while we hold it, the worker's end cannot be seen
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _listen(self) -> tuple[list[_Worker], list[_Worker]]:
        """Return the workers that have something to say, and those silent for too long."""
        look_seconds = _look_seconds(self.stall_seconds)
        begun = time.monotonic()
        ready = wait([worker.connection for worker in self.workers], look_seconds)
        # Not more than we have waited: the whole job may have been frozen in between.
        elapsed = min(time.monotonic() - begun, look_seconds)
        speaking, silent = [], []
        for worker in self.workers:
            worker.quiet_seconds += elapsed
            limit = self.stall_seconds if worker.is_up else _START_SECONDS
            if worker.connection in ready:
                worker.quiet_seconds = 0.0
                speaking.append(worker)
            elif worker.quiet_seconds > limit:
                silent.append(worker)
        return speaking, silent

    def _hear(self, worker: _Worker) -> None:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):  # OSError: it died within a message
            self._lose(worker, self._remove(worker))
            return
        if kind == "ready":
            self._employ(worker)
        elif kind == "started":
            worker.item = value
        elif kind == "finished":
            worker.item = None
            index, succeeded = value
            if index not in worker.job.reported:  # or else by an earlier worker
                worker.job.reported.add(index)
                self.on_item(succeeded)
        elif kind == "done":
            self.results[worker.job.index] = value
            worker.has_ended_job = True
        elif kind == "failed":
            error, text = value
            error.add_note(f"In a worker process:\n{text}")
            raise error

    def _employ(self, worker: _Worker) -> None:
        """Give a worker its first task, or the next one, or nothing more."""
        worker.is_up = True
        if worker.has_ended_job:
            job = self._next_job()
            if job is None:
                with contextlib.suppress(OSError):
                    worker.connection.send(None)
                self._remove(worker)
                return
            worker.job, worker.item, worker.has_ended_job = job, None, False
        with contextlib.suppress(OSError):  # then it is dead, which the next look tells
            worker.connection.send((worker.job.task, worker.job.faults))

    def _remove(self, worker: _Worker, *, patience: float = _EXIT_SECONDS) -> int:
        """Make an end of a worker and what it has started; returns its exit code."""
        if worker.process.pid is not None:
            worker.process.join(patience)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.kill()  # it may not have a group of its own yet
            worker.process.join()
        worker.connection.close()
        worker.folder.remove()
        self.workers.remove(worker)
        return worker.process.exitcode or 0

    def _lose(self, worker: _Worker, exit_code: int | None) -> None:
        """Find the fault for a lost worker, and have its job done by another.

        Args:
            worker: The worker, removed already.
            exit_code: None if it was silent for too long.
        """
        job, item, cause = worker.job, worker.item, self._cause(exit_code)
        if worker.has_ended_job:
            return
        if item is None or item in job.faults:
            job.num_losses += 1
            if job.num_losses == 2:
                raise WorkerError(f"two worker processes were lost between videos: {cause}")
        elif exit_code == -signal.SIGKILL and item not in job.killed:
            job.killed.add(item)
            self.on_killed()
            self.alone.append(job)
            return
        elif exit_code is None:
            job.faults[item] = ItemFault("StalledError", f"{cause}; the decoder was stopped")
        else:
            message = f"this video killed the worker process: {cause}"
            if exit_code == -signal.SIGKILL:
                message += ", also with no other worker beside it (out of memory?)"
            job.faults[item] = ItemFault("CrashedError", message)
        self.again.appendleft(job)

    def _cause(self, exit_code: int | None) -> str:
        if exit_code is None:
            return f"no progress for {self.stall_seconds:g} s"
        if exit_code >= 0:
            return f"exit status {exit_code}"
        return _SIGNAL_NAMES.get(-exit_code, f"signal {-exit_code}")


def _look_seconds(stall_seconds: float) -> float:
    """Return the time between two beats, and between two looks at who is silent."""
    return min(1.0, stall_seconds / 4)
