"""What every storage of a dataset must do, on a disk and on an S3 server alike."""

import errno
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from gopstream.pipeline.errors import StoreError
from gopstream.shards import ShardDataset
from gopstream.shards.dataset_files import (
    DatasetFacts,
    FileRecord,
    check_same_dataset,
    load_dataset,
    load_manifest,
    load_shard_files,
    save_dataset,
    save_shard_files,
)
from gopstream.shards.errors import FormatError, SettingsError, ShardError
from gopstream.shards.storage import LocalStorage, as_storage, open_storage


@pytest.fixture(params=["disk", "s3"])
def storage(request, tmp_path):
    if request.param == "disk":
        return open_storage(tmp_path / "set")
    s3 = request.getfixturevalue("s3")
    return open_storage(f"{s3.url}/some folder/set", s3.options())


def test_what_is_written_can_be_read(storage):
    storage.write("train/plan.json", b"{}")
    assert storage.read("train/plan.json") == b"{}"
    assert storage.exists("train/plan.json")
    assert storage.size("train/plan.json") == 2
    storage.write("train/plan.json", b"{1}")
    assert storage.read("train/plan.json") == b"{1}"


def test_what_is_absent_is_a_file_not_found(storage):
    assert not storage.exists("train/plan.json")
    for ask in (storage.read, storage.size):
        with pytest.raises(FileNotFoundError, match=r"train/plan\.json"):
            ask("train/plan.json")
    with (
        pytest.raises(FileNotFoundError, match=r"train/plan\.json"),
        storage.local_copy("train/plan.json"),
    ):
        pass


def test_deleting_twice_is_fine(storage):
    storage.write("a.json", b"1")
    storage.delete("a.json")
    storage.delete("a.json")
    assert not storage.exists("a.json")


def test_listings_have_the_names_in_a_folder_alone(storage):
    for name in ("dataset.json", "train/b.tar", "train/a.tar", "train2/c.tar", "val/deep/d.tar"):
        storage.write(name, b"1")
    assert storage.list_names("train") == ["a.tar", "b.tar"]
    assert storage.list_names("val") == []
    assert storage.list_names("nothing") == []
    assert storage.list_names("") == ["dataset.json"]
    assert storage.list_folders() == ["train", "train2", "val"]


def test_a_place_that_does_not_exist_yet_is_empty(storage):
    assert storage.list_folders() == []
    assert storage.list_names("") == []


@pytest.mark.parametrize("name", ["../a", "/etc/a", "train/../../a", "", "a//b", "./a", "a\0b"])
def test_a_name_cannot_lead_out(storage, name):
    for use in (storage.read, storage.delete, storage.create, storage.exists):
        with pytest.raises(FormatError, match="not the name of a file"):
            use(name)


def test_what_is_too_large_for_memory_is_refused(storage, monkeypatch):
    monkeypatch.setattr("gopstream.shards.layout.MAX_READ_BYTES", 10)
    storage.write("a", b"1" * 11)
    with pytest.raises(FormatError, match="11 bytes are too many"):
        storage.read("a")


def test_nothing_is_visible_before_publish(storage):
    with storage.create("train/000000.tar") as writer:
        writer.write(b"abc")
        writer.mark()
        writer.write(b"def")
        assert storage.list_names("train") == []
        assert not storage.exists("train/000000.tar")
        writer.publish()
        assert storage.read("train/000000.tar") == b"abcdef"
    assert storage.read("train/000000.tar") == b"abcdef"


def test_what_is_not_published_is_dropped_and_the_old_stays(storage):
    storage.write("a", b"old")
    with storage.create("a") as writer:
        writer.write(b"new")
        writer.mark()
    assert storage.read("a") == b"old"
    assert storage.list_names("") == ["a"]


def test_rewinding_drops_what_came_since_the_mark(storage):
    with storage.create("a") as writer:
        writer.write(b"one ")
        mark = writer.mark()
        writer.write(b"bad")
        writer.rewind(mark)
        writer.write(b"two ")
        mark = writer.mark()
        writer.write(b"worse and longer")
        writer.rewind(mark)
        writer.rewind(mark)
        writer.write(b"three")
        writer.publish()
    assert storage.read("a") == b"one two three"


def test_an_empty_object_can_be_published(storage):
    with storage.create("a") as writer:
        writer.publish()
    assert storage.read("a") == b""


def test_a_local_copy_has_the_bytes(storage):
    storage.write("train/a.parquet", b"12345")
    with storage.local_copy("train/a.parquet") as path:
        assert path.read_bytes() == b"12345"
        assert path.name == "a.parquet"
    assert path.exists() == (storage.local_root is not None)


def test_a_local_file_can_be_put_there(storage, tmp_path):
    path = tmp_path / "made"
    path.write_bytes(b"x" * 20_000_000)
    storage.put_file(path, "train/samples.parquet")
    assert storage.read("train/samples.parquet") == path.read_bytes()


def test_a_storage_travels_to_other_processes(storage):
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


def test_places_are_told_apart(tmp_path, s3):
    assert open_storage(tmp_path).local_root == tmp_path
    assert open_storage(str(tmp_path)).local_root == tmp_path
    assert open_storage(tmp_path.as_uri()).local_root == tmp_path
    remote = open_storage(f"{s3.url}/set/", s3.options())
    assert (remote.local_root, remote.url) == (None, f"{s3.url}/set")
    assert as_storage(remote) is remote


def test_a_dataset_cannot_be_written_to_a_web_server():
    with pytest.raises(StoreError, match="a dataset on a web server can only be read"):
        open_storage("https://example.org/set").write("dataset.json", b"{}")


def test_temporary_names_are_never_shared(tmp_path):
    storage = LocalStorage(tmp_path)
    with storage.create("a") as one, storage.create("a") as two:
        assert len(list(tmp_path.iterdir())) == 2
        one.write(b"one")
        two.write(b"two")
        one.publish()
        two.publish()
    assert storage.read("a") == b"two"


KILLED = """
import os, signal, sys
from pathlib import Path
from gopstream.shards.storage import LocalStorage
writer = LocalStorage(Path(sys.argv[1])).create("train/000000.tar")
writer.write(b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_a_killed_writer_are_removed_by_the_next_process(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    left = list((tmp_path / "train").iterdir())
    assert len(left) == 1 and left[0].name.endswith(".partial")
    storage = LocalStorage(tmp_path)
    assert storage.list_names("train") == []
    with storage.create("train/000001.tar"):
        assert not left[0].exists()


def test_published_files_have_the_usual_rights(tmp_path):
    LocalStorage(tmp_path).write("a", b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_dataset_in_a_bucket_is_read_like_a_local_one(s3, dataset_root):
    storage = open_storage(f"{s3.url}/set", s3.options())
    for path in dataset_root.rglob("*"):
        if path.is_file():
            storage.put_file(path, path.relative_to(dataset_root).as_posix())
    local, remote = ShardDataset(dataset_root, "train"), ShardDataset(storage, "train")
    assert remote.keys == local.keys
    assert remote.facts == local.facts
    assert remote.manifest == local.manifest
    assert (remote.labels == local.labels).all()
    assert load_manifest(storage, "train") == load_manifest(str(dataset_root), "train")
    assert remote.read_json(0) == local.read_json(0)


def test_what_is_no_dataset_is_named_alike(storage):
    with pytest.raises(ShardError, match=r"not a dataset \(there is no dataset\.json\)"):
        load_dataset(storage)
    save_dataset(storage, DatasetFacts(("a",), ("motion",), {"x": 1}, {"verb": ("cut", "mix")}))
    assert load_dataset(storage).label_sets == {"verb": ("cut", "mix")}
    with pytest.raises(ShardError, match="no split 'train'; there is none"):
        load_manifest(storage, "train")
    storage.write("train/plan.json", b"{}")
    with pytest.raises(ShardError, match=r"train: not finished \(there is no manifest\.json\)"):
        load_manifest(storage, "train")
    with pytest.raises(ShardError, match="no split 'val'; there is train"):
        load_manifest(storage, "val")
    storage.write("train/manifest.json", b"[]")
    with pytest.raises(FormatError, match=r"train/manifest\.json: expected a JSON object"):
        load_manifest(storage, "train")


def test_other_names_behind_labels_are_refused(storage):
    facts = DatasetFacts(("a",), ("motion",), {"x": 1}, {"verb": ("cut", "mix")})
    save_dataset(storage, facts)
    check_same_dataset(storage, facts)
    with pytest.raises(SettingsError, match="other names behind the labels 'verb'"):
        check_same_dataset(storage, replace(facts, label_sets={"verb": ("mix", "cut")}))


def test_a_shard_without_a_record_of_its_files_is_told_from_a_damaged_one(storage):
    with pytest.raises(FileNotFoundError):
        load_shard_files(storage, "train", "000000")
    files = {"000000.tar": FileRecord(3, "abc")}
    save_shard_files(storage, "train", "000000", files)
    assert load_shard_files(storage, "train", "000000") == files
    storage.write("train/000000.files.json", b'{"files":{"a":{}}}')
    with pytest.raises(FormatError, match=r"000000\.files\.json: not the files of a shard"):
        load_shard_files(storage, "train", "000000")


def test_marks_may_come_after_less_and_less(storage):
    with storage.create("a") as writer:
        for text in (b"a long one ", b"shorter ", b"", b"s"):
            writer.write(text)
            writer.mark()
        writer.publish()
    assert storage.read("a") == b"a long one shorter s"


TOO_LARGE = """
import resource, signal, sys
from pathlib import Path
from gopstream.shards.storage import LocalStorage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    LocalStorage(Path(sys.argv[1])).write("a", bytes(20_000))
except OSError as error:
    print(error.errno)
"""


def test_a_disk_that_takes_only_a_part_is_an_error(tmp_path):
    """A limit on files' sizes stands in for the disk: the first write is short, not refused."""
    command = [sys.executable, "-c", TOO_LARGE, tmp_path]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.split() == [str(errno.EFBIG)]
    assert list(tmp_path.iterdir()) == []
