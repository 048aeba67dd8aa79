"""Measure extraction against the decoder alone, and against mvextractor, in one run.

Figures are CPU seconds of this process and its children: frames per second *of one core*, whatever
else the machine does and however many threads a peer starts. All stages of a stream take turns, and
the median of the rounds counts.
"""

import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from rich.table import Table

from gopstream.jobs.bench.bench_streams import BenchStream, make_streams
from gopstream.jobs.bench.extract_stages import (
    DECODE_ONLY,
    EVERYTHING,
    encode_clip,
    extract,
    extract_and_encode,
    shard_one,
    stage_table,
    transcode_alone,
)
from gopstream.jobs.bench.proof_report import versions
from gopstream.jobs.summaries import Summary, render

_ALL_PLANES = ("motion", "frames", "residual")


@dataclass(frozen=True, slots=True)
class StageFigure:
    """One stage on one stream."""

    stage: str
    frames_per_second: float
    """Per core: frames per CPU second."""
    of_decode_only: float
    """Ratio to the decoder alone, same run."""


def bench_extract(source: Path | None, *, rounds: int, on_step: Callable[[str], None]) -> Summary:
    """Measure on streams made from a source.

    Args:
        source: A video; None generates one.
        rounds: How often each stage is measured.
        on_step: Called with what is being measured.

    Returns:
        A table, and the figures.
    """
    with tempfile.TemporaryDirectory(prefix="gopstream-bench-") as name:
        folder = Path(name)
        on_step("making streams")
        streams = make_streams(source, folder)
        measured = []
        for stream in streams:
            on_step(f"{stream.size} {stream.kind}")
            measured.append(_measure_stream(stream, rounds))
        small = next(s for s in streams if (s.size, s.kind) == ("340x256", "exact"))
        web = next(s for s in streams if (s.size, s.kind) == ("340x256", "web"))
        on_step("two processes")
        processes = _measure_processes(small.path, rounds)
        on_step("shard")
        sharding = _measure_sharding(web.path, folder, rounds)
    content = {
        "command": "gopstream bench extract [VIDEO] --json FILE",
        "source": "generated" if source is None else source.name,
        "rounds": rounds,
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "cores": multiprocessing.cpu_count(),
        },
        "versions": versions(),
        "streams": measured,
        "two_processes": processes,
        "sharding": sharding,
    }
    return Summary(render(*_tables(content)), content)


def _cpu_seconds() -> float:
    """Return CPU time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _median_cpu(stages: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each stage; the stages take turns."""
    for stage in stages.values():
        stage()  # kernels are compiled, files are cached
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, stage in stages.items():
            start = _cpu_seconds()
            stage()
            seconds[name].append(_cpu_seconds() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _measure_stream(stream: BenchStream, rounds: int) -> dict[str, Any]:
    table = stage_table(is_exact=stream.kind == "exact")
    frames = {name: stage(stream.path) for name, stage in table.stages.items()}
    calls = {name: (lambda stage=stage: stage(stream.path)) for name, stage in table.stages.items()}
    seconds = _median_cpu(calls, rounds)
    limit = frames[DECODE_ONLY] / seconds[DECODE_ONLY]
    figures = [
        StageFigure(name, frames[name] / seconds[name], frames[name] / seconds[name] / limit)
        for name in table.stages
    ]
    planes = _ALL_PLANES if stream.kind == "exact" else ("motion", "frames")
    clip = extract(stream.path, planes)
    sizes = {name: size / clip.num_frames for name, size in encode_clip(clip).items()}
    return {
        "size": stream.size,
        "kind": stream.kind,
        "frames": clip.num_frames,
        "frame_types": {kind: clip.kinds.count(kind) for kind in sorted(set(clip.kinds))},
        "bytes_per_frame": {"video": stream.bytes_per_frame, **sizes},
        "stages": [asdict(figure) for figure in figures],
        "missing": dict(table.missing),
    }


def _measure_processes(path: Path, rounds: int) -> dict[str, float]:
    """Compare the wall time of one process with that of two that do as much each."""
    context = multiprocessing.get_context("spawn")
    walls = {}
    for count in (1, 2):
        barrier = context.Barrier(count + 1)
        workers = [
            context.Process(target=_extract_rounds, args=(path, rounds, barrier))
            for _ in range(count)
        ]
        for worker in workers:
            worker.start()
        barrier.wait()
        start = time.perf_counter()
        barrier.wait()
        walls[count] = time.perf_counter() - start
        for worker in workers:
            worker.join()
    return {
        "seconds_one": walls[1],
        "seconds_two": walls[2],
        "speed_up": 2 * walls[1] / walls[2],
    }


def _extract_rounds(path: Path, rounds: int, barrier: Barrier) -> None:
    extract_and_encode(path, _ALL_PLANES)
    barrier.wait()
    for _ in range(max(10, rounds)):
        extract_and_encode(path, _ALL_PLANES)
    barrier.wait()


def _measure_sharding(path: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Compare ``shard`` with the transcode that it contains."""
    seconds = _median_cpu(
        {
            "transcode_alone": lambda: transcode_alone(path, folder),
            "shard": lambda: shard_one(path),
        },
        rounds,
    )
    return {
        "cpu_seconds_alone": seconds["transcode_alone"],
        "cpu_seconds_shard": seconds["shard"],
        "of_transcode_alone": seconds["transcode_alone"] / seconds["shard"],
    }


def _tables(content: Mapping[str, Any]) -> list[Table | str]:
    parts: list[Table | str] = []
    for stream in content["streams"]:
        sizes = ", ".join(f"{k} {v:,.0f}" for k, v in stream["bytes_per_frame"].items())
        types = ", ".join(f"{count} {kind}" for kind, count in stream["frame_types"].items())
        parts.append(f"{stream['size']}, {stream['kind']} ({types}); bytes per frame: {sizes}")
        table = Table("stage", "frames/s per core", "of decode only")
        for row in stream["stages"]:
            table.add_row(
                row["stage"], f"{row['frames_per_second']:,.0f}", f"{row['of_decode_only']:.2f}"
            )
        parts.append(table)
        parts += [f"  {name}: {why}" for name, why in stream["missing"].items()]
    parts.append(f"two processes: {content['two_processes']['speed_up']:.2f} x one ({EVERYTHING})")
    share = content["sharding"]["of_transcode_alone"]
    parts.append(f"shard: {share:.2f} of decode + scale + x264 alone (CPU time)")
    return parts
