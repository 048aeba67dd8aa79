"""Whole files of a remote dataset on this machine, fetched once by all of its processes.

What is protected: right bytes whatever happens to the copies, a bound that is never exceeded, a
choice of files that stays, and that nothing a process leaves behind blocks another.
"""

import fcntl
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import threading
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gopstream.pipeline.errors import StoreError
from gopstream.shards.byte_ranges import Cache, ReadOptions, Span
from gopstream.shards.dataset_files import FileRecord
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.shard_cache import usable_cache
from gopstream.shards.storage import open_storage
from s3_server import wait_until

SIZE = 20_000
PART = 8_000
CONTENT = {f"train/{i:06d}.tar": random.Random(i).randbytes(SIZE) for i in range(8)}
FILES = {name: FileRecord.of(content) for name, content in CONTENT.items()}
PARTS = math.ceil(SIZE / PART)
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch):
    monkeypatch.setattr("gopstream.pipeline.object_store._ONE_TRY_SECONDS", 0.05)
    monkeypatch.setattr("gopstream.shards.shard_cache.PART_BYTES", PART)


@pytest.fixture
def bucket(s3):
    for name, content in CONTENT.items():
        s3.put(name, content)
    return s3


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def open_reader(bucket, folder):
    """Readers that are closed at the end: (shards that fit, fetch=, files=, ...)."""
    opened = []

    def open_one(room=4, *, fetch="ranges", transient=None, files=FILES, patience=20.0):
        cache = Cache(folder, room * SIZE, None if transient is None else transient * SIZE)
        options = ReadOptions(merge_gap_bytes=100, in_flight=4, cache=cache, fetch=fetch)
        storage = open_storage(bucket.url, bucket.options(patience=patience))
        opened.append(open_ranges(storage, files=files, options=options))
        return opened[-1]

    yield open_one
    for ranges in opened:
        ranges.close()


def spans_of(names, seed=0):
    rng = random.Random(seed)
    return [
        Span(name, rng.randrange(SIZE - 100), rng.randrange(1, 100)) for name in names for _ in "ab"
    ]


def check(ranges, names=tuple(CONTENT), seed=0):
    spans = spans_of(names, seed)
    contents = ranges.start(spans).result()
    assert [bytes(content) for content in contents] == [
        CONTENT[name][offset : offset + length] for name, offset, length in spans
    ]


def copies(folder):
    """The files in the cache, without those that are on their way."""
    return sorted(p for p in (folder / "files").iterdir() if p.suffix != ".partial")


def partials(folder):
    return sorted((folder / "files").glob("*.partial"))


def coming(ranges):
    """The files that are being fetched."""
    return list(ranges._state.get(ranges._open).cache._coming)


def is_part(request):
    return request.headers.get("range", "").startswith("bytes=0-7999")


def fetched(bucket):
    """How often each file was fetched, by the requests for its first part."""
    names = [
        request.target.partition("/train/")[2]
        for request in bucket.proxy.requests
        if is_part(request)
    ]
    return sorted(names)


@contextmanager
def watched(folder, limit):
    """Look all the time at how much is in the folder.

    Files come and go during one look, which may then see one that has left beside the one that
    took its place. What two looks after each other see was there together, between them.
    """
    done, most = threading.Event(), [0]

    def look():
        sizes = {}
        for entry in os.scandir(folder / "files") if (folder / "files").exists() else []:
            with suppress(FileNotFoundError):
                sizes[entry.inode()] = entry.stat().st_size
        return sizes

    def watch():
        before = look()
        while not done.is_set():
            now = look()
            most[0] = max(most[0], sum(min(now[it], before[it]) for it in now.keys() & before))
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert 0 < most[0] <= limit


def test_the_first_bytes_come_by_ranges_and_the_next_from_the_disk(bucket, folder, open_reader):
    ranges = open_reader(room=8)
    check(ranges)
    wait_until(lambda: ranges.counters.shards_downloaded == 8)
    assert ranges.counters.bytes_cached < ranges.counters.bytes_wanted
    before, cached = bucket.proxy.count(), ranges.counters.bytes_cached
    check(ranges, seed=1)
    assert bucket.proxy.count() == before
    assert ranges.counters.bytes_cached - cached == sum(s.length for s in spans_of(CONTENT, 1))
    assert ranges.counters.bytes_downloaded == 8 * SIZE
    assert sorted(path.read_bytes() for path in copies(folder)) == sorted(CONTENT.values())


def test_a_dataset_larger_than_the_cache_is_not_fetched_in_a_circle(bucket, folder, open_reader):
    """Four of eight files fit: over three epochs and a restart, four downloads."""
    kept = []
    for _ in range(2):
        ranges = open_reader(room=4)
        with watched(folder, 4 * SIZE):
            for epoch in range(3):
                check(ranges, random.Random(epoch).sample(list(CONTENT), 8), seed=epoch)
                wait_until(lambda: len(copies(folder)) == 4)
        kept.append(copies(folder))
        ranges.close()
    assert kept[0] == kept[1]
    assert len(fetched(bucket)) == len(set(fetched(bucket))) == 4


def test_more_room_pins_more_of_the_same_order(folder, open_reader):
    chosen = [open_reader(room=room)._cache.pinned for room in (2, 4, 6)]
    assert chosen[0] < chosen[1] < chosen[2]
    assert [len(names) for names in chosen] == [2, 4, 6]


@pytest.mark.parametrize("fetch", ["ranges", "shards"])
def test_two_processes_fetch_each_file_once(bucket, folder, open_reader, fetch):
    ranges = open_reader(room=8, fetch=fetch)
    check(ranges, ["train/000000.tar"])  # obstore is in use when they are forked
    barrier, results = FORK.Barrier(2), FORK.Queue()

    def run():
        barrier.wait()
        for seed in range(4):
            check(ranges, random.Random(os.getpid() + seed).sample(list(CONTENT), 8), seed=seed)
        wait_until(lambda: len(copies(folder)) == 8)
        results.put(ranges.counters.shards_downloaded)
        ranges.close()

    children = [FORK.Process(target=run) for _ in range(2)]
    with watched(folder, 8 * SIZE):
        for child in children:
            child.start()
        numbers = [results.get() for _ in children]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert sum(numbers) + ranges.counters.shards_downloaded == 8
    assert fetched(bucket) == sorted(name.partition("/")[2] for name in CONTENT)
    assert not partials(folder)


def test_the_bound_holds_where_several_processes_visit_shards(bucket, folder, open_reader):
    """Windows of two shards, room for two that stay and three that come and go."""
    ranges = open_reader(room=5, fetch="shards", transient=3)
    assert len(ranges._cache.pinned) == 2
    names, barrier = list(CONTENT), FORK.Barrier(2)

    def run():
        for epoch in range(2):
            for first in range(0, 8, 2):
                barrier.wait()  # processes of one job are in the same window
                for seed in range(3):
                    check(ranges, names[first : first + 2], seed=seed + epoch)
        ranges.close()

    children = [FORK.Process(target=run) for _ in range(2)]
    with watched(folder, 5 * SIZE):
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
    counts = {name: fetched(bucket).count(name.partition("/")[2]) for name in CONTENT}
    for name, count in counts.items():
        assert count == (1 if name in ranges._cache.pinned else 2), counts
    # Nothing but whole files was asked for.
    assert len(bucket.proxy.requests) == PARTS * sum(counts.values())


def test_files_that_are_expected_are_fetched_before_they_are_read(bucket, folder, open_reader):
    ranges = open_reader(room=8, fetch="shards")
    ranges.expect(list(CONTENT)[:3])
    wait_until(lambda: len(copies(folder)) == 3)
    before = bucket.proxy.count()
    check(ranges, list(CONTENT)[:3])
    assert bucket.proxy.count() == before == 3 * PARTS


def test_without_room_whole_files_are_read_by_ranges(bucket, folder, open_reader):
    """All that is there is being read by someone."""
    ranges = open_reader(room=2, fetch="shards", transient=2)
    held = ranges.start(spans_of(list(CONTENT)[:2]))
    wait_until(lambda: len(copies(folder)) == 2)
    held = ranges.start(spans_of(list(CONTENT)[:2]))  # open now
    check(ranges, list(CONTENT)[2:4])
    assert len(copies(folder)) == 2
    assert ranges.counters.requests > 0
    held.result()
    check(ranges, list(CONTENT)[2:4])
    assert ranges.counters.shards_downloaded == 4


def test_a_killed_process_blocks_nothing_and_its_partial_goes(bucket, folder, open_reader):
    ranges = open_reader(room=8)
    bucket.proxy.hang(after=100, times=100, matches=is_part)

    def run():
        check(ranges)
        threading.Event().wait()

    child = FORK.Process(target=run)
    child.start()
    wait_until(lambda: len(partials(folder)) == 1)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert len(partials(folder)) == 1
    bucket.proxy.reset()
    another = {name: FILES[name] for name in list(FILES)[:1]}
    ranges = open_reader(room=8, files=another)
    check(ranges)
    assert not [p for p in partials(folder) if "000000" not in p.name]
    wait_until(lambda: len(copies(folder)) == 1)
    assert not partials(folder)
    check(open_reader(room=8))
    wait_until(lambda: len(copies(folder)) == 8)


def test_a_stopped_process_keeps_nobody_waiting_for_ever(bucket, folder, open_reader):
    """It holds the lock of a file that is being fetched; patience is a second."""
    ranges = open_reader(room=8, fetch="shards", patience=1.0)
    name = "train/000000.tar"
    (folder / "files").mkdir(parents=True, exist_ok=True)
    partial = folder / "files" / f"{ranges._cache.key(name)}.partial"
    with partial.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check(ranges, [name])
    assert ranges.counters.requests > 0
    assert ranges.counters.shards_downloaded == 0


def test_a_lock_ends_with_the_process_that_took_it(bucket, folder, open_reader):
    """Not with its children, which inherit what is open."""
    ranges = open_reader(room=8)
    bucket.proxy.hang(after=100, times=1, matches=is_part)
    check(ranges, ["train/000000.tar"])
    wait_until(lambda: len(partials(folder)) == 1)
    ready, stay = FORK.Event(), FORK.Event()

    def run():
        ready.set()
        stay.wait()

    child = FORK.Process(target=run)
    child.start()
    ready.wait()
    with partials(folder)[0].open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    kept = partials(folder)[0].open("rb")
    ranges.close()
    fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
    kept.close()
    stay.set()
    child.join()


def test_a_full_disk_stops_the_cache_and_nothing_else(bucket, folder, open_reader):
    """A limit on files' sizes stands in for the disk. One warning, no leftovers."""
    ranges = open_reader(room=8, fetch="shards")
    results = FORK.Queue()

    def run():
        ranges._storage.exists("a")  # what a forked process loads is a file as well
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for seed in range(3):
                check(ranges, seed=seed)
        results.put(([str(w.message) for w in caught], ranges.counters.cache_is_full))
        ranges.close()

    child = FORK.Process(target=run)
    child.start()
    (message,), is_full = results.get()
    child.join()
    assert "stops to grow" in message and str(folder) in message
    assert is_full == 1
    assert list((folder / "files").iterdir()) == []


def test_a_copy_that_was_damaged_is_read_again_from_the_dataset(bucket, folder, open_reader):
    ranges = open_reader(room=8)
    check(ranges)
    wait_until(lambda: len(copies(folder)) == 8)
    (path,) = [path for path in copies(folder) if "000003" in path.name]
    path.write_bytes(bytes(SIZE))
    span = Span("train/000003.tar", 100, 50)
    assert ranges.start([span]).result() == [bytes(50)]  # the reader's checksum sees it
    assert ranges.forget(span.name)
    check(ranges, [span.name])
    wait_until(lambda: len(copies(folder)) == 8)
    check(ranges, [span.name])
    assert ranges.counters.cached_files_dropped == 1
    assert not ranges.forget("train/no.tar")
    # Another clip that still held the bytes of the copy that was dropped leaves the good one alone.
    assert ranges.forget(span.name)
    assert ranges.counters.cached_files_dropped == 1
    # A disk that damages it each time is not asked a third time.
    path.write_bytes(bytes(SIZE))
    assert ranges.forget(span.name)
    check(ranges, [span.name])
    assert not ranges.forget(span.name)
    wait_until(lambda: not coming(ranges))
    assert len(copies(folder)) == 7


def test_a_copy_that_was_cut_is_noticed(bucket, folder, open_reader):
    """While it is open."""
    ranges = open_reader(room=8)
    check(ranges)
    wait_until(lambda: len(copies(folder)) == 8)
    check(ranges)
    (path,) = [path for path in copies(folder) if "000004" in path.name]
    os.truncate(path, 10)
    check(ranges)
    check(ranges)
    wait_until(lambda: [path.stat().st_size for path in copies(folder)] == [SIZE] * 8)
    assert ranges.counters.cached_files_dropped == 1


@pytest.mark.parametrize("size", [10, SIZE + 10])
def test_a_copy_of_another_size_is_not_opened(bucket, folder, open_reader, size):
    ranges = open_reader(room=8)
    check(ranges)
    wait_until(lambda: len(copies(folder)) == 8)
    (path,) = [path for path in copies(folder) if "000004" in path.name]
    os.truncate(path, size)
    ranges = open_reader(room=8)
    check(ranges)
    wait_until(lambda: [path.stat().st_size for path in copies(folder)] == [SIZE] * 8)
    assert ranges.counters.cached_files_dropped == 0


def test_what_does_not_match_the_manifest_is_not_kept(bucket, folder, open_reader):
    bucket.put("train/000002.tar", CONTENT["train/000003.tar"])
    ranges = open_reader(room=8, fetch="shards")
    with pytest.warns(UserWarning, match=r"train/000002\.tar: its bytes do not match the sha256"):
        content = ranges.start([Span("train/000002.tar", 0, 10)]).result()
    assert content == [CONTENT["train/000003.tar"][:10]]
    assert copies(folder) == partials(folder) == []


def test_a_server_that_fails_is_heard_of_by_whoever_reads(bucket, folder, open_reader):
    ranges = open_reader(room=8, fetch="shards", patience=0.3)
    bucket.proxy.go_away()
    with pytest.raises(StoreError, match=r"train/000000\.tar: reading failed"):
        check(ranges, ["train/000000.tar"])
    assert copies(folder) == partials(folder) == []


def test_another_version_of_a_file_is_another_copy(bucket, folder, open_reader):
    ranges = open_reader(room=8)
    check(ranges, ["train/000000.tar"])
    wait_until(lambda: len(copies(folder)) == 1)
    new = random.Random(99).randbytes(SIZE)
    bucket.put("train/000000.tar", new)
    ranges = open_reader(room=8, files=FILES | {"train/000000.tar": FileRecord.of(new)})
    assert ranges.start([Span("train/000000.tar", 0, 50)]).result() == [new[:50]]


def test_room_is_made_by_what_nobody_uses_any_more(bucket, folder, open_reader):
    names = list(FILES)
    one = open_reader(room=4, files={name: FILES[name] for name in names[:4]})
    two = open_reader(room=4, files={name: FILES[name] for name in names[4:]})
    check(one, names[:4])
    wait_until(lambda: len(copies(folder)) == 4)
    first = copies(folder)
    check(two, names[4:])  # the first's are pinned, and it lives
    check(two, names[4:])
    wait_until(lambda: not coming(two))
    assert copies(folder) == first
    one.close()
    two.close()
    with watched(folder, 4 * SIZE):
        check(two, names[4:])
        wait_until(lambda: not {*copies(folder)} & {*first} and len(copies(folder)) == 4)


def test_a_smaller_bound_removes_what_is_too_much(folder, open_reader):
    ranges = open_reader(room=8)
    check(ranges)
    wait_until(lambda: len(copies(folder)) == 8)
    ranges.close()
    ranges = open_reader(room=3)
    check(ranges)
    assert len(copies(folder)) == 3
    assert ranges.counters.bytes_cached > 0


def test_ten_epochs_leave_no_file_open_and_no_memory_taken(folder, open_reader):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    def memory():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def own_threads():
        return {thread for thread in threading.enumerate() if "gopstream" in thread.name}

    of_others = own_threads()  # readers of earlier tests that nobody has collected yet

    def epoch(seed):
        ranges = open_reader(room=4, fetch="shards", transient=2)
        for name in CONTENT:
            check(ranges, [name], seed=seed)
        ranges.close()

    for seed in range(3):
        epoch(seed)
    before, held = descriptors(), memory()
    for seed in range(10):
        epoch(seed)
    assert descriptors() <= before + 4  # idle connections
    assert own_threads() <= of_others
    assert memory() - held < 8 << 20


def test_a_removed_folder_does_no_harm(folder, open_reader):
    ranges = open_reader(room=8)
    check(ranges)
    wait_until(lambda: len(copies(folder)) == 8)
    shutil.rmtree(folder)
    with pytest.warns(UserWarning, match="stops to grow"):
        check(ranges, seed=1)
        ranges.forget("train/000000.tar")
        check(ranges, seed=2)
        wait_until(lambda: ranges.counters.cache_is_full == 1)
        ranges.close()


def test_the_cache_of_itself_takes_half_of_the_free_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = usable_cache("auto")
    free = shutil.disk_usage(tmp_path).free
    assert cache.folder == tmp_path / ".cache" / "gopstream"
    assert abs(cache.max_bytes - free // 2) < free // 10
    # What it holds was free before it came.
    with (cache.folder / "files" / "a").open("wb") as file:
        os.truncate(file.fileno(), free)
    assert abs(usable_cache("auto").max_bytes - free) < free // 10


def test_either_half_of_a_cache_may_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    free = shutil.disk_usage(tmp_path).free
    named = usable_cache(Cache(str(tmp_path / "named")))
    assert named.folder == tmp_path / "named"
    assert abs(named.max_bytes - free // 2) < free // 10
    sized = usable_cache(Cache(max_bytes=10, transient_bytes=4))
    assert sized == (tmp_path / ".cache" / "gopstream", 10, 4)
    assert usable_cache(Cache("~/own", 10)) == (tmp_path / "own", 10, None)
    assert usable_cache(Cache(tmp_path, transient_bytes=10 * free)).transient_bytes < free


def test_a_folder_that_cannot_be_used_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").write_text("not a folder")
    with pytest.warns(UserWarning, match=r"gopstream cannot be used .* without a cache"):
        assert usable_cache("auto") is None
    with pytest.raises(StoreError, match="cannot be used .* name another, or none"):
        usable_cache(Cache(tmp_path / ".cache", 10))
    with pytest.raises(StoreError, match="gopstream cannot be used"):
        usable_cache(Cache(max_bytes=10))
