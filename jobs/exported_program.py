"""A network as torch.export has it: traced, written, read again and held against the network."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError
from gopstream.jobs.labels import LabelSet
from gopstream.jobs.network import network_inputs
from gopstream.models.catalogue_entry import InputContract
from gopstream.shards.loading.batch import BatchFacts, make_batch
from gopstream.shards.loading.clip_reader import clip_arrays
from gopstream.shards.loading.clip_spec import ClipSpec

TOLERANCE: Final = 1e-5
"""Of a program's outputs, as a share of the network's largest."""

_SEED: Final = 0
_TRACED_BATCH: Final = 2
"""Clips that a program is made with; one clip would make it a program for one clip."""
_OTHER_BATCHES: Final = (1, 3)
"""Clips that it is tried with besides, if it takes any number."""
_MOTION_PIXELS: Final = 4.0
"""Standard deviation of drawn motion."""


class Drawn(NamedTuple):
    """Clips of random content, as a network is given them."""

    frames: Tensor
    """(B, 3, T, H, W) float32, normalised."""
    inputs: dict[str, Tensor]
    """The rest, by keyword."""


Draw = Callable[[int], Drawn]
"""Draws so many clips."""


class Program(NamedTuple):
    """A network as torch.export has it."""

    exported: torch.export.ExportedProgram
    any_batch: bool
    """Whether it takes any number of clips; else one."""


def draw_clips(
    network: nn.Module, spec: ClipSpec, *, contract: InputContract, num_clips: int
) -> Drawn:
    """Draw clips and prepare them as those of a dataset are.

    Args:
        network: On the CPU.
        spec: What a clip holds.
        contract: What the network takes.
        num_clips: B.
    """
    motion = None if spec.motion is None else replace(spec.motion, on="worker")
    arrays = clip_arrays(replace(spec, motion=motion, frames_on="worker"))
    generator = torch.Generator().manual_seed(_SEED)
    tensors = {}
    for name, (shape, kind) in arrays.items():
        values = torch.randn((num_clips, *shape), generator=generator)
        if np.dtype(kind) == np.uint8:
            tensors[name] = (128 + 48 * values).clamp(0, 255).to(torch.uint8)
        elif np.dtype(kind) == np.bool_:
            tensors[name] = values > -1.0
        else:
            tensors[name] = (_MOTION_PIXELS * values).to(torch.from_numpy(np.empty(0, kind)).dtype)
    facts = BatchFacts(
        keys=[""] * num_clips,
        labels=[0] * num_clips,
        positions=list(range(num_clips)),
        is_repeat=[False] * num_clips,
        skipped=(),
    )
    return Drawn(*network_inputs(network, make_batch(facts, tensors), contract=contract))


def check_outputs(network: nn.Module, drawn: Drawn, *, sets: Sequence[LabelSet]) -> None:
    """Refuse a network that does not give one finite row of logits for each clip.

    Raises:
        UserError: Saying what it gives.
    """
    with torch.no_grad():
        logits = network(drawn.frames, **drawn.inputs)
    shape = (len(drawn.frames), sum(len(labels.classes) for labels in sets))
    if not isinstance(logits, Tensor) or tuple(logits.shape) != shape:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"the network must give logits of shape (clips, classes) = {shape} in evaluation "
            f"mode, got {got}"
        )
    if not logits.isfinite().all():
        raise UserError(
            "the network's outputs are not finite on a drawn clip: its training diverged; export "
            "an earlier checkpoint"
        )


def make_program(network: nn.Module, draw: Draw, *, name: str) -> Program:
    """Trace a network, for any number of clips if it allows that.

    Args:
        network: On the CPU, in evaluation mode.
        draw: Draws clips for it.
        name: What to call it.

    Raises:
        UserError: If it cannot be traced.
    """
    say(f"tracing {name}")
    drawn = draw(_TRACED_BATCH)
    try:
        return Program(_trace(network, drawn, any_batch=True), any_batch=True)
    except Exception as error:  # torch raises a dozen kinds, its own and those of the network
        say(
            "warning: the network cannot be traced for any number of clips "
            f"({_first_line(error)}); the program takes one clip at a time"
        )
    try:
        return Program(_trace(network, draw(1), any_batch=False), any_batch=False)
    except Exception as error:
        raise UserError(
            f"{name} cannot be traced by torch.export ({_first_line(error)}); --format "
            "safetensors writes its weights alone"
        ) from error


def write_program(
    path: Path, program: Program, network: nn.Module, *, draw: Draw
) -> dict[str, Any]:
    """Write a program, read it again and hold it against the network.

    Returns:
        What ``model.json`` says of it.

    Raises:
        UserError: If it says something else than the network.
    """
    say("writing the program")
    with path.open("wb") as file:
        torch.export.save(program.exported, file)
    say("reading it again and comparing it with the network")
    with path.open("rb") as file:
        loaded = torch.export.load(file).module()
    tried = [draw(batch) for batch in (_OTHER_BATCHES if program.any_batch else (1,))]
    tried.append(tried[0]._replace(frames=tried[0].frames.contiguous()))
    shares = [_difference(loaded, network, drawn) for drawn in tried]
    if not all(share <= TOLERANCE for share in shares):
        raise UserError(
            f"the exported program differs from the network by {max(shares):.1e} of its largest "
            f"output, more than {TOLERANCE:g}; --format safetensors writes the weights alone"
        )
    return {"clips": "any" if program.any_batch else 1, "largest_difference": max(shares)}


def _trace(network: nn.Module, drawn: Drawn, *, any_batch: bool) -> torch.export.ExportedProgram:
    # A program may insist on the memory order that it was traced with: that of a new tensor. A
    # loader's frames, which it is tried with, have their channels last.
    drawn = drawn._replace(frames=drawn.frames.contiguous())
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]  # torch has no types
    if any_batch:
        clips = torch.export.Dim("clips", min=1)
        for tensor in (drawn.frames, *drawn.inputs.values()):
            shapes[tensor] = {0: clips}
    with torch.no_grad():
        exported = torch.export.export(
            network,
            (drawn.frames,),
            dict(drawn.inputs),
            dynamic_shapes=shapes if any_batch else None,
        )
    # They name the folders of this machine.
    for module in exported.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    exported.example_inputs = None
    return exported


def _difference(program: nn.Module, network: nn.Module, drawn: Drawn) -> float:
    """Return the largest difference of outputs as a share of the network's largest output."""
    with torch.no_grad():
        wanted = network(drawn.frames, **drawn.inputs)
        got = program(drawn.frames, **drawn.inputs)
    largest = float(wanted.abs().max())
    difference = float((got - wanted).abs().max())
    return difference / max(largest, torch.finfo(wanted.dtype).tiny)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
