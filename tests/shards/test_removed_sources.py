"""The names of removed videos: kept once, refused when they are not what they should be."""

import pytest

from gopstream.shards.errors import FormatError
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.removed_sources import add_removed_sources, removed_sources
from gopstream.shards.verify import verify_split


@pytest.fixture
def storage(tmp_path):
    (tmp_path / "train").mkdir()
    return LocalStorage(tmp_path)


def test_at_first_there_are_none(storage):
    assert removed_sources(storage, "train") == frozenset()
    add_removed_sources(storage, "train", set())
    assert storage.list_names("train") == []


def test_names_are_added_sorted_and_once(storage):
    add_removed_sources(storage, "train", {"b.mp4", "a\u00e4.mp4"})
    add_removed_sources(storage, "train", {"b.mp4", "a.mp4"})
    assert removed_sources(storage, "train") == {"a.mp4", "a\u00e4.mp4", "b.mp4"}
    content = storage.read("train/removed.json")
    assert content == b'{"format":1,"sources":["a.mp4","a\\u00e4.mp4","b.mp4"]}'


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"format":1}', b'{"format":1,"sources":[3]}', b'{"format":2}']
)
def test_a_damaged_file_is_named(storage, content):
    storage.write("train/removed.json", content)
    with pytest.raises(FormatError, match=r"train/removed\.json"):
        removed_sources(storage, "train")


def test_verify_names_a_damaged_file(own_root):
    (own_root / "train" / "removed.json").write_bytes(b"{}")
    [fault] = verify_split(own_root, "train")
    assert fault.shard == "removed.json"


def test_a_removed_video_that_is_there_is_a_fault(own_root):
    add_removed_sources(LocalStorage(own_root), "train", {"elsewhere.mp4"})
    assert list(verify_split(own_root, "train")) == []
    add_removed_sources(LocalStorage(own_root), "train", {"left/0.mp4"})
    [fault] = verify_split(own_root, "train")
    assert fault.shard.endswith(".report.jsonl")
    assert "left/0.mp4 is there, but removed.json lists it" in fault.what
