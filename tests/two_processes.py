"""What two processes do that torchrun starts: they speak to each other, train, and lose one.

``torchrun --nproc-per-node 2 tests/two_processes.py ROOT OUT`` trains each of the cases on the
dataset in ROOT, goes on with the runs that are in ``OUT/begun``, and writes what it saw to
``OUT/rank-N.json``.
"""

import json
import os
import sys
from pathlib import Path

import torch

from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.train import Watching, train
from gopstream.jobs.training.ranks import agreed, gathered, joined, mean_over

PLAIN = (
    "train.steps=6",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "train.keep=9",
    "train.ema=0.9",
    "schedule.warmup_steps=2",
    "mix.label_smoothing=0.1",
    'optimiser.name="sgd"',
    "train.learning_rate=0.05",
    "model.options.drop_path_rate=0.0",
    "model.options.head_dropout=0.0",
)
CASES = {
    "dvt": PLAIN,
    "dvt_accumulated": (*PLAIN, "train.accumulate=2"),
    "dvt_without_motion": (*PLAIN, "model.use_motion=false"),
}
VALIDATED = {
    "sifa_net": (
        *(word for word in PLAIN if "drop_path" not in word),
        "model.name=sifa_net_tiny",
        "train.steps=3",
        "train.validate_epochs=1",
        'test.split="train"',
        "test.batch_size=3",
    ),
}
"""Has batch norms, which count the clips of their own process: its steps are not those of one."""


def train_case(name: str, root: Path, out: Path, *, resume: bool = False) -> None:
    """Train a case in ``OUT/NAME``."""
    recipe = load_recipe("dvt_tiny_demo", (CASES | VALIDATED)[name])
    train(recipe, root, out=out / name, resume=resume, watching=Watching(tensorboard=False))


def see_the_others() -> dict[str, object]:
    """Return what a process hears of the other."""
    with joined() as ranks:
        values = torch.tensor([1.0 + ranks.rank, 10.0], dtype=torch.float64)
        return {
            "rank": ranks.rank,
            "world_size": ranks.world_size,
            "is_first": ranks.is_first,
            "gathered": gathered({"rank": ranks.rank}, ranks),
            "agreed": agreed(15 * ranks.rank, ranks),
            "mean": mean_over(values, ranks).tolist(),
            "own": values.tolist(),
        }


def refused(root: Path, out: Path) -> str:
    """Return what is said of a step of which a process would have half a clip."""
    few = (*PLAIN, "train.batch_size=2", "train.accumulate=2")
    try:
        train(load_recipe("dvt_tiny_demo", few), root, out=out / "refused")
    except UserError as error:
        return str(error)
    return ""


def lose_the_other() -> str:
    """Let the second process end; returns what the first one says."""
    try:
        with joined() as ranks:
            if not ranks.is_first:
                os._exit(0)
            for _ in range(100):
                agreed(0, ranks)
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    """Do all of it."""
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    seen = see_the_others()
    for name in CASES | VALIDATED:
        train_case(name, root, out)
    for folder in sorted((out / "begun").iterdir()):
        train_case(folder.name, root, out / "begun", resume=True)
    seen["refused"] = refused(root, out)
    report = out / f"rank-{seen['rank']}.json"
    report.write_text(json.dumps(seen))
    if lost := lose_the_other():  # the process that is lost writes no more
        report.write_text(json.dumps(seen | {"lost": lost}))


if __name__ == "__main__":
    main()
