"""Thousands of small videos for the proofs about sharding, made on the spot.

Each is different. Some are longer and are cut into segments; some are broken, each in one of the
ways that people have on their disks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
import numpy as np

from gopstream.jobs.bench.proof_videos import ProofVideo, draw_scene

WIDTH: Final = 64
HEIGHT: Final = 48
SEGMENT_FRAMES: Final = 24
"""The long ones are longer than this: give it as ``--segment-frames``."""
_SHORT_FRAMES: Final = 12
_LONG_FRAMES: Final = 40
_LONG_EVERY: Final = 6
_BROKEN_EVERY: Final = 8
_NUM_CLASSES: Final = 4


def write_small_videos(
    folder: Path, *, count: int, first: int = 0, with_broken: bool = True
) -> int:
    """Write ``FOLDER/CLASS/NUMBER.mp4``.

    Args:
        folder: Where; it is made.
        count: How many, the broken ones included.
        first: Number of the first; the number alone decides what is in a video.
        with_broken: Whether one in eight is broken and one in six is long; else all are alike.

    Returns:
        How many of them are broken.
    """
    num_broken = 0
    for number in range(first, first + count):
        path = folder / f"class-{number % _NUM_CLASSES}" / f"{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        is_long = with_broken and number % _LONG_EVERY == 1
        _write_video(path, number, num_frames=_LONG_FRAMES if is_long else _SHORT_FRAMES)
        if with_broken and number % _BROKEN_EVERY == 2:
            num_broken += 1
            path.write_bytes(_broken(path.read_bytes(), number // _BROKEN_EVERY % 3))
    return num_broken


def _broken(content: bytes, kind: int) -> bytes:
    """Return what is left of a video: nothing, another thing's page, or its first half."""
    return (b"", b"<html>404 Not Found</html>\n", content[: len(content) // 2])[kind]


def _write_video(path: Path, number: int, *, num_frames: int) -> None:
    """Encode a textured scene that moves, as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in _frames(number, num_frames):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _frames(number: int, num_frames: int) -> Iterator[av.VideoFrame]:
    scene = ProofVideo(WIDTH, HEIGHT, num_frames, draw_scene)
    for picture in draw_scene(scene, np.random.default_rng(number)):
        yield av.VideoFrame.from_ndarray(picture, "rgb24")
