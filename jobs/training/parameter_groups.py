"""Which parameters have which learning rate and decay."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import torch
from torch import nn

from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe_sections import GroupRecipe, OptimiserRecipe

_HEAD: Final = re.compile(r"(dual_)?head\.")
# A block of a stage, "stages.0.blocks.1", or a block, "blocks.3"; not what is numbered inside it.
_BLOCK: Final = re.compile(r"(?:[^.\d]\w*\.)+\d+(?:\.blocks\.\d+)?(?=\.)")


def parameter_groups(
    network: nn.Module, optimiser: OptimiserRecipe, *, learning_rate: float
) -> list[dict[str, Any]]:
    """Sort the parameters that are trained into groups for an optimiser.

    The first of ``optimiser.groups`` that matches a name counts. Without a decay of its own a
    matrix or kernel has the optimiser's, and so has a vector (bias, norm) where it says so.
    ``layer_decay`` multiplies rates besides.

    Args:
        network: Whose parameters; those that need no gradient are left out.
        optimiser: Of the recipe.
        learning_rate: Of the recipe.

    Returns:
        Groups with ``params``, ``names``, ``lr``, ``lr_share`` (of the learning rate) and
        ``weight_decay``, in the order of the network.

    Raises:
        UserError: If a group matches no parameter.
    """
    shares = layer_shares(network, optimiser.layer_decay)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    used: set[str] = set()
    for name, parameter in network.named_parameters():
        rule = _first_match(name, optimiser.groups)
        used.update([rule.match] if rule else [])
        share = shares[name] * (rule.rate if rule else 1.0)
        if share == 0.0 or not parameter.requires_grad:
            parameter.requires_grad_(False)
            continue
        decays = parameter.ndim > 1 or optimiser.decay_vectors
        decay = optimiser.weight_decay if decays else 0.0
        if rule is not None and rule.weight_decay is not None:
            decay = rule.weight_decay
        group = groups.setdefault(
            (share, decay),
            {
                "params": [],
                "names": [],
                "lr": learning_rate * share,
                "lr_share": share,
                "weight_decay": decay,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    for rule in optimiser.groups:
        if rule.match not in used:
            raise UserError(
                f"optimiser.groups: {rule.match!r} is the first match of no parameter of the "
                f"network; its parameters are such as {', '.join(_some_names(network))}"
            )
    return list(groups.values())


def make_optimiser(
    network: nn.Module, recipe: OptimiserRecipe, *, learning_rate: float
) -> torch.optim.Optimizer:
    """Make the recipe's optimiser over a network's parameter groups.

    Raises:
        UserError: If a group matches no parameter, or nothing is left to train.
    """
    groups = parameter_groups(network, recipe, learning_rate=learning_rate)
    if not groups:
        raise UserError("optimiser: no parameter is left to train; look at the groups' rates")
    if recipe.name == "sgd":
        return torch.optim.SGD(
            groups, lr=learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
    return torch.optim.AdamW(groups, lr=learning_rate, betas=recipe.betas)


def freeze_all_but_head(network: nn.Module, *, is_own: bool) -> None:
    """Leave the last layer alone to be trained, for a linear probe.

    Args:
        network: A model of the catalogue, whose heads are known, or one's own, whose last linear
            layer is taken.
        is_own: Which of the two.

    Raises:
        UserError: If there is no such layer.
    """
    heads = {name for name, _ in network.named_parameters() if _HEAD.match(name)}
    if is_own:
        linear = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
        last = f"{linear[-1]}." if linear else None
        heads = {name for name, _ in network.named_parameters() if last and name.startswith(last)}
    if not heads:
        raise UserError('train: trainable = "head", but the network has no linear last layer')
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in heads)


def layer_shares(network: nn.Module, decay: float) -> dict[str, float]:
    """Return what layer-wise decay multiplies the rate of each parameter by.

    Blocks count in the order of the network; what comes before the first block is one layer
    below it, what follows the last one (the head) has the whole rate.
    """
    names = [name for name, _ in network.named_parameters()]
    blocks = list(dict.fromkeys(_blocks(names)))
    depth = {block: number for number, block in enumerate(blocks, start=1)}
    shares = {}
    seen_block = False
    for name in names:
        block = _BLOCK.match(name)
        seen_block = seen_block or block is not None
        outside = len(blocks) + 1 if seen_block else 0
        layer = outside if block is None else depth[block[0]]
        shares[name] = decay ** (len(blocks) + 1 - layer)
    return shares


def _blocks(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if (block := _BLOCK.match(name)) is not None:
            yield block[0]


def _first_match(name: str, rules: Sequence[GroupRecipe]) -> GroupRecipe | None:
    return next((rule for rule in rules if fnmatchcase(name, rule.match)), None)


def _some_names(network: nn.Module) -> list[str]:
    names = [name for name, _ in network.named_parameters()]
    return names[:: max(1, len(names) // 6)]
