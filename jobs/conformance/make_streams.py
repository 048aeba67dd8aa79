"""Make the streams of the conformance suite, and the hashes of their vectors.

The streams are committed: another FFmpeg binary may encode other bytes, and the hashes belong to
the bytes. Run this only to change the suite, then commit what it wrote:

    python -m gopstream.jobs.conformance.make_streams FOLDER

Dimensions: T frames, H height, W width.
"""

import hashlib
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.jobs.conformance.adapters import one_thread_vectors
from gopstream.jobs.conformance.hashing import hash_vectors
from gopstream.pipeline.transcode import default_ffmpeg

_TEXTURE_SIDE: Final = 512
# One thread and no CPU-dependent choices, so that one binary makes one stream anywhere.
_X264_ALWAYS: Final = "threads=1:cpu-independent=1:scenecut=0"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one stream is made."""

    file_name: str
    shows: str
    """What the stream is in the suite for."""
    width: int
    height: int
    num_frames: int
    arguments: tuple[str, ...]
    """FFmpeg's options of the encoder."""
    x264: str = ""
    """``-x264-params``, joined to those that each stream has."""
    pixel_format: str = "yuv420p"
    flashes: bool = False
    """A dark picture in every fourth frame, so that older references pay."""
    fades: bool = False
    """Brightness rises and falls, so that weighted prediction pays."""
    audio_first: bool = False
    counted: bool = True
    """False where the vectors' meaning is not settled: reported, not part of the verdict."""


def _x264(crf: int, *more: str) -> tuple[str, ...]:
    return ("-c:v", "libx264", "-preset", "medium", "-crf", str(crf), *more)


RECIPES: Final = (
    Recipe(
        "p_only.mp4",
        "H.264 without B-frames, one reference, no deblocking: the form in which P_SKIP proves",
        352,
        288,
        24,
        _x264(33),
        "bframes=0:ref=1:keyint=12:weightp=0:no-deblock=1:partitions=p8x8,i8x8,i4x4",
    ),
    Recipe(
        "b_pyramid.mp4",
        "seven B-frames in a pyramid, spatial direct: pictures are output far behind decoding",
        352,
        288,
        64,
        _x264(36),
        "bframes=7:b-adapt=0:b-pyramid=normal:direct=spatial:keyint=60:ref=2",
    ),
    Recipe(
        "b_temporal.mp4",
        "two B-frames, temporal direct, two references",
        352,
        288,
        40,
        _x264(36),
        "bframes=2:b-adapt=0:direct=temporal:keyint=40:ref=2",
    ),
    Recipe(
        "b_exact.mp4",
        "one B-frame between two others, 16x16 blocks, one reference per list, no deblocking: "
        "where a block has no coefficients, its prediction must be the decoded samples",
        176,
        144,
        24,
        _x264(30),
        "bframes=1:b-adapt=0:ref=1:weightp=0:weightb=0:no-deblock=1:partitions=none:direct=none"
        ":keyint=24",
    ),
    Recipe(
        "multi_reference.mp4",
        "four references, no B-frames; pictures flash, so that older ones are used",
        176,
        144,
        24,
        _x264(30),
        "bframes=0:ref=4:keyint=24:weightp=0",
        flashes=True,
    ),
    Recipe(
        "weighted_prediction.mp4",
        "explicit weights in P, implicit ones in B; brightness fades",
        176,
        144,
        30,
        _x264(30),
        "bframes=2:b-adapt=0:weightp=2:weightb=1:keyint=30",
        fades=True,
    ),
    Recipe(
        "cropped_odd.mp4",
        "4:4:4 of 171x131: the coded picture is 176x144",
        171,
        131,
        16,
        _x264(32),
        "bframes=2:b-adapt=0:keyint=16",
        pixel_format="yuv444p",
    ),
    Recipe(
        "slices.mp4",
        "four slices per picture, B-frames",
        176,
        144,
        24,
        _x264(30),
        "slices=4:bframes=3:b-adapt=0:keyint=24",
    ),
    Recipe(
        "open_gop.mp4",
        "open GOPs: B-frames before the I-frame refer across it",
        176,
        144,
        36,
        _x264(30),
        "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0",
    ),
    Recipe(
        "baseline_cavlc.mp4",
        "constrained baseline profile, CAVLC",
        176,
        144,
        20,
        _x264(30, "-profile:v", "baseline"),
        "keyint=20",
    ),
    Recipe(
        "mpeg4_half.avi",
        "MPEG-4 part 2 without B-frames: half pixels, four vectors per macroblock",
        176,
        144,
        20,
        ("-c:v", "mpeg4", "-q:v", "14", "-flags:v", "+mv4", "-g", "20"),
    ),
    Recipe(
        "mpeg4_quarter.avi",
        "MPEG-4 part 2 without B-frames: quarter pixels",
        176,
        144,
        16,
        ("-c:v", "mpeg4", "-q:v", "14", "-flags:v", "+qpel", "-g", "16"),
    ),
    Recipe(
        "mpeg2_b.ts",
        "MPEG-2: half pixels, B-frames",
        176,
        144,
        24,
        ("-c:v", "mpeg2video", "-q:v", "14", "-bf", "2", "-g", "12"),
    ),
    Recipe(
        "audio_first.mp4",
        "audio is stream 0 and video stream 1; no B-frames",
        176,
        144,
        20,
        _x264(32),
        "bframes=0:ref=1:keyint=20",
        audio_first=True,
    ),
    Recipe(
        "mpeg4_b.avi",
        "MPEG-4 part 2 with B-frames, whose vectors FFmpeg's decoder does not keep: it exports "
        "zeros or those of an older picture",
        176,
        144,
        16,
        ("-c:v", "mpeg4", "-q:v", "14", "-bf", "2", "-g", "16"),
        counted=False,
    ),
    Recipe(
        "interlaced.mp4",
        "field macroblocks (MBAFF): what a vertical vector counts in is not exported",
        176,
        144,
        20,
        _x264(32),
        "tff=1:bframes=2:b-adapt=0:keyint=20",
        counted=False,
    ),
)


def draw_luma(recipe: Recipe, *, rng: np.random.Generator) -> Iterator[npt.NDArray[np.uint8]]:
    """Draw T pictures (H, W) uint8: a smooth texture that pans and turns, discs that cross it.

    Speeds are fractions of a pixel and many pixels, so that vectors are long and fractional;
    the discs cover and uncover, so that references differ.
    """
    ground, object_texture = _texture(rng), _texture(rng)
    rows, columns = np.mgrid[: recipe.height, : recipe.width].astype(np.float64)
    centre_y, centre_x = recipe.height / 2, recipe.width / 2
    for t in range(recipe.num_frames):
        angle = 0.35 * np.sin(t / 9)
        y, x = rows - centre_y, columns - centre_x
        picture = _sample(
            ground,
            np.cos(angle) * y - np.sin(angle) * x + 1.3 * t,
            np.sin(angle) * y + np.cos(angle) * x + 3.7 * t,
        )
        for index in range(4):
            disc_y = centre_y + 0.35 * recipe.height * np.sin(t / 5 + 1.7 * index)
            disc_x = (40 * index + (5.3 - 2.6 * index) * t) % recipe.width
            radius = 0.09 * recipe.height + 4 * index
            inside = (rows - disc_y) ** 2 + (columns - disc_x) ** 2 < radius**2
            moved = _sample(object_texture, rows - disc_y, columns - disc_x + 90 * index)
            picture = np.where(inside, moved, picture)
        if recipe.flashes and t % 4 == 3:
            picture = 0.2 * picture + 20
        if recipe.fades:
            picture = picture * (0.65 + 0.35 * np.cos(t / 5))
        yield np.clip(np.round(picture), 16, 235).astype(np.uint8)


def _texture(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw a (512, 512) periodic texture of noise without its highest frequencies, 16 to 235."""
    noise = np.fft.rfft2(rng.standard_normal((_TEXTURE_SIDE, _TEXTURE_SIDE)))
    fy = np.fft.fftfreq(_TEXTURE_SIDE)[:, None]
    fx = np.fft.rfftfreq(_TEXTURE_SIDE)
    frequency = np.hypot(fy, fx)
    shaped = np.fft.irfft2(noise * np.exp(-((frequency / 0.035) ** 2)), (_TEXTURE_SIDE,) * 2)
    texture: npt.NDArray[np.float64] = 126 + 45 * shaped / shaped.std()
    return texture


def _sample(
    texture: npt.NDArray[np.float64], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Read a periodic texture between its samples, bilinearly."""
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = y - top, x - left
    rows = (top % _TEXTURE_SIDE, (top + 1) % _TEXTURE_SIDE)
    columns = (left % _TEXTURE_SIDE, (left + 1) % _TEXTURE_SIDE)
    upper = (1 - right) * texture[rows[0], columns[0]] + right * texture[rows[0], columns[1]]
    lower = (1 - right) * texture[rows[1], columns[0]] + right * texture[rows[1], columns[1]]
    blended: npt.NDArray[np.float64] = (1 - down) * upper + down * lower
    return blended


def encode(recipe: Recipe, folder: Path, *, rng: np.random.Generator) -> Path:
    """Write one stream with the FFmpeg binary that imageio-ffmpeg ships."""
    path = folder / recipe.file_name
    command = [default_ffmpeg(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "gray"]
    command += ["-s", f"{recipe.width}x{recipe.height}", "-r", "25", "-i", "pipe:0"]
    if recipe.audio_first:
        tone = f"sine=frequency=440:duration={recipe.num_frames / 25}"
        command += ["-f", "lavfi", "-i", tone, "-map", "1:a", "-map", "0:v", "-b:a", "16k"]
    command += [*recipe.arguments, "-pix_fmt", recipe.pixel_format, "-threads", "1"]
    if recipe.x264:
        command += ["-x264-params", f"{_X264_ALWAYS}:{recipe.x264}"]
    command += ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", str(path)]
    pictures = b"".join(picture.tobytes() for picture in draw_luma(recipe, rng=rng))
    subprocess.run(command, input=pictures, check=True)
    return path


def describe(recipe: Recipe, path: Path) -> dict[str, Any]:
    """Return the entry of one stream in ``hashes.json``, decoded with one thread."""
    frames = [(kind, len(table), hash_vectors(table)) for kind, table in one_thread_vectors(path)]
    return {
        "file": recipe.file_name,
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "shows": recipe.shows,
        "counted": recipe.counted,
        "frames": len(frames),
        "kinds": "".join(kind for kind, _, _ in frames),
        "vectors": sum(number for _, number, _ in frames),
        "sha256": [digest for _, _, digest in frames],
    }


def main() -> int:
    """Write streams and hashes into a folder; returns the exit code."""
    folder = Path(sys.argv[1])
    streams = folder / "streams"
    streams.mkdir(parents=True, exist_ok=True)
    entries = []
    for recipe in RECIPES:
        seed = zlib.crc32(recipe.file_name.encode())
        path = encode(recipe, streams, rng=np.random.default_rng(seed))
        entries.append(describe(recipe, path))
        shown = entries[-1]
        print(f"{path.name}: {path.stat().st_size} bytes, {shown['vectors']} vectors")
    text = json.dumps({"version": 1, "streams": entries}, indent=1)
    (folder / "hashes.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
