"""Each kind of damage is a fault that names the shard, and the sample where one is hit."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest

from gopstream.shards import ShardDataset
from gopstream.shards.errors import DamageError, FormatError, ShardError
from gopstream.shards.index import load_index
from gopstream.shards.layout import dump_json
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.verify import verify_split

MEMBERS = [
    "frames.mjpeg",
    "motion.zst",
    "coverage.zst",
    "cls",
    "json",
    "residual.zst",
    "residual.json",
]


def faults_of(root, *, rebuild=False):
    return list(verify_split(root, "train", rebuild=rebuild))


def place_of(root, suffix, sample=1):
    """Return (path, key, offset, length) of a member of the first shard."""
    index = load_index(LocalStorage(root), "train/000000.index.npz")
    kind = index.member_names.tolist().index(suffix.encode())
    row = np.flatnonzero((index.member_kind == kind) & (index.member_sample == sample))[0]
    name = "000000.residual.tar" if index.member_tar[row] else "000000.tar"
    key = index.keys[sample].decode()
    offset, length = int(index.member_offset[row]), int(index.member_length[row])
    return root / "train" / name, key, offset, length


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def edit_json(path, **changes):
    path.write_bytes(dump_json(json.loads(path.read_bytes()) | changes))


def test_a_whole_dataset_has_no_faults_and_can_be_rebuilt(dataset_root):
    seen = []
    faults = verify_split(dataset_root, "train", rebuild=True, on_shard=lambda: seen.append(1))
    assert list(faults) == []
    assert len(seen) == 2


@pytest.mark.parametrize("suffix", MEMBERS)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_bit_names_shard_key_and_member(own_root, suffix, where):
    path, key, offset, length = place_of(own_root, suffix)
    flip(path, offset + {"first": 0, "middle": length // 2, "last": length - 1}[where])
    [fault] = faults_of(own_root)
    assert (fault.shard, fault.key) == (path.name, key)
    assert f"{key}.{suffix}" in fault.what


@pytest.mark.parametrize("suffix", MEMBERS)
def test_a_flipped_bit_is_an_error_to_a_reader(own_root, suffix):
    path, key, offset, length = place_of(own_root, suffix)
    flip(path, offset + length // 2)
    with pytest.raises(DamageError, match=f"{key}.*{path.name}"):
        ShardDataset(own_root, "train").read_member(1, suffix)


@pytest.mark.parametrize("suffix", ["motion.zst", "residual.zst", "json"])
@pytest.mark.parametrize("place", ["before the header", "after the header", "inside", "one byte"])
def test_a_cut_tar_names_the_first_sample_that_is_lost(own_root, suffix, place):
    path, key, offset, length = place_of(own_root, suffix)
    cut = {
        "before the header": offset - 512,
        "after the header": offset,
        "inside": offset + length // 2,
        "one byte": offset + length - 1,
    }[place]
    with path.open("r+b") as file:
        file.truncate(cut)
    fault = faults_of(own_root)[0]
    assert fault.shard == path.name
    assert fault.key == key


def test_a_cut_in_the_closing_blocks_is_a_fault(own_root):
    path = own_root / "train" / "000000.tar"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 512)
    assert [fault.shard for fault in faults_of(own_root)] == ["000000.tar"]


def test_a_member_added_to_a_tar_is_a_fault(own_root):
    path = own_root / "train" / "000000.tar"
    path.write_bytes(path.read_bytes() + path.read_bytes()[:10240])
    assert [fault.shard for fault in faults_of(own_root)] == ["000000.tar"]


@pytest.mark.parametrize(
    "name", ["000000.tar", "000000.residual.tar", "000000.index.npz", "000000.report.jsonl"]
)
def test_a_missing_file_is_named(own_root, name):
    (own_root / "train" / name).unlink()
    assert name in [fault.shard for fault in faults_of(own_root)]


def test_a_missing_plan_is_named(own_root):
    (own_root / "train" / "plan.json").unlink()
    assert [fault.shard for fault in faults_of(own_root)] == ["plan.json"]


def test_a_split_without_manifest_is_not_finished(own_root):
    (own_root / "train" / "manifest.json").unlink()
    [fault] = faults_of(own_root)
    assert fault.shard == "train"
    assert "not finished" in fault.what


def test_shards_that_changed_places_are_faults(own_root):
    folder = own_root / "train"
    shutil.move(folder / "000000.tar", folder / "x")
    shutil.move(folder / "000001.tar", folder / "000000.tar")
    shutil.move(folder / "x", folder / "000001.tar")
    assert {fault.shard for fault in faults_of(own_root)} == {"000000.tar", "000001.tar"}


def test_a_whole_shard_of_another_run_is_a_fault(own_root):
    """Index and tars agree with each other, but not with the manifest."""
    folder = own_root / "train"
    for kind in ("tar", "residual.tar", "index.npz"):
        shutil.copy(folder / f"000001.{kind}", folder / f"000000.{kind}")
    named = {fault.shard for fault in faults_of(own_root)}
    assert named & {"000000.tar", "000000.residual.tar", "000000.index.npz"}


def test_changed_settings_are_a_fault(own_root):
    path = own_root / "dataset.json"
    settings = json.loads(path.read_bytes())["settings"] | {"crf": 3}
    edit_json(path, settings=settings)
    [fault] = faults_of(own_root)
    assert "settings do not match their hash" in fault.what


def test_classes_that_are_gone_are_a_fault(own_root):
    edit_json(own_root / "dataset.json", classes=["left"])
    counts, *faults = faults_of(own_root)
    assert counts.shard == "manifest.json"
    assert "class_counts" in counts.what
    assert len(faults) == 3
    assert all("label 1 is not one of 1 classes" in fault.what for fault in faults)


def test_a_shard_that_the_manifest_forgets_is_a_fault(own_root):
    path = own_root / "train" / "manifest.json"
    edit_json(path, shards=json.loads(path.read_bytes())["shards"][:1])
    fault, *counts = faults_of(own_root)
    assert fault.shard == "000001"
    assert "does not list it" in fault.what
    assert {count.shard for count in counts} >= {"manifest.json", "samples.parquet"}


def test_a_sample_that_the_manifest_counts_twice_is_a_fault(own_root):
    path = own_root / "train" / "manifest.json"
    shards = json.loads(path.read_bytes())["shards"]
    shards[0]["num_samples"] += 1
    edit_json(path, shards=shards)
    named = {fault.shard for fault in faults_of(own_root)}
    assert named == {"000000.index.npz", "000000.report.jsonl"}


def test_a_report_that_lost_a_row_is_a_fault(own_root):
    path = own_root / "train" / "000000.report.jsonl"
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]))
    named = {fault.shard for fault in faults_of(own_root)}
    assert named == {path.name, "manifest.json", "samples.parquet"}


@pytest.mark.parametrize("name", ["num_videos", "num_failures", "split", "class_counts"])
def test_a_manifest_that_counts_otherwise_than_the_reports_is_a_fault(own_root, name):
    wrong = {"num_videos": 99, "num_failures": 99, "split": "other", "class_counts": {"left": 99}}
    edit_json(own_root / "train" / "manifest.json", **{name: wrong[name]})
    [fault] = faults_of(own_root)
    assert fault.shard == "manifest.json"
    assert fault.what.startswith(name)


@pytest.mark.parametrize("name", ["samples.parquet", "failures.jsonl"])
def test_a_missing_table_is_a_fault(own_root, name):
    (own_root / "train" / name).unlink()
    [fault] = faults_of(own_root)
    assert (fault.shard, fault.what) == (name, "is missing")


def test_files_that_the_manifest_does_not_list_are_faults(own_root):
    path = own_root / "train" / "manifest.json"
    shards = json.loads(path.read_bytes())["shards"]
    del shards[0]["files"]["000000.residual.tar"]
    edit_json(path, shards=shards)
    named = {fault.shard: fault.what for fault in faults_of(own_root)}
    assert set(named) == {"000000.residual.tar", "000000.files.json"}
    assert "000000.residual.tar" in named["000000.files.json"]


def rewrite_index(path, change):
    """Write an index again with whole checksums and other content."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def npy(shape, content, dtype="<i8"):
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + content


@pytest.mark.parametrize(
    "lie",
    [
        npy((1 << 42,), bytes(64)),
        npy((1 << 32, 1 << 32), b""),  # its product is 0 modulo 2 ** 64
        npy((8,), bytes(8)),
        npy((1,), bytes(8), dtype="|O"),
        b"\x93NUMPY\x01\x00",
        b"",
    ],
    ids=["huge", "overflow", "short", "object", "cut header", "empty"],
)
def test_an_index_with_a_lying_header_is_refused_without_allocation(own_root, lie):
    path = own_root / "train" / "000000.index.npz"
    rewrite_index(path, lambda entries: entries.update({"labels.npy": lie}))
    with pytest.raises(FormatError, match=r"000000\.index\.npz"):
        load_index(LocalStorage(path.parent), path.name)
    assert faults_of(own_root)[0].shard == path.name


def test_an_index_of_a_newer_version_is_refused(own_root):
    path = own_root / "train" / "000000.index.npz"
    newer = npy((), np.int64(2).tobytes())
    rewrite_index(path, lambda entries: entries.update({"format_version.npy": newer}))
    with pytest.raises(FormatError, match="version 2"):
        load_index(LocalStorage(path.parent), path.name)


def test_an_index_that_lacks_a_column_is_refused(own_root):
    path = own_root / "train" / "000000.index.npz"
    rewrite_index(path, lambda entries: entries.pop("motion.crc32.npy"))
    with pytest.raises(FormatError, match=r"lacks .*motion\.crc32"):
        load_index(LocalStorage(path.parent), path.name)


def test_a_damaged_index_is_always_a_fault_never_a_crash(own_root):
    path = own_root / "train" / "000000.index.npz"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    # The central directory at the end, byte by byte, and a sample of the rest.
    places = [*range(len(whole) - 160, len(whole)), *rng.integers(0, len(whole), 200).tolist()]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            load_index(LocalStorage(path.parent), path.name)
        except ShardError:
            continue
        except Exception as error:
            pytest.fail(f"byte {place}: {type(error).__name__}: {error}")
    for length in rng.integers(0, len(whole), 20).tolist():
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            load_index(LocalStorage(path.parent), path.name)


def test_without_residual_only_the_rebuild_is_refused(own_root):
    edit_json(own_root / "dataset.json", planes=["frames", "motion"])
    assert faults_of(own_root) == []
    [fault] = faults_of(own_root, rebuild=True)
    assert "no residual plane" in fault.what


def test_faults_of_one_shard_do_not_hide_those_of_another(own_root):
    for name in ("000000.tar", "000001.tar"):
        flip(own_root / "train" / name, 1024)
    assert {fault.shard for fault in faults_of(own_root)} == {"000000.tar", "000001.tar"}


def test_faults_are_plain_values(own_root):
    (own_root / "train" / "000000.tar").unlink()
    assert json.dumps([fault._asdict() for fault in faults_of(own_root)])


def drop_residual(folder, manifest):
    del manifest["shards"][0]["files"]["000000.residual.tar"]
    (folder / "000000.residual.tar").unlink()


def list_twice(folder, manifest):
    manifest["shards"] *= 2


def count_in_words(folder, manifest):
    manifest["shards"][0]["num_samples"] = "three"


def report_lists(folder, manifest):
    (folder / "000000.report.jsonl").write_bytes(b"[]\n[]\n")


def plan_a_number(folder, manifest):
    shards = [{"name": "000000", "videos": 5}, {"name": "000001", "videos": 5}]
    edit_json(folder / "plan.json", shards=shards)


@pytest.mark.parametrize(
    "damage", [drop_residual, list_twice, count_in_words, report_lists, plan_a_number]
)
def test_files_that_contradict_each_other_are_faults_never_a_crash(own_root, damage):
    folder = own_root / "train"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    damage(folder, manifest)
    (folder / "manifest.json").write_bytes(dump_json(manifest))
    assert faults_of(own_root, rebuild=True)
