"""Check extractors against the suite: which frames of which stream have the right vectors.

A frame is right when its kind and the hash of its vectors are those of ``hashes.json``. Frames
are matched by their place in presentation order. Each stream is read several times, because a
race shows in some runs only.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.table import Table

from gopstream.jobs.conformance.adapters import (
    EXTRACTOR_NAMES,
    OURS,
    Extractor,
    dumps_extractor,
    extractor,
)
from gopstream.jobs.conformance.hashing import hash_vectors
from gopstream.jobs.errors import UserError
from gopstream.jobs.summaries import render

SUITE: Final = Path(__file__).parent
"""Folder of ``hashes.json`` and ``streams/``."""
VERSION: Final = 1
_MAX_REPEATS: Final = 1000


class ExpectedStream(NamedTuple):
    """One stream and what is right of it."""

    path: Path
    shows: str
    counted: bool
    """False where the hashes record what FFmpeg does, without a claim that it is right."""
    kinds: str
    """A letter per frame."""
    hashes: tuple[str, ...]
    """:func:`hash_vectors` of each frame."""


@dataclass(frozen=True, slots=True)
class Run:
    """One reading of one stream."""

    num_frames: int
    wrong: tuple[int, ...]
    """Frames that are not right, missing or too many, by number."""
    fingerprint: str
    """Equal for two runs that gave the same frames."""
    error: str
    """What stopped it; empty when nothing did."""


@dataclass(frozen=True, slots=True)
class StreamResult:
    """All runs of one extractor over one stream."""

    expected: ExpectedStream
    runs: tuple[Run, ...]

    @property
    def runs_agree(self) -> bool:
        """Whether each run gave the same, right or wrong."""
        return len({run.fingerprint for run in self.runs}) == 1

    @property
    def is_right(self) -> bool:
        """Whether each frame was right in each run."""
        return not any(run.wrong or run.error for run in self.runs)

    def num_right(self, run: Run) -> int:
        """Return how many of the expected frames were right in a run."""
        total = len(self.expected.hashes)
        return total - sum(index < total for index in run.wrong)


@dataclass(frozen=True, slots=True)
class ExtractorResult:
    """One extractor over the whole suite."""

    extractor: Extractor
    streams: tuple[StreamResult, ...]
    """Empty when the extractor is not installed."""

    @property
    def is_right(self) -> bool:
        """Whether all counted streams were read, and right."""
        return bool(self.streams) and all(
            result.is_right for result in self.streams if result.expected.counted
        )


class ConformanceReport(NamedTuple):
    """What the command shows."""

    text: str
    content: dict[str, Any]
    ok: bool
    """Whether this package's own vectors are right; says nothing of the others."""


def load_suite(folder: Path = SUITE) -> list[ExpectedStream]:
    """Read ``hashes.json``, and check that the streams are those that it belongs to.

    Raises:
        UserError: If the suite is of another version, or a stream is missing or another file.
    """
    content = json.loads((folder / "hashes.json").read_text())
    if content["version"] != VERSION:
        raise UserError(f"{folder}: the suite must be version {VERSION}, got {content['version']}")
    suite = []
    for entry in content["streams"]:
        path = folder / "streams" / entry["file"]
        if not path.is_file() or _sha256(path.read_bytes()) != entry["file_sha256"]:
            raise UserError(f"{path}: missing, or not the file that the hashes belong to")
        suite.append(
            ExpectedStream(
                path,
                entry["shows"],
                counted=entry["counted"],
                kinds=entry["kinds"],
                hashes=tuple(entry["sha256"]),
            )
        )
    return suite


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_stream(expected: ExpectedStream, checked: Extractor) -> Run:
    """Read a stream once and compare each frame."""
    right = list(zip(expected.kinds, expected.hashes, strict=True))
    found: list[tuple[str, str]] = []
    error = ""
    try:
        for kind, table in checked.read(expected.path):
            found.append((kind, hash_vectors(table)))
    except Exception as caught:  # somebody else's code: whatever it raises is the result
        error = f"{type(caught).__name__}: {caught}"
    wrong = [
        index
        for index in range(max(len(right), len(found)))
        if right[index : index + 1] != found[index : index + 1]
    ]
    fingerprint = _sha256(json.dumps([found, error]).encode())
    return Run(len(found), tuple(wrong), fingerprint, error)


def run_conformance(
    extractors: Sequence[Extractor], *, repeats: int = 3, suite: Sequence[ExpectedStream]
) -> list[ExtractorResult]:
    """Check each extractor on each stream, ``repeats`` times."""
    return [
        ExtractorResult(
            checked,
            tuple(
                StreamResult(
                    expected, tuple(check_stream(expected, checked) for _ in range(repeats))
                )
                for expected in (() if checked.missing else suite)
            ),
        )
        for checked in extractors
    ]


def conformance(
    names: Sequence[str] = EXTRACTOR_NAMES, *, repeats: int = 3, dumps: Path | None = None
) -> ConformanceReport:
    """Check this package, and the extractors that are named, on the suite.

    Args:
        names: Of :data:`EXTRACTOR_NAMES`; this package is checked in any case.
        repeats: How often each stream is read.
        dumps: A folder with a dump in mvextractor's layout per stream, named like the stream
            without its suffix.

    Raises:
        UserError: If a name is unknown, ``repeats`` is out of range, there is no folder of
            dumps, or the suite itself is not whole.
    """
    if not 1 <= repeats <= _MAX_REPEATS:
        raise UserError(f"--repeats must be between 1 and {_MAX_REPEATS}, got {repeats}")
    chosen = [extractor(name) for name in dict.fromkeys((OURS, *names))]
    if dumps is not None:
        chosen.append(dumps_extractor(dumps))
    results = run_conformance(chosen, repeats=repeats, suite=load_suite())
    ok = results[0].is_right
    return ConformanceReport(_text(results, ok=ok), _content(results, repeats=repeats, ok=ok), ok)


def _text(results: Sequence[ExtractorResult], *, ok: bool) -> str:
    ran = [result for result in results if result.streams]
    table = Table("stream", "frames", *(result.extractor.name for result in ran))
    for row in zip(*(result.streams for result in ran), strict=True):
        expected = row[0].expected
        name = expected.path.name if expected.counted else f"({expected.path.name})"
        table.add_row(name, str(len(expected.hashes)), *(_cell(stream) for stream in row))
    parts: list[Table | str] = [table]
    parts += [
        f"{result.extractor.name}: not checked: {result.extractor.missing}"
        for result in results
        if not result.streams
    ]
    parts.append("Frames right, least and most of the runs; ~ the runs differ, ! it stopped early.")
    parts.append("(In brackets: reported, not counted, see docs/conformance.md.)")
    parts += [
        f"{result.extractor.name} {result.extractor.version}: "
        f"{'right' if result.is_right else 'WRONG'}"
        for result in ran
    ]
    parts.append(f"gopstream's vectors are {'right in every frame' if ok else 'WRONG'}")
    return render(*parts)


def _cell(result: StreamResult) -> str:
    counts = [result.num_right(run) for run in result.runs]
    span = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
    marks = "" if result.runs_agree else " ~"
    extra = max(run.num_frames for run in result.runs) - len(result.expected.hashes)
    marks += f" +{extra}" if extra > 0 else ""
    return span + marks + (" !" if any(run.error for run in result.runs) else "")


def _content(results: Sequence[ExtractorResult], *, repeats: int, ok: bool) -> dict[str, Any]:
    return {
        "suite_version": VERSION,
        "ok": ok,
        "repeats": repeats,
        "extractors": [
            {
                "name": result.extractor.name,
                "version": result.extractor.version,
                "missing": result.extractor.missing,
                "right": result.is_right,
                "streams": [_stream_content(stream) for stream in result.streams],
            }
            for result in results
        ],
    }


def _stream_content(result: StreamResult) -> dict[str, Any]:
    return {
        "stream": result.expected.path.name,
        "counted": result.expected.counted,
        "frames": len(result.expected.hashes),
        "right": result.is_right,
        "runs_agree": result.runs_agree,
        "runs": [
            {
                "frames": run.num_frames,
                "frames_right": result.num_right(run),
                "wrong": list(run.wrong),
                "error": run.error,
            }
            for run in result.runs
        ],
    }
