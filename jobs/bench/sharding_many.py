"""Proof that thousands of tiny videos go through few workers fast, in flat memory.

With tiny videos all that is not extraction weighs most. All of them are sharded by two workers,
while the memory of each worker and the temporary folder are looked at; then once more, when there
is nothing left to do. Then parts of them are sharded by one worker and by two, in turn, so that
what else the machine does meets both.
"""

import argparse
import csv
import itertools
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from gopstream.jobs.bench.flat_memory import (
    GROWTH_LIMIT,
    SLACK_MIB,
    child_processes,
    read_memory,
)
from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.sharding_runs import (
    SPLIT,
    Command,
    file_hashes,
    hardware,
    leftovers,
    num_reports,
)
from gopstream.jobs.bench.sharding_videos import write_small_videos

NUM_PARTS: Final = 5
PART_SHARE: Final = 10
"""A part is one of so many."""
SHARDS_PER_RUN: Final = 40
_WORKERS: Final = (1, 2)
_LOOK_SECONDS: Final = 0.25
_SHOWN: Final = 20
_MIB: Final = 2**20


@dataclass(slots=True)
class Watch:
    """What was seen of a running job, in MiB."""

    resident: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of each worker, by process, since it has published a shard."""
    peak: dict[int, float] = field(default_factory=dict)
    parent: list[float] = field(default_factory=list)
    temporary: list[float] = field(default_factory=list)

    def look(self, command: Command, out: Path) -> None:
        """Look once."""
        self.temporary.append(_folder_mib(command.temporary))
        self.parent.append(read_memory(command.process.pid).get("VmRSS", 0.0))
        if num_reports(out) < _WORKERS[-1]:
            return
        # Not what the workers start: a fork of one looks like it for a moment.
        for pid in child_processes(command.process.pid):
            memory = read_memory(pid)
            if _is_worker(pid) and memory:
                self.resident[pid].append(memory["VmRSS"])
                self.peak[pid] = memory["VmHWM"]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per worker: at the start, at the end, the peak, and in between."""
        return [
            {
                "start_mib": round(seen[0], 1),
                "end_mib": round(seen[-1], 1),
                "peak_mib": round(self.peak[pid], 1),
                "over_time_mib": [round(mib, 1) for mib in seen[:: max(1, len(seen) // _SHOWN)]],
            }
            for pid, seen in self.resident.items()
        ]


def _is_worker(pid: int) -> bool:
    """Tell whether a process is one of multiprocessing's, by its command line."""
    try:
        return b"--multiprocessing-fork" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return False


def _folder_mib(folder: Path) -> float:
    """Return the size of a folder whose files come and go."""
    total = 0
    for place, _, names in os.walk(folder):  # passes over folders that are gone meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total / _MIB


def write_lists(videos: Path, folder: Path, *, parts: int, share: int) -> list[Path]:
    """List the videos of each part, and last all of them, as CSV files.

    Args:
        videos: Their folder.
        folder: Where the lists go.
        parts: How many.
        share: A part has one in so many of the videos, and none of another part.
    """
    names = sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.mp4"))
    lists = []
    for number, part in enumerate([*(names[part::share] for part in range(parts)), names]):
        lists.append(folder / f"list-{number}.csv")
        with lists[-1].open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label"])
            rows.writerows([name, name.partition("/")[0]] for name in part)
    return lists


@dataclass(frozen=True, slots=True)
class Runs:
    """How the runs of the proof are begun."""

    videos: Path
    folder: Path

    def start(self, listed: Path, *, workers: int, per_shard: int) -> tuple[Command, Path]:
        """Start to shard a list; returns the command and the dataset's folder."""
        out = self.folder / f"shards-{listed.stem}-{workers}"
        options = ["--annotations", str(listed), "--split", SPLIT, "--workers", str(workers)]
        options += ["--videos-per-shard", str(per_shard), "--out", str(out)]
        words = ["shard", str(self.videos), *options]
        return Command(words, temporary=self.folder / "temporary"), out


def end(command: Command, out: Path) -> float:
    """Wait for the end of a run; returns the seconds that it took.

    Raises:
        RuntimeError: If it fails or leaves anything behind.
    """
    code = command.wait()
    seconds = time.time() - command.begun
    found = leftovers(command, out)
    if code != 0 or found:
        raise RuntimeError(f"exit code {code}; {'; '.join(found)}; {command.said[-500:]}")
    return seconds


def time_run(runs: Runs, listed: Path, *, workers: int, per_shard: int) -> dict[str, float]:
    """Shard a list and drop the dataset.

    Returns:
        ``seconds`` of the command, ``work_seconds`` from the plan to the last shard, and
        ``cpu_seconds`` of all its processes.
    """
    before = _cpu_seconds()
    command, out = runs.start(listed, workers=workers, per_shard=per_shard)
    seconds = end(command, out)
    planned = (out / SPLIT / "plan.json").stat().st_mtime
    worked = max(path.stat().st_mtime for path in (out / SPLIT).glob("*.report.jsonl")) - planned
    shutil.rmtree(out)
    return {"seconds": seconds, "work_seconds": worked, "cpu_seconds": _cpu_seconds() - before}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare_workers(runs: Runs, lists: Sequence[Path], *, part_videos: int) -> dict[str, Any]:
    """Shard each part with one worker and with two, in turn."""
    per_shard = max(1, part_videos // SHARDS_PER_RUN)
    rows = []
    for number, listed in enumerate(lists):
        order = _WORKERS if number % 2 == 0 else _WORKERS[::-1]
        took = {n: time_run(runs, listed, workers=n, per_shard=per_shard) for n in order}
        row: dict[str, Any] = {"videos": part_videos}
        for n, name in itertools.product(_WORKERS, ("seconds", "work_seconds", "cpu_seconds")):
            row[f"{name}_{n}"] = round(took[n][name], 2)
        rows.append(row)
        Console().print(f"part {number + 1}: {row}", markup=False, soft_wrap=True)
    return {"parts": rows} | {
        f"speed_up_{name}": round(
            statistics.median(row[f"{name}_1"] / row[f"{name}_2"] for row in rows), 3
        )
        for name in ("seconds", "work_seconds")
    }


def watch_all(runs: Runs, listed: Path, *, count: int) -> dict[str, Any]:
    """Shard all videos with two workers and watch; then find everything done."""
    per_shard = max(1, count // (2 * SHARDS_PER_RUN))
    command, out = runs.start(listed, workers=2, per_shard=per_shard)
    watch = Watch()
    while not command.has_ended:
        watch.look(command, out)
        time.sleep(_LOOK_SECONDS)
    seconds = time.time() - command.begun
    end(command, out)
    hashes = file_hashes(out)
    again, _ = runs.start(listed, workers=2, per_shard=per_shard)
    resume_seconds = end(again, out)
    return {
        "seconds": round(seconds, 1),
        "videos_per_second": round(count / seconds, 2),
        "workers": watch.rows(),
        "parent_peak_mib": round(max(watch.parent), 1),
        "temporary_peak_mib": round(max(watch.temporary), 3),
        "dataset_mib": round(_folder_mib(out), 1),
        "resume_seconds": round(resume_seconds, 2),
        "resume_changed": file_hashes(out) != hashes,
    }


def prove(
    folder: Path, *, count: int, parts: int = NUM_PARTS, share: int = PART_SHARE
) -> dict[str, Any]:
    """Do all of it in a folder."""
    runs = Runs(folder / "videos", folder)
    write_small_videos(runs.videos, count=count, with_broken=False)
    lists = write_lists(runs.videos, folder, parts=parts, share=share)
    begun = time.monotonic()
    Command(["--version"], temporary=folder / "temporary").wait()
    shown: dict[str, Any] = {
        "videos": count,
        "source_mib": round(_folder_mib(runs.videos), 1),
        "start_seconds": round(time.monotonic() - begun, 2),
    }
    shown["all"] = watch_all(runs, lists[-1], count=count)
    Console().print(shown["all"], markup=False, soft_wrap=True)
    shown["two_workers_against_one"] = compare_workers(runs, lists[:-1], part_videos=count // share)
    return shown


def failures(shown: dict[str, Any]) -> list[str]:
    """Name what has grown, and what a resume did that it should not."""
    seen = shown["all"]
    found = [
        f"a worker grew from {row['start_mib']} to {row['end_mib']} MiB"
        for row in seen["workers"]
        if row["end_mib"] > GROWTH_LIMIT * row["start_mib"] + SLACK_MIB
    ]
    if len(seen["workers"]) != _WORKERS[-1]:
        found.append(f"{len(seen['workers'])} workers were seen instead of {_WORKERS[-1]}")
    if seen["resume_changed"]:
        found.append("a resume that had nothing to do changed the dataset")
    return found


def main() -> int:
    """Run the proof; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.sharding_many",
        description="Thousands of tiny videos, two workers against one, memory of each.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--count", type=int, default=5000, help="how many videos")
    given = parser.parse_args()
    if given.count < PART_SHARE:
        parser.error(f"--count must be at least {PART_SHARE}, got {given.count}")
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        shown = prove(Path(folder).resolve(), count=given.count)
    found = failures(shown)
    content = {
        "command": "python -m gopstream.jobs.bench.sharding_many --json FILE "
        f"--count {given.count}",
        "claim": f"a worker's memory at the end is at most {GROWTH_LIMIT:g} times that after the "
        f"first shards plus {SLACK_MIB:g} MiB; a resume that finds everything done changes nothing",
        "holds": not found,
        "failures": found,
        "hardware": hardware(),
        **shown,
    }
    write_report(given.json_file, content, name="sharding_many")
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
