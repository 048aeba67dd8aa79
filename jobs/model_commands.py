"""The commands that train and measure models.

They import torch when they run, not before: ``gopstream --help`` must not wait for it.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gopstream.jobs.command_options import (
    JsonFile,
    ReadingArguments,
    StoreArguments,
    allow_deterministic_products,
    ffmpeg_binary,
    report,
)
from gopstream.jobs.errors import UserError

_STORE = StoreArguments()
_READING = ReadingArguments()


def train(
    recipe: str,
    /,
    *overrides: str,
    data: str,
    out: Path | None = None,
    resume: bool = False,
    force: Annotated[bool, Parameter(negative="")] = False,
    tensorboard: bool = True,
    wandb: str | None = None,
    profile: int = 0,
    reading: ReadingArguments = _READING,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Train a model by streaming shards.

    On several GPUs: `torchrun --nproc-per-node 8 -m gopstream train ...`. Ctrl-C and SIGTERM end
    the step and save; the same command with --resume goes on.

    Example: `gopstream train dvt_tiny_demo --data demo/shards train.steps=200`

    Parameters
    ----------
    recipe
        Name of a recipe that comes with gopstream, or a TOML file.
    overrides
        Changes to the recipe, as section.key=value.
    data
        Folder of the dataset, or an address (s3://bucket/folder, https://host/folder).
    out
        Folder of the run; by default runs/RECIPE.
    resume
        Continue the run in that folder at its last checkpoint, exactly; on any number of GPUs.
    force
        Use a dataset that was not made as the recipe's [data] asks.
    tensorboard
        Write curves for TensorBoard beside log.jsonl.
    wandb
        Project of Weights & Biases that the run is also logged to.
    profile
        Write a trace of so many steps (trace.json.gz), and a table of what took the time.
    """
    from gopstream.jobs.recipe import load_recipe
    from gopstream.jobs.train import Watching
    from gopstream.jobs.train import train as train_recipe
    from gopstream.shards.storage import open_storage

    if profile < 0:
        raise UserError(f"--profile must be a number of steps, got {profile}")

    if reading.on_error is not None:
        overrides = (*overrides, f"train.on_error={reading.on_error}")
    wanted = load_recipe(recipe, overrides)
    if wanted.train.deterministic:
        allow_deterministic_products()
    outcome = train_recipe(
        wanted,
        open_storage(data, store.options()),
        out=out or Path("runs") / Path(recipe).stem,
        resume=resume,
        force=force,
        reading=reading.options(),
        watching=Watching(tensorboard, wandb, profile),
    )
    if not outcome.is_first:
        return 0
    is_measured = not math.isnan(outcome.loss)  # a finished run had nothing left to do
    if json_file != "-":
        said = "nothing was left to do"
        if is_measured:
            said = f"loss {outcome.loss:.4f}, {outcome.clips_per_second:.0f} clips/s"
        print(f"{said}{_skips(outcome.num_skipped, 'clip')}; checkpoint: {outcome.checkpoint}")
    content = {
        "checkpoint": str(outcome.checkpoint),
        "loss": outcome.loss if is_measured else None,
        "skipped": outcome.num_skipped,
    }
    report(content, json_file)
    return 0


def evaluate(
    checkpoint: Path,
    /,
    *,
    data: str,
    split: str | None = None,
    views: str | None = None,
    zero_motion: bool = False,
    workers: int | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
    predictions: Literal["parquet", "jsonl"] | None = None,
    with_report: Annotated[bool, Parameter(name="--report", negative="")] = False,
    reading: ReadingArguments = _READING,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Measure a checkpoint's accuracy on a split, on all processes that torchrun started.

    Example: `gopstream evaluate runs/dvt_tiny_demo --data demo/shards --views 3x1`

    Parameters
    ----------
    checkpoint
        A checkpoint, or the folder of a run.
    data
        Folder of the dataset, or an address (s3://bucket/folder, https://host/folder).
    split
        Name of the split; by default test.split of the checkpoint's recipe.
    views
        Clips x crops of each sample, spread evenly, which are averaged as test.average of the
        recipe says; by default its test.views.
    zero_motion
        Give the model no motion: shows what it takes from it.
    workers
        Processes that load; 0 loads in this one; by default train.workers of the recipe.
    force
        Use a dataset that was not made as [data] of the checkpoint's recipe asks.
    out
        New folder for the prediction of each video, the confusion matrix and a summary.
    predictions
        Form of the predictions; by default Parquet, or JSON lines where pyarrow is not installed.
    with_report
        Put the scores beside those of the paper that the recipe reproduces, and say what differs.
    """
    from gopstream.jobs.evaluate import evaluate as evaluate_checkpoint
    from gopstream.jobs.evaluation.paper_report import report_text
    from gopstream.jobs.evaluation.scores import scores_text
    from gopstream.shards.storage import open_storage

    result = evaluate_checkpoint(
        checkpoint,
        open_storage(data, store.options()),
        split=split,
        views=views,
        zero_motion=zero_motion,
        workers=workers,
        force=force,
        reading=reading.options(),
        on_error=reading.on_error or "raise",
        out=out,
        predictions=predictions,
        report=with_report,
    )
    if not result:  # the first process speaks for all
        return 0
    if json_file != "-":
        print(scores_text(result) + _skips(result["skipped"], "sample"))
        if with_report:
            print(report_text(result["report"]))
    report(result, json_file)
    return 0


def _skips(count: int, thing: str) -> str:
    """Return how many were left out, as the end of a sentence; nothing for none."""
    return f"; {count} damaged {thing}{'s' * (count > 1)} left out" if count else ""


def models(
    name: str | None = None, /, *, measured: bool = False, json_file: JsonFile = None
) -> int:
    """List the models: published parameters and multiply-adds, clip and planes they need.

    Example: `gopstream models dvt_tiny`

    Parameters
    ----------
    name
        Only this model, in full, and counted.
    measured
        Count all models here, beside what was published; takes a minute or two.
    """
    from gopstream.jobs.models import catalogue_summary

    summary = catalogue_summary(name, measured=measured)
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0


def demo(*, out: Path = Path("demo"), json_file: JsonFile = None) -> int:
    """Run the main job end to end on this machine, in five to ten minutes on two cores.

    Makes labelled H.264 videos whose classes differ in motion alone, shards and verifies them,
    trains a small DVT that streams from the shards, evaluates it on held-out videos.

    Example: `gopstream demo --out demo`

    Parameters
    ----------
    out
        New folder for everything the demo makes.
    """
    from gopstream.jobs.demo import run_demo
    from gopstream.jobs.summaries import demo_summary

    summary = demo_summary(run_demo(out, ffmpeg_binary=ffmpeg_binary()), out)
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0
