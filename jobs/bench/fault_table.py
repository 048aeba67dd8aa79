"""The fault table: what comes of each file of the fault corpus, in both modes.

Each file is extracted in a process of its own with limits of time and memory. An outcome that
differs from the expected one, an untyped error, a crash, a hang or wrong content fails the table.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import av.error
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gopstream.jobs.bench.contained import ContainedRun, run_contained
from gopstream.jobs.bench.fault_cases import CASES, checks_of
from gopstream.jobs.bench.fault_content import extract
from gopstream.jobs.bench.fault_corpus import Case, Expected, make_case, make_workshop
from gopstream.jobs.bench.proof_report import write_report
from gopstream.pipeline.errors import PipelineError
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions

SECONDS: Final = 120.0
ADDRESS_MIB: Final = 4096
PEAK_MIB: Final = 1536
Mode = Literal["canonical", "native"]
MODES: Final[tuple[Mode, ...]] = ("canonical", "native")


def is_typed(error: BaseException) -> bool:
    """Tell whether an error is one that a caller is told to expect."""
    if isinstance(error, av.error.FFmpegError):
        return False  # some are OSErrors as well, but they name no file
    return isinstance(error, (PipelineError, OSError))


def extract_outcome(path: Path, *, mode: Mode) -> dict[str, Any]:
    """Extract a file; returns what came of it, as JSON can hold it.

    ``outcome`` is ``extracted``, ``warned``, ``refused``, or what must not be: ``untyped`` for
    an error that no caller expects, ``nothing`` for no frame without an error.
    """
    frames = damaged = 0
    warnings: dict[str, None] = {}
    try:
        for clip in extract_segments(path, options=ExtractionOptions(mode=mode)):
            frames += clip.num_frames
            damaged += len(clip.damaged_frames)
            warnings |= dict.fromkeys(clip.warnings)
    except Exception as error:
        outcome = "refused" if is_typed(error) else "untyped"
        return {
            "outcome": outcome,
            "frames": 0,
            "damaged": 0,
            "message": _portable(f"{type(error).__name__}: {error}", path),
        }
    outcome = "warned" if warnings else "extracted"
    return {
        "outcome": outcome if frames else "nothing",
        "frames": frames,
        "damaged": damaged,
        "message": _portable("; ".join(warnings), path),
    }


def _portable(message: str, path: Path) -> str:
    """Take the folder out of a message: it differs from run to run."""
    return message.replace(f"{path.parent}/", "")


def run_case(case: Case, path: Path, *, workshop: Path) -> dict[str, Any]:
    """Extract a file in both modes and check the content; returns its row of the table."""
    row: dict[str, Any] = {"file": case.name, "group": case.group, "made": case.made}
    failures = []
    for mode in MODES:
        run = run_contained(
            partial(extract_outcome, path, mode=mode), seconds=SECONDS, address_mib=ADDRESS_MIB
        )
        row[mode] = run.result or _no_result(run)
        row[mode] |= {"peak_mib": run.peak_mib}
        failures += [
            f"{mode}: {text}" for text in breaches(row[mode], getattr(case, mode), case.frames)
        ]
    if not failures:
        failures += _check_content(case, path, workshop)
    return row | {"failures": failures}


def _no_result(run: ContainedRun) -> dict[str, Any]:
    return {"outcome": run.end.partition(":")[0], "frames": 0, "damaged": 0, "message": run.end}


def breaches(result: dict[str, Any], expected: Expected, frames: int | None) -> list[str]:
    """Name how a result differs from the expected one."""
    said = f"got {result['outcome']}: {result['message'] or 'without a word'}"
    if result["outcome"] != expected.outcome:
        return [f"must be {expected.outcome}, {said}"]
    found = []
    error, is_refusal, words = expected.words.partition("Error: ")
    wanted = [f"{error}{is_refusal}", words] if is_refusal else [error]
    if any(word not in result["message"] for word in wanted):
        found.append(f"must say {expected.words!r}, {said}")
    if expected.outcome != "refused" and frames not in (None, result["frames"]):
        found.append(f"must have {frames} frames, got {result['frames']}")
    if result["peak_mib"] > PEAK_MIB:
        found.append(f"used {result['peak_mib']} MiB, at most {PEAK_MIB} are allowed")
    return found


def _check_content(case: Case, path: Path, workshop: Path) -> list[str]:
    checks = checks_of(case, workshop=workshop)
    if not checks:
        return []

    def check() -> dict[str, Any]:
        return {"found": [text for check in checks for text in check(path)]}

    run = run_contained(check, seconds=SECONDS, address_mib=ADDRESS_MIB)
    if run.result is None:
        return [f"the check of its content ended: {run.end}"]
    found: list[str] = run.result["found"]
    return found


def run_cases(cases: Iterable[Case], folder: Path) -> Iterator[dict[str, Any]]:
    """Make the corpus and run its cases; yields a row for each."""
    workshop, videos = folder / "workshop", folder / "videos"
    make_workshop(workshop)
    videos.mkdir()
    made = [(case, make_case(case, videos, workshop=workshop)) for case in cases]
    for mode in MODES:
        # Here, so that each fork finds the kernels compiled, and this file extracted.
        extract(workshop / "plain.mp4", mode=mode)
    for case, path in made:
        yield run_case(case, path, workshop=workshop)


def render_document(rows: list[dict[str, Any]]) -> str:
    """Return docs/faults.md: the table for a reader, and what its words mean."""
    lines = [_INTRODUCTION]
    group = ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            lines += [f"\n## {group}\n", "| file | what it is | canonical | native |"]
            lines.append("|---|---|---|---|")
        canonical, native = (
            _cell(row[mode]).replace(f"{_escape(row['file'])}: ", "") for mode in MODES
        )
        cells = [f"`{ascii(row['file'])[1:-1]}`", row["made"], canonical]
        cells.append("the same" if native == canonical else native)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(result: dict[str, Any]) -> str:
    """Return a cell of the table: the outcome, and what is said of it."""
    if result["outcome"] == "refused":
        return f"refused: {_escape(result['message'])}"
    frames = f"{result['frames']} frame{'s' if result['frames'] != 1 else ''}"
    if result["damaged"]:
        frames += f", {result['damaged']} damaged"
    if result["outcome"] == "extracted":
        return frames
    return f"{frames}; {result['outcome']}: {_escape(result['message'])}"


def _escape(text: str) -> str:
    return ascii(text)[1:-1].replace("|", "\\|").replace("<", "&lt;")


_INTRODUCTION: Final = """\
# Difficult files, and what comes of them

Made by `python -m gopstream.jobs.bench.fault_table --json docs/results/fault_table.json --document
docs/faults.md`, which makes each of these files, extracts it in both modes in a process with
limits of time and memory, and checks what came out. Every file has exactly one outcome per mode:

* **extracted** (only the number of frames is shown): nothing is wrong, or nothing that matters.
* **warned**: extracted, and the clip says in `warnings` what a user should know. Frames that may
  show damage are listed in `damaged_frames`; frames that are not listed are those of the
  undamaged file, bit for bit, in all damaged files below. A decoder does not show pictures whose
  key picture is missing; their number is told.
* **refused**: an error that names the file and the reason: `NotAVideoError`, `BitstreamError`,
  `TranscodeError` (all of them `PipelineError`), or `FileNotFoundError`. In a job the video is
  listed as failed under this class, and the others go on.

What also was checked: both modes show the same pictures at the same times; rotated files come out
upright, with their motion; interlaced ones lose their combing; other codecs and pixel formats show
the right colours; files that name other files lead nowhere.

H.264 has no checksums. A few changed bits that still make a valid stream are pictures like any
others: no decoder can tell."""


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("file", "canonical", "native", "peak MiB", "")
    for row in rows:
        peak = str(max(row[mode]["peak_mib"] for mode in MODES))
        cells = [_cell(row[mode]) for mode in MODES]
        cells = [ascii(row["file"])[1:-1], *cells, peak, "; ".join(row["failures"])]
        table.add_row(*map(escape, cells))
    return table


def main() -> int:
    """Make the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.fault_table",
        description="What comes of damaged, unusual and hostile files, in both modes.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--document", type=Path, help="also write the table as Markdown")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gopstream-faults-") as folder:
        rows = list(run_cases(CASES, Path(folder)))
    found = [f"{ascii(row['file'])[1:-1]}: {text}" for row in rows for text in row["failures"]]
    content = {
        "command": "python -m gopstream.jobs.bench.fault_table --json FILE",
        "claim": "each file has the expected outcome in both modes, no error is untyped, nothing "
        f"crashes, hangs or uses more than {PEAK_MIB} MiB, and what is extracted is right",
        "holds": not found,
        "failures": found,
        "outcomes": dict(Counter(row[mode]["outcome"] for row in rows for mode in MODES)),
        "files": rows,
    }
    write_report(arguments.json_file, content, name="fault_table")
    if arguments.document is not None:
        arguments.document.write_text(render_document(rows))
    Console(width=150).print(_table(rows))
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
