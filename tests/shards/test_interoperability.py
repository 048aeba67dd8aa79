"""Shards are plain WebDataset tars: other people's readers take them as they are."""

import json
import subprocess
import sys
import zlib

import pytest
import webdataset

from gopstream.shards.reader import ShardDataset

# In a process of its own: it must not look for the Hub, nor leave a cache.
READ_WITH_DATASETS = """
import json, sys, zlib
import datasets
cache, *tars = sys.argv[1:]
loaded = datasets.load_dataset(
    "webdataset", data_files={"train": tars}, split="train", streaming=True, cache_dir=cache
)
for sample in loaded:
    json.dump(
        {
            "key": sample["__key__"],
            "cls": sample["cls"],
            "frames": sample["json"]["frames"],
            "crc32": {name: zlib.crc32(sample[name]) for name in ("frames.mjpeg", "motion.zst")},
        },
        sys.stdout,
    )
    print()
"""


@pytest.fixture(scope="module")
def tars(dataset_root):
    return sorted(str(path) for path in (dataset_root / "train").glob("[0-9]*[0-9].tar"))


def test_hugging_face_datasets_streams_them(dataset_root, tars, tmp_path):
    command = [sys.executable, "-c", READ_WITH_DATASETS, str(tmp_path / "cache"), *tars]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    dataset = ShardDataset(dataset_root, "train")
    assert [sample["key"] for sample in samples] == dataset.keys
    assert [sample["cls"] for sample in samples] == dataset.labels.tolist()
    for position, sample in enumerate(samples):
        num_frames = dataset.sample(position).num_frames
        assert sample["frames"] == num_frames
        # It decompresses what ends in .zst, all chunks of it.
        motion = dataset.read_motion(position, 0, num_frames - 1).motion
        assert sample["crc32"]["motion.zst"] == zlib.crc32(motion.tobytes())
        jpegs = dataset.read_member(position, "frames.mjpeg")
        assert sample["crc32"]["frames.mjpeg"] == zlib.crc32(jpegs)


def test_webdataset_streams_several_tars_and_shuffles_them(dataset_root, tars):
    pipeline = webdataset.WebDataset(tars, shardshuffle=2, seed=1).shuffle(4, initial=4)
    keys = [sample["__key__"] for sample in pipeline]
    assert sorted(keys) == sorted(ShardDataset(dataset_root, "train").keys)
