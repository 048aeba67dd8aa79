"""Multi-view evaluation of a checkpoint on a split."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gopstream.jobs.console import progress, say
from gopstream.jobs.errors import UserError
from gopstream.jobs.network import accumulated_for, check_labels, run_network
from gopstream.jobs.trained_run import open_run
from gopstream.models.catalogue import find_model
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import View
from gopstream.shards.loading.clips import OnError
from gopstream.shards.loading.loader import view_batches
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage


def parse_views(text: str) -> list[View]:
    """Turn ``4x3`` (clips x crops) into views.

    Raises:
        UserError: If it is not two positive numbers.
    """
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d?)", text)
    if not match:
        raise UserError(f"expected views as clips x crops, such as 4x3, got {text!r}")
    clips, crops = int(match.group(1)), int(match.group(2))
    return [View(c, clips, k, crops) for c in range(clips) for k in range(crops)]


def evaluate(
    checkpoint: Path,
    root: Storage | Path | str,
    *,
    split: str = "val",
    views: str = "1x1",
    zero_motion: bool = False,
    workers: int = 0,
    force: bool = False,
    reading: ReadOptions | None = None,
    on_error: OnError = "raise",
) -> dict[str, Any]:
    """Classify each sample by the mean of its views' probabilities.

    Args:
        checkpoint: File, or folder of a run.
        root: Folder or address of the dataset.
        split: Which split.
        views: Clips x crops, spread evenly.
        zero_motion: Give the model zero motion, or a zero RGB residual, valid everywhere: a
            control that shows what it takes from it.
        workers: Processes that load.
        force: Use a dataset that was not made as the recipe asks, with a warning.
        reading: How samples are read from object storage; None takes the defaults.
        on_error: ``skip`` leaves out samples of which a view cannot be read, with a warning: what
            is measured is the rest, by all views.

    Returns:
        ``top1``, ``top5``, ``mean_class_accuracy``, ``samples`` (those measured), ``skipped``
        (those left out), ``views``, ``chance``, ``per_class`` accuracy by name.

    Raises:
        UserError: If checkpoint and dataset do not fit, or no sample can be read.
    """
    run = open_run(checkpoint, root, split=split, force=force, reading=reading)
    dataset, recipe = run.dataset, run.recipe
    check_labels(dataset)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    contract = find_model(recipe.model.name).contract
    chosen = parse_views(views)
    try:
        batches = view_batches(
            dataset,
            run.spec,
            batch_size=recipe.train.batch_size,
            views=chosen,
            workers=workers,
            on_error=on_error,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with (
        progress("evaluating", total=len(dataset) * len(chosen), unit="views") as advance,
        torch.inference_mode(),
    ):
        for batch in _reported(batches):
            advance(len(batch.keys) + len(batch.skipped))
            if not batch.keys:
                continue
            fed = _without_motion(run.network, batch) if zero_motion else batch
            probabilities = (
                run_network(run.network, fed, contract=contract).float().softmax(dim=1).cpu()
            )
            parts.append((batch.positions // len(chosen), batch.labels, probabilities))
    if not parts:
        raise _nothing_read(dataset)
    samples, labels, probabilities = map(torch.cat, zip(*parts, strict=True))
    is_whole = samples.bincount()[samples] == len(chosen)
    labels = labels[is_whole][:: len(chosen)]
    if not len(labels):
        raise _nothing_read(dataset)
    scores = probabilities[is_whole].view(len(labels), len(chosen), -1).mean(dim=1)
    facts = {"views": views, "skipped": len(dataset) - len(labels)}
    return _scores(scores, labels, dataset.classes) | facts


def _nothing_read(dataset: ShardDataset) -> UserError:
    return UserError(
        f"{dataset.root}/{dataset.split}: no sample can be read in all of its views; run "
        "'gopstream verify' to see all faults"
    )


def _reported(batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
    """Hand batches on, and say why the first view was left out, if one was."""
    was_said = False
    for batch in batches:
        if batch.skipped and not was_said:
            was_said = True
            reason = batch.skipped[0].message
            say(f"warning: a view was left out, and so its sample is not counted: {reason}")
        yield batch


def _without_motion(network: nn.Module, batch: ClipBatch) -> ClipBatch:
    batch = accumulated_for(network, batch)
    zeros, ones = torch.zeros_like, torch.ones_like
    return replace(
        batch,
        motion=None if batch.motion is None else zeros(batch.motion),
        valid=None if batch.valid is None else ones(batch.valid),
        rgb_residual=None if batch.rgb_residual is None else zeros(batch.rgb_residual),
        rgb_valid=None if batch.rgb_valid is None else ones(batch.rgb_valid),
    )


def _scores(scores: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    ranked = scores.argsort(dim=1, descending=True, stable=True)
    right = ranked == labels[:, None]
    top1 = right[:, 0]
    per_class = {
        name: float(top1[labels == number].float().mean())
        for number, name in enumerate(classes)
        if bool((labels == number).any())
    }
    return {
        "top1": float(top1.float().mean()),
        "top5": float(right[:, :5].any(dim=1).float().mean()),
        "mean_class_accuracy": sum(per_class.values()) / len(per_class),
        "samples": len(labels),
        "chance": 1 / len(classes),
        "per_class": per_class,
    }
