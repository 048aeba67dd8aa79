"""Shard a list of videos: plan, work in several processes, finish.

Running the same command again continues: a shard with a report is done, a split with a manifest
is complete.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from gopstream.jobs.build_shard import ShardTask, build_shard, settings_of
from gopstream.jobs.console import progress
from gopstream.jobs.plan import PlannedShard, check_same_plan, make_plan, save_plan
from gopstream.jobs.worker_pool import DEFAULT_STALL_SECONDS, WorkerError, run_tasks
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.errors import AnnotationError
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import ffmpeg_version
from gopstream.shards.dataset_files import (
    DatasetFacts,
    FileRecord,
    Manifest,
    ShardRecord,
    check_same_dataset,
    load_dataset,
    load_manifest,
    save_dataset,
    save_manifest,
)
from gopstream.shards.errors import SettingsError, ShardError
from gopstream.shards.layout import (
    DATASET_FILE,
    FAILURES_FILE,
    MANIFEST_FILE,
    SAMPLES_FILE,
    check_split_name,
    dump_json,
    index_name,
    partial_path,
    publish,
    report_name,
    tar_name,
    write_atomic,
)


@dataclass(frozen=True, slots=True)
class SplitOutcome:
    """What has become of a split."""

    manifest: Manifest
    failures: tuple[Mapping[str, Any], ...]
    """Rows of the report of the videos that failed."""
    warned: tuple[Mapping[str, Any], ...] = ()
    """Rows of the videos that became samples, with warnings."""


def preprocess(
    videos: Path,
    out: Path,
    *,
    video_list: VideoList,
    options: ExtractionOptions,
    videos_per_shard: int | None,
    seed: int,
    workers: int,
    ffmpeg_binary: str,
    limit: int | None = None,
    stall_seconds: float = DEFAULT_STALL_SECONDS,
) -> list[SplitOutcome]:
    """Make or continue the shards of all splits of a list.

    Args:
        videos: Folder of the videos.
        out: Folder of the dataset.
        video_list: The videos, their labels and splits.
        options: What to extract.
        videos_per_shard: Upper limit; None chooses by the length of the list.
        seed: Of the plan's shuffle.
        workers: Number of processes; each makes whole shards.
        ffmpeg_binary: The FFmpeg to transcode with.
        limit: Take only so many videos of each split, after the shuffle.
        stall_seconds: A video without any progress for so long is stopped and recorded as failed,
            as is one that kills its worker process.

    Raises:
        SettingsError: If ``out`` holds something else; nothing is written then.
        AnnotationError: If a split's name cannot be a folder, or there is no video.
        ShardError: If workers died and no video was at fault.
    """
    ffmpeg_version(ffmpeg_binary)
    facts = _dataset_facts(out, video_list, options)
    plans = {
        split: _plan_split(
            records,
            out / check_split_name(split),
            facts,
            videos_per_shard=videos_per_shard,
            seed=seed,
            limit=limit,
        )
        for split, records in _by_split(video_list.records).items()
    }
    # From here on the request is known to be sound; before, nothing has been written.
    if not (out / DATASET_FILE).exists():
        out.mkdir(parents=True, exist_ok=True)
        save_dataset(out, facts)
    tasks = []
    for split, plan in plans.items():
        (out / split).mkdir(exist_ok=True)
        if not check_same_plan(out / split, plan):
            save_plan(out / split, plan)
        tasks += [
            ShardTask(shard, videos, out / split, split, options, facts.settings, ffmpeg_binary)
            for shard in plan
            if not (out / split / report_name(shard.name)).exists()
        ]
    _run(tasks, workers=workers, stall_seconds=stall_seconds)
    return [_finish_split(out, split, plan, facts) for split, plan in plans.items()]


def _by_split(records: Sequence[VideoRecord]) -> dict[str, list[VideoRecord]]:
    splits: dict[str, list[VideoRecord]] = {}
    for record in records:
        splits.setdefault(record.split, []).append(record)
    if not splits:
        raise AnnotationError("there are no videos")
    return splits


def _dataset_facts(
    out: Path,
    video_list: VideoList,
    options: ExtractionOptions,
) -> DatasetFacts:
    """Return what ``dataset.json`` says or will say; refuses a folder that holds other things."""
    wanted = DatasetFacts(
        video_list.classes,
        options.planes,
        settings_of(options),
    )
    if (out / DATASET_FILE).exists():
        check_same_dataset(out, wanted)
        return load_dataset(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is not empty and holds no dataset; choose another folder")
    return wanted


def _plan_split(
    records: Sequence[VideoRecord],
    folder: Path,
    facts: DatasetFacts,
    *,
    videos_per_shard: int | None,
    seed: int,
    limit: int | None,
) -> tuple[PlannedShard, ...]:
    plan = make_plan(records, classes=facts.classes, videos_per_shard=videos_per_shard, seed=seed)
    if limit is not None:
        names = [video.name for shard in plan for video in shard.videos][:limit]
        kept = [record for record in records if record.name in set(names)]
        plan = make_plan(kept, classes=facts.classes, videos_per_shard=videos_per_shard, seed=seed)
    check_same_plan(folder, plan)
    return plan


def _run(tasks: Sequence[ShardTask], *, workers: int, stall_seconds: float) -> None:
    """Make the shards in worker processes, each with one decoding thread."""
    if not tasks:
        return
    num_failed = 0
    total = sum(len(task.shard.videos) for task in tasks)
    with progress("sharding", total=total, unit="videos") as advance:

        def on_video(succeeded: bool) -> None:
            nonlocal num_failed
            num_failed += not succeeded
            advance(note=f"{num_failed} failed" if num_failed else "")

        try:
            run_tasks(
                tasks,
                build_shard,
                workers=workers,
                stall_seconds=stall_seconds,
                on_item=on_video,
            )
        except WorkerError as error:
            raise ShardError(
                f"{error} (out of memory?); finished shards are kept: run the same command again "
                "to continue, with fewer --workers perhaps"
            ) from error


def _finish_split(
    out: Path, split: str, plan: Sequence[PlannedShard], facts: DatasetFacts
) -> SplitOutcome:
    """Write what is made from the reports: samples, failures and, last, the manifest."""
    folder = out / split
    rows = {shard.name: _read_report(folder / report_name(shard.name)) for shard in plan}
    failures = tuple(row for shard in plan for row in rows[shard.name] if row["status"] == "failed")
    warned = tuple(row for shard in plan for row in rows[shard.name] if row.get("warnings"))
    if (folder / MANIFEST_FILE).exists():
        return SplitOutcome(load_manifest(out, split), failures, warned)
    for leftover in folder.glob(".*.partial"):
        leftover.unlink()
    lines = b"".join(dump_json(row) + b"\n" for row in failures)
    write_atomic(folder / FAILURES_FILE, lines)
    samples = [
        {"label": row["label"], "source": row["source"], "shard": shard.name, **sample}
        for shard in plan
        for row in rows[shard.name]
        for sample in row.get("samples", [])
    ]
    _write_samples(folder / SAMPLES_FILE, samples)
    names = (*facts.classes, "")
    counts = Counter(names[sample["label"]] for sample in samples)
    sizes = Counter(sample["shard"] for sample in samples)
    manifest = Manifest(
        split=split,
        shards=tuple(_shard_record(folder, shard.name, sizes[shard.name]) for shard in plan),
        class_counts=dict(sorted(counts.items())),
        num_videos=sum(len(shard.videos) for shard in plan),
        num_failures=len(failures),
    )
    save_manifest(out, manifest)
    return SplitOutcome(manifest, failures, warned)


def _read_report(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _shard_record(folder: Path, shard: str, num_samples: int) -> ShardRecord:
    files = {}
    for name in (
        tar_name(shard),
        tar_name(shard, "residual"),
        index_name(shard),
    ):
        path = folder / name
        if path.exists():
            with path.open("rb") as file:
                sha256 = file_digest(file, "sha256").hexdigest()
            files[name] = FileRecord(path.stat().st_size, sha256)
    return ShardRecord(shard, num_samples, files)


_SAMPLE_COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("segment", pa.int32()),
        ("label", pa.int64()),
        ("shard", pa.string()),
        ("frames", pa.int32()),
        ("stored_frames", pa.int32()),
        ("fps", pa.float64()),
        ("duration_seconds", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("mean_motion_pixels", pa.float64()),
        ("predicted_share", pa.float64()),
        ("zero_residual_share", pa.float64()),
        ("exactness", pa.string()),
        ("damaged_frames", pa.int32()),
        ("scene_cuts", pa.int32()),
    ]
)


def _write_samples(path: Path, samples: list[dict[str, Any]]) -> None:
    partial = partial_path(path)
    pyarrow.parquet.write_table(pa.Table.from_pylist(samples, _SAMPLE_COLUMNS), partial)
    publish(partial, path)
