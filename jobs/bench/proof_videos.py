"""Videos for the proofs that nobody filmed: odd sizes, 1080p, screens, fades, cuts, noise, still.

They are drawn with NumPy from fixed seeds and kept without loss (FFV1), so that every machine
proves with the same pictures.

Dimensions: H height and W width of a picture.
"""

import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""
_QUARTERS: Final = 4
"""Positions per pixel in which things move."""


class ProofVideo(NamedTuple):
    """One of them."""

    width: int
    height: int
    num_frames: int
    draw: Callable[["ProofVideo", np.random.Generator], Iterator[Picture]]
    canonical: CanonicalFormat = CanonicalFormat()
    """How it is extracted."""


def draw_texture(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Draw smooth blotches of some eight pixels with a little grain."""
    coarse = rng.integers(0, 208, (height // 8 + 3, width // 8 + 3, 3)).astype(np.uint16)
    blotches = coarse.repeat(8, axis=0).repeat(8, axis=1)
    # Four shifted copies along each axis: a box filter that leaves no edge of full height.
    for axis in (0, 1):
        blotches = sum(
            (np.roll(blotches, shift, axis) for shift in (2, 4, 6)), start=blotches
        ) // np.uint16(4)
    grain = rng.integers(0, 12, (height, width, 3))
    return (blotches[8 : height + 8, 8 : width + 8] + grain).astype(np.uint8)


def cut_view(texture: Picture, x: int, y: int, *, height: int, width: int) -> Picture:
    """Return the (height, width) part of a texture from (x, y) on, both in quarter pixels."""
    column, right = divmod(x, _QUARTERS)
    row, below = divmod(y, _QUARTERS)
    part = texture[row : row + height + 1, column : column + width + 1].astype(np.uint16)
    across = (_QUARTERS - right) * part[:, :-1] + right * part[:, 1:]
    both = (_QUARTERS - below) * across[:-1] + below * across[1:]
    return ((both + _QUARTERS**2 // 2) // _QUARTERS**2).astype(np.uint8)


def draw_scene(
    video: ProofVideo, rng: np.random.Generator, *, velocity: tuple[int, int] = (5, 3)
) -> Iterator[Picture]:
    """A textured ground that moves, and a textured square that moves the other way.

    Args:
        video: Size and length.
        rng: Chooses the textures.
        velocity: Quarter pixels per frame that the view moves right and down.
    """
    height, width, count = video.height, video.width, video.num_frames
    side = min(height, width) // 3
    reach_x, reach_y = (abs(speed) * count // _QUARTERS + 2 for speed in velocity)
    ground = draw_texture(rng, height + reach_y, width + reach_x)
    square = draw_texture(rng, side + 2 * reach_y + 2, side + 2 * reach_x + 2)
    for frame in range(count):
        x, y = velocity[0] * frame, velocity[1] * frame
        picture = cut_view(ground, x, y, height=height, width=width)
        inside = slice(height // 3, height // 3 + side), slice(width // 3, width // 3 + side)
        back_x, back_y = (speed * (count - frame) for speed in velocity)
        picture[inside] = 255 - cut_view(square, back_x, back_y, height=side, width=side)
        yield picture


def _draw_pan(video: ProofVideo, rng: np.random.Generator) -> Iterator[Picture]:
    return draw_scene(video, rng, velocity=(41, 18))


def _draw_screen(video: ProofVideo, rng: np.random.Generator) -> Iterator[Picture]:
    """Text of hard edges that scrolls in one window and stands in another; a blinking cursor."""
    height, width = video.height, video.width
    alphabet = rng.integers(0, 2, (48, 9, 6)) * np.pad(np.ones((7, 5)), ((1, 1), (0, 1)))
    rows, columns = height // 9 + video.num_frames * 3 // 9 + 2, width // 6 + 1
    letters = alphabet[rng.integers(0, len(alphabet), (rows, columns))]
    ink = letters.transpose(0, 2, 1, 3).reshape(rows * 9, columns * 6)[:, :width] > 0
    paper, colour = np.array([250, 250, 245], np.uint8), np.array([20, 30, 120], np.uint8)
    for frame in range(video.num_frames):
        picture = np.where(ink[:height, :, None], np.uint8(0), paper)
        scrolled = ink[3 * frame : 3 * frame + height, : width // 2, None]
        picture[:, : width // 2] = np.where(scrolled, colour, np.uint8(255))
        picture[: height // 12] = (60, 90, 60)
        if frame // 6 % 2 == 0:
            picture[height // 2 : height // 2 + 9, width * 3 // 4 : width * 3 // 4 + 2] = 0
        yield picture


def _draw_fade(video: ProofVideo, rng: np.random.Generator) -> Iterator[Picture]:
    """To black and back."""
    for frame, picture in enumerate(draw_scene(video, rng)):
        light = abs(2 * frame - video.num_frames) * 256 // video.num_frames
        yield (picture.astype(np.uint16) * light // 256).astype(np.uint8)


def _draw_cross_fade(video: ProofVideo, rng: np.random.Generator) -> Iterator[Picture]:
    """From one scene into another."""
    scenes = draw_scene(video, rng), draw_scene(video, rng, velocity=(2, 9))
    for frame, (first, second) in enumerate(zip(*scenes, strict=True)):
        share = frame * 256 // video.num_frames
        mixed = first.astype(np.uint16) * (256 - share) + second.astype(np.uint16) * share
        yield (mixed // 256).astype(np.uint8)


def _draw_cuts(video: ProofVideo, rng: np.random.Generator) -> Iterator[Picture]:
    """Another scene every seven frames, which no GOP of twelve expects."""
    for first in range(0, video.num_frames, 7):
        count = min(7, video.num_frames - first)
        yield from draw_scene(video._replace(num_frames=count), rng)


def _draw_noise(video: ProofVideo, rng: np.random.Generator) -> Iterator[Picture]:
    for _ in range(video.num_frames):
        yield rng.integers(0, 256, (video.height, video.width, 3), np.uint8)


def _draw_grain(video: ProofVideo, rng: np.random.Generator) -> Iterator[Picture]:
    """A scene under noise that leaves the motion visible."""
    for picture in draw_scene(video, rng):
        grain = rng.integers(-10, 11, (video.height, video.width, 1))
        yield np.clip(picture + grain, 0, 255).astype(np.uint8)


def _draw_static(video: ProofVideo, rng: np.random.Generator) -> Iterator[Picture]:
    picture = draw_texture(rng, video.height, video.width)
    for _ in range(video.num_frames):
        yield picture


PROOF_VIDEOS: Final = {
    "odd_341x255": ProofVideo(341, 255, 48, draw_scene),
    "odd_97x61": ProofVideo(97, 61, 48, draw_scene),
    "portrait_203x360": ProofVideo(203, 360, 48, draw_scene),
    "1080p": ProofVideo(1920, 1080, 30, draw_scene, CanonicalFormat(short_side=1080)),
    "fast_pan": ProofVideo(340, 256, 48, _draw_pan),
    "screen": ProofVideo(456, 256, 48, _draw_screen),
    "fade_to_black": ProofVideo(340, 256, 48, _draw_fade),
    "cross_fade": ProofVideo(340, 256, 48, _draw_cross_fade),
    "cuts": ProofVideo(340, 256, 48, _draw_cuts),
    "grain": ProofVideo(340, 256, 48, _draw_grain),
    "noise": ProofVideo(340, 256, 36, _draw_noise),
    "static": ProofVideo(340, 256, 48, _draw_static),
}
"""By name."""


def make_proof_video(name: str, folder: Path) -> Path:
    """Draw one and keep it as ``FOLDER/NAME.mkv``, without loss.

    Raises:
        subprocess.CalledProcessError: If FFmpeg cannot write it.
    """
    video = PROOF_VIDEOS[name]
    path = folder / f"{name}.mkv"
    command = [default_ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{video.width}x{video.height}", "-r", "25", "-i", "-", "-bitexact"]
    command += ["-sws_flags", "bicubic+accurate_rnd+bitexact", "-pix_fmt", "yuv420p"]
    command += ["-c:v", "ffv1", "-threads", "1", str(path)]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for picture in video.draw(video, rng):
            process.stdin.write(picture.tobytes())
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return path
