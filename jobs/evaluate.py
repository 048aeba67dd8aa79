"""Multi-view evaluation of a checkpoint on a split."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gopstream.jobs.console import progress, say
from gopstream.jobs.evaluation.paper_report import paper_report
from gopstream.jobs.evaluation.results_folder import (
    PredictionsForm,
    check_results_folder,
    predictions_form,
    write_results,
)
from gopstream.jobs.evaluation.run_views import Looking, Seen, own_share, run_views
from gopstream.jobs.evaluation.scores import all_scores
from gopstream.jobs.evaluation.views import parse_views
from gopstream.jobs.labels import check_labels
from gopstream.jobs.network import accumulated_for
from gopstream.jobs.trained_run import TrainedRun, open_run
from gopstream.jobs.training.ranks import Ranks, joined
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import View
from gopstream.shards.loading.clips import OnError
from gopstream.shards.storage import Storage


def evaluate(
    checkpoint: Path,
    root: Storage | Path | str,
    *,
    split: str | None = None,
    views: str | None = None,
    zero_motion: bool = False,
    workers: int | None = None,
    force: bool = False,
    reading: ReadOptions | None = None,
    on_error: OnError = "raise",
    out: Path | None = None,
    predictions: PredictionsForm | None = None,
    report: bool = False,
) -> dict[str, Any]:
    """Classify each sample by the average of its views.

    Processes that torchrun started share the samples; the result is the same as one process has.

    Args:
        checkpoint: File, or folder of a run.
        root: Folder or address of the dataset.
        split: Which split; None for ``test.split`` of the recipe.
        views: Clips x crops, spread evenly; None for ``test.views``.
        zero_motion: Give the model zero motion, or a zero RGB residual, valid everywhere: a
            control that shows what it takes from it.
        workers: Processes that load; None for ``train.workers``.
        force: Use a dataset that was not made as the recipe asks, with a warning.
        reading: How samples are read from object storage; None takes the defaults.
        on_error: ``skip`` leaves out samples of which a view cannot be read, with a warning: what
            is measured is the rest, by all views.
        out: New folder for predictions, confusion matrices and the summary; or one of an earlier
            evaluation, which is replaced.
        predictions: In which form they are written; None takes Parquet if pyarrow is there.
        report: Put the scores beside those of the paper that the recipe is of.

    Returns:
        ``top1``, ``top5``, ``loss``, ``samples`` (those measured), ``skipped`` (those left out),
        ``split``, ``views``, ``average``, ``zero_motion``, ``chance``; of one set of classes also
        ``mean_class_accuracy``, ``per_class`` accuracy by name and ``confusion`` unless there are
        many classes, of several label sets all of these under ``sets``; and ``report``, if asked
        for. Empty on other processes than the first.

    Raises:
        UserError: If checkpoint and dataset do not fit, or no sample can be read.
    """
    form = predictions_form(out, predictions)
    asked = None if views is None else parse_views(views)  # before anything is read
    with joined() as ranks:
        if out is not None and ranks.is_first:
            check_results_folder(out)
        run = open_run(checkpoint, root, split=split, force=force, reading=reading)
        if not run.recipe.train.label_sets:
            check_labels(run.dataset)
        if run.recipe.train.threads:
            torch.set_num_threads(run.recipe.train.threads)
        looking = _looking(run, asked, workers=workers, on_error=on_error)
        seen = _look(run, looking, ranks, zero_motion=zero_motion)
    if not ranks.is_first:
        return {}
    if seen.reason:
        say(f"warning: a view was left out, and so its sample is not counted: {seen.reason}")
    result = all_scores(seen.outcomes, run.targets.sets) | {
        "split": run.dataset.split,
        "views": run.recipe.test.views if views is None else views,
        "average": looking.average,
        "zero_motion": zero_motion,
        "skipped": seen.num_skipped,
    }
    if report:
        result["report"] = paper_report(run, result, steps=run.trained.content["steps"])
    if out is not None:
        write_results(out, result, run=run, root=root, outcomes=seen.outcomes, form=form)
    return result


def _looking(
    run: TrainedRun, asked: list[View] | None, *, workers: int | None, on_error: OnError
) -> Looking:
    settings = run.recipe.train
    return Looking(
        views=asked or parse_views(run.recipe.test.views),
        average=run.recipe.test.average,
        precision=settings.precision,
        # Not divided by the processes: with other batches the numbers would be others.
        batch_size=run.recipe.test.batch_size or settings.batch_size // settings.accumulate,
        workers=settings.workers if workers is None else workers,
        on_error=on_error,
    )


def _look(run: TrainedRun, looking: Looking, ranks: Ranks, *, zero_motion: bool) -> Seen:
    samples, _ = own_share(len(run.dataset), looking, ranks)
    num_views = len(samples) * len(looking.views)
    with progress(
        "evaluating", total=num_views, unit="views", silent=not ranks.is_first
    ) as advance:
        return run_views(
            run.network,
            run.dataset,
            run.spec,
            targets=run.targets,
            contract=run.contract,
            looking=looking,
            ranks=ranks,
            change=partial(_without_motion, run.network) if zero_motion else None,
            advance=advance,
        )


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
