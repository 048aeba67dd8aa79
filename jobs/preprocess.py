"""Shard a list of videos: plan, work in several processes, finish.

Running the same command again continues: a shard with a report is done, a split with a manifest
is complete.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import file_digest
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from gopstream.jobs.build_shard import ShardTask, build_shard, settings_of
from gopstream.jobs.console import Advance, progress
from gopstream.jobs.plan import PlannedShard, check_same_plan, make_plan, save_plan
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.errors import AnnotationError
from gopstream.pipeline.extract import ExtractionOptions
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

    Raises:
        SettingsError: If ``out`` holds something else; nothing is written then.
        AnnotationError: If a split's name cannot be a folder, or there is no video.
        ShardError: If a worker died.
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
    _run(tasks, workers)
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


class _Stopped(Exception):
    """The worker was asked to stop between two videos."""


_state: tuple["Queue[bool]", Event] | None = None


def _start_worker(events: "Queue[bool]", stop: Event) -> None:
    global _state  # noqa: PLW0603 - an executor's initializer has no other place to put it
    _state = (events, stop)
    # Ctrl-C reaches the whole process group; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker when its parent has been killed.

    A worker waits for work on a queue whose other end it holds too, so that it would wait for
    ever, or write beside a second run of the same command.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: ShardTask) -> None:
    assert _state is not None
    events, stop = _state

    def on_video(succeeded: bool) -> None:
        events.put(succeeded)
        if stop.is_set():
            raise _Stopped

    build_shard(task, on_video)


def _run(tasks: Sequence[ShardTask], workers: int) -> None:
    """Make the shards in worker processes, each with one decoding thread."""
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    events: Queue[bool] = context.Queue()
    stop = context.Event()
    total = sum(len(task.shard.videos) for task in tasks)
    with (
        progress("sharding", total=total, unit="videos") as advance,
        ProcessPoolExecutor(
            min(workers, len(tasks)), context, initializer=_start_worker, initargs=(events, stop)
        ) as pool,
    ):
        counter = threading.Thread(target=_count_events, args=(events, advance, total))
        counter.daemon = True
        counter.start()
        futures = [pool.submit(_work, task) for task in tasks]
        try:
            for future in futures:
                future.result()
        except BrokenProcessPool as error:
            raise ShardError(
                "a worker process was killed (out of memory?); finished shards are kept: run the "
                "same command again to continue, with fewer --workers perhaps"
            ) from error
        except BaseException:
            # Also for Ctrl-C: let each worker end its video, then leave its shard unpublished.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        counter.join()


def _count_events(events: "Queue[bool]", advance: Advance, total: int) -> None:
    failed = 0
    for _ in range(total):
        failed += not events.get()
        advance(note=f"{failed} failed" if failed else "")


def _finish_split(
    out: Path, split: str, plan: Sequence[PlannedShard], facts: DatasetFacts
) -> SplitOutcome:
    """Write what is made from the reports: samples, failures and, last, the manifest."""
    folder = out / split
    rows = {shard.name: _read_report(folder / report_name(shard.name)) for shard in plan}
    failures = tuple(row for shard in plan for row in rows[shard.name] if row["status"] == "failed")
    if (folder / MANIFEST_FILE).exists():
        return SplitOutcome(load_manifest(out, split), failures)
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
    return SplitOutcome(manifest, failures)


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
    ]
)


def _write_samples(path: Path, samples: list[dict[str, Any]]) -> None:
    partial = partial_path(path)
    pyarrow.parquet.write_table(pa.Table.from_pylist(samples, _SAMPLE_COLUMNS), partial)
    publish(partial, path)
