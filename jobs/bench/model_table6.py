"""Table 6 of the PST paper: a shift along time, beside none and beside joint attention.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift", ECCV 2022:
latency of one clip, throughput of four, memory, on a V100. Absolute figures are another
machine's; the ratios between the networks are what can be compared.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from gopstream.jobs.bench.model_forms import Form, Workload, make_form
from gopstream.jobs.bench.model_steps import Precision, device_peak, infer, time_in_turns

LATENCY_BATCH: Final = 1
THROUGHPUT_BATCH: Final = 4
_CALLS: Final = 10
_CLASSES: Final = 174


class PaperRow(NamedTuple):
    """A row of Table 6."""

    memory_gb: float
    latency_ms: float
    clips_per_second: float


TABLE_6: Final[Mapping[str, PaperRow]] = {
    "swin2d_t": PaperRow(1.7, 29, 35.5),
    "video_swin_t": PaperRow(3.0, 62, 17.7),
    "pst_t": PaperRow(1.7, 31, 34.7),
    "swin2d_b": PaperRow(2.2, 71, 15.5),
    "video_swin_b": PaperRow(3.6, 147, 7.9),
    "pst_b_dagger": PaperRow(2.4, 81, 13.8),
}

COMPARED: Final = (
    ("pst_t", "swin2d_t"),
    ("video_swin_t", "pst_t"),
    ("pst_b_dagger", "swin2d_b"),
    ("video_swin_b", "pst_b_dagger"),
)
"""Pairs whose ratios the paper's figures give."""


def measure_table6(
    forms: tuple[Form, ...],
    *,
    device: torch.device,
    rounds: int,
    is_shrunk: bool,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    """Measure all six networks in bfloat16, in each form, in turns.

    Args:
        forms: Of each network.
        device: Memory is measured on CUDA only.
        rounds: As for `time_in_turns`.
        is_shrunk: Small networks: shows that everything runs.
        on_step: Called with what is being measured.
    """
    rows: list[dict[str, Any]] = []
    for form in forms:
        on_step(f"Table 6, {form}")
        models = {
            name: make_form(Workload(name, is_shrunk, _CLASSES), form).eval().to(device)
            for name in TABLE_6
        }
        rows += _measure_form(models, form, device=device, rounds=rounds, is_shrunk=is_shrunk)
    ratios = [
        ratio for form in forms for pair in COMPARED for ratio in _ratios(rows, form, pair=pair)
    ]
    return {
        "precision": "bfloat16",
        "latency_batch": LATENCY_BATCH,
        "throughput_batch": THROUGHPUT_BATCH,
        "rows": rows,
        "ratios": ratios,
    }


def _measure_form(
    models: Mapping[str, nn.Module],
    form: Form,
    *,
    device: torch.device,
    rounds: int,
    is_shrunk: bool,
) -> list[dict[str, Any]]:
    precision: Precision = "bfloat16"
    steps: dict[int, dict[str, Callable[[], object]]] = {}
    for batch in (LATENCY_BATCH, THROUGHPUT_BATCH):
        steps[batch] = {
            name: partial(
                infer,
                model,
                Workload(name, is_shrunk, _CLASSES).draw_clips(batch).to(device),
                precision=precision,
            )
            for name, model in models.items()
        }
    calls = _CALLS if device.type == "cuda" else 1
    seconds = {
        batch: time_in_turns(each, rounds=rounds, device=device, calls=calls)
        for batch, each in steps.items()
    }
    return [
        {
            "model": name,
            "form": form,
            "latency_ms": 1e3 * seconds[LATENCY_BATCH][name],
            "clips_per_second": THROUGHPUT_BATCH / seconds[THROUGHPUT_BATCH][name],
            "peak_mib": device_peak(steps[LATENCY_BATCH][name], model=model, device=device),
            "paper": TABLE_6[name]._asdict(),
        }
        for name, model in models.items()
    ]


def _ratios(rows: list[dict[str, Any]], form: Form, *, pair: tuple[str, str]) -> list[Any]:
    one, other = (
        next(row for row in rows if (row["model"], row["form"]) == (name, form)) for name in pair
    )
    papers = [TABLE_6[name] for name in pair]
    found = []
    for measure, field in (
        ("latency_ms", "latency_ms"),
        ("clips_per_second", "clips_per_second"),
        ("peak_mib", "memory_gb"),
    ):
        if one[measure] is not None:
            found.append(
                {
                    "form": form,
                    "of": pair[0],
                    "to": pair[1],
                    "figure": measure,
                    "ratio": one[measure] / other[measure],
                    "paper": getattr(papers[0], field) / getattr(papers[1], field),
                }
            )
    return found
