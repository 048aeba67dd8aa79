import errno
import hashlib
import json
import os

import pytest

from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.shards.dataset_files import FileRecord, load_shard_files
from gopstream.shards.index import load_index
from gopstream.shards.storage import LocalStorage
from gopstream.shards.writer import ShardWriter

PUBLISHED = [
    "000000.files.json",
    "000000.index.npz",
    "000000.report.jsonl",
    "000000.residual.tar",
    "000000.tar",
]


@pytest.fixture(scope="module")
def clip(odd_video):
    return extract_clip(odd_video)


def open_writer(root, shard="000000", *, with_residual=True):
    return ShardWriter(LocalStorage(root), "train", shard, with_residual=with_residual)


def write(root, clips, *, between=lambda writer: None):
    with open_writer(root) as writer:
        for number, clip in enumerate(clips):
            writer.add(f"a-{number}", clip, label=number, facts={"note": "n"})
            between(writer)
        writer.publish([{"status": "done"}])
    return {path.name: path.read_bytes() for path in sorted((root / "train").iterdir())}


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
    with open_writer(tmp_path) as writer:
        writer.add("a", clip, label=0, facts={})
        assert all(path.name.endswith(".partial") for path in (tmp_path / "train").iterdir())
        assert all(path.name.startswith(".") for path in (tmp_path / "train").iterdir())
    assert list((tmp_path / "train").iterdir()) == []


def test_leaving_with_an_error_removes_everything(clip, tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        open_writer(tmp_path) as writer,
    ):
        writer.add("a", clip, label=0, facts={})
        raise KeyboardInterrupt
    assert list((tmp_path / "train").iterdir()) == []


def test_a_shard_of_failures_only_is_an_empty_shard(tmp_path):
    files = write(tmp_path / "a", [])
    assert list(files) == PUBLISHED
    assert len(load_index(LocalStorage(tmp_path), "a/train/000000.index.npz").keys) == 0


def test_the_report_has_one_row_per_video(clip, tmp_path):
    rows = [{"video": 0, "status": "done"}, {"video": 1, "status": "failed"}]
    with open_writer(tmp_path, "000007") as writer:
        writer.publish(rows)
    lines = (tmp_path / "train" / "000007.report.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_without_residual_there_is_no_residual_tar(odd_video, tmp_path):
    clip = extract_clip(odd_video, options=ExtractionOptions(planes=("motion",)))
    with open_writer(tmp_path, with_residual=False) as writer:
        writer.add("a", clip, label=-1, facts={})
        writer.publish([])
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert names == [name for name in PUBLISHED if "residual" not in name]
    index = load_index(LocalStorage(tmp_path), "train/000000.index.npz")
    assert index.frames.start.tolist() == index.residual.start.tolist() == [0, 0]
    assert index.motion.start.tolist() == [0, 2]


def test_what_publish_returns_and_records_is_what_lies_there(clip, tmp_path):
    with open_writer(tmp_path) as writer:
        writer.add("a", clip, label=0, facts={})
        facts = writer.publish([])
    storage = LocalStorage(tmp_path)
    assert facts == load_shard_files(storage, "train", "000000")
    assert sorted(facts) == ["000000.index.npz", "000000.residual.tar", "000000.tar"]
    for name, fact in facts.items():
        content = (tmp_path / "train" / name).read_bytes()
        assert fact == FileRecord(len(content), hashlib.sha256(content).hexdigest())


def test_the_report_appears_last(clip, tmp_path, monkeypatch):
    """A job that is killed continues by looking for reports."""
    names = []
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (names.append(b.name), rename(a, b)))
    files = write(tmp_path / "a", [clip])
    assert sorted(names) == sorted(files)
    assert names[-2:] == ["000000.files.json", "000000.report.jsonl"]


def test_a_full_disk_is_an_os_error_and_leaves_nothing(clip, tmp_path, monkeypatch):
    """The real thing: a file size limit stands in for a full disk and gives EFBIG instead."""
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError) as raised, open_writer(tmp_path) as writer:
            writer.add("a", clip, label=0, facts={})
            writer.publish([])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
    assert list((tmp_path / "train").iterdir()) == []
