"""Train a model by streaming shards."""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError
from gopstream.jobs.labels import open_labelled
from gopstream.jobs.network import build_network, check_dataset, clip_spec, input_contract
from gopstream.jobs.recipe import Recipe, recipe_content
from gopstream.jobs.training.heads import TrainedHeads
from gopstream.jobs.training.loop import Validation, run_loop
from gopstream.jobs.training.parameter_groups import freeze_all_but_head, make_optimiser
from gopstream.jobs.training.ranks import Ranks, gathered, joined, take_from_first
from gopstream.jobs.training.run_folder import check_folder, write_recipe
from gopstream.jobs.training.run_logs import open_logs
from gopstream.jobs.training.run_state import Run, begin_training, restore_run, seed_process
from gopstream.jobs.training.schedules import schedule_in_steps
from gopstream.jobs.training.steps import Stepper, StepSettings
from gopstream.jobs.training.weight_average import WeightAverage
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.errors import ShardError
from gopstream.shards.loading.clip_spec import ClipSpec
from gopstream.shards.loading.loader import StreamingLoader
from gopstream.shards.loading.order import Shuffle
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage


class Watching(NamedTuple):
    """How a run is watched; its log is written always."""

    tensorboard: bool = True
    wandb: str | None = None
    """Project of Weights & Biases."""
    profile_steps: int = 0
    """Steps of which a trace is written; 0 for none."""


class TrainOutcome(NamedTuple):
    """Where a run ended."""

    checkpoint: Path
    loss: float
    """Mean of the last logged steps; no number where nothing was left to do."""
    clips_per_second: float
    num_skipped: int
    """Clips that were left out since this process began, if the recipe allows that."""
    is_first: bool
    """Whether this process speaks for all."""


def train(
    recipe: Recipe,
    root: Storage | Path | str,
    *,
    out: Path,
    resume: bool = False,
    force: bool = False,
    reading: ReadOptions | None = None,
    watching: Watching | None = None,
) -> TrainOutcome:
    """Train as the recipe says, to its last step; with torchrun, on all its processes.

    Args:
        recipe: The run.
        root: Folder or address of the dataset.
        out: Folder of the run: checkpoints, log and the resolved recipe.
        resume: Continue the run in ``out`` at its last checkpoint, exactly; on any number of
            processes.
        force: Use a dataset that was not made as the recipe asks, with a warning.
        reading: How samples are read from object storage; None takes the defaults.
        watching: How it is watched; None takes the defaults.

    Raises:
        UserError: If the dataset or the recipe does not fit, ``out`` holds another run, or the
            loss is no longer a number.
        KeyboardInterrupt: If it was told to stop, after saving.
    """
    watching = watching or Watching()
    with joined() as ranks:
        has_checkpoint = check_folder(out, recipe, resume=resume)
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        torch.use_deterministic_algorithms(recipe.train.deterministic)
        run, stepper = _prepare(
            recipe,
            root,
            ranks=ranks,
            out=out,
            has_checkpoint=has_checkpoint,
            force=force,
            reading=reading,
        )
        validation = _validation(run, root, force=force, reading=reading)
        step = restore_run(run) if has_checkpoint else 0
        gathered(None, ranks)  # all have looked at the folder before one writes to it
        if ranks.is_first:
            write_recipe(out, recipe)
            if step == run.schedule.steps:
                say(f"{out}: this run has taken all its {step} steps")
        with open_logs(
            out,
            tensorboard=watching.tensorboard,
            wandb=watching.wandb,
            name=out.name,
            resumed_step=step if resume else None,
            settings=recipe_content(recipe),
            active=ranks.is_first,
        ) as logs:
            ended = run_loop(
                run,
                stepper,
                logs,
                first_step=step,
                validation=validation,
                profile_steps=watching.profile_steps,
            )
        counts = gathered(run.loader.num_skipped, ranks)
        num_skipped = sum(count for count in counts if isinstance(count, int))
        return TrainOutcome(
            run.checkpoint, ended.loss, ended.clips_per_second, num_skipped, ranks.is_first
        )


def _prepare(
    recipe: Recipe,
    root: Storage | Path | str,
    *,
    ranks: Ranks,
    out: Path,
    has_checkpoint: bool,
    force: bool,
    reading: ReadOptions | None,
) -> tuple[Run, Stepper]:
    settings = recipe.train
    dataset = ShardDataset(root, settings.split, labels=settings.labels or None, reading=reading)
    targets = open_labelled(dataset, settings.label_sets)
    torch.manual_seed(settings.seed)  # the same weights on all processes
    begun = recipe
    if has_checkpoint:  # which has all weights: the file that they began with may be gone
        begun = replace(recipe, model=replace(recipe.model, weights=""))
    network = build_network(begun, targets.num_outputs)
    spec = clip_spec(recipe, network)
    check_dataset(dataset, spec, data=recipe.data, force=force)
    network.to(ranks.device)
    take_from_first((parameter.data for parameter in network.parameters()), ranks)
    if settings.trainable == "head":
        freeze_all_but_head(network, is_own=recipe.model.is_own)
    optimiser = make_optimiser(network, recipe.optimiser, learning_rate=settings.learning_rate)
    loader = _loader(dataset, spec, recipe, ranks)
    steps_per_epoch = max(1, len(dataset) // settings.batch_size)
    run = Run(
        recipe=recipe,
        ranks=ranks,
        dataset=dataset,
        targets=targets,
        network=network,
        optimiser=optimiser,
        average=WeightAverage(network, decay=settings.ema) if settings.ema else None,
        loader=loader,
        schedule=schedule_in_steps(settings, recipe.schedule, steps_per_epoch=steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        out=out,
    )
    begin_training(run)
    stepper = Stepper(
        _heads(run),
        network,
        optimiser,
        targets=targets,
        contract=input_contract(recipe, network),
        settings=StepSettings(
            mix=recipe.mix,
            clip_norm=settings.clip_norm,
            precision=settings.precision,
            accumulate=settings.accumulate,
            seed=settings.seed,
        ),
    )
    seed_process(settings.seed, ranks)
    return run, stepper


def _heads(run: Run) -> nn.Module:
    """Return the network as it is trained: compiled, or in DDP, or both."""
    heads = TrainedHeads(run.network)
    if run.recipe.train.compile:
        heads.compile()
    if run.ranks.world_size == 1:
        return heads
    model = run.recipe.model
    return DistributedDataParallel(
        heads,
        device_ids=[run.ranks.device] if run.ranks.device.type == "cuda" else None,
        # What a model does not use that is given no motion, and one's own may not.
        find_unused_parameters=model.is_own or not model.use_motion,
    )


def _loader(dataset: ShardDataset, spec: ClipSpec, recipe: Recipe, ranks: Ranks) -> StreamingLoader:
    settings = recipe.train
    parts = ranks.world_size * settings.accumulate
    if settings.batch_size % parts:
        raise UserError(
            f"train: batch_size = {settings.batch_size} clips do not divide into accumulate = "
            f"{settings.accumulate} parts on each of {ranks.world_size} processes"
        )
    try:
        return StreamingLoader(
            dataset,
            spec,
            batch_size=settings.batch_size // parts,
            batches_per_step=settings.accumulate,
            seed=settings.seed,
            workers=settings.workers,
            shuffle=Shuffle(settings.shuffle, settings.window_shards),
            rank=ranks.rank,
            world_size=ranks.world_size,
            on_error=settings.on_error,
        )
    except ShardError:  # of the dataset
        raise
    except ValueError as error:
        raise UserError(f"train: {error}") from error


def _validation(
    run: Run, root: Storage | Path | str, *, force: bool, reading: ReadOptions | None
) -> Validation | None:
    """Open what the run is validated on, so that what does not fit is said at the beginning."""
    settings = run.recipe.train
    if not settings.validate_epochs:
        return None
    dataset = ShardDataset(
        root, run.recipe.test.split, labels=settings.labels or None, reading=reading
    )
    targets = open_labelled(dataset, settings.label_sets)
    if targets.sets != run.targets.sets:
        raise UserError(f"{dataset.root}/{dataset.split} has other classes than {settings.split}")
    spec = clip_spec(run.recipe, run.network, testing=True)
    check_dataset(dataset, spec, data=run.recipe.data, force=force)
    every = max(1, math.ceil(settings.validate_epochs * run.steps_per_epoch))
    return Validation(dataset, targets, every)
