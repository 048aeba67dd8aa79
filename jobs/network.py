"""Put a recipe's model and its data together: what a clip must hold, and how it is fed in."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from gopstream.jobs.dataset_fit import check_fit
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import DataRecipe, Recipe
from gopstream.models import create_model
from gopstream.models.catalogue import InputContract, find_model
from gopstream.models.dvt.options import CueOptions
from gopstream.models.sifa.resnet import SifaNet
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.batch_ops import normalise
from gopstream.shards.loading.clip_spec import ClipSpec, MotionSpec, RgbResidualSpec
from gopstream.shards.loading.clips import check_planes
from gopstream.shards.reader import ShardDataset

# Motion fields are handed over at one cell per four pixels: the stride of the first stage.
_PIXELS_PER_CELL = 4


def build_network(recipe: Recipe, num_classes: int) -> nn.Module:
    """Create the recipe's model.

    Raises:
        UserError: If the model or one of its options is unknown.
    """
    options = dict(recipe.model.options)
    try:
        if "size" in find_model(recipe.model.name).options:  # others take any size
            options.setdefault("size", recipe.transform.size)
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
    settings: dict[str, Any] = asdict(recipe.clip)
    motion_on = settings.pop("motion_on")
    motion = rgb_residual = None
    try:
        if recipe.model.use_motion and "motion" in contract.planes:
            query_stride = cast(int, network.query_stride)
            subclip_frames = cast(int, network.subclip_frames)
            cue = cast(CueOptions, network.cue).cue
            if cue == "motion":
                motion = MotionSpec(
                    query_stride=query_stride,
                    subclip_frames=subclip_frames,
                    grid=recipe.transform.size // _PIXELS_PER_CELL,
                    on=motion_on,
                )
            elif cue == "residual":
                rgb_residual = RgbResidualSpec(
                    query_stride=query_stride, subclip_frames=subclip_frames
                )
        return ClipSpec(
            motion=motion, rgb_residual=rgb_residual, transform=recipe.transform, **settings
        )
    except ValueError as error:
        raise UserError(f"clip: {error}") from error


def check_dataset(
    dataset: ShardDataset,
    spec: ClipSpec,
    *,
    data: DataRecipe | None = None,
    force: bool = False,
) -> None:
    """Refuse a dataset that cannot feed the model, or that the recipe was not made for.

    Args:
        dataset: The split.
        spec: What a clip must hold.
        data: What the recipe asks of the dataset; None asks nothing.
        force: Go on with a dataset that does not fit; planes that the model needs are needed all
            the same.

    Raises:
        ShardError: Naming the planes that are missing, and the commands that add them.
        UserError: Saying what differs and what to change.
    """
    check_planes(dataset, spec)
    if data is not None:
        check_fit(dataset.facts, data, url=dataset.root, force=force)


def check_labels(dataset: ShardDataset) -> None:
    """Refuse videos without a label.

    Raises:
        UserError: Naming the split.
    """
    if not dataset.classes or dataset.num_unlabelled:
        raise UserError(f"{dataset.root}/{dataset.split} has videos without a label")


def network_inputs(
    network: nn.Module, batch: ClipBatch, *, contract: InputContract
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what a network takes of a batch: normalised frames, and the rest by keyword.

    They are on the network's device.
    """
    device = next(network.parameters()).device
    batch = accumulated_for(network, batch.to(device, non_blocking=True).decoded(device))
    frames = normalise(batch.frames, mean=contract.mean, std=contract.std)
    if "motion" not in contract.planes:
        return frames, {}
    cue, valid = batch.motion, batch.valid
    if batch.rgb_residual is not None:
        cue = in_units_of_frames(batch.rgb_residual, std=contract.std)
        valid = batch.rgb_valid
    given = {"motion": cue, "valid": valid}
    return frames, {name: tensor for name, tensor in given.items() if tensor is not None}


def accumulated_for(network: nn.Module, batch: ClipBatch) -> ClipBatch:
    """Return a batch whose motion is accumulated for a network's queries, if it has any."""
    query_stride = getattr(network, "query_stride", None)
    return batch if query_stride is None else batch.accumulated(query_stride=query_stride)


def run_network(network: nn.Module, batch: ClipBatch, *, contract: InputContract) -> Tensor:
    """Normalise a batch on the network's device and return its logits, (B, classes)."""
    frames, inputs = network_inputs(network, batch, contract=contract)
    return cast(Tensor, network(frames, **inputs))


def run_heads(
    network: nn.Module, batch: ClipBatch, *, contract: InputContract
) -> tuple[Tensor, ...]:
    """Likewise return the logits of each head that is trained: several have a loss each."""
    frames, inputs = network_inputs(network, batch, contract=contract)
    if isinstance(network, SifaNet):
        return network.forward_heads(frames)
    return (cast(Tensor, network(frames, **inputs)),)


def in_units_of_frames(residual: Tensor, *, std: Sequence[float]) -> Tensor:
    """Scale differences of RGB levels as normalisation scales frames; the mean cancels.

    Args:
        residual: (B, Q, 3, J, H, W) levels, of which white has 255.
        std: Three values on the scale where white is 1.

    Returns:
        (B, Q, 3, J, H, W) float32.
    """
    levels = 255.0 * torch.tensor(std, dtype=torch.float32, device=residual.device)
    return residual.to(torch.float32) / levels.view(3, 1, 1, 1)
