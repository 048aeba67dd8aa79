"""A folder of difficult videos: damaged, unusual, mislabelled, hostile; made, not collected.

Each case is one file, made by the FFmpeg binary from generated pictures, or from such a file by a
few changed bytes. The same binary makes the same files.
"""

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from gopstream.pipeline.transcode import default_ffmpeg

NUM_FRAMES: Final = 24
SIZE: Final = (128, 96)
GOP: Final = 12


class Expected(NamedTuple):
    """What must come of a file in one mode."""

    outcome: str
    """``extracted``, ``warned`` (extracted with a warning) or ``refused``."""
    words: str = ""
    """Of the message: the class and a part of a refusal's text, or a part of a warning."""


@dataclass(frozen=True, slots=True)
class Case:
    """One file of the corpus."""

    name: str
    """Its file name."""
    group: str
    """Heading under which it is listed."""
    made: str
    """How it is made, in words."""
    recipe: "Recipe"
    canonical: Expected
    native: Expected
    frames: int | None = NUM_FRAMES
    """Frames that come out in each mode that extracts; None where the decoder decides."""
    is_slow: bool = False


Recipe = str | Callable[[Path, Path], None]
"""Arguments for FFmpeg, with ``{name}`` for files of the workshop; or a function that gets the
workshop's folder and the path of the file to make."""

CLEAN: Final = Expected("extracted")
NOT_A_VIDEO: Final = Expected("refused", "NotAVideoError: not a video")
NO_MOTION: Final = Expected("refused", "BitstreamError: no motion vectors that a decoder exports")
INTERLACED: Final = Expected("refused", "BitstreamError: interlaced")
DAMAGED: Final = Expected("warned", "frames may show damage")
NO_TIMES: Final = Expected("warned", "without time stamps")
REORDERED: Final = Expected("warned", "B-frames: which frame a vector leads to is not known")

_EXACT: Final = (
    f"-bf 0 -refs 1 -g {GOP} -keyint_min {GOP} -sc_threshold 0 "
    "-x264-params weightp=0:no-deblock=1:partitions=p8x8,i8x8,i4x4"
)
X264: Final = f"-c:v libx264 -preset veryfast {_EXACT}"
PICTURES: Final = f"-f lavfi -i testsrc2=s={SIZE[0]}x{SIZE[1]}:r=25:d=0.96"
SOUND: Final = "-f lavfi -i sine=d=0.96"
PLAIN: Final = f"{PICTURES} -pix_fmt yuv420p {X264}"

WORKSHOP: Final = {
    "plain.mp4": f"{PLAIN} -movflags +faststart",
    "plain.h264": f"{PLAIN}",
    "late_moov.mp4": f"{PLAIN}",
    "closed.h264": f"{PICTURES} -pix_fmt yuv420p {X264} -g 250",
    "baseline.h264": f"{PLAIN} -profile:v baseline",
    "larger.h264": f"-f lavfi -i testsrc2=s=176x144:r=25:d=0.48 -pix_fmt yuv420p {X264}",
    "plain.ts": "-i {plain.mp4} -c copy -muxdelay 0",
    "larger.ts": "-i {larger.h264} -c copy -muxdelay 0 -output_ts_offset 0.96",
    "open_gop.mp4": f"{PICTURES} -pix_fmt yuv420p -c:v libx264 -preset veryfast -bf 3 -refs 1 "
    f"-g {GOP} -sc_threshold 0 -x264-params open-gop=1:b-adapt=0:b-pyramid=0",
    "open_gop.ts": f"{PICTURES} -pix_fmt yuv420p -c:v libx264 -preset veryfast -bf 3 -refs 1 "
    f"-g {GOP} -sc_threshold 0 -x264-params open-gop=1:b-adapt=0:b-pyramid=0 -muxdelay 0",
    "other_ids.ts": "-i {plain.mp4} -c copy -muxdelay 0 -mpegts_start_pid 0x200 "
    "-mpegts_pmt_start_pid 0x1200 -output_ts_offset 0.96",
    "plain.mkv": "-i {plain.mp4} -c copy",
    "sound.m4a": f"{SOUND} -c:a aac",
    "cover.png": "-f lavfi -i color=red:s=64x64 -frames:v 1",
}
"""Files from which cases are made."""


def _run_ffmpeg(arguments: str, output: Path, workshop: Path) -> None:
    words = [default_ffmpeg(), "-nostdin", "-v", "error", "-y", "-bitexact"]
    for word in shlex.split(arguments):
        if word.startswith("{"):
            word = f"file:{workshop / word.strip('{}')}"
        words.append(word)
    words += ["-threads", "1", "-flags", "+bitexact", "-fflags", "+bitexact", f"file:{output}"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{output.name}: FFmpeg cannot make it: {done.stderr.strip()[-500:]}")


def make_workshop(folder: Path) -> None:
    """Make the files from which the cases are made."""
    folder.mkdir(parents=True)
    for name, arguments in WORKSHOP.items():
        _run_ffmpeg(arguments, folder / name, folder)


def make_case(case: Case, folder: Path, *, workshop: Path) -> Path:
    """Make one file of the corpus; returns its path."""
    path = folder / case.name
    if isinstance(case.recipe, str):
        _run_ffmpeg(case.recipe, path, workshop)
        return path
    case.recipe(workshop, path)
    return path


def edited(base: str, change: Callable[[bytes], bytes]) -> Recipe:
    """Return the recipe of a workshop's file with changed bytes."""

    def make(workshop: Path, path: Path) -> None:
        path.write_bytes(change((workshop / base).read_bytes()))

    return make


def joined(first: str, second: str) -> Recipe:
    """Return the recipe of two of the workshop's files end to end."""

    def make(workshop: Path, path: Path) -> None:
        path.write_bytes((workshop / first).read_bytes() + (workshop / second).read_bytes())

    return make
