"""Train a model by streaming shards."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gopstream.jobs.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from gopstream.jobs.console import progress
from gopstream.jobs.errors import UserError
from gopstream.jobs.network import (
    build_network,
    check_dataset,
    check_labels,
    clip_spec,
    run_heads,
)
from gopstream.jobs.recipe import Recipe, TrainRecipe
from gopstream.models.catalogue import find_model
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec
from gopstream.shards.loading.loader import StreamingLoader
from gopstream.shards.loading.order import Shuffle
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage

LOG_FILE = "log.jsonl"
RECIPE_FILE = "recipe.json"


class TrainOutcome(NamedTuple):
    """Where a run ended."""

    checkpoint: Path
    loss: float
    """Mean of the last logged steps."""
    clips_per_second: float
    num_skipped: int
    """Clips that were left out since this process began, if the recipe allows that."""


class _Run(NamedTuple):
    """The moving parts of a run."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    loader: StreamingLoader
    classes: tuple[str, ...]


def train(
    recipe: Recipe,
    root: Storage | Path | str,
    *,
    out: Path,
    resume: bool = False,
    force: bool = False,
    reading: ReadOptions | None = None,
) -> TrainOutcome:
    """Train as the recipe says, to its last step.

    Args:
        recipe: The run.
        root: Folder or address of the dataset.
        out: Folder of the run: checkpoint, log and the resolved recipe.
        resume: Continue the run in ``out`` at its last checkpoint, exactly. Its
            ``train.on_error`` may be another.
        force: Use a dataset that was not made as the recipe asks, with a warning.
        reading: How samples are read from object storage; None takes the defaults.

    Raises:
        UserError: If the dataset or the recipe does not fit, ``out`` holds another run, or the
            loss is no longer a number.
    """
    _check_out(out, recipe, resume=resume)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    torch.manual_seed(recipe.train.seed)
    run = _prepare(recipe, root, force=force, reading=reading)
    step = _restore(run, out) if resume else 0
    out.mkdir(parents=True, exist_ok=True)
    (out / RECIPE_FILE).write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    return _loop(run, recipe, out, first_step=step)


def _check_out(out: Path, recipe: Recipe, *, resume: bool) -> None:
    held = out / RECIPE_FILE
    if not resume:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is not empty; use --resume to continue, or another folder")
        return
    if not held.is_file():
        raise UserError(f"{out}: there is no run to resume")
    wanted = json.loads(json.dumps(asdict(recipe)))
    if _what_decides(json.loads(held.read_text())) != _what_decides(wanted):
        raise UserError(f"{out} holds a run of another recipe (see {held}); nothing was changed")


def _what_decides(content: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's content without what changes no step before a damaged clip comes.

    So a run that such a clip has stopped can be told to go on without it.
    """
    train = {key: value for key, value in content["train"].items() if key != "on_error"}
    return content | {"train": train}


def _prepare(
    recipe: Recipe, root: Storage | Path | str, *, force: bool, reading: ReadOptions | None
) -> _Run:
    labels = recipe.train.labels or None
    dataset = ShardDataset(root, recipe.train.split, labels=labels, reading=reading)
    check_labels(dataset)
    network = build_network(recipe, len(dataset.classes))
    spec = clip_spec(recipe, network)
    check_dataset(dataset, spec, data=recipe.data, force=force)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    optimiser = torch.optim.AdamW(
        _parameter_groups(network, recipe.train.weight_decay), lr=recipe.train.learning_rate
    )
    loader = _loader(dataset, spec, recipe.train)
    return _Run(network, optimiser, loader, dataset.classes)


def _loader(dataset: ShardDataset, spec: ClipSpec, recipe: TrainRecipe) -> StreamingLoader:
    try:
        return StreamingLoader(
            dataset,
            spec,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            workers=recipe.workers,
            shuffle=Shuffle(recipe.shuffle, recipe.window_shards),
            on_error=recipe.on_error,
        )
    except ShardError:  # of the dataset
        raise
    except ValueError as error:
        raise UserError(f"train: {error}") from error


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels, not biases, norms and other vectors."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def learning_rate(step: int, recipe: TrainRecipe) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to ``final_rate``."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * cosine)


def _batches(loader: StreamingLoader) -> Iterator[ClipBatch]:
    while True:
        yield from loader


def _loop(run: _Run, recipe: Recipe, out: Path, *, first_step: int) -> TrainOutcome:
    settings = recipe.train
    contract = find_model(recipe.model.name).contract
    losses: list[float] = []
    mean_loss = math.nan
    begun = time.monotonic()
    run.network.train()
    with ExitStack() as stack:
        log = stack.enter_context((out / LOG_FILE).open("a"))
        advance = stack.enter_context(progress("training", total=settings.steps, unit="steps"))
        advance(first_step)
        batches = _batches(run.loader)
        for step in range(first_step, settings.steps):
            batch = next(batches)
            rate = learning_rate(step, settings)
            heads = run_heads(run.network, batch, contract=contract)
            loss = _loss(heads, batch.labels, label_smoothing=settings.label_smoothing)
            _update(run, loss, rate, settings.clip_norm)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise UserError(
                    f"the loss is {losses[-1]} at step {step} (clips {', '.join(batch.keys[:4])}"
                    ", ...); lower train.learning_rate, or look at these clips"
                )
            if (step + 1) % settings.log_every == 0 or step + 1 == settings.steps:
                mean_loss = sum(losses) / len(losses)
                seconds = time.monotonic() - begun
                row = {"step": step + 1, "loss": mean_loss, "rate": rate, "seconds": seconds}
                log.write(json.dumps(row) + "\n")
                log.flush()
                losses.clear()
            advance(note=f"loss {mean_loss:.3f}")
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                _save(run, recipe, out, step + 1)
    seconds = max(time.monotonic() - begun, 1e-9)
    num_skipped = run.loader.num_skipped
    clips = (settings.steps - first_step) * settings.batch_size - num_skipped
    return TrainOutcome(out / CHECKPOINT_FILE, mean_loss, clips / seconds, num_skipped)


def _loss(heads: tuple[Tensor, ...], labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Return the sum of the heads' losses, as the authors of SIFA-Net train its two."""
    labels = labels.to(heads[0].device)
    losses = [
        nn.functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        for logits in heads
    ]
    return torch.stack(losses).sum()


def _update(run: _Run, loss: Tensor, rate: float, clip_norm: float) -> None:
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    if clip_norm:
        nn.utils.clip_grad_norm_(run.network.parameters(), clip_norm)
    run.optimiser.step()


def _save(run: _Run, recipe: Recipe, out: Path, step: int) -> None:
    content = {
        "model": run.network.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "loader": run.loader.state_dict(),
        "rng": torch.get_rng_state(),
        "step": step,
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "classes": list(run.classes),
    }
    if torch.cuda.is_available():
        content["cuda_rng"] = torch.cuda.get_rng_state_all()
    save_checkpoint(out / CHECKPOINT_FILE, content)


def _restore(run: _Run, out: Path) -> int:
    """Take up a checkpoint; returns its step."""
    content = load_checkpoint(out)
    if tuple(content["classes"]) != run.classes:
        raise UserError(f"{out} was trained on other classes than the dataset has")
    run.network.load_state_dict(content["model"])
    run.optimiser.load_state_dict(content["optimiser"])
    run.loader.load_state_dict(content["loader"])
    torch.set_rng_state(content["rng"])
    if torch.cuda.is_available() and "cuda_rng" in content:
        torch.cuda.set_rng_state_all(content["cuda_rng"])
    step = int(content["step"])
    _cut_log(out / LOG_FILE, step)
    return step


def _cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: these steps are taken again."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    path.write_text("".join(kept))
