"""Proof that memory does not grow with the length of a video.

A 1080p video of ten minutes is made, extracted segment by segment in canonical and in native
mode, and written into a shard, each in a fresh process. The kernel keeps the peak of a process's
resident memory (VmHWM of /proc/PID/status); it must be reached in the first tenth of each phase.
FFmpeg, which makes the canonical stream, is looked at apart.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.proof_report import write_report
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import default_ffmpeg
from gopstream.shards.storage import open_storage
from gopstream.shards.writer import ShardWriter

GROWTH_LIMIT: Final = 1.1
SLACK_MIB: Final = 16.0
_RATE: Final = 30
_LOOP_SECONDS: Final = 10
_SHOWN_SAMPLES: Final = 20
_WITH_B_FRAMES: Final = ("-bf", "3", "-g", "250", "-keyint_min", "250", "-sc_threshold", "0")
_EXACT: Final = (
    *("-bf", "0", "-refs", "1", "-g", "12", "-keyint_min", "12", "-sc_threshold", "0"),
    *("-x264-params", "weightp=0:no-deblock=1:partitions=p8x8,i8x8,i4x4"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One extraction whose memory is watched."""

    name: str
    encoder_options: tuple[str, ...]
    mode: Literal["canonical", "native"]
    planes: tuple[str, ...]
    segment_frames: int
    """At most; fewer in a short video."""
    part: float
    """Length of its video, as a part of the minutes asked for."""


# The first tenth of a phase holds four segments: only then two clips, the one that is read and the
# one that is written, and all that is put off until a second one, have been in memory.
_SEGMENTS: Final = 40

CASES: Final = (
    Case("canonical", _WITH_B_FRAMES, "canonical", ("frames", "motion", "residual"), 300, 1.0),
    Case("native", _WITH_B_FRAMES, "native", ("frames", "motion"), 300, 1.0),
    # A segment of 1080p residuals is large: 3 MB a frame.
    Case("native exact", _EXACT, "native", ("frames", "motion", "residual"), 60, 0.2),
)


class Sample(NamedTuple):
    """Memory at one moment, in MiB."""

    phase: str
    """``transcode`` while FFmpeg runs, otherwise ``extract``."""
    resident: float
    peak: float
    ffmpeg_peak: float
    """0 while there is none, or none any more."""


def make_video(path: Path, *, minutes: float, size: str, encoder_options: Sequence[str]) -> None:
    """Encode ten seconds of FFmpeg's test picture and repeat them without encoding.

    Raises:
        subprocess.CalledProcessError: If FFmpeg fails.
    """
    once = path.with_suffix(".once.mp4")
    quiet = [default_ffmpeg(), "-v", "error", "-nostdin", "-y"]
    source = f"testsrc2=size={size}:rate={_RATE}:duration={_LOOP_SECONDS}"
    encode = ["-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "veryfast"]
    subprocess.run([*quiet, *encode, *encoder_options, str(once)], check=True)
    num_repeats = max(0, round(minutes * 60 / _LOOP_SECONDS) - 1)
    repeat = ["-stream_loop", str(num_repeats), "-i", str(once), "-c", "copy"]
    subprocess.run([*quiet, *repeat, str(path)], check=True)
    once.unlink()


def read_memory(pid: int) -> dict[str, float]:
    """Return VmRSS and VmHWM of a process in MiB; empty when it has ended.

    Source: proc(5), /proc/PID/status, which counts in KiB.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return parse_memory(text)


def parse_memory(status: str) -> dict[str, float]:
    """Read VmRSS and VmHWM, in MiB, out of the text of /proc/PID/status."""
    lines = (line.split() for line in status.splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) / 1024
        for words in lines
        if words and words[0] in ("VmRSS:", "VmHWM:")
    }


def child_processes(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started, by /proc/PID/stat."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in parentheses, may itself contain spaces and parentheses.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            yield int(entry.name)


def _is_ffmpeg(pid: int) -> bool:
    """Tell whether a process is the transcode, and none of those that others have started."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:  # it has ended meanwhile
        return False
    return name == Path(default_ffmpeg()).name[:15]  # as much as the kernel keeps


def take_sample() -> Sample:
    """Look at this process and at the FFmpeg that it runs, if any."""
    own = read_memory(os.getpid())
    children = [pid for pid in child_processes(os.getpid()) if _is_ffmpeg(pid)]
    # A process that has ended and was not yet waited for has no memory left to read.
    ffmpeg = max((read_memory(pid).get("VmHWM", 0.0) for pid in children), default=0.0)
    return Sample("transcode" if children else "extract", own["VmRSS"], own["VmHWM"], ffmpeg)


def watch_extraction(
    path: Path, folder: Path, *, options: ExtractionOptions
) -> tuple[int, list[Sample]]:
    """Extract a video into a shard, as ``shard`` does, and sample memory all the while.

    Returns:
        Number of frames, and the samples.
    """
    samples: list[Sample] = []
    clips = extract_segments(
        path, options=options, on_progress=lambda: samples.append(take_sample())
    )
    num_frames = 0
    writer: ShardWriter | None = None
    for number, clip in enumerate(clips):
        if writer is None:
            has_residual = clip.residual is not None
            if has_residual != ("residual" in options.planes):
                raise RuntimeError(f"{path.name}: no residual: {clip.exactness}")
            writer = ShardWriter(
                open_storage(folder), "bench", "000000", with_residual=has_residual
            )
        writer.add(f"video-{number:06d}", clip, label=-1, facts={})
        num_frames += clip.num_frames
        samples.append(take_sample())
    assert writer is not None
    writer.publish([])
    return num_frames, samples


def watch_case(name: str, path: Path, segment_frames: int) -> dict[str, Any]:
    """Run one case in this process; returns what its parent reads."""
    case = next(case for case in CASES if case.name == name)
    options = ExtractionOptions(mode=case.mode, planes=case.planes, segment_frames=segment_frames)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-", dir=path.parent) as folder:
        num_frames, samples = watch_extraction(path, Path(folder), options=options)
    seconds = time.monotonic() - started
    return {"frames": num_frames, "seconds": round(seconds, 1), "samples": samples}


def judge(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Compare the peaks in the first tenth of each phase with those at its end.

    Returns:
        Per phase and process a row: ``phase``, ``process``, ``first_tenth_mib``, ``end_mib``,
        ``limit_mib``, ``flat``, ``num_samples``.
    """
    rows = []
    for phase in ("transcode", "extract"):
        chosen = [sample for sample in samples if sample.phase == phase]
        processes = {"gopstream": [sample.peak for sample in chosen]}
        if phase == "transcode":
            processes["ffmpeg"] = [sample.ffmpeg_peak for sample in chosen]
        for process, peaks in processes.items():
            if not peaks:
                continue
            first, end = peaks[len(peaks) // 10], max(peaks)
            limit = GROWTH_LIMIT * first + SLACK_MIB
            rows.append(
                {
                    "phase": phase,
                    "process": process,
                    "first_tenth_mib": round(first, 1),
                    "end_mib": round(end, 1),
                    "limit_mib": round(limit, 1),
                    "flat": end <= limit,
                    "num_samples": len(peaks),
                }
            )
    return rows


def segment_length(case: Case, minutes: float) -> int:
    """Return the segment of a case in frames: whole GOPs of 12, the shorter in short videos."""
    num_frames = int(minutes * case.part * 60 * _RATE)
    return max(12, min(case.segment_frames, num_frames // _SEGMENTS // 12 * 12))


def prove_case(case: Case, folder: Path, *, minutes: float, size: str) -> dict[str, Any]:
    """Make a case's video, run it in a fresh process and judge it."""
    path = folder / f"{case.name.replace(' ', '-')}.mp4"
    make_video(path, minutes=minutes * case.part, size=size, encoder_options=case.encoder_options)
    segment_frames = segment_length(case, minutes)
    code = (
        "import json, sys; from pathlib import Path; "
        "from gopstream.jobs.bench.flat_memory import watch_case; "
        "print(json.dumps(watch_case(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))"
    )
    command = [sys.executable, "-c", code, case.name, str(path), str(segment_frames)]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    path.unlink()
    seen = json.loads(shown)
    samples = [Sample(*row) for row in seen.pop("samples")]
    thinned = samples[:: max(1, len(samples) // _SHOWN_SAMPLES)]
    return {
        "case": case.name,
        "planes": list(case.planes),
        "segment_frames": segment_frames,
        "minutes": minutes * case.part,
        **seen,
        "phases": judge(samples),
        "resident_mib_over_time": [round(sample.resident, 1) for sample in thinned],
    }


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Name what has grown."""
    found = []
    for row in rows:
        if "extract" not in [phase["phase"] for phase in row["phases"]]:
            found.append(f"{row['case']}: no sample was taken")
        found += [
            f"{row['case']}: {phase['process']} grew from {phase['first_tenth_mib']} MiB in the "
            f"first tenth of {phase['phase']} to {phase['end_mib']} MiB"
            for phase in row["phases"]
            if not phase["flat"]
        ]
    return found


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("case", "frames", "seconds", "phase", "process", "MiB, first tenth", "MiB, end")
    for row in rows:
        for phase in row["phases"]:
            start = (row["case"], str(row["frames"]), str(row["seconds"]))
            peaks = (str(phase["first_tenth_mib"]), str(phase["end_mib"]))
            table.add_row(*start, phase["phase"], phase["process"], *peaks)
    return table


def main() -> int:
    """Run the proof; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.flat_memory",
        description="Memory does not grow with the length of a video.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the video")
    parser.add_argument("--size", default="1920x1080", help="of its pictures")
    arguments = parser.parse_args()
    if arguments.minutes < 2:
        parser.error(f"--minutes must be at least 2, got {arguments.minutes:g}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        for case in CASES:
            rows.append(
                prove_case(case, Path(folder), minutes=arguments.minutes, size=arguments.size)
            )
            Console().print(_table(rows[-1:]))
    found = failures(rows)
    content = {
        "command": "python -m gopstream.jobs.bench.flat_memory --json FILE",
        "claim": f"peak memory at the end of each phase is at most {GROWTH_LIMIT:g} times that of "
        f"its first tenth plus {SLACK_MIB:g} MiB",
        "holds": not found,
        "failures": found,
        "size": arguments.size,
        "cases": rows,
    }
    write_report(arguments.json_file, content, name="flat_memory")
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
