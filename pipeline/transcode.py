"""The canonical stream: one re-encode after which motion and residual are exact.

One FFmpeg process scales the source once and hands the same pictures to two places: to x264,
which writes the canonical stream into a file, and to us through a pipe, for the stored frames.
Every option that decides bytes is fixed here, so that each machine makes the same stream
(design, section 4): x264 with one thread and ``cpu-independent``, swscale with
``accurate_rnd+bitexact``.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Final

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from gopstream.pipeline.errors import TranscodeError
from gopstream.pipeline.probe import VideoFacts

_SCALER_FLAGS: Final = "bicubic+accurate_rnd+bitexact"
_X264_PARAMS: Final = "weightp=0:no-deblock=1:partitions=p8x8,i8x8,i4x4:cpu-independent=1"
# Matrices that the canonical stream may keep. Anything else, RGB for one, becomes BT.601.
KEPT_MATRICES: Final = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc")
_MAX_SIDE: Final = 16384


@dataclass(frozen=True, slots=True)
class CanonicalFormat:
    """What of the canonical stream a user may choose."""

    short_side: int = 256
    """Upper limit of the shorter side in pixels; a smaller video is not enlarged."""
    crf: int = 20
    """x264's constant rate factor, 0 (lossless) to 51."""
    gop: int = 12
    """Frames from one I-frame to the next; DVT's paper assumes one I and eleven P."""

    def __post_init__(self) -> None:
        """Refuse what x264 would refuse later, or silently change."""
        for name, value, low, high in (
            ("short side", self.short_side, 16, 4096),
            ("crf", self.crf, 1, 51),
            ("gop", self.gop, 1, 600),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {value}")


def default_ffmpeg() -> str:
    """Return the path of the FFmpeg binary that imageio-ffmpeg ships."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@cache
def ffmpeg_version(binary: str) -> str:
    """Return the version word of an FFmpeg binary, such as ``n9.0.2-17-g2a571b6068``.

    Raises:
        TranscodeError: If the binary does not run or has no libx264.
    """
    try:
        shown = subprocess.run(
            [binary, "-hide_banner", "-version"], capture_output=True, text=True, check=True
        ).stdout
        encoders = subprocess.run(
            [binary, "-hide_banner", "-encoders"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise TranscodeError(f"cannot run the FFmpeg binary {binary!r}: {error}") from error
    if " libx264 " not in encoders:
        raise TranscodeError(f"the FFmpeg binary {binary!r} has no libx264; use another one")
    match = re.match(r"ffmpeg version (\S+)", shown)
    return match.group(1) if match else "unknown"


def canonical_size(facts: VideoFacts, short_side: int) -> tuple[int, int]:
    """Return (width, height) of the canonical picture: upright, square pixels, both even.

    The short side is at most ``short_side`` and never larger than the source's; the long side
    follows by aspect, to the nearest even number.
    """
    width, height = facts.width * float(facts.sample_aspect_ratio), float(facts.height)
    if facts.rotation in (90, 270):
        width, height = height, width
    short = min(width, height, float(short_side))
    even_short = max(2, int(short) // 2 * 2)
    even_long = max(2, 2 * round(even_short * max(width, height) / min(width, height) / 2))
    if even_long > _MAX_SIDE:
        raise TranscodeError(
            f"{facts.path.name}: a picture of {facts.width}x{facts.height} would become "
            f"{even_long} pixels long; at most {_MAX_SIDE} are handled"
        )
    return (even_short, even_long) if width < height else (even_long, even_short)


def canonical_matrix(facts: VideoFacts) -> str:
    """Return the colour matrix of the canonical stream: the source's, or BT.601.

    A file that does not name its matrix is read as BT.601, as FFmpeg does.
    """
    return facts.matrix if facts.matrix in KEPT_MATRICES else "smpte170m"


def canonical_command(
    facts: VideoFacts, stream_path: Path, *, canonical: CanonicalFormat, binary: str
) -> list[str]:
    """Return the whole FFmpeg command line; raw pictures (I420) go to its standard output."""
    width, height = canonical_size(facts, canonical.short_side)
    # FFmpeg itself turns rotated pictures upright before the first filter.
    source = ffmpeg.input(f"file:{facts.path.absolute()}", threads=1, protocol_whitelist="file")
    pictures = (
        source[str(facts.stream_index)]
        .filter(
            "scale",
            width,
            height,
            flags=_SCALER_FLAGS,
            out_color_matrix=canonical_matrix(facts),
            out_range="tv",
        )
        .filter("setsar", 1)
        .filter("format", "yuv420p")
        .filter_multi_output("split")
    )
    passthrough = {"fps_mode": "passthrough", "enc_time_base": "demux"}
    encoded = ffmpeg.output(
        pictures[0],
        str(stream_path),
        vcodec="libx264",
        preset="medium",
        crf=canonical.crf,
        g=canonical.gop,
        keyint_min=min(12, canonical.gop),
        sc_threshold=0,
        bf=0,
        refs=1,
        threads=1,
        format="nut",
        **{"x264-params": _X264_PARAMS},
        **passthrough,
    )
    raw = ffmpeg.output(pictures[1], "pipe:1", format="rawvideo", **passthrough)
    command: list[str] = ffmpeg.compile(ffmpeg.merge_outputs(encoded, raw), cmd=binary)
    quiet = ["-nostdin", "-hide_banner", "-loglevel", "error", "-bitexact", "-y"]
    one_thread = ["-filter_threads", "1", "-filter_complex_threads", "1"]
    return [command[0], *quiet, *one_thread, *command[1:]]


def transcode_frames(
    facts: VideoFacts, stream_path: Path, *, canonical: CanonicalFormat, binary: str
) -> Iterator[npt.NDArray[np.uint8]]:
    """Write the canonical stream and yield the scaled source pictures that went into it.

    The stream is complete when the iterator has ended.

    Args:
        facts: The source, from :func:`gopstream.pipeline.probe.open_video`.
        stream_path: Where the canonical stream goes (NUT, which keeps any time base).
        canonical: Size, quality and GOP.
        binary: The FFmpeg binary.

    Yields:
        (H * 3 / 2, W) uint8, I420: Y, then Cb, then Cr, limited range, in the colour matrix of
        :func:`canonical_matrix`.

    Raises:
        TranscodeError: If FFmpeg fails or yields no picture; the message holds its last words.
    """
    width, height = canonical_size(facts, canonical.short_side)
    command = canonical_command(facts, stream_path, canonical=canonical, binary=binary)
    num_bytes = width * height * 3 // 2
    num_frames = 0
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages)
        assert process.stdout is not None
        try:
            while len(picture := process.stdout.read(num_bytes)) == num_bytes:
                num_frames += 1
                yield np.frombuffer(picture, np.uint8).reshape(height * 3 // 2, width)
            process.stdout.close()
            status = process.wait()
        finally:
            # Also reached when the caller gives up: no FFmpeg may outlive us.
            process.kill()
            process.wait()
            process.stdout.close()
        if status != 0 or picture or num_frames == 0:
            said = last_words(messages) or "it said nothing"
            raise TranscodeError(
                f"{facts.path.name}: FFmpeg ended with status {status} after {num_frames} frames: "
                f"{said}"
            )


def last_words(messages: IO[bytes], *, num_lines: int = 3) -> str:
    """Return the end of FFmpeg's error output, without addresses that differ per run."""
    messages.seek(0)
    lines = messages.read().decode(errors="replace").strip().splitlines()
    return "; ".join(re.sub(r" @ 0x[0-9a-f]+", "", line) for line in lines[-num_lines:])
