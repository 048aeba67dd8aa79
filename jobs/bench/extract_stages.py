"""What ``gopstream bench extract`` measures on one stream: functions that return a frame count."""

import importlib.util
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import simplejpeg

from gopstream.jobs.scan_video import scan_video
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.motion import rasterise_vectors
from gopstream.pipeline.mvextractor_backend import new_capture
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import CanonicalFormat, canonical_command, default_ffmpeg
from gopstream.shards.encoding import encode_frames, encode_plane
from gopstream.shards.storage import open_storage
from gopstream.shards.writer import ShardWriter

Stage = Callable[[Path], int]

DECODE_ONLY: Final = "PyAV decode only"
EVERYTHING: Final = "everything"


def decode_only(path: Path) -> int:
    """Decode with PyAV, one thread: the limit."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        return sum(1 for _ in container.decode(stream))


def decode_vectors(path: Path) -> int:
    """Decode with PyAV and take each frame's vectors as an array."""
    num_frames = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.options = {"flags2": "+export_mvs"}
        for frame in container.decode(stream):
            vectors: Any = frame.side_data.get("MOTION_VECTORS")
            if vectors is not None:
                vectors.to_ndarray()
            num_frames += 1
    return num_frames


def decode_and_jpeg(path: Path) -> int:
    """Decode and encode each picture as JPEG, colours as they are: the limit with frames."""
    num_frames = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        for frame in container.decode(stream):
            planes = [
                np.ndarray((p.height, p.width), np.uint8, memoryview(p), strides=(p.line_size, 1))
                for p in frame.planes
            ]
            y, cb, cr = (np.ascontiguousarray(plane) for plane in planes)
            simplejpeg.encode_jpeg_yuv_planes(y, cb, cr, quality=90, fastdct=False)
            num_frames += 1
    return num_frames


def motion_grid(path: Path) -> int:
    """Our decoding loop and the motion grid, nothing else."""
    num_frames = 0
    with open_coded(path) as stream:
        for frame in stream.frames:
            height, width = -(-frame.picture.height // 16) * 16, -(-frame.picture.width // 16) * 16
            rasterise_vectors(frame.vectors, coded_height=height, coded_width=width, num_lists=2)
            num_frames += 1
    return num_frames


def extract(path: Path, planes: tuple[str, ...]) -> Clip:
    """Extract natively, as one clip; frames keep their size."""
    options = ExtractionOptions(
        canonical=CanonicalFormat(short_side=4096), mode="native", planes=planes
    )
    return extract_clip(path, options=options)


def extract_and_encode(path: Path, planes: tuple[str, ...]) -> int:
    """Extract, and compress as shards do."""
    clip = extract(path, planes)
    encode_clip(clip)
    return clip.num_frames


def encode_clip(clip: Clip) -> Mapping[str, int]:
    """Return the bytes of each plane as shards store it."""
    sizes = {
        "frames": len(encode_frames(clip).content),
        "motion": len(encode_plane("motion", clip.motion, clip.chunk_starts).content),
        "coverage": len(encode_plane("coverage", clip.coverage, clip.chunk_starts).content),
    }
    if clip.residual is not None:
        planes = clip.residual.planes
        sizes["residual"] = len(encode_plane("residual", planes, clip.gop_starts).content)
    return sizes


def mvextractor_vectors(path: Path) -> int:
    """Read vectors with mvextractor, without pictures."""
    return _read_mvextractor(path, with_frames=False)


def mvextractor_frames(path: Path) -> int:
    """Read vectors and pictures with mvextractor."""
    return _read_mvextractor(path, with_frames=True)


def _read_mvextractor(path: Path, *, with_frames: bool) -> int:
    capture = new_capture()
    if not capture.open(str(path)):
        raise RuntimeError(f"mvextractor cannot open {path.name}")
    capture.set_decode_frames(with_frames)
    num_frames = 0
    while capture.read()[0]:
        num_frames += 1
    capture.release()
    return num_frames


def scan(path: Path) -> int:
    """Audit, motion statistics and shot cuts, as ``gopstream scan``."""
    row = scan_video(path, beat=lambda: None)
    return int(row["num_frames"])


@dataclass(frozen=True, slots=True)
class StageTable:
    """Stages by name, and why some are missing."""

    stages: Mapping[str, Stage]
    missing: Mapping[str, str]


def stage_table(*, is_exact: bool) -> StageTable:
    """Return what can be measured on a stream."""
    stages: dict[str, Stage] = {
        DECODE_ONLY: decode_only,
        "PyAV decode + vectors": decode_vectors,
        "PyAV decode + JPEG": decode_and_jpeg,
        "decode + motion grid": motion_grid,
        "scan": scan,
        "motion": lambda path: extract(path, ("motion",)).num_frames,
        "motion + frames": lambda path: extract(path, ("motion", "frames")).num_frames,
        "motion + frames, compressed": lambda p: extract_and_encode(p, ("motion", "frames")),
    }
    missing = {"residual of a peer": "no package with codec residuals installs (CoViAR: 2018 C)"}
    if is_exact:
        stages["motion + residual"] = lambda path: extract(path, ("motion", "residual")).num_frames
        stages[EVERYTHING] = lambda p: extract_and_encode(p, ("motion", "frames", "residual"))
    if importlib.util.find_spec("mvextractor") is None:
        missing["mvextractor"] = "not installed: pip install 'gopstream[mvextractor]'"
    else:
        stages["mvextractor, vectors"] = mvextractor_vectors
        stages["mvextractor, vectors + frames"] = mvextractor_frames
    return StageTable(stages, missing)


def transcode_alone(path: Path, folder: Path) -> None:
    """Decode, scale and encode with FFmpeg as ``shard`` does, and nothing else."""
    stream_path = folder / "alone.nut"
    command = canonical_command(
        open_video(path), stream_path, canonical=CanonicalFormat(), binary=default_ffmpeg()
    )
    # The raw pictures go nowhere instead of into our pipe.
    command = ["/dev/null" if word == "pipe:1" else word for word in command]
    subprocess.run(command, check=True, capture_output=True)
    stream_path.unlink()


def shard_one(path: Path) -> None:
    """Extract in canonical mode and write a shard, as ``shard`` does."""
    with (
        tempfile.TemporaryDirectory(prefix="gopstream-bench-") as name,
        ShardWriter(open_storage(name), "bench", "000000", with_residual=True) as writer,
    ):
        writer.add("train-00000000", extract_clip(path), label=0, facts={})
        writer.publish([])
