"""Scan many videos into one Parquet file: facts, motion and shots, without frames or shards.

Work is spread over processes in small batches. Each row goes to a journal as soon as it is made;
the Parquet file is written from it at the end, sorted by name, in one step. What it holds depends
on the videos alone, not on the number of workers or on interruptions.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

import gopstream
from gopstream.jobs.console import progress, say
from gopstream.jobs.errors import UserError
from gopstream.jobs.scan_journal import (
    VideoKey,
    append_row,
    journal_path,
    open_journal,
    read_offsets,
    read_rows,
    sync,
)
from gopstream.jobs.scan_video import SCHEMA, failure, scan_video
from gopstream.jobs.summaries import Summary, megabytes, render
from gopstream.jobs.worker_pool import DEFAULT_STALL_SECONDS, ItemFault, Reporter, run_tasks
from gopstream.shards.layout import dump_json, partial_path, publish

VIDEOS_PER_TASK: Final = 8
VIDEOS_PER_TASK_HEADERS: Final = 64
ROWS_PER_GROUP: Final = 10_000
_SECONDS_BETWEEN_SYNCS: Final = 5.0
_MAX_SHOWN_FAILURES: Final = 20


class ScannedVideo(NamedTuple):
    """A file to scan."""

    path: Path
    name: str
    """Relative to the folder, or as the list has it; bytes that are no UTF-8 are escaped."""


@dataclass(frozen=True, slots=True)
class ScanOutcome:
    """What a scan came to."""

    out: Path
    status_counts: Mapping[str, int]
    """Videos by status: ok, warned, failed."""
    error_counts: Mapping[str, int]
    """Failed videos by class of error."""
    failures: Sequence[Mapping[str, str]]
    """name, error and message of the first twenty."""
    num_resumed: int
    """Rows that an earlier run had made."""
    num_frames: int
    num_bytes: int
    """Of all videos."""
    num_cuts: int
    seconds: float
    """Of this run."""


@dataclass(frozen=True, slots=True)
class _Options:
    """What decides the rows."""

    headers_only: bool
    sha256: bool


@dataclass(frozen=True, slots=True)
class _Batch:
    videos: tuple[tuple[ScannedVideo, VideoKey], ...]
    journal: Path
    options: _Options


def scan(
    videos: Path | Sequence[Path],
    out: Path,
    *,
    workers: int,
    limit: int | None = None,
    headers_only: bool = False,
    with_sha256: bool = False,
    overwrite: bool = False,
    stall_seconds: float = DEFAULT_STALL_SECONDS,
) -> ScanOutcome:
    """Scan videos; a video that cannot be read becomes a row that says why.

    After an interruption the same call goes on. A video that was changed since is scanned again.

    Args:
        videos: A folder, searched recursively; a text file (.txt) with a path per line, relative
            to its own folder; a single video; or paths.
        out: The Parquet file.
        workers: Number of processes.
        limit: Scan only the first so many, by name.
        headers_only: Read packets without decoding: no frames, motion or cuts.
        with_sha256: Hash the files.
        overwrite: Replace ``out`` if it is there.
        stall_seconds: A video whose decoding makes no progress for so long is given up.

    Raises:
        UserError: If there is nothing to scan, ``out`` exists, or an unfinished scan with other
            options lies beside it.
        WorkerError: If worker processes die without a video being at fault.
    """
    begun = time.monotonic()
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists already; use --overwrite to replace it, or another name")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it first")
    found = list_videos(videos)[:limit]
    keys = [_key(video) for video in found]
    options = _Options(headers_only, with_sha256)
    journal = journal_path(out)
    content = {"headers_only": headers_only, "sha256": with_sha256}
    done = open_journal(journal, content | {"gopstream": gopstream.__version__})
    missing = [pair for pair in zip(found, keys, strict=True) if pair[1] not in done]
    num_resumed = len(found) - len(missing)
    if num_resumed:
        say(f"{num_resumed} of {len(found)} videos were scanned before; going on")
    size = VIDEOS_PER_TASK_HEADERS if headers_only else VIDEOS_PER_TASK
    batches = [
        _Batch(tuple(missing[start : start + size]), journal, options)
        for start in range(0, len(missing), size)
    ]
    _run(batches, workers=workers, stall_seconds=stall_seconds)
    totals = _write_table(out, journal, keys, content)
    journal.unlink()
    return totals.outcome(out, num_resumed=num_resumed, seconds=time.monotonic() - begun)


def list_videos(videos: Path | Sequence[Path]) -> list[ScannedVideo]:
    """List files to scan, sorted by name, each name once.

    Raises:
        UserError: If there is none.
    """
    if not isinstance(videos, Path):
        pairs = [(path, path.as_posix()) for path in videos]
    elif videos.is_dir():
        names = (path.relative_to(videos) for path in videos.rglob("*") if path.is_file())
        pairs = [
            (videos / name, name.as_posix())
            for name in names
            if not any(part.startswith(".") for part in name.parts)
        ]
    elif not videos.is_file():
        raise UserError(f"{videos}: no such file or folder")
    elif videos.suffix == ".txt":
        lines = os.fsdecode(videos.read_bytes()).splitlines()
        pairs = [(videos.parent / line.strip(), line.strip()) for line in lines if line.strip()]
    else:
        pairs = [(videos, videos.name)]
    found = {_printable(name): path for path, name in pairs}
    if not found:
        raise UserError(f"{videos}: holds no videos")
    if len(found) < len(pairs):
        say(f"{len(pairs) - len(found)} names occur more than once; each is scanned once")
    return [ScannedVideo(found[name], name) for name in sorted(found)]


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _key(video: ScannedVideo) -> VideoKey:
    try:
        facts = video.path.stat()
    except OSError:
        return VideoKey(video.name, -1, 0)
    return VideoKey(video.name, facts.st_size, facts.st_mtime_ns)


def _run(batches: Sequence[_Batch], *, workers: int, stall_seconds: float) -> None:
    if not batches:
        return
    journal = batches[0].journal
    num_failed, last_sync = 0, time.monotonic()
    total = sum(len(batch.videos) for batch in batches)
    with progress("scanning", total=total, unit="videos") as advance:

        def on_video(succeeded: bool) -> None:
            nonlocal num_failed, last_sync
            num_failed += not succeeded
            advance(note=f"{num_failed} failed" if num_failed else "")
            if time.monotonic() - last_sync >= _SECONDS_BETWEEN_SYNCS:
                sync(journal)
                last_sync = time.monotonic()

        try:
            run_tasks(
                batches,
                _scan_batch,
                workers=min(workers, len(batches)),
                stall_seconds=stall_seconds,
                on_item=on_video,
            )
        finally:
            sync(journal)


def _scan_batch(batch: _Batch, reporter: Reporter, faults: Mapping[int, ItemFault]) -> None:
    """Add the rows of a batch to the journal: a worker's task."""
    for index, (video, key) in enumerate(batch.videos):
        if (fault := faults.get(index)) is not None:
            row = {"bytes": key.bytes, "warnings": []} | failure(fault.error, fault.message)
        else:
            reporter.started(index)
            row = scan_video(
                video.path,
                is_headers_only=batch.options.headers_only,
                with_sha256=batch.options.sha256,
                beat=reporter.beat,
            )
        append_row(batch.journal, key, {"name": video.name, **row})
        reporter.finished(index, succeeded=row["status"] != "failed")


@dataclass(slots=True)
class _Totals:
    """What the rows come to."""

    status_counts: Counter[str] = field(default_factory=Counter)
    error_counts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, str]] = field(default_factory=list)
    num_frames: int = 0
    num_bytes: int = 0
    num_cuts: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self.status_counts[row["status"]] += 1
        self.num_frames += row.get("num_frames") or 0
        self.num_bytes += max(row.get("bytes") or 0, 0)
        self.num_cuts += row.get("num_cuts") or 0
        if row["status"] == "failed":
            self.error_counts[row["error"]] += 1
            if len(self.failures) < _MAX_SHOWN_FAILURES:
                self.failures.append({name: row[name] for name in ("name", "error", "message")})

    def outcome(self, out: Path, *, num_resumed: int, seconds: float) -> ScanOutcome:
        return ScanOutcome(
            out=out,
            status_counts=dict(sorted(self.status_counts.items())),
            error_counts=dict(sorted(self.error_counts.items())),
            failures=tuple(self.failures),
            num_resumed=num_resumed,
            num_frames=self.num_frames,
            num_bytes=self.num_bytes,
            num_cuts=self.num_cuts,
            seconds=seconds,
        )


def _write_table(
    out: Path, journal: Path, keys: Sequence[VideoKey], content: Mapping[str, Any]
) -> _Totals:
    """Write the rows of these videos, in their order, a group of rows in memory at a time."""
    offsets = read_offsets(journal)
    rows = read_rows(journal, (offsets[key] for key in keys))
    totals = _Totals()
    partial = partial_path(out)
    note = dump_json({**content, "gopstream": gopstream.__version__})
    schema = SCHEMA.with_metadata({"gopstream_scan": note})
    with partial.open("wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while group := list(islice(rows, ROWS_PER_GROUP)):
                for row in group:
                    totals.add(row)
                writer.write_table(pa.Table.from_pylist(group, schema), len(group))
        file.flush()
        os.fsync(file.fileno())
    publish(partial, out)
    return totals


def scan_summary(outcome: ScanOutcome) -> Summary:
    """Summarise a finished scan, the first failures with their reasons."""
    counts = outcome.status_counts
    num_videos = sum(counts.values())
    shown = ", ".join(f"{count} {status}" for status, count in counts.items())
    parts = [
        f"{outcome.out}: {num_videos} videos ({shown}), {megabytes(outcome.num_bytes)}, "
        f"{outcome.num_frames:,} frames, {outcome.num_cuts:,} cuts in {outcome.seconds:.1f} s"
    ]
    parts += [
        f"  failed: {row['name']}: {row['error']}: {row['message']}" for row in outcome.failures
    ]
    num_hidden = counts.get("failed", 0) - len(outcome.failures)
    if num_hidden > 0:
        parts.append(f"  and {num_hidden} more")
    content = {
        "file": str(outcome.out),
        "videos": num_videos,
        "status": dict(counts),
        "errors": dict(outcome.error_counts),
        "failures": [dict(row) for row in outcome.failures],
        "resumed": outcome.num_resumed,
        "frames": outcome.num_frames,
        "bytes": outcome.num_bytes,
        "cuts": outcome.num_cuts,
        "seconds": round(outcome.seconds, 3),
    }
    return Summary(render(*parts), content)
