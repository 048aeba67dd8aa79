"""Measure a step of the models: time and memory, beside the same networks written the plain way.

On the CPU in float32, always. With a CUDA device also training steps in bfloat16, compiled and
not, and the six networks of the PST paper's Table 6.
"""

import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch

from gopstream.jobs.bench.model_forms import (
    Form,
    Workload,
    compare_forms,
    has_plain_form,
    make_form,
)
from gopstream.jobs.bench.model_steps import (
    Precision,
    device_peak,
    infer,
    peak_of_train_step,
    time_in_turns,
    train_step,
)
from gopstream.jobs.bench.model_summary import tables
from gopstream.jobs.bench.model_table6 import measure_table6
from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.jobs.errors import UserError
from gopstream.jobs.summaries import Summary, render
from gopstream.models import list_models
from gopstream.models.catalogue import MODELS

CPU_MODELS: Final = ("video_focalnet_t", "pst_t", "swin2d_t", "video_swin_t")
"""Measured on the CPU unless others are named."""
_CPU_BATCH: Final = 1
_CUDA_BATCH: Final = 4
_CUDA_CALLS: Final = 5
_CUDA: Final = torch.device("cuda")
_CPU: Final = torch.device("cpu")


def bench_model(
    names: Sequence[str], *, rounds: int, is_quick: bool, on_step: Callable[[str], None]
) -> Summary:
    """Measure models of the catalogue.

    Args:
        names: Models; empty for four on the CPU, and all that a paper has on a CUDA device.
        rounds: How often each form has its turn.
        is_quick: Small models: shows that everything runs, measures nothing.
        on_step: Called with what is being measured.

    Returns:
        Tables, and the figures. Its ``failures`` say which forms differ.

    Raises:
        UserError: If there is nothing to measure here.
    """
    on_cpu = [name for name in names or CPU_MODELS if has_plain_form(name)]
    if not on_cpu and not torch.cuda.is_available():
        raise UserError(
            f"{', '.join(names)}: not written the plain way, so only measured on a CUDA device, "
            f"and there is none; measured here are such as {', '.join(CPU_MODELS)}"
        )
    rows = []
    for name in on_cpu:
        on_step(f"{name} on the CPU")
        rows.append(measure_on_cpu(Workload(name, is_quick), rounds=rounds))
    content = {
        "command": " ".join(["gopstream bench model", *names, "--json FILE"]),
        "quick": is_quick,
        "rounds": rounds,
        "hardware": hardware()
        | {
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "cpu": {"precision": "float32", "batch": _CPU_BATCH, "models": rows},
        "cuda": _measure_on_cuda(names, rounds=rounds, is_quick=is_quick, on_step=on_step)
        if torch.cuda.is_available()
        else None,
    }
    content["failures"] = failures(content)
    return Summary(render(*tables(content)), content)


def measure_on_cpu(workload: Workload, *, rounds: int) -> dict[str, Any]:
    """Compare the two forms of a model, then measure them; returns a row.

    Forms that differ are not measured.
    """
    forms: tuple[Form, ...] = ("gopstream", "plain")
    models = {form: make_form(workload, form) for form in forms}
    clips = workload.draw_clips(_CPU_BATCH)
    agreement = compare_forms(tuple(models.values()), clips)
    row: dict[str, Any] = {
        "model": workload.name,
        "clip": [workload.num_frames, workload.size],
        "agreement": agreement._asdict(),
        "agrees": agreement.holds,
    }
    if not agreement.holds:
        return row
    precision: Precision = "float32"
    train, forward = (
        time_in_turns(
            {form: partial(step, models[form], clips, precision=precision) for form in forms},
            rounds=rounds,
            device=_CPU,
        )
        for step in (train_step, infer)
    )
    models.clear()
    peaks: dict[str, float] = {
        form: peak_of_train_step(workload, form, batch=_CPU_BATCH) for form in forms
    }
    figures: dict[str, dict[str, float]] = {
        "train_seconds": train,
        "infer_seconds": forward,
        "train_peak_mib": peaks,
    }
    row["forms"] = {
        form: {figure: values[form] for figure, values in figures.items()} for form in forms
    }
    row["plain_over_gopstream"] = {
        figure: values["plain"] / values["gopstream"] for figure, values in figures.items()
    }
    return row


def measure_training(
    workload: Workload, *, forms: Sequence[Form], rounds: int, device: torch.device
) -> dict[str, Any]:
    """Measure training steps of a model in bfloat16; a form that does not fit says so.

    Forms are compared in float32 before, on a single clip.
    """
    clips = workload.draw_clips(_CUDA_BATCH).to(device)
    steps: dict[str, Callable[[], object]] = {}
    row: dict[str, Any] = {
        "model": workload.name,
        "clip": [workload.num_frames, workload.size],
        "forms": {},
    }
    if "plain" in forms:
        pair = [make_form(workload, form).to(device) for form in ("gopstream", "plain")]
        agreement = compare_forms(pair, workload.draw_clips(1).to(device))
        row |= {"agreement": agreement._asdict(), "agrees": agreement.holds}
        del pair
    for form in forms:
        model = make_form(workload, form).to(device)
        step = partial(train_step, model, clips, precision="bfloat16")
        row["forms"][form] = {}
        try:
            peak = device_peak(step, model=model, device=device)
        except torch.OutOfMemoryError:
            row["forms"][form]["missing"] = "out of memory"
            continue
        row["forms"][form]["train_peak_mib"] = peak
        steps[form] = step
    if not steps:
        return row
    calls = _CUDA_CALLS if device.type == "cuda" else 1
    seconds = time_in_turns(steps, rounds=rounds, device=device, calls=calls)
    for measured, taken in seconds.items():
        row["forms"][measured] |= {
            "train_seconds": taken,
            "clips_per_second": _CUDA_BATCH / taken,
        }
    return row


def _measure_on_cuda(
    names: Sequence[str], *, rounds: int, is_quick: bool, on_step: Callable[[str], None]
) -> dict[str, Any]:
    rows = []
    # All that is timed is bfloat16; float32 is for comparing the forms.
    torch.backends.cudnn.allow_tf32 = False
    for name in names or [name for name in list_models() if MODELS[name].figures is not None]:
        on_step(f"{name} on the GPU")
        forms: tuple[Form, ...] = ("gopstream", "compiled")
        if has_plain_form(name):
            forms = (*forms, "plain")
        workload = Workload(name, is_quick)
        rows.append(measure_training(workload, forms=forms, rounds=rounds, device=_CUDA))
        torch.compiler.reset()
        torch.cuda.empty_cache()
    table6 = measure_table6(
        ("gopstream", "compiled", "plain"),
        device=_CUDA,
        rounds=rounds,
        is_shrunk=is_quick,
        on_step=on_step,
    )
    return {
        "training": {"precision": "bfloat16", "batch": _CUDA_BATCH, "models": rows},
        "table6": table6,
    }


def failures(content: dict[str, Any]) -> list[str]:
    """Name the models whose forms differ."""
    rows = [*content["cpu"]["models"]]
    if content["cuda"] is not None:
        rows += content["cuda"]["training"]["models"]
    return [
        f"{row['model']}: the plain form does something else: {row['agreement']}"
        for row in rows
        if not row.get("agrees", True)
    ]
