"""Time and memory of steps: contestants take turns, and the median of the rounds counts."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gopstream.jobs.bench.model_forms import Clips, Form, Workload, make_form

Precision = Literal["float32", "bfloat16"]

_MIB: Final = 2**20
_PEAK_IS_NOW: Final = "5"
"""What /proc/self/clear_refs takes for "forget the peak" (proc(5))."""


def train_step(model: nn.Module, clips: Clips, *, precision: Precision) -> Tensor:
    """Go forward and backward once; returns the loss."""
    model.zero_grad(set_to_none=True)
    with _casting(clips, precision):
        loss = cross_entropy(model(clips.frames), clips.labels)
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    return loss


@torch.inference_mode()
def infer(model: nn.Module, clips: Clips, *, precision: Precision) -> Tensor:
    """Return logits."""
    with _casting(clips, precision):
        logits: Tensor = model(clips.frames)
    return logits


def _casting(clips: Clips, precision: Precision) -> torch.autocast:
    enabled = precision == "bfloat16"
    return torch.autocast(clips.frames.device.type, dtype=torch.bfloat16, enabled=enabled)


def time_in_turns(
    steps: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device,
    calls: int = 1,
) -> dict[str, float]:
    """Return the median seconds of one call of each step.

    Args:
        steps: Each is called once before anything is timed; compilation is in that call.
        rounds: In each, every step has its turn; another one begins each time.
        device: Where the steps run.
        calls: In one turn, timed together.
    """
    names = list(steps)
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            _wait(device)
            start = time.perf_counter()
            for _ in range(calls):
                steps[name]()
            _wait(device)
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_of_train_step(workload: Workload, form: Form, *, batch: int) -> float:
    """Return what a step in float32 on the CPU takes at most, in MiB.

    A process of its own makes the model and the clips and forgets its peak; counted is what a
    step adds to what is resident then: activations, gradients and whatever is made between.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(peak_in_this_process, (workload, form, batch))


def peak_in_this_process(workload: Workload, form: Form, batch: int) -> float:
    """Do as `peak_of_train_step` in this process, whose earlier peak is forgotten."""
    model, clips = make_form(workload, form), workload.draw_clips(batch)
    Path("/proc/self/clear_refs").write_text(_PEAK_IS_NOW)
    before = _resident_mib("VmRSS")
    train_step(model, clips, precision="float32")
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kib) / 1024


def device_peak(
    step: Callable[[], object], *, model: nn.Module, device: torch.device
) -> float | None:
    """Return what a step on a GPU takes at most, weights included, in MiB; None elsewhere."""
    step()  # gradients are there, workspaces are made
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    others = torch.cuda.memory_allocated() - sum(
        tensor.numel() * tensor.element_size()
        for tensor in (
            *model.parameters(),
            *model.buffers(),
            *(each.grad for each in model.parameters() if each.grad is not None),
        )
    )
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - others) / _MIB
