"""Where a step of loading is done best, in the worker or on the device: what comparisons share.

Videos are extracted as shards hold them, and clips of 16 x 4 frames are cut at random, in batches
of one size of frames. A batch is compared on both roads before anything is timed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.proof_report import parse_arguments, usable_videos, write_report
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.shards.loading.geometry import Geometry, area_box

NUM_FRAMES: Final = 16
STRIDE: Final = 4
SIZE: Final = 224
SPAN: Final = (NUM_FRAMES - 1) * STRIDE + 1
BATCH: Final = 8
CLIPS_PER_VIDEO: Final = 4
REPEATS: Final = 5

_Cut = TypeVar("_Cut")


@dataclass(frozen=True, slots=True)
class Comparison(Generic[_Cut]):
    """What is compared, and how a batch of it is."""

    name: str
    """Of the report."""
    title: str
    table_title: str
    facts: Mapping[str, str]
    """The claim, and what the figures are of."""
    cut: Callable[[Clip, np.random.Generator, str], Iterator[_Cut]]
    """Yields clips of an extracted video at random places; the last is its name."""
    fault: Callable[[Sequence[_Cut], str], str | None]
    """Says how the two roads differ on a device; None if they agree."""
    measure: Callable[[Sequence[_Cut], Sequence[str]], dict[str, Any]]
    """Times both roads for a batch, on some devices."""
    without_cuda: str = ""
    """What is said where there is no CUDA device."""

    def batches(self, folder: Path) -> dict[str, list[_Cut]]:
        """Cut clips of the videos of a folder; a batch for each size of frames, WxH."""
        rng = np.random.default_rng(0)
        options = ExtractionOptions(planes=("frames", "motion"))
        found: dict[str, list[_Cut]] = {}
        for facts in usable_videos(folder):
            clip = extract_clip(facts.path, options=options)
            if clip.num_frames >= SPAN:
                size = "x".join(map(str, clip.frame_size))
                found.setdefault(size, []).extend(self.cut(clip, rng, facts.path.name))
        return {size: clips[:BATCH] for size, clips in found.items()}

    def run(self) -> int:
        """Compare, time and report, as the command line says; returns the exit code."""
        arguments = parse_arguments(self.name, self.title)
        torch.set_num_threads(1)
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        batches = self.batches(arguments.videos)
        failures = [
            f"{size}: {text}"
            for size, clips in batches.items()
            for device in devices
            if (text := self.fault(clips, device)) is not None
        ]
        rows = [{"size": size, **self.measure(clips, devices)} for size, clips in batches.items()]
        if not rows:
            failures.append(f"no video has {SPAN} frames: nothing was compared")
        content = {
            **self.facts,
            "holds": not failures,
            "failures": failures,
            "device": torch.cuda.get_device_name() if "cuda" in devices else "none",
            "torch": torch.__version__,
            "batches": rows,
        }
        write_report(arguments.json_file, content, name=self.name)
        self._show(rows, failures, has_cuda="cuda" in devices)
        return 1 if failures else 0

    def _show(self, rows: list[dict[str, Any]], failures: list[str], *, has_cuda: bool) -> None:
        if rows:
            Console(width=110).print(_table(self.table_title, rows))
        if self.without_cuda and not has_cuda:
            Console().print(self.without_cuda, soft_wrap=True)
        Console().print("\n".join(failures) or "both roads agree", markup=False, soft_wrap=True)


def random_crop(clip: Clip, rng: np.random.Generator) -> Geometry:
    """Draw a crop of a clip's frames, mirrored or not, as in training."""
    box = area_box(
        clip.frame_size, scale=(0.08, 1.0), ratio=(0.75, 1.3333), draws=rng.random((10, 4))
    )
    return Geometry(box, SIZE, bool(rng.random() < 0.5))


def seconds(run: Callable[[], object], *, device: str = "cpu") -> float:
    """Return the least time of several runs, the first one left out; on the CPU that of a core."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for _ in range(REPEATS + 1):
        _wait(device)
        start = clock()
        run()
        _wait(device)
        times.append(clock() - start)
    return min(times[1:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the figures of batches beside each other; ``size`` heads a column."""
    table = Table(title, *(row["size"] for row in rows))
    for name in rows[0]:
        if name != "size":
            table.add_row(name.replace("_", " "), *(f"{row[name]:,}" for row in rows))
    return table
