"""The canonical stream: one re-encode after which motion and residual are exact.

One FFmpeg process scales the source once and hands the same pictures to two places: to x264,
which writes the canonical stream into a file, and to us through a pipe, for the stored frames.
Every option that decides bytes is fixed here, so that each machine makes the same stream
(design, section 4): x264 with one thread and ``cpu-independent``, swscale with
``accurate_rnd+bitexact``.
"""

import math
import os
import re
import select
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from ffmpeg.nodes import FilterableStream

from gopstream.pipeline.errors import TranscodeError
from gopstream.pipeline.probe import MAX_PIXELS, VideoFacts
from gopstream.pipeline.window import WindowCut

SCALER_FLAGS: Final = "bicubic+accurate_rnd+bitexact"
X264_PARAMS: Final = "weightp=0:no-deblock=1:partitions=p8x8,i8x8,i4x4:cpu-independent=1"
# Matrices that the canonical stream may keep. Anything else, RGB for one, becomes BT.601.
KEPT_MATRICES: Final = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc")
_MAX_SIDE: Final = 16384
SIZE_CHANGE: Final = "video parameters changed"
"""Words of FFmpeg's message when size or pixel format change in the middle of a stream."""
STALL_SECONDS: Final = 120.0
"""FFmpeg is given up when it has not handed over a single byte for so long."""
_PIPE_BYTES: Final = 1 << 20  # the most that Linux gives everybody: fewer wake-ups
_MESSAGE_BYTES: Final = 65536
_LEAST_SEEK_SECONDS: Final = 1.0
_QUIET: Final = (
    "-nostdin",
    "-hide_banner",
    "-loglevel",
    "level+verbose",
    "-nostats",
    "-bitexact",
    "-y",
)
_ONE_THREAD: Final = ("-filter_threads", "1", "-filter_complex_threads", "1")
_FRAME_COUNT: Final = re.compile(r"\(video\): (\d+) packets read .*; (\d+) frames decoded;")


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
    facts: VideoFacts,
    stream_path: Path,
    *,
    canonical: CanonicalFormat,
    binary: str,
    cut: WindowCut | None = None,
) -> list[str]:
    """Return the whole FFmpeg command line; raw pictures (I420) go to its standard output."""
    width, height = canonical_size(facts, canonical.short_side)
    # FFmpeg itself turns rotated pictures upright before the first filter.
    source = ffmpeg.input(
        f"file:{facts.path.absolute()}",
        threads=1,
        protocol_whitelist="file",
        max_pixels=MAX_PIXELS,
        **_seek_options(cut),
    )
    pictures = source[str(facts.stream_index)]
    if facts.may_be_interlaced:
        # Only frames that are marked as interlaced are touched, and none is added.
        pictures = pictures.filter("bwdif", mode="send_frame", deint="interlaced")
    if cut is not None:
        pictures = _trim(pictures, cut)
    pictures = (
        pictures.filter(
            "scale",
            width,
            height,
            flags=SCALER_FLAGS,
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
        **{"x264-params": X264_PARAMS},
        **passthrough,
    )
    raw = ffmpeg.output(pictures[1], "pipe:1", format="rawvideo", **passthrough)
    command: list[str] = ffmpeg.compile(ffmpeg.merge_outputs(encoded, raw), cmd=binary)
    # Time stamps as they are in the file: those of the window are compared with them.
    stamps = [] if cut is None else ["-copyts"]
    return [command[0], *_QUIET, *_ONE_THREAD, *stamps, *command[1:]]


def _seek_options(cut: WindowCut | None) -> dict[str, Any]:
    """Return what makes FFmpeg begin at the landing of a window, or earlier."""
    if cut is None or cut.landing is None:
        return {}
    landing = cut.landing
    time = landing.pts
    if not landing.seeks_by_pts and landing.dts is not None:
        time = min(time, landing.dts)
    if (time - cut.origin_pts) * cut.time_base < _LEAST_SEEK_SECONDS:
        # Of streams with B-frames, FFmpeg seeks a little earlier yet; from before the start of a
        # file some containers lead anywhere.
        return {}
    microseconds = math.floor(time * cut.time_base * 1_000_000)
    # What lies before the window is dropped by a filter, in the stream's own units: FFmpeg's
    # accurate seek rounds to them, and may take a frame too many.
    return {"ss": f"{microseconds}us", "seek_timestamp": 1, "noaccurate_seek": None}


def _trim(pictures: FilterableStream, cut: WindowCut) -> FilterableStream:
    """Drop what lies outside of a window; times then count from the container's start."""
    bounds = {"start_pts": cut.first_pts}
    if cut.end_pts is not None:
        bounds["end_pts"] = cut.end_pts
    return (
        # A deinterlacer halves the unit.
        pictures.filter("settb", f"{cut.time_base.numerator}/{cut.time_base.denominator}")
        .filter("trim", **bounds)
        .filter("setpts", f"PTS-({cut.origin_pts})")
    )


def transcode_frames(
    facts: VideoFacts,
    stream_path: Path,
    *,
    canonical: CanonicalFormat,
    binary: str,
    cut: WindowCut | None = None,
    complaints: list[str] | None = None,
    stall_seconds: float = STALL_SECONDS,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Write the canonical stream and yield the scaled source pictures that went into it.

    The stream is complete when the iterator has ended.

    Args:
        facts: The source, from :func:`gopstream.pipeline.probe.open_video`.
        stream_path: Where the canonical stream goes (NUT, which keeps any time base).
        canonical: Size, quality and GOP.
        binary: The FFmpeg binary.
        cut: The part of the source that is meant; None for all.
        complaints: Receives what FFmpeg said of a source that it could decode nevertheless.
        stall_seconds: FFmpeg is stopped when no byte has come for so long.

    Yields:
        (H * 3 / 2, W) uint8, I420: Y, then Cb, then Cr, limited range, in the colour matrix of
        :func:`canonical_matrix`. The memory is used again for the next picture but one.

    Raises:
        TranscodeError: If FFmpeg fails, stalls or yields no picture; the message holds its last
            words.
    """
    width, height = canonical_size(facts, canonical.short_side)
    command = canonical_command(facts, stream_path, canonical=canonical, binary=binary, cut=cut)
    num_bytes = width * height * 3 // 2
    num_frames = 0
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=messages, pipesize=_PIPE_BYTES
        )
        assert process.stdout is not None
        # Two, so that the one before stays valid while a caller compares.
        buffers = [bytearray(num_bytes), bytearray(num_bytes)]
        try:
            while True:
                picture = buffers[num_frames % 2]
                num_read = _read_whole(process.stdout.fileno(), picture, stall_seconds)
                if num_read != num_bytes:
                    break
                num_frames += 1
                yield np.frombuffer(picture, np.uint8).reshape(height * 3 // 2, width)
            process.stdout.close()
            status = process.wait(stall_seconds)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise TranscodeError(
                f"{facts.path.name}: no progress for {stall_seconds:g} s after {num_frames} "
                "frames; FFmpeg was stopped"
            ) from error
        finally:
            # Also reached when the caller gives up: no FFmpeg may outlive us.
            process.kill()
            process.wait()
            process.stdout.close()
        if status != 0 or num_read or num_frames == 0:
            said = last_words(messages) or "it said nothing"
            raise TranscodeError(
                f"{facts.path.name}: FFmpeg ended with status {status} after {num_frames} frames: "
                f"{said}"
            )
        if complaints is not None:
            complaints += [line for line in _lines(messages) if _is_complaint(line)]


def _read_whole(descriptor: int, buffer: bytearray, stall_seconds: float) -> int:
    """Fill a buffer from a pipe; returns how much came before its end.

    Raises:
        TimeoutError: If nothing comes for ``stall_seconds``.
    """
    view = memoryview(buffer)
    done = 0
    while done < len(buffer):
        if not select.select([descriptor], [], [], stall_seconds)[0]:
            raise TimeoutError
        num_read = os.readv(descriptor, [view[done:]])
        if num_read == 0:
            break
        done += num_read
    return done


def last_words(messages: IO[bytes], *, num_lines: int = 3) -> str:
    """Return the end of FFmpeg's error output, without addresses that differ per run."""
    lines = [line for line in _lines(messages) if "[error]" in line or "[fatal]" in line]
    return "; ".join(re.sub(r"\[(error|fatal)\] ?", "", line) for line in lines[-num_lines:])


def _lines(messages: IO[bytes]) -> list[str]:
    """Return the first and the last 64 KB of FFmpeg's messages, as lines without addresses."""
    size = messages.seek(0, os.SEEK_END)
    messages.seek(0)
    text = messages.read(_MESSAGE_BYTES)
    if size > 2 * _MESSAGE_BYTES:
        messages.seek(size - _MESSAGE_BYTES)
        text += b"\n"
    text += messages.read(_MESSAGE_BYTES)
    clean = re.sub(r" @ 0x[0-9a-f]+", "", text.decode(errors="replace"))
    return [line for line in clean.splitlines() if line.strip()]


def is_frame_count(line: str) -> bool:
    """Tell whether a message says how many frames came out of how many packets."""
    return _FRAME_COUNT.search(line) is not None


def _is_complaint(line: str) -> bool:
    """Tell whether a message of FFmpeg is about the source's pictures, not about taste."""
    count = _FRAME_COUNT.search(line)
    if count is not None and int(count[1]) > int(count[2]):
        return True  # pictures may have been dropped without a word
    return any(word in line for word in ("[error]", "[fatal]", "corrupt", SIZE_CHANGE))
