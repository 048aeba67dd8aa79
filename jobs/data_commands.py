"""The commands that check and describe data. None of them needs torch."""

import os
from pathlib import Path

from gopstream.jobs.command_options import (
    JsonFile,
    StoreArguments,
    check_positive,
    ffmpeg_binary,
    report,
)
from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError
from gopstream.pipeline.object_store import is_address, local_path

_STORE = StoreArguments()


def verify(
    url: str,
    /,
    *,
    split: str | None = None,
    rebuild: bool = False,
    workers: int | None = None,
    journal: Path | None = None,
    allow_shared_sources: bool = False,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Re-read a dataset and name every fault.

    Checks counts, names, places and checksums, decodes every JPEG and chunk, and looks for videos
    that two splits share. Exit code 1 on any fault.

    Example: `gopstream verify shards --rebuild`

    Parameters
    ----------
    url
        Folder of the dataset, or its address in object storage (s3://BUCKET/FOLDER); a web server
        (http://, https://) cannot be listed, and so does not do. From object storage one shard
        at a time and worker is downloaded to the temporary folder.
    split
        Only this split; by default all.
    rebuild
        Also rebuild every decoded frame from motion and residual, bit for bit.
    workers
        Processes; by default one per core.
    journal
        A file that keeps what was found, for large datasets. The same command goes on where it
        was interrupted: shards that were whole, and have not been changed by a command since, are
        not read again. Without the file all are.
    allow_shared_sources
        Do not look for videos that two splits share.
    """
    from gopstream.jobs.verify import verify_dataset
    from gopstream.shards.storage import open_storage

    check_positive({"workers": workers})
    result = verify_dataset(
        open_storage(url, store.options()),
        split=split,
        rebuild=rebuild,
        workers=workers or os.cpu_count() or 1,
        journal=journal,
        allow_shared_sources=allow_shared_sources,
    )
    for fault in result["faults"]:
        say(f"{fault['split']}/{fault['shard']} {fault['key']}: {fault['what']}")
    if json_file != "-":
        known = f" ({result['known']} known from the journal)" if result["known"] else ""
        print(
            f"{_counted(result['splits'], 'split')}, {_counted(result['shards'], 'shard')}{known}, "
            f"{_counted(result['samples'], 'sample')}: "
            + (_counted(len(result["faults"]), "fault") if result["faults"] else "no faults")
        )
    report(result, json_file)
    return 1 if result["faults"] else 0


def info(
    target: str,
    /,
    *,
    clip: str | None = None,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Show what a dataset or a video is.

    Of a video: its stream as the headers have it, which motion it offers, and whether a residual
    would be exact, or what is missing for that.

    Example: `gopstream info shards` or `gopstream info video.mp4 --clip 16x4`

    Parameters
    ----------
    target
        A dataset: its folder, or its address in object storage (s3://BUCKET/FOLDER); a web server
        (http://, https://) cannot be listed, and so does not do. Or a video file.
    clip
        Of a video: frames x stride of a clip, such as 16x4, for which to tell how much of the
        motion between its frames can be followed in the canonical stream.
    """
    from gopstream.jobs.summaries import dataset_summary
    from gopstream.jobs.video_summary import clip_shape, video_summary
    from gopstream.shards.storage import open_storage

    if is_address(target) or local_path(target).is_dir():
        if clip is not None:
            raise UserError("--clip is for a video; this is a dataset")
        summary = dataset_summary(open_storage(target, store.options()))
    else:
        shape = None if clip is None else clip_shape(clip)
        summary = video_summary(local_path(target), shape=shape, ffmpeg_binary=ffmpeg_binary())
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0


def _counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
