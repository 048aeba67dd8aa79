"""A lazily opened index says what the thorough reader says, or refuses; and few stay open."""

import hashlib
import json
import multiprocessing
import pickle
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from gopstream.shards import shard_indexes
from gopstream.shards.array_views import view_arrays
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.dataset_files import load_manifest
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.errors import DamageError, FormatError
from gopstream.shards.index import PIECE_PLANES, PieceTable, ShardIndex, index_bytes, load_index
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.shard_indexes import INDEX_KIND, ShardIndexes
from gopstream.shards.shard_table import read_shard_table

GOLDEN = Path(__file__).parents[1] / "data" / "golden_shard"


def open_indexes(root, **options):
    storage = LocalStorage(root) if isinstance(root, Path) else root
    table = read_shard_table(storage, "train", files=[INDEX_KIND])
    ranges = open_ranges(storage, files={}, options=ReadOptions(cache=None))
    return ShardIndexes(storage, table, ranges=ranges, **options)


def write_index(root, content, *, name="000000"):
    """Write an index as one that the manifest names: what it says is then checked by itself."""
    path = root / "train" / f"{name}.index.npz"
    path.write_bytes(content)
    manifest = root / "train" / "manifest.json"
    held = json.loads(manifest.read_text())
    (shard,) = (shard for shard in held["shards"] if shard["name"] == name)
    shard["files"][path.name] = {
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    manifest.write_text(json.dumps(held))


def arrays_of(index):
    found = {}
    for field in fields(ShardIndex):
        value = getattr(index, field.name)
        if isinstance(value, PieceTable):
            found |= {f"{field.name}.{c.name}": getattr(value, c.name) for c in fields(PieceTable)}
        else:
            found[field.name] = value
    return found


def assert_same(one, other):
    first, second = arrays_of(one), arrays_of(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture
def no_thorough_reader(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the thorough reader was needed")

    monkeypatch.setattr(shard_indexes, "parse_index", refuse)


def test_an_index_is_that_of_the_thorough_reader(dataset_root, no_thorough_reader):
    indexes = open_indexes(dataset_root)
    assert len(indexes) == 2
    for number in range(2):
        name = f"train/{number:06d}.index.npz"
        assert_same(indexes[number], load_index(LocalStorage(dataset_root), name))


def test_arrays_are_mapped_and_cannot_be_written(dataset_root):
    index = open_indexes(dataset_root)[0]
    assert not index.labels.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        index.labels[0] = 1


def test_an_index_from_before_frame_flags_is_read_by_the_thorough_reader(own_root):
    path = own_root / "train" / "000000.index.npz"
    early = own_root / "early.npz"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(early, "w") as new:
        for entry in old.infolist():
            if entry.filename != "frame_flags.npy":
                new.writestr(entry, old.read(entry))
    write_index(own_root, early.read_bytes())
    wanted = load_index(LocalStorage(own_root), "train/000000.index.npz")
    assert_same(open_indexes(own_root)[0], wanted)


def test_samples_are_found_by_position(dataset_root):
    indexes = open_indexes(dataset_root)
    counts = [shard.num_samples for shard in load_manifest(dataset_root, "train").shards]
    shards = [indexes.shard_of(position) for position in range(sum(counts))]
    assert shards == [0] * counts[0] + [1] * counts[1]
    assert indexes.starts.tolist() == [0, counts[0], sum(counts)]


def test_all_labels_and_keys(dataset_root):
    indexes = open_indexes(dataset_root)
    stored = [load_index(LocalStorage(dataset_root), f"train/{n:06d}.index.npz") for n in range(2)]
    assert indexes.labels().tolist() == [label for index in stored for label in index.labels]
    assert list(indexes.keys()) == [key.decode() for index in stored for key in index.keys]
    assert not indexes._open


@pytest.mark.parametrize("name", ["labels", "keys"])
def test_all_labels_and_keys_are_checked(own_root, name):
    path = own_root / "train" / "000000.index.npz"
    content = bytearray(path.read_bytes())
    index = load_index(LocalStorage(own_root), "train/000000.index.npz")
    content[content.index(getattr(index, name).tobytes())] ^= 1
    write_index(own_root, bytes(content))
    with pytest.raises(FormatError, match=r"000000\.index\.npz: not a whole file"):
        list(getattr(open_indexes(own_root), name)())


@pytest.fixture
def many_root(tmp_path):
    """Ten shards of the golden one's index, with labels that tell them apart."""
    index = load_index(LocalStorage(GOLDEN), "train/000000.index.npz")
    (tmp_path / "train").mkdir()
    manifest = json.loads((GOLDEN / "train" / "manifest.json").read_text())
    (shard,) = manifest["shards"]
    manifest["shards"] = [shard | {"name": f"{n:06d}", "files": {}} for n in range(10)]
    (tmp_path / "train" / "manifest.json").write_text(json.dumps(manifest))
    for number in range(10):
        changed = replace(index, labels=np.full_like(index.labels, number))
        write_index(tmp_path, index_bytes(changed), name=f"{number:06d}")
    return tmp_path


def test_the_latest_stay_open(many_root):
    indexes = open_indexes(many_root, max_open=3)
    held = [indexes[number] for number in (0, 1, 2)]
    assert indexes[0] is held[0]
    assert indexes[3].labels[0] == 3
    assert list(indexes._open) == [2, 0, 3]
    assert indexes[1] is not held[1]
    assert held[1].labels[0] == 1  # whoever holds one keeps it


def test_open_ones_are_bounded_in_bytes(many_root):
    size = (many_root / "train" / "000000.index.npz").stat().st_size
    indexes = open_indexes(many_root, max_bytes=2 * size)
    for number in range(10):
        assert indexes[number].labels[0] == number
        assert indexes._open_bytes == size * len(indexes._open) <= 2 * size
    small = open_indexes(many_root, max_bytes=1)
    assert [small[number].labels[0] for number in range(10)] == list(range(10))
    assert len(small._open) == 1


def test_pickles_without_what_is_open(many_root):
    indexes = open_indexes(many_root)
    assert indexes[4].labels[0] == 4
    copy = pickle.loads(pickle.dumps(indexes))
    assert len(pickle.dumps(indexes)) < 2000
    assert not copy._open and indexes._open
    assert copy[4].labels[0] == 4


def _read_in_child(indexes, queue):
    queue.put([int(indexes[number].labels[0]) for number in range(10)])


def test_a_fork_reads_on(many_root):
    indexes = open_indexes(many_root, max_open=2)
    assert indexes[9].labels[0] == 9
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_read_in_child, args=(indexes, queue))
    process.start()
    assert queue.get(timeout=30) == list(range(10))
    process.join()
    assert [indexes[number].labels[0] for number in range(10)] == list(range(10))


def test_from_object_storage(s3, dataset_root):
    storage = ObjectStorage(s3.url, s3.options())
    for path in sorted((dataset_root / "train").iterdir()):
        if path.name.endswith((".npz", ".json")):
            storage.write(f"train/{path.name}", path.read_bytes())
    remote, local = open_indexes(storage), open_indexes(dataset_root)
    for number in range(2):
        assert_same(remote[number], local[number])


def test_a_missing_index_is_named(own_root):
    (own_root / "train" / "000001.index.npz").unlink()
    indexes = open_indexes(own_root)
    assert len(indexes[0].keys)
    with pytest.raises(
        DamageError, match=r"train/000001\.index\.npz: the shard's index is missing"
    ):
        indexes[1]


def test_an_index_of_another_shard_is_refused(own_root):
    write_index(own_root, (own_root / "train/000000.index.npz").read_bytes(), name="000001")
    with pytest.raises(DamageError, match=r"lists \d samples, manifest\.json says \d"):
        open_indexes(own_root)[1]


@pytest.mark.parametrize("length", [1, 100, -200, -23, -1])
def test_a_cut_index_is_refused(own_root, length):
    path = own_root / "train" / "000000.index.npz"
    content = path.read_bytes()
    write_index(own_root, content[:length])
    assert view_arrays(content[:length], is_checked=lambda name: False) is None
    with pytest.raises(FormatError, match=r"000000\.index\.npz: not a whole file"):
        open_indexes(own_root)[0]


PROVEN = [f"{plane}.{column}" for plane in PIECE_PLANES for column in ("offset", "length", "crc32")]
PROVEN += ["member_offset", "member_length", "member_crc32"]


def test_every_flipped_byte_is_refused_or_proven_by_its_use(own_root):
    """Headers, names, directory, arrays: what is given is right, but for what data proves."""
    path = own_root / "train" / "000000.index.npz"
    content = path.read_bytes()
    wanted = arrays_of(load_index(LocalStorage(own_root), "train/000000.index.npz"))
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.choice(len(content), 400, replace=False).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(8))
        write_index(own_root, bytes(changed))
        try:
            found = arrays_of(open_indexes(own_root)[0])
        except (FormatError, DamageError):
            refused += 1
            continue
        for name, array in wanted.items():
            if name not in PROVEN:
                assert found[name].dtype == array.dtype
                np.testing.assert_array_equal(found[name], array, err_msg=f"{name}, byte {place}")
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda array: array[:-1]),
        ("frame_size", lambda array: array[:, :1]),
        ("frame_flags", lambda array: array[:-1]),
        ("member_kind", lambda array: array[:-1]),
        ("motion.start", lambda array: array[::-1].copy()),
        ("motion.start", lambda array: array + 1),
        ("motion.start", lambda array: array[:-1]),
        ("motion.start", lambda array: array[[0, *range(len(array) - 2, 0, -1), -1]]),
        ("motion.start", lambda array: array * 2),
        ("motion.offset", lambda array: array[:-1]),
        ("frames.first_frame", lambda array: array[1:]),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(own_root, name, change):
    storage = LocalStorage(own_root)
    index = load_index(storage, "train/000000.index.npz")
    plane, _, column = name.rpartition(".")
    if plane:
        table = getattr(index, plane)
        index = replace(
            index, **{plane: replace(table, **{column: change(getattr(table, column))})}
        )
    else:
        index = replace(index, **{name: change(getattr(index, name))})
    write_index(own_root, index_bytes(index))
    with pytest.raises(FormatError, match=f"{plane or name}.*(shape|fit together)"):
        open_indexes(own_root)[0]


def test_a_newer_index_is_refused(own_root):
    path = own_root / "train" / "000000.index.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **(arrays | {"format_version": np.array(2)}))
    write_index(own_root, path.read_bytes())
    with pytest.raises(FormatError, match="format version 2"):
        open_indexes(own_root)[0]


def forged(path, *, size, shape):
    """Return a file of one array of ten bytes whose directory and header claim something else."""
    np.savez(path, a=np.arange(10, dtype=np.uint8))
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    stored = int.from_bytes(content[directory + 24 : directory + 28], "little")
    for place in (directory + 20, directory + 24):
        content[place : place + 4] = (stored + size - 10).to_bytes(4, "little")
    return bytes(content.replace(b"(10,)", shape))


def test_sizes_that_lead_elsewhere_are_refused(tmp_path):
    def is_read(**claims):
        content = forged(tmp_path / "a.npz", **claims)
        return view_arrays(content, is_checked=lambda name: False) is not None

    assert is_read(size=10, shape=b"(10,)")
    assert not is_read(size=20, shape=b"(20,)")  # into the directory
    assert not is_read(size=10**6, shape=b"(10,)")  # out of the file
    assert not is_read(size=10, shape=b"(00,)")
    assert not is_read(size=10, shape=b"(09,)")
    assert not is_read(size=9, shape=b"(10,)")


def test_arrays_written_otherwise_are_left_to_the_thorough_reader(tmp_path):
    path = tmp_path / "a.npz"
    plain = {
        "one": np.arange(5),
        "none": np.zeros((0, 3)),
        "scalar": np.array(2),
        "s": np.array(b"x"),
    }
    np.savez(path, **plain)
    views = view_arrays(path.read_bytes(), is_checked=lambda name: True)
    assert views.keys() == plain.keys()
    for name, array in plain.items():
        np.testing.assert_array_equal(views[name], array)
        assert views[name].shape == array.shape
    odd = {
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "objects": np.array([{}], object),
        "records": np.zeros(2, [("a", "<i4")]),
        "big": np.arange(3, dtype=">i4"),
        "text": np.array(["a"]),
    }
    for name, array in odd.items():
        np.savez(path, allow_pickle=True, **{name: array})
        assert view_arrays(path.read_bytes(), is_checked=lambda name: False) is None
    np.savez_compressed(path, **plain)
    assert view_arrays(path.read_bytes(), is_checked=lambda name: False) is None
