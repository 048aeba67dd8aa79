"""What a person sees while a job runs: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# A log file is read later: one line in a while is enough.
_SECONDS_BETWEEN_LINES: Final = 15.0


class _RateColumn(ProgressColumn):
    """Units per second, over the last while."""

    def render(self, task: Task) -> Text:
        """Return the rate, once it is known."""
        return Text("" if task.speed is None else f"{task.speed:,.1f}/s")


class Advance(Protocol):
    """Reports work done."""

    def __call__(self, count: int = 1, *, note: str = "") -> None:
        """Add ``count`` units; ``note`` is shown beside the bar."""


def error_console() -> Console:
    """Return the console for everything that is not a result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print a line about the work, on standard error."""
    error_console().print(message, markup=False)


@contextmanager
def progress(
    title: str, *, total: int, unit: str, done: int = 0, silent: bool = False
) -> Iterator[Advance]:
    """Show how far a job is; yields a function that reports work done.

    Args:
        title: What is being done.
        total: Units in all.
        unit: Name of a unit, in the plural.
        done: Units that were done before, which no rate counts.
        silent: Show nothing: of several processes one speaks.
    """
    console = error_console()
    if silent:
        yield _say_nothing
    elif console.is_terminal:
        with _bar(title, total, unit, console, done) as advance:
            yield advance
    else:
        yield _plain_lines(title, total, unit, done)


def _say_nothing(count: int = 1, *, note: str = "") -> None:
    del count, note


@contextmanager
def _bar(title: str, total: int, unit: str, console: Console, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _RateColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")

        def advance(count: int = 1, *, note: str = "") -> None:
            bar.update(task, advance=count)
            if note:
                bar.update(task, note=note)

        yield advance


def _plain_lines(title: str, total: int, unit: str, before: int) -> Advance:
    done = before
    begun = last = time.monotonic()

    def advance(count: int = 1, *, note: str = "") -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done == total or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            rate = (done - before) / max(now - begun, 1e-9)
            eta = "" if done == total or not rate else f", eta {(total - done) / rate:.0f} s"
            print(
                f"{title}: {done}/{total} {unit}, {rate:.1f}/s{eta}{', ' * bool(note)}{note}",
                file=sys.stderr,
                flush=True,
            )

    return advance


def printable(text: object) -> str:
    """Return text that a terminal shows as it is: labels and names may hold control characters."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1]
        for letter in str(text)
    )
