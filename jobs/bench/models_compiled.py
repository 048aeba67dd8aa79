"""Compile a model of each family with Inductor, and compare it with itself run op by op.

The models are made small by options of the catalogue, since compiling takes minutes. Each runs
forwards and backwards as one graph on clips of two shapes, of which the compiler has seen none
before: the second makes it compile anew, with sizes left open.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gopstream.jobs.bench.model_forms import Workload, make_form
from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.models.catalogue import MODELS

TRIED: Final[Mapping[str, str]] = {
    "dvt": "dvt_tiny",
    "video_focalnet": "video_focalnet_t",
    "pst": "pst_t",
    "deit": "deit_s_tps",
    "sifa": "sifa_net_r50",
    "mvit": "mvit_b",
}
"""A model of each family."""
ANY_SIZE: Final = frozenset({"video_focalnet", "pst"})
"""Families whose models take frames of any size."""
TOLERANCE: Final = 1e-4
"""Of the largest value, in float32: a compiled graph adds up in another order."""
BACKEND: Final = "inductor"
_NUM_CLASSES: Final = 5


class Difference(NamedTuple):
    """How far two runs are apart, relative to the largest value."""

    clips: tuple[int, ...]
    """Shape of the frames."""
    logits: float
    gradients: float
    """Of the sum of squared logits by all parameters."""
    compile_seconds: float
    """Of the first run forwards and backwards, most of it compilation."""


def try_model(name: str, *, backend: str = BACKEND) -> dict[str, Any]:
    """Compile a model as one graph and compare it on clips of two shapes; returns a row."""
    workload = Workload(name, is_shrunk=True, num_classes=_NUM_CLASSES)
    model = make_form(workload, "gopstream").eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    larger = 12 if workload.entry.family in ANY_SIZE else 0
    differences = [
        compare(model, compiled, inputs=_draw_inputs(workload, batch=batch, larger=pixels))
        for batch, pixels in ((2, 0), (3, larger))
    ]
    torch.compiler.reset()
    return {
        "model": name,
        "family": workload.entry.family,
        "backend": backend,
        "clips": [difference._asdict() for difference in differences],
        "max_difference": max(max(each.logits, each.gradients) for each in differences),
    }


def _draw_inputs(workload: Workload, *, batch: int, larger: int) -> dict[str, Tensor]:
    """Draw what `forward` takes, by keyword; `larger` adds pixels to the height, half to width."""
    contract = workload.entry.contract
    size, num_frames = workload.size, workload.num_frames
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, 3, num_frames, size + larger, size + larger // 2)
    inputs = {"frames": torch.randn(shape, generator=generator)}
    if contract.query_stride is not None and contract.subclip_frames is not None:
        pairs = (num_frames // contract.query_stride, 2, contract.subclip_frames)
        motion = torch.randn((batch, *pairs, size // 8, size // 8), generator=generator)
        inputs["motion"] = 3 * motion
    return inputs


def compare(
    model: nn.Module, compiled: Callable[..., Tensor], *, inputs: Mapping[str, Tensor]
) -> Difference:
    """Run a model in two ways, forwards and backwards, on inputs of `forward` by keyword."""
    # The compiled one first: what the product keeps by size must not be there before.
    start = time.perf_counter()
    found = _run(compiled, model, inputs=inputs)
    seconds = time.perf_counter() - start
    wanted = _run(model, model, inputs=inputs)
    return Difference(
        tuple(inputs["frames"].shape),
        logits=_apart(found[:1], wanted[:1]),
        gradients=_apart(found[1:], wanted[1:]),
        compile_seconds=round(seconds, 1),
    )


def _run(
    function: Callable[..., Tensor], model: nn.Module, *, inputs: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return the logits, and the gradient of each parameter that has a part in them."""
    logits = function(**inputs)
    gradients = torch.autograd.grad(
        logits.square().sum(), list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    return [logits.detach(), *gradients]


def _apart(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    largest = max(tensor.abs().max() for tensor in wanted)
    apart = [(one - other).abs().max() for one, other in zip(found, wanted, strict=True)]
    # Not max(): it would drop what is no number.
    return float(torch.stack(apart).max() / largest)


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Name what of the claim does not hold."""
    tried = {row["family"] for row in rows}
    found = [
        f"no model of the family {family} was tried: name one in TRIED"
        for family in sorted({entry.family for entry in MODELS.values()} - tried)
    ]
    # A difference that is no number is not within the tolerance either.
    found += [
        f"{row['model']}: {row['max_difference']:.1e} apart"
        for row in rows
        if not row["max_difference"] <= TOLERANCE
    ]
    return found


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("model", "clips", "logits apart", "gradients apart", "first run, s")
    for row in rows:
        for clips in row["clips"]:
            shape = " x ".join(map(str, clips["clips"]))
            apart = (f"{clips[key]:.1e}" for key in ("logits", "gradients"))
            table.add_row(row["model"], shape, *apart, f"{clips['compile_seconds']:.0f}")
    return table


def main() -> int:
    """Compile, compare and report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.models_compiled",
        description="Models compiled with Inductor give what they give without.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    given = parser.parse_args()
    rows = []
    for name in TRIED.values():
        Console(stderr=True).print(f"compiling {name}: minutes", markup=False)
        rows.append(try_model(name))
    found = failures(rows)
    content = {
        "command": "python -m gopstream.jobs.bench.models_compiled --json FILE",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": hardware(),
        "claim": "compiled as one graph, a small model of each family gives the logits and "
        f"gradients that it gives without, to {TOLERANCE:g} of the largest (float32, CPU), on "
        "clips of two shapes",
        "holds": not found,
        "failures": found,
        "models": rows,
    }
    given.json_file.parent.mkdir(parents=True, exist_ok=True)
    given.json_file.write_text(json.dumps(content, indent=2) + "\n")
    Console(width=120).print(_table(rows))
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
