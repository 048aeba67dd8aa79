"""The lean reading of a manifest keeps what the whole one says, and refuses what that refuses."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.shards.dataset_files import (
    FileRecord,
    Manifest,
    ShardRecord,
    load_manifest,
    save_manifest,
)
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.shard_table import _manifest_items, read_shard_table


def test_it_says_what_the_manifest_says(dataset_root):
    storage = LocalStorage(dataset_root)
    manifest = load_manifest(storage, "train")
    table = read_shard_table(storage, "train", files=("tar", "index.npz", "flow.tar"))
    assert table.split == "train"
    assert [name.decode() for name in table.names] == [shard.name for shard in manifest.shards]
    assert table.counts.tolist() == [shard.num_samples for shard in manifest.shards]
    assert table.num_samples == manifest.num_samples == table.starts[-1]
    assert table.class_counts == manifest.class_counts
    for kind in ("tar", "index.npz"):
        column = table.files[kind]
        records = [shard.files[f"{shard.name}.{kind}"] for shard in manifest.shards]
        assert column.num_bytes.tolist() == [record.num_bytes for record in records]
        assert [text.decode() for text in column.sha256] == [record.sha256 for record in records]
    assert table.files["flow.tar"].num_bytes.tolist() == [-1, -1]
    assert table.files["flow.tar"].sha256.tolist() == [b"", b""]
    assert read_shard_table(storage, "train").files == {}


def test_some_shards(dataset_root):
    table = read_shard_table(LocalStorage(dataset_root), "train", files=("tar",))
    part = table.only(["000001"])
    assert part.names.tolist() == [b"000001"]
    assert part.counts.tolist() == table.counts[1:].tolist()
    assert part.files["tar"].num_bytes.tolist() == table.files["tar"].num_bytes[1:].tolist()
    assert table.only(["000001", "000000"]).names.tolist() == [b"000000", b"000001"]
    assert table.only([]).num_samples == 0
    with pytest.raises(ShardError, match="'train' has no shard 000007"):
        table.only(["000000", "000007"])


@pytest.mark.parametrize("indent", [None, 1])
def test_the_layout_of_the_json_does_not_matter(own_root, indent):
    path = own_root / "train" / "manifest.json"
    before = read_shard_table(LocalStorage(own_root), "train")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items())), indent=indent) + "\n")
    after = read_shard_table(LocalStorage(own_root), "train")
    assert after.names.tolist() == before.names.tolist()
    assert after.counts.tolist() == before.counts.tolist()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content | {"format": 2}, "format version 2; .*install a newer"),
        (lambda content: content | {"shards": [{"name": "../etc"}]}, "six digits|not a manifest"),
        (lambda content: content | {"shards": 3}, "not a manifest"),
        (lambda content: content | {"shards": [3]}, "not a manifest"),
        (lambda content: {k: v for k, v in content.items() if k != "class_counts"}, "class_counts"),
        (
            lambda content: content | {"shards": [content["shards"][0] | {"num_samples": -1}]},
            "-1 samples",
        ),
        (lambda content: [content], "JSON object"),
    ],
)
def test_another_manifest_is_refused(own_root, change, problem):
    path = own_root / "train" / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(FormatError, match=problem):
        read_shard_table(LocalStorage(own_root), "train")


def test_a_cut_manifest_is_refused_wherever_it_is_cut(own_root):
    path = own_root / "train" / "manifest.json"
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(FormatError, match=r"manifest\.json: not valid JSON"):
            read_shard_table(LocalStorage(own_root), "train")
    path.write_bytes(content + b"{}")
    with pytest.raises(FormatError, match=r"manifest\.json: not valid JSON"):
        read_shard_table(LocalStorage(own_root), "train")


def test_a_missing_manifest_is_named(own_root):
    with pytest.raises(ShardError, match="no split 'test'; there is"):
        read_shard_table(LocalStorage(own_root), "test")
    (own_root / "train" / "manifest.json").unlink()
    with pytest.raises(ShardError, match="not finished"):
        read_shard_table(LocalStorage(own_root), "train")


def test_little_memory_is_kept(tmp_path):
    storage = LocalStorage(tmp_path)
    record = FileRecord(10**9, "f" * 64)
    names = [f"{number:06d}" for number in range(3000)]
    kinds = ("tar", "residual.tar", "index.npz")
    shards = [ShardRecord(n, 167, {f"{n}.{kind}": record for kind in kinds}) for n in names]
    save_manifest(storage, Manifest("train", tuple(shards), {"a": 3000 * 167}, 3000 * 167, 0))
    size = (tmp_path / "train" / "manifest.json").stat().st_size
    tracemalloc.start()
    table = read_shard_table(storage, "train", files=("tar",))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table.num_samples == 3000 * 167
    assert kept < 0.5 * size
    assert peak < 4 * size


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    rest=st.dictionaries(st.text().filter(lambda key: key != "shards"), VALUES),
    shards=st.lists(VALUES),
    indent=st.sampled_from([None, 2]),
)
def test_items_are_those_of_the_json(rest, shards, indent):
    text = json.dumps(rest | {"shards": shards}, indent=indent)
    items = list(_manifest_items(text))
    assert {key: value for key, value in items if key != "shards"} == rest
    assert [value for key, value in items if key == "shards"] == shards
    assert np.all([key == "shards" for key, _ in items[len(rest) :]])
