"""Put a recipe's model and its data together: what a clip must hold, and how it is fed in."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from gopstream.jobs.dataset_fit import check_fit
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import Recipe
from gopstream.jobs.recipe_sections import DataRecipe
from gopstream.models import create_model
from gopstream.models.catalogue import InputContract, find_model
from gopstream.models.weights.loading import load_weights
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.batch_ops import normalise
from gopstream.shards.loading.clip_spec import ClipSpec, MotionSpec, RgbResidualSpec
from gopstream.shards.loading.clips import check_planes
from gopstream.shards.loading.transform_spec import TransformSpec
from gopstream.shards.reader import ShardDataset

# Motion fields are handed over at one cell per four pixels: the stride of the first stage.
PIXELS_PER_CELL: Final = 4


def build_network(recipe: Recipe, num_outputs: int) -> nn.Module:
    """Create the recipe's network, with fresh weights or those that it names.

    Args:
        recipe: The run.
        num_outputs: Of the network.

    Raises:
        UserError: If the model or one of its options is unknown, or the weights do not fit.
    """
    options = dict(recipe.model.options)
    if recipe.model.is_own:
        network = own_network(recipe, num_outputs)
        if recipe.model.weights:
            _load_own_weights(network, recipe.model.weights)
        return network
    try:
        if "size" in find_model(recipe.model.name).options:  # others take any size
            options.setdefault("size", recipe.transform.size)
        return create_model(
            recipe.model.name,
            num_classes=num_outputs,
            num_frames=recipe.clip.num_frames,
            weights=recipe.model.weights or None,
            **options,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"model.weights: expected a file of weights, there is no {recipe.model.weights}"
        ) from error
    except (ValueError, TypeError) as error:
        raise UserError(f"model {recipe.model.name}: {error}") from error


def own_network(recipe: Recipe, num_outputs: int) -> nn.Module:
    """Call the user's function ``package.module:function``, found as Python finds modules or here.

    Raises:
        UserError: If there is none, it fails, or it gives no network.
    """
    name = recipe.model.name
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    try:
        if here not in sys.path:  # a console script does not look there
            sys.path.append(here)
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"model {name}: {error}; the name is package.module:function, of a module in this "
            "folder or installed"
        ) from error
    try:
        network = function(
            num_classes=num_outputs, num_frames=recipe.clip.num_frames, **recipe.model.options
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"model {name}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"model {name}: gave {type(network).__name__}, not a torch.nn.Module")
    return network


def _load_own_weights(network: nn.Module, path: str) -> None:
    try:
        load_weights(network, path, layouts=())
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"model.weights: {error}") from error


def input_contract(recipe: Recipe, network: nn.Module) -> InputContract:
    """Return what a network takes: of the catalogue, or of the user's own.

    A network of one's own that has ``query_stride`` and ``subclip_frames`` takes motion, as DVT
    does; it is normalised as the recipe says.
    """
    if not recipe.model.is_own:
        return find_model(recipe.model.name).contract
    query_stride = getattr(network, "query_stride", None)
    return InputContract(
        planes=("frames",) if query_stride is None else ("frames", "motion"),
        num_frames=recipe.clip.num_frames,
        frame_stride=recipe.clip.stride,
        size=recipe.transform.size,
        mean=recipe.model.mean,
        std=recipe.model.std,
        query_stride=query_stride,
        subclip_frames=getattr(network, "subclip_frames", None),
    )


def clip_spec(recipe: Recipe, network: nn.Module, *, testing: bool = False) -> ClipSpec:
    """Return what a clip must hold for this recipe.

    Args:
        recipe: The run.
        network: Its network.
        testing: In the sizes of ``[test]``.

    Raises:
        UserError: If the recipe's numbers do not fit together.
    """
    settings: dict[str, Any] = asdict(recipe.clip)
    motion_on = settings.pop("motion_on")
    motion = rgb_residual = None
    try:
        transform = view_transform(recipe) if testing else recipe.transform
        if recipe.model.use_motion and "motion" in input_contract(recipe, network).planes:
            query_stride = cast(int, network.query_stride)
            subclip_frames = cast(int, network.subclip_frames)
            cue = getattr(getattr(network, "cue", None), "cue", "motion")
            if cue == "motion":
                motion = MotionSpec(
                    query_stride=query_stride,
                    subclip_frames=subclip_frames,
                    grid=transform.size // PIXELS_PER_CELL,
                    on=motion_on,
                )
            elif cue == "residual":
                rgb_residual = RgbResidualSpec(
                    query_stride=query_stride, subclip_frames=subclip_frames
                )
        return ClipSpec(motion=motion, rgb_residual=rgb_residual, transform=transform, **settings)
    except ValueError as error:
        raise UserError(f"clip: {error}") from error


def view_transform(recipe: Recipe) -> TransformSpec:
    """Return the transform of test views: in the sizes of ``[test]``.

    Raises:
        ValueError: If the sizes do not fit together.
    """
    size = recipe.test.size or recipe.transform.size
    short_side = recipe.test.short_side or recipe.transform.view_short_side
    # The range of the training crop must not forbid a larger test crop.
    return replace(recipe.transform, size=size, view_short_side=short_side, crop="centre")


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


def in_units_of_frames(residual: Tensor, *, std: Sequence[float]) -> Tensor:
    """Scale differences of RGB levels as normalisation scales frames; the mean cancels.

    Args:
        residual: (B, Q, 3, J, H, W) levels, of which white has 255.
        std: Three values on the scale where white is 1.

    Returns:
        (B, Q, 3, J, H, W) float32.
    """
    levels = 255.0 * torch.tensor(std, dtype=torch.float32)
    levels = levels.to(residual.device, non_blocking=True)
    return residual.to(torch.float32) / levels.view(3, 1, 1, 1)
