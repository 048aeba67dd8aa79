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
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import simplejpeg
import torch

from gopstream.jobs.bench.device_places import (
    CLIPS_PER_VIDEO,
    NUM_FRAMES,
    SIZE,
    SPAN,
    STRIDE,
    Comparison,
    random_crop,
    seconds,
)
from gopstream.pipeline.accumulation import CellMotion
from gopstream.pipeline.clip import Clip
from gopstream.shards.loading.device_motion import (
    ClipMotion,
    MotionBatch,
    accumulated_clip,
    accumulated_motion,
    clip_motion,
    collate_motion,
)
from gopstream.shards.loading.geometry import cells_under, vector_matrix
from gopstream.shards.sample_parts import MotionWindow

SUBCLIP_FRAMES: Final = 8
QUERY_STRIDE: Final = 2
GRID: Final = 56


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


def cut_clips(clip: Clip, rng: np.random.Generator, where: str) -> Iterator[TimedClip]:
    """Yield clips at random places, with random crops, each with the GOPs that hold it."""
    del where
    kinds = np.array(list(clip.kinds))
    starts = np.array(clip.chunk_starts)
    cuts = np.isin(np.arange(len(kinds)), clip.scene_cuts)
    for _ in range(CLIPS_PER_VIDEO):
        sampled = int(rng.integers(len(kinds) - SPAN + 1)) + np.arange(NUM_FRAMES) * STRIDE
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
        geometry = random_crop(clip, rng)
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


def mismatch(clips: Sequence[TimedClip], device: str) -> str | None:
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


def measure_batch(clips: Sequence[TimedClip], devices: Sequence[str]) -> dict[str, Any]:
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


COMPARISON: Final = Comparison(
    name="motion_place",
    title="Accumulated motion: worker or device?",
    table_title="of a batch, JPEG decoding on one core = 1",
    facts={
        "claim": "motion made on the device is that made in the worker, bit for bit",
        "clip": f"{NUM_FRAMES}x{STRIDE}, sub-clips of {SUBCLIP_FRAMES}, {SIZE} pixels",
        "times": "shares of decoding the batch's JPEGs on one core, torch on one thread",
    },
    cut=cut_clips,
    fault=mismatch,
    measure=measure_batch,
)


if __name__ == "__main__":
    sys.exit(COMPARISON.run())
