"""The commands that put a trained network to use.

They import torch when they run, not before: ``gopstream --help`` must not wait for it.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gopstream.jobs.command_options import JsonFile, check_positive, ffmpeg_binary, report


def export(
    checkpoint: Path,
    /,
    *,
    out: Path,
    file_format: Annotated[
        Literal["pt2", "safetensors", "both"], Parameter(name="--format")
    ] = "both",
    json_file: JsonFile = None,
) -> int:
    """Write a checkpoint's network for use elsewhere: its weights, and a program.

    model.safetensors has the weights, for `create_model`; model.pt2 runs by torch alone, where
    gopstream is not installed; model.json says what goes in and what comes out.

    Example: `gopstream export runs/dvt_tiny_demo --out exported`

    Parameters
    ----------
    checkpoint
        A checkpoint, or the folder of a run.
    out
        New or empty folder.
    file_format
        Which files to write, beside model.json.
    """
    from gopstream.jobs.export import export_checkpoint

    content = export_checkpoint(checkpoint, out, file_format=file_format)
    if json_file != "-":
        files = ", ".join(content["files"])
        print(f"{content['model']} in {out}: {files}, model.json")
    report(content, json_file)
    return 0


def predict(
    video: str,
    /,
    *more: str,
    checkpoint: Path,
    top: int = 5,
    views: str | None = None,
    mode: Literal["canonical", "native"] | None = None,
    json_file: JsonFile = None,
) -> int:
    """Say what videos show, by a trained network.

    They are extracted as the training data were, and looked at as the recipe tests. Exit code 1
    if one of them cannot be used; the others are predicted all the same.

    Example: `gopstream predict video.mp4 --checkpoint runs/dvt_tiny_demo`

    Parameters
    ----------
    video
        A local video file.
    more
        Further ones.
    checkpoint
        A checkpoint, or the folder of a run.
    top
        How many classes to show.
    views
        Clips x crops of each segment, spread evenly; by default test.views of the recipe.
    mode
        Extract in another mode than the training data were, with a warning.
    """
    from gopstream.jobs.predict import predict as predict_videos
    from gopstream.jobs.predictions import predictions_summary

    check_positive({"top": top})
    predictions = predict_videos(
        checkpoint,
        [video, *more],
        views=views,
        mode=mode,
        ffmpeg_binary=ffmpeg_binary(),
        workers=os.cpu_count() or 1,
    )
    summary = predictions_summary(predictions, top=top)
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 1 if predictions.num_failed else 0
