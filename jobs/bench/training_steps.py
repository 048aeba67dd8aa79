"""A whole training step of a model, op by op and compiled: time, memory, share of the limit.

A step is what ``gopstream train`` takes: clips are normalised, the network goes forward and
backward, gradients are clipped and the optimiser of the model's recipe changes the weights. Clips
are random and lie on the device already, nothing is mixed: what loading costs is another question.
"""

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Final, Literal, NamedTuple, get_args

import torch

from gopstream.jobs.bench.model_forms import Workload
from gopstream.jobs.bench.model_steps import Precision, time_in_turns
from gopstream.jobs.errors import UserError
from gopstream.jobs.labels import LabelSet, Targets
from gopstream.jobs.network import PIXELS_PER_CELL
from gopstream.jobs.recipe import Recipe, list_recipes, load_recipe
from gopstream.jobs.training.heads import TrainedHeads
from gopstream.jobs.training.parameter_groups import make_optimiser
from gopstream.jobs.training.steps import Stepper, StepResult, StepSettings
from gopstream.models import create_model
from gopstream.models.catalogue import MODELS
from gopstream.models.cost import measure_model
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.batch_ops import MixSpec

StepForm = Literal["eager", "compiled"]
FORMS: Final[tuple[StepForm, ...]] = get_args(StepForm)

LARGEST_BATCH: Final = 32
_QUICK_BATCH: Final = 2
_CUDA_CALLS: Final = 3
_MATMUL_CALLS: Final = 20
_MATMUL_SIDE: Final = 8192
_QUICK_SIDE: Final = 256
OUT_OF_MEMORY: Final = "out of memory"
# Small enough that weights which learn noise for some steps stay finite.
_LEARNING_RATE: Final = 1e-5
_GIB: Final = 2**30
# A multiply-add is two operations, and backward takes two products for each of forward.
_OPERATIONS_PER_MAC: Final = 2 * 3


class TrainingPlan(NamedTuple):
    """How one model is measured."""

    workload: Workload
    batch: int | None
    """Clips of a step; None takes the largest power of two that fits, to `LARGEST_BATCH`."""
    rounds: int


class Training:
    """A model in training."""

    def __init__(self, workload: Workload, *, is_compiled: bool, device: torch.device) -> None:
        """Make model and optimiser, with fresh weights.

        Args:
            workload: The model.
            is_compiled: As ``train.compile`` of a recipe; on the CPU its graphs are captured, but
                no code is generated.
            device: Where it is trained; in bfloat16 on a GPU, else in float32.
        """
        torch.manual_seed(0)
        options: dict[str, Any] = dict(workload.entry.shrunk) if workload.is_shrunk else {}
        self.network = create_model(workload.name, num_classes=workload.num_classes, **options)
        self.network.to(device).train()
        heads = TrainedHeads(self.network)
        if is_compiled:
            heads.compile(backend=compile_backend(device))
        _, recipe = recipe_of(workload.name)
        classes = tuple(str(number) for number in range(workload.num_classes))
        self._stepper = Stepper(
            heads,
            self.network,
            make_optimiser(self.network, recipe.optimiser, learning_rate=_LEARNING_RATE),
            targets=Targets((LabelSet("", classes),), None, None),
            contract=workload.entry.contract,
            settings=StepSettings(
                mix=MixSpec(),
                clip_norm=recipe.train.clip_norm,
                precision=precision_on(device),
                accumulate=1,
                seed=0,
            ),
        )

    def take(self, batch: ClipBatch) -> StepResult:
        """Take a step."""
        return self._stepper.take([batch], step=0, rate=_LEARNING_RATE)


def precision_on(device: torch.device) -> Precision:
    """Return in what a device is measured."""
    return "bfloat16" if device.type == "cuda" else "float32"


def compile_backend(device: torch.device) -> str:
    """Return what ``torch.compile`` does with graphs: on the CPU it runs them op by op."""
    return "inductor" if device.type == "cuda" else "aot_eager"


def recipe_of(name: str) -> tuple[str, Recipe]:
    """Return the recipe whose optimiser a model is measured with, and what it is called.

    A paper's for the model, on Kinetics-400 if there is one; else that for the model of its family
    whose name is most like its own.
    """
    family = MODELS[name].family
    recipes = _all_recipes()

    def distance(recipe_name: str) -> tuple[bool, int, bool, str]:
        model = recipes[recipe_name].model.name
        shared = len(os.path.commonprefix([model, name]))
        return model != name, -shared, not recipe_name.endswith("_k400"), recipe_name

    related = [
        each
        for each, recipe in recipes.items()
        if recipe.paper is not None and MODELS[recipe.model.name].family == family
    ]
    if not related:
        raise UserError(f"{name}: no paper's recipe trains a model of its family, {family}")
    nearest = min(related, key=distance)
    return nearest, recipes[nearest]


@cache
def _all_recipes() -> dict[str, Recipe]:
    return {name: load_recipe(name) for name in list_recipes()}


def draw_batch(workload: Workload, batch: int, *, network: torch.nn.Module) -> ClipBatch:
    """Draw B random clips as the loader gives them, on the network's device."""
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    side, num_frames = workload.size, workload.num_frames
    drawn = partial(torch.randint, device=device, generator=generator)
    frames = drawn(0, 256, (batch, num_frames, side, side, 3), dtype=torch.uint8)
    motion = valid = None
    query_stride = getattr(network, "query_stride", None)
    subclip_frames = getattr(network, "subclip_frames", None)
    if "motion" in workload.entry.contract.planes and query_stride and subclip_frames:
        queries, cells = num_frames // query_stride, side // PIXELS_PER_CELL
        motion = drawn(-8, 9, (batch, queries, 2, subclip_frames, cells, cells)).float()
        valid = torch.ones(
            (batch, queries, subclip_frames, cells, cells), dtype=torch.bool, device=device
        )
    return ClipBatch(
        labels=torch.arange(batch, device=device) % workload.num_classes,
        keys=[f"clip-{number}" for number in range(batch)],
        positions=torch.arange(batch, device=device),
        is_repeat=torch.zeros(batch, dtype=torch.bool, device=device),
        motion=motion,
        valid=valid,
        pixels=frames.permute(0, 4, 1, 2, 3),
    )


def largest_fitting(attempt: Callable[[int], object], *, most: int) -> int:
    """Return the largest power of two, to `most`, with which an attempt has memory; 0 for none."""
    batch = 1 << (most.bit_length() - 1)
    while batch:
        try:
            attempt(batch)
        except torch.OutOfMemoryError:
            batch //= 2
        else:
            break
        _release()
    _release()
    return batch


def matmul_flops(device: torch.device, *, side: int, rounds: int) -> float:
    """Return operations per second of a product of two square matrices, as fast as it gets."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = time_in_turns(
        {"matmul": partial(torch.matmul, one, other)},
        rounds=rounds,
        device=device,
        calls=_MATMUL_CALLS,
    )
    return 2 * side**3 / seconds["matmul"]


def measure_steps(
    plan: TrainingPlan,
    *,
    device: torch.device,
    on_form: Callable[[dict[str, Any]], None],
    forms: Sequence[StepForm] = FORMS,
) -> dict[str, Any]:
    """Measure training steps of a model in this process; returns a row.

    Args:
        plan: What is measured.
        device: Where.
        on_form: Called with the row as it is after each form.
        forms: Of the network; the first one chooses the batch.
    """
    workload = plan.workload
    options: dict[str, Any] = dict(workload.entry.shrunk) if workload.is_shrunk else {}
    options |= {"num_frames": workload.num_frames, "size": workload.size}
    cost = measure_model(workload.name, num_classes=workload.num_classes, **options)
    recipe_name, recipe = recipe_of(workload.name)
    side = _MATMUL_SIDE if device.type == "cuda" else _QUICK_SIDE
    row: dict[str, Any] = {
        "model": workload.name,
        "clip": [workload.num_frames, workload.size],
        "num_classes": workload.num_classes,
        "parameters": cost.parameters,
        "gmacs": cost.gmacs,
        "optimiser": recipe.optimiser.name,
        "optimiser_of": recipe_name,
        "batch": plan.batch or _fitting_batch(workload, device),
        "matmul_tflops": matmul_flops(device, side=side, rounds=plan.rounds) / 1e12,
        "forms": {},
    }
    _release()
    for form in forms:
        row["forms"][form] = _measure_form(
            plan._replace(batch=row["batch"]),
            form,
            device=device,
            flops_per_clip=_OPERATIONS_PER_MAC * 1e9 * cost.gmacs,
            matmul_flops_per_second=1e12 * row["matmul_tflops"],
        )
        on_form(row)
        _release()
    return row


def _fitting_batch(workload: Workload, device: torch.device) -> int:
    if device.type != "cuda":
        return _QUICK_BATCH

    def attempt(batch: int) -> None:
        training = Training(workload, is_compiled=False, device=device)
        clips = draw_batch(workload, batch, network=training.network)
        for _ in range(2):  # the second has the optimiser's state beside its activations
            training.take(clips)
        torch.cuda.synchronize()

    return largest_fitting(attempt, most=LARGEST_BATCH)


def _measure_form(
    plan: TrainingPlan,
    form: StepForm,
    *,
    device: torch.device,
    flops_per_clip: float,
    matmul_flops_per_second: float,
) -> dict[str, Any]:
    """Measure one form; what keeps it from running is said in its place."""
    if not plan.batch:
        return {"missing": OUT_OF_MEMORY}
    try:
        figures = _time_form(plan, plan.batch, form=form, device=device)
    except torch.OutOfMemoryError:
        return {"missing": OUT_OF_MEMORY}
    except Exception as error:  # a compiler may fail in any way; what it says is in the report
        said = (str(error).strip() or "no message").splitlines()[0]
        return {"missing": f"{type(error).__name__}: {said}"}
    clips_per_second = plan.batch / figures["step_seconds"]
    achieved = flops_per_clip * clips_per_second
    return figures | {
        "clips_per_second": clips_per_second,
        "tflops": achieved / 1e12,
        "matmul_share": achieved / matmul_flops_per_second,
    }


def _time_form(
    plan: TrainingPlan, batch: int, *, form: StepForm, device: torch.device
) -> dict[str, Any]:
    is_cuda = device.type == "cuda"
    training = Training(plan.workload, is_compiled=form == "compiled", device=device)
    step = partial(training.take, draw_batch(plan.workload, batch, network=training.network))
    begun = time.perf_counter()
    first_loss = float(step().loss)
    figures: dict[str, Any] = {"first_step_seconds": time.perf_counter() - begun}
    step()
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    calls = _CUDA_CALLS if is_cuda else 1
    seconds = time_in_turns({form: step}, rounds=plan.rounds, device=device, calls=calls)
    figures["peak_gib"] = torch.cuda.max_memory_allocated() / _GIB if is_cuda else None
    last_loss = float(step().loss)
    if not math.isfinite(first_loss) or not math.isfinite(last_loss):
        raise FloatingPointError(f"the loss went from {first_loss:g} to {last_loss:g}")
    return figures | {
        "step_seconds": seconds[form],
        "first_loss": first_loss,
        "last_loss": last_loss,
    }


def _release() -> None:
    """Give back what dead networks hold."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
