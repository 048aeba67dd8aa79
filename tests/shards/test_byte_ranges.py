"""Bytes of local files by spans.

What is protected: the bytes asked for and no others, few open files, readers that travel to other
processes, and errors that name the file.
"""

import multiprocessing
import os
import pickle
import random
import threading
from pathlib import Path

import pytest

from gopstream.pipeline.errors import StoreError
from gopstream.shards import open_files
from gopstream.shards.byte_ranges import Cache, ReadOptions, Span
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.errors import DamageError, FormatError
from gopstream.shards.storage import open_storage

CONTENT = {f"train/{i:06d}.tar": random.Random(i).randbytes(5000) for i in range(5)}


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path


@pytest.fixture
def ranges(folder):
    return open_ranges(open_storage(folder), files={})


def some_spans(seed, count=50):
    rng = random.Random(seed)
    names = list(CONTENT)
    spans = [
        Span(rng.choice(names), rng.randrange(4000), rng.randrange(1000)) for _ in range(count)
    ]
    return [*spans, *spans[:5], Span(names[0], 10, 0)]


def expected(spans):
    return [CONTENT[name][offset : offset + length] for name, offset, length in spans]


def count_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_spans_come_in_the_order_asked_for(ranges):
    spans = some_spans(1)
    first, second = ranges.start(spans), ranges.start(spans[::-1])
    assert second.result() == expected(spans[::-1])
    assert first.result() == expected(spans)


def test_what_is_read_is_counted(ranges):
    spans = some_spans(2)
    ranges.start(spans).result()
    wanted = sum(span.length for span in spans)
    assert (ranges.counters.bytes_wanted, ranges.counters.bytes_read) == (wanted, wanted)
    assert ranges.counters.requests == sum(span.length > 0 for span in spans)


def test_few_files_stay_open(folder, ranges, monkeypatch):
    """Also while other threads read those that are closed."""
    before = count_descriptors()
    monkeypatch.setattr(ranges, "_files", open_files.OpenFiles(limit=2))
    wrong = []

    def read(seed):
        spans = some_spans(seed)
        if ranges.start(spans).result() != expected(spans):
            wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert count_descriptors() == before + 2
    ranges.close()
    assert count_descriptors() == before
    spans = some_spans(3)
    assert ranges.start(spans).result() == expected(spans)


def test_a_reader_that_is_dropped_leaves_no_file_open(folder):
    before = count_descriptors()
    for _ in range(3):
        ranges = open_ranges(open_storage(folder), files={})
        ranges.start(some_spans(4)).result()
        del ranges
    assert count_descriptors() == before


def test_a_reader_travels_without_its_files(ranges):
    ranges.start(some_spans(5)).result()
    copy = pickle.loads(pickle.dumps(ranges))
    before = count_descriptors()
    assert copy.counters.requests == 0
    spans = some_spans(6)
    assert copy.start(spans).result() == expected(spans)
    assert count_descriptors() == before + len(CONTENT)


def read_in_child(ranges, queue):
    spans = some_spans(7)
    before = count_descriptors()
    is_right = ranges.start(spans).result() == expected(spans)
    queue.put((is_right, count_descriptors() - before, ranges.counters.requests))


def test_a_forked_process_opens_its_own_files(ranges):
    ranges.start(some_spans(8)).result()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(ranges, queue))
    child.start()
    is_right, more_files, requests = queue.get()
    child.join()
    # None of the parent's were left to it.
    assert (is_right, more_files) == (True, len(CONTENT))
    assert requests == sum(span.length > 0 for span in some_spans(7))
    spans = some_spans(9)
    assert ranges.start(spans).result() == expected(spans)


def test_a_missing_file_is_named(ranges):
    with pytest.raises(FileNotFoundError, match=r"train/9\.tar: not there"):
        ranges.start([Span("train/9.tar", 0, 1)]).result()


def test_a_file_that_ends_before_a_span_is_damaged(ranges):
    message = r"000001\.tar: the file ends at byte 5000, before bytes 4990 to 5001"
    with pytest.raises(DamageError, match=message):
        ranges.start([Span("train/000001.tar", 4990, 11)]).result()
    assert ranges.start([Span("train/000001.tar", 4990, 10)]).result() == [
        CONTENT["train/000001.tar"][4990:]
    ]


def test_what_a_disk_cannot_read_is_a_store_error(ranges):
    with pytest.raises(StoreError, match="train"):
        ranges.start([Span("train", 0, 1)]).result()


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a//b"])
def test_names_that_lead_out_of_the_dataset_are_refused(ranges, name):
    with pytest.raises(FormatError, match="not the name of a file"):
        ranges.start([Span(name, 0, 1)]).result()


def test_nothing_is_cached_or_expected_of_a_local_folder(ranges):
    ranges.expect(list(CONTENT))
    assert not ranges.forget("train/000000.tar")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"merge_gap_bytes": -1}, "merge_gap_bytes"),
        ({"in_flight": 0}, "in_flight"),
        ({"fetch": "all"}, "fetch"),
        ({"fetch": "shards", "cache": None}, "needs a cache"),
    ],
)
def test_options_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        ReadOptions(**values)


def test_a_caches_numbers_are_checked(tmp_path):
    with pytest.raises(ValueError, match="max_bytes must be positive"):
        Cache(tmp_path, 0)
    with pytest.raises(ValueError, match="transient_bytes"):
        Cache(tmp_path, 10, transient_bytes=11)
    options = ReadOptions(cache=Cache(tmp_path, 10))
    assert pickle.loads(pickle.dumps(options)) == options
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing is made yet
