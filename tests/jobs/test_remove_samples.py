"""A takedown: every byte of a sample goes, nothing else changes, whenever it is interrupted."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys

import pyarrow.parquet
import pytest

from dying_storage import DyingStorage, Killed
from file_hashes import hashes
from gopstream.jobs.cli import main
from gopstream.jobs.edit_commands import remove
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.remove_samples import remove_samples
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.dataset_files import load_manifest
from gopstream.shards.edit_user_plane import add_user_plane
from gopstream.shards.errors import DamageError, SettingsError
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.reader import ShardDataset
from gopstream.shards.user_plane import UserPlane
from gopstream.shards.verify import verify_split

OPTIONS = ExtractionOptions(canonical=CanonicalFormat(gop=10), segment_frames=20)


def faults_of(root):
    return list(verify_split(root, "train", rebuild=True))


def rows_of(root, split="train"):
    paths = sorted((root / split).glob("*.report.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Five videos of two classes; one of them becomes two samples."""
    folder = tmp_path_factory.mktemp("videos")
    for number, (label, frames) in enumerate(
        [("left", 30), ("left", 12), ("right", 13), ("right", 11), ("right", 10)]
    ):
        (folder / label).mkdir(exist_ok=True)
        write_video(folder / label / f"{number}.mp4", frames, seed=number)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, videos):
    """Two shards with residuals and captions."""
    root = tmp_path_factory.mktemp("made") / "set"
    shard_folder(videos, root, options=OPTIONS, choice=PlanChoice(videos_per_shard=3))
    captions = tmp_path_factory.mktemp("captions")
    for key in ShardDataset(root, "train").keys:
        (captions / f"{key}.txt").write_text(f"what is seen in {key}")
    add_user_plane(LocalStorage(root), "captions", ["train"], folder=captions)
    return root


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


@pytest.fixture(scope="module")
def keys(made):
    """One key in each shard: of a segment, and of a whole video."""
    dataset = ShardDataset(made, "train")
    segment = next(key for key in dataset.keys if key.count("-") == 2)
    [first_shard] = [
        row
        for row in pyarrow.parquet.read_table(made / "train" / "samples.parquet").to_pylist()
        if row["key"] == segment
    ]
    other = next(
        row["key"]
        for row in pyarrow.parquet.read_table(made / "train" / "samples.parquet").to_pylist()
        if row["shard"] != first_shard["shard"] and row["key"].count("-") == 1
    )
    return [segment, other]


@pytest.fixture(scope="module")
def wanted(made, keys, tmp_path_factory):
    """The hashes of the files that an uninterrupted removal leaves."""
    root = shutil.copytree(made, tmp_path_factory.mktemp("wanted") / "set")
    remove_samples(LocalStorage(root), keys=keys)
    assert faults_of(root) == []
    return hashes(root)


def test_no_byte_of_a_removed_sample_is_left(made, root, keys):
    before = ShardDataset(made, "train")
    positions = [before.keys.index(key) for key in keys]
    members = ("frames.mjpeg", "motion.zst", "residual.zst")
    contents = [before.read_member(p, name) for p in positions for name in members]
    pieces = [content[len(content) // 2 :][:100] for content in contents]
    pieces += [before.read_json(p)["decoded_sha256"][0].encode() for p in positions]
    pieces += [f"what is seen in {key}".encode() for key in keys]
    everything = [path.read_bytes() for path in made.rglob("*") if path.is_file()]
    assert all(any(piece in content for content in everything) for piece in pieces)
    remove_samples(LocalStorage(root), keys=keys)
    everything = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    assert not any(piece in content for piece in pieces for content in everything)


def test_the_other_samples_are_as_before(made, root, keys):
    remove_samples(LocalStorage(root), keys=keys)
    before, after = ShardDataset(made, "train"), ShardDataset(root, "train")
    assert after.keys == [key for key in before.keys if key not in keys]
    with UserPlane(root, "train", "captions") as captions:
        for position, key in enumerate(after.keys):
            old = before.keys.index(key)
            for name in ("frames.mjpeg", "motion.zst", "coverage.zst", "cls", "json"):
                assert after.read_member(position, name) == before.read_member(old, name)
            frames = (0, after.sample(position).num_frames - 1)
            assert (
                after.read_residual(position, *frames) == before.read_residual(old, *frames)
            ).all()
            assert captions.read(key) == f"what is seen in {key}".encode()
        assert captions.extensions(keys[0]) == []
    table = pyarrow.parquet.read_table(root / "train" / "samples.parquet")
    assert table.column("key").to_pylist() == after.keys
    assert faults_of(root) == []


def test_a_shard_without_the_sample_is_not_touched(made, root, keys):
    before = {path.name: path.stat().st_ino for path in (root / "train").iterdir()}
    removal = remove_samples(LocalStorage(root), keys=keys[:1])
    [shard] = removal.shards["train"]
    after = {path.name: path.stat().st_ino for path in (root / "train").iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    tables = {"manifest.json", "samples.parquet", "failures.jsonl"}
    assert {name for name in changed if not name.startswith(f"{shard}.")} == tables
    assert f"{shard}.tar" in changed


def test_the_report_says_what_is_gone(made, root, keys):
    segment, whole = keys
    remove_samples(LocalStorage(root), keys=keys)
    rows = {tuple(row["removed"]): row for row in rows_of(root) if "removed" in row}
    assert set(rows) == {(segment,), (whole,)}
    partly, gone = rows[segment,], rows[whole,]
    assert (partly["status"], len(partly["samples"])) == ("done", 1)
    assert (gone["status"], gone["samples"]) == ("removed", [])
    assert "source_sha256" not in gone
    # The other segment goes too.
    remove_samples(LocalStorage(root), keys=[partly["samples"][0]["key"]])
    again = next(row for row in rows_of(root) if row["video"] == partly["video"])
    assert again["status"] == "removed"
    assert again["removed"] == [f"{segment[:-1]}{number}" for number in (0, 1)]


def test_the_manifest_counts_what_is_left(made, root, keys):
    before = load_manifest(made, "train")
    remove_samples(LocalStorage(root), keys=keys)
    after = load_manifest(root, "train")
    assert after.num_samples == before.num_samples - 2
    assert sum(after.class_counts.values()) == after.num_samples
    assert (after.num_videos, after.num_failures) == (before.num_videos, before.num_failures)


def test_a_video_is_removed_by_its_name_with_all_segments(made, root, keys):
    source = next(row for row in rows_of(made) if len(row["samples"]) == 2)["source"]
    removal = remove_samples(LocalStorage(root), sources=[source])
    assert removal.keys == (f"{keys[0][:-1]}0", f"{keys[0][:-1]}1")
    assert faults_of(root) == []


def test_a_shard_may_lose_all_samples(made, root):
    gone = [
        sample["key"]
        for line in (root / "train" / "000001.report.jsonl").read_text().splitlines()
        for sample in json.loads(line)["samples"]
    ]
    remove_samples(LocalStorage(root), keys=gone)
    assert faults_of(root) == []
    assert len(ShardDataset(root, "train")) == len(ShardDataset(made, "train")) - len(gone)


@pytest.mark.parametrize("words", [{"keys": ["train-09999999"]}, {"sources": ["left/9.mp4"]}])
def test_an_unknown_name_is_an_error_and_changes_nothing(root, keys, words):
    before = hashes(root)
    named = {name: [*(keys if name == "keys" else ()), *values] for name, values in words.items()}
    with pytest.raises(SettingsError, match=next(iter(words.values()))[0]):
        remove_samples(LocalStorage(root), **named)
    assert hashes(root) == before


def test_removing_again_changes_nothing(root, keys, wanted):
    remove_samples(LocalStorage(root), keys=keys)
    assert remove_samples(LocalStorage(root), keys=keys).keys == ()
    assert hashes(root) == wanted


def test_one_after_the_other_is_as_both_at_once(root, keys, wanted):
    for key in keys:
        remove_samples(LocalStorage(root), keys=[key])
    assert hashes(root) == wanted


def test_a_removed_video_is_not_made_again(videos, root, keys, wanted):
    """Neither by the command that made the dataset, nor by --append or --retry-failed."""
    remove_samples(LocalStorage(root), keys=keys)
    words = ["shard", str(videos), "--out", str(root), "--gop", "10", "--segment-frames", "20"]
    for more in (["--videos-per-shard", "3"], ["--append"], ["--retry-failed"]):
        assert main([*words, "--workers", "1", *more]) == 0
        assert hashes(root) == wanted


def count_changes(root, keys):
    storage = DyingStorage(root, 1000)
    remove_samples(storage, keys=keys)
    return 1000 - storage.lives


def test_interrupted_before_any_change_it_is_seen_and_completed(made, keys, wanted, tmp_path):
    num_changes = count_changes(shutil.copytree(made, tmp_path / "count"), keys)
    assert num_changes > 15
    for lives in range(num_changes):
        root = shutil.copytree(made, tmp_path / str(lives))
        with pytest.raises(Killed):
            remove_samples(DyingStorage(root, lives), keys=keys)
        whats = [fault.what for fault in faults_of(root)]
        if lives:
            assert any("run 'gopstream remove' again" in what for what in whats), lives
        else:
            assert whats == []
        remove_samples(LocalStorage(root), keys=keys)
        assert hashes(root) == wanted, lives
        shutil.rmtree(root)


def test_interrupted_again_and_again_it_ends_the_same(root, keys, wanted):
    """Each attempt comes one change further than the last one did."""
    for lives in range(1, 1000):
        try:
            remove_samples(DyingStorage(root, lives), keys=keys)
        except Killed:
            continue
        break
    assert lives > 5
    assert hashes(root) == wanted


def test_another_removal_completes_an_interrupted_one(root, keys, wanted):
    with pytest.raises(Killed):
        remove_samples(DyingStorage(root, 5), keys=keys[:1])
    removal = remove_samples(LocalStorage(root), keys=keys[1:])
    assert removal.completed
    assert removal.keys == tuple(sorted(keys))
    assert hashes(root) == wanted


def test_without_names_an_interrupted_removal_is_completed(root, keys, wanted):
    with pytest.raises(Killed):
        remove_samples(DyingStorage(root, 9), keys=keys)
    assert remove(str(root)) == 0
    assert hashes(root) == wanted
    with pytest.raises(SettingsError, match="give --key or --source"):
        remove(str(root))


KILL_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from gopstream.jobs.remove_samples import remove_samples
from gopstream.shards.local_storage import LocalStorage, LocalWriter
left = int(sys.argv[2])
write = LocalWriter.write
def dying(self, content):
    global left
    left -= len(content)
    if left < 0:
        write(self, content[:left])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, content)
LocalWriter.write = dying
remove_samples(LocalStorage(Path(sys.argv[1])), keys=sys.argv[3:])
"""


@pytest.mark.parametrize("num_bytes", [5_000, 60_000])
def test_killed_within_a_file_it_is_completed(root, keys, wanted, num_bytes):
    words = [sys.executable, "-c", KILL_WHILE_WRITING, str(root), str(num_bytes), *keys]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert any(name.endswith(".partial") for name in map(str, (root / "train").iterdir()))
    remove_samples(LocalStorage(root), keys=keys)
    assert hashes(root) == wanted


def test_a_damaged_tar_stops_the_removal_and_is_named(root, keys):
    with (root / "train" / "000000.tar").open("r+b") as file:
        file.truncate(2000)
    shards = pyarrow.parquet.read_table(root / "train" / "samples.parquet").to_pylist()
    key = next(row["key"] for row in shards if row["shard"] == "000000")
    with pytest.raises(DamageError, match=r"train/000000\.tar"):
        remove_samples(LocalStorage(root), keys=[key])


def test_an_unfinished_split_is_refused(root, keys):
    (root / "train" / "manifest.json").unlink()
    before = hashes(root)
    with pytest.raises(SettingsError, match="not finished"):
        remove_samples(LocalStorage(root), keys=keys)
    assert hashes(root) == before


def test_a_side_tar_that_nothing_lists_is_refused(root, keys):
    """It could hold the sample, and would be left behind."""
    shutil.copy(root / "train" / "000000.captions.tar", root / "train" / "000000.flow.tar")
    with pytest.raises(SettingsError, match=r"000000\.flow\.tar.*gopstream planes"):
        remove_samples(LocalStorage(root), keys=keys)


def test_in_object_storage_it_is_the_same(made, keys, wanted, s3, tmp_path):
    storage = ObjectStorage(s3.url, s3.options())
    for path in sorted(made.rglob("*")):
        if path.is_file():
            storage.put_file(path, path.relative_to(made).as_posix())
    remove_samples(storage, keys=keys)
    found = {name: hashlib.sha256(storage.read(name)).hexdigest() for name in wanted}
    assert found == wanted
