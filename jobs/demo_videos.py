"""Write labelled H.264 videos whose classes differ in motion alone.

What they show is drawn in :mod:`gopstream.jobs.demo_scenes`. Here they are encoded, each with
other settings. The settings leave the class out, so every class has the same ones.
"""

import io
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from gopstream.jobs.demo_scenes import (
    MOTION_CLASSES,
    Split,
    VideoKey,
    draw_scene,
    make_rng,
    render_clip,
)

FRAMES_PER_SECOND: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSettings:
    """How libx264 encodes a video; all that is not here is the preset's."""

    preset: str
    crf: int
    gop: int
    num_b_frames: int
    num_references: int


def write_demo_videos(
    folder: Path,
    *,
    split: Split,
    videos_per_class: int,
    seed: int,
    num_frames: int = 32,
    size: int = 96,
    workers: int = 1,
) -> list[Path]:
    """Write ``folder/split/class/0000.mp4`` and so on, equally many of each class.

    The same arguments give the same bytes, whatever ``workers`` is, with the same NumPy, PyAV
    and kind of CPU; elsewhere rounding may differ. Existing files of these names are replaced.

    Args:
        folder: Where to write; made if missing.
        split: Splits share no texture and no draw.
        videos_per_class: Videos of each of the eight classes.
        seed: 0 to 2**32 - 1.
        num_frames: Frames of each video, at least 2.
        size: Height and width of each video in pixels; even, at least 64.
        workers: Processes. 1 works in the calling process; more need a main module that can
            be imported, as ``multiprocessing`` with "spawn" does.

    Returns:
        The paths, by class in the order of ``MOTION_CLASSES``, then by index.

    Raises:
        ValueError: If a number is out of its range.
    """
    if videos_per_class < 1 or workers < 1:
        raise ValueError(
            f"videos_per_class and workers must be at least 1, got {videos_per_class} and {workers}"
        )
    keys = [
        VideoKey(seed, split, motion_class, index)
        for motion_class in MOTION_CLASSES
        for index in range(videos_per_class)
    ]
    jobs = [_Job(folder, key, num_frames=num_frames, size=size) for key in keys]
    for motion_class in MOTION_CLASSES:
        (folder / split / motion_class).mkdir(parents=True, exist_ok=True)
    if workers == 1:
        return [_write_video(job) for job in jobs]
    # "fork" is not safe in a program that has started threads, as torch does.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        return list(pool.map(_write_video, jobs, chunksize=4))


def draw_encoding(key: VideoKey) -> EncodingSettings:
    """Choose the encoder's settings, the same for all classes at the same split and index.

    Even indices get what an encoder does by default (B-frames, several references), odd ones
    P-frames only.

    Args:
        key: The video; its class is left out.

    Returns:
        The settings.
    """
    rng = make_rng(replace(key, motion_class=MOTION_CLASSES[0]), "encoding")
    ordinary = key.index % 2 == 0
    return EncodingSettings(
        preset=str(rng.choice(["fast", "medium"])),
        crf=int(rng.integers(18, 27)),
        gop=int(rng.choice([12, 25, 50, 250])),
        num_b_frames=int(rng.integers(2, 4)) if ordinary else 0,
        num_references=3 if ordinary else int(rng.integers(1, 3)),
    )


def encode_h264(path: Path, frames: npt.NDArray[np.uint8], *, settings: EncodingSettings) -> None:
    """Write frames as H.264 in MP4, limited-range BT.709, 4:2:0.

    One thread and no code that depends on the CPU's features: same frames, same bytes.

    Args:
        path: The file; it appears whole or not at all.
        frames: (T, H, W, 3) uint8 RGB, H and W even.
        settings: How to encode.
    """
    file = io.BytesIO()
    reformatter = VideoReformatter()  # one for all frames: setting it up costs more than its use
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.options = _x264_options(settings)
        codec.thread_count = 1
        codec.colorspace = codec.color_primaries = codec.color_trc = Colorspace.ITU709
        codec.color_range = ColorRange.MPEG
        for pts, pixels in enumerate(frames):
            picture = reformatter.reformat(
                av.VideoFrame.from_ndarray(pixels, format="rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            picture.pts = pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    _write_atomically(path, file.getvalue())


class _Job(NamedTuple):
    """What a worker process is told."""

    folder: Path
    key: VideoKey
    num_frames: int
    size: int


def _write_video(job: _Job) -> Path:
    """Make one video and return its path."""
    key = job.key
    path = job.folder / key.split / key.motion_class / f"{key.index:04d}.mp4"
    scene = draw_scene(key, num_frames=job.num_frames, size=job.size)
    encode_h264(path, render_clip(key.motion_class, scene), settings=draw_encoding(key))
    return path


def _x264_options(settings: EncodingSettings) -> dict[str, str]:
    """Spell settings as FFmpeg does.

    x264 places B-frames and I-frames by what moves, which could tell the class; here the
    settings alone place them.
    """
    return {
        "preset": settings.preset,
        "crf": str(settings.crf),
        "g": str(settings.gop),
        "bf": str(settings.num_b_frames),
        "refs": str(settings.num_references),
        "x264-params": "b-adapt=0:scenecut=0:cpu-independent=1",
    }


def _write_atomically(path: Path, content: bytes) -> None:
    """Write a file under another name, then rename it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
