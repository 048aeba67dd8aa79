"""The command line: parses, calls, prints.

Exit codes: 0 done, 1 failed, 2 wrong usage, 128 + N stopped by signal N. Results go to standard
output, everything else to standard error.
"""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from cyclopts import App, CycloptsError

import gopstream
from gopstream.jobs.bench_commands import bench
from gopstream.jobs.console import error_console, printable
from gopstream.jobs.data_commands import info, verify
from gopstream.jobs.deploy_commands import export, predict
from gopstream.jobs.edit_commands import planes, relabel, remove
from gopstream.jobs.inspect_commands import inspect
from gopstream.jobs.model_commands import demo, evaluate, models, train
from gopstream.jobs.shard_commands import merge, shard
from gopstream.jobs.video_commands import conformance, extract, scan
from gopstream.jobs.view_commands import view

app = App(
    name="gopstream",
    help="Turn compressed video into shards that models stream, and train video models on them.",
    version=gopstream.__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # main says what was kept
)

for command in (
    shard,
    merge,
    verify,
    info,
    remove,
    relabel,
    scan,
    extract,
    conformance,
    train,
    evaluate,
    export,
    predict,
    inspect,
    view,
    models,
    demo,
):
    app.command(command)
app.command(planes)
app.command(bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: Words of the command; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    heard: list[int] = []
    try:
        with _signals_interrupt(heard):
            result = app(
                words, exit_on_error=False, print_error=False, result_action="return_value"
            )
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        _complain(str(error), hint="'gopstream COMMAND --help' lists what there is")
        return 2
    except KeyboardInterrupt:
        return _tell_stop(heard[0] if heard else signal.SIGINT, words=words)
    except BrokenPipeError:
        # The reader of our output has gone, as in "| head": nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the process's boundary
        if debug:
            traceback.print_exc()
        _complain(_describe(error))
        return 1


@contextmanager
def _signals_interrupt(heard: list[int]) -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a closed terminal, stop what runs inside as Ctrl-C does.

    A machine that is taken away says SIGTERM first. A second signal interrupts the stopping, as
    a second Ctrl-C does. A signal that the caller handles or ignores (``nohup``) stays as it is.

    Args:
        heard: The signals that came are added; an interrupt may lose what it carries, as in Ray.
    """
    owner = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a fork, such as a loader's worker, is not the command
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        heard.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = (signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in ours if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _tell_stop(number: int, *, words: list[str]) -> int:
    """Say that a signal has ended the command; returns the exit code that says the same."""
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    again = " with --resume" if words[:1] == ["train"] else ""
    kept = f"what was finished is kept, and the same command{again} continues"
    if words[:1] == ["inspect"]:
        kept = "files that were not finished are not kept"
    with suppress(OSError):  # the terminal may be gone
        _complain(f"stopped{by}; {kept}")
    return 128 + number


def _describe(error: Exception) -> str:
    """Return an error in words; one that we did not foresee says how to see more."""
    from gopstream.jobs.errors import UserError
    from gopstream.jobs.worker_pool import WorkerError
    from gopstream.pipeline.errors import PipelineError, StoreError
    from gopstream.shards.errors import ShardError

    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename or ''}: {error.strerror}".lstrip(": ")
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{said}; make room and run the same command again" if is_full else said
    ours = (UserError, PipelineError, StoreError, ShardError, WorkerError, FileNotFoundError)
    if isinstance(error, ours):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "einops", "torchvision"):
        return f"{error.name} is not installed; training needs: pip install 'gopstream[train]'"
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _complain(message: str, *, hint: str = "") -> None:
    console = error_console()
    console.print(f"gopstream: {printable(message)}", markup=False, style="red")
    if hint:
        console.print(hint, markup=False)
