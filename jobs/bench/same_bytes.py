"""Proof that shards have the same bytes whatever the CPU offers and however work is spread.

The same videos are sharded again and again by ``python -m gopstream shard`` in its own process,
each time with another part of the machine taken away: SIMD code of FFmpeg and x264, of
libjpeg-turbo, of NumPy; processes and threads. Every file of the output must have one sha256.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import simplejpeg
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.proof_report import parse_arguments, usable_videos, write_report
from gopstream.pipeline.transcode import default_ffmpeg

NUM_VIDEOS: Final = 3
_X264_OPTION: Final = "-x264-params"
_SIMD_SWITCH: Final = "JSIMD_FORCENONE"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run ``shard``."""

    name: str
    workers: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    skipped: str = ""
    """Why it cannot be run here; empty when it can."""


def write_wrapper(path: Path, *, binary: str, log: Path) -> None:
    """Write a script that runs FFmpeg without SIMD, in FFmpeg itself and in x264.

    Each call adds a line to ``log``: ``plain``, or ``x264`` where an encoder was slowed down.
    """
    path.write_text(
        f"""#!/bin/bash
arguments=() previous= kind=plain
for argument in "$@"; do
    if [ "$previous" = {_X264_OPTION} ]; then argument="$argument:asm=0" kind=x264; fi
    arguments+=("$argument")
    previous="$argument"
done
echo $kind >> {shlex.quote(str(log))}
exec {shlex.quote(binary)} -cpuflags 0 "${{arguments[@]}}"
"""
    )
    path.chmod(0o755)


def variants(wrapper: Path) -> list[Variant]:
    """Return the baseline and everything that must not matter."""
    return [
        Variant("baseline"),
        Variant("FFmpeg and x264 without SIMD", environment={"GOPSTREAM_FFMPEG": str(wrapper)}),
        Variant("1 worker", workers=1),
        Variant("2 workers", workers=2),
        Variant("OMP_NUM_THREADS=1", environment={"OMP_NUM_THREADS": "1"}),
        Variant("OMP_NUM_THREADS=8", environment={"OMP_NUM_THREADS": "8"}),
        Variant(
            "libjpeg-turbo without SIMD", environment={_SIMD_SWITCH: "1"}, skipped=_no_jpeg_switch()
        ),
        _numpy_variant(),
        Variant(
            "kernels for the first x86-64",
            environment={"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        ),
    ]


def _no_jpeg_switch() -> str:
    """Say if simplejpeg's libjpeg-turbo does not read the switch: then the run shows nothing."""
    libraries = Path(simplejpeg.__file__).parent.glob("*.so")
    if any(_SIMD_SWITCH.encode() in library.read_bytes() for library in libraries):
        return ""
    return f"simplejpeg's library does not know {_SIMD_SWITCH}"


def _numpy_variant() -> Variant:
    """Take away what NumPy found beyond its baseline; asks a fresh NumPy whether it agrees."""
    name = "NumPy without dispatched SIMD"
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    if not found:
        return Variant(name, skipped="NumPy found no SIMD beyond its baseline")
    environment = {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    check = (
        "import numpy as np, sys; sys.exit('still on' if "
        "np.show_config(mode='dicts')['SIMD Extensions'].get('found') else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", check],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    said = done.stderr.strip().splitlines()
    reason = f"NumPy refuses: {(said or ['no reason given'])[-1]}" if done.returncode else ""
    return Variant(name, environment=environment, skipped=reason)


def run_shard(videos: Path, out: Path, *, variant: Variant) -> dict[str, str]:
    """Shard a folder in a process of its own.

    Returns:
        The sha256 of each file of the output, by its path in it.

    Raises:
        RuntimeError: If the command fails, or a video in it.
    """
    command = [sys.executable, "-m", "gopstream", "shard", str(videos), "--out", str(out)]
    summary = out.with_suffix(".json")
    command += ["--workers", str(variant.workers), "--json", str(summary)]
    environment = {key: value for key, value in os.environ.items() if key != "GOPSTREAM_FFMPEG"}
    done = subprocess.run(
        command, env={**environment, **variant.environment}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{variant.name}: shard failed: {done.stderr.strip()[-500:]}")
    for name, split in json.loads(summary.read_text())["splits"].items():
        if split["failures"]:
            raise RuntimeError(f"{variant.name}: failures in {name}: {split['failures']}")
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def differences(baseline: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Name the files that are missing, too many or different."""
    missing = [f"{name}: missing" for name in baseline if name not in other]
    extra = [f"{name}: not in the baseline" for name in other if name not in baseline]
    common = [name for name in baseline if name in other]
    return (
        missing + extra + [f"{name}: differs" for name in common if baseline[name] != other[name]]
    )


def compare(videos: list[Path], folder: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Shard the videos in every variant; returns the baseline's hashes and a row per variant."""
    sources = folder / "videos"
    sources.mkdir()
    for video in videos:
        shutil.copy(video, sources / video.name)
    wrapper, log = folder / "ffmpeg-without-simd", folder / "calls.txt"
    write_wrapper(wrapper, binary=default_ffmpeg(), log=log)
    baseline: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for index, variant in enumerate(variants(wrapper)):
        row: dict[str, Any] = {"variant": variant.name, "skipped": variant.skipped}
        rows.append(row)
        if variant.skipped:
            continue
        hashes = run_shard(sources, folder / f"out{index}", variant=variant)
        baseline = baseline or hashes
        row |= {"files": len(hashes), "differences": differences(baseline, hashes)}
        if "GOPSTREAM_FFMPEG" in variant.environment:
            row["encodes_without_simd"] = log.read_text().split().count("x264")
            if row["encodes_without_simd"] < len(videos):
                row["differences"].append("the wrapper was not used for each video")
    return baseline, rows


def main() -> int:
    """Run the proof; returns the exit code."""
    arguments = parse_arguments("same_bytes", "Shards are the same bytes on every machine.")
    paths = sorted(
        (facts.path for facts in usable_videos(arguments.videos)),
        key=lambda path: (path.stat().st_size, path.name),
    )[:NUM_VIDEOS]
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        baseline, rows = compare(paths, Path(folder))
    found = [f"{row['variant']}: {text}" for row in rows for text in row.get("differences", [])]
    if not baseline:
        found.append("shard wrote no file: nothing was compared")
    content = {
        "claim": "every file of the output has the same sha256 in each variant",
        "holds": not found,
        "failures": found,
        "videos": [{"video": path.name, "bytes": path.stat().st_size} for path in paths],
        "variants": rows,
        "sha256": baseline,
    }
    write_report(arguments.json_file, content, name="same_bytes")
    table = Table("variant", "files", "different", "skipped because")
    for row in rows:
        num_different = len(row["differences"]) if "differences" in row else "-"
        table.add_row(
            row["variant"], str(row.get("files", "-")), str(num_different), row["skipped"]
        )
    Console(width=110).print(table)
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
