"""A dataset that lacks the records of its shards' files is refused before anything is changed."""

import pytest

from file_hashes import hashes
from gopstream.jobs.add_residual import add_residual_plane
from gopstream.jobs.remove_samples import remove_samples
from gopstream.jobs.source_videos import VideoSource
from gopstream.shards.dataset_files import load_dataset, load_shard_files, save_dataset
from gopstream.shards.edit_files import check_changeable, read_files
from gopstream.shards.edit_planes import drop_plane
from gopstream.shards.edit_user_plane import add_user_plane
from gopstream.shards.errors import DamageError, SettingsError
from gopstream.shards.layout import dump_json
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.reader import ShardDataset


@pytest.fixture
def early_root(own_root):
    """As it was before there were records: the plan listed each video."""
    folder = own_root / "train"
    shards = [
        {
            "name": name,
            "videos": [{"index": 0}] * len((folder / f"{name}.report.jsonl").open().readlines()),
        }
        for name in ("000000", "000001")
    ]
    (folder / "plan.json").write_bytes(dump_json({"format": 1, "shards": shards}))
    (folder / "plan.parquet").unlink()
    for path in folder.glob("*.files.json"):
        path.unlink()
    return own_root


@pytest.mark.parametrize("command", ["drop", "drop own", "add", "add residual", "key", "source"])
def test_a_dataset_of_an_earlier_version_says_so(early_root, tmp_path, command):
    storage, key = LocalStorage(early_root), ShardDataset(early_root, "train").keys[0]
    (tmp_path / "flow").mkdir()
    for each in ShardDataset(early_root, "train").keys:
        (tmp_path / "flow" / f"{each}.txt").write_text(each)
    if command == "add residual":
        facts = load_dataset(storage)
        save_dataset(storage, type(facts)(facts.classes, ("frames", "motion"), facts.settings))
    before = hashes(early_root)
    with pytest.raises(SettingsError, match="an earlier version.*read and verified, not changed"):
        if command == "drop":
            drop_plane(storage, "residual", ["train"])
        elif command == "drop own":
            drop_plane(storage, "flow", ["train"])
        elif command == "add":
            add_user_plane(storage, "flow", ["train"], folder=tmp_path / "flow")
        elif command == "add residual":
            add_residual_plane(storage, VideoSource(str(tmp_path)), ["train"], workers=1)
        elif command == "key":
            remove_samples(storage, keys=[key])
        else:
            remove_samples(storage, sources=["left/0.mp4"])
    assert hashes(early_root) == before


def test_one_missing_record_is_damage(own_root):
    check_changeable(LocalStorage(own_root), ["train"])
    (own_root / "train" / "000001.files.json").unlink()
    with pytest.raises(DamageError, match=r"train/000001\.files\.json: is missing.*verify"):
        check_changeable(LocalStorage(own_root), ["train"])


def test_a_split_that_is_not_finished_is_left_to_others(own_root):
    (own_root / "train" / "manifest.json").unlink()
    (own_root / "train" / "000001.files.json").unlink()
    check_changeable(LocalStorage(own_root), ["train"])


def test_records_are_read_in_the_order_of_their_shards(own_root):
    storage = LocalStorage(own_root)
    names = ["000001", "000000"] * 40
    found = list(read_files(storage, "train", names))
    assert found == [load_shard_files(storage, "train", name) for name in names]
