"""Verifying whole datasets: in processes, with a journal, across splits, in object storage."""

import importlib
import json
import shutil

import pytest

from gopstream.jobs import verify as verify_module
from gopstream.jobs.cli import main
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.jobs.verify import verify_dataset
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.dataset_files import load_manifest, save_manifest
from gopstream.shards.errors import ShardError
from gopstream.shards.layout import dump_json
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.source_overlap import shared_sources

OPTIONS = ExtractionOptions(canonical=CanonicalFormat(gop=10), segment_frames=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_video):
    """Splits train (3 shards) and val (1); a video of train is in val under another name."""
    train, val = (tmp_path_factory.mktemp(name) for name in ("train", "val"))
    for number in range(3):
        write_video(train / f"{number}.mp4", 11, seed=number)
    shutil.copy(train / "1.mp4", val / "again.mp4")
    write_video(val / "new.mp4", 11, seed=7)
    root = tmp_path_factory.mktemp("made") / "set"
    choice = PlanChoice(videos_per_shard=1)
    shard_folder(train, root, options=OPTIONS, choice=choice)
    choice = PlanChoice(videos_per_shard=2)
    shard_folder(val, root, options=OPTIONS, split="val", choice=choice)
    return root


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def verify(root, **words):
    return verify_dataset(root, **({"allow_shared_sources": True, "workers": 2} | words))


def flip(path, offset=1024):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def test_a_whole_dataset_has_no_faults(root):
    result = verify(root, rebuild=True)
    assert result == {"splits": 2, "shards": 4, "samples": 5, "known": 0, "faults": []}


def test_faults_say_split_and_file(root):
    flip(root / "train" / "000002.tar")
    flip(root / "val" / "000000.tar")
    places = [(fault["split"], fault["shard"]) for fault in verify(root)["faults"]]
    assert places == [("train", "000002.tar"), ("val", "000000.tar")]


def test_one_split_is_verified_alone(root):
    flip(root / "train" / "000002.tar")
    assert verify(root, split="val")["faults"] == []
    with pytest.raises(ShardError, match="no split 'test'"):
        verify(root, split="test")


def test_a_shared_source_is_a_fault_with_both_names(root):
    whats = [fault["what"] for fault in verify(root, allow_shared_sources=False)["faults"]]
    assert whats == ["1.mp4 is also in val, as again.mp4 (the same file)"]
    [(digest, names)] = shared_sources(LocalStorage(root), "val", "train").items()
    assert tuple(names) == ("again.mp4", "1.mp4")
    assert len(digest) == 64


def test_the_command_line_allows_it_on_demand(root, capsys):
    assert main(["verify", str(root)]) == 1
    assert "again.mp4" in capsys.readouterr().err
    assert main(["verify", str(root), "--allow-shared-sources"]) == 0
    assert "2 splits, 4 shards, 5 samples: no faults" in capsys.readouterr().out


@pytest.fixture
def names(monkeypatch):
    """The names of the shards that are read, in this process."""
    names = []

    def run_here(checks, work, *, workers, stall_seconds, on_item):
        results = []
        for check in checks:
            names.append(f"{check.context.split}/{check.shard.name}")
            results.append(work(check, Line(), {}))
        return results

    monkeypatch.setattr(verify_module, "run_tasks", run_here)
    return names


class Line:
    """The line to the parent, to which nobody listens."""

    def started(self, index): ...

    def beat(self): ...

    def finished(self, index, *, succeeded): ...


def test_the_journal_skips_what_was_whole_and_is_unchanged(root, tmp_path, names):
    journal = tmp_path / "journal.jsonl"
    flip(root / "train" / "000001.tar")
    assert len(verify(root, journal=journal)["faults"]) == 1
    assert len(names) == 4
    names.clear()
    again = verify(root, journal=journal)
    assert names == ["train/000001"]
    assert (again["known"], len(again["faults"])) == (3, 1)
    flip(root / "train" / "000001.tar")  # mended
    names.clear()
    assert verify(root, journal=journal)["faults"] == []
    assert verify(root, journal=journal)["known"] == 4
    assert names == ["train/000001"]


def test_a_shard_whose_record_has_changed_is_read_again(root, tmp_path, names):
    journal = tmp_path / "journal.jsonl"
    verify(root, journal=journal)
    manifest = load_manifest(root, "val")
    content = json.loads((root / "val" / "manifest.json").read_bytes())
    content["shards"][0]["files"]["000000.tar"]["sha256"] = "0" * 64
    (root / "val" / "manifest.json").write_bytes(dump_json(content))
    names.clear()
    assert verify(root, journal=journal)["faults"]
    assert names == ["val/000000"]
    save_manifest(root, manifest)
    assert verify(root, journal=journal)["known"] == 4


def test_a_file_that_has_gone_is_seen_although_the_journal_knows_its_shard(root, tmp_path):
    journal = tmp_path / "journal"
    verify(root, journal=journal)
    (root / "train" / "000001.tar").unlink()
    result = verify(root, journal=journal)
    assert result["known"] == 3
    assert [(fault["shard"], fault["what"]) for fault in result["faults"]] == [
        ("000001.tar", "is missing")
    ]


def test_what_was_not_rebuilt_is_read_again_for_a_rebuild(root, tmp_path, names):
    journal = tmp_path / "journal.jsonl"
    assert verify(root, journal=journal)["known"] == 0
    assert verify(root, journal=journal, rebuild=True)["known"] == 0
    assert verify(root, journal=journal, rebuild=True)["known"] == 4
    assert verify(root, journal=journal)["known"] == 4


def test_a_copy_elsewhere_is_not_known(root, tmp_path, names):
    journal = tmp_path / "journal.jsonl"
    verify(root, journal=journal)
    copy = shutil.copytree(root, tmp_path / "copy")
    assert verify(copy, journal=journal)["known"] == 0


def test_processes_write_one_journal(root, tmp_path):
    journal = tmp_path / "journal.jsonl"
    assert verify(root, journal=journal)["known"] == 0
    assert verify(root, journal=journal)["known"] == 4


def test_a_torn_journal_costs_only_the_shard_it_tore(root, tmp_path, names):
    journal = tmp_path / "journal.jsonl"
    verify(root, journal=journal)
    journal.write_bytes(journal.read_bytes()[:-20])
    assert verify(root, journal=journal)["known"] == 3
    assert verify(root, journal=journal)["known"] == 4


DYING = """
import os, signal
from gopstream.jobs.verify import check_shard
def die_at_one(check, reporter, faults):
    if check.context.split == "train" and check.shard.name == "000001" and not faults:
        reporter.started(0)
        os.kill(os.getpid(), signal.SIGSEGV)
    return check_shard(check, reporter, faults)
"""


def test_a_shard_that_kills_the_verifier_is_a_fault(root, monkeypatch, tmp_path):
    """In a process that really dies."""
    (tmp_path / "dying_verifier.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)  # which worker processes take over
    dying = importlib.import_module("dying_verifier")
    monkeypatch.setattr(verify_module, "check_shard", dying.die_at_one)
    [fault] = verify(root)["faults"]
    assert (fault["split"], fault["shard"]) == ("train", "000001")
    assert "CrashedError" in fault["what"]
    assert "SIGSEGV" in fault["what"]


def test_faults_are_plain_values(root):
    flip(root / "train" / "000002.tar")
    assert json.loads(json.dumps(verify(root)))


def test_in_object_storage_the_same_faults_are_found(root, s3):
    storage = ObjectStorage(s3.url, s3.options())
    flip(root / "train" / "000002.tar")
    (root / "val" / "000000.residual.tar").unlink()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            storage.put_file(path, path.relative_to(root).as_posix())
    assert verify(storage)["faults"] == verify(root)["faults"] != []


def test_info_and_verify_take_addresses(root, s3, capsys):
    storage = ObjectStorage(s3.url, s3.options())
    for path in sorted(root.rglob("*")):
        if path.is_file():
            storage.put_file(path, path.relative_to(root).as_posix())
    words = ["--endpoint", s3.proxy.url, "--region", "us-east-1"]
    assert main(["verify", s3.url, "--split", "val", "--allow-shared-sources", *words]) == 0
    assert main(["info", s3.url, *words]) == 0
    assert s3.url in capsys.readouterr().out


def test_failed_videos_that_were_tried_again_are_counted_once(tmp_path, write_video):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "0.mp4", 11)
    for name in ("1.mp4", "2.mp4"):
        (videos / name).write_text("no video yet")
    root = tmp_path / "set"
    words = ["shard", str(videos), "--out", str(root), "--gop", "10", "--workers", "1"]
    words += ["--segment-frames", "20"]
    assert main(words) == 0
    write_video(videos / "1.mp4", 11, seed=1)
    assert main([*words, "--retry-failed"]) == 0
    assert verify(root, rebuild=True)["faults"] == []
    manifest = load_manifest(root, "train")
    assert (manifest.num_videos, manifest.num_failures, manifest.num_samples) == (3, 1, 2)
