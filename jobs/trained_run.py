"""A trained network with a split to look at, and one clip of it as the network is fed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gopstream.jobs.checkpoint import load_checkpoint
from gopstream.jobs.errors import UserError
from gopstream.jobs.labels import LabelSet, Targets, open_targets, split_outputs
from gopstream.jobs.network import (
    build_network,
    check_dataset,
    clip_spec,
    input_contract,
    network_inputs,
)
from gopstream.jobs.recipe import Recipe, recipe_from
from gopstream.models.catalogue_entry import InputContract
from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec, View
from gopstream.shards.loading.clips import ViewDataset
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage


class Trained(NamedTuple):
    """What a checkpoint holds of use after training."""

    network: nn.Module
    """With the checkpoint's weights, their average where the recipe keeps one, in evaluation mode;
    on the GPU, if there is one."""
    recipe: Recipe
    """As the run had it, but that its ``model.weights`` are empty: they are the checkpoint's."""
    sets: tuple[LabelSet, ...]
    """What its outputs are."""
    content: Mapping[str, Any]
    """All that the checkpoint holds besides, such as ``step`` and the dataset's ``settings``."""


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """What a checkpoint and a split are together."""

    trained: Trained
    dataset: ShardDataset
    spec: ClipSpec
    """Of test views."""
    targets: Targets

    @property
    def network(self) -> nn.Module:
        """The trained network."""
        return self.trained.network

    @property
    def recipe(self) -> Recipe:
        """That it was trained by."""
        return self.trained.recipe

    @property
    def contract(self) -> InputContract:
        """What the network takes."""
        return input_contract(self.recipe, self.network)


@dataclass(frozen=True, slots=True)
class FedClip:
    """One clip, and what the network makes of it."""

    key: str
    label: str | None
    """Name of its class, if it has one."""
    pictures: Tensor
    """(T, H, W, 3) uint8 RGB, on the CPU."""
    frames: Tensor
    """(1, 3, T, H, W) normalised."""
    inputs: Mapping[str, Tensor]
    """What else `network` takes, by keyword."""
    predicted: int
    """Output that it takes for the likeliest: of several label sets the first one's."""
    predicted_name: str
    probability: float
    """Of that class."""


def load_trained(checkpoint: Path) -> Trained:
    """Read a checkpoint and put its weights into its network.

    Args:
        checkpoint: File, or folder of a run: its newest.

    Raises:
        UserError: If there is no checkpoint, or it is not one of ours.
    """
    content = load_checkpoint(checkpoint)
    recipe = recipe_from(content["recipe"], where=str(checkpoint))
    weights = recipe.model.weights
    recipe = replace(recipe, model=replace(recipe.model, weights=""))
    sets = tuple(LabelSet(name, tuple(classes)) for name, classes in content["sets"])
    network = build_network(recipe, sum(len(labels.classes) for labels in sets))
    try:
        network.load_state_dict(content["ema"] or content["model"])
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint}: its weights are not those of its recipe: {str(error).splitlines()[-1]}"
        ) from error
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    facts = {name: content[name] for name in ("step", "steps", "settings", "split")}
    return Trained(network, recipe, sets, facts | {"weights": weights})


def open_run(
    checkpoint: Path,
    root: Storage | Path | str,
    *,
    split: str | None = None,
    force: bool = False,
    reading: ReadOptions | None = None,
) -> TrainedRun:
    """Put a checkpoint and a split together.

    Args:
        checkpoint: File, or folder of a run.
        root: Folder or address of the dataset.
        split: Which split; None for ``test.split`` of the recipe.
        force: Use a dataset that was not made as the recipe asks, with a warning.
        reading: How samples are read from object storage; None takes the defaults.

    Raises:
        UserError: If there is no checkpoint, or it and the dataset do not fit.
    """
    trained = load_trained(checkpoint)
    recipe = trained.recipe
    dataset = ShardDataset(
        root,
        recipe.test.split if split is None else split,
        labels=recipe.train.labels or None,
        reading=reading,
    )
    spec = clip_spec(recipe, trained.network, testing=True)
    check_dataset(dataset, spec, data=recipe.data, force=force)
    targets = open_targets(dataset, recipe.train.label_sets)
    if targets.sets != trained.sets:
        raise UserError(f"{checkpoint} was trained on other classes than {dataset.root} has")
    return TrainedRun(trained, dataset, spec, targets)


def read_clip(run: TrainedRun, key: str | None) -> FedClip:
    """Read the centre view of a sample and classify it.

    Args:
        run: The network and the split.
        key: Of the sample; None for the first.

    Raises:
        UserError: If there is no such sample; names the nearest.
        ShardError: If it cannot be read.
    """
    position = 0 if key is None else _position(run.dataset, key)
    batch = ViewDataset(run.dataset, run.spec, [View(0, 1, 0, 1)])[[position]]
    assert isinstance(batch, ClipBatch)  # shared slots are for workers
    device = next(run.network.parameters()).device
    batch = batch.decoded(device)
    frames, inputs = network_inputs(run.network, batch, contract=run.contract)
    with torch.inference_mode():
        logits = split_outputs(run.network(frames, **inputs).float(), run.targets.sets)
    scores = [head[0].softmax(dim=0).cpu() for head in logits]
    predicted = [int(score.argmax()) for score in scores]
    labels = [int(label[0]) for label in run.targets.of(batch)]
    return FedClip(
        key=batch.keys[0],
        label=_names(run.targets, labels) if min(labels) >= 0 else None,
        pictures=batch.frames[0].permute(1, 2, 3, 0).cpu(),
        frames=frames,
        inputs=inputs,
        predicted=predicted[0],
        predicted_name=_names(run.targets, predicted),
        probability=math.prod(
            float(score[index]) for score, index in zip(scores, predicted, strict=True)
        ),
    )


def _names(targets: Targets, indices: Sequence[int]) -> str:
    return " ".join(
        labels.classes[index] for labels, index in zip(targets.sets, indices, strict=True)
    )


def _position(dataset: ShardDataset, key: str) -> int:
    try:
        return dataset.keys.index(key)
    except ValueError:
        nearest = did_you_mean(key, dataset.keys)
        raise UserError(f"{dataset.root}/{dataset.split} has no sample {key!r}{nearest}") from None
