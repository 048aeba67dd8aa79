"""Measure training steps of the catalogue's models on a GPU, each in a process of its own."""

import json
import multiprocessing
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from rich.table import Table

from gopstream.jobs.bench.model_forms import Workload
from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.jobs.bench.training_steps import (
    FORMS,
    OUT_OF_MEMORY,
    TrainingPlan,
    compile_backend,
    measure_steps,
    precision_on,
)
from gopstream.jobs.errors import UserError
from gopstream.jobs.summaries import Summary, render
from gopstream.models import list_models
from gopstream.models.catalogue import MODELS
from gopstream.models.cost import measure_model

_NUM_CLASSES: Final = 400
_GIB: Final = 2**30
_COUNTING: Final = (
    "matmul_share is 6 operations for each multiply-add of the forward pass (2, and twice as many "
    "backward) x clips/s / the rate of one large matrix product in the same process; norms, "
    "activations and the optimiser count as nothing"
)


class TrainingBench(NamedTuple):
    """How steps are measured."""

    batch: int | None
    """Clips of a step; None takes the largest power of two that fits."""
    rounds: int
    is_quick: bool
    minutes_each: float
    """After which the process of a model is ended."""


def bench_training(
    names: Sequence[str],
    *,
    bench: TrainingBench,
    earlier: Mapping[str, Any] | None,
    on_step: Callable[[str], None],
    on_model: Callable[[dict[str, Any]], None],
) -> Summary:
    """Measure models of the catalogue in training, small ones first.

    Args:
        names: Models; empty for all that a paper has.
        bench: How.
        earlier: Content of an earlier run that this one completes: what is whole there stays.
        on_step: Called with what is being measured.
        on_model: Called with the content so far after each model, so that a run that is cut off
            leaves what it has done.

    Returns:
        A table, and the figures. Its ``failures`` say what could not be measured, and why.

    Raises:
        UserError: If there is no CUDA device and the run is not quick, or `earlier` is of another
            machine.
    """
    if not bench.is_quick and not torch.cuda.is_available():
        raise UserError(
            "--train measures on a CUDA device, and there is none; --quick shows on the CPU that "
            "everything runs"
        )
    content = _facts(names, bench)
    rows = _rows_to_keep(earlier, content)
    chosen = names or [name for name in list_models() if MODELS[name].figures is not None]
    content["models"] = list(rows.values())
    for name in sorted((name for name in chosen if name not in rows), key=_gmacs):
        on_step(f"{name}: training steps, {bench.minutes_each:g} minutes at most")
        content["models"].append(_measure_apart(_plan(name, bench), minutes=bench.minutes_each))
        content["failures"] = list(_failures(content["models"]))
        on_model(content)
    return Summary(render(*_parts(content)), content)


def earlier_content(json_file: str | None) -> dict[str, Any] | None:
    """Read what an earlier run has left in the file of ``--json``; None if there is none yet.

    Raises:
        UserError: If no file is named, or it holds something else.
    """
    if json_file is None or json_file == "-":
        raise UserError("--resume completes the file of an earlier run: give it by --json FILE")
    path = Path(json_file)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        assert isinstance(content, dict)
        if {"quick", "rounds", "versions", "hardware", "models"} <= content.keys():
            return content
    except (ValueError, AssertionError):
        pass
    raise UserError(f"{path} is not the result of an earlier --train; give another file")


def _plan(name: str, bench: TrainingBench) -> TrainingPlan:
    figures = MODELS[name].figures
    num_classes = _NUM_CLASSES if figures is None else figures.num_classes
    return TrainingPlan(Workload(name, bench.is_quick, num_classes), bench.batch, bench.rounds)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _facts(names: Sequence[str], bench: TrainingBench) -> dict[str, Any]:
    device = _device()
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    words = ["gopstream bench model --train", *names, *(["--quick"] if bench.is_quick else [])]
    return {
        "command": " ".join([*words, "--json FILE"]),
        "quick": bench.is_quick,
        "rounds": bench.rounds,
        "minutes_each": bench.minutes_each,
        "precision": precision_on(device),
        "compile_backend": compile_backend(device),
        "counting": _COUNTING,
        "hardware": hardware()
        | {
            "gpu": gpu.name if gpu else None,
            "gpu_memory_gib": round(gpu.total_memory / _GIB, 1) if gpu else None,
        },
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        },
        "models": [],
        "failures": [],
    }


def _rows_to_keep(
    earlier: Mapping[str, Any] | None, content: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the rows of an earlier run of the same kind in which nothing failed."""
    if earlier is None:
        return {}
    then, now = (
        {key: each[key] for key in ("quick", "rounds", "versions")}
        | {"gpu": each["hardware"]["gpu"]}
        for each in (earlier, content)
    )
    if then != now:
        raise UserError(
            f"--resume: the earlier run was of {then}, this one is of {now}; give another --json "
            "file"
        )
    return {row["model"]: row for row in earlier["models"] if not list(_failures([row]))}


def _gmacs(name: str) -> float:
    """Return about what a model costs: as a paper has it, or counted."""
    figures = MODELS[name].figures
    if figures is None or figures.gmacs is None:
        return measure_model(name, num_classes=_NUM_CLASSES).gmacs
    return figures.official_gmacs or figures.gmacs


def _measure_apart(plan: TrainingPlan, *, minutes: float) -> dict[str, Any]:
    """Measure a model in a process of its own; what it has not done in time is missing."""
    with tempfile.TemporaryDirectory(prefix="gopstream-bench-") as folder:
        path = Path(folder) / "row.json"
        process = multiprocessing.get_context("spawn").Process(
            target=_measure_into, args=(plan, path)
        )
        process.start()
        try:
            process.join(60 * minutes)
            is_late = process.is_alive()
        finally:
            process.kill()
            process.join()
        row: dict[str, Any] = {"model": plan.workload.name, "forms": {}}
        if path.exists():
            row = json.loads(path.read_text())
    ended = f"not done in {minutes:g} minutes" if is_late else f"ended with {process.exitcode}"
    for form in FORMS:
        row["forms"].setdefault(form, {"missing": ended})
    return row


def _measure_into(plan: TrainingPlan, path: Path) -> None:
    """Do as `measure_steps`, and write the row after each form."""

    def write(row: dict[str, Any]) -> None:
        partial_file = path.with_suffix(".partial")
        partial_file.write_text(json.dumps(row))
        partial_file.replace(path)

    measure_steps(plan, device=_device(), on_form=write)


def _failures(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Name what was not measured; a form that has no room on the device is a result."""
    for row in rows:
        for form, figures in row["forms"].items():
            if figures.get("missing", OUT_OF_MEMORY) != OUT_OF_MEMORY:
                yield f"{row['model']}, {form}: {figures['missing']}"


def _parts(content: Mapping[str, Any]) -> list[Table | str]:
    """Return what a person reads."""
    machine = content["hardware"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores, no CUDA device"
    parts: list[Table | str] = [
        f"{where}; torch {content['versions']['torch']}; {content['precision']}, compiled by "
        f"{content['compile_backend']}; medians of {content['rounds']} rounds"
    ]
    if content["quick"]:
        parts.append("a quick run shows that everything runs; its figures mean nothing")
    table = Table(
        *("model", "clip", "batch", "form", "ms a step", "clips/s", "peak GiB", "TFLOP/s"),
        "of matmul",
    )
    for row in content["models"]:
        clip = " x ".join(map(str, row.get("clip", [])))
        for form in FORMS:
            start = (row["model"], clip, str(row.get("batch", "")), form)
            table.add_row(*start, *_cells(row["forms"][form]))
    return [*parts, table, _COUNTING, *content["failures"]]


def _cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    if "missing" in figures:
        return (figures["missing"],)
    peak = figures["peak_gib"]
    return (
        f"{1e3 * figures['step_seconds']:.1f}",
        f"{figures['clips_per_second']:.1f}",
        "" if peak is None else f"{peak:.1f}",
        f"{figures['tflops']:.1f}",
        f"{figures['matmul_share']:.1%}",
    )
