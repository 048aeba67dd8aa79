"""What the checks of fused kernels share: errors against float64, time, memory, and the floor.

Where there is no GPU the kernels run in Triton's interpreter: errors are then real, and nothing
is timed.
"""

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from gopstream.jobs.bench.model_steps import time_in_turns
from gopstream.jobs.bench.sharding_runs import hardware

Operation = Callable[[Sequence[Tensor]], Tensor]
"""Takes the tensors of a case; returns the result."""
DtypeName = Literal["float32", "bfloat16"]

TOLERANCES: Final[Mapping[DtypeName, float]] = {"float32": 1e-3, "bfloat16": 1e-2}
"""Of the largest value, for a result and for a gradient."""
_CALLS: Final = 10
_COPIED_BYTES: Final = 2**30
_MIB: Final = 2**20


class CheckArguments(NamedTuple):
    """What a check is called with."""

    json_file: Path
    device: torch.device
    rounds: int


class KernelCase(NamedTuple):
    """An operation on tensors of one shape, in several forms."""

    name: str
    shape: Mapping[str, object]
    """What the report says of it."""
    tensors: tuple[Tensor, ...]
    """On the CPU in float64; the gradient of each is made."""
    forms: Mapping[str, Operation]
    """By name; the form "fused" is what is checked."""
    exact: Operation
    """A form to run in float64."""


def parse_arguments(name: str, description: str) -> CheckArguments:
    """Read ``--json FILE [--device cuda|cpu] [--rounds N]`` from the command line.

    For the CPU the program is started anew, with kernels interpreted.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m gopstream.jobs.bench.{name}", description=description
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts")
    parsed = parser.parse_args()
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu checks the kernels in the interpreter")
    if parsed.device == "cpu":
        interpret_kernels()
    return CheckArguments(parsed.json_file, torch.device(parsed.device), parsed.rounds)


def interpret_kernels() -> None:
    """Start this program anew with kernels interpreted, unless they are already.

    Triton decides it from its environment when it is imported, which torch may have done.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        os.environ["TRITON_INTERPRET"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def check_case(case: KernelCase, *, device: torch.device) -> list[dict[str, Any]]:
    """Return a row for each dtype: each form's largest errors, of the largest value.

    Inputs are rounded to the dtype first, so that the errors are those of the form alone.
    """
    rows = []
    for dtype, tolerance in TOLERANCES.items():
        stored = getattr(torch, dtype)
        tensors = [tensor.to(device, stored) for tensor in case.tensors]
        exact = _differentiate(case.exact, [tensor.double() for tensor in tensors], stored)
        errors = {
            form: [
                _distance(one, other)
                for one, other in zip(_differentiate(run, tensors, stored), exact, strict=True)
            ]
            for form, run in case.forms.items()
        }
        rows.append(
            {
                "case": case.name,
                **case.shape,
                "dtype": dtype,
                "tolerance": tolerance,
                "forward_error": {form: found[0] for form, found in errors.items()},
                "backward_error": {form: max(found[1:]) for form, found in errors.items()},
                # Not "<": a NaN is no success.
                "holds": all(error <= tolerance for error in errors["fused"]),
            }
        )
    return rows


def measure_case(
    case: KernelCase, *, dtype: DtypeName, device: torch.device, rounds: int, bandwidth: float
) -> dict[str, Any]:
    """Time every form, and take its memory on a GPU.

    The floor is the time to read each input and to write each output once: of the result, and
    of the result's gradient and all gradients on the way back.

    Args:
        case: Of a real size.
        dtype: What is stored.
        device: Where it runs.
        rounds: How often each form has its turn.
        bandwidth: Bytes a second, read and written, of `copy_bandwidth`.

    Returns:
        A row.
    """
    stored = getattr(torch, dtype)
    tensors = [tensor.to(device, stored) for tensor in case.tensors]
    result_bytes = case.exact(tensors).nbytes
    input_bytes = sum(tensor.nbytes for tensor in tensors)
    steps: dict[str, Mapping[str, Callable[[], object]]] = {
        "forward": {form: partial(run, tensors) for form, run in case.forms.items()},
        "both_ways": {
            form: partial(_differentiate, run, tensors, stored) for form, run in case.forms.items()
        },
    }
    moved = {
        "forward": input_bytes + result_bytes,
        "both_ways": 3 * input_bytes + 2 * result_bytes,
    }
    row: dict[str, Any] = {"case": case.name, **case.shape, "dtype": dtype}
    for way, of_forms in steps.items():
        seconds = time_in_turns(of_forms, rounds=rounds, device=device, calls=_CALLS)
        floor = moved[way] / bandwidth
        row[way] = {
            "floor_ms": floor * 1e3,
            "ms": {form: taken * 1e3 for form, taken in seconds.items()},
            "over_floor": {form: taken / floor for form, taken in seconds.items()},
            "peak_mib": {form: _peak_mib(step, device) for form, step in of_forms.items()},
        }
    return row


def copy_bandwidth(device: torch.device, *, rounds: int) -> float:
    """Return bytes a second, read and written, of a copy of a gigabyte."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = time_in_turns(
        {"copy": lambda: target.copy_(source)}, rounds=rounds, device=device, calls=_CALLS
    )
    return 2 * _COPIED_BYTES / seconds["copy"]


def write_check(
    path: Path,
    *,
    name: str,
    arguments: CheckArguments,
    errors: Sequence[Mapping[str, Any]],
    speed: Sequence[Mapping[str, Any]],
    bandwidth: float | None,
) -> int:
    """Write the result as JSON and print what fails; returns the exit status."""
    import triton

    is_gpu = arguments.device.type == "cuda"
    content = {
        "command": f"python -m gopstream.jobs.bench.{name} --device {arguments.device.type} "
        f"--rounds {arguments.rounds} --json FILE",
        "hardware": hardware() | {"gpu": torch.cuda.get_device_name() if is_gpu else None},
        "versions": {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
        },
        "kernels": "compiled" if is_gpu else "interpreted on the CPU",
        "copy_gb_per_second": None if bandwidth is None else bandwidth / 1e9,
        "errors": list(errors),
        "speed": list(speed),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    failed = [row for row in errors if not row["holds"]]
    for row in failed:
        print(f"FAIL {row['case']} in {row['dtype']}: {row['forward_error']} forwards, "
              f"{row['backward_error']} backwards")  # fmt: skip
    print(f"{len(errors) - len(failed)} of {len(errors)} within tolerance")
    return int(bool(failed))


def _differentiate(run: Operation, tensors: Sequence[Tensor], stored: torch.dtype) -> list[Tensor]:
    """Return the result and the gradients of its product with fixed numbers of a dtype."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    result = run(leaves)
    numbers = torch.linspace(-1, 1, result.numel(), device=result.device, dtype=torch.float64)
    above = (37 * numbers).sin().view(result.shape).to(stored).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, above)]


def _distance(found: Tensor, exact: Tensor) -> float:
    difference = float((found.double() - exact.double()).abs().max())
    largest = float(exact.abs().max())
    if difference == 0:
        return 0.0  # nothing but zeros, perhaps: every tap may lie outside
    return difference / largest if largest else math.inf


def _peak_mib(step: Callable[[], object], device: torch.device) -> float | None:
    """Return what a step on a GPU takes at most beyond what is held before; None elsewhere."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / _MIB
