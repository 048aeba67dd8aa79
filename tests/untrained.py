"""Checkpoints of networks that were never trained: what export and prediction begin with."""

import torch

from gopstream.jobs.checkpoint import save_checkpoint
from gopstream.jobs.network import build_network
from gopstream.jobs.recipe import recipe_content, recipe_from
from gopstream.models.catalogue import MODELS


def recipe_of(name, options=None, **sections):
    """Return a recipe of a small network: of the catalogue by its `shrunk` options, or one's own.

    Options are added to those; sections to what the recipe has.
    """
    entry = MODELS.get(name)
    options = (dict(entry.shrunk) if entry is not None else {}) | (options or {})
    num_frames = options.pop("num_frames", 4)
    size = options.pop("size", entry.shrunk_size if entry is not None else 16)
    content = {
        "model": {"name": name, "options": options},
        "clip": {"num_frames": num_frames},
        "transform": {"size": size},
        "train": {"batch_size": 4, "learning_rate": 1e-3, "steps": 1},
    }
    for section, values in sections.items():
        content[section] = content.get(section, {}) | values
    return recipe_from(content, where="test")


def write_checkpoint(path, recipe, sets, *, settings=None, averaged=False, seed=0):
    """Write a checkpoint with drawn weights.

    Args:
        path: The file.
        recipe: Of the run.
        sets: Names of classes by label set; "" is the classes of a dataset.
        settings: Of the dataset.
        averaged: Whether there is an average of the weights, which differs from them.
        seed: Of the weights.

    Returns:
        The network that counts: of the average, if there is one, in evaluation mode.
    """
    num_outputs = sum(map(len, sets.values()))
    torch.manual_seed(seed)
    network = build_network(recipe, num_outputs).eval()
    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    if averaged:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.25).add_(0.01)
    content = {
        "model": weights,
        "ema": network.state_dict() if averaged else None,
        "optimiser": {},
        "loader": {},
        "rng": [torch.random.get_rng_state()],
        "step": 7,
        "steps": 7,
        "recipe": recipe_content(recipe),
        "sets": [[name, list(classes)] for name, classes in sets.items()],
        "settings": dict(settings or {}),
        "split": "train",
        "dataset": "shards",
    }
    save_checkpoint(path, content)
    return network
