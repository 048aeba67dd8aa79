"""Indexes of a remote dataset: fetched together, within bounds, each with its own errors.

And wherever a dataset lies, an index that is not the manifest's is refused: its shard was replaced.
"""

import multiprocessing
import os
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.dataset_files import FileRecord, Manifest, ShardRecord, save_manifest
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.errors import DamageError, FormatError
from gopstream.shards.index import index_bytes, load_index
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.shard_indexes import INDEX_KIND, ShardIndexes
from gopstream.shards.shard_table import read_shard_table

GOLDEN = Path(__file__).parents[1] / "data" / "golden_shard"
NUM_SHARDS = 12


def content_of(number):
    """The golden shard's index, with labels that tell one shard from another."""
    index = load_index(LocalStorage(GOLDEN), "train/000000.index.npz")
    return index_bytes(replace(index, labels=np.full_like(index.labels, number)))


def name_of(number):
    return f"train/{number:06d}.index.npz"


def write_split(storage, records=None):
    """Indexes that the manifest knows; of other files there are none."""
    shards = []
    for number in range(NUM_SHARDS):
        content = content_of(number)
        storage.write(name_of(number), content)
        files = {name_of(number).removeprefix("train/"): FileRecord.of(content)}
        shards.append(ShardRecord(f"{number:06d}", 2, files if records is None else records))
    save_manifest(storage, Manifest("train", tuple(shards), {}, 0, 0))


@pytest.fixture
def remote(s3):
    storage = ObjectStorage(f"{s3.url}/set", s3.options())
    write_split(storage)
    s3.proxy.requests.clear()
    return storage


@pytest.fixture
def local(tmp_path):
    (tmp_path / "train").mkdir()
    write_split(LocalStorage(tmp_path))
    return LocalStorage(tmp_path)


def open_indexes(storage, **options):
    table = read_shard_table(storage, "train", files=[INDEX_KIND])
    ranges = open_ranges(storage, files={}, options=ReadOptions(cache=None))
    return ShardIndexes(storage, table, ranges=ranges, **options)


def asked(s3):
    """How often each index was asked for."""
    names = (request.target.rpartition("/set/")[2] for request in list(s3.proxy.requests))
    return Counter(name for name in names if name.endswith(".npz"))


def labels_of(indexes, shards):
    return [int(indexes[shard].labels[0]) for shard in shards]


def test_those_of_a_batch_are_on_their_way_at_the_same_time(s3, remote):
    """The server answers none before it has seen all: one after another would never end."""
    together = threading.Barrier(NUM_SHARDS)

    def wait_for_the_others(request):
        if request.target.endswith(".npz"):
            together.wait(timeout=60)

    indexes = open_indexes(remote)
    s3.proxy.before = wait_for_the_others
    order = [7, *range(6), 6, *range(8, NUM_SHARDS)]
    indexes.prefetch(order)
    assert labels_of(indexes, order) == order
    assert not together.broken
    assert asked(s3) == {name_of(number): 1 for number in range(NUM_SHARDS)}


def test_their_bytes_are_those_from_disk(remote, local):
    indexes, wanted = open_indexes(remote), open_indexes(local)
    indexes.prefetch(range(NUM_SHARDS))
    for number in range(NUM_SHARDS):
        assert index_bytes(indexes[number]) == index_bytes(wanted[number])


def test_their_requests_are_counted(remote):
    indexes = open_indexes(remote)
    counters = indexes._ranges.counters
    indexes.prefetch([1, 2, 1])
    labels_of(indexes, [1, 2, 1, 4])
    assert counters.requests == 3
    assert counters.bytes_read == sum(len(content_of(number)) for number in (1, 2, 4))


@pytest.mark.parametrize("bound", ["number", "bytes"])
def test_what_is_open_and_on_its_way_stays_within_bounds(s3, remote, bound):
    size = len(content_of(0))
    options = {"max_open": 4} if bound == "number" else {"max_bytes": 4 * size}
    indexes = open_indexes(remote, **options)
    order = [*range(NUM_SHARDS), *range(NUM_SHARDS)]
    indexes.prefetch(order)
    coming = indexes._coming.get(None)
    most = 0
    for shard in order:
        assert labels_of(indexes, [shard]) == [shard]
        held = len(indexes._open) + len(coming.pending)
        assert coming.num_bytes == size * len(coming.pending)
        assert held <= 4
        most = max(most, len(coming.pending))
    assert most == {"number": 1, "bytes": 2}[bound]
    assert not coming.pending and not coming.later
    assert asked(s3) == {name_of(number): 2 for number in range(NUM_SHARDS)}


def test_an_index_larger_than_the_bounds_comes_alone(remote):
    indexes = open_indexes(remote, max_bytes=1)
    indexes.prefetch(range(NUM_SHARDS))
    assert len(indexes._coming.get(None).pending) == 1
    assert labels_of(indexes, range(NUM_SHARDS)) == list(range(NUM_SHARDS))
    assert len(indexes._open) == 1


def test_what_will_be_used_again_is_not_closed_for_what_comes(s3, remote):
    """Of shards that stand in a batch several times each is fetched once."""
    indexes = open_indexes(remote, max_open=6)
    order = [0, 1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10, 0]
    indexes.prefetch(order)
    assert labels_of(indexes, order) == order
    assert set(asked(s3).values()) == {1}


def test_what_is_open_is_not_asked_for_again(s3, remote):
    indexes = open_indexes(remote)
    labels_of(indexes, [3, 4])
    indexes.prefetch([3, 4, 5])
    assert labels_of(indexes, [3, 4, 5]) == [3, 4, 5]
    assert asked(s3) == {name_of(number): 1 for number in (3, 4, 5)}


def test_what_is_not_wanted_any_more_is_taken_back(remote):
    indexes = open_indexes(remote)
    indexes.prefetch([0, 1, 2])
    indexes.prefetch([2, 3])
    coming = indexes._coming.get(None)
    assert sorted(coming.pending) == [2, 3]
    assert coming.num_bytes == 2 * len(content_of(0))
    assert labels_of(indexes, [2, 0, 3, 1]) == [2, 0, 3, 1]
    assert coming.num_bytes == 0


def test_an_error_is_that_of_its_own_index(s3, remote):
    remote.delete(name_of(2))
    remote.write(name_of(4), b"nothing")
    remote.write(name_of(6), content_of(5))
    remote.write(name_of(8), content_of(8) + b"\0")
    indexes = open_indexes(remote, max_open=6)
    indexes.prefetch(range(NUM_SHARDS))
    for number in range(NUM_SHARDS):
        problem = {
            2: "index is missing",
            4: "the file ends at byte 7",
            6: "not the file that manifest.json names",
            8: None,  # its first bytes are the index: what follows nobody reads
        }.get(number)
        if problem is None:
            assert labels_of(indexes, [number]) == [number]
            continue
        with pytest.raises(DamageError, match=rf"{name_of(number)}.*{problem}"):
            indexes[number]
    assert asked(s3)[name_of(1)] == 1


def test_all_labels_and_keys_come_together(s3, remote):
    """Reading all of them one after another would take a split of many shards minutes."""
    seen = threading.Barrier(4)

    def wait_for_the_others(request):
        if request.target.endswith(".npz"):
            seen.wait(timeout=60)

    indexes = open_indexes(remote, max_open=10)
    s3.proxy.before = wait_for_the_others
    assert indexes.labels().tolist() == [n for number in range(NUM_SHARDS) for n in [number] * 2]
    assert len(list(indexes.keys())) == 2 * NUM_SHARDS
    assert not indexes._open
    assert asked(s3) == {name_of(number): 2 for number in range(NUM_SHARDS)}


def _read_in_child(indexes, queue):
    queue.put(labels_of(indexes, range(NUM_SHARDS)))


def test_a_fork_asks_for_its_own(remote):
    """What its parent has on its way never comes to it."""
    indexes = open_indexes(remote)
    indexes.prefetch(range(NUM_SHARDS))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_read_in_child, args=(indexes, queue), daemon=True)
    process.start()
    assert queue.get(timeout=60) == list(range(NUM_SHARDS))
    process.join()
    assert labels_of(indexes, range(NUM_SHARDS)) == list(range(NUM_SHARDS))


def test_from_a_local_disk_nothing_is_fetched(local):
    indexes = open_indexes(local)
    indexes.prefetch(range(NUM_SHARDS))
    assert not indexes._open and indexes._coming.take() is None
    assert indexes._ranges.counters.requests == 0


@pytest.mark.parametrize("place", ["local", "remote"])
def test_an_index_that_was_replaced_is_refused(request, place):
    """With as many samples and bytes, whole in itself, as of a shard that was made anew."""
    storage = request.getfixturevalue(place)
    other = content_of(11)
    assert len(other) == len(content_of(1))
    indexes = open_indexes(storage)
    storage.write(name_of(1), other)
    with pytest.raises(DamageError, match=rf"{name_of(1)}: it is not the file that manifest.json"):
        indexes[1]
    assert labels_of(indexes, [0, 2]) == [0, 2]


@pytest.mark.parametrize("length", [0, 100, 20_000])
def test_a_local_index_of_another_size_is_refused(local, length):
    indexes = open_indexes(local)
    content = content_of(1).ljust(length, b"\0")[:length]
    (Path(local.url) / name_of(1)).write_bytes(content)
    for read in (indexes.__getitem__, lambda _: indexes.labels()):
        with pytest.raises(DamageError, match="it is not the file that manifest.json"):
            read(1)


@pytest.mark.parametrize("seconds", [0, 1_000_000_000])
def test_a_local_index_that_is_replaced_while_it_is_in_use_is_refused(local, seconds):
    indexes = open_indexes(local, max_open=1)
    assert labels_of(indexes, [1, 2, 1, 2]) == [1, 2, 1, 2]
    local.write(name_of(1), content_of(11))
    os.utime(Path(local.url) / name_of(1), (seconds, seconds))
    with pytest.raises(DamageError, match="it is not the file that manifest.json"):
        indexes[1]
    local.write(name_of(1), content_of(1))
    assert labels_of(indexes, [1]) == [1]


def test_a_local_index_of_the_same_date_and_another_size_is_refused(local):
    indexes = open_indexes(local, max_open=1)
    labels_of(indexes, [1, 2])
    path = Path(local.url) / name_of(1)
    date = path.stat().st_mtime_ns
    path.write_bytes(content_of(1) + b"\0")
    os.utime(path, ns=(date, date))
    with pytest.raises(DamageError, match="it is not the file that manifest.json"):
        indexes[1]


def test_a_local_index_from_no_date_is_checked(local):
    """Archives and images may hold files without a date."""
    local.write(name_of(1), content_of(11))
    for nanoseconds in (0, -1):
        os.utime(Path(local.url) / name_of(1), ns=(nanoseconds, nanoseconds))
        with pytest.raises(DamageError, match="it is not the file that manifest.json"):
            open_indexes(local)[1]


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_manifest_without_an_index_is_refused(request, place):
    storage = request.getfixturevalue(place)
    write_split(storage, records={})
    with pytest.raises(FormatError, match=r"manifest\.json: lists no 000000\.index\.npz"):
        open_indexes(storage)


def test_an_index_beyond_all_bounds_is_refused(local):
    record = FileRecord(1 << 40, "0" * 64)
    records = {f"{number:06d}.{INDEX_KIND}": record for number in range(NUM_SHARDS)}
    write_split(local, records=records)
    with pytest.raises(FormatError, match="too many for a file of this kind"):
        open_indexes(local)
