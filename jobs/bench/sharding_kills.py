"""Proof that a sharding job can be stopped at any moment, by anything, and continued.

Small videos are sharded by ``gopstream shard`` without interruption. Then the same job is begun
again and again and stopped: all of its processes are killed at once, it is told to stop with
SIGTERM, its disk becomes full. After each stop nothing may be visible that is not whole; in the
end each file must have the sha256 of the one that was made in peace, and nothing else may be
left: no file, no process, no temporary folder.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from rich.console import Console

from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.same_bytes import differences
from gopstream.jobs.bench.sharding_disk import LimitedDisk, NoNamespaceError, disk_bytes
from gopstream.jobs.bench.sharding_runs import (
    SPLIT,
    Command,
    file_hashes,
    half_written,
    hardware,
    leftovers,
    num_reports,
    phase,
)
from gopstream.jobs.bench.sharding_videos import SEGMENT_FRAMES, write_small_videos

How = Literal["SIGKILL", "SIGTERM"]
WORKERS: Final = 2
_LOOK_SECONDS: Final = 0.0005
_SLOW_LOOK_SECONDS: Final = 0.05
# The command and the process that multiprocessing has beside it; the third is a worker.
_BEFORE_WORKERS: Final = 2


class Moment(NamedTuple):
    """When a job is stopped."""

    num_reports: int
    """After so many shards are published, and workers are there if there is work left ..."""
    share: float
    """... and so much of the time has passed, 0 to 1, that the next thing takes."""


class Pace(NamedTuple):
    """How long the parts of a job took that was left in peace, in seconds."""

    planning: float
    """From the start to the frozen plan."""
    first_shard: float
    """From there to the first published shard; most of it is the start of the workers."""
    shard: float
    """A worker's time for each further one."""
    publishing: float
    """From the last shard to the manifest."""


@dataclass(frozen=True, slots=True)
class Peace:
    """The dataset as it is made without interruption."""

    videos: Path
    out: Path
    hashes: dict[str, str]
    num_shards: int
    pace: Pace

    def words(self, out: Path) -> list[str]:
        """Return the words of the command that makes it elsewhere."""
        return _words(self.videos, out)


def _words(videos: Path, out: Path) -> list[str]:
    options = ["--workers", str(WORKERS), "--segment-frames", str(SEGMENT_FRAMES)]
    return ["shard", str(videos), "--out", str(out), *options]


def make_in_peace(videos: Path, folder: Path) -> Peace:
    """Shard the videos without interruption.

    Args:
        videos: Their folder.
        folder: Where the dataset and the temporary folder go.

    Raises:
        RuntimeError: If that fails, or leaves anything behind.
    """
    out = folder / "peace"
    command = Command(_words(videos, out), temporary=folder / "peace-temporary")
    code = command.wait()
    found = leftovers(command, out)
    if code != 0 or found:
        raise RuntimeError(f"exit code {code}; {'; '.join(found)}; {command.said[-500:]}")
    split = out / SPLIT
    reports = sorted(path.stat().st_mtime for path in split.glob("*.report.jsonl"))
    planned = (split / "plan.json").stat().st_mtime
    published = (split / "manifest.json").stat().st_mtime
    pace = Pace(
        planning=planned - command.begun,
        first_shard=reports[0] - planned,
        shard=(reports[-1] - reports[0]) / (len(reports) - 1) * WORKERS,
        publishing=published - reports[-1],
    )
    return Peace(videos, out, file_hashes(out), len(reports), pace)


def draw_moments(rng: random.Random, count: int, *, num_shards: int) -> list[Moment]:
    """Draw when a job is stopped: a sixth while it plans, a sixth while it publishes."""
    at_an_end = max(1, count // 6)
    between = count - 2 * at_an_end
    moments = [Moment(0, rng.random()) for _ in range(at_an_end)]
    for number in range(between):
        # Within its part of the job, so that all parts are hit.
        position = (number + rng.random()) / between
        moments.append(Moment(int(position * num_shards), rng.random()))
    return moments + [Moment(num_shards, rng.random()) for _ in range(at_an_end)]


def wait_for(moment: Moment, command: Command, *, out: Path, peace: Peace) -> None:
    """Wait for a moment, or for the end of the command if that comes first."""
    seconds = moment.share * _wait_for_reports(moment.num_reports, command, out=out, peace=peace)
    end = time.monotonic() + seconds
    before = _almost_done(out)
    while not command.has_ended and time.monotonic() < end and _almost_done(out) == before:
        time.sleep(_LOOK_SECONDS)


def _almost_done(out: Path) -> list[bool]:
    """Tell whether planning and publishing are at their last step but one.

    A faster one than that in peace is stopped there, or it would be over.
    """
    return [(out / SPLIT / name).exists() for name in ("plan.parquet", "failures.jsonl")]


def _wait_for_reports(count: int, command: Command, *, out: Path, peace: Peace) -> float:
    """Wait until shards are published; returns how long the next thing takes, in seconds."""
    if count == 0 and phase(out, peace.num_shards) == "planning":
        return peace.pace.planning
    has_waited = False
    while not command.has_ended and num_reports(out) < count:
        has_waited = True
        time.sleep(_LOOK_SECONDS)
    if num_reports(out) == peace.num_shards:
        return peace.pace.publishing
    while not command.has_ended and len(command.processes()) <= _BEFORE_WORKERS:
        time.sleep(_SLOW_LOOK_SECONDS)
    return peace.pace.shard if has_waited else peace.pace.first_shard


def stop_and_check(
    how: How, moment: Moment, *, out: Path, peace: Peace, temporary: Path, to_all: bool = True
) -> dict[str, Any]:
    """Start the job, stop it at a moment and look at what there is.

    Args:
        how: By which signal.
        moment: When.
        out: The dataset.
        peace: What it must become.
        temporary: Folder of the job's temporary files.
        to_all: Whether all of its processes get SIGTERM, or the command alone.

    Returns:
        ``phase``, ``reports``, ``seconds`` it ran, ``exit_code`` and ``failures``.
    """
    command = Command(peace.words(out), temporary=temporary)
    wait_for(moment, command, out=out, peace=peace)
    row: dict[str, Any] = {"phase": phase(out, peace.num_shards), "reports": num_reports(out)}
    row |= {"had_ended": command.has_ended, "seconds": round(time.time() - command.begun, 2)}
    if how == "SIGKILL":
        command.kill()
    elif to_all:
        command.send(signal.SIGTERM)
    else:
        command.process.terminate()
    row["exit_code"] = command.wait()
    row["failures"] = half_written(out, peace.hashes)
    if how == "SIGTERM":
        row["failures"] += leftovers(command, out)
        if not row["had_ended"] and row["exit_code"] not in (143, 0):
            row["failures"].append(f"exit code {row['exit_code']}: {command.said[-500:]}")
    return row


def finish_and_check(
    out: Path,
    *,
    peace: Peace,
    temporary: Path,
    within: Sequence[str] = (),
    seen: Path | None = None,
) -> list[str]:
    """Run the job to its end; returns what is wrong with it then.

    Args:
        out: The dataset.
        peace: What it must be.
        temporary: Folder of the job's temporary files.
        within: Words before the command.
        seen: Where the dataset is seen from outside; None where it is.
    """
    command = Command(peace.words(out), temporary=temporary, within=within)
    code = command.wait()
    found = differences(peace.hashes, file_hashes(seen or out))
    if code != 0:
        found.append(f"exit code {code}: {command.said[-500:]}")
    return found + leftovers(command, seen or out)


def prove_stops(how: How, *, count: int, seed: int, peace: Peace, folder: Path) -> dict[str, Any]:
    """Stop a job so many times, each time begun again, and let it end.

    Returns:
        ``stops``, how many there were in each ``phases``, and ``failures``.
    """
    rng = random.Random(f"{seed} {how}")
    out, temporary = folder / how, folder / f"{how}-temporary"
    stops = []
    for number, moment in enumerate(draw_moments(rng, count, num_shards=peace.num_shards)):
        row = stop_and_check(
            how, moment, out=out, peace=peace, temporary=temporary, to_all=number % 2 == 0
        )
        stops.append(row)
        Console().print(f"{how} {number + 1}/{count}: {row}", markup=False, soft_wrap=True)
    found = [f"{how} {n + 1}: {text}" for n, row in enumerate(stops) for text in row["failures"]]
    found += finish_and_check(out, peace=peace, temporary=temporary)
    phases = Counter(row["phase"] for row in stops if not row["had_ended"])
    shutil.rmtree(out)
    return {"count": count, "phases": dict(phases), "failures": found, "stops": stops}


def prove_full_disk(*, peace: Peace, folder: Path) -> dict[str, Any]:
    """Let the disk become full half way, then make room and run the same command again.

    Returns:
        ``disk_bytes``, what the command ``said``, ``reports`` by then, and ``failures``.

    Raises:
        NoNamespaceError: If this machine lets nobody mount anything.
    """
    mount, temporary = folder / "disk", folder / "disk-temporary"
    mount.mkdir()
    num_bytes = disk_bytes(peace.out) // 2
    with LimitedDisk(mount, num_bytes=num_bytes) as disk:
        out, seen = mount / "shards", disk.content / "shards"
        command = Command(peace.words(out), temporary=temporary, within=disk.within)
        code = command.wait()
        row: dict[str, Any] = {
            "disk_bytes": num_bytes,
            "exit_code": code,
            "reports": num_reports(seen),
        }
        row["said"] = command.said.strip().splitlines()[-1].replace(str(folder), "")
        found = half_written(seen, peace.hashes) + leftovers(command, seen)
        if code != 1 or "No space left on device" not in row["said"]:
            found.append(f"full disk: exit code {code}: {command.said[-500:]}")
        disk.resize(4 * num_bytes)
        found += finish_and_check(
            out, peace=peace, temporary=temporary, within=disk.within, seen=seen
        )
    return row | {"failures": found}


def prove(folder: Path, *, num_videos: int, stops: int, seed: int) -> dict[str, Any]:
    """Do all of it in a folder."""
    videos = folder / "videos"
    num_broken = write_small_videos(videos, count=num_videos)
    peace = make_in_peace(videos, folder)
    shown: dict[str, Any] = {
        "videos": num_videos,
        "broken_videos": num_broken,
        "shards": peace.num_shards,
    }
    shown |= {"files": len(peace.hashes), "seconds_in_peace": peace.pace._asdict()}
    for how in ("SIGKILL", "SIGTERM"):
        shown[how] = prove_stops(how, count=stops, seed=seed, peace=peace, folder=folder)
    try:
        shown["full_disk"] = prove_full_disk(peace=peace, folder=folder)
    except NoNamespaceError as error:
        shown["full_disk"] = {"skipped": str(error), "failures": []}
    return shown


def failures(shown: dict[str, Any]) -> list[str]:
    """Name what went wrong, and what was not proven."""
    found = []
    for part in ("SIGKILL", "SIGTERM", "full_disk"):
        found += shown[part]["failures"]
    for how in ("SIGKILL", "SIGTERM"):
        missed = {"planning", "sharding", "publishing"} - shown[how]["phases"].keys()
        found += [f"no {how} came while it was {name}" for name in sorted(missed)]
    return found


def main() -> int:
    """Run the proof; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.sharding_kills",
        description="A sharding job can be stopped at any moment and continued.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--videos", type=int, default=320, help="how many")
    parser.add_argument("--stops", type=int, default=30, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        shown = prove(
            Path(folder).resolve(), num_videos=given.videos, stops=given.stops, seed=given.seed
        )
    found = failures(shown)
    content = {
        "command": "python -m gopstream.jobs.bench.sharding_kills --json FILE "
        f"--videos {given.videos} --stops {given.stops} --seed {given.seed}",
        "claim": "stopped at any moment and begun again, a job makes the same bytes and leaves "
        "nothing else; nothing that is visible is ever half-written",
        "holds": not found,
        "failures": found,
        "hardware": hardware(),
        **shown,
    }
    write_report(given.json_file, content, name="sharding_kills")
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
