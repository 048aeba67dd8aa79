"""The streams that ``gopstream bench extract`` measures on, all made from one source video."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gopstream.pipeline.transcode import X264_PARAMS, default_ffmpeg

SIZES: Final = {"340x256": (340, 256, 300), "720p": (1280, 720, 120), "1080p": (1920, 1080, 60)}
"""Name -> width, height, frames."""

_KINDS: Final = {
    "web": ("-preset", "medium", "-crf", "23"),
    "exact": (
        *("-preset", "medium", "-crf", "20", "-g", "12", "-keyint_min", "12"),
        *("-sc_threshold", "0", "-bf", "0", "-refs", "1", "-x264-params", X264_PARAMS),
    ),
}
_GENERATED: Final = "mandelbrot=size=1920x1080:rate=30:end_pts=400,noise=alls=6:allf=t:all_seed=1"


@dataclass(frozen=True, slots=True)
class BenchStream:
    """One stream to measure on."""

    size: str
    """A key of :data:`SIZES`."""
    kind: str
    """``web``: x264's defaults, with B-frames; ``exact``: canonical settings."""
    path: Path
    bytes_per_frame: float


def make_streams(source: Path | None, folder: Path) -> list[BenchStream]:
    """Scale and encode a source to each size and kind; square pixels, one thread.

    Args:
        source: A video; None generates one (a zoom into the Mandelbrot set, with noise).
        folder: Where the streams go.
    """
    given = ["-f", "lavfi", "-i", _GENERATED] if source is None else ["-i", f"file:{source}"]
    if source is not None:
        given = ["-stream_loop", "-1", *given]
    streams = []
    for size, (width, height, num_frames) in SIZES.items():
        for kind, settings in _KINDS.items():
            path = folder / f"{size}_{kind}.mp4"
            scale = f"scale={width}:{height}:flags=bicubic,setsar=1,format=yuv420p"
            command = [default_ffmpeg(), "-nostdin", "-v", "error", *given, "-an", "-vf", scale]
            command += ["-frames:v", str(num_frames), "-c:v", "libx264", "-threads", "1"]
            subprocess.run([*command, *settings, str(path)], check=True)
            streams.append(BenchStream(size, kind, path, path.stat().st_size / num_frames))
    return streams
