"""Where frames are decoded best: in the worker, or on the device.

Videos are extracted as shards hold them, clips of 16 x 4 frames are cut at random, and the same
frames are made on both roads: pixels in the worker, sent to the device; or JPEGs, collated by the
worker and decoded on the device, a batch at once. Both are compared before anything is timed: on
the CPU they are equal in every bit; on a CUDA device nvJPEG rounds otherwise and repeats colour
samples where the worker interpolates, so that it is held to the worker's road with repeated ones.

Reading is the same on both roads and counts on neither. What only a GPU can show is measured where
there is one, and the report says where there was none.

Dimensions: B clips of a batch.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from rich.console import Console
from torch import Tensor

from gopstream.jobs.bench.motion_place import (
    BATCH,
    CLIPS_PER_VIDEO,
    NUM_FRAMES,
    SIZE,
    STRIDE,
    batch_table,
    seconds,
)
from gopstream.jobs.bench.proof_report import parse_arguments, usable_videos, write_report
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.shards.loading.device_frames import (
    ClipFrames,
    EncodedClip,
    collate_frames,
    decode_frames,
)
from gopstream.shards.loading.geometry import Geometry, area_box
from gopstream.shards.loading.resampling import resample_frames

_SPAN: Final = (NUM_FRAMES - 1) * STRIDE + 1
_MEAN_LEVELS: Final = {"cpu": 0.0, "cuda": 1.0}
"""How far the device's frames may be from the worker's, in the mean of a batch."""


class Levels(NamedTuple):
    """How two batches of frames differ, in levels of 255."""

    mean: float
    most: int
    share_above_two: float


def levels_between(first: Tensor, second: Tensor) -> Levels:
    """Compare two batches of frames of the same shape, uint8."""
    apart = (first.to(torch.int16) - second.to(torch.int16)).abs()
    return Levels(
        round(float(apart.float().mean()), 4),
        int(apart.max()),
        round(float((apart > 2).float().mean()), 4),
    )


def cut_clips(clip: Clip, rng: np.random.Generator, *, where: str) -> Iterator[EncodedClip]:
    """Yield clips at random places, with random crops."""
    for _ in range(CLIPS_PER_VIDEO):
        first = int(rng.integers(clip.num_frames - _SPAN + 1))
        sampled = range(first, first + _SPAN, STRIDE)
        box = area_box(
            clip.frame_size, scale=(0.08, 1.0), ratio=(0.75, 1.3333), draws=rng.random((10, 4))
        )
        frames = ClipFrames(
            where=where,
            numbers=tuple(sampled),
            places=tuple(range(NUM_FRAMES)),
            frame_size=clip.frame_size,
            geometry=Geometry(box, SIZE, bool(rng.random() < 0.5)),
        )
        yield EncodedClip([clip.jpegs[frame] for frame in sampled], frames)


def batches_by_size(folder: Path) -> dict[str, list[EncodedClip]]:
    """Cut clips of the videos of a folder; a batch for each size of frames, WxH."""
    rng = np.random.default_rng(0)
    options = ExtractionOptions(planes=("frames", "motion"))
    found: dict[str, list[EncodedClip]] = {}
    for facts in usable_videos(folder):
        clip = extract_clip(facts.path, options=options)
        if clip.num_frames >= _SPAN:
            size = "x".join(map(str, clip.frame_size))
            found.setdefault(size, []).extend(cut_clips(clip, rng, where=facts.path.name))
    return {size: clips[:BATCH] for size, clips in found.items()}


def worker_frames(clips: Sequence[EncodedClip], *, repeat_colours: bool = False) -> Tensor:
    """Make frames as the worker does: (B, 3, T, size, size) uint8.

    Args:
        clips: The batch.
        repeat_colours: Do not interpolate between colour samples, as nvJPEG does not.
    """
    out = np.empty((len(clips), NUM_FRAMES, SIZE, SIZE, 3), np.uint8)
    for clip, own in zip(clips, out, strict=True):
        width, height = clip.frames.frame_size
        decoded: npt.NDArray[np.uint8] = np.empty((NUM_FRAMES, height, width, 3), np.uint8)
        for jpeg, pixels in zip(clip.jpegs, decoded, strict=True):
            simplejpeg.decode_jpeg(jpeg, fastupsample=repeat_colours, buffer=pixels)
        resample_frames(decoded, clip.frames.geometry, fill=0, out=own)
    return torch.from_numpy(out).permute(0, 4, 1, 2, 3)


def compare(clips: Sequence[EncodedClip], *, device: str) -> dict[str, Levels]:
    """Compare the device's frames with the worker's, and with those of repeated colours."""
    made = decode_frames(collate_frames(clips), device).cpu()
    return {
        "worker": levels_between(made, worker_frames(clips)),
        "repeated colours": levels_between(made, worker_frames(clips, repeat_colours=True)),
    }


def breach(levels: dict[str, Levels], *, device: str) -> str | None:
    """Say how the frames of a device are not what they must be; None if they are."""
    against = "repeated colours" if device == "cuda" else "worker"
    allowed, found = _MEAN_LEVELS[device], levels[against].mean
    if found <= allowed:
        return None
    return f"{device}: {found:g} levels from {against} in the mean, {allowed:g} allowed"


def measure_batch(clips: Sequence[EncodedClip], *, devices: Sequence[str]) -> dict[str, Any]:
    """Time both roads for one batch, in clips per second, and count what each sends."""
    batch, pixels = collate_frames(clips), worker_frames(clips)
    times = {
        "worker decodes": seconds(lambda: worker_frames(clips)),
        "worker collates JPEGs": seconds(lambda: collate_frames(clips)),
        "cpu device decodes": seconds(lambda: decode_frames(batch, "cpu")),
    }
    if "cuda" in devices:
        pinned = pixels.pin_memory()
        times["cuda decodes"] = seconds(lambda: decode_frames(batch, "cuda"), device="cuda")
        times["cuda takes pixels"] = seconds(
            lambda: pinned.to("cuda", non_blocking=True), device="cuda"
        )
    row: dict[str, Any] = {"clips": len(clips)}
    row |= {f"{name}, clips/s": round(len(clips) / taken, 1) for name, taken in times.items()}
    row["bytes of pixels"] = pixels.numel() // len(clips)
    row["bytes of JPEGs"] = batch.num_bytes // len(clips)
    for device in devices:
        for against, levels in compare(clips, device=device).items():
            for name, value in levels._asdict().items():
                row[f"{device} to {against}: {name.replace('_', ' ')}"] = value
    return row


def main() -> int:
    """Run the comparison; returns the exit code."""
    arguments = parse_arguments("frame_place", "Decoded frames: worker or device?")
    torch.set_num_threads(1)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    batches = batches_by_size(arguments.videos)
    failures = [
        f"{size}: {text}"
        for size, clips in batches.items()
        for device in devices
        if (text := breach(compare(clips, device=device), device=device)) is not None
    ]
    rows = [
        {"size": size, **measure_batch(clips, devices=devices)} for size, clips in batches.items()
    ]
    if not rows:
        failures.append(f"no video has {_SPAN} frames: nothing was compared")
    content = {
        "claim": "frames decoded on the device are the worker's: on the CPU in every bit, on "
        f"CUDA within {_MEAN_LEVELS['cuda']:g} level in the mean but for colours at 4:2:0, which "
        "it repeats",
        "holds": not failures,
        "failures": failures,
        "device": torch.cuda.get_device_name() if "cuda" in devices else "none",
        "torch": torch.__version__,
        "clip": f"{NUM_FRAMES}x{STRIDE}, {SIZE} pixels",
        "times": "of one core; CUDA by the clock, waiting for the device",
        "batches": rows,
    }
    write_report(arguments.json_file, content, name="frame_place")
    if rows:
        Console(width=110).print(batch_table("of a batch, per clip", rows))
    if "cuda" not in devices:
        Console().print("no CUDA device: nothing here says what nvJPEG does", soft_wrap=True)
    Console().print("\n".join(failures) or "both roads agree", markup=False, soft_wrap=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
