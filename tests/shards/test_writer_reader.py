"""What was extracted is what is read back."""

import json
import pickle

import numpy as np
import pytest
import webdataset

from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.jpeg import decode_frame
from gopstream.shards import ShardDataset
from gopstream.shards.errors import ShardError

MAIN_SUFFIXES = {"frames.mjpeg", "motion.zst", "coverage.zst", "cls", "json"}


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return ShardDataset(dataset_root, "train")


@pytest.fixture(scope="module")
def clips(dataset, videos, options):
    """For each position, the clip that was extracted once more from its source."""
    extracted = {}
    found = []
    for position in range(len(dataset)):
        content = dataset.read_json(position)
        name = content["source"]["name"]
        if name not in extracted:
            extracted[name] = list(extract_segments(videos / name, options=options))
        found.append(extracted[name][content["segment"]])
    return found


def test_five_videos_became_seven_samples_in_two_shards(dataset):
    assert len(dataset) == len(dataset.keys) == len(dataset.labels) == 7
    assert [shard.num_samples for shard in dataset.manifest.shards] in ([2, 5], [3, 4], [4, 3])
    assert dataset.manifest.class_counts == {"left": 4, "right": 3}
    assert dataset.facts.classes == ("left", "right")


def test_keys_are_unique_ascii_without_dots_and_name_the_segment(dataset):
    assert len(set(dataset.keys)) == 7
    assert all(key.isascii() and "." not in key for key in dataset.keys)
    segments = [key for key in dataset.keys if key.count("-") == 2]
    assert sorted(key[-5:] for key in segments) == ["-0000", "-0000", "-0001", "-0001"]


def test_the_label_is_that_of_the_folder(dataset):
    for position, label in enumerate(dataset.labels.tolist()):
        content = dataset.read_json(position)
        assert content["class"] == content["source"]["name"].split("/")[0]
        assert ("left", "right")[label] == content["class"]
        assert dataset.read_member(position, "cls") == str(label).encode()


def test_sizes_of_the_index_are_those_of_the_clip(dataset, clips):
    for position, clip in enumerate(clips):
        facts = dataset.sample(position)
        assert facts.num_frames == clip.num_frames
        assert facts.coded_size == clip.coded_size
        assert facts.display_rect == clip.display_rect
        moved = facts._replace(display_rect=(2, 4, 30, 20))
        assert moved.display_end == (32, 24)
        assert facts.frame_size == clip.frame_size
        assert facts.frame_index_of_jpeg.tolist() == clip.frame_index_of_jpeg.tolist()


def test_jpegs_are_those_of_the_clip_in_any_order(dataset, clips):
    for position, clip in enumerate(clips):
        numbers = np.arange(len(clip.jpegs))[::-1]
        read = dataset.read_jpegs(position, numbers)
        assert read == clip.jpegs[::-1]
        width, height = clip.frame_size
        assert decode_frame(read[0]).shape == (height, width, 3)


def test_motion_of_any_range_comes_in_whole_gops(dataset, clips):
    position = max(range(len(clips)), key=lambda i: clips[i].num_frames)
    clip = clips[position]
    starts = [*clip.gop_starts, clip.num_frames]
    for first in range(clip.num_frames):
        for last in range(first, clip.num_frames):
            window = dataset.read_motion(position, first, last)
            begin = max(start for start in starts if start <= first)
            end = min(start for start in starts if start > last)
            assert window.first_frame == begin
            np.testing.assert_array_equal(window.motion, clip.motion[begin:end])
            np.testing.assert_array_equal(window.coverage, clip.coverage[begin:end])
            kinds = np.array(list(clip.kinds[begin:end]))
            np.testing.assert_array_equal(window.is_intra_frame, kinds == "I")


def test_residual_of_any_range_is_that_of_the_clip(dataset, clips):
    for position, clip in enumerate(clips):
        total = clip.num_frames
        for first, last in [(0, total - 1), (0, 0), (total - 1, total - 1), (3, total - 1)]:
            read = dataset.read_residual(position, first, last)
            np.testing.assert_array_equal(read, clip.residual.planes[first : last + 1])
        side = dataset.read_json(position, residual=True)
        assert side["exceptions"] == clip.residual.exceptions.tolist()


def test_the_json_says_all_that_is_needed(dataset, clips):
    for position, clip in enumerate(clips):
        content = dataset.read_json(position)
        assert content["decoded_sha256"] == clip.decoded_sha256
        assert content["frame_types"] == clip.kinds
        assert content["pts"] == clip.pts.tolist()
        assert content["fps"] == pytest.approx(25)
        assert content["exactness"] == "exact"
        assert content["planes"]["motion"]["shape"] == list(clip.motion.shape)
        assert content["settings"]["frame_stride"] == 2


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (3, 2), (0, 100)])
def test_frames_that_are_not_there_are_an_error(dataset, first, last):
    with pytest.raises(IndexError, match="has no frames"):
        dataset.read_motion(0, first, last)


@pytest.mark.parametrize("position", [-1, 7])
def test_positions_that_are_not_there_are_an_error(dataset, position):
    with pytest.raises(IndexError):
        dataset.read_json(position)


def test_a_member_that_is_not_there_is_named(dataset):
    with pytest.raises(ShardError, match="no member txt"):
        dataset.read_member(0, "txt")


def test_a_chosen_shard_can_be_opened_alone(dataset, dataset_root):
    alone = ShardDataset(dataset_root, "train", shards=["000001"])
    assert alone.keys == dataset.keys[-len(alone) :]
    assert alone.read_json(0) == dataset.read_json(len(dataset) - len(alone))


def test_an_open_dataset_survives_pickling(dataset):
    dataset.read_json(0)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.keys == dataset.keys
    assert again.read_member(6, "motion.zst") == dataset.read_member(6, "motion.zst")


@pytest.mark.parametrize("name", ["none", "../train", ""])
def test_a_split_that_is_not_there_is_named(dataset_root, name):
    with pytest.raises(ShardError, match="split"):
        ShardDataset(dataset_root, name)


def test_a_folder_without_dataset_is_refused(tmp_path):
    with pytest.raises(ShardError, match="not a dataset"):
        ShardDataset(tmp_path, "train")


@pytest.mark.parametrize("shard", ["000000", "000001"])
def test_plain_webdataset_reads_the_same_members(dataset, dataset_root, shard):
    alone = ShardDataset(dataset_root, "train", shards=[shard])
    path = str(dataset_root / "train" / f"{shard}.tar")
    samples = list(webdataset.WebDataset(path, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == alone.keys
    for position, sample in enumerate(samples):
        assert {name for name in sample if not name.startswith("__")} == MAIN_SUFFIXES
        for suffix in MAIN_SUFFIXES:
            assert sample[suffix] == alone.read_member(position, suffix)
        assert json.loads(sample["json"])["key"] == sample["__key__"]


def test_plain_webdataset_reads_the_residual_tar(dataset, dataset_root):
    path = str(dataset_root / "train" / "000000.residual.tar")
    samples = list(webdataset.WebDataset(path, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == dataset.keys[: len(samples)]
    assert {name for name in samples[0] if name[0] != "_"} == {"residual.zst", "residual.json"}
