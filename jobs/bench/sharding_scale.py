"""Proof that sharding millions of videos costs little besides extraction itself.

A list of so many videos is made up, and a job is run over it by the real code: the list is read,
ordered and frozen as a plan, each shard becomes a task, shards and their reports are written,
read again and published; then the same job is begun once more and finds everything done. Only
extraction is left out: the function that hands tasks to workers is replaced by one that writes
each shard with the real writer, without samples, and with the report that real videos would have.

Each run is a process of its own; the kernel keeps the peak of its resident memory for each step.
"""

import argparse
import hashlib
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pyarrow as pa
import pyarrow.parquet
from rich.console import Console
from rich.table import Table

from gopstream.jobs import run_shards
from gopstream.jobs.bench.flat_memory import parse_memory
from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.sharding_runs import SPLIT, hardware
from gopstream.jobs.build_shard import ShardTask
from gopstream.jobs.plan import PlannedVideo
from gopstream.jobs.preprocess import shard_videos
from gopstream.jobs.sharding_job import PlanChoice, ShardingJob
from gopstream.jobs.source_videos import VideoSource
from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.options import ExtractionOptions
from gopstream.shards.layout import sample_key
from gopstream.shards.writer import ShardWriter

COUNTS: Final = (50_000, 500_000, 5_000_000)
VIDEOS_PER_SHARD: Final = 1000
NUM_CLASSES: Final = 400
FAILED_EVERY: Final = 200
TASK_GROWTH_LIMIT: Final = 1.1
"""A task of the longest list may be so much larger than one of the shortest."""
_ROOT: Final = "s3://videos/all"
_ROWS_AT_ONCE: Final = 100_000


def write_list(path: Path, count: int) -> None:
    """Make up a Parquet list: addresses, labels, one split, and two columns of its own."""
    schema = pa.schema(
        {"uri": pa.string(), "label": pa.string(), "split": pa.string()}
        | {"duration": pa.float64(), "uploader": pa.string()}
    )
    with pyarrow.parquet.ParquetWriter(path, schema) as table:
        for first in range(0, count, _ROWS_AT_ONCE):
            numbers = range(first, min(first + _ROWS_AT_ONCE, count))
            columns = {
                "uri": [f"{n % 1000:03d}/video-of-someone-{n:08d}.mp4" for n in numbers],
                "label": [f"class {n * 7919 % NUM_CLASSES:03d}" for n in numbers],
                "split": [SPLIT] * len(numbers),
                "duration": [3.0 + n % 701 / 100 for n in numbers],
                "uploader": [f"person {n % 40_009}" for n in numbers],
            }
            table.write_table(pa.table(columns, schema))


def report_row(video: PlannedVideo) -> dict[str, Any]:
    """Return the row that a video of ten seconds would have in its shard's report."""
    row = {"video": video.index, "source": video.name, "label": video.label}
    if video.index % FAILED_EVERY == FAILED_EVERY - 1:
        message = f"{video.name}: not a video (Invalid data found when processing input)"
        return row | {
            "key": sample_key(SPLIT, video.index, None),
            "status": "failed",
            "stage": "probe",
            "error": "NotAVideoError",
            "message": message,
        }
    digest = hashlib.sha256(video.name.encode()).hexdigest()
    sample = {
        "key": sample_key(SPLIT, video.index, None),
        "segment": 0,
        "frames": 250,
        "stored_frames": 250,
        "fps": 25.0,
        "duration_seconds": 10.0,
        "width": 340,
        "height": 256,
        "codec": "h264",
        "mean_motion_pixels": round(video.index % 997 / 131, 6),
        "predicted_share": 0.913462,
        "zero_residual_share": 0.412907,
        "exactness": "exact",
        "damaged_frames": 0,
        "scene_cuts": video.index % 5,
    }
    return row | {"status": "done", "source_sha256": digest, "warnings": [], "samples": [sample]}


@dataclass(slots=True)
class Handout:
    """Stands in for the pool of workers: takes tasks one by one and writes their shards."""

    begun: Callable[[], None]
    """Called when planning has ended and work begins."""
    ended: Callable[[], None]
    """Called when all shards are written."""
    task_bytes: list[int] = field(default_factory=list)
    """What is sent to a worker for each task."""

    def __call__(self, tasks: Iterable[ShardTask], work: object, **options: object) -> list[None]:
        """Write the shards of all tasks."""
        del work, options
        self.begun()
        for task in tasks:
            self.task_bytes.append(len(pickle.dumps(task)))
            rows = [report_row(video) for video in task.shard.videos]
            name = task.shard.name
            with ShardWriter(task.storage, task.split, name, with_residual=True) as writer:
                writer.publish(rows)
        self.ended()
        return []


class Steps:
    """Measures steps that follow each other: seconds and peak resident memory in MiB."""

    def __init__(self) -> None:
        """Begin the first step."""
        self.rows: dict[str, dict[str, float]] = {}
        self._begin()

    def _begin(self) -> None:
        # Source: proc(5), /proc/PID/clear_refs: 5 sets the peak to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        self._begun = time.monotonic()

    def end(self, name: str) -> None:
        """End a step and begin the next one."""
        memory = parse_memory(Path("/proc/self/status").read_text())
        seconds = time.monotonic() - self._begun
        self.rows[name] = {
            "seconds": round(seconds, 3),
            "peak_mib": round(memory["VmHWM"], 1),
            "after_mib": round(memory["VmRSS"], 1),
        }
        self._begin()


def run_job(listed: Path, out: Path) -> dict[str, Any]:
    """Run the job in this process, as ``gopstream shard`` does.

    Args:
        listed: The Parquet list.
        out: Folder of the dataset; one that is finished takes the steps of a resume.

    Returns:
        ``steps``, ``task_bytes`` (of the smallest and the largest task) and ``samples``.
    """
    steps = Steps()
    steps.end("start")
    videos = read_annotations(_ROOT, annotations=str(listed), dataset=None, split=SPLIT)
    steps.end("read the list")
    job = ShardingJob(VideoSource(_ROOT), str(out), ExtractionOptions())
    handout = Handout(
        begun=lambda: steps.end("order and freeze the plan"),
        ended=lambda: steps.end("write shards without samples"),
    )
    with mock.patch.object(run_shards, "run_tasks", handout):
        (outcome,) = shard_videos(job, videos, PlanChoice(videos_per_shard=VIDEOS_PER_SHARD))
    steps.end("publish" if handout.task_bytes else "find everything done")
    return {
        "steps": steps.rows,
        "task_bytes": [min(handout.task_bytes, default=0), max(handout.task_bytes, default=0)],
        "samples": outcome.manifest.num_samples,
        "failed": outcome.manifest.num_failures,
        "shards": len(outcome.manifest.shards),
    }


def _run_apart(listed: Path, out: Path) -> dict[str, Any]:
    code = (
        "import json, sys; from pathlib import Path; "
        "from gopstream.jobs.bench.sharding_scale import run_job; "
        "print(json.dumps(run_job(Path(sys.argv[1]), Path(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", code, str(listed), str(out)]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(shown)
    return result


def prove_count(count: int, folder: Path) -> dict[str, Any]:
    """Run the job over a list of so many videos, and once more; returns what it took."""
    listed, out = folder / f"{count}.parquet", folder / f"shards-{count}"
    write_list(listed, count)
    first, again = _run_apart(listed, out), _run_apart(listed, out)
    steps = first["steps"] | {"find everything done": again["steps"]["find everything done"]}
    start = steps.pop("start")["after_mib"]
    sizes = {
        name: (out / SPLIT / name).stat().st_size
        for name in ("plan.parquet", "samples.parquet", "manifest.json", "failures.jsonl")
    }
    peak = max(step["peak_mib"] for step in steps.values())
    return {
        "videos": count,
        "samples": first["samples"],
        "failed": first["failed"],
        "shards": first["shards"],
        "videos_per_shard": VIDEOS_PER_SHARD,
        "start_mib": start,
        "peak_mib": peak,
        "bytes_per_video": round((peak - start) * 2**20 / count),
        "task_bytes": first["task_bytes"],
        "resume_is_same": again["samples"] == first["samples"] and again["task_bytes"] == [0, 0],
        "steps": steps,
        "file_bytes": sizes,
    }


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Name what is wrong or grows."""
    found = []
    for row in rows:
        if row["samples"] + row["failed"] != row["videos"] or not row["resume_is_same"]:
            found.append(
                f"{row['videos']} videos: {row['samples']} samples, {row['failed']} failed"
            )
    smallest, largest = (row["task_bytes"][1] for row in (rows[0], rows[-1]))
    if largest > TASK_GROWTH_LIMIT * smallest:
        found.append(f"a worker's task grows from {smallest} to {largest} bytes")
    return found


def _table(row: dict[str, Any]) -> Table:
    table = Table(f"{row['videos']} videos", "seconds", "peak MiB")
    for name, step in row["steps"].items():
        table.add_row(name, f"{step['seconds']:.2f}", f"{step['peak_mib']:.0f}")
    return table


def main() -> int:
    """Run the proof; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.sharding_scale",
        description="Sharding millions of videos costs little besides extraction itself.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--count", type=int, nargs="+", default=COUNTS, help="lengths of lists")
    given = parser.parse_args()
    rows = []
    for count in given.count:
        with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
            rows.append(prove_count(count, Path(folder)))
        Console().print(_table(rows[-1]))
    found = failures(rows)
    content = {
        "command": "python -m gopstream.jobs.bench.sharding_scale --json FILE --count "
        + " ".join(map(str, given.count)),
        "claim": "the real plan, reports, publication and resume of so many videos; what a worker "
        f"is sent grows by at most {TASK_GROWTH_LIMIT:g} times from the shortest to the longest",
        "holds": not found,
        "failures": found,
        "hardware": hardware(),
        "lists": rows,
    }
    write_report(given.json_file, content, name="sharding_scale")
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
