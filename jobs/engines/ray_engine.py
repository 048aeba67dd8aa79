"""Run tasks on a Ray cluster, with the promises of :func:`gopstream.jobs.worker_pool.run_tasks`.

Each task is a Ray task with a pool of one worker process of its own, so that a video that crashes
or stalls its decoder is excluded exactly as on one machine. What Ray loses, with a node or for
want of memory, is handed out again here and not by Ray's own retries: those have no end for a
task that runs out of memory.
"""

import logging
import platform
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from gopstream.jobs.engines.ray_bell import BellWatch, RungError, hang_bell
from gopstream.jobs.errors import UserError
from gopstream.jobs.worker_pool import DEFAULT_STALL_SECONDS, WorkerError, run_tasks
from gopstream.jobs.worker_process import Result, Task, Work, sendable

DEFAULT_RETRIES: Final = 10

# A second one for each processor waits there already when the first one ends.
_TASKS_PER_CPU: Final = 2
# Between two looks at the cluster's size: machines join and leave.
_LOOK_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 10.0

Versions = Mapping[str, str]


def run_on_ray(
    tasks: Iterable[Task],
    work: Work[Task, Result],
    *,
    versions: Versions,
    work_versions: Callable[[], Versions],
    stall_seconds: float = DEFAULT_STALL_SECONDS,
    on_item: Callable[[bool], None],
    address: str | None = None,
    retries: int = DEFAULT_RETRIES,
) -> list[Result]:
    """Do all tasks on a Ray cluster; returns their results in order.

    Single items are treated as ``run_tasks`` does. A task whose worker was killed, or which ran
    out of memory, is done again at the end with no other of this job beside it in the cluster.

    An exception from ``work`` or ``tasks``, or an interrupt, ends the job: each task ends its
    present item. After a second interrupt Ray kills them.

    Args:
        tasks: The tasks, pickled; drawn when the cluster has room for them.
        work: A function that can be imported, on the nodes too; see ``run_tasks``.
        versions: Tools here that decide what a task makes, with their versions.
        work_versions: The same, asked on the node before each task; must be picklable.
        stall_seconds: Longest silence of a worker.
        on_item: Called once for each item of a task, with whether it succeeded, when its task
            has ended.
        address: Of the cluster; ``auto`` takes one that runs on this machine. None starts one on
            this machine for this job alone.
        retries: How often a task may be lost with its node or process.

    Raises:
        UserError: If Ray is not installed, no cluster answers, or a node has other tools.
        WorkerError: If a task was lost too often, or as :func:`run_tasks` does.
    """
    ray = _import_ray()
    with _connected(ray, address):
        remote = ray.remote(num_cpus=1, max_retries=0)(_do_task)
        call = _Call(work, stall_seconds, dict(versions), work_versions)
        bell = hang_bell(ray)
        driver = _Driver(ray, remote, ray.put(call), bell, on_item, retries, enumerate(tasks))
        try:
            driver.run()
        except BaseException:
            driver.stop(stall_seconds + _STOP_SECONDS)
            raise
    return driver.results


class _Call(NamedTuple):
    """What all tasks share."""

    work: Work[Any, Any]
    stall_seconds: float
    versions: dict[str, str]
    work_versions: Callable[[], Versions]


class _Outcome(NamedTuple):
    """What comes back from a node."""

    result: Any = None
    items: tuple[bool, ...] = ()
    error: Exception | None = None
    was_killed: bool = False
    """Whether it must be done again with no other task beside it."""


class _KilledError(Exception):
    """SIGKILL has met an item for the first time."""


def _do_task(call: _Call, task: object, bell: Any, *, is_alone: bool) -> _Outcome:  # noqa: ANN401
    """Do a task, unless the job is being stopped; runs on a node."""
    if not bell.enter.remote().future().result():
        return _Outcome()
    try:
        return _do_with_pool(call, task, on_look=BellWatch(bell), is_alone=is_alone)
    finally:
        bell.leave.remote()


def _do_with_pool(
    call: _Call, task: object, *, on_look: Callable[[], None], is_alone: bool
) -> _Outcome:
    items: list[bool] = []
    try:
        _check_versions(call)
        with _without_main_file():
            (result,) = run_tasks(
                [task],
                call.work,
                workers=1,
                stall_seconds=call.stall_seconds,
                on_item=items.append,
                on_killed=_stay if is_alone else _leave,
                on_look=on_look,
            )
    except RungError:
        return _Outcome()
    except _KilledError:
        return _Outcome(was_killed=True)
    except Exception as error:  # goes to the driver, which raises it with its own type
        sent = sendable(error)
        sent.add_note(f"On the node {platform.node()}")
        return _Outcome(error=sent)
    return _Outcome(result, tuple(items))


def _stay() -> None:
    """Let the pool try the item again itself."""


def _leave() -> None:
    raise _KilledError


def _check_versions(call: _Call) -> None:
    there = dict(call.work_versions())
    for tool in sorted(call.versions.keys() | there.keys()):
        wanted, found = call.versions.get(tool, "none"), there.get(tool, "none")
        if wanted != found:
            raise UserError(
                f"the node {platform.node()} has another {tool}: {found}, here it is {wanted}; it "
                "decides the bytes of the shards: install the same on every node"
            )


@contextmanager
def _without_main_file() -> Iterator[None]:
    """Keep worker processes from importing Ray's own script, and with it all of Ray."""
    main = sys.modules["__main__"]
    path = main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        if path is not None:
            main.__file__ = path


@dataclass(slots=True, eq=False)
class _Ticket:
    """A task that is not done yet."""

    index: int
    task: Any
    num_losses: int = 0
    is_alone: bool = False


@dataclass(slots=True, eq=False)
class _Driver:
    """Hands out tasks and gathers what comes back."""

    ray: ModuleType
    remote: Any
    call: Any
    """Where the cluster keeps what all tasks share."""
    bell: Any
    on_item: Callable[[bool], None]
    retries: int
    tasks: Iterator[tuple[int, Any]]
    results: list[Any] = field(default_factory=list)
    flying: dict[Any, _Ticket] = field(default_factory=dict)
    again: deque[_Ticket] = field(default_factory=deque)
    alone: deque[_Ticket] = field(default_factory=deque)
    """Tasks to be done after all others, one at a time."""

    def run(self) -> None:
        """Do all tasks."""
        while True:
            room = self._room()
            while len(self.flying) < room and (ticket := self._next_ticket()):
                self._launch(ticket)
            if not self.flying:
                if not self.alone:
                    return
                self._launch(self.alone.popleft())
            landed, _ = self.ray.wait(list(self.flying), timeout=_LOOK_SECONDS)
            for reference in landed:
                self._land(self.flying.pop(reference), reference)

    def stop(self, seconds: float) -> None:
        """Let each task end its present item; does not wait for longer than ``seconds``."""
        waiting, end = list(self.flying), time.monotonic() + seconds
        with suppress(self.ray.exceptions.RayError, ConnectionError):
            while waiting and time.monotonic() < end:
                if self.ray.get(self.bell.ring.remote(), timeout=_STOP_SECONDS) <= 0:
                    return  # the others wait for a free processor
                _, waiting = self.ray.wait(waiting, timeout=1.0)

    def _room(self) -> int:
        """Return how many tasks may be out; two at least, so that an empty cluster can grow."""
        cpus: float = self.ray.cluster_resources().get("CPU", 0.0)
        return max(_TASKS_PER_CPU, int(cpus * _TASKS_PER_CPU))

    def _next_ticket(self) -> _Ticket | None:
        if self.again:
            return self.again.popleft()
        for index, task in self.tasks:
            self.results.append(None)
            return _Ticket(index, task)
        return None

    def _launch(self, ticket: _Ticket) -> None:
        reference = self.remote.remote(self.call, ticket.task, self.bell, is_alone=ticket.is_alone)
        self.flying[reference] = ticket

    def _land(self, ticket: _Ticket, reference: object) -> None:
        errors = self.ray.exceptions
        try:
            outcome: _Outcome = self.ray.get(reference)
        except errors.OutOfMemoryError as error:
            self._lose(ticket, error)
            ticket.is_alone = True
            self.alone.append(ticket)
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.LocalRayletDiedError,
            errors.ObjectLostError,
        ) as error:
            self._lose(ticket, error)
            self.again.append(ticket)
        except errors.RayError as error:
            raise WorkerError(f"Ray could not run the work on a node: {error}") from error
        else:
            self._accept(ticket, outcome)

    def _lose(self, ticket: _Ticket, error: Exception) -> None:
        ticket.num_losses += 1
        if ticket.num_losses > self.retries:
            raise WorkerError(
                f"a task was lost {ticket.num_losses} times with its node or process: {error}"
            ) from error

    def _accept(self, ticket: _Ticket, outcome: _Outcome) -> None:
        if outcome.was_killed:
            ticket.is_alone = True
            self.alone.append(ticket)
        elif outcome.error is not None:
            raise outcome.error
        else:
            self.results[ticket.index] = outcome.result
            for succeeded in outcome.items:
                self.on_item(succeeded)


def _import_ray() -> ModuleType:
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("ray is not installed; this needs: pip install 'gopstream[ray]'") from error
    return ray


@contextmanager
def _connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one; a connection that there is already is used and kept.

    Without an address nothing is looked for: what the last cluster of this machine left behind
    would be asked for minutes, although it is gone.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if address is not None:
            _check_reachable(address)
        with _keep_sigterm():
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        where = "on this machine" if address is None else f"at {address}"
        raise UserError(
            f"no Ray cluster could be reached {where}: {error}; "
            "'ray status' shows whether one runs, and 'ray start --head' starts one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Knock at the cluster's door: Ray itself tries for minutes where nobody answers."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is not None and parts.port is not None:
        socket.create_connection((parts.hostname, parts.port), _CONNECT_SECONDS).close()


@contextmanager
def _keep_sigterm() -> Iterator[None]:
    """Give the caller's handler back: ``ray.init`` puts one of its own in its place."""
    handler = signal.getsignal(signal.SIGTERM)
    is_ours = callable(handler) and threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit:  # how Ray's handler speaks of a SIGTERM that came meanwhile
        if not is_ours:
            raise
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, handler)
