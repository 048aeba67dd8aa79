"""What a model costs: its parameters, and its multiplications for one clip."""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from gopstream.models.catalogue import create_model, find_model


class ModelCost(NamedTuple):
    """Size and arithmetic of a model."""

    parameters: int
    gmacs: float
    """10**9 multiply-adds of one forward pass of one clip."""


def measure_model(
    name: str,
    *,
    num_classes: int,
    num_frames: int | None = None,
    size: int | None = None,
    **options: object,
) -> ModelCost:
    """Count a model's parameters and multiply-adds, without memory for its weights.

    The counter sees convolutions, linear layers and matrix products only, not norms or
    activations. What a model samples between cells is added where the model tells it
    (`sampling_macs`): for the paper's DVT that is 2 of 57 GMACs.

    Args:
        name: One of `list_models`.
        num_classes: Outputs.
        num_frames: Sampled frames of a clip; None for the catalogue's.
        size: Height and width of the clip in pixels; None for the catalogue's.
        **options: As for `create_model`.

    Returns:
        The cost for one clip.

    Raises:
        ValueError: As `create_model` does.
    """
    entry = find_model(name)
    side = entry.contract.size if size is None else size
    if size is not None and "size" in entry.options:
        options["size"] = size
    clip_frames = num_frames or entry.contract.num_frames
    with torch.device("meta"):
        model = create_model(
            name, num_classes=num_classes, num_frames=num_frames, weights=None, **options
        )
        frames = torch.zeros(1, 3, clip_frames, side, side)
        counter = FlopCounterMode(display=False)
        with counter:
            model.eval()(frames)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    sampling = getattr(model, "sampling_macs", 0)
    return ModelCost(parameters=parameters, gmacs=counter.get_total_flops() / 2e9 + sampling / 1e9)
