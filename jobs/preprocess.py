"""Shard a list of videos: plan, work in several processes or on a cluster, publish.

Running the same command again continues: a shard with a report is done, a split whose manifest
knows all parts of its plan is complete. What is still to do is the plan minus the reports.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute

from gopstream.jobs.build_shard import settings_of
from gopstream.jobs.console import progress, say
from gopstream.jobs.estimate import FEW_VIDEOS, Estimate, choose_videos_per_shard, estimate_split
from gopstream.jobs.measure import SAMPLE_VIDEOS, VideoMeasure, measure_sample
from gopstream.jobs.plan import PlanPart, order_videos, planned_videos
from gopstream.jobs.plan_files import load_parts, save_part
from gopstream.jobs.publish import SplitOutcome, is_published, publish_split, read_outcome
from gopstream.jobs.run_shards import run_shards
from gopstream.jobs.sharding_job import PlanChoice, ShardingJob
from gopstream.jobs.source_videos import VideoSource
from gopstream.jobs.split_plan import SplitPlan, plan_append, plan_first, plan_retry
from gopstream.jobs.worker_pool import DEFAULT_STALL_SECONDS
from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.annotations.video_files import find_again
from gopstream.pipeline.errors import AnnotationError
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import ffmpeg_version
from gopstream.pipeline.video_source import list_files
from gopstream.shards.dataset_files import (
    DatasetFacts,
    check_same_dataset,
    load_dataset,
    planned_splits,
    save_dataset,
)
from gopstream.shards.errors import SettingsError, ShardError
from gopstream.shards.layout import DATASET_FILE, check_split_name
from gopstream.shards.storage import Storage


def shard_videos(
    job: ShardingJob, video_list: VideoList, choice: PlanChoice, *, append: bool = False
) -> list[SplitOutcome]:
    """Make or continue the shards of all splits of a list.

    Args:
        job: What to do and how.
        video_list: The videos, their labels and splits.
        choice: What the user chose of the plan.
        append: Add those videos of the list that finished splits do not have.

    Returns:
        One outcome per split; none if the job makes only a share of the shards.

    Raises:
        SettingsError: If the dataset is another one, or was planned otherwise; nothing is
            written then.
        AnnotationError: If a split's name cannot be a folder, or there is no video.
        ShardError: If workers died and no video was at fault.
    """
    ffmpeg_version(job.binary)
    storage = job.storage
    if append and not storage.exists(DATASET_FILE):
        raise SettingsError(f"{storage.url}: there is no dataset to append to; leave --append out")
    facts = _dataset_facts(job, video_list)
    plans = {
        split: _as_listed(
            _plan_split(job, split, records, facts, choice=choice, append=append), video_list
        )
        for split, records in _by_split(video_list).items()
    }
    # From here on the request is known to be sound; before, nothing has been written.
    if not storage.exists(DATASET_FILE):
        save_dataset(storage, facts)
    _say_missing(video_list, plans)
    return _work(job, plans, facts)


def shard_folder(
    videos: Path | str,
    out: Path | str,
    *,
    options: ExtractionOptions,
    split: str = "train",
    annotations: Path | None = None,
    choice: PlanChoice | None = None,
    workers: int = 1,
    ffmpeg_binary: str | None = None,
    stall_seconds: float = DEFAULT_STALL_SECONDS,
) -> list[SplitOutcome]:
    """Shard local videos with little ado: :func:`shard_videos` of a folder or a CSV.

    Args:
        videos: Folder of the videos.
        out: Folder of the dataset.
        options: What to extract.
        split: Of the videos whose list does not name one.
        annotations: A CSV; None takes one class per sub-folder, or none.
        choice: Of the plan.
        workers: Processes.
        ffmpeg_binary: The FFmpeg to transcode with.
        stall_seconds: See :class:`ShardingJob`.

    Raises:
        As :func:`shard_videos` does.
    """
    job = ShardingJob(
        source=VideoSource(str(videos)),
        out=str(out),
        options=options,
        workers=workers,
        ffmpeg_binary=ffmpeg_binary,
        stall_seconds=stall_seconds,
    )
    listed = read_annotations(
        str(videos),
        annotations=None if annotations is None else str(annotations),
        dataset=None,
        split=split,
    )
    return shard_videos(job, listed, choice or PlanChoice())


def try_failed_again(
    job: ShardingJob, splits: Sequence[str] | None, choice: PlanChoice
) -> list[SplitOutcome]:
    """Try the failed videos of finished splits again.

    Args:
        job: What to do and how; with the settings of the dataset.
        splits: Which splits; None for all.
        choice: What the user chose of the plan.

    Raises:
        SettingsError: If a split is not finished, or the settings are others.
    """
    ffmpeg_version(job.binary)
    held = load_dataset(job.storage)
    facts = _dataset_facts(job, VideoList((), held.classes, label_sets=held.label_sets))
    splits = splits or planned_splits(job.storage)
    if not splits:
        raise SettingsError(f"{job.storage.url}: nothing is planned; run without --retry-failed")
    plans = {
        split: plan_retry(
            job.storage,
            split,
            load_parts(job.storage, split),
            choice=choice,
            find=partial(_find_again, job),
        )
        for split in splits
    }
    return _work(job, plans, facts)


def merge_parts(storage: Storage) -> list[SplitOutcome]:
    """Publish all splits whose shards were made by several jobs.

    Raises:
        ShardError: If a shard is missing.
    """
    facts = load_dataset(storage)
    splits = planned_splits(storage)
    if not splits:
        raise ShardError(f"{storage.url}: nothing is planned; run 'gopstream shard' first")
    return [_publish(storage, split, load_parts(storage, split), facts) for split in splits]


def estimate_videos(job: ShardingJob, video_list: VideoList, choice: PlanChoice) -> list[Estimate]:
    """Measure a sample of each split and scale it up; writes nothing.

    Raises:
        AnnotationError: If no video of a sample can be used.
    """
    ffmpeg_version(job.binary)
    for note in video_list.notes:
        say(note)
    if video_list.missing:
        _say_not_found(list(video_list.missing), len(video_list.records))
    estimates = []
    for split, records in _by_split(video_list).items():
        table = order_videos(
            records, classes=video_list.classes, seed=choice.seed, limit=choice.limit
        )
        measures = _measure(job, table, with_choices=True)
        if not measures:
            raise AnnotationError(
                f"{split}: no video of the sample can be used, such as "
                f"{table.column('name')[0]}; shard with --limit 12 to see why"
            )
        per_shard = choice.videos_per_shard or choose_videos_per_shard(table.num_rows, measures)
        estimates.append(
            estimate_split(
                split,
                num_videos=table.num_rows,
                num_sampled=min(SAMPLE_VIDEOS, table.num_rows),
                measures=measures,
                options=job.options,
                workers=job.workers,
                videos_per_shard=per_shard,
            )
        )
    return estimates


def _find_again(job: ShardingJob, table: pa.Table, parts: Sequence[PlanPart]) -> pa.Table:
    """Look up where planned videos are now; those that have come since may be in any folder."""
    by_stem = [part.table for part in parts if part.is_by_stem]
    if not by_stem:
        return table
    files = list_files(job.source.root, job.store)
    there = set(files)
    # All names, so that a stem which several of them share says nothing.
    planned = pa.concat_tables(by_stem)
    found = find_again(
        planned.column("name").to_pylist(),
        files,
        picture_folders=planned.column("picture_rate").null_count < planned.num_rows,
    )
    rows = zip(table.column("name").to_pylist(), table.column("path").to_pylist(), strict=True)
    now = [path if path in there else found.get(name) for name, path in rows]
    place = table.schema.get_field_index("path")
    return table.set_column(place, table.schema.field(place), pa.array(now, pa.string()))


def _by_split(video_list: VideoList) -> dict[str, list[VideoRecord]]:
    splits: dict[str, list[VideoRecord]] = defaultdict(list)
    for record in video_list.records:
        splits[record.split].append(record)
    if not splits:
        raise AnnotationError("there are no videos")
    if len(video_list.missing) == len(video_list.records):
        raise AnnotationError(
            f"none of the {len(video_list.records)} listed videos is there, such as "
            f"{video_list.missing[0]}: is the folder of the videos right, and the list of this "
            "dataset?"
        )
    for split in splits:
        check_split_name(split)
    return splits


def _dataset_facts(job: ShardingJob, video_list: VideoList) -> DatasetFacts:
    """Return what ``dataset.json`` says or will say; refuses a place that holds other things."""
    storage = job.storage
    wanted = DatasetFacts(
        classes=video_list.classes,
        planes=job.options.planes,
        settings=settings_of(job.options),
        label_sets=video_list.label_sets,
    )
    if storage.exists(DATASET_FILE):
        return check_same_dataset(storage, wanted)
    is_file = storage.local_root is not None and storage.local_root.is_file()
    if is_file or storage.list_folders() or storage.list_names(""):
        raise SettingsError(
            f"{storage.url} is not empty and holds no dataset; choose another place"
        )
    return wanted


def _plan_split(
    job: ShardingJob,
    split: str,
    records: Sequence[VideoRecord],
    facts: DatasetFacts,
    *,
    choice: PlanChoice,
    append: bool,
) -> SplitPlan:
    held = load_parts(job.storage, split)

    def sizing(table: pa.Table) -> int:
        measures = _measure(job, table) if table.num_rows > FEW_VIDEOS else []
        return choose_videos_per_shard(table.num_rows, measures)

    if append and held:
        return plan_append(job.storage, split, records, held, facts, choice=choice, sizing=sizing)
    where = f"{job.storage.url}/{split}"
    return plan_first(where, records, held, facts, choice=choice, sizing=sizing)


def _as_listed(plan: SplitPlan, video_list: VideoList) -> SplitPlan:
    """Let a new part of a plan remember how its list finds videos."""
    if plan.new is None:
        return plan
    return plan._replace(new=replace(plan.new, is_by_stem=video_list.is_by_stem))


def _measure(
    job: ShardingJob, table: pa.Table, *, with_choices: bool = False
) -> list[VideoMeasure]:
    """Measure the beginning of an ordered list, which is a fair sample of it."""
    count = min(SAMPLE_VIDEOS, table.num_rows)
    with progress("measuring a sample", total=count, unit="videos") as advance:
        return measure_sample(
            planned_videos(table.slice(0, count)),
            job.source,
            job.options,
            ffmpeg_binary=job.ffmpeg_binary,
            workers=job.workers,
            stall_seconds=job.stall_seconds,
            on_video=lambda _: advance(),
            with_choices=with_choices,
        )


def _work(
    job: ShardingJob, plans: Mapping[str, SplitPlan], facts: DatasetFacts
) -> list[SplitOutcome]:
    """Freeze what is new of the plans, make the shards, publish."""
    storage = job.storage
    for split, plan in plans.items():
        if plan.new is not None:
            save_part(storage, split, len(plan.held), plan.new)
    run_shards(job, {split: plan.parts for split, plan in plans.items()}, facts)
    if job.part is not None:
        return []
    return [_publish(storage, split, plan.parts, facts) for split, plan in plans.items()]


def _publish(
    storage: Storage, split: str, parts: Sequence[PlanPart], facts: DatasetFacts
) -> SplitOutcome:
    if is_published(storage, split, parts):
        return read_outcome(storage, split)
    return publish_split(storage, split, parts, facts)


def _say_missing(video_list: VideoList, plans: Mapping[str, SplitPlan]) -> None:
    """Say what the list's reader found out, of the videos that are planned now."""
    for note in video_list.notes:
        say(note)
    new = [plan.new.table for plan in plans.values() if plan.new is not None]
    if not new or not video_list.missing:
        return
    names = pa.concat_tables(new).column("name")
    is_missing = pyarrow.compute.is_in(names, pa.array(video_list.missing, pa.string()))
    missing = names.filter(is_missing)
    if len(missing):
        _say_not_found(missing, len(names))


def _say_not_found(missing: Sequence[object], num_listed: int) -> None:
    say(
        f"{len(missing)} of {num_listed} listed videos were not found ({missing[0]} is the first); "
        "they count as failed until --retry-failed finds them"
    )
