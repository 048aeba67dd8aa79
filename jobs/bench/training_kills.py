"""A training run can be killed, told to stop and continued, and ends as if nobody had.

The runs are real ones: ``gopstream train``, alone and by torchrun with two processes that speak by
gloo, with loader workers, dropout, Mixup, averaged weights and two parts to a step. Each step that
was taken, also one that was taken again after a kill, must have the loss and the gradient's norm
of the run in peace, and the last checkpoint its weights, optimiser, average and random numbers: to
the last bit. Continued on another number of processes, steps must be the same but for rounding.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from rich.console import Console

from gopstream.jobs.bench.loading_resume_cases import Roots
from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.jobs.bench.training_kill_runs import (
    CHECKPOINT_EVERY,
    PARTS,
    PLAIN,
    Kind,
    Row,
    Training,
    checkpoint_step,
    forget_part,
    logged_steps,
    wrong_parts,
    wrong_steps,
)

PROCESSES: Final = (1, 2)
ROUNDING: Final = 1e-5
"""Relative difference of losses and norms that another number of processes may make."""
_STOPPED_BY_SIGTERM: Final = 143
_START_SECONDS: Final = 4.0
"""About what a run takes to begin, on an idle machine."""


How = Literal["SIGKILL", "SIGTERM"]


class Stop(NamedTuple):
    """When and how a run is stopped."""

    how: How
    """SIGKILL goes to all of its processes at once."""
    num_steps: int
    """Steps since its start after which it is stopped; 0 while it starts."""
    share: float = 0.5
    """Of a step, or of the first seconds, that it is given besides."""
    to_all: bool = True
    """Whether its whole group hears SIGTERM, loader workers too, or the command alone."""


class Peace:
    """A run that nobody stopped."""

    def __init__(self, kind: Kind, out: Path) -> None:
        """Take it; ``failures`` says what is wrong with it."""
        self.kind, self.out = kind, out
        self.failures = Training(kind, out).finish()
        self.rows = logged_steps(out)
        if len({row.loss for row in self.rows}) != kind.steps:
            self.failures.append(f"{len(self.rows)} steps of {kind.steps}, or some are alike")

    def compare(self, out: Path, rows: set[Row]) -> list[str]:
        """Return how a run that has ended differs, in its steps or at its end.

        Args:
            out: Folder of the run.
            rows: All steps that it took, those that were taken again too.
        """
        found = wrong_steps(self.rows, sorted(rows))
        steps = [row.step for row in logged_steps(out)]
        if steps != list(range(1, self.kind.steps + 1)):
            found.append(f"the log at the end has the steps {steps}")
        return found + wrong_parts(self.out, out)


def stop_run(kind: Kind, out: Path, stop: Stop) -> dict[str, Any]:
    """Start or continue a run and stop it.

    Args:
        kind: What is trained.
        out: Folder of the run.
        stop: When and how.

    Returns:
        What it was at (``phase``), the ``step`` it had taken, the ``checkpoint`` that is left,
        its ``exit_code`` and ``failures``.
    """
    training = Training(kind, out)
    pace = training.wait_for(stop.num_steps)
    time.sleep(stop.share * (pace if stop.num_steps else _START_SECONDS))
    phase = _phase(training)
    if stop.how == "SIGKILL":
        training.command.kill()
        code = training.command.wait()
    else:
        code = training.terminate(to_all=stop.to_all)
    found = training.stragglers()
    rows, saved = logged_steps(out), checkpoint_step(out)
    step = rows[-1].step if rows else 0
    if stop.how == "SIGTERM" and phase == "training":
        # torchrun says of what has ended because of a signal that it failed.
        if code != (_STOPPED_BY_SIGTERM if kind.processes == 1 else 1) and saved < kind.steps:
            found.append(f"exit code {code}: {training.command.said[-2000:]}")
        if saved != step:
            found.append(f"the checkpoint is of step {saved}, the last step taken was {step}")
    row = {"phase": phase, "step": step, "checkpoint": saved, "exit_code": code}
    return row | {"failures": found}


def _phase(training: Training) -> str:
    if training.command.has_ended:
        return "ended"
    return "training" if training.num_steps() else "starting"


def draw_stops(rng: random.Random, *, kills: int, terms: int, steps: int) -> list[Stop]:
    """Draw when a run is stopped, on the whole at as many steps as it has.

    Args:
        rng: Draws them.
        kills: How often it is killed.
        terms: How often it is told to stop.
        steps: Of the run.
    """
    kinds: tuple[How, How] = ("SIGKILL", "SIGTERM")
    order = [kinds[number >= kills] for number in range(kills + terms)]
    rng.shuffle(order)
    most = max(2, 2 * steps // len(order))
    return [
        Stop(
            how,
            num_steps=rng.randint(0 if how == "SIGKILL" else 1, most),
            share=rng.random(),
            to_all=rng.random() < 0.5,
        )
        for how in order
    ]


def prove_stops(peace: Peace, out: Path, stops: Sequence[Stop]) -> dict[str, Any]:
    """Stop a run so many times, each time continued.

    Args:
        peace: The same run, which nobody stopped.
        out: New folder of the run.
        stops: When and how; each counts from where the one before has left the run.

    Returns:
        Each of the ``stops``, at what they came (``phases``), how many steps were
        ``taken_again``, and ``failures``.
    """
    kind = peace.kind
    rows: set[Row] = set()
    shown, num_taken = [], 0
    for stop in stops:
        before = checkpoint_step(out)
        seen = stop_run(kind, out, stop)
        rows |= set(logged_steps(out))
        num_taken += max(0, seen["step"] - before)
        shown.append({"how": stop.how, **seen})
        line = f"{kind.processes} processes, {len(shown)}/{len(stops)}: {shown[-1]}"
        Console().print(line, markup=False, soft_wrap=True)
    num_taken += kind.steps - checkpoint_step(out)
    found = [f"stop {n}: {text}" for n, seen in enumerate(shown, 1) for text in seen["failures"]]
    found += Training(kind, out).finish()
    rows |= set(logged_steps(out))
    found += peace.compare(out, rows)
    return {
        "phases": dict(Counter(f"{seen['how']} while {seen['phase']}" for seen in shown)),
        "taken_again": num_taken - kind.steps,
        "failures": found,
        "stops": shown,
    }


def prove_other_sizes(peace: Peace, out: Path, *, first: int) -> dict[str, Any]:
    """Begin a run on one number of processes, kill it, and go on with another.

    Args:
        peace: The same run on either number.
        out: New folder of the run.
        first: Number of processes that it begins with.
    """
    steps = peace.kind.steps
    begun, then = (peace.kind._replace(processes=n) for n in (first, 3 - first))
    stop = stop_run(begun, out, Stop("SIGKILL", num_steps=steps // 2))
    rows = set(logged_steps(out))
    found = stop.pop("failures") + Training(then, out).finish()
    rows |= set(logged_steps(out))
    found += wrong_steps(peace.rows, sorted(rows), tolerance=ROUNDING)
    if not 0 < stop["checkpoint"] < steps:
        found.append(f"the kill came at the wrong moment: {stop}")
    return {"processes": [first, 3 - first], "stop": stop, "failures": found}


def prove_judge(peace: Peace, folder: Path) -> dict[str, Any]:
    """Continue runs that do not take up a part of their checkpoint: each must be found.

    Args:
        peace: A run that nobody stopped.
        folder: For the runs.

    Returns:
        How many differences were found without each of the parts, and ``failures``.
    """
    step = (peace.kind.steps - 1) // CHECKPOINT_EVERY * CHECKPOINT_EVERY
    found, failures = {}, []
    for part in ("", *PARTS):
        out = folder / f"without-{part or 'nothing'}"
        forget_part(peace.out, out, step=step, part=part)
        ended = Training(peace.kind, out).finish()
        differences = [] if ended else peace.compare(out, set(logged_steps(out)))
        failures += ended
        if bool(differences) != bool(part):
            failures.append(f"a run that forgot {part or 'nothing'}: found {differences}")
        found[part or "nothing"] = len(differences)
    return {"differences_without": found, "failures": failures}


def prove(folder: Path, *, kills: int, terms: int, steps: int, seed: int) -> dict[str, Any]:
    """Do all of it in a folder."""
    root = Roots(folder).some
    rng = random.Random(seed)
    shown: dict[str, Any] = {"steps": steps, "checkpoint_every": CHECKPOINT_EVERY}
    for processes in PROCESSES:
        name = f"processes_{processes}"
        peace = Peace(Kind(root, steps, processes), folder / f"{name}-peace")
        out = folder / name
        stops = draw_stops(rng, kills=kills, terms=terms, steps=steps)
        shown[name] = prove_stops(peace, out, stops)
        shown[name]["failures"] += peace.failures
        if processes == 1:
            shown["judge"] = prove_judge(peace, folder)
    plain = Peace(Kind(root, 4 * CHECKPOINT_EVERY, options=PLAIN), folder / "plain-peace")
    for first in PROCESSES:
        name = f"processes_{first}_to_{3 - first}"
        shown[name] = prove_other_sizes(plain, folder / name, first=first)
        shown[name]["failures"] += plain.failures
    return shown


def failures(shown: dict[str, Any]) -> list[str]:
    """Name what went wrong, and what was not proven."""
    found = []
    for name, part in shown.items():
        if isinstance(part, dict):
            found += [f"{name}: {text}" for text in part["failures"]]
            if "phases" in part:
                wanted = ("SIGKILL while training", "SIGTERM while training")
                found += [f"{name}: no {what}" for what in wanted if what not in part["phases"]]
    return found


def main() -> int:
    """Run the proof; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.training_kills",
        description="A training run can be stopped at any moment and continued.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--kills", type=int, default=20, help="on each number of processes")
    parser.add_argument("--terms", type=int, default=6, help="likewise, by SIGTERM")
    parser.add_argument("--steps", type=int, default=240, help="of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        shown = prove(
            Path(folder).resolve(),
            kills=given.kills,
            terms=given.terms,
            steps=given.steps,
            seed=given.seed,
        )
    found = failures(shown)
    content = {
        "command": "python -m gopstream.jobs.bench.training_kills --json FILE "
        f"--kills {given.kills} --terms {given.terms} --steps {given.steps} --seed {given.seed}",
        "claim": "killed or told to stop at any moment and continued, a run takes the steps and "
        "ends with the checkpoint of one that nobody stopped, to the last bit; on another number "
        "of processes its steps are the same but for rounding",
        "holds": not found,
        "failures": found,
        "hardware": hardware(),
        **shown,
    }
    write_report(given.json_file, content, name="training_kills")
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
