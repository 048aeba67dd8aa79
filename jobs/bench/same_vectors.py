"""Proof that native extraction is deterministic; and a look at extractors that are not.

Videos with B-frames are extracted in native mode twenty times, each time in a fresh process, with
one, two and four processes at once and with other numbers of threads offered to OpenMP and Numba:
everything that comes out has one hash. The same loop then reads the vectors through PyAV with its
kinds of threading and through mvextractor, and counts in how many frames they are those of one
decoding thread. What frame threads get wrong is a race: the counts depend on the machine, its
number of cores and its load, and are another in each run.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.proof_report import parse_arguments, usable_videos, write_report
from gopstream.jobs.conformance.adapters import OURS, extractor
from gopstream.jobs.conformance.hashing import hash_vectors
from gopstream.pipeline.audit import audit_stream
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions

PEERS: Final = ("pyav-auto", "pyav-frame16", "pyav-slice", "mvextractor")
NUM_VIDEOS: Final = 5


class Round(NamedTuple):
    """Processes that run at once."""

    processes: int
    threads: int
    """OMP_NUM_THREADS and NUMBA_NUM_THREADS of each."""


ROUNDS: Final = tuple(
    Round(*pair) for pair in ((1, 1), (1, 8), (2, 1), (2, 8), (4, 1), (4, 8), (2, 8), (4, 1))
)
"""Twenty runs in all."""


def hash_native(path: Path) -> str:
    """Return the sha256 of everything that native extraction gives of a video."""
    options = ExtractionOptions(mode="native", planes=("frames", "motion"))
    digest = hashlib.sha256()
    for clip in extract_segments(path, options=options):
        for array in (clip.motion, clip.coverage, clip.pts, clip.frame_index_of_jpeg):
            digest.update(f"{array.shape} {array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(clip.kinds.encode())
        for jpeg in clip.jpegs:
            digest.update(hashlib.sha256(jpeg).digest())
    return digest.hexdigest()


def frame_hashes(path: Path, name: str) -> list[str]:
    """Return the hash of each frame's vectors as an extractor of ``conformance`` reads them."""
    return [hash_vectors(table) for _, table in extractor(name).read(path)]


def run_many(
    statement: str, path: Path, *, rounds: Sequence[Round] = ROUNDS
) -> Iterator[str | None]:
    """Evaluate an expression of this module in fresh processes, again and again.

    Args:
        statement: The expression; ``path`` is the video.
        path: The video.
        rounds: How many processes at once, with how many threads.

    Yields:
        What each printed, as JSON; None for a process that died.
    """
    code = (
        "import json, sys; from pathlib import Path; "
        "from gopstream.jobs.bench.same_vectors import frame_hashes, hash_native; "
        f"path = Path(sys.argv[1]); print(json.dumps({statement}))"
    )
    for processes, threads in rounds:
        count = {name: str(threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)],
                env={**os.environ, **count},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        for process in running:
            shown, complaints = process.communicate()
            if process.returncode != 0:
                Console(stderr=True).print(complaints[-500:], markup=False)
            yield shown if process.returncode == 0 else None


def compare_runs(runs: Sequence[Sequence[str] | None], right: Sequence[str]) -> dict[str, Any]:
    """Compare what an extractor gave in several runs with the right hashes.

    Args:
        runs: Per run the hashes of its frames; None where it died.
        right: The hashes of one decoding thread.

    Returns:
        ``runs``, ``died``, ``different_results``, ``frames``, and the smallest and largest number
        of right frames in a run, ``least_right`` and ``most_right`` (None if all runs died). A
        frame that is missing is not right.
    """
    alive = [run for run in runs if run is not None]
    counts = [
        sum(first == second for first, second in zip(run, right, strict=False)) for run in alive
    ]
    return {
        "runs": len(runs),
        "died": len(runs) - len(alive),
        "different_results": len({tuple(run) for run in alive}),
        "frames": len(right),
        "least_right": min(counts, default=None),
        "most_right": max(counts, default=None),
    }


def prove_video(path: Path, *, rounds: Sequence[Round] = ROUNDS) -> dict[str, Any]:
    """Run ours and the peers over one video; returns its row of the report."""
    shown = list(run_many("hash_native(path)", path, rounds=rounds))
    hashes = sorted({"died" if text is None else json.loads(text) for text in shown})
    right = frame_hashes(path, OURS)
    row: dict[str, Any] = {"video": path.name, "frames": len(right)}
    row |= {"runs": len(shown), "hashes": hashes, "peers": {}}
    for name in PEERS:
        peer = extractor(name)
        if peer.missing:
            row["peers"][name] = {"skipped": peer.missing}
            continue
        texts = run_many(f"frame_hashes(path, {name!r})", path, rounds=rounds)
        runs = [None if text is None else json.loads(text) for text in texts]
        row["peers"][name] = {"version": peer.version, **compare_runs(runs, right)}
    return row


def videos_with_b_frames(folder: Path) -> list[Path]:
    """Return the smallest videos of a folder that are H.264 with B-frames."""
    audits = ((facts.path, audit_stream(facts.path)) for facts in usable_videos(folder))
    found = [path for path, audit in audits if audit.codec == "h264" and audit.has_b_frames]
    return sorted(found, key=lambda path: (path.stat().st_size, path.name))[:NUM_VIDEOS]


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Name what of the claim does not hold."""
    found = [] if rows else ["no H.264 video with B-frames: nothing was proven"]
    for row in rows:
        if len(row["hashes"]) != 1 or row["hashes"] == ["died"]:
            found.append(
                f"{row['video']}: {len(row['hashes'])} different results in {row['runs']} runs: "
                f"{', '.join(result[:8] for result in row['hashes'])}"
            )
    return found


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("video", "extractor", "runs", "different results", "right frames in a run")
    for row in rows:
        table.add_row(row["video"], OURS, str(row["runs"]), str(len(row["hashes"])), "")
        for name, peer in row["peers"].items():
            if "skipped" in peer:
                table.add_row("", name, "-", "-", peer["skipped"])
                continue
            right = f"{peer['least_right']} to {peer['most_right']} of {peer['frames']}"
            table.add_row("", name, str(peer["runs"]), str(peer["different_results"]), right)
    return table


def main() -> int:
    """Run the proof; returns the exit code."""
    arguments = parse_arguments("same_vectors", "Native extraction gives the same each time.")
    rows = [prove_video(path) for path in videos_with_b_frames(arguments.videos)]
    found = failures(rows)
    content = {
        "claim": "motion, coverage, kinds, time stamps and JPEGs of a native extraction have one "
        "hash over all runs; what the peers get wrong depends on timing",
        "holds": not found,
        "failures": found,
        "cores": os.cpu_count(),
        "rounds": [round_._asdict() for round_ in ROUNDS],
        "videos": rows,
    }
    write_report(arguments.json_file, content, name="same_vectors")
    Console(width=120).print(_table(rows))
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
