"""Small videos of many kinds, made by FFmpeg, to cut windows out of."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gopstream.pipeline.transcode import default_ffmpeg

NUM_FRAMES = 150
X264 = "-c:v libx264 -g 40 -sc_threshold 0 -threads 1 -pix_fmt yuv420p"
VARIABLE = "-vf select='gt(mod(n*7\\,11)\\,3)' -fps_mode vfr"
SOURCES = {
    "b_frames.mp4": f"{X264} -bf 3",
    "late.mp4": f"{X264} -bf 3 -output_ts_offset 7.7",
    "fragments.mp4": f"{X264} -bf 3 -movflags +frag_keyframe+empty_moov",
    "open_gops.mp4": f"{X264} -bf 3 -x264-params open-gop=1:b-pyramid=normal",
    "variable.mp4": f"{VARIABLE} {X264} -bf 3",
    "interlaced.mp4": f"{X264} -bf 2 -flags +ilme+ildct",
    "b_frames.mkv": f"{X264} -bf 3",
    "late.mkv": f"{X264} -bf 3 -output_ts_offset 1.4",
    "open_gops.mkv": f"{X264} -bf 3 -x264-params open-gop=1",
    "variable.mkv": f"{VARIABLE} {X264} -bf 3",
    "refresh.mkv": f"{X264} -bf 0 -intra-refresh 1",
    "vp9.webm": "-c:v libvpx-vp9 -g 40 -deadline realtime -cpu-used 8",
    "vp8.webm": "-c:v libvpx -g 40 -auto-alt-ref 1 -lag-in-frames 16 -cpu-used 5",
    "mpeg4.avi": "-c:v mpeg4 -g 40 -bf 0",
    "mjpeg.avi": "-c:v mjpeg",
    "b_frames.ts": f"{X264} -bf 3",
    "open_gops.ts": f"{X264} -bf 3 -x264-params open-gop=1",
    "mpeg2.ts": "-c:v mpeg2video -g 40 -bf 2",
    "mpeg2.mpg": "-c:v mpeg2video -g 40 -bf 2",
    "b_frames.flv": f"{X264} -bf 3",
}


def make_video(path: Path, options: str | None = None, *, num_frames: int = NUM_FRAMES) -> Path:
    """Encode 30 pictures per second, each another; by default as SOURCES says of the name."""
    options = SOURCES[path.name] if options is None else options
    source = f"testsrc2=size=96x64:rate=30:duration={num_frames / 30}"
    command = [default_ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", source]
    subprocess.run([*command, *options.replace("'", "").split(), path], check=True)
    return path


def canonical_source(path: Path, *, num_frames: int = NUM_FRAMES) -> Path:
    options = "-c:v libx264 -g 20 -sc_threshold 0 -bf 0 -refs 1 -threads 1 -pix_fmt yuv420p"
    strict = "-x264-params weightp=0:no-deblock=1:partitions=p8x8,i8x8,i4x4"
    return make_video(path, f"{options} {strict}", num_frames=num_frames)


@pytest.fixture(scope="session")
def make() -> Callable[..., Path]:
    """Return a function: (path, options of FFmpeg, num_frames=)."""
    return make_video


@pytest.fixture(scope="session")
def make_canonical() -> Callable[..., Path]:
    """Return a function: (path, num_frames=), H.264 of which the residual is exact, GOPs of 20."""
    return canonical_source
