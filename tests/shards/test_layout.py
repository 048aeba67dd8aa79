import json

import pytest

from gopstream.shards import ShardDataset
from gopstream.shards.dataset_files import load_json
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.layout import (
    check_shard_name,
    check_split_name,
    dump_json,
    index_name,
    report_name,
    sample_key,
    shard_name,
    tar_name,
    write_atomic,
)
from gopstream.shards.storage import open_storage


def test_names_of_a_shard():
    assert shard_name(12) == "000012"
    assert tar_name("000012") == "000012.tar"
    assert tar_name("000012", "residual") == "000012.residual.tar"
    assert index_name("000012") == "000012.index.npz"
    assert report_name("000012") == "000012.report.jsonl"


def test_keys_name_split_video_and_segment():
    assert sample_key("train", 1234, None) == "train-00001234"
    assert sample_key("val", 7, 3) == "val-00000007-0003"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "12345",
        "1234567",
        "../../a",
        "00000a",
        "\u0660\u0660\u0660\u0660\u0660\u0660",
        "000000\n",
    ],
)
def test_a_shards_name_cannot_lead_elsewhere(name):
    with pytest.raises(FormatError, match="six digits"):
        check_shard_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a.b", "\u00e4", "a" * 65, "a b", "train\n"]
)
def test_a_splits_name_cannot_lead_elsewhere(name):
    with pytest.raises(FormatError, match="split's name"):
        check_split_name(name)


@pytest.mark.parametrize("name", ["train", "val_2", "a-b", "T" * 64])
def test_usual_names_of_splits_are_accepted(name):
    assert check_split_name(name) == name


def test_json_does_not_depend_on_the_order_of_keys():
    dumped = dump_json({"b": [1, 2.5, None], "a": {"d": "\u00fc", "c": True}})
    assert dumped == b'{"a":{"c":true,"d":"\\u00fc"},"b":[1,2.5,null]}'
    assert dump_json(json.loads(dumped)) == dumped


def test_json_has_no_nan():
    with pytest.raises(ValueError):
        dump_json({"fps": float("nan")})


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_what_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"plan\.json"):
        load_json(open_storage(tmp_path), "plan.json")


def test_an_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
    for content in (b"first", b"second"):
        write_atomic(tmp_path / "a.json", content)
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.json", content)]


@pytest.mark.parametrize("name", ["dataset.json", "train/manifest.json"])
@pytest.mark.parametrize("version", [2, None, "1"])
def test_another_format_version_is_refused_with_a_message(own_root, name, version):
    path = own_root / name
    path.write_bytes(dump_json(json.loads(path.read_bytes()) | {"format": version}))
    with pytest.raises(
        FormatError, match=rf"format version {version!r}; this gopstream reads"
    ) as e:
        ShardDataset(own_root, "train")
    assert ("install a newer one" in str(e.value)) == (version == 2)


@pytest.mark.parametrize("name", ["dataset.json", "train/manifest.json"])
def test_every_field_of_a_dataset_file_is_needed(own_root, name):
    path = own_root / name
    whole = json.loads(path.read_bytes())
    for field in whole:
        path.write_bytes(dump_json({key: value for key, value in whole.items() if key != field}))
        with pytest.raises(ShardError):
            _ = ShardDataset(own_root, "train").manifest
