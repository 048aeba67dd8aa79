"""The command line: parses, calls, prints.

Exit codes: 0 done, 1 failed, 2 wrong usage. Results go to standard output, everything else to
standard error.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import gopstream
from gopstream.jobs.bench_commands import bench
from gopstream.jobs.console import error_console
from gopstream.jobs.data_commands import info, shard, verify
from gopstream.jobs.model_commands import demo, evaluate, models, train
from gopstream.jobs.video_commands import conformance, extract, scan

app = App(
    name="gopstream",
    help="Turn compressed video into shards that models stream, and train video models on them.",
    version=gopstream.__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # main says what was kept
)

for command in (shard, verify, info, scan, extract, conformance, train, evaluate, models, demo):
    app.command(command)
app.command(bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: Words of the command; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        _complain(str(error), hint="'gopstream COMMAND --help' lists what there is")
        return 2
    except KeyboardInterrupt:
        _complain("stopped; what was finished is kept")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in "| head": nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the process's boundary
        if debug:
            traceback.print_exc()
        _complain(_describe(error))
        return 1


def _describe(error: Exception) -> str:
    """Return an error in words; one that we did not foresee says how to see more."""
    from gopstream.jobs.errors import UserError
    from gopstream.jobs.worker_pool import WorkerError
    from gopstream.pipeline.errors import PipelineError
    from gopstream.shards.errors import ShardError

    if isinstance(error, (UserError, PipelineError, ShardError, WorkerError)) or (
        isinstance(error, FileNotFoundError) and error.errno is None
    ):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}".lstrip(": ")
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "einops", "torchvision"):
        return f"{error.name} is not installed; training needs: pip install 'gopstream[train]'"
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _complain(message: str, *, hint: str = "") -> None:
    console = error_console()
    console.print(f"gopstream: {message}", markup=False, style="red")
    if hint:
        console.print(hint, markup=False)
