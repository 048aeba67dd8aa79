"""The commands that make and check shards. None of them needs torch."""

import os
from pathlib import Path
from typing import Literal

from gopstream.jobs.command_options import (
    JsonFile,
    check_positive,
    extraction_options,
    ffmpeg_binary,
    local_folder,
    report,
)
from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError


def shard(
    videos: Path,
    /,
    *,
    out: str,
    annotations: Path | None = None,
    dataset: Literal["folder", "csv"] | None = None,
    split: str = "train",
    mode: Literal["canonical", "native"] = "canonical",
    planes: str | None = None,
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
    stall_seconds: float = 300.0,
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
    mode
        Re-encode to the canonical stream, or keep the vectors of the original one (native): then
        at its own resolution, with both lists of B-frames, and with a residual only where it is
        exact. HEVC, VP9 and AV1 have no vectors that could be kept.
    planes
        What to store: motion and any of frames, residual; by default all, in native mode
        frames,motion.
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
    stall_seconds
        A video without progress for so long is given up.
    """
    from gopstream.jobs.preprocess import preprocess
    from gopstream.jobs.summaries import shard_summary
    from gopstream.pipeline.annotations import read_annotations

    if not videos.is_dir():
        raise UserError(f"{videos}: no such folder")
    check_positive(
        {"videos-per-shard": videos_per_shard, "limit": limit, "stall-seconds": stall_seconds}
    )
    options = extraction_options(
        planes=planes,
        mode=mode,
        short_side=short_side,
        crf=crf,
        gop=gop,
        quality=quality,
        frame_stride=frame_stride,
        segment_frames=segment_frames,
    )
    outcomes = preprocess(
        videos,
        local_folder(out),
        video_list=read_annotations(videos, annotations=annotations, dataset=dataset, split=split),
        options=options,
        videos_per_shard=videos_per_shard,
        seed=seed,
        workers=max(1, workers or os.cpu_count() or 1),
        ffmpeg_binary=ffmpeg_binary(),
        limit=limit,
        stall_seconds=stall_seconds,
    )
    summary = shard_summary(outcomes)
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0 if summary.content["samples"] else 1


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

    result = verify_dataset(local_folder(url), split=split, rebuild=rebuild)
    for fault in result["faults"]:
        say(f"{fault['split']}/{fault['shard']} {fault['key']}: {fault['what']}")
    if json_file != "-":
        print(
            f"{result['splits']} splits, {result['shards']} shards, {result['samples']} samples: "
            + (f"{len(result['faults'])} faults" if result["faults"] else "no faults")
        )
    report(result, json_file)
    return 1 if result["faults"] else 0


def info(target: str, /, *, clip: str | None = None, json_file: JsonFile = None) -> int:
    """Show what a dataset or a video is.

    Of a video: its stream as the headers have it, which motion it offers, and whether a residual
    would be exact, or what is missing for that.

    Example: `gopstream info shards` or `gopstream info video.mp4 --clip 16x4`

    Parameters
    ----------
    target
        Folder of a dataset, or a video file.
    clip
        Of a video: frames x stride of a clip, such as 16x4, for which to tell how much of the
        motion between its frames can be followed in the canonical stream.
    """
    from gopstream.jobs.summaries import dataset_summary
    from gopstream.jobs.video_summary import clip_shape, video_summary

    path = local_folder(target)
    if path.is_dir():
        if clip is not None:
            raise UserError("--clip is for a video; this is a folder")
        summary = dataset_summary(path)
    else:
        shape = None if clip is None else clip_shape(clip)
        summary = video_summary(path, shape=shape, ffmpeg_binary=ffmpeg_binary())
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0
