"""Put a recipe's model and its data together: what a clip must hold, and how it is fed in."""

from dataclasses import asdict
from typing import cast

import torch
from torch import Tensor, nn

from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import Recipe
from gopstream.models import create_model
from gopstream.models.catalogue import InputContract, find_model
from gopstream.shards.loading.clip_reader import ClipSpec, MotionSpec
from gopstream.shards.loading.loader import ClipBatch
from gopstream.shards.loading.sampling import SAMPLINGS
from gopstream.shards.reader import ShardDataset

# Motion fields are handed over at one cell per four pixels: the stride of the first stage.
_PIXELS_PER_CELL = 4


def build_network(recipe: Recipe, num_classes: int) -> nn.Module:
    """Create the recipe's model.

    Raises:
        UserError: If the model or one of its options is unknown.
    """
    options = dict(recipe.model.options)
    options.setdefault("size", recipe.clip.size)
    try:
        return create_model(
            recipe.model.name,
            num_classes=num_classes,
            num_frames=recipe.clip.num_frames,
            **options,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"model {recipe.model.name}: {error}") from error


def clip_spec(recipe: Recipe, network: nn.Module) -> ClipSpec:
    """Return what a clip must hold for this recipe.

    Raises:
        UserError: If the recipe's numbers do not fit together.
    """
    contract = find_model(recipe.model.name).contract
    motion = None
    if recipe.model.use_motion and "motion" in contract.planes:
        assert contract.query_stride is not None
        motion = MotionSpec(
            query_stride=contract.query_stride,
            subclip_frames=cast(int, network.subclip_frames),
            grid=recipe.clip.size // _PIXELS_PER_CELL,
        )
    if recipe.clip.sampling not in SAMPLINGS:
        raise UserError(
            f"clip.sampling must be one of {', '.join(SAMPLINGS)}, got {recipe.clip.sampling!r}"
        )
    try:
        return ClipSpec(motion=motion, **asdict(recipe.clip))
    except ValueError as error:
        raise UserError(f"clip: {error}") from error


def check_dataset(dataset: ShardDataset, spec: ClipSpec) -> None:
    """Refuse a dataset that cannot feed the model.

    Raises:
        UserError: Saying what is missing.
    """
    needed = ["frames", *(["motion"] if spec.motion is not None else [])]
    missing = [plane for plane in needed if plane not in dataset.facts.planes]
    if missing:
        raise UserError(f"{dataset.root} lacks the plane {', '.join(missing)}")


def check_labels(dataset: ShardDataset) -> None:
    """Refuse videos without a label.

    Raises:
        UserError: Naming the split.
    """
    if not dataset.classes or (dataset.labels < 0).any():
        raise UserError(f"{dataset.root}/{dataset.split} has videos without a label")


def run_network(network: nn.Module, batch: ClipBatch, contract: InputContract) -> Tensor:
    """Normalise a batch on the network's device and return its logits, (B, classes)."""
    device = next(network.parameters()).device
    mean = torch.tensor(contract.mean, device=device).view(1, 3, 1, 1, 1)
    std = torch.tensor(contract.std, device=device).view(1, 3, 1, 1, 1)
    frames = (batch.frames.to(device).float() / 255.0 - mean) / std
    if "motion" not in contract.planes:
        return cast(Tensor, network(frames))
    motion = None if batch.motion is None else batch.motion.to(device)
    valid = None if batch.valid is None else batch.valid.to(device)
    return cast(Tensor, network(frames, motion=motion, valid=valid))
