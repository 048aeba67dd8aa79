"""A small dataset, made once through the same road as a user's."""

import shutil
from pathlib import Path

import pytest

from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat

# (class, number of frames, width, height); those above 24 frames become two samples.
VIDEOS = (
    ("left", 30, 96, 64),
    ("left", 20, 84, 52),
    ("left", 13, 96, 64),
    ("right", 30, 64, 96),
    ("right", 20, 96, 64),
)
OPTIONS = ExtractionOptions(canonical=CanonicalFormat(gop=10), segment_frames=20, frame_stride=2)


@pytest.fixture(scope="session")
def videos(tmp_path_factory, write_video) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, (name, num_frames, width, height) in enumerate(VIDEOS):
        (folder / name).mkdir(exist_ok=True)
        write_video(
            folder / name / f"{number}.mp4",
            num_frames,
            width=width,
            height=height,
            velocity=(-3 if name == "left" else 3, 1),
            seed=number,
        )
    return folder


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory, videos) -> Path:
    """Split ``train``: 2 shards, 7 samples, all planes, every second frame stored."""
    root = tmp_path_factory.mktemp("dataset") / "set"
    shard_folder(videos, root, options=OPTIONS, choice=PlanChoice(videos_per_shard=3))
    return root


@pytest.fixture
def own_root(dataset_root, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(dataset_root, tmp_path / "set"))


@pytest.fixture(scope="session")
def options() -> ExtractionOptions:
    return OPTIONS
