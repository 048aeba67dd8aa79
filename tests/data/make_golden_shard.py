"""Make ``golden_shard/``: the dataset of format version 1 that must stay readable for ever.

Run it only for a new format version: ``python tests/data/make_golden_shard.py OUT``. The
committed shard is never made anew, since its whole worth is that it is old.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.options import ExtractionOptions

WIDTH, HEIGHT, NUM_FRAMES = 44, 28, 14
READER = Path(__file__).parents[2] / "docs" / "read_shard.py"


def write_video(path: Path, *, step: int) -> None:
    """Write noise that moves sideways under a dot that blinks, without loss."""
    texture = np.random.default_rng(0).integers(40, 200, (HEIGHT, WIDTH), dtype=np.uint8)
    texture = (texture // 2 + np.roll(texture, 1, 0) // 4 + np.roll(texture, 1, 1) // 4).clip(
        0, 255
    )
    # Without "bitexact" Matroska numbers each file at random.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in range(NUM_FRAMES):
            planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            planes[:HEIGHT] = np.roll(texture, frame * step, 1)
            # The jump from 16 to 235 does not fit into int8: these become exceptions.
            planes[10:13, 20:23] = 235 if frame % 3 else 16
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, "yuv420p")))
        container.mux(stream.encode(None))


def make(out: Path) -> None:
    """Write the dataset and ``hashes.json`` beside it."""
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder)
        for name, step in (("left", -2), ("right", 2)):
            (videos / name).mkdir()
            write_video(videos / name / "noise.mkv", step=step)
        shard_folder(
            videos,
            out,
            options=ExtractionOptions(frame_stride=3),
            choice=PlanChoice(videos_per_shard=2),
        )
    files = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    planes = {
        key: decode(out / "train" / "000000.tar", key)
        for key in ("train-00000000", "train-00000001")
    }
    hashes = json.dumps({"files": files, "planes": planes}, indent=1)
    (out / "hashes.json").write_text(hashes + "\n")


def decode(tar: Path, key: str) -> list[str]:
    """Return what the reader without gopstream prints: a line per plane, with its sha256."""
    command = [sys.executable, READER, tar, key]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return shown.splitlines()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
