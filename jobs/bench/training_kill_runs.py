"""Run ``gopstream train`` as a user does, and see what its steps, checkpoints and logs are."""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from gopstream.jobs.bench.sharding_runs import SPLIT, Command
from gopstream.jobs.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from gopstream.jobs.training.run_folder import RECIPE_FILE
from gopstream.jobs.training.run_logs import LOG_NAME, read_log

BATCH_SIZE: Final = 4
CHECKPOINT_EVERY: Final = 7
_LOOK_SECONDS: Final = 0.002
_OVERRIDES: Final = (
    f"train.batch_size={BATCH_SIZE}",
    f"train.checkpoint_every={CHECKPOINT_EVERY}",
    f'train.split="{SPLIT}"',
    "train.accumulate=2",
    "train.ema=0.9",
    "train.log_every=1",
    "train.workers=2",
    "schedule.warmup_steps=3",
    "data.short_side=48",
    "clip.stride=1",
    "transform.flip=0.5",
    "mix.label_smoothing=0.1",
)
RANDOM: Final = (
    "model.options.head_dropout=0.2",
    "model.options.drop_path_rate=0.1",
    "mix.mixup=0.4",
)
"""What draws numbers in a step; of another number of processes it draws others."""
PLAIN: Final = (
    "model.options.head_dropout=0.0",
    "model.options.drop_path_rate=0.0",
    # The rates of AdamW make large differences of small gradients.
    'optimiser.name="sgd"',
    "train.learning_rate=0.05",
)
"""What leaves a step the same on any number of processes, but for rounding."""
PARTS: Final = ("loader", "model", "ema", "optimiser", "rng")
"""Of a checkpoint, each of which a run must take up again."""


class Row(NamedTuple):
    """A step as the log has it."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float


class Kind(NamedTuple):
    """What all starts of a run have in common."""

    root: Path
    """Of the dataset."""
    steps: int
    processes: int = 1
    options: Sequence[str] = RANDOM
    """Changes to the recipe, as section.key=value."""

    @property
    def overrides(self) -> list[str]:
        """All changes to the recipe."""
        return [*_OVERRIDES, f"train.steps={self.steps}", *self.options]


class Training:
    """One start of a run, with all of its processes."""

    def __init__(self, kind: Kind, out: Path) -> None:
        """Start it, or start it again with ``--resume`` if there is a run in the folder.

        Args:
            kind: What is trained.
            out: Folder of the run.
        """
        self._out = out
        self.first_step = checkpoint_step(out)
        """Steps of the checkpoint that it goes on from."""
        self._log_before = _log_stamp(out)
        words = ["train", "dvt_tiny_demo", *kind.overrides, "--no-tensorboard"]
        words += ["--data", str(kind.root), "--out", str(out)]
        if (out / RECIPE_FILE).exists():
            words.append("--resume")
        within = ["env", "CUDA_VISIBLE_DEVICES="]  # the proof is about CPUs
        if kind.processes > 1:
            within += [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            within += ["--nproc-per-node", str(kind.processes), "--no-python"]
        self.command = Command(words, temporary=out.with_name(f"{out.name}-tmp"), within=within)

    def num_steps(self) -> int:
        """Return the steps that were logged since this start."""
        if _log_stamp(self._out) == self._log_before:  # its rows are of before
            return 0
        rows = logged_steps(self._out)
        return max(0, rows[-1].step - self.first_step) if rows else 0

    def wait_for(self, num_steps: int) -> float:
        """Wait until so many steps were logged since this start, or it has ended.

        Returns:
            Seconds of a step, 0 if that is not known.
        """
        first, begun = 0, 0.0
        while not self.command.has_ended and (count := self.num_steps()) < num_steps:
            if count and not first:
                first, begun = count, time.monotonic()
            time.sleep(_LOOK_SECONDS)
        count = self.num_steps()
        return (time.monotonic() - begun) / (count - first) if 0 < first < count else 0.0

    def terminate(self, *, to_all: bool) -> int:
        """End it with SIGTERM; returns the exit code as a shell shows it.

        Args:
            to_all: Whether its whole group hears it, loader workers too, or the command alone.
        """
        if to_all:
            with suppress(ProcessLookupError):
                os.killpg(self.command.process.pid, signal.SIGTERM)
        else:
            self.command.process.terminate()
        return self.command.wait()

    def stragglers(self) -> list[str]:
        """Name the processes that have not ended with it."""
        return [f"process {pid} still runs" for pid in self.command.stragglers()]

    def finish(self) -> list[str]:
        """Wait for its end; returns what is wrong with it."""
        code = self.command.wait()
        found = [f"exit code {code}: {self.command.said[-2000:]}"] if code else []
        return found + self.stragglers()


def _log_stamp(out: Path) -> tuple[int, int, int]:
    """Return what changes when a log is cut, replaced or written to."""
    try:
        stat = (out / LOG_NAME).stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def checkpoint_step(out: Path) -> int:
    """Return the steps of a run's newest checkpoint, 0 without one."""
    return int(load_checkpoint(out)["step"]) if (out / CHECKPOINT_FILE).exists() else 0


def logged_steps(out: Path) -> list[Row]:
    """Return the steps of a run's log; a line that was not written to its end is left out."""
    path = out / LOG_NAME
    return [
        Row(row["step"], row["loss"], row["gradient_norm"], row["learning_rate"])
        for row in (read_log(path) if path.exists() else [])
        if row["kind"] == "train"
    ]


def wrong_steps(peace: Sequence[Row], rows: Sequence[Row], *, tolerance: float = 0.0) -> list[str]:
    """Return how the steps of a run differ from those of the run in peace.

    Args:
        peace: Of the run that nobody stopped.
        rows: Of the other, those that were taken again too.
        tolerance: Relative difference of losses and norms that is let pass; 0 compares all bits.
    """
    want = {row.step: row for row in peace}
    found = [
        f"step {row.step}: {row} instead of {want.get(row.step)}"
        for row in rows
        if row.step not in want or not _is_same(row, want[row.step], tolerance)
    ]
    missing = sorted(want.keys() - {row.step for row in rows})
    return found + [f"step {step} was not taken" for step in missing]


def _is_same(row: Row, other: Row, tolerance: float) -> bool:
    return all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(row, other, strict=True))


def wrong_parts(peace: Path, out: Path) -> list[str]:
    """Return where two checkpoints differ in a bit."""
    return list(_differences(load_checkpoint(peace), load_checkpoint(out), where=""))


def _differences(one: object, other: object, *, where: str) -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        for key in one:
            yield from _differences(one[key], other[key], where=f"{where}.{key}")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            yield f"checkpoint{where}: {len(other)} values instead of {len(one)}"
            return
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, where=f"{where}[{number}]")
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield f"checkpoint{where} differs"
    elif one != other:
        yield f"checkpoint{where}: {other!r} instead of {one!r}"


def checkpoint_at(out: Path, step: int) -> Path:
    """Return the checkpoint that a run keeps of a step."""
    return out / f"checkpoint-{step:08d}.pt"


def forget_part(peace: Path, out: Path, *, step: int, part: str) -> None:
    """Make a run that goes on at a step, from a checkpoint of which a part is not taken up.

    Args:
        peace: Folder of a finished run that keeps its checkpoint of the step.
        out: New folder of the run.
        step: At which it goes on.
        part: One of ``PARTS``; empty forgets nothing.
    """
    out.mkdir()
    shutil.copyfile(peace / RECIPE_FILE, out / RECIPE_FILE)
    lines = (peace / LOG_NAME).read_text().splitlines(keepends=True)
    (out / LOG_NAME).write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    content = load_checkpoint(checkpoint_at(peace, step))
    fresh = torch.Generator().manual_seed(0).get_state()
    instead = {
        "loader": content["loader"] | {"epoch": 0, "position": 0},
        "model": content["ema"],
        "ema": content["model"],
        "optimiser": content["optimiser"] | {"state": {}},
        "rng": [fresh] * len(content["rng"]),
    }
    if part:
        content[part] = instead[part]
    save_checkpoint(out / CHECKPOINT_FILE, content)
