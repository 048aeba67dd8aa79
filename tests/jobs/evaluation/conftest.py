"""Datasets of three small videos, and checkpoints of networks that nobody trained."""

import pytest
import torch
from torch import nn

from gopstream.jobs.checkpoint import save_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.labels import open_targets
from gopstream.jobs.network import build_network
from gopstream.jobs.recipe import load_recipe, recipe_content
from gopstream.shards import ShardDataset

CLASSES = ("circle", "left", "right")


@pytest.fixture(scope="session")
def root(tmp_path_factory, write_video):
    """Five videos of 30 frames, 96x64, of three classes: the whole of a split called val."""
    folder = tmp_path_factory.mktemp("evaluation")
    for number in range(5):
        path = folder / "videos" / CLASSES[number % 3] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, 30, velocity=(3 - 2 * number, number), seed=number)
    words = ["shard", str(folder / "videos"), "--out", str(folder / "set"), "--split", "val"]
    assert main([*words, "--short-side", "64", "--workers", "1"]) == 0
    return folder / "set"


@pytest.fixture(scope="session")
def make_checkpoint(root):
    """Return a function: (path, recipe's name, overrides, dataset=, step=, steps=) -> network."""

    def make(path, name, overrides=(), *, dataset=root, step=1, steps=1):
        recipe = load_recipe(name, ("train.threads=1", "data.short_side=64", *overrides))
        split = ShardDataset(dataset, recipe.test.split)
        sets = open_targets(split, recipe.train.label_sets).sets
        torch.manual_seed(1)
        network = build_network(recipe, sum(len(labels.classes) for labels in sets))
        with torch.no_grad():  # or all classes would be as likely
            for head in [each for each in network.modules() if isinstance(each, nn.Linear)][-1:]:
                head.weight *= 40
        content = {
            "model": network.state_dict(),
            "ema": None,
            "optimiser": {},
            "loader": {},
            "rng": [torch.get_rng_state()],
            "step": step,
            "steps": steps,
            "recipe": recipe_content(recipe),
            "sets": [[labels.name, list(labels.classes)] for labels in sets],
            "settings": dict(split.facts.settings),
            "split": "train",
            "dataset": str(dataset),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, content)
        return network.eval()

    return make
