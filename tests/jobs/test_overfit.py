"""Every network and every way to train one learns sixteen clips by heart."""

from contextlib import nullcontext
from dataclasses import replace
from operator import itemgetter
from typing import Literal, NamedTuple, get_args, get_origin

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

from gopstream.jobs.labels import LabelSet, Targets  # noqa: E402
from gopstream.jobs.network import (  # noqa: E402
    PIXELS_PER_CELL,
    build_network,
    input_contract,
    run_network,
)
from gopstream.jobs.recipe import recipe_from  # noqa: E402
from gopstream.jobs.training.heads import TrainedHeads  # noqa: E402
from gopstream.jobs.training.parameter_groups import make_optimiser  # noqa: E402
from gopstream.jobs.training.schedules import schedule_in_steps  # noqa: E402
from gopstream.jobs.training.steps import Stepper, StepSettings  # noqa: E402
from gopstream.jobs.training.weight_average import WeightAverage  # noqa: E402
from gopstream.models.catalogue import MODELS  # noqa: E402
from gopstream.shards.loading.batch import ClipBatch  # noqa: E402
from overfit_cases import NETWORKS, SMALL, TRAININGS, Case  # noqa: E402

NUM_CLIPS = 16
MOST_STEPS = 60
LOOK_EVERY = 5
MOMENTUM = 0.5
"""Of batch norms: by torch's own, 0.1, what evaluation takes is right only after 25 steps."""
VELOCITIES = ((2, 0), (-2, 0), (0, 2), (0, -2))  # (dx, dy) pixels a frame, one for each class


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: with tensors this small, several wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Fitted(NamedTuple):
    """How a case went."""

    steps: int
    """After which the clips were known by heart, or all that were allowed."""
    accuracy: float


def fit(case, **train):
    """Train a case until it knows all clips, or its steps are over."""
    small = SMALL[case.model]
    recipe = make_recipe(case, small, train)
    torch.manual_seed(recipe.train.seed)
    network = build_network(recipe, len(VELOCITIES))
    for norm in network.modules():
        if isinstance(norm, _BatchNorm):
            norm.momentum = MOMENTUM
    contract = input_contract(recipe, network)
    clips = moving_patterns(network, num_frames=small.num_frames, size=small.size)
    targets = Targets((LabelSet("", ("right", "left", "down", "up")),), None, None)
    settings = recipe.train
    optimiser = make_optimiser(network, recipe.optimiser, learning_rate=settings.learning_rate)
    average = WeightAverage(network, decay=settings.ema) if settings.ema else None
    schedule = schedule_in_steps(settings, recipe.schedule, steps_per_epoch=1)
    stepper = Stepper(
        TrainedHeads(network),
        network,
        optimiser,
        targets=targets,
        contract=contract,
        settings=StepSettings(
            mix=recipe.mix,
            clip_norm=settings.clip_norm,
            precision=settings.precision,
            accumulate=settings.accumulate,
            seed=settings.seed,
        ),
    )
    parts = parted(clips, settings.accumulate)
    accuracy = 0.0
    for step in range(schedule.steps):
        network.train()
        stepper.take(parts, step=step, rate=settings.learning_rate * schedule.share(step))
        if average is not None:
            average.update()
        if (step + 1) % LOOK_EVERY == 0:
            accuracy = measure(network, clips, contract, settings.precision, average)
            if accuracy == 1.0:
                break
    return Fitted(step + 1, accuracy)


def make_recipe(case, small, train):
    """Return the recipe of a case: a small network, and a few steps of AdamW."""
    content = {
        "model": {"name": case.model, "options": {**small.options, **case.options}},
        "clip": {"num_frames": small.num_frames},
        "transform": {"size": small.size},
        "train": {"steps": MOST_STEPS, "batch_size": NUM_CLIPS, "learning_rate": 0.01},
        "schedule": {"warmup_steps": 5},
        "optimiser": {},
    }
    for sections in (case.sections, {"train": train}):
        for section, values in sections.items():
            content[section] = {**content.get(section, {}), **values}
    return recipe_from(content, where="case")


def measure(network, clips, contract, precision, average):
    """Return the share of clips whose class is named, by the averaged weights if there are any."""
    network.eval()
    with (
        torch.no_grad(),
        average.in_place() if average is not None else nullcontext(),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        logits = run_network(network, clips, contract=contract)
    return float((logits.argmax(dim=1) == clips.labels).float().mean())


def parted(clips, count):
    """Cut a batch into parts of equal size."""
    size = len(clips.keys) // count
    pieces = [slice(first, first + size) for first in range(0, len(clips.keys), size)]
    return [replace(clips.map(itemgetter(piece)), keys=clips.keys[piece]) for piece in pieces]


def moving_patterns(network, *, num_frames, size):
    """Draw clips of textures that move, each class another way, with what the network takes."""
    rng = torch.Generator().manual_seed(3)
    labels = torch.arange(NUM_CLIPS) % len(VELOCITIES)
    pictures = torch.randint(0, 256, (NUM_CLIPS, 3, size, size), generator=rng, dtype=torch.uint8)
    velocities = [VELOCITIES[label] for label in labels.tolist()]
    frames = torch.stack(
        [
            torch.stack([moved(picture, velocity, t) for t in range(num_frames)], dim=1)
            for picture, velocity in zip(pictures, velocities, strict=True)
        ]
    )
    batch = ClipBatch(
        labels=labels,
        keys=[f"clip{number}" for number in range(NUM_CLIPS)],
        positions=torch.arange(NUM_CLIPS),
        is_repeat=torch.zeros(NUM_CLIPS, dtype=torch.bool),
        pixels=frames,
    )
    cue = getattr(getattr(network, "cue", None), "cue", None)
    if cue not in ("motion", "residual"):
        return batch
    times = torch.arange(network.num_queries) * network.query_stride
    first = times // network.subclip_frames * network.subclip_frames
    targets = first[:, None] + torch.arange(network.subclip_frames)  # (Q, J)
    if cue == "motion":
        steps = (targets - times[:, None]).float()
        # Content at p in the query frame lies a velocity for each frame further on in another.
        field = torch.einsum("bc,qj->bqcj", torch.tensor(velocities).float(), steps)
        grid = size // PIXELS_PER_CELL
        motion = field[..., None, None].expand(-1, -1, -1, -1, grid, grid).contiguous()
        return replace(batch, motion=motion, valid=torch.ones_like(motion[:, :, 0]).bool())
    change = frames[:, :, times, None].float() - frames[:, :, targets].float()  # (B, 3, Q, J, H, W)
    residual = change.movedim(1, 2).half().contiguous()
    return replace(
        batch, rgb_residual=residual, rgb_valid=torch.ones_like(residual[:, :, 0]).bool()
    )


def moved(picture, velocity, t):
    """Return a (3, H, W) picture t frames later; what leaves at one side enters at the other."""
    dx, dy = velocity
    return picture.roll((dy * t, dx * t), dims=(1, 2))


def choices_of(kind):
    """Return the words that a type allows, or yes and no."""
    if get_origin(kind) is Literal:
        return set(get_args(kind))
    if kind is bool:
        return {True, False}
    return set().union(*map(choices_of, get_args(kind)))


def words_in(value):
    return set().union(*map(words_in, value)) if isinstance(value, tuple) else {value}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_sixteen_clips_by_heart(name):
    fitted = fit(NETWORKS[name])
    assert fitted.accuracy == 1.0, f"after {fitted.steps} steps"


@pytest.mark.parametrize("name", TRAININGS)
def test_every_way_to_train_learns_them(name):
    fitted = fit(TRAININGS[name])
    assert fitted.accuracy == 1.0, f"after {fitted.steps} steps"


@pytest.mark.parametrize("model", SMALL)
def test_a_network_that_does_not_learn_does_not_know_them(model):
    assert fit(Case(model), learning_rate=1e-9, steps=2 * LOOK_EVERY).accuracy < 0.75


@pytest.mark.parametrize("family", sorted({entry.family for entry in MODELS.values()}))
def test_every_choice_of_every_option_is_among_the_networks(family):
    models = {case.model for case in NETWORKS.values() if MODELS[case.model].family == family}
    assert models
    for model in models:
        if model == "dvt_vit_b":  # of the same class as dvt_tiny
            continue
        given = [case.options for case in NETWORKS.values() if case.model == model]
        for option, parameter in MODELS[model].parameters.items():
            if option == "implementation":  # the same numbers by other kernels, which need a GPU
                continue
            tried = [SMALL[model].options.get(option, parameter.default)]
            tried += [options[option] for options in given if option in options]
            missing = choices_of(parameter.annotation) - set().union(*map(words_in, tried))
            assert not missing, f"{model}: no case has {option} = {missing}"
