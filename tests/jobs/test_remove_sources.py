"""A video that is taken down by its name stays out, also one that has only failed so far."""

import json
import shutil

import pytest

from dying_storage import DyingStorage, Killed
from file_hashes import hashes
from gopstream.jobs.cli import main
from gopstream.jobs.remove_samples import remove_samples
from gopstream.shards.dataset_files import load_manifest
from gopstream.shards.errors import FormatError, SettingsError
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.removed_sources import removed_sources
from gopstream.shards.verify import verify_split

# The first segments of two videos, one of which cannot be used, and a whole one.
FIRST = ("path,label,start,end", "long.mp4,a,0,1", "broken.mp4,a,0,1", "short.mp4,b,,")
LATER = ("path,label,start,end", "long.mp4,a,1,2", "broken.mp4,a,1,2", "new.mp4,b,,")


def faults_of(root):
    return list(verify_split(root, "train"))


def rows_of(root, source):
    paths = sorted((root / "train").glob("*.report.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [row for row in rows if row["source"] == source]


def failures_of(root):
    rows = (root / "train" / "failures.jsonl").read_text().splitlines()
    return [json.loads(row)["source"] for row in rows]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("videos")
    for number, (name, frames) in enumerate([("long", 50), ("short", 10), ("new", 12)]):
        write_video(folder / f"{name}.mp4", frames, seed=number)
    (folder / "broken.mp4").write_text("no video")
    (folder / "first.csv").write_text("\n".join(FIRST))
    (folder / "later.csv").write_text("\n".join(LATER))
    return folder


def shard(videos, root, *words):
    given = ["shard", str(videos), "--out", str(root), "--gop", "10"]
    return main([*given, "--workers", "1", "--videos-per-shard", "1", *words])


def append(videos, root):
    return shard(videos, root, "--annotations", str(videos / "later.csv"), "--append")


@pytest.fixture(scope="module")
def made(tmp_path_factory, videos):
    root = tmp_path_factory.mktemp("made") / "set"
    shard(videos, root, "--annotations", str(videos / "first.csv"))
    assert failures_of(root) == ["broken.mp4"]
    return root


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def remove(root, *sources):
    return remove_samples(LocalStorage(root), sources=sources)


def test_its_name_is_kept_beside_the_plan(root):
    removal = remove(root, "short.mp4", "long.mp4")
    assert removal.sources == {"train": ("long.mp4", "short.mp4")}
    content = json.loads((root / "train" / "removed.json").read_text())
    assert content == {"format": 1, "sources": ["long.mp4", "short.mp4"]}
    remove(root, "broken.mp4")
    names = {"broken.mp4", "long.mp4", "short.mp4"}
    assert removed_sources(LocalStorage(root), "train") == names
    assert faults_of(root) == []


def test_a_sample_that_is_removed_by_its_key_leaves_its_video_alone(root):
    [row] = rows_of(root, "long.mp4")
    remove_samples(LocalStorage(root), keys=[row["samples"][0]["key"]])
    assert removed_sources(LocalStorage(root), "train") == frozenset()
    # By its name it can still go for good.
    assert remove(root, "long.mp4").sources == {"train": ("long.mp4",)}
    assert removed_sources(LocalStorage(root), "train") == {"long.mp4"}


def test_other_segments_of_it_are_neither_appended_nor_tried_again(videos, root):
    remove(root, "long.mp4", "broken.mp4")
    before = hashes(root)
    assert shard(videos, root, "--retry-failed") == 0
    assert hashes(root) == before
    assert append(videos, root) == 0
    assert [row["status"] for row in rows_of(root, "long.mp4")] == ["removed"]
    assert [row["status"] for row in rows_of(root, "broken.mp4")] == ["removed"]
    assert [row["status"] for row in rows_of(root, "new.mp4")] == ["done"]
    assert faults_of(root) == []


def test_a_video_that_has_only_failed_counts_as_removed(root):
    before = load_manifest(root, "train")
    removal = remove(root, "broken.mp4")
    assert (removal.keys, removal.shards) == ((), {"train": ()})
    [row] = rows_of(root, "broken.mp4")
    assert row.keys().isdisjoint({"key", "stage", "error", "message"})
    assert (row["status"], row["samples"]) == ("removed", [])
    assert failures_of(root) == []
    after = load_manifest(root, "train")
    assert (after.num_videos, after.num_failures) == (before.num_videos, 0)
    assert after.shards == before.shards
    assert faults_of(root) == []


def test_failed_in_every_part_of_the_plan_it_is_removed_from_all(videos, root):
    assert shard(videos, root, "--retry-failed") == 0
    assert append(videos, root) == 0
    assert len(rows_of(root, "broken.mp4")) == 3
    remove(root, "broken.mp4")
    assert [row["status"] for row in rows_of(root, "broken.mp4")] == ["removed"] * 3
    assert failures_of(root) == []
    assert faults_of(root) == []


def test_segments_of_all_parts_go(videos, root):
    assert append(videos, root) == 0
    assert len(remove(root, "long.mp4").keys) == 2
    assert faults_of(root) == []


def test_a_name_that_is_in_no_plan_is_an_error_and_changes_nothing(root):
    before = hashes(root)
    with pytest.raises(SettingsError, match=r"no sample or video never\.mp4"):
        remove(root, "broken.mp4", "never.mp4")
    assert hashes(root) == before


@pytest.mark.parametrize("sources", [["broken.mp4"], ["broken.mp4", "long.mp4"]])
def test_removing_again_changes_nothing(root, sources):
    remove(root, *sources)
    before = {path: path.stat().st_ino for path in (root / "train").iterdir()}
    removal = remove(root, *sources)
    assert (removal.keys, removal.sources) == ((), {})
    assert {path: path.stat().st_ino for path in (root / "train").iterdir()} == before


def test_interrupted_anywhere_it_is_seen_and_completed(made, tmp_path):
    sources = ["long.mp4", "broken.mp4"]
    wanted_root = shutil.copytree(made, tmp_path / "wanted")
    remove(wanted_root, *sources)
    wanted = hashes(wanted_root)
    for lives in range(100):
        root = shutil.copytree(made, tmp_path / str(lives))
        try:
            remove_samples(DyingStorage(root, lives), sources=sources)
        except Killed:
            # No tar has changed before the names are kept.
            tars = {name for name in wanted if name.endswith(".tar")}
            changed = {name for name in tars if hashes(root)[name] != hashes(made)[name]}
            assert not changed or removed_sources(LocalStorage(root), "train") == set(sources)
            assert bool(faults_of(root)) == (lives > 0)
            # What the interrupted one was about is enough to complete it.
            remove_samples(LocalStorage(root), sources=sources if lives == 0 else ())
            assert hashes(root) == wanted, lives
            continue
        break
    assert lives > 8


def test_a_removal_of_an_earlier_version_is_completed(made, tmp_path):
    """It did not write down names of videos."""
    root = shutil.copytree(made, tmp_path / "set")
    [row] = rows_of(root, "long.mp4")
    key, shard_name = row["samples"][0]["key"], f"{row['video']:06d}"
    content = {"format": 1, "shards": {shard_name: [key]}}
    (root / "train" / "removal.json").write_text(json.dumps(content))
    assert remove(root).keys == (key,)
    assert faults_of(root) == []


def test_a_damaged_list_of_names_is_refused_before_anything_is_changed(root):
    (root / "train" / "removed.json").write_text('{"format": 1, "sources": "long.mp4"}')
    before = hashes(root)
    with pytest.raises(FormatError, match=r"train/removed\.json"):
        remove(root, "long.mp4")
    assert hashes(root) == before
