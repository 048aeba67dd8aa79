import json

import pytest

from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.shards.index import load_index
from gopstream.shards.writer import ShardWriter

PUBLISHED = ["000000.index.npz", "000000.report.jsonl", "000000.residual.tar", "000000.tar"]


@pytest.fixture(scope="module")
def clip(odd_video):
    return extract_clip(odd_video)


def write(folder, clips, *, between=lambda writer: None):
    folder.mkdir()
    with ShardWriter(folder, "000000", with_residual=True) as writer:
        for number, clip in enumerate(clips):
            writer.add(f"a-{number}", clip, label=number, facts={"note": "n"})
            between(writer)
        writer.publish([{"status": "done"}])
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_clips_give_the_same_bytes(clip, tmp_path):
    files = write(tmp_path / "a", [clip, clip])
    assert list(files) == PUBLISHED
    assert write(tmp_path / "b", [clip, clip]) == files


def test_what_fails_leaves_no_trace(clip, tmp_path):
    def fail(writer):
        with pytest.raises(RuntimeError, match="third segment"), writer.all_or_nothing():
            writer.add("bad-0", clip, label=5, facts={})
            writer.add("bad-1", clip, label=5, facts={})
            raise RuntimeError("third segment")

    assert write(tmp_path / "a", [clip, clip], between=fail) == write(tmp_path / "b", [clip, clip])


def test_an_add_that_fails_half_way_leaves_no_trace(clip, tmp_path):
    """The frames and motion are in the tar already when the json turns out to be impossible."""

    def fail(writer):
        with pytest.raises(ValueError), writer.all_or_nothing():
            writer.add("bad", clip, label=5, facts={"fps": float("nan")})

    assert write(tmp_path / "a", [clip, clip], between=fail) == write(tmp_path / "b", [clip, clip])


def test_nothing_has_its_final_name_before_publish(clip, tmp_path):
    with ShardWriter(tmp_path, "000000", with_residual=True) as writer:
        writer.add("a", clip, label=0, facts={})
        assert all(path.name.endswith(".partial") for path in tmp_path.iterdir())
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_leaving_with_an_error_removes_everything(clip, tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        ShardWriter(tmp_path, "000000", with_residual=True) as writer,
    ):
        writer.add("a", clip, label=0, facts={})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_shard_of_failures_only_is_an_empty_shard(tmp_path):
    files = write(tmp_path / "a", [])
    assert list(files) == PUBLISHED
    assert len(load_index(tmp_path / "a" / "000000.index.npz").keys) == 0


def test_the_report_has_one_row_per_video(clip, tmp_path):
    rows = [{"video": 0, "status": "done"}, {"video": 1, "status": "failed"}]
    with ShardWriter(tmp_path, "000007", with_residual=True) as writer:
        writer.publish(rows)
    lines = (tmp_path / "000007.report.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_without_residual_there_is_no_residual_tar(odd_video, tmp_path):
    clip = extract_clip(odd_video, options=ExtractionOptions(planes=("motion",)))
    with ShardWriter(tmp_path, "000000", with_residual=False) as writer:
        writer.add("a", clip, label=-1, facts={})
        writer.publish([])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000000.index.npz", "000000.report.jsonl", "000000.tar"]
    index = load_index(tmp_path / "000000.index.npz")
    assert index.frames.start.tolist() == index.residual.start.tolist() == [0, 0]
    assert index.motion.start.tolist() == [0, 2]
