import shutil

import numpy as np
import pytest
import simplejpeg

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.folder_clip import FolderClip
from gopstream.jobs.inspection.open_target import open_clip, open_dataset, target_kind
from gopstream.jobs.inspection.sample_clip import SampleClip, codec_name
from gopstream.jobs.inspection.video_clip import VideoClip
from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.object_store import StoreOptions
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.errors import DamageError, ShardError
from gopstream.shards.reader import ShardDataset
from inspection_cases import (
    HOSTILE_LABEL,
    encode_pictures,
    make_dataset,
    make_dump,
    make_exact_video,
    make_extract_folder,
    make_native_dataset,
    make_pictures,
    make_video,
    same_parts,
    shard_here,
)
from web_server import running_web_server

CANONICAL = CanonicalFormat(short_side=64)
UNCACHED = ReadOptions(cache=None)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        "b_frames": make_video(folder, b_frames=True),
        "p_only": make_video(folder),
        "exact": make_exact_video(folder),
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Samples of two GOPs of 12 frames."""
    return make_dataset(tmp_path_factory.mktemp("dataset"), num_frames=24)


@pytest.fixture(scope="module")
def native_shards(tmp_path_factory):
    return make_native_dataset(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, videos):
    """A canonical extraction of which every third picture is stored."""
    options = ExtractionOptions(canonical=CANONICAL, frame_stride=3)
    target = tmp_path_factory.mktemp("extract") / "folder"
    return make_extract_folder(videos["b_frames"], target, options=options)


@pytest.fixture(scope="module")
def sparse_shards(tmp_path_factory):
    """A sample of which every fifth picture is stored: a square blinks in a still picture."""
    folder = tmp_path_factory.mktemp("sparse")
    pictures = np.repeat(make_pictures(1), 12, axis=0)
    for index, picture in enumerate(pictures):
        picture[34:38, 34:38] = 255 * (index % 2)
    encode_pictures(folder / "videos/blink.mp4", pictures, options={"crf": "5"})
    options = ExtractionOptions(canonical=CANONICAL, frame_stride=5)
    shard_here(folder / "videos", folder / "shards", options=options)
    return folder / "shards"


# Samples of datasets


def test_sample_shows_what_is_stored(shards):
    dataset = ShardDataset(shards, "train")
    clip = SampleClip(dataset, 1)
    facts, frames = clip.facts, list(clip.frames())
    assert (facts.source, facts.mode, facts.exactness) == ("sample", "canonical", "exact")
    assert facts.name == f"train/{dataset.keys[1]}"
    assert facts.kinds == dataset.read_json(1)["frame_types"] == "I" + 11 * "P" + "I" + 11 * "P"
    assert facts.planes == {"frames", "motion", "residual"}
    np.testing.assert_allclose(facts.times, np.arange(24) / 25, atol=1e-9)
    window = dataset.read_motion(1, 0, 23)
    np.testing.assert_array_equal([f.motion.motion for f in frames], window.motion)
    np.testing.assert_array_equal([f.motion.coverage for f in frames], window.coverage)
    jpegs = dataset.read_jpegs(1, np.arange(24))
    for frame, jpeg in zip(frames, jpegs, strict=True):
        np.testing.assert_array_equal(frame.picture, simplejpeg.decode_jpeg(jpeg))
    wrapped = dataset.read_residual(1, 0, 23)
    for frame, bytes_ in zip(frames, wrapped, strict=True):
        together = np.concatenate([plane.reshape(-1) for plane in frame.residual])
        np.testing.assert_array_equal(together.astype(np.uint8), bytes_)


def test_values_of_a_residual_beyond_eight_bits_are_whole(sparse_shards):
    clip = open_clip(str(sparse_shards))
    video = sparse_shards.parent / "videos/blink.mp4"
    options = ExtractionOptions(canonical=CANONICAL, frame_stride=5)
    extracted = make_extract_folder(video, sparse_shards.parent / "extract", options=options)
    same_parts(clip.frames(), FolderClip(extracted).frames())
    assert max(np.abs(frame.residual.y).max() for frame in clip.frames()) > 128


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, 14), (12, 13), (23, None)])
def test_part_of_a_sample_shows_the_same_frames(shards, start, stop):
    clip = SampleClip(ShardDataset(shards, "train"), 0)
    part, whole = list(clip.frames(start, stop)), list(clip.frames())[start:stop]
    assert [frame.index for frame in part] == [frame.index for frame in whole]
    same_parts(part, whole)
    for frame, other in zip(part, whole, strict=True):
        np.testing.assert_array_equal(frame.picture, other.picture)


def test_sample_is_read_by_gops_and_no_further_than_asked(shards, monkeypatch):
    read = []

    def noting(dataset, wanted):
        read.append((wanted.motion, wanted.residual, len(wanted.jpegs)))
        return start(dataset, wanted)

    start = ShardDataset.start
    monkeypatch.setattr(ShardDataset, "start", noting)
    clip = SampleClip(ShardDataset(shards, "train"), 0)
    assert next(clip.frames()).index == 0
    assert read == [((0, 11), (0, 11), 12)]
    assert len(list(clip.frames(10, 13))) == 3
    assert read[1:] == [((10, 11), (10, 11), 2), ((12, 12), (12, 12), 1)]


def test_label_of_a_sample_is_its_text(shards):
    dataset = ShardDataset(shards, "train")
    labels = {SampleClip(dataset, position).facts.label for position in range(len(dataset))}
    assert labels == {"move", HOSTILE_LABEL}


def test_native_sample_is_the_video(native_shards):
    clip = open_clip(str(native_shards))
    video = VideoClip(native_shards.parent / "videos/b_frames.mp4")
    assert (clip.facts.mode, clip.facts.kinds) == ("native", video.facts.kinds)
    assert "B" in clip.facts.kinds
    assert (clip.facts.num_lists, clip.facts.label) == (2, None)
    assert clip.facts.planes == {"frames", "motion"}
    assert clip.facts.exactness == video.facts.exactness
    same_parts(clip.frames(), video.frames(), parts=("motion",))


def test_sample_with_few_pictures_shows_the_one_before(sparse_shards):
    clip = open_clip(str(sparse_shards))
    assert [frame.picture_of for frame in clip.frames()] == 5 * [0] + 5 * [5] + 2 * [10]
    pictures = {frame.index: frame.picture for frame in clip.frames()}
    late = list(clip.frames(7, 11))
    assert [frame.picture_of for frame in late] == [5, 5, 5, 10]
    for frame in late:
        np.testing.assert_array_equal(frame.picture, pictures[frame.index])


def test_damaged_sample_is_named(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    content = bytearray((copy / "train/000000.residual.tar").read_bytes())
    content[1024:3000] = bytes(1976)
    (copy / "train/000000.residual.tar").write_bytes(content)
    clip = open_clip(str(copy))
    with pytest.raises(DamageError, match=r"000000, sample train-00000000"):
        list(clip.frames())


@pytest.mark.parametrize(
    ("name", "value"), [("source", 3), ("pts", [10**400] * 24), ("planes", []), ("time_base", [1])]
)
def test_sample_whose_json_is_of_something_else_is_named(shards, monkeypatch, name, value):
    content = ShardDataset(shards, "train").read_json(0) | {name: value}
    monkeypatch.setattr(ShardDataset, "read_json", lambda self, position: content)
    with pytest.raises(DamageError, match=r"train-00000000.*its json is not that of a sample"):
        open_clip(str(shards)).facts  # noqa: B018 - it is read here


# What a target is


def test_targets_are_told_apart(shards, folder, videos, tmp_path):
    dump = make_dump(videos["p_only"], tmp_path / "dump", with_pictures=False)
    assert target_kind(str(videos["p_only"])) == "video"
    assert target_kind(str(folder)) == "folder"
    assert target_kind(str(dump)) == "dump"
    assert target_kind(str(shards)) == "dataset"
    assert target_kind(str(shards / "train/000000.tar")) == "shard"
    assert target_kind("s3://bucket/folder") == "dataset"
    assert target_kind("https://host/folder/val/000001.tar") == "shard"
    for target in (videos["p_only"], folder, dump, shards, shards / "val/000000.tar"):
        clip = open_clip(str(target))
        assert clip.facts.num_frames == len(list(clip.frames()))


@pytest.mark.parametrize(
    ("prepare", "target", "message"),
    [
        (lambda f: None, "none", r"none: no such file or folder; expected a video file, a folder"),
        (lambda f: (f / "empty").mkdir(), "empty", r"a folder that is none of what is expected"),
        (
            lambda f: [(f / "half").mkdir(), (f / "half/motion.npy").touch()],
            "half",
            r"an extraction that was not finished \(no clip.json\)",
        ),
        (lambda f: (f / "000000.tar").touch(), "000000.tar", r"is read with its dataset|lies in a"),
    ],
)
def test_what_is_no_target_is_refused_with_what_would_be_one(tmp_path, prepare, target, message):
    prepare(tmp_path)
    with pytest.raises(UserError, match=message):
        open_clip(str(tmp_path / target))


def test_folder_of_a_split_is_refused_with_what_to_give(shards):
    with pytest.raises(UserError, match=r"the folder of a split; give its dataset, .* --split val"):
        target_kind(str(shards / "val"))


def test_split_and_key_are_for_datasets(videos, folder):
    with pytest.raises(UserError, match=r"--split is for a dataset or a shard, but .* is a video"):
        open_clip(str(videos["p_only"]), split="train")
    with pytest.raises(UserError, match=r"--key is for .* is a folder of one video"):
        open_clip(str(folder), key="train-00000000")
    with pytest.raises(UserError, match=r"a video, not a dataset with dataset.json"):
        open_dataset(str(videos["p_only"]), None)


def test_text_file_is_refused_as_a_video(tmp_path):
    (tmp_path / "notes.txt").write_text("no video\n" * 100)
    with pytest.raises(NotAVideoError, match=r"notes.txt: not a video"):
        open_clip(str(tmp_path / "notes.txt"))


# Which sample


def test_first_split_and_sample_are_the_default(shards):
    assert open_clip(str(shards)).facts.name == "train/train-00000000"
    assert open_clip(str(shards), split="val").facts.name == "val/val-00000000"
    clip = open_clip(str(shards), split="train", key="train-00000003")
    assert clip.facts.stream["position"] == 3


def test_shard_shows_its_own_samples_alone(shards):
    dataset = open_dataset(str(shards / "train/000001.tar"), None)
    assert dataset.keys == ["train-00000002", "train-00000003"]
    target = str(shards / "train/000001.residual.tar")
    assert open_clip(target).facts.name == "train/train-00000002"
    with pytest.raises(UserError, match=r"has no sample 'train-00000000' \(did you mean"):
        open_clip(target, key="train-00000000")
    with pytest.raises(UserError, match=r"is of the split train, got --split val"):
        open_clip(target, split="val")


def test_unknown_split_and_key_are_named(shards, tmp_path):
    with pytest.raises(ShardError, match=r"no split 'test'; there is train, val"):
        open_clip(str(shards), split="test")
    with pytest.raises(UserError, match=r"no sample 'train-1' \(did you mean 'train-0000000"):
        open_clip(str(shards), key="train-1")
    copy = shutil.copytree(shards, tmp_path / "copy")
    for split in ("train", "val"):
        (copy / split / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no finished split; begun, but not finished: train, val"):
        open_clip(str(copy))


def test_sample_in_object_storage_is_that_on_disk(shards, s3):
    for path in shards.rglob("*"):
        if path.is_file():
            s3.put(f"data/{path.relative_to(shards).as_posix()}", path.read_bytes())
    remote = open_clip(
        f"{s3.url}/data",
        key="train-00000002",
        storage_options=s3.options(),
        reading=UNCACHED,
    )
    local = open_clip(str(shards), key="train-00000002")
    same_parts(remote.frames(10, 14), local.frames(10, 14))
    shard = open_clip(
        f"{s3.url}/data/train/000001.tar", storage_options=s3.options(), reading=UNCACHED
    )
    assert (shard.facts.kinds, shard.facts.label) == (local.facts.kinds, local.facts.label)


def test_dataset_on_a_web_server_needs_its_split_named(shards):
    options = StoreOptions(patience_seconds=2)
    with running_web_server(shards) as server:
        with pytest.raises(UserError, match=r"its splits cannot be listed there; name one"):
            open_clip(server.url, storage_options=options, reading=UNCACHED)
        clip = open_clip(server.url, split="val", storage_options=options, reading=UNCACHED)
        assert next(clip.frames()).picture.shape == (64, 64, 3)


def test_a_codec_is_named_not_the_decoder_that_read_it():
    assert [codec_name(name) for name in ("libdav1d", "h264", "of tomorrow")] == [
        "av1",
        "h264",
        "of tomorrow",
    ]
