"""The moving parts of a run, and how they are saved and taken up again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gopstream.jobs.checkpoint import CHECKPOINT_FILE, keep_older, load_checkpoint, save_checkpoint
from gopstream.jobs.errors import UserError
from gopstream.jobs.labels import Targets
from gopstream.jobs.recipe import Recipe, recipe_content
from gopstream.jobs.training.ranks import Ranks, gathered
from gopstream.jobs.training.schedules import Schedule
from gopstream.jobs.training.weight_average import WeightAverage
from gopstream.shards.loading.loader import StreamingLoader
from gopstream.shards.loading.order import derived_seed
from gopstream.shards.reader import ShardDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run is made of, on one process."""

    recipe: Recipe
    ranks: Ranks
    dataset: ShardDataset
    targets: Targets
    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    loader: StreamingLoader
    schedule: Schedule
    steps_per_epoch: int
    out: Path

    @property
    def checkpoint(self) -> Path:
        """Its newest."""
        return self.out / CHECKPOINT_FILE


def begin_training(run: Run) -> None:
    """Put the network into training mode; for a linear probe its body stays as in evaluation."""
    run.network.train(run.recipe.train.trainable == "all")


def save_run(run: Run, *, step: int, last_saved: int | None) -> None:
    """Write a checkpoint; every process must ask, the first one writes.

    Args:
        run: After a whole step.
        step: Steps taken.
        last_saved: Step of the checkpoint that is there; None for none.
    """
    rng = gathered(torch.get_rng_state(), run.ranks)
    cuda_rng = gathered(torch.cuda.get_rng_state(), run.ranks) if _is_cuda(run) else None
    if not run.ranks.is_first:
        return
    content: dict[str, Any] = {
        "model": run.network.state_dict(),
        "ema": None if run.average is None else run.average.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "loader": run.loader.state_dict(),
        "rng": rng,
        "cuda_rng": cuda_rng,
        "step": step,
        "steps": run.schedule.steps,
        "recipe": recipe_content(run.recipe),
        "sets": [[labels.name, list(labels.classes)] for labels in run.targets.sets],
        "settings": dict(run.dataset.facts.settings),
        "split": run.dataset.split,
        "dataset": str(run.dataset.root),
    }
    if last_saved is not None and last_saved != step:
        keep_older(run.out, step=last_saved, keep=run.recipe.train.keep)
    save_checkpoint(run.checkpoint, content)


def restore_run(run: Run) -> int:
    """Take up the newest checkpoint; returns its step.

    On another number of processes the clips of each step are the same, what dropout draws is not.

    Raises:
        UserError: If the checkpoint is of other classes or of a run of another length.
    """
    content = load_checkpoint(run.out)
    sets = [[labels.name, list(labels.classes)] for labels in run.targets.sets]
    if content["sets"] != sets:
        raise UserError(f"{run.out} was trained on other classes than the dataset has")
    if content["steps"] != run.schedule.steps:
        raise UserError(
            f"{run.out} is a run of {content['steps']} steps, the dataset as it is now gives "
            f"{run.schedule.steps}; were samples added or removed?"
        )
    try:
        run.network.load_state_dict(content["model"])
        run.optimiser.load_state_dict(content["optimiser"])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{run.checkpoint}: its weights are not those of model {run.recipe.model.name} as it "
            f"is now: {str(error).splitlines()[-1].strip()}"
        ) from error
    if run.average is not None:
        run.average.load_state_dict(content["ema"])
    run.loader.load_state_dict(content["loader"])
    step = int(content["step"])
    if len(content["rng"]) == run.ranks.world_size:
        _set_rng(content["rng"], content["cuda_rng"], run)
    else:
        seed_process(run.recipe.train.seed, run.ranks, step=step)
    return step


def seed_process(seed: int, ranks: Ranks, *, step: int = 0) -> None:
    """Let each process draw numbers of its own, such as those of dropout."""
    number = step * ranks.world_size + ranks.rank
    torch.manual_seed(derived_seed(seed, number) if number else seed)


def _set_rng(states: list[Tensor], cuda_states: list[Tensor] | None, run: Run) -> None:
    torch.set_rng_state(states[run.ranks.rank])
    if _is_cuda(run) and cuda_states is not None:
        torch.cuda.set_rng_state(cuda_states[run.ranks.rank])


def _is_cuda(run: Run) -> bool:
    return run.ranks.device.type == "cuda"
