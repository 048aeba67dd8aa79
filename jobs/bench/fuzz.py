"""Proof by many damaged files: no crash, no hang, bounded memory, every outcome typed.

Short pieces of real videos and the small files of the fault corpus are damaged at random. Each
case is a function of the seed, its number and these sources. It is probed, audited and extracted
(even numbers in canonical mode, odd ones in native mode) by the worker processes that jobs use.
"""

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.fault_cases import CASES
from gopstream.jobs.bench.fault_corpus import make_case, make_workshop
from gopstream.jobs.bench.fault_table import is_typed
from gopstream.jobs.bench.fuzz_mutations import Mutant, mutate
from gopstream.jobs.bench.proof_report import usable_videos, write_report
from gopstream.jobs.worker_pool import ItemFault, Reporter, run_tasks
from gopstream.pipeline.audit import audit_stream
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions, OnProgress
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg

CHUNK: Final = 50
STALL_SECONDS: Final = 60.0
PEAK_MIB: Final = 1536
ADDRESS_MIB: Final = 8192
_PIECE_SECONDS: Final = "0.5"
_MAX_SOURCE_BYTES: Final = 300_000
_REFUSED_SOURCES: Final = ("local.m3u8", "script.mp4", "picture.mp4", "large.h264", "cover.mp3")
_BAD: Final = ("untyped", "crashed", "hung", "memory")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Cases for one worker."""

    folder: Path
    """Of the sources."""
    seed: int
    numbers: tuple[int, ...]


def make_sources(folder: Path, *, videos: Path | None) -> None:
    """Fill a folder with small files: pieces of videos, and the small corpus files.

    Args:
        folder: Is made.
        videos: Real videos, or None for the corpus alone.
    """
    folder.mkdir(parents=True)
    for facts in usable_videos(videos) if videos is not None else ():
        # An index at the front, and a container that needs none: damage then reaches the decoder.
        for ending in (".mp4", ".mkv"):
            piece = folder / f"real_{facts.path.stem}{ending}"
            command = [default_ffmpeg(), "-nostdin", "-v", "error", "-i", f"file:{facts.path}"]
            command += ["-map", f"0:{facts.stream_index}", "-t", _PIECE_SECONDS, "-c", "copy"]
            command += ["-bitexact", "-fflags", "+bitexact", "-movflags", "+faststart"]
            subprocess.run([*command, f"file:{piece}"], check=True)
    with tempfile.TemporaryDirectory(prefix="gopstream-fuzz-") as workshop:
        make_workshop(Path(workshop) / "files")
        for case in CASES:
            is_usable = case.canonical.outcome != "refused" or case.name in _REFUSED_SOURCES
            if is_usable and not case.is_slow and case.name.isascii():
                path = make_case(case, folder, workshop=Path(workshop) / "files")
                if not path.is_file() or path.stat().st_size > _MAX_SOURCE_BYTES:
                    _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()


@cache
def _sources(folder: Path) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    paths = sorted(folder.iterdir())
    return tuple(path.name for path in paths), tuple(path.read_bytes() for path in paths)


def make_mutant(folder: Path, *, seed: int, number: int) -> tuple[str, Mutant]:
    """Return the name of the source of a case, and the damaged file."""
    names, contents = _sources(folder)
    mutant = mutate(contents, seed=seed, number=number)
    return names[mutant.source], mutant


def mode_of(number: int) -> str:
    """Return the mode in which a case is extracted."""
    return "native" if number % 2 else "canonical"


def extract_mutant(path: Path, *, number: int, on_progress: OnProgress) -> str:
    """Probe, audit and extract a file; returns ``extracted`` or ``warned``."""
    open_video(path)
    audit_stream(path)
    options = ExtractionOptions(
        canonical=CanonicalFormat(short_side=64),
        mode="native" if number % 2 else "canonical",
    )
    num_warnings = 0
    for clip in extract_segments(path, options=options, on_progress=on_progress):
        num_warnings += len(clip.warnings)
    return "warned" if num_warnings else "extracted"


def run_one(folder: Path, *, seed: int, number: int, on_progress: OnProgress) -> dict[str, Any]:
    """Run a case in this process; returns its row."""
    source, mutant = make_mutant(folder, seed=seed, number=number)
    row: dict[str, Any] = {"number": number, "mode": mode_of(number), "source": source}
    row |= {"steps": list(mutant.steps), "message": ""}
    begun = time.monotonic()
    children_before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    _forget_peak()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"case{Path(source).suffix}"
        path.write_bytes(mutant.content)
        try:
            row["outcome"] = extract_mutant(path, number=number, on_progress=on_progress)
        except Exception as error:
            kind = type(error).__name__
            row["outcome"] = f"refused: {kind}" if is_typed(error) else "untyped"
            row["message"] = f"{kind}: {error}".replace(scratch, "")
    row["peak_mib"] = _peak_mib(children_before)
    row["seconds"] = round(time.monotonic() - begun, 2)
    if row["peak_mib"] > PEAK_MIB:
        row["outcome"] = "memory"
    return row


def _forget_peak() -> None:
    """Let the kernel count this process's peak anew (Linux: proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mib(children_before: int) -> int:
    """Return the peak of this process since then, or of a child if it is the largest ever."""
    status = Path("/proc/self/status").read_text()
    own = int(status.partition("VmHWM:")[2].split()[0])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, children if children > children_before else 0) >> 10


def run_chunk(
    chunk: Chunk, reporter: Reporter, faults: Mapping[int, ItemFault]
) -> list[dict[str, Any]]:
    """Run the cases of a chunk in a worker; returns their rows."""
    limit = ADDRESS_MIB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rows = []
    for index, number in enumerate(chunk.numbers):
        fault = faults.get(index)
        if fault is None:
            reporter.started(index)
            row = run_one(chunk.folder, seed=chunk.seed, number=number, on_progress=reporter.beat)
        else:
            outcome = "hung" if fault.error == "StalledError" else "crashed"
            row = {"number": number, "mode": mode_of(number), "outcome": outcome, "peak_mib": 0}
            row |= {"seconds": 0.0, "message": fault.message}
        rows.append(row)
        reporter.finished(index, succeeded=fault is None)
    return rows


def run_fuzz(
    folder: Path, *, seed: int, numbers: range, workers: int, stall_seconds: float = STALL_SECONDS
) -> list[dict[str, Any]]:
    """Run cases in worker processes; returns their rows by number."""
    chunks = [
        Chunk(folder, seed, tuple(numbers[first : first + CHUNK]))
        for first in range(0, len(numbers), CHUNK)
    ]
    done = run_tasks(
        chunks, run_chunk, workers=workers, stall_seconds=stall_seconds, on_item=lambda _: None
    )
    return [row for rows in done for row in rows]


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Count outcomes, and list the cases that must not be."""
    bad = [row for row in rows if row["outcome"] in _BAD]
    outcomes = Counter(f"{row['mode']}, {row['outcome']}" for row in rows)
    return {
        "claim": "no case crashes, hangs, ends in an untyped error or uses more than "
        f"{PEAK_MIB} MiB",
        "holds": bool(rows) and not bad,
        "failures": bad,
        "cases": len(rows),
        "outcomes": dict(sorted(outcomes.items())),
        "steps": dict(Counter(step for row in rows for step in row.get("steps", ()))),
        "peak_mib": max((row["peak_mib"] for row in rows), default=0),
        "slowest": [
            {name: row[name] for name in ("number", "mode", "seconds")}
            for row in sorted(rows, key=lambda row: -row["seconds"])[:3]
        ],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.fuzz",
        description="Extract many damaged files: no crash, no hang, every outcome typed.",
    )
    parser.add_argument("videos", type=Path, help="folder of videos; other files are skipped")
    parser.add_argument("--count", type=int, default=2000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="run one case in this process and print its error")
    parser.add_argument("--keep", type=Path, help="with --only: also write its damaged file here")
    parser.add_argument("--json", dest="json_file", type=Path, help="result file")
    arguments = parser.parse_args()
    if not arguments.videos.is_dir():
        parser.error(f"{arguments.videos}: no such folder")
    if arguments.only is None and arguments.json_file is None:
        parser.error("--json FILE is needed, or --only NUMBER")
    return arguments


def _run_only(folder: Path, arguments: argparse.Namespace) -> int:
    source, mutant = make_mutant(folder, seed=arguments.seed, number=arguments.only)
    print(
        f"case {arguments.only}: {source}, {', '.join(mutant.steps)}, {len(mutant.content)} bytes"
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.keep or Path(scratch) / f"case{Path(source).suffix}"
        path.write_bytes(mutant.content)
        print(extract_mutant(path, number=arguments.only, on_progress=lambda: None))
    return 0


def main() -> int:
    """Run the proof; returns the exit code."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="gopstream-fuzz-") as scratch:
        folder = Path(scratch) / "sources"
        make_sources(folder, videos=arguments.videos)
        if arguments.only is not None:
            return _run_only(folder, arguments)
        numbers = range(arguments.count)
        rows = run_fuzz(folder, seed=arguments.seed, numbers=numbers, workers=arguments.workers)
        names, contents = _sources(folder)
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    content = summarise(rows) | {
        "seed": arguments.seed,
        "sources": dict(zip(names, digests, strict=True)),
    }
    write_report(arguments.json_file, content, name="fuzz")
    table = Table("outcome", "cases")
    for outcome, count in content["outcomes"].items():
        table.add_row(outcome, str(count))
    Console(width=110).print(table)
    found = [
        f"case {row['number']}: {row['outcome']}: {row['message']}" for row in content["failures"]
    ]
    Console().print(f"peak {content['peak_mib']} MiB", markup=False)
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 0 if content["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
