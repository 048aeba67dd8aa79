"""A user's own plane: from a folder to side tars, and back to a sample's bytes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from dying_storage import DyingStorage, Killed
from file_hashes import hashes
from gopstream.shards.dataset_files import (
    load_manifest,
    load_shard_files,
    save_manifest,
    save_shard_files,
)
from gopstream.shards.edit_planes import drop_plane, refresh_manifest
from gopstream.shards.edit_user_plane import add_user_plane
from gopstream.shards.errors import DamageError, FormatError, SettingsError, ShardError
from gopstream.shards.index import load_index
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.reader import ShardDataset
from gopstream.shards.tar import TarWriter
from gopstream.shards.user_plane import (
    UserPlane,
    parse_plane_index,
    plane_index_bytes,
    select_rows,
)
from gopstream.shards.verify import verify_split


def faults_of(root):
    return list(verify_split(root, "train"))


@pytest.fixture
def keys(dataset_root):
    return ShardDataset(dataset_root, "train").keys


@pytest.fixture
def flow(tmp_path, keys):
    """A file for each sample; a folder of two for the last."""
    folder = tmp_path / "flow"
    folder.mkdir()
    for number, key in enumerate(keys[:-1]):
        (folder / f"{key}.flow.npy").write_bytes(bytes([number]) * (700 * number))
    (folder / keys[-1]).mkdir()
    for name in ("x.npy", "y.npy"):
        (folder / keys[-1] / name).write_text(name)
    return folder


def add(root, folder, name="flow", **words):
    return add_user_plane(LocalStorage(root), name, ["train"], folder=folder, **words)


def test_what_is_added_is_read(own_root, flow, keys):
    added = add(own_root, flow)
    assert (added.num_members, added.num_samples, added.missing) == (8, 7, 0)
    with UserPlane(own_root, "train", "flow") as plane:
        for number, key in enumerate(keys[:-1]):
            assert plane.extensions(key) == ["flow.npy"]
            assert plane.read(key) == bytes([number]) * (700 * number)
        assert plane.extensions(keys[-1]) == ["x.npy", "y.npy"]
        assert plane.read(keys[-1], "y.npy") == b"y.npy"
        with pytest.raises(ShardError, match=r"one of several.*x\.npy, y\.npy"):
            plane.read(keys[-1])
        with pytest.raises(ShardError, match="there is nothing"):
            plane.read("train-00000099")
    assert faults_of(own_root) == []


def test_only_records_and_side_tars_are_written(dataset_root, own_root, flow):
    add(own_root, flow)
    before, after = hashes(dataset_root), hashes(own_root)
    changed = {name for name in before if before[name] != after[name]}
    records = {f"train/00000{number}.files.json" for number in (0, 1)}
    assert changed == {"train/manifest.json", *records}
    assert set(after) - set(before) == {
        f"train/00000{number}.flow.{kind}" for number in (0, 1) for kind in ("tar", "index.npz")
    }


def test_added_and_dropped_the_dataset_is_as_before(dataset_root, own_root, flow):
    add(own_root, flow)
    assert drop_plane(LocalStorage(own_root), "flow", ["train"]) == 2
    assert hashes(own_root) == hashes(dataset_root)


def test_missing_files_are_listed_and_nothing_is_written(dataset_root, own_root, flow, keys):
    (flow / f"{keys[2]}.flow.npy").unlink()
    (flow / f"{keys[4]}.flow.npy").unlink()
    with pytest.raises(SettingsError, match=rf"2 of 7.*\({keys[2]}, {keys[4]}\).*--partial"):
        add(own_root, flow)
    assert hashes(own_root) == hashes(dataset_root)


def test_partial_allows_samples_without_a_file(own_root, flow, keys):
    (flow / f"{keys[2]}.flow.npy").unlink()
    assert add(own_root, flow, partial=True).missing == 1
    with UserPlane(own_root, "train", "flow") as plane:
        assert plane.extensions(keys[2]) == []
        assert plane.read(keys[3]) == bytes([3]) * 2100
    assert faults_of(own_root) == []


def test_partial_does_not_allow_none_at_all(own_root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="7 of 7 samples"):
        add(own_root, tmp_path / "empty", partial=True)


def test_files_of_no_sample_are_counted(own_root, flow):
    (flow / "train-00000099.npy").write_text("")
    (flow / "readme").write_text("")
    assert add(own_root, flow).unused == ("readme", "train-00000099.npy")


@pytest.mark.parametrize("name", ["Flow", "a.b", "", "a" * 33, "../x"])
def test_a_name_that_cannot_be_a_file_is_refused(own_root, flow, name):
    with pytest.raises(SettingsError, match="1 to 32"):
        add(own_root, flow, name)


@pytest.mark.parametrize("name", ["frames", "motion", "residual", "coverage", "index", "files"])
def test_a_name_of_the_format_is_refused(own_root, flow, name):
    with pytest.raises(SettingsError, match="taken by the format"):
        add(own_root, flow, name)


def test_two_files_for_one_member_are_refused(own_root, flow, keys):
    (flow / f"{keys[-1]}.x.npy").write_text("")
    with pytest.raises(SettingsError, match="another file for the member"):
        add(own_root, flow)


@pytest.mark.parametrize("extension", ["a b", "\u00e4", "x" * 90])
def test_a_file_name_that_a_tar_cannot_hold_is_refused(own_root, flow, keys, extension):
    (flow / f"{keys[0]}.{extension}").write_text("")
    with pytest.raises(SettingsError, match="cannot become the member"):
        add(own_root, flow)


def test_a_plane_is_not_added_twice(own_root, flow):
    add(own_root, flow)
    with pytest.raises(SettingsError, match="drop it first"):
        add(own_root, flow)


@pytest.mark.parametrize("lives", range(7))
def test_an_interrupted_addition_is_seen_completed_or_dropped(
    dataset_root, own_root, flow, tmp_path, lives
):
    with pytest.raises(Killed):
        add_user_plane(DyingStorage(own_root, lives), "flow", ["train"], folder=flow)
    assert bool(faults_of(own_root)) == (lives > 0)
    other = shutil.copytree(own_root, tmp_path / "other")
    add(own_root, flow)
    assert faults_of(own_root) == []
    if lives > 0:
        drop_plane(LocalStorage(other), "flow", ["train"])
    assert hashes(other) == hashes(dataset_root)


@pytest.mark.parametrize("plane", ["flow", "residual"])
def test_an_interrupted_drop_is_seen_and_completed(own_root, flow, tmp_path, plane):
    add(own_root, flow)
    whole = shutil.copytree(own_root, tmp_path / "whole")
    drop_plane(LocalStorage(whole), plane, ["train"])
    for lives in range(100):
        root = shutil.copytree(own_root, tmp_path / str(lives))
        try:
            drop_plane(DyingStorage(root, lives), plane, ["train"])
        except Killed:
            assert bool(faults_of(root)) == (lives > 0)
            drop_plane(LocalStorage(root), plane, ["train"])
            assert hashes(root) == hashes(whole), lives
            continue
        break
    assert lives > 6


@pytest.mark.parametrize("plane", ["flow", "residual"])
def test_dropped_again_there_is_nothing_to_drop(own_root, flow, plane):
    """As a job does that was killed just after its end, and is run again."""
    add(own_root, flow)
    assert drop_plane(LocalStorage(own_root), plane, ["train"]) == 2
    before = hashes(own_root)
    assert drop_plane(LocalStorage(own_root), plane, ["train"]) == 0
    assert hashes(own_root) == before


def forget_plane(root, shard):
    """Leave a shard as one that was appended after the plane was added."""
    folder = root / "train"
    records = load_shard_files(root, "train", shard)
    names = {f"{shard}.flow.tar", f"{shard}.flow.index.npz"}
    save_shard_files(root, "train", shard, {n: r for n, r in records.items() if n not in names})
    for name in names:
        (folder / name).unlink()
    refresh_manifest(LocalStorage(root), "train")


def test_only_shards_that_lack_the_plane_get_it(own_root, flow, keys):
    add(own_root, flow)
    whole = hashes(own_root)
    forget_plane(own_root, "000001")
    done = own_root / "train" / "000000.flow.tar"
    inode = done.stat().st_ino
    added = add(own_root, flow)
    assert (added.num_shards, added.missing, added.unused) == (1, 0, ())
    assert 0 < added.num_samples < 7
    assert done.stat().st_ino == inode
    assert hashes(own_root) == whole


def test_files_of_the_new_samples_are_enough(own_root, flow, keys):
    add(own_root, flow)
    whole = hashes(own_root)
    forget_plane(own_root, "000001")
    index = load_index(LocalStorage(own_root), "train/000000.index.npz")
    old = [key.decode() for key in index.keys.tolist()]
    for key in old:
        (flow / f"{key}.flow.npy").unlink()
    added = add(own_root, flow)
    assert (added.num_samples, added.missing) == (7 - len(old), 0)
    assert hashes(own_root) == whole


def test_a_new_sample_without_a_file_is_listed(own_root, flow, keys):
    add(own_root, flow)
    forget_plane(own_root, "000001")
    index = load_index(LocalStorage(own_root), "train/000001.index.npz")
    new = [key.decode() for key in index.keys.tolist()]
    (flow / f"{new[0]}.flow.npy").unlink()
    before = hashes(own_root)
    with pytest.raises(SettingsError, match=rf"1 of {len(new)} samples.*\({new[0]}\)"):
        add(own_root, flow)
    assert hashes(own_root) == before
    assert add(own_root, flow, partial=True).missing == 1
    assert faults_of(own_root) == []


def test_an_interrupted_drop_may_be_followed_by_an_addition(own_root, flow, tmp_path):
    """Wherever it was: a shard has the plane only if its record and the manifest say so."""
    add(own_root, flow)
    whole = hashes(own_root)
    for lives in range(1, 7):
        root = shutil.copytree(own_root, tmp_path / str(lives))
        with pytest.raises(Killed):
            drop_plane(DyingStorage(root, lives), "flow", ["train"])
        add(root, flow)
        assert hashes(root) == whole, lives


@pytest.mark.parametrize("plane", ["flow", "residual"])
def test_verify_names_the_shards_that_lack_a_plane(own_root, flow, plane):
    add(own_root, flow)
    manifest = load_manifest(own_root, "train")
    shards = list(manifest.shards)
    names = {f"000001.{plane}.tar", f"000001.{plane}.index.npz"}
    left = {name: file for name, file in shards[1].files.items() if name not in names}
    shards[1] = replace(shards[1], files=left)
    save_manifest(own_root, replace(manifest, shards=tuple(shards)))
    said = [f.what for f in faults_of(own_root) if f.shard == f"000001.{plane}.tar"]
    assert any(f"other shards have the plane '{plane}'" in what for what in said)
    assert not any(
        "other shards have" in f.what for f in faults_of(own_root) if "000000" in f.shard
    )


@pytest.mark.parametrize("plane", ["frames", "motion", "coverage"])
def test_planes_of_the_main_tar_cannot_be_dropped(own_root, plane):
    with pytest.raises(SettingsError, match="main tars"):
        drop_plane(LocalStorage(own_root), plane, ["train"])


def test_a_flipped_bit_is_an_error_to_a_reader_and_a_fault(own_root, flow, keys):
    add(own_root, flow)
    path = own_root / "train" / "000000.flow.tar"
    key, offset = keys[1], path.read_bytes().index(bytes([1]) * 700)
    content = bytearray(path.read_bytes())
    content[offset + 3] ^= 8
    path.write_bytes(content)
    with pytest.raises(DamageError, match=rf"{key}\.flow\.flow\.npy"):
        UserPlane(own_root, "train", "flow").read(key)
    [fault] = faults_of(own_root)
    assert (fault.shard, fault.key) == (path.name, key)


@pytest.mark.parametrize("name", ["000001.flow.tar", "000001.flow.index.npz"])
def test_a_missing_file_of_a_plane_is_a_fault(own_root, flow, name):
    add(own_root, flow)
    (own_root / "train" / name).unlink()
    assert name in {fault.shard for fault in faults_of(own_root)}


def test_a_plane_of_another_shard_is_a_fault(own_root, flow):
    add(own_root, flow)
    for kind in ("tar", "index.npz"):
        first, second = (own_root / "train" / f"00000{n}.flow.{kind}" for n in (0, 1))
        shutil.copy(second, first)
    assert "lists a sample that the shard does not have" in str(faults_of(own_root))


def test_members_in_another_order_than_the_keys_are_a_fault(own_root, flow):
    """A reader that goes through main and side tar together would mix samples up."""
    add(own_root, flow)
    folder = own_root / "train"
    storage = LocalStorage(own_root)
    index = parse_plane_index((folder / "000000.flow.index.npz").read_bytes(), "index")
    content = (folder / "000000.flow.tar").read_bytes()
    order = np.arange(len(index.keys))[::-1]
    offsets = []
    with TarWriter(storage, "train/000000.flow.tar") as tar:
        for row in order.tolist():
            start, length = int(index.offset[row]), int(index.length[row])
            name = index.member_names("flow")[row]
            offsets.append(tar.add(name, content[start : start + length]))
        tar.publish()
    turned = select_rows(index, order).moved(np.array(offsets))
    (folder / "000000.flow.index.npz").write_bytes(plane_index_bytes(turned))
    assert "lists samples in another order" in str(faults_of(own_root))


def test_a_damaged_plane_index_is_always_a_fault_never_a_crash(own_root, flow):
    add(own_root, flow)
    whole = (own_root / "train" / "000000.flow.index.npz").read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(len(whole) - 120, len(whole)), *rng.integers(0, len(whole), 200).tolist()]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            parse_plane_index(bytes(damaged), "index")
        except FormatError:
            continue
        except Exception as error:
            pytest.fail(f"byte {place}: {type(error).__name__}: {error}")


def test_in_object_storage_it_is_the_same(own_root, flow, keys, s3):
    remote = ObjectStorage(s3.url, s3.options())
    for path in own_root.rglob("*"):
        if path.is_file():
            remote.put_file(path, path.relative_to(own_root).as_posix())
    add(own_root, flow)
    add_user_plane(remote, "flow", ["train"], folder=flow)
    for shard in load_manifest(own_root, "train").shards:
        files = load_shard_files(remote, "train", shard.name)
        assert files == shard.files
        for name in files:
            content = (own_root / "train" / name).read_bytes()
            assert remote.read(f"train/{name}") == content
    with UserPlane(remote, "train", "flow") as plane:
        assert plane.read(keys[3]) == bytes([3]) * 2100
    drop_plane(remote, "flow", ["train"])
    assert not [name for name in remote.list_names("train") if "flow" in name]
