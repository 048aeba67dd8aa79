"""What a run writes of its numbers: JSON lines always, TensorBoard and W&B if they are asked for.

``log.jsonl`` is the record; the others show the same rows. A run that continues cuts what was
written after its checkpoint, so that each step is there once.
"""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gopstream.jobs.errors import UserError
from gopstream.shards.layout import write_atomic

LOG_NAME: Final = "log.jsonl"
Row = Mapping[str, float | int | str]

_KINDS: Final = ("train", "validation")
# Where a number is shown that is not simply of its row's kind.
_GROUPS: Final = {
    "clips_per_second": "speed",
    "step_seconds": "speed",
    "data_wait": "speed",
    "gpu_memory_gib": "speed",
    "learning_rate": "optimiser",
    "gradient_norm": "optimiser",
    "epoch": "optimiser",
}


class RunLogs:
    """Writes rows wherever a run's numbers go; made by :func:`open_logs`.

    A row has a ``kind``, "train" or "validation", a ``step`` and any numbers.
    """

    def __init__(
        self, writers: list[Callable[[Row], None]], closing: ExitStack, *, kept: list[Row]
    ) -> None:
        """Take over what was opened.

        Args:
            writers: Each writes a row at one place; none writes nothing.
            closing: Closes them.
            kept: Rows from before the run was continued.
        """
        self._writers = writers
        self._closing = closing
        self._validations = [row for row in kept if row.get("kind") == "validation"]

    def __enter__(self) -> Self:
        """Return the logs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what is open; also after an error all rows are there."""
        self._closing.__exit__(kind, error, traceback)

    def has_validation(self, step: int) -> bool:
        """Tell whether the run was validated after a step, on all ranks alike."""
        return any(row["step"] == step for row in self._validations)

    def best(self, name: str) -> float:
        """Return the greatest of a number over all validations; minus infinity before any."""
        numbers = [float(row[name]) for row in self._validations if name in row]
        return max(numbers, default=-math.inf)

    def write(self, row: Row) -> None:
        """Write a row.

        Raises:
            ValueError: If it has no step, or a kind that is none.
        """
        if row.get("kind") not in _KINDS or not isinstance(row.get("step"), int):
            raise ValueError(f"a row needs a step and a kind, one of {', '.join(_KINDS)}: {row!r}")
        if row["kind"] == "validation":
            self._validations.append(row)
        for write in self._writers:
            write(row)


def open_logs(
    out: Path,
    *,
    tensorboard: bool,
    wandb: str | None,
    name: str,
    resumed_step: int | None,
    settings: Mapping[str, Any],
    active: bool = True,
) -> RunLogs:
    """Open what a run writes its numbers to.

    Args:
        out: Folder of the run, which exists.
        tensorboard: Whether to write event files to ``out/tensorboard``.
        wandb: Project of Weights & Biases; None writes nothing there.
        name: Of the run, as W&B shows it.
        resumed_step: Step of the checkpoint that the run continues; what was logged after it is
            cut. None for a run that begins.
        settings: Of the run, as W&B shows them.
        active: False on ranks but the first, which write nothing; they look at what was logged.

    Raises:
        UserError: If a package is missing, or the log that is continued is none.
    """
    path = out / LOG_NAME
    kept: list[Row] = []
    if resumed_step is not None and path.exists():
        kept = [row for row in read_log(path) if row["step"] <= resumed_step]
    closing, writers = ExitStack(), []
    if active:
        with ExitStack() as opened:
            writers.append(_json_lines(path, kept, opened))
            if tensorboard:
                writers.append(_tensorboard(out, resumed_step, opened))
            if wandb is not None:
                run = {"project": wandb, "name": name, "config": dict(settings)}
                writers.append(_wandb(out, run, resumed_step, closing=opened))
            closing = opened.pop_all()
    return RunLogs(writers, closing, kept=kept)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's ``log.jsonl``, without a last line that was not written whole.

    Raises:
        UserError: If there is no such file, or a line of it is no row.
    """
    if not path.is_file():
        raise UserError(f"{path}: expected the log of a run, there is no such file")
    rows = []
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # behind the last newline: nothing, or torn
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(f"{path}: line {number} is no row with a step")
        rows.append(row)
    return rows


def tag_of(name: str, *, kind: str) -> str:
    """Return where TensorBoard and W&B show a number, such as ``train/loss``."""
    return f"{_GROUPS.get(name, kind)}/{name}"


def _numbers(row: Row) -> dict[str, float]:
    return {
        tag_of(name, kind=str(row["kind"])): value
        for name, value in row.items()
        if name != "step" and not isinstance(value, str)
    }


def _json_lines(path: Path, kept: list[Row], closing: ExitStack) -> Callable[[Row], None]:
    write_atomic(path, "".join(map(_line, kept)).encode())
    log = closing.enter_context(path.open("a"))

    def write(row: Row) -> None:
        log.write(_line(row))
        log.flush()

    return write


def _line(row: Row) -> str:
    return json.dumps(dict(row)) + "\n"


def _tensorboard(out: Path, resumed_step: int | None, closing: ExitStack) -> Callable[[Row], None]:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"TensorBoard cannot be written ({error}); pip install 'gopstream[train]'"
        ) from error
    # What a run that is continued wrote from this step on is not shown.
    purge_step = None if resumed_step is None else resumed_step + 1
    events = SummaryWriter(str(out / "tensorboard"), purge_step=purge_step)
    closing.callback(events.close)

    def write(row: Row) -> None:
        for tag, value in _numbers(row).items():
            events.add_scalar(tag, value, row["step"])
        events.flush()

    return write


def _wandb(
    out: Path, run: Mapping[str, Any], resumed_step: int | None, *, closing: ExitStack
) -> Callable[[Row], None]:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "expected the package wandb to log to Weights & Biases, it is not there; "
            "pip install 'gopstream[wandb]', or leave the project out"
        ) from error
    known = out / "wandb.json"
    run_id = None
    if resumed_step is not None and known.exists():
        run_id = json.loads(known.read_text())["id"]
    shown = wandb.init(
        project=run["project"],
        name=run["name"],
        config=run["config"],
        id=run_id,
        resume=None if run_id is None else "allow",
        dir=str(out),
    )
    closing.callback(shown.finish)
    known.write_text(json.dumps({"id": shown.id, "project": run["project"]}) + "\n")
    # Its own count of steps cannot go back, and a run that continues does.
    shown.define_metric("step")
    shown.define_metric("*", step_metric="step")

    def write(row: Row) -> None:
        shown.log({**_numbers(row), "step": row["step"]})

    return write
