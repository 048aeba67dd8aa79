"""Where accumulated motion is made best: in the worker, or on the device.

Videos are extracted as canonical shards hold them, clips of 16 x 4 frames are cut at random, and
the same motion is made on both roads: fields in the worker, sent to the device; or windows as they
were read, sent to the device and accumulated there, a batch at once. Both are compared bit for bit
before anything is timed. All times are shares of what decoding the clip's JPEGs costs one core.

Reading and decompressing chunks is the same on both roads and counts on neither. What only a GPU
can show (copies to it, and its share of a training step) is measured where there is one.

Dimensions: B clips of a batch.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import simplejpeg
import torch
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.proof_report import parse_arguments, usable_videos, write_report
from gopstream.pipeline.accumulation import CellMotion
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.shards.loading.device_motion import (
    ClipMotion,
    MotionBatch,
    accumulated_clip,
    accumulated_motion,
    clip_motion,
    collate_motion,
)
from gopstream.shards.loading.geometry import Geometry, area_box, cells_under, vector_matrix
from gopstream.shards.sample_parts import MotionWindow

NUM_FRAMES: Final = 16
STRIDE: Final = 4
SUBCLIP_FRAMES: Final = 8
QUERY_STRIDE: Final = 2
SIZE: Final = 224
GRID: Final = 56
BATCH: Final = 8
CLIPS_PER_VIDEO: Final = 4
REPEATS: Final = 5
_SPAN: Final = (NUM_FRAMES - 1) * STRIDE + 1


class TimedClip(NamedTuple):
    """One clip: what the worker has read of it."""

    jpegs: list[bytes]
    window: MotionWindow
    asked: dict[str, Any]
    """What :func:`clip_motion` takes besides the window."""

    def prepare(self) -> ClipMotion:
        """Cut the window."""
        return clip_motion(self.window, **self.asked)

    def fields(self) -> CellMotion:
        """Make the fields as the worker does."""
        return accumulated_clip(self.prepare(), query_stride=QUERY_STRIDE)


def cut_clips(clip: Clip, rng: np.random.Generator) -> Iterator[TimedClip]:
    """Yield clips at random places, with random crops, each with the GOPs that hold it."""
    kinds = np.array(list(clip.kinds))
    starts = np.array(clip.chunk_starts)
    cuts = np.isin(np.arange(len(kinds)), clip.scene_cuts)
    for _ in range(CLIPS_PER_VIDEO):
        sampled = int(rng.integers(len(kinds) - _SPAN + 1)) + np.arange(NUM_FRAMES) * STRIDE
        first = int(starts[starts <= sampled[0]].max())
        later = starts[starts > min(sampled[-1] + 1, len(kinds) - 1)]
        part = slice(first, int(later.min()) if len(later) else len(kinds))
        window = MotionWindow(
            first,
            clip.motion[part],
            clip.coverage[part],
            kinds[part] == "I",
            kinds[part] == "B",
            cuts[part],
        )
        box = area_box(
            clip.frame_size, scale=(0.08, 1.0), ratio=(0.75, 1.3333), draws=rng.random((10, 4))
        )
        geometry = Geometry(box, SIZE, bool(rng.random() < 0.5))
        cells = cells_under(
            geometry,
            grid=GRID,
            frame_size=clip.frame_size,
            display_rect=clip.display_rect,
            blocks=(clip.motion.shape[2], clip.motion.shape[3]),
            block_pixels=8,
        )
        linear = vector_matrix(geometry, frame_size=clip.frame_size, display_rect=clip.display_rect)
        asked = {
            "sampled": sampled,
            "subclip_frames": SUBCLIP_FRAMES,
            "display_size": clip.display_rect[2:],
            "cells": np.where(cells.inside, cells.flat, -1),
            "linear": linear.astype(np.float32),
        }
        yield TimedClip([clip.jpegs[frame] for frame in sampled], window, asked)


def batches_by_size(folder: Path) -> dict[str, list[TimedClip]]:
    """Cut clips of the videos of a folder; a batch for each size of frames, WxH."""
    rng = np.random.default_rng(0)
    options = ExtractionOptions(planes=("frames", "motion"))
    found: dict[str, list[TimedClip]] = {}
    for facts in usable_videos(folder):
        clip = extract_clip(facts.path, options=options)
        if clip.num_frames >= _SPAN:
            size = "x".join(map(str, clip.frame_size))
            found.setdefault(size, []).extend(cut_clips(clip, rng))
    return {size: clips[:BATCH] for size, clips in found.items()}


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


def mismatch(clips: Sequence[TimedClip], *, device: str) -> str | None:
    """Say which clip is not the same on both roads; None if all are."""
    batch = collate_motion([clip.prepare() for clip in clips]).to(device)
    motion, valid = accumulated_motion(batch, query_stride=QUERY_STRIDE)
    for number, clip in enumerate(clips):
        fields = clip.fields()
        if not (
            np.array_equal(fields.motion, motion[number].cpu().numpy())
            and np.array_equal(fields.valid, valid[number].cpu().numpy())
        ):
            return f"clip {number} on {device}: worker and device differ"
    return None


def measure_batch(clips: Sequence[TimedClip], *, devices: Sequence[str]) -> dict[str, Any]:
    """Time both roads for one batch; shares of the time that its JPEGs take to decode."""
    decode = seconds(lambda: [simplejpeg.decode_jpeg(j) for clip in clips for j in clip.jpegs])
    batch = collate_motion([clip.prepare() for clip in clips])
    fields = [clip.fields() for clip in clips]
    row: dict[str, Any] = {
        "clips": len(clips),
        "jpeg_decode_ms_per_clip": round(decode / len(clips) * 1e3, 3),
        "worker_makes_fields": seconds(lambda: _stacked([clip.fields() for clip in clips])),
        "worker_sends_windows": seconds(lambda: collate_motion([c.prepare() for c in clips])),
    }
    for device in devices:
        for name, time_taken in _on_device(batch, fields, device).items():
            row[f"{device}: {name}"] = time_taken
    for name, value in row.items():
        if isinstance(value, float) and name != "jpeg_decode_ms_per_clip":
            row[name] = round(value / decode, 4)
    row["bytes_of_fields"] = _stacked(fields).num_bytes // len(clips)
    row["bytes_of_windows"] = batch.num_bytes // len(clips)
    row["window_bytes_over_field_bytes"] = round(
        row["bytes_of_windows"] / row["bytes_of_fields"], 4
    )
    return row


class _Stacked(NamedTuple):
    motion: torch.Tensor
    valid: torch.Tensor

    @property
    def num_bytes(self) -> int:
        return int(self.motion.nbytes + self.valid.nbytes)


def _stacked(fields: Sequence[CellMotion]) -> _Stacked:
    motion = np.stack([field.motion for field in fields])
    valid = np.stack([field.valid for field in fields])
    return _Stacked(torch.from_numpy(motion), torch.from_numpy(valid))


def _on_device(batch: MotionBatch, fields: Sequence[CellMotion], device: str) -> dict[str, float]:
    """Return seconds for a batch: the operation and, where there is a bus, both copies."""
    here = batch.to(device)

    def run() -> object:
        return accumulated_motion(here, query_stride=QUERY_STRIDE)

    times = {"accumulates": seconds(run, device=device)}
    if device != "cuda":
        return times
    compiled = torch.compile(accumulated_motion, fullgraph=True)
    times["accumulates, compiled"] = seconds(
        lambda: compiled(here, query_stride=QUERY_STRIDE), device=device
    )
    pinned, stacked = batch.pin_memory(), [part.pin_memory() for part in _stacked(fields)]
    times["takes windows"] = seconds(lambda: pinned.to(device, non_blocking=True), device=device)
    times["takes fields"] = seconds(
        lambda: [part.to(device, non_blocking=True) for part in stacked], device=device
    )
    return times


def batch_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return the figures of batches beside each other.

    Args:
        title: What they are.
        rows: Of each batch: ``size``, which heads its column, and figures by name.
    """
    table = Table(title, *(row["size"] for row in rows))
    for name in rows[0]:
        if name != "size":
            table.add_row(name.replace("_", " "), *(f"{row[name]:,}" for row in rows))
    return table


def main() -> int:
    """Run the comparison; returns the exit code."""
    arguments = parse_arguments("motion_place", "Accumulated motion: worker or device?")
    torch.set_num_threads(1)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    batches = batches_by_size(arguments.videos)
    failures = [
        f"{size}: {text}"
        for size, clips in batches.items()
        for device in devices
        if (text := mismatch(clips, device=device)) is not None
    ]
    rows = [
        {"size": size, **measure_batch(clips, devices=devices)} for size, clips in batches.items()
    ]
    if not rows:
        failures.append(f"no video has {_SPAN} frames: nothing was compared")
    content = {
        "claim": "motion made on the device is that made in the worker, bit for bit",
        "holds": not failures,
        "failures": failures,
        "device": torch.cuda.get_device_name() if "cuda" in devices else "none",
        "torch": torch.__version__,
        "clip": f"{NUM_FRAMES}x{STRIDE}, sub-clips of {SUBCLIP_FRAMES}, {SIZE} pixels",
        "times": "shares of decoding the batch's JPEGs on one core, torch on one thread",
        "batches": rows,
    }
    write_report(arguments.json_file, content, name="motion_place")
    if rows:
        Console(width=110).print(batch_table("of a batch, JPEG decoding on one core = 1", rows))
    Console().print("\n".join(failures) or "both roads agree", markup=False, soft_wrap=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
