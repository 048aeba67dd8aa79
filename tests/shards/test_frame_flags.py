"""What a shard knows of each frame, and samples without a residual beside samples with one."""

import subprocess
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.extract import extract_clip, extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, transcode_frames
from gopstream.shards import ShardDataset
from gopstream.shards.errors import ShardError
from gopstream.shards.index import (
    BIDIRECTIONAL_FRAME,
    DAMAGED,
    INTRA_FRAME,
    SCENE_CUT,
    load_index,
)
from gopstream.shards.layout import index_name
from gopstream.shards.storage import LocalStorage
from gopstream.shards.verify import verify_split
from gopstream.shards.writer import ShardWriter

OPTIONS = ExtractionOptions(mode="native", segment_frames=40, frame_stride=3)


def x264(source, path, *options):
    command = [default_ffmpeg(), "-v", "error", "-i", source, "-c:v", "libx264", "-threads", "1"]
    subprocess.run([*command, *options, path], check=True)
    return path


def make_exact(source, path, *, rotation=0):
    stream = path.with_suffix(".nut")
    for _ in transcode_frames(
        open_video(source), stream, canonical=CanonicalFormat(), binary=default_ffmpeg()
    ):
        pass
    command = [default_ffmpeg(), "-v", "error", "-display_rotation", str(rotation), "-i", stream]
    subprocess.run([*command, "-c", "copy", path], check=True)
    stream.unlink()


def punch_hole(path, number):
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        start, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def mixed_videos(tmp_path_factory, write_video, small_video, odd_video):
    """B-frames, MPEG-4, exact, exact and turned, long, damaged, and one that cannot be native."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "b_frames.mp4").write_bytes(small_video.read_bytes())
    (folder / "mpeg4.avi").write_bytes(odd_video.read_bytes())
    make_exact(odd_video, folder / "exact.mp4")
    make_exact(small_video, folder / "turned.mp4", rotation=90)
    write_video(folder / "long.mp4", 90, width=32, height=32)
    hole = x264(small_video, folder / "hole.mp4", "-bf", "0", "-g", "10", "-sc_threshold", "0")
    punch_hole(hole, 13)
    command = [default_ffmpeg(), "-v", "error", "-i", small_video, "-c:v", "mjpeg"]
    subprocess.run([*command, folder / "jpegs.avi"], check=True)
    return folder


def make(videos, root, options):
    return shard_folder(
        videos, root, options=options, choice=PlanChoice(seed=3, videos_per_shard=4)
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, mixed_videos):
    """A native dataset with the residual plane."""
    root = tmp_path_factory.mktemp("native") / "set"
    (outcome,) = make(mixed_videos, root, OPTIONS)
    assert [row["source"] for row in outcome.failures] == ["jpegs.avi"]
    assert "mjpeg has no motion vectors" in outcome.failures[0]["message"]
    return root


@pytest.fixture(scope="module")
def dataset(mixed):
    return ShardDataset(mixed, "train")


@pytest.fixture(scope="module")
def clips(dataset, mixed_videos):
    """Of each position, the clip extracted once more, and the name of its video."""
    extracted, found = {}, []
    for position in range(len(dataset)):
        content = dataset.read_json(position)
        name = content["source"]["name"]
        if name not in extracted:
            extracted[name] = list(extract_segments(mixed_videos / name, options=OPTIONS))
        found.append((name, extracted[name][content["segment"]]))
    return found


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_native_dataset_of_mixed_videos_has_no_faults(mixed, rebuild):
    assert list(verify_split(mixed, "train", rebuild=rebuild)) == []


def test_every_kind_of_sample_is_there(clips):
    assert sorted(name for name, _ in clips) == [
        "b_frames.mp4",
        "exact.mp4",
        "hole.mp4",
        "long.mp4",
        "long.mp4",
        "long.mp4",
        "mpeg4.avi",
        "turned.mp4",
    ]


def test_the_flags_are_those_of_the_frames(dataset, clips):
    seen = 0
    for position, (_, clip) in enumerate(clips):
        flags = dataset.frame_flags(position)
        assert flags.dtype == np.uint8
        kinds = np.array(list(clip.kinds))
        np.testing.assert_array_equal(flags & INTRA_FRAME != 0, kinds == "I")
        np.testing.assert_array_equal(flags & BIDIRECTIONAL_FRAME != 0, kinds == "B")
        damaged = tuple(np.flatnonzero(flags & DAMAGED).tolist())
        assert damaged == clip.damaged_frames
        assert not (flags & SCENE_CUT).any()
        seen |= int(np.bitwise_or.reduce(flags))
    assert seen == INTRA_FRAME | BIDIRECTIONAL_FRAME | DAMAGED


def test_the_damaged_video_is_damaged_in_its_second_gop(dataset, clips):
    position = [name for name, _ in clips].index("hole.mp4")
    flags = dataset.frame_flags(position)
    assert np.flatnonzero(flags & DAMAGED).tolist() == list(range(12, 19))
    assert dataset.read_json(position)["damaged_frames"] == list(range(12, 19))


def test_any_window_of_motion_says_what_its_frames_are(dataset, clips):
    for position, (_, clip) in enumerate(clips):
        last = clip.num_frames - 1
        starts = [*clip.chunk_starts, clip.num_frames]
        for first, end in [(0, 0), (0, last), (last, last), (last // 2, last // 2 + 1)]:
            window = dataset.read_motion(position, first, min(end, last))
            begin = window.first_frame
            frames = slice(begin, begin + len(window.motion))
            assert begin == max(start for start in starts if start <= first)
            np.testing.assert_array_equal(window.motion, clip.motion[frames])
            np.testing.assert_array_equal(window.coverage, clip.coverage[frames])
            kinds = np.array(list(clip.kinds[frames]))
            np.testing.assert_array_equal(window.is_intra_frame, kinds == "I")
            np.testing.assert_array_equal(window.is_bidirectional, kinds == "B")
            assert not window.is_scene_cut.any()


def test_only_exact_samples_have_a_residual_and_the_others_say_why_not(dataset, clips):
    with_residual = set()
    for position, (name, clip) in enumerate(clips):
        assert dataset.has_residual(position) == (clip.residual is not None)
        if clip.residual is not None:
            with_residual.add(name)
            read = dataset.read_residual(position, 0, clip.num_frames - 1)
            np.testing.assert_array_equal(read, clip.residual.planes)
            continue
        message = f"{dataset.keys[position]} has none: {clip.exactness}"
        with pytest.raises(ShardError) as raised:
            dataset.read_residual(position, 0, 0)
        assert message in str(raised.value)
        with pytest.raises(ShardError, match="no member"):
            dataset.read_json(position, residual=True)
    assert with_residual == {"exact.mp4", "turned.mp4"}


def test_a_dataset_without_the_plane_says_that(tmp_path, mixed_videos):
    root = tmp_path / "set"
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes((mixed_videos / "exact.mp4").read_bytes())
    make(videos, root, replace(OPTIONS, planes=("motion",)))
    dataset = ShardDataset(root, "train")
    assert not dataset.has_residual(0)
    with pytest.raises(ShardError, match="the dataset has no residual plane"):
        dataset.read_residual(0, 0, 0)
    assert list(verify_split(root, "train", rebuild=False)) == []


def test_the_samples_table_names_exactness_and_damage(mixed, dataset, clips):
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(mixed / "train" / "samples.parquet").to_pylist()
    for row, (_, clip) in zip(rows, clips, strict=True):
        assert row["exactness"] == clip.exactness
        assert row["damaged_frames"] == len(clip.damaged_frames)
        assert (row["zero_residual_share"] is None) == (clip.residual is None)


def write_shard(folder: Path, clips: list[Clip], *, with_residual: bool):
    """Write clips to shard 000000; returns its index."""
    storage = LocalStorage(folder)
    with ShardWriter(storage, "train", "000000", with_residual=with_residual) as writer:
        for number, clip in enumerate(clips):
            writer.add(f"a-{number}", clip, label=0, facts={})
        writer.publish([])
    return load_index(storage, f"train/{index_name('000000')}")


@pytest.fixture(scope="module")
def clip(small_video):
    return extract_clip(small_video)


def test_scene_cuts_and_damage_join_the_other_bits(clip, tmp_path):
    marked = replace(clip, scene_cuts=(0, 5, 12), damaged_frames=(5, 12, 13))
    index = write_shard(tmp_path, [clip, marked], with_residual=True)
    plain, flags = np.split(index.frame_flags, [clip.num_frames])
    assert plain.tolist() == [INTRA_FRAME if kind == "I" else 0 for kind in clip.kinds]
    expected = plain.copy()
    expected[[0, 5, 12]] |= SCENE_CUT
    expected[[5, 12, 13]] |= DAMAGED
    np.testing.assert_array_equal(flags, expected)
    assert flags[12] == INTRA_FRAME | SCENE_CUT | DAMAGED


def test_samples_without_residual_leave_no_pieces_between_those_that_have_one(clip, tmp_path):
    bare = replace(clip, residual=None, decoded_sha256=[])
    index = write_shard(tmp_path, [bare, clip, bare, bare, clip], with_residual=True)
    assert np.diff(index.residual.start).tolist() == [0, 3, 0, 0, 3]
    assert np.diff(index.motion.start).tolist() == [3] * 5


def test_a_shard_with_no_sample_has_no_flags(tmp_path):
    assert write_shard(tmp_path, [], with_residual=False).frame_flags.shape == (0,)


def test_an_early_index_without_flags_has_those_of_its_chunks(clip, tmp_path):
    """Written before there were any: each chunk begins with an I-frame, and no frame is B."""
    shorter = replace(
        clip,
        jpegs=[],
        frame_index_of_jpeg=clip.frame_index_of_jpeg[:0],
        motion=clip.motion[:13],
        coverage=clip.coverage[:13],
        residual=None,
        decoded_sha256=[],
        kinds=clip.kinds[:13],
        pts=clip.pts[:13],
        chunk_starts=(0, 12),
    )
    index = write_shard(tmp_path, [clip, shorter, clip], with_residual=True)
    path = tmp_path / "train" / index_name("000000")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "frame_flags"}
    np.savez(path, **arrays)
    early = load_index(LocalStorage(path.parent), path.name)
    np.testing.assert_array_equal(early.frame_flags, index.frame_flags)
    assert early.frame_flags.sum() == 3 + 2 + 3
    np.testing.assert_array_equal(early.motion.offset, index.motion.offset)
