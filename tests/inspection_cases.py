"""Small clips that tests of the inspector look at: generated, the same bytes each time.

A smooth texture moves by ``VELOCITY`` pixels per frame, so that the vectors of most blocks are
known: those of a frame that is predicted from the one before are minus four times it.
"""

from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np

from gopstream.jobs import run_shards
from gopstream.jobs.demo_videos import EncodingSettings, encode_h264
from gopstream.jobs.extract_files import extract_to_folder
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.mvextractor_dump import dump_video
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg

VELOCITY = (3, 1)
"""(x, y) pixels per frame, to the right and down."""
HOSTILE_LABEL = "<script>alert(1)<b>"
"""A class name that a careless page would run."""
FRAMES_PER_SECOND = 25

_EXACT = "bframes=0:ref=1:keyint=6:scenecut=0:weightp=0:no-deblock=1:partitions=p8x8,i8x8,i4x4"


def make_pictures(num_frames=12, *, width=64, height=64, seed=0):
    """Return (T, H, W, 3) uint8: a texture that moves by ``VELOCITY``, and a square that blinks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][:, None] - np.arange(num_frames)[:, None, None] * np.reshape(
        VELOCITY[::-1], (2, 1, 1, 1)
    )  # (T, H, W) each: where in the texture a pixel lies
    pictures = np.full((num_frames, height, width, 3), 120.0)
    for channel in range(3):
        for _ in range(6):
            fx, fy, phase = *rng.uniform(-0.6, 0.6, 2), rng.uniform(0, 6.3)
            pictures[..., channel] += 18 * np.sin(fx * x + fy * y + phase)
    pictures[::2, 16:32, 32:48] = 250
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def make_video(folder, *, b_frames=False, size=64, num_frames=12, width=None, name=None):
    """Write H.264 as encoders do by default: ``folder/b_frames.mp4`` or ``folder/p_only.mp4``.

    Args:
        folder: Where; made if missing.
        b_frames: ``IBBP...`` with three references, or ``IPPP...`` with one; a GOP of 6 frames.
        size: Height in pixels, even.
        num_frames: T.
        width: In pixels, even; by default ``size``.
        name: Of the file, without suffix.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name or ('b_frames' if b_frames else 'p_only')}.mp4"
    settings = EncodingSettings(
        preset="medium",
        crf=23,
        gop=6,
        num_b_frames=2 if b_frames else 0,
        num_references=3 if b_frames else 1,
    )
    pictures = make_pictures(num_frames, width=width or size, height=size)
    encode_h264(path, pictures, settings=settings)
    return path


def make_exact_video(folder, *, size=64, num_frames=12, width=None):
    """Write ``folder/exact.mp4``, whose residual native mode can give: a GOP of 6 frames."""
    path = Path(folder) / "exact.mp4"
    pictures = make_pictures(num_frames, width=width or size, height=size)
    return encode_pictures(path, pictures, options={"x264-params": _EXACT})


def encode_pictures(path, pictures, *, codec="libx264", options=None):
    """Encode RGB pictures with PyAV and chosen options, one thread."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FRAMES_PER_SECOND)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.options = options or {}
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FRAMES_PER_SECOND)
        for pts, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_dataset(folder, *, classes=("move", HOSTILE_LABEL), videos_per_class=2, num_frames=12):
    """Make a canonical dataset ``folder/shards`` with the splits ``train`` and ``val``.

    Samples have 64 x 64 pixels, frames, motion and residual, a GOP of 12 frames; shards have two
    samples at most. The videos lie in ``folder/videos/SPLIT/CLASS/NUMBER.mp4``; ``val`` has one
    of each class.
    """
    folder = Path(folder)
    for split, count in (("train", videos_per_class), ("val", 1)):
        videos = folder / "videos" / split
        for label in classes:
            for number in range(count):
                make_video(
                    videos / label,
                    b_frames=number % 2 == 0,
                    num_frames=num_frames,
                    name=f"{number:04d}",
                )
        shard_here(videos, folder / "shards", split=split, choice=PlanChoice(videos_per_shard=2))
    return folder / "shards"


def make_native_dataset(folder, *, b_frames=True):
    """Make a native dataset ``folder/shards`` of one unlabelled video, split ``train``."""
    folder = Path(folder)
    make_video(folder / "videos", b_frames=b_frames)
    shard_here(folder / "videos", folder / "shards", options=ExtractionOptions(mode="native"))
    return folder / "shards"


def make_failed_dataset(folder):
    """Make a canonical dataset ``folder/shards`` in which one of two videos failed."""
    folder = Path(folder)
    make_video(folder / "videos", name="good")
    (folder / "videos" / "broken.mp4").write_bytes(b"no video at all" * 100)
    shard_here(folder / "videos", folder / "shards")
    return folder / "shards"


def shard_here(videos, out, *, options=None, **choices):
    """Shard a folder as ``shard_folder`` does, in this process: starting workers takes seconds.

    Args:
        videos: The folder.
        out: Of the dataset.
        options: None for canonical ones of 64 pixels.
        choices: Of ``shard_folder``.
    """
    with patch.object(run_shards, "run_tasks", _run_here):
        shard_folder(videos, out, options=options or _canonical(), **choices)


class _Listener:
    """Hears what a worker tells its parent."""

    def __init__(self, on_item):
        self._on_item = on_item

    def started(self, index):
        pass

    def beat(self):
        pass

    def finished(self, index, *, succeeded):
        self._on_item(succeeded)


def _run_here(tasks, work, *, workers, stall_seconds, on_item):
    for task in tasks:
        work(task, _Listener(on_item), {})


def make_extract_folder(video, folder, *, options=None):
    """Make a folder of ``gopstream extract``; canonical unless ``options`` say otherwise."""
    extract_to_folder(
        Path(video),
        Path(folder),
        options=options or _canonical(),
        ffmpeg_binary=default_ffmpeg(),
        on_frames=lambda count: None,
    )
    return Path(folder)


def make_dump(video, folder, *, with_pictures=True):
    """Make a dump in mvextractor's layout of a video."""
    dump_video(Path(video), Path(folder), with_pictures=with_pictures)
    return Path(folder)


def same_parts(frames, others, *, parts=("motion", "residual")):
    """Check that frames have equal arrays, in ``parts`` of ``InspectedFrame``."""
    for frame, other in zip(frames, others, strict=True):
        for name in parts:
            for ours, theirs in zip(getattr(frame, name), getattr(other, name), strict=True):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype


def _canonical():
    return ExtractionOptions(canonical=CanonicalFormat(short_side=64))
