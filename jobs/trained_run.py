"""A trained network with a split to look at, and one clip of it as the network is fed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gopstream.jobs.checkpoint import load_checkpoint
from gopstream.jobs.errors import UserError
from gopstream.jobs.network import build_network, check_dataset, clip_spec, network_inputs
from gopstream.jobs.recipe import Recipe, recipe_from
from gopstream.models.catalogue import find_model
from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec, View
from gopstream.shards.loading.clips import ViewDataset
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """What a checkpoint and a split are together."""

    network: nn.Module
    """With the checkpoint's weights, in evaluation mode."""
    recipe: Recipe
    dataset: ShardDataset
    spec: ClipSpec


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
    """Index of the class that it takes for the likeliest."""
    predicted_name: str
    probability: float
    """Of that class."""


def open_run(
    checkpoint: Path,
    root: Storage | Path | str,
    *,
    split: str,
    force: bool = False,
    reading: ReadOptions | None = None,
) -> TrainedRun:
    """Put a checkpoint and a split together.

    Args:
        checkpoint: File, or folder of a run.
        root: Folder or address of the dataset.
        split: Which split.
        force: Use a dataset that was not made as the recipe asks, with a warning.
        reading: How samples are read from object storage; None takes the defaults.

    Raises:
        UserError: If there is no checkpoint, or it and the dataset do not fit.
    """
    content = load_checkpoint(checkpoint)
    recipe = recipe_from(content["recipe"], where=str(checkpoint))
    dataset = ShardDataset(root, split, labels=recipe.train.labels or None, reading=reading)
    if list(dataset.classes) != content["classes"]:
        raise UserError(f"{checkpoint} was trained on other classes than {dataset.root} has")
    network = build_network(recipe, len(dataset.classes))
    network.load_state_dict(content["model"])
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    spec = clip_spec(recipe, network)
    check_dataset(dataset, spec, data=recipe.data, force=force)
    return TrainedRun(network, recipe, dataset, spec)


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
    contract = find_model(run.recipe.model.name).contract
    batch = batch.decoded(device)
    frames, inputs = network_inputs(run.network, batch, contract=contract)
    with torch.inference_mode():
        scores = run.network(frames, **inputs)[0].float().softmax(dim=0).cpu()
    predicted, label = int(scores.argmax()), int(batch.labels[0])
    return FedClip(
        key=batch.keys[0],
        label=run.dataset.classes[label] if label >= 0 else None,
        pictures=batch.frames[0].permute(1, 2, 3, 0).cpu(),
        frames=frames,
        inputs=inputs,
        predicted=predicted,
        predicted_name=run.dataset.classes[predicted],
        probability=float(scores[predicted]),
    )


def _position(dataset: ShardDataset, key: str) -> int:
    try:
        return dataset.keys.index(key)
    except ValueError:
        nearest = did_you_mean(key, dataset.keys)
        raise UserError(f"{dataset.root}/{dataset.split} has no sample {key!r}{nearest}") from None
