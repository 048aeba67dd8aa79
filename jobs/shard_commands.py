"""The commands that make shards. None of them needs torch."""

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from gopstream.jobs.command_options import (
    JsonFile,
    StoreArguments,
    check_positive,
    extraction_options,
    report,
)
from gopstream.jobs.errors import UserError

if TYPE_CHECKING:
    from gopstream.jobs.publish import SplitOutcome
    from gopstream.jobs.sharding_job import JobPart, PlanChoice, ShardingJob
    from gopstream.pipeline.annotations.record import VideoList
    from gopstream.pipeline.object_store import StoreOptions
    from gopstream.pipeline.options import ExtractionOptions

Dataset = Literal[
    "kinetics400",
    "kinetics600",
    "ssv1",
    "ssv2",
    "diving48",
    "activitynet",
    "epic_kitchens100",
    "ucf101",
    "hmdb51",
    "folder",
    "csv",
    "parquet",
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ListArguments:
    """Which videos."""

    annotations: str | None = None
    """The list of videos: a CSV with the columns path, label and perhaps split, start, end; a
    Parquet file; or the file of a public dataset, named by --dataset."""
    dataset: Dataset | None = None
    """Form of the list; by default a folder per class, or what the file's name says."""
    classes: str | None = None
    """A file with one class name per line, for lists that have only numbers."""
    split: str | None = None
    """Name of the split, for videos whose list does not name one; by default train."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExtractionArguments:
    """What becomes of each video."""

    mode: Literal["canonical", "native"] = "canonical"
    """Re-encode to the canonical stream, or keep the vectors of the original one (native): then
    at its own resolution, with both lists of B-frames, and with a residual only where it is
    exact. HEVC, VP9 and AV1 have no vectors that could be kept."""
    planes: str | None = None
    """What to store: motion and any of frames, residual; by default all, in native mode
    frames,motion."""
    short_side: int = 256
    """Upper limit of the shorter side in pixels; smaller videos are not enlarged."""
    quality: int = 90
    """JPEG quality of the stored frames, 1 to 100."""
    frame_stride: int = 1
    """Store every n-th frame as JPEG; motion and residual are stored for each frame."""
    fps: float | None = None
    """Store so many frames per second as JPEG, by time stamps; never more than there are."""
    crf: int = 20
    """Quality of the canonical stream, 1 (best) to 51."""
    gop: int = 12
    """Frames from one I-frame to the next."""
    segment_frames: int = 300
    """Cut longer videos into samples of this many frames."""

    def options(self) -> "ExtractionOptions":
        """Return them checked."""
        return extraction_options(
            planes=self.planes,
            mode=self.mode,
            short_side=self.short_side,
            crf=self.crf,
            gop=self.gop,
            quality=self.quality,
            frame_stride=self.frame_stride,
            fps=self.fps,
            segment_frames=self.segment_frames,
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """How videos are spread over shards."""

    videos_per_shard: int | None = None
    """Upper limit of videos in a shard; by default measured on a sample, so that a shard has
    about 1 GB, in a small dataset 256 MB."""
    seed: int = 0
    """Seed of the shuffle that spreads videos over shards."""
    limit: int | None = None
    """Take only so many videos of each split: for a trial."""

    def choice(self) -> "PlanChoice":
        """Return them checked."""
        from gopstream.jobs.sharding_job import PlanChoice

        check_positive({"videos-per-shard": self.videos_per_shard, "limit": self.limit})
        return PlanChoice(self.seed, self.limit, self.videos_per_shard)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WorkArguments:
    """Who does the work."""

    workers: int | None = None
    """Processes; by default one per core."""
    stall_seconds: float = 300.0
    """A video without progress for so long is given up."""
    engine: Literal["local", "ray"] = "local"
    """This machine, or a Ray cluster."""
    ray_address: str | None = None
    """Of a running Ray cluster; by default RAY_ADDRESS, or a cluster of this machine alone."""
    part: str | None = None
    """Make only share I of N, given as I/N: for job arrays. 'gopstream merge' publishes when all
    shares are done."""


_LIST, _EXTRACTION, _PLAN, _WORK = (
    ListArguments(),
    ExtractionArguments(),
    PlanArguments(),
    WorkArguments(),
)
_STORE = StoreArguments()


def shard(
    videos: str,
    /,
    *,
    out: str,
    listing: ListArguments = _LIST,
    extraction: ExtractionArguments = _EXTRACTION,
    planning: PlanArguments = _PLAN,
    work: WorkArguments = _WORK,
    store: StoreArguments = _STORE,
    plan: Annotated[bool, Parameter(negative="")] = False,
    append: Annotated[bool, Parameter(negative="")] = False,
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
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
        Folder of the videos, or an address (s3://bucket/folder, https://host/folder): one
        sub-folder per class, or no classes; with a list, what its paths are relative to.
    out
        Folder of the dataset, or an address. Several splits go into one dataset, by one command
        each.
    plan
        Only measure a sample, and print what the dataset would take: bytes of each plane against
        the source, hours, and the same for other choices. Writes nothing.
    append
        Add those videos of the list that the finished dataset does not have. Its shards stay as
        they are.
    retry_failed
        Try only the failed videos of a finished dataset again.
    """
    from gopstream.jobs.preprocess import estimate_videos, shard_videos, try_failed_again
    from gopstream.jobs.shard_summaries import plan_summary

    if plan + append + retry_failed > 1:
        raise UserError("only one of --plan, --append and --retry-failed can be given")
    if plan and work.part is not None:
        raise UserError("--plan is of all shares; leave --part out")
    job = _job(videos, out, extraction, work, store)
    choice = planning.choice()
    if retry_failed:
        _check_retry(listing, planning, work)
        outcomes = try_failed_again(job, None if listing.split is None else [listing.split], choice)
    else:
        video_list = _video_list(job, listing)
        if plan:
            summary = plan_summary(estimate_videos(job, video_list, choice), job)
            if json_file != "-":
                print(summary.text)
            report(summary.content, json_file)
            return 0
        outcomes = shard_videos(job, video_list, choice, append=append)
    return _finish(job, outcomes, json_file)


def merge(out: str, /, *, store: StoreArguments = _STORE, json_file: JsonFile = None) -> int:
    """Publish a dataset that several jobs have made with --part.

    Every planned shard must be there; otherwise it says which is not.

    Example: `gopstream merge s3://bucket/shards`

    Parameters
    ----------
    out
        Folder or address of the dataset.
    """
    from gopstream.jobs.preprocess import merge_parts
    from gopstream.jobs.shard_summaries import shard_summary
    from gopstream.shards.storage import open_storage

    summary = shard_summary(merge_parts(open_storage(out, store.options(), for_writing=True)))
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0


def _check_retry(listing: ListArguments, planning: PlanArguments, work: WorkArguments) -> None:
    """Refuse what would do nothing: the failed videos are those of the frozen plan."""
    given = {
        "--annotations": listing.annotations,
        "--dataset": listing.dataset,
        "--classes": listing.classes,
        "--limit": planning.limit,
        "--seed": planning.seed or None,
        "--part": work.part,
    }
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--retry-failed takes the videos of the plan; leave {name} out")


def _video_list(job: "ShardingJob", listing: ListArguments) -> "VideoList":
    from gopstream.pipeline.annotations import read_annotations
    from gopstream.pipeline.object_store import is_address
    from gopstream.pipeline.video_source import local_video

    videos = job.source.root
    with ExitStack() as stack:
        annotations = listing.annotations
        if annotations is not None and is_address(annotations):
            fetched = local_video(videos, annotations, options=job.store)
            annotations = str(stack.enter_context(fetched))
        return read_annotations(
            videos,
            annotations=annotations,
            dataset=listing.dataset,
            split=listing.split or "train",
            classes_file=listing.classes,
            list_files=partial(_list_sources, out=job.out, store=job.store),
        )


def _list_sources(root: str, *, out: str, store: "StoreOptions") -> list[str]:
    """List the files below the videos' root, but for those of the dataset if it lies there."""
    from gopstream.pipeline.object_store import is_address
    from gopstream.pipeline.video_source import list_files

    names = list_files(root, store)
    if is_address(root) or is_address(out):
        above, below = f"{root.rstrip('/')}/", f"{out.rstrip('/')}/"
    else:
        above, below = (f"{Path(place).resolve()}/" for place in (root, out))
    if below == above or not below.startswith(above):
        return names
    own = below.removeprefix(above)
    return [name for name in names if not name.startswith(own)]


def _job(
    videos: str,
    out: str,
    extraction: ExtractionArguments,
    work: WorkArguments,
    store: StoreArguments,
) -> "ShardingJob":
    from gopstream.jobs.sharding_job import ShardingJob
    from gopstream.jobs.source_videos import VideoSource
    from gopstream.pipeline.object_store import is_address, local_path

    check_positive({"stall-seconds": work.stall_seconds, "workers": work.workers})
    binary = os.environ.get("GOPSTREAM_FFMPEG")
    if work.engine == "ray":
        # Ray would tell its makers of each job.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Its nodes have other working folders.
        videos, out = _absolute(videos), _absolute(out)
        binary = binary and _absolute(binary)
    elif work.ray_address is not None:
        raise UserError("--ray-address needs --engine ray")
    if not is_address(videos) and not local_path(videos).is_dir():
        raise UserError(f"{videos}: no such folder")
    return ShardingJob(
        source=VideoSource(videos, store.options()),
        out=out,
        options=extraction.options(),
        store=store.options(),
        workers=work.workers or os.cpu_count() or 1,
        stall_seconds=work.stall_seconds,
        ffmpeg_binary=binary,
        engine=work.engine,
        ray_address=work.ray_address or os.environ.get("RAY_ADDRESS"),
        part=None if work.part is None else _job_part(work.part),
    )


def _absolute(place: str) -> str:
    """Return a local path so that it means the same in another working folder."""
    from gopstream.pipeline.object_store import is_address, local_path

    return place if is_address(place) else str(local_path(place).absolute())


def _job_part(text: str) -> "JobPart":
    from gopstream.jobs.sharding_job import JobPart

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UserError(f"--part must be I/N, such as 1/8 for the first of eight, got {text!r}")
    try:
        return JobPart(int(match[1]), int(match[2]))
    except ValueError as error:
        raise UserError(f"--part {text}: {error}") from error


def _finish(job: "ShardingJob", outcomes: "Sequence[SplitOutcome]", json_file: str | None) -> int:
    """Print what has become of the splits; returns the exit code."""
    from gopstream.jobs.shard_summaries import part_summary, shard_summary

    summary = shard_summary(outcomes) if job.part is None else part_summary(job, job.part)
    if json_file != "-":
        print(summary.text)
        _say_unlabelled(outcomes)
    report(summary.content, json_file)
    return 0 if job.part is not None or summary.content["samples"] else 1


def _say_unlabelled(outcomes: "Sequence[SplitOutcome]") -> None:
    """Name the splits without any class: a list that lacks its labels says nothing else."""
    manifests = [outcome.manifest for outcome in outcomes]
    # Samples without a class are counted under the empty name.
    splits = [one.split for one in manifests if one.num_samples and set(one.class_counts) == {""}]
    if splits:
        print(f"{', '.join(splits)}: no classes: labels are -1")
