"""The command line: parses, calls, prints.

Exit codes: 0 done, 1 failed, 2 wrong usage. Results go to standard output, everything else to
standard error.
"""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

import gopstream
from gopstream.jobs.console import error_console, say

app = App(
    name="gopstream",
    help="Turn compressed video into shards that models stream, and train video models on them.",
    version=gopstream.__version__,
    help_format="markdown",
)

JsonFile = Annotated[
    str | None,
    Parameter(
        name="--json",
        help="Write the result as JSON to this file; - is standard output.",
        allow_leading_hyphen=True,
    ),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: Words of the command; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        _complain(str(error), hint="'gopstream COMMAND --help' lists what there is")
        return 2
    except KeyboardInterrupt:
        _complain("stopped; what was finished is kept")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in "| head": nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the process's boundary
        if debug:
            traceback.print_exc()
        _complain(_describe(error))
        return 1


def _describe(error: Exception) -> str:
    """Return an error in words; one that we did not foresee says how to see more."""
    from gopstream.jobs.errors import UserError
    from gopstream.pipeline.errors import PipelineError
    from gopstream.shards.errors import ShardError

    if isinstance(error, (UserError, PipelineError, ShardError)):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}".lstrip(": ")
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "einops", "torchvision"):
        return f"{error.name} is not installed; training needs: pip install 'gopstream[train]'"
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _complain(message: str, *, hint: str = "") -> None:
    console = error_console()
    console.print(f"gopstream: {message}", markup=False, style="red")
    if hint:
        console.print(hint, markup=False)


def _report(content: dict[str, Any], target: str | None) -> None:
    """Write a result as JSON where ``--json`` says."""
    if target is None:
        return
    text = json.dumps(content, indent=2, sort_keys=True)
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n")


def _local_folder(url: str) -> Path:
    from gopstream.jobs.errors import UserError

    if "://" in url:
        raise UserError(f"{url}: only local folders are supported yet; give a path")
    return Path(url)


@app.command
def shard(
    videos: Path,
    /,
    *,
    out: str,
    annotations: Path | None = None,
    dataset: Literal["folder", "csv"] | None = None,
    split: str = "train",
    planes: str = "frames,motion,residual",
    short_side: int = 256,
    quality: int = 90,
    frame_stride: int = 1,
    crf: int = 20,
    gop: int = 12,
    segment_frames: int = 300,
    videos_per_shard: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    workers: int | None = None,
    json_file: JsonFile = None,
) -> int:
    """Preprocess videos into shards.

    Each video is decoded once: re-encoded to a canonical H.264 stream, from which motion vectors
    and residuals are exact, while the frames are stored as JPEG. A video that cannot be used is
    recorded with its reason and stops nothing. The same command continues a job that was
    interrupted.

    Example: `gopstream shard videos/train --out shards --split train`

    Parameters
    ----------
    videos
        Folder of the videos: one sub-folder per class, or no classes; with a CSV, the folder its
        paths are relative to.
    out
        Folder of the dataset. Several splits go into one dataset, by one command each.
    annotations
        A CSV with the columns path, label and perhaps split; others are kept.
    dataset
        Form of the annotations; guessed from the above if not given.
    split
        Name of the split, for videos whose list does not name one.
    planes
        What to store: motion and any of frames, residual.
    short_side
        Upper limit of the shorter side in pixels; smaller videos are not enlarged.
    quality
        JPEG quality of the stored frames, 1 to 100.
    frame_stride
        Store every n-th frame as JPEG; motion and residual are stored for each frame.
    crf
        Quality of the canonical stream, 1 (best) to 51.
    gop
        Frames from one I-frame to the next.
    segment_frames
        Cut longer videos into samples of this many frames.
    videos_per_shard
        Upper limit of videos in a shard; by default at most 64, fewer in a short list.
    seed
        Seed of the shuffle that spreads videos over shards.
    limit
        Take only so many videos of each split.
    workers
        Processes; by default one per core.
    """
    from gopstream.jobs.errors import UserError
    from gopstream.jobs.preprocess import preprocess
    from gopstream.jobs.summaries import shard_summary
    from gopstream.pipeline.annotations import read_annotations
    from gopstream.pipeline.extract import ExtractionOptions
    from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg

    if not videos.is_dir():
        raise UserError(f"{videos}: no such folder")
    try:
        options = ExtractionOptions(
            canonical=CanonicalFormat(short_side=short_side, crf=crf, gop=gop),
            planes=tuple(plane.strip() for plane in planes.split(",") if plane.strip()),
            quality=quality,
            frame_stride=frame_stride,
            segment_frames=segment_frames,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    for name, value in (("videos-per-shard", videos_per_shard), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    outcomes = preprocess(
        videos,
        _local_folder(out),
        video_list=read_annotations(videos, annotations=annotations, dataset=dataset, split=split),
        options=options,
        videos_per_shard=videos_per_shard,
        seed=seed,
        workers=max(1, workers or os.cpu_count() or 1),
        ffmpeg_binary=os.environ.get("GOPSTREAM_FFMPEG") or default_ffmpeg(),
        limit=limit,
    )
    summary = shard_summary(outcomes)
    if json_file != "-":
        print(summary.text)
    _report(summary.content, json_file)
    return 0 if summary.content["samples"] else 1


@app.command
def verify(
    url: str,
    /,
    *,
    split: str | None = None,
    rebuild: bool = False,
    json_file: JsonFile = None,
) -> int:
    """Re-read a dataset and name every fault.

    Checks counts, names, places and checksums, decodes every JPEG and chunk. Exit code 1 on any
    fault.

    Example: `gopstream verify shards --rebuild`

    Parameters
    ----------
    url
        Folder of the dataset.
    split
        Only this split; by default all.
    rebuild
        Also rebuild every decoded frame from motion and residual, bit for bit.
    """
    from gopstream.jobs.verify import verify_dataset

    result = verify_dataset(_local_folder(url), split=split, rebuild=rebuild)
    for fault in result["faults"]:
        say(f"{fault['split']}/{fault['shard']} {fault['key']}: {fault['what']}")
    if json_file != "-":
        print(
            f"{result['splits']} splits, {result['shards']} shards, {result['samples']} samples: "
            + (f"{len(result['faults'])} faults" if result["faults"] else "no faults")
        )
    _report(result, json_file)
    return 1 if result["faults"] else 0


@app.command
def info(target: str, /, *, json_file: JsonFile = None) -> int:
    """Show what a dataset or a video is.

    Example: `gopstream info shards` or `gopstream info video.mp4`

    Parameters
    ----------
    target
        Folder of a dataset, or a video file.
    """
    from gopstream.jobs.summaries import dataset_summary, video_summary

    path = _local_folder(target)
    summary = dataset_summary(path) if path.is_dir() else video_summary(path)
    if json_file != "-":
        print(summary.text)
    _report(summary.content, json_file)
    return 0


@app.command
def train(
    recipe: str,
    /,
    *overrides: str,
    data: str,
    out: Path | None = None,
    resume: bool = False,
    json_file: JsonFile = None,
) -> int:
    """Train a model by streaming shards.

    Example: `gopstream train dvt_tiny_demo --data demo/shards train.steps=200`

    Parameters
    ----------
    recipe
        Name of a recipe that comes with gopstream, or a TOML file.
    overrides
        Changes to the recipe, as section.key=value.
    data
        Folder of the dataset.
    out
        Folder of the run; by default runs/RECIPE.
    resume
        Continue the run in that folder at its last checkpoint, exactly.
    """
    from gopstream.jobs.recipe import load_recipe
    from gopstream.jobs.train import train as train_recipe

    folder = out or Path("runs") / Path(recipe).stem
    outcome = train_recipe(
        load_recipe(recipe, overrides), _local_folder(data), out=folder, resume=resume
    )
    if json_file != "-":
        print(
            f"loss {outcome.loss:.4f}, {outcome.clips_per_second:.0f} clips/s; "
            f"checkpoint: {outcome.checkpoint}"
        )
    _report({"checkpoint": str(outcome.checkpoint), "loss": outcome.loss}, json_file)
    return 0


@app.command
def evaluate(
    checkpoint: Path,
    /,
    *,
    data: str,
    split: str = "val",
    views: str = "1x1",
    zero_motion: bool = False,
    workers: int = 0,
    json_file: JsonFile = None,
) -> int:
    """Measure a checkpoint's accuracy on a split.

    Example: `gopstream evaluate runs/dvt_tiny_demo --data demo/shards --views 3x1`

    Parameters
    ----------
    checkpoint
        A checkpoint, or the folder of a run.
    data
        Folder of the dataset.
    split
        Name of the split.
    views
        Clips x crops of each sample, spread evenly; their probabilities are averaged.
    zero_motion
        Give the model no motion: shows what it takes from it.
    workers
        Processes that load; 0 loads in this one.
    """
    from gopstream.jobs.evaluate import evaluate as evaluate_checkpoint

    result = evaluate_checkpoint(
        checkpoint,
        _local_folder(data),
        split=split,
        views=views,
        zero_motion=zero_motion,
        workers=workers,
    )
    if json_file != "-":
        print(
            f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, mean class accuracy "
            f"{result['mean_class_accuracy']:.2%} on {result['samples']} samples "
            f"(chance {result['chance']:.2%})"
        )
    _report(result, json_file)
    return 0


@app.command
def models(name: str | None = None, /, *, json_file: JsonFile = None) -> int:
    """List the models: parameters, multiply-adds, clip and planes they need.

    Example: `gopstream models dvt_tiny`

    Parameters
    ----------
    name
        Only this model, in full.
    """
    from gopstream.jobs.models import catalogue_summary

    summary = catalogue_summary(name)
    if json_file != "-":
        print(summary.text)
    _report(summary.content, json_file)
    return 0


@app.command
def demo(*, out: Path = Path("demo"), json_file: JsonFile = None) -> int:
    """Run the main job end to end on this machine, in about five minutes on two cores.

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
    from gopstream.pipeline.transcode import default_ffmpeg

    binary = os.environ.get("GOPSTREAM_FFMPEG") or default_ffmpeg()
    summary = demo_summary(run_demo(out, ffmpeg_binary=binary), out)
    if json_file != "-":
        print(summary.text)
    _report(summary.content, json_file)
    return 0
