"""Steps of the optimiser, against the same steps written out in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from gopstream.jobs.labels import LabelSet, Targets
from gopstream.jobs.recipe_sections import GroupRecipe, OptimiserRecipe
from gopstream.jobs.training.heads import TrainedHeads
from gopstream.jobs.training.parameter_groups import make_optimiser
from gopstream.jobs.training.steps import Stepper, StepSettings
from gopstream.models.catalogue_entry import IMAGENET_MEAN, IMAGENET_STD, InputContract
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.batch_ops import MixSpec, draw_mix, mix_generator

SIDE, NUM_FRAMES, CLASSES, SEED = 8, 2, 4, 11
RATES = (0.05, 0.02, 0.03)  # of the steps that are taken
DECAY, MOMENTUM, BETAS = 0.3, 0.8, (0.7, 0.9)
CONTRACT = InputContract(
    planes=("frames",),
    num_frames=NUM_FRAMES,
    frame_stride=1,
    size=SIDE,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    query_stride=None,
    subclip_frames=None,
)
NAMES = ("hidden.weight", "hidden.bias", "head.weight", "head.bias")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(3 * NUM_FRAMES * SIDE * SIDE, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, frames):
        return self.head(self.hidden(frames.flatten(1)).tanh())


def make_batches(*, parts, seed):
    rng = np.random.default_rng(seed)
    batches = []
    for part in range(parts):
        pixels = rng.integers(0, 256, (4, 3, NUM_FRAMES, SIDE, SIDE), np.uint8)
        batches.append(
            ClipBatch(
                labels=torch.from_numpy(rng.integers(0, CLASSES, 4)),
                keys=[f"{seed}-{part}-{clip}" for clip in range(4)],
                positions=torch.arange(4),
                is_repeat=torch.zeros(4, dtype=torch.bool),
                pixels=torch.from_numpy(pixels),
            )
        )
    return batches


def mixed(values, *, share):
    return share * values + (1 - share) * values[::-1]


def clips_and_targets(batch, spec, *, step):
    """Return (4, pixels) and (4, classes) float64 as they are mixed and smoothed."""
    clips = batch.frames.double().numpy() / 255
    shape = (1, 3, 1, 1, 1)
    clips = (clips - np.reshape(IMAGENET_MEAN, shape)) / np.reshape(IMAGENET_STD, shape)
    rows = np.eye(CLASSES)[batch.labels.numpy()]
    rows = (1 - spec.label_smoothing) * rows + spec.label_smoothing / CLASSES
    rng = mix_generator(seed=SEED, epoch=step, position=0)
    mix = draw_mix(spec, frame_size=(SIDE, SIDE), rng=rng)
    if mix.box is None:
        clips = mixed(clips, share=mix.share)
    else:
        box = mix.box
        rows_of_box = slice(box.top, box.top + box.height)
        columns = slice(box.left, box.left + box.width)
        pasted = clips[::-1][..., rows_of_box, columns].copy()
        clips[..., rows_of_box, columns] = pasted
    return clips.reshape(4, -1), mixed(rows, share=mix.share)


def loss_and_gradients(weights, clips, rows):
    """Backpropagate a mean cross entropy by hand."""
    hidden = np.tanh(clips @ weights["hidden.weight"].T + weights["hidden.bias"])
    logits = hidden @ weights["head.weight"].T + weights["head.bias"]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    at_logits = (np.exp(logs) - rows) / len(rows)
    at_hidden = at_logits @ weights["head.weight"] * (1 - hidden**2)
    gradients = (at_hidden.T @ clips, at_hidden.sum(axis=0))
    gradients += (at_logits.T @ hidden, at_logits.sum(axis=0))
    return -(rows * logs).sum() / len(rows), dict(zip(NAMES, gradients, strict=True))


class Sgd:
    def __init__(self):
        self.moved = {}

    def change(self, weights, gradients, *, rate):
        for name, gradient in gradients.items():
            decay = DECAY if weights[name].ndim > 1 else 0.0
            gradient = gradient + decay * weights[name]
            self.moved[name] = (
                MOMENTUM * self.moved[name] + gradient if name in self.moved else gradient
            )
            weights[name] = weights[name] - rate * (gradient + MOMENTUM * self.moved[name])


class AdamW:
    def __init__(self):
        self.first, self.second, self.steps = {}, {}, 0

    def change(self, weights, gradients, *, rate):
        self.steps += 1
        for name, gradient in gradients.items():
            decay = DECAY if weights[name].ndim > 1 else 0.0
            first = BETAS[0] * self.first.get(name, 0.0) + (1 - BETAS[0]) * gradient
            second = BETAS[1] * self.second.get(name, 0.0) + (1 - BETAS[1]) * gradient**2
            self.first[name], self.second[name] = first, second
            first = first / (1 - BETAS[0] ** self.steps)
            second = second / (1 - BETAS[1] ** self.steps)
            weights[name] = (1 - rate * decay) * weights[name]
            weights[name] = weights[name] - rate * first / (np.sqrt(second) + 1e-8)


OPTIMISERS = {
    "sgd": (
        OptimiserRecipe(name="sgd", weight_decay=DECAY, momentum=MOMENTUM, nesterov=True),
        Sgd,
    ),
    "adamw": (OptimiserRecipe(weight_decay=DECAY, betas=BETAS), AdamW),
}


def make_stepper(recipe, *, mix=None, clip_norm=0.0, accumulate=1, precision="float32"):
    torch.manual_seed(SEED)
    network = Network()
    settings = StepSettings(
        mix=mix or MixSpec(),
        clip_norm=clip_norm,
        precision=precision,
        accumulate=accumulate,
        seed=SEED,
    )
    classes = tuple(f"class-{number}" for number in range(CLASSES))
    stepper = Stepper(
        TrainedHeads(network),
        network,
        make_optimiser(network, recipe, learning_rate=RATES[0]),
        targets=Targets((LabelSet("", classes),), None, None),
        contract=CONTRACT,
        settings=settings,
    )
    return stepper, network


def weights_of(network):
    return {name: p.detach().double().numpy().copy() for name, p in network.named_parameters()}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize(
    ("mix", "clip_norm", "accumulate"),
    [
        pytest.param(MixSpec(), 0.0, 1, id="plain"),
        pytest.param(MixSpec(label_smoothing=0.2), 0.3, 2, id="smoothed-clipped-two-parts"),
        pytest.param(MixSpec(mixup=0.8, label_smoothing=0.1), 0.3, 1, id="mixup-clipped"),
        pytest.param(MixSpec(cutmix=1.0), 0.0, 2, id="cutmix-two-parts"),
    ],
)
def test_steps_are_those_written_out(optimiser, mix, clip_norm, accumulate):
    recipe, make_reference = OPTIMISERS[optimiser]
    stepper, network = make_stepper(recipe, mix=mix, clip_norm=clip_norm, accumulate=accumulate)
    want, reference = weights_of(network), make_reference()
    for step, rate in enumerate(RATES):
        batches = make_batches(parts=accumulate, seed=step)
        got = stepper.take(batches, step=step, rate=rate)
        parts = [
            loss_and_gradients(want, *clips_and_targets(batch, mix, step=step)) for batch in batches
        ]
        gradients = {n: sum(part[n] for _, part in parts) / accumulate for n in NAMES}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        if clip_norm:
            assert norm > clip_norm  # else nothing would be clipped
            gradients = {name: value * clip_norm / norm for name, value in gradients.items()}
        reference.change(want, gradients, rate=rate)
        assert float(got.loss) == pytest.approx(np.mean([loss for loss, _ in parts]), rel=1e-5)
        assert float(got.gradient_norm) == pytest.approx(norm, rel=1e-4)
        assert got.keys == [key for batch in batches for key in batch.keys]
    for name, value in weights_of(network).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_what_is_mixed_is_drawn_anew_for_each_step():
    """A step that is taken again is mixed the same, another one is not."""
    losses = []
    for step in (0, 1, 0):
        stepper, _ = make_stepper(OPTIMISERS["sgd"][0], mix=MixSpec(mixup=0.8))
        [batch] = make_batches(parts=1, seed=0)
        losses.append(float(stepper.take([batch], step=step, rate=0.0).loss))
    assert losses[0] == losses[2] != losses[1]


def test_a_group_has_its_share_of_the_rate():
    recipe = OptimiserRecipe(name="sgd", momentum=0.0, groups=(GroupRecipe("head.*", rate=0.0),))
    still, network = make_stepper(recipe)
    before = weights_of(network)
    batches = make_batches(parts=1, seed=0)
    still.take(batches, step=0, rate=0.2)
    whole = weights_of(network)["hidden.bias"] - before["hidden.bias"]
    assert np.array_equal(weights_of(network)["head.weight"], before["head.weight"])
    recipe = OptimiserRecipe(name="sgd", momentum=0.0, groups=(GroupRecipe("hidden.*", rate=0.25),))
    slower, network = make_stepper(recipe)
    slower.take(batches, step=0, rate=0.2)
    moved = weights_of(network)["hidden.bias"] - before["hidden.bias"]
    np.testing.assert_allclose(moved, whole / 4, rtol=1e-4)


def test_losses_of_several_label_sets_are_added():
    recipe = OPTIMISERS["sgd"][0]
    stepper, network = make_stepper(recipe)
    [batch] = make_batches(parts=1, seed=3)
    labels = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    rows = {key: row for row, key in enumerate(batch.keys)}
    sets = (LabelSet("verb_class", ("a", "b")), LabelSet("noun_class", ("c", "d")))
    stepper._targets = Targets(sets, rows, labels)
    weights = weights_of(network)
    clips, _ = clips_and_targets(batch, MixSpec(), step=0)
    hidden = np.tanh(clips @ weights["hidden.weight"].T + weights["hidden.bias"])
    logits = hidden @ weights["head.weight"].T + weights["head.bias"]
    want = 0.0
    for part, wanted in ((logits[:, :2], labels[:, 0]), (logits[:, 2:], labels[:, 1])):
        logs = part - np.log(np.exp(part).sum(axis=1, keepdims=True))
        want -= logs[np.arange(4), wanted.numpy()].mean()
    assert float(stepper.take([batch], step=0, rate=0.1).loss) == pytest.approx(want, rel=1e-5)


def test_bfloat16_is_close_and_weights_stay_float32():
    losses = {}
    for precision in ("float32", "bfloat16"):
        stepper, network = make_stepper(OPTIMISERS["adamw"][0], precision=precision)
        losses[precision] = float(stepper.take(make_batches(parts=1, seed=0), step=0, rate=1e-3)[0])
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]
