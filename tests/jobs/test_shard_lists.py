"""Lists of public datasets all the way to shards: segments, folders of pictures, typed columns."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from gopstream.jobs.cli import main
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.dataset_files import load_dataset
from gopstream.shards.reader import ShardDataset


def shard(videos, out, *words):
    given = ["shard", str(videos), "--out", str(out), "--short-side", "64", "--workers", "1"]
    return main([*given, *words])


def samples_of(root, split="train"):
    rows = pyarrow.parquet.read_table(root / split / "samples.parquet").to_pylist()
    return {row["key"]: row for row in rows}


@pytest.fixture(scope="module")
def long_video(tmp_path_factory, write_video):
    """Ten seconds of 12 frames each, with B-frames."""
    folder = tmp_path_factory.mktemp("long") / "P01" / "videos"
    folder.mkdir(parents=True)
    return write_video(folder / "P01_01.MP4.mp4", 120, rate=12).rename(folder / "P01_01.MP4")


def test_segments_of_a_long_video_with_two_kinds_of_labels(long_video, tmp_path):
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
        "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,"
        "all_noun_classes"
    )
    times = [("00:00:01.00", "00:00:03.00"), ("00:00:08.50", "00:00:10.00")]
    rows = [
        f'P01_01_{n},P01,P01_01,00:00:00.00,{start},{stop},1,2,"open, the door",open,3,door,{n},'
        f"\"['door']\",[{n}]"
        for n, (start, stop) in enumerate(times)
    ]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "EPIC_100_train.csv").write_text("\r\n".join([header, *rows]) + "\r\n")
    root = tmp_path / "set"
    videos = long_video.parents[2]
    annotations = ["--annotations", str(lists / "EPIC_100_train.csv")]
    assert shard(videos, root, *annotations, "--dataset", "epic_kitchens100") == 0
    rows = sorted(samples_of(root).values(), key=lambda row: row["start_seconds"])
    assert [row["frames"] for row in rows] == [24, 18]
    assert [(row["verb_class"], row["noun_class"]) for row in rows] == [(3, 0), (3, 1)]
    assert [row["narration"] for row in rows] == ["open, the door"] * 2
    assert len({row["source_sha256"] for row in rows}) == 1
    assert len(load_dataset(root).label_sets["verb_class"]) == 97
    dataset = ShardDataset(root, "train")
    contents = [dataset.read_json(position) for position in range(2)]
    first = min(contents, key=lambda content: content["window"]["start_seconds"])
    assert first["window"] == {"start_seconds": 1.0, "end_seconds": 3.0}
    seconds = first["pts"][0] * first["time_base"][0] / first["time_base"][1]
    assert seconds == pytest.approx(1.0)
    assert main(["verify", str(root), "--rebuild"]) == 0


def test_folders_of_pictures(tmp_path):
    videos = tmp_path / "20bn-something-something-v1"
    rng = np.random.default_rng(0)
    for name, count in (("7", 9), ("12", 14)):
        (videos / name).mkdir(parents=True)
        for number in range(1, count + 1):
            picture = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(12, 0).repeat(12, 1)
            Image.fromarray(picture).save(videos / name / f"{number:05d}.jpg", quality=95)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "something-something-v1-labels.csv").write_text("Holding something\nTwisting it\n")
    (lists / "something-something-v1-train.csv").write_text(
        "7;Twisting it\n12;Holding something\n99;Twisting it\n"
    )
    root = tmp_path / "set"
    listed = str(lists / "something-something-v1-train.csv")
    assert shard(videos, root, "--annotations", listed) == 0
    rows = {row["source"]: row for row in samples_of(root).values()}
    assert {name: row["frames"] for name, row in rows.items()} == {"7": 9, "12": 14}
    assert {name: row["label"] for name, row in rows.items()} == {"7": 1, "12": 0}
    assert all(row["fps"] == 12.0 for row in rows.values())
    (failure,) = map(json.loads, (root / "train" / "failures.jsonl").read_text().splitlines())
    assert (failure["source"], failure["stage"]) == ("99", "open")
    assert main(["verify", str(root), "--rebuild"]) == 0


def test_columns_of_a_parquet_list_keep_their_types(small_video, odd_video, tmp_path):
    table = pa.table(
        {
            "uri": [small_video.name, odd_video.name],
            "label": ["b", "a"],
            "split": ["train", "val"],
            "views": pa.array([3, None], pa.int32()),
            "score": pa.array([0.5, 2.0], pa.float32()),
            "is_clean": [True, False],
            "frames": ["mine", "mine too"],
        }
    )
    videos = tmp_path / "videos"
    videos.mkdir()
    for video in (small_video, odd_video):
        (videos / video.name).write_bytes(video.read_bytes())
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    root = tmp_path / "set"
    assert shard(videos, root, "--annotations", str(tmp_path / "list.parquet")) == 0
    stored = pyarrow.parquet.read_table(root / "train" / "samples.parquet")
    types = {name: str(stored.schema.field(name).type) for name in ("views", "score", "is_clean")}
    assert types == {"views": "int64", "score": "double", "is_clean": "bool"}
    (row,) = samples_of(root).values()
    assert (row["views"], row["score"], row["is_clean"]) == (3, 0.5, True)
    assert row["frames"] == 30  # ours; the list's column of this name is in the json
    assert ShardDataset(root, "train").read_json(0)["attributes"]["frames"] == "mine"
    (other,) = samples_of(root, "val").values()
    assert (other["views"], other["label"]) == (None, 0)


def test_fewer_frames_per_second_are_stored(long_video, tmp_path):
    videos = long_video.parents[2]
    assert shard(videos, tmp_path / "set", "--fps", "4") == 0
    (row,) = samples_of(tmp_path / "set").values()
    assert (row["frames"], row["stored_frames"]) == (120, 40)
    stored = ShardDataset(tmp_path / "set", "train").sample(0).frame_index_of_jpeg
    assert stored.tolist() == list(range(0, 120, 3))
    canonical = CanonicalFormat(short_side=64)
    clip = extract_clip(long_video, options=ExtractionOptions(canonical=canonical, fps=4))
    assert clip.frame_index_of_jpeg.tolist() == stored.tolist()


def test_other_fps_is_another_dataset(long_video, tmp_path, capsys):
    videos = long_video.parents[2]
    assert shard(videos, tmp_path / "set", "--fps", "4") == 0
    assert shard(videos, tmp_path / "set", "--fps", "6") == 1
    assert "fps = 4.0, now it is 6.0" in capsys.readouterr().err
