"""The commands that look at videos without making shards. None of them needs torch."""

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gopstream.jobs.command_options import (
    JsonFile,
    check_positive,
    extraction_options,
    ffmpeg_binary,
    report,
)
from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError


def extract(
    video: Path,
    /,
    *,
    out: Path,
    format_name: Annotated[
        Literal["gopstream", "mvextractor"], Parameter(name="--format")
    ] = "gopstream",
    mode: Literal["canonical", "native"] = "native",
    backend: Literal["pyav", "mvextractor"] = "pyav",
    planes: str = "frames,motion,residual",
    short_side: int = 256,
    quality: int = 90,
    json_file: JsonFile = None,
) -> int:
    """Extract one video as plain files.

    With --format gopstream: motion.npy, coverage.npy, pts.npy, `residual_*.npy` where it is exact,
    `frames/*.jpg` and clip.json. With --format mvextractor: the folder that `extract_mvs --dump`
    writes, for tools that read it.

    Example: `gopstream extract video.mp4 --out extracted`

    Parameters
    ----------
    video
        A video file.
    out
        New folder.
    format_name
        Which files to write.
    mode
        Vectors of the original stream (native), or of the canonical stream that shard makes.
    backend
        Who reads the vectors. mvextractor reads streams without B-frames alone.
    planes
        What to write: motion and any of frames, residual.
    short_side
        Upper limit of the shorter side of the frames in pixels.
    quality
        JPEG quality of the frames, 1 to 100.
    """
    from gopstream.jobs.extract_files import extract_to_folder
    from gopstream.pipeline.mvextractor_dump import dump_video

    if format_name == "mvextractor":
        if mode != "native" or backend != "pyav":
            raise UserError("--format mvextractor dumps the original stream, read by PyAV")
        if out.exists():
            raise UserError(f"{out} exists; choose another folder")
        num_frames = dump_video(video, out, with_pictures="frames" in planes.split(","))
        print(f"{num_frames} frames in {out}")
        report({"video": video.name, "frames": num_frames}, json_file)
        return 0
    options = extraction_options(
        mode=mode, backend=backend, planes=planes, short_side=short_side, quality=quality
    )
    content = extract_to_folder(
        video,
        out,
        options=options,
        ffmpeg_binary=ffmpeg_binary(),
        on_frames=lambda count: say(f"{count} frames"),
    )
    for warning in content["warnings"]:
        say(f"warning: {warning}")
    if json_file != "-":
        print(f"{content['frames']} frames in {out}; residual: {content['exactness']}")
    report(content, json_file)
    return 0


def scan(
    videos: Path,
    /,
    *,
    out: Path,
    workers: int | None = None,
    limit: int | None = None,
    headers_only: bool = False,
    sha256: bool = False,
    overwrite: bool = False,
    stall_seconds: float = 300.0,
    json_file: JsonFile = None,
) -> int:
    """Audit videos and measure their motion, without frames or shards: for filtering.

    One row per video: stream facts, exactness and why not, motion statistics, camera motion, shot
    cuts, damage. Close to the speed of decoding alone. The same command continues a scan that was
    interrupted.

    Example: `gopstream scan videos --out videos.parquet`

    Parameters
    ----------
    videos
        A folder (searched recursively), a .txt file with one path per line, or one video.
    out
        The Parquet file.
    workers
        Processes; by default one per core.
    limit
        Take only so many videos.
    headers_only
        Read packets without decoding: no motion and no cuts, but much faster.
    sha256
        Also hash the files.
    overwrite
        Replace the file if it exists.
    stall_seconds
        A video without progress for so long is given up.
    """
    from gopstream.jobs.scan import scan as scan_videos
    from gopstream.jobs.scan import scan_summary

    check_positive({"workers": workers, "limit": limit, "stall-seconds": stall_seconds})
    outcome = scan_videos(
        videos,
        out,
        workers=workers or os.cpu_count() or 1,
        limit=limit,
        headers_only=headers_only,
        with_sha256=sha256,
        overwrite=overwrite,
        stall_seconds=stall_seconds,
    )
    summary = scan_summary(outcome)
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0


def conformance(
    *,
    extractor: list[str] | None = None,
    dumps: Path | None = None,
    repeats: int = 3,
    json_file: JsonFile = None,
) -> int:
    """Check motion vectors against streams whose right vectors are known.

    Exit code 1 if gopstream's own vectors are not all right. Others are reported: an extractor
    with decoding threads may be right in one run and wrong in the next.

    Example: `gopstream conformance --extractor gopstream --extractor mvextractor`

    Parameters
    ----------
    extractor
        Whom to check: gopstream, pyav-auto, pyav-slice, pyav-frame16, mvextractor; by default all.
    dumps
        Also check a folder of dumps in mvextractor's format, one folder per stream.
    repeats
        How often each stream is read.
    """
    from gopstream.jobs.conformance.adapters import EXTRACTOR_NAMES
    from gopstream.jobs.conformance.check import conformance as check

    names = tuple(extractor or EXTRACTOR_NAMES)
    unknown = [name for name in names if name not in EXTRACTOR_NAMES]
    if unknown:
        raise UserError(f"unknown extractor {unknown[0]!r}; there is {', '.join(EXTRACTOR_NAMES)}")
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {repeats}")
    result = check(names, repeats=repeats, dumps=dumps)
    if json_file != "-":
        print(result.text)
    report(result.content, json_file)
    return 0 if result.ok else 1
