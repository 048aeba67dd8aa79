"""The worker's side of :mod:`gopstream.jobs.worker_pool`: does tasks and says how far it is."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from gopstream.jobs.worker_folder import hold_folder

STOP_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""What asks a job to stop. The parent alone decides what happens then."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class ItemFault(NamedTuple):
    """Why an item must be left out."""

    error: str
    """``CrashedError`` or ``StalledError``."""
    message: str


class Reporter:
    """A worker's line to its parent."""

    def __init__(self, connection: "Connection[Any, Any]", *, beat_seconds: float = 1.0) -> None:
        """Speak over ``connection``, and pass on a beat each ``beat_seconds`` at most."""
        self._connection = connection
        self._beat_seconds = beat_seconds
        self._last = time.monotonic()

    def started(self, index: int) -> None:
        """Say that item ``index`` of the task begins."""
        self.say("started", index)

    def beat(self) -> None:
        """Say that there is progress; cheap enough for each frame."""
        if time.monotonic() - self._last >= self._beat_seconds:
            self.say("beat")

    def finished(self, index: int, *, succeeded: bool) -> None:
        """Say that item ``index`` has ended; leaves the task if the job is being stopped."""
        self.say("finished", (index, succeeded))
        if self._connection.poll():  # in the middle of a task only a stop can come
            raise _Stopped

    def say(self, kind: str, value: object = None) -> None:
        """Send a message; for the pool itself."""
        self._last = time.monotonic()
        try:
            self._connection.send((kind, value))
        except OSError:
            # Nobody listens any more. As an exception it would look like the item's own fault.
            _end_group()


Work = Callable[[Task, Reporter, Mapping[int, ItemFault]], Result]


class _Stopped(BaseException):
    """The worker was asked to stop; no ``except Exception`` of a task may swallow it."""


def serve(
    connection: "Connection[Any, Any]", work: Work[Any, Any], folder: str, beat_seconds: float
) -> None:
    """Do tasks until told to stop: a worker's whole life.

    Args:
        connection: The line to the parent.
        work: What to do with a task.
        folder: For temporary files. What a killed worker leaves behind, the parent removes.
        beat_seconds: Time between two beats.
    """
    # Its own group, so that it can be killed with the FFmpeg it has started.
    os.setsid()
    _ignore_stop_signals()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    tempfile.tempdir = folder
    reporter = Reporter(connection, beat_seconds=beat_seconds)
    with contextlib.suppress(_Stopped, EOFError, OSError):  # the latter two: no parent any more
        hold_folder(Path(folder))  # until this process ends
        reporter.say("ready")
        while (message := connection.recv()) is not None:
            task, faults = message
            _do(work, task, reporter=reporter, faults=faults)
            reporter.say("ready")


def sendable(error: Exception) -> Exception:
    """Return an error that survives pickling: itself, or one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error's class does when it is rebuilt
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _ignore_stop_signals() -> None:
    """Let nothing but the parent stop this process or the FFmpeg that it starts.

    A cluster's scheduler signals every process of a job. FFmpeg would end its file early, as if
    the video were broken. It sets handlers of its own, but inherits what is blocked.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _do(
    work: Work[Any, Any], task: object, *, reporter: Reporter, faults: Mapping[int, ItemFault]
) -> None:
    try:
        reporter.say("done", work(task, reporter, faults))
    except Exception as error:  # goes to the parent, which raises it
        reporter.say("failed", (sendable(error), traceback.format_exc()))


def _die_with_parent() -> None:
    """End this worker when its parent has been killed.

    It would wait for work for ever, or write beside a second run of the same command.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _end_group()


def _end_group() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    os._exit(1)
