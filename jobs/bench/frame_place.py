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
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from torch import Tensor

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
from gopstream.pipeline.clip import Clip
from gopstream.shards.loading.device_frames import (
    ClipFrames,
    EncodedClip,
    collate_frames,
    decode_frames,
)
from gopstream.shards.loading.resampling import resample_frames

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


def cut_clips(clip: Clip, rng: np.random.Generator, where: str) -> Iterator[EncodedClip]:
    """Yield clips at random places, with random crops."""
    for _ in range(CLIPS_PER_VIDEO):
        first = int(rng.integers(clip.num_frames - SPAN + 1))
        sampled = range(first, first + SPAN, STRIDE)
        frames = ClipFrames(
            where=where,
            numbers=tuple(sampled),
            places=tuple(range(NUM_FRAMES)),
            frame_size=clip.frame_size,
            geometry=random_crop(clip, rng),
        )
        yield EncodedClip([clip.jpegs[frame] for frame in sampled], frames)


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


def fault(clips: Sequence[EncodedClip], device: str) -> str | None:
    """Say how the device's frames of a batch are not what they must be; None if they are."""
    return breach(compare(clips, device=device), device=device)


def breach(levels: dict[str, Levels], *, device: str) -> str | None:
    """Say how the frames of a device are not what they must be; None if they are."""
    against = "repeated colours" if device == "cuda" else "worker"
    allowed, found = _MEAN_LEVELS[device], levels[against].mean
    if found <= allowed:
        return None
    return f"{device}: {found:g} levels from {against} in the mean, {allowed:g} allowed"


def measure_batch(clips: Sequence[EncodedClip], devices: Sequence[str]) -> dict[str, Any]:
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


COMPARISON: Final = Comparison(
    name="frame_place",
    title="Decoded frames: worker or device?",
    table_title="of a batch, per clip",
    facts={
        "claim": "frames decoded on the device are the worker's: on the CPU in every bit, on "
        f"CUDA within {_MEAN_LEVELS['cuda']:g} level in the mean but for colours at 4:2:0, which "
        "it repeats",
        "clip": f"{NUM_FRAMES}x{STRIDE}, {SIZE} pixels",
        "times": "of one core; CUDA by the clock, waiting for the device",
    },
    cut=cut_clips,
    fault=fault,
    measure=measure_batch,
    without_cuda="no CUDA device: nothing here says what nvJPEG does",
)


if __name__ == "__main__":
    sys.exit(COMPARISON.run())
