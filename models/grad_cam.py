"""Grad-CAM: which places and frames of a clip speak for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, equations 1 and 2, with frames as one more dimension of place.

Dimensions: B batch, T, H, W the grid of a feature map, N tokens of a frame, C channels.
"""

import inspect
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn


def grad_cam(
    model: nn.Module,
    frames: Tensor,
    *,
    class_index: int | Tensor,
    layer: str | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Weight a feature map's channels by what they do to a class's logit, and add them up.

    Use a model in evaluation mode, or dropout takes part. Parameters get no gradients.

    Args:
        model: Of the catalogue.
        frames: As `model` takes them, (B, 3, ...).
        class_index: The class, or (B) int64 for one in each clip.
        layer: "features" for the last feature map, as `model.forward_features` returns it; or
            the name of a submodule whose output is (B, T, H, W, C), such as "blocks.1". None
            for the model's own choice.
        inputs: More of what `model.forward` takes, by keyword: DVT's motion and its validity.

    Returns:
        (B, T, H, W) float32, 0 or more, of no fixed scale: divide by the maximum to show it.

    Raises:
        ValueError: If there is no such layer, its output has no grid, or the model does not
            take one of `inputs`.
    """
    if layer is None:
        layer = _own_layer(model)
    inputs = {} if inputs is None else inputs
    _check_inputs(model, inputs)
    with torch.enable_grad():
        if layer == "features":
            features, logits = _features_and_logits(model, frames, inputs=inputs)
        else:
            features, logits = _output_and_logits(model, frames, layer=layer, inputs=inputs)
        rows = torch.arange(len(logits), device=logits.device)
        chosen = logits[rows, class_index].sum()
        (gradient,) = torch.autograd.grad(chosen, features)
    features = _with_grid(model, features.detach(), layer=layer).float()
    weights = _with_grid(model, gradient, layer=layer).float().mean(dim=(1, 2, 3), keepdim=True)
    return (weights * features).sum(dim=-1).relu()


def _check_inputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    taken = list(inspect.signature(model.forward).parameters)
    for name in inputs:
        if name not in taken[1:]:
            raise ValueError(
                f"{type(model).__name__} takes no input {name!r}; beside {taken[0]} it takes "
                f"{', '.join(taken[1:]) or 'nothing'}"
            )


def _own_layer(model: nn.Module) -> str:
    choice = getattr(model, "grad_cam_layer", None)
    if choice is not None:
        return cast(str, choice)
    if not hasattr(model, "forward_features"):
        raise ValueError(
            f"{type(model).__name__} has no feature map of its own choice: give layer=, the name "
            "of a submodule whose output is (B, T, H, W, C), such as its last block"
        )
    return "features"


def _features_and_logits(
    model: nn.Module, frames: Tensor, *, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    forward_features = getattr(model, "forward_features", None)
    if forward_features is None:
        raise ValueError(f"{type(model).__name__} has no forward_features; name a submodule")
    features = forward_features(frames, **inputs)
    if not features.requires_grad:  # every parameter is frozen
        features = features.detach().requires_grad_()
    return features, cast(Tensor, model.classify(features))  # type: ignore[operator]


def _output_and_logits(
    model: nn.Module, frames: Tensor, *, layer: str, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    modules = dict(model.named_modules())
    if not layer or layer not in modules:
        raise ValueError(f"{type(model).__name__} has no submodule {layer!r}")
    outputs: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        outputs.append(output)
        return output

    handle = modules[layer].register_forward_hook(keep)
    try:
        logits = model(frames, **inputs)
    finally:
        handle.remove()
    if len(outputs) != 1:
        raise ValueError(f"{layer} ran {len(outputs)} times in one forward pass, not once")
    return outputs[0], logits


def _with_grid(model: nn.Module, values: Tensor, *, layer: str) -> Tensor:
    """Return (B, T, H, W, C)."""
    if layer == "features":
        return values.movedim(1, -1)
    if values.ndim in (3, 4) and hasattr(model, "tokens_to_map"):
        return cast(Tensor, model.tokens_to_map(values))  # type: ignore[operator]
    if values.ndim != 5:
        raise ValueError(f"the output of {layer} is {tuple(values.shape)}, not (B, T, H, W, C)")
    return values
