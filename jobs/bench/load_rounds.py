"""Contestants that take turns, each in a process of its own, and ratios within each turn."""

import json
import queue
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

_ANSWER_SECONDS: Final = 900.0
_END_SECONDS: Final = 10.0


@dataclass
class Contestant:
    """A process that runs what it is asked to."""

    name: str
    runs: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    """Why it cannot run, once it cannot."""
    _process: subprocess.Popen[str] | None = None
    _errors: IO[str] | None = None
    _lines: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)

    def start(self, command: Sequence[str], errors: IO[str]) -> subprocess.Popen[str] | None:
        """Start it; None if there is no such program."""
        self._errors = errors
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        except OSError as error:
            self.reason = str(error)
            return None
        threading.Thread(target=self._read, daemon=True).start()
        return self._process

    def ask(self, run: str, *, first: int, count: int) -> dict[str, Any] | None:
        """Have something run; None if it fails, and for ever after."""
        if self.reason is not None:
            return None
        assert self._process is not None and self._process.stdin is not None
        with suppress(OSError):  # its answer says that it is gone
            print(
                json.dumps({"run": run, "first": first, "count": count}),
                file=self._process.stdin,
                flush=True,
            )
        return self._answer()

    def wait_ready(self) -> None:
        """Wait until it says what it runs."""
        if self.reason is None and (answer := self._answer()) is not None:
            self.runs, self.versions = tuple(answer["runs"]), answer["versions"]

    def _answer(self) -> dict[str, Any] | None:
        try:
            # Other lines are greetings of libraries.
            while (line := self._lines.get(timeout=_ANSWER_SECONDS)) is not None:
                if line.startswith("{"):
                    answer: dict[str, Any] = json.loads(line)
                    self.reason = answer.get("error")
                    return answer if self.reason is None else None
        except queue.Empty:
            self.reason = f"no answer in {_ANSWER_SECONDS:g} s"
        else:
            self.reason = self._last_words()
        return None

    def _read(self) -> None:
        """Collect its lines, and None when it has closed its side."""
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        assert self._process is not None and self._errors is not None
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        return f"ended with {code}: {said[-1][:300] if said else 'no message'}"


@contextmanager
def contestants(
    jobs: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]],
) -> Iterator[dict[str, Contestant]]:
    """Start processes; they end with the context.

    Args:
        jobs: By name: the command, and the job whose file is its last argument.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gopstream-bench-")))
        processes: list[subprocess.Popen[str]] = []
        stack.callback(_end, processes)
        started = {}
        for number, (name, (command, job)) in enumerate(jobs.items()):
            path = folder / f"{number}.json"
            path.write_text(json.dumps(job))
            errors = stack.enter_context((folder / f"{number}.err").open("w+"))
            started[name] = Contestant(name)
            if (process := started[name].start([*command, str(path)], errors)) is not None:
                processes.append(process)
        for contestant in started.values():
            contestant.wait_ready()
        yield started


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End contestants and their workers: they leave when nobody asks any more."""
    for process in processes:
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
    for process in processes:
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Turn:
    """What is asked in each round."""

    contestant: Contestant
    run: str
    count: int


def take_turns(
    turns: Sequence[Turn], *, rounds: int, on_round: Callable[[int], None]
) -> dict[str, list[dict[str, Any]]]:
    """Run everything in each round, beginning with another one each time.

    All contestants get the same clips in a round, other ones in the next.

    Returns:
        By run, one answer per round; runs that failed are not there.
    """
    answers: dict[str, list[dict[str, Any]]] = {turn.run: [] for turn in turns}
    for turn in turns:
        turn.contestant.ask(turn.run, first=0, count=1)  # files are cached, code is loaded
    for number in range(rounds):
        on_round(number)
        shift = number % len(turns)
        for turn in [*turns[shift:], *turns[:shift]]:
            answer = turn.contestant.ask(turn.run, first=number * turn.count, count=turn.count)
            if answer is not None:
                answers[turn.run].append(answer)
    return {run: given for run, given in answers.items() if len(given) == rounds}


def rate(answer: Mapping[str, Any]) -> float:
    """Return clips per second of an answer, by the clock."""
    return float(answer["clips"] / answer["seconds"])


def core_rate(answer: Mapping[str, Any]) -> float:
    """Return clips per second of CPU time of an answer's own process."""
    return float(answer["clips"] / answer["cpu_seconds"])


def median_rate(answers: Sequence[Mapping[str, Any]]) -> float:
    """Return the median clips per second of the rounds, by the clock."""
    return statistics.median(map(rate, answers))


def median_ratio(
    answers: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    *,
    speed: Callable[[Mapping[str, Any]], float] = rate,
) -> float:
    """Return the median, over the rounds, of one's speed over another's in the same round."""
    return statistics.median(
        speed(one) / speed(other) for one, other in zip(answers, others, strict=True)
    )
