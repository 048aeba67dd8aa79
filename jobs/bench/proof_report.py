"""What the proofs share: which files are videos, which versions ran, how a result is kept."""

import argparse
import json
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from rich.console import Console

from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.probe import VideoFacts, open_video
from gopstream.pipeline.transcode import default_ffmpeg, ffmpeg_version


class ProofArguments(NamedTuple):
    """What a proof is called with."""

    videos: Path
    json_file: Path


def parse_arguments(name: str, description: str) -> ProofArguments:
    """Read ``VIDEO_FOLDER --json FILE`` from the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m gopstream.jobs.bench.{name}", description=description
    )
    parser.add_argument("videos", type=Path, help="folder of videos; other files are skipped")
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parsed = parser.parse_args()
    if not parsed.videos.is_dir():
        parser.error(f"{parsed.videos}: no such folder")
    return ProofArguments(parsed.videos, parsed.json_file)


def usable_videos(folder: Path) -> Iterator[VideoFacts]:
    """Yield the videos of a folder by name; prints a line for each file that is none."""
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            yield open_video(path)
        except NotAVideoError as error:
            Console().print(f"skipped: {error}", markup=False, soft_wrap=True)


def versions() -> dict[str, Any]:
    """Return the versions of everything that decides the figures, and the kind of machine."""
    binary = default_ffmpeg()
    shown = subprocess.run(
        [binary, "-hide_banner", "-version"], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"^libavcodec\s+(\d+)\.\s*(\d+)\.\s*(\d+)", shown, re.MULTILINE)
    return {
        "ffmpeg": ffmpeg_version(binary),
        "libavcodec_of_ffmpeg": ".".join(match.groups()) if match else "unknown",
        "libavcodec_of_pyav": ".".join(map(str, av.library_versions["libavcodec"])),
        "pyav": av.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def write_report(path: Path, content: dict[str, Any], *, name: str) -> None:
    """Write a result as JSON, with the command (paths left out) and the versions."""
    report = {
        "command": f"python -m gopstream.jobs.bench.{name} VIDEOS --json FILE",
        "versions": versions(),
        **content,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
