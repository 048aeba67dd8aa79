"""Bytes of objects by coalesced requests, from an S3 server and a web server that fail.

What is protected: the bytes are right whatever the server does, the requests are those that the
cost model asks for, what cannot be read is one error that names it, and nothing hangs.
"""

import multiprocessing
import pickle
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.pipeline.errors import StoreError
from gopstream.shards.byte_ranges import ReadOptions, Span
from gopstream.shards.dataset_files import DatasetFacts, load_dataset, save_dataset
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.errors import DamageError
from gopstream.shards.remote_ranges import merge_spans
from gopstream.shards.storage import open_storage
from s3_server import wait_until
from web_server import running_web_server

CONTENT = {f"train/{i:06d}.tar": random.Random(i).randbytes(40_000) for i in range(4)}
OPTIONS = ReadOptions(merge_gap_bytes=500, in_flight=4, cache=None)


@pytest.fixture(autouse=True)
def short_tries(monkeypatch):
    """Single tries are over long before patience is."""
    monkeypatch.setattr("gopstream.pipeline.object_store._ONE_TRY_SECONDS", 0.05)


@pytest.fixture
def bucket(s3):
    for name, content in CONTENT.items():
        s3.put(f"set/{name}", content)
    return s3


def open_bucket(bucket, options=OPTIONS, **more):
    return open_ranges(
        open_storage(f"{bucket.url}/set", bucket.options(**more)), files={}, options=options
    )


@pytest.fixture
def ranges(bucket):
    ranges = open_bucket(bucket)
    yield ranges
    ranges.close()


@pytest.fixture
def web(tmp_path):
    for name, content in CONTENT.items():
        path = tmp_path / "www" / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with running_web_server(tmp_path / "www") as proxy:
        yield proxy


def some_spans(seed, count=30):
    rng = random.Random(seed)
    names = list(CONTENT)
    spans = [
        Span(rng.choice(names), rng.randrange(38_000), rng.randrange(2000)) for _ in range(count)
    ]
    return [*spans, *spans[:5], Span(names[0], 10, 0)]


def expected(spans):
    return [CONTENT[name][offset : offset + length] for name, offset, length in spans]


def read(ranges, spans):
    return [bytes(content) for content in ranges.start(spans).result()]


def is_get(request):
    return request.method == "GET"


def partitions(items):
    """All ways to put items into groups."""
    if not items:
        yield []
        return
    first, *rest = items
    for groups in partitions(rest):
        yield [[first], *groups]
        for i, group in enumerate(groups):
            yield [*groups[:i], [first, *group], *groups[i + 1 :]]


def lowest_cost(spans, gap_bytes):
    """By trying everything: each group of spans of a file is one request."""
    costs = [
        sum(
            gap_bytes + max(s.offset + s.length for s in group) - min(s.offset for s in group)
            for group in groups
        )
        for groups in partitions(spans)
        if all(len({span.name for span in group}) == 1 for group in groups)
    ]
    return min(costs)


@given(
    st.lists(
        st.builds(Span, st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 20)), max_size=6
    ),
    st.integers(0, 30),
)
def test_requests_cost_the_least_by_the_model(spans, gap_bytes):
    requests = merge_spans(spans, gap_bytes=gap_bytes)
    cost = sum(gap_bytes + request.end - request.start for request in requests)
    wanted = {span for span in spans if span.length > 0}
    assert cost == lowest_cost(sorted(wanted), gap_bytes)
    assert sorted(span for request in requests for span in request.spans) == sorted(wanted)
    for name, start, end, served in requests:
        for span in served:
            assert span.name == name and start <= span.offset and span.offset + span.length <= end


def test_a_gap_that_costs_a_request_is_read_over():
    spans = [Span("a", 0, 10), Span("a", 110, 10), Span("a", 221, 10), Span("b", 225, 1)]
    requests = merge_spans(spans, gap_bytes=100)
    assert [(r.name, r.start, r.end) for r in requests] == [
        ("a", 0, 120),
        ("a", 221, 231),
        ("b", 225, 226),
    ]


def test_spans_of_several_objects_come_in_the_order_asked_for(bucket, ranges):
    spans = some_spans(1)
    first, second = ranges.start(spans), ranges.start(spans[::-1])
    assert [bytes(content) for content in second.result()] == expected(spans[::-1])
    assert [bytes(content) for content in first.result()] == expected(spans)


def test_requests_are_those_of_the_model_and_are_counted(bucket, ranges):
    spans = some_spans(2)
    assert read(ranges, spans) == expected(spans)
    requests = merge_spans(spans, gap_bytes=500)
    assert 4 < len(requests) < len(spans)
    asked = sorted(
        (request.target.partition("set/")[2], request.headers["range"])
        for request in bucket.proxy.requests
    )
    assert asked == sorted((r.name, f"bytes={r.start}-{r.end - 1}") for r in requests)
    counters = ranges.counters
    assert counters.requests == len(requests)
    assert counters.bytes_read == sum(request.end - request.start for request in requests)
    assert counters.bytes_wanted == sum(span.length for span in spans)
    assert counters.retries == 0


def test_spans_without_bytes_ask_nothing(bucket, ranges):
    assert read(ranges, [Span("train/no.tar", 5, 0)]) == [b""]
    assert read(ranges, []) == []
    assert bucket.proxy.count() == 0


def test_requests_run_at_the_same_time_but_no_more_than_allowed(bucket, ranges):
    """Each waits at the server until four are there; a fifth would be seen."""
    lock, barrier = threading.Lock(), threading.Barrier(4)
    now, most = 0, 0

    def before(request):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        barrier.wait(10)
        time.sleep(0.2)  # for one more to come
        with lock:
            now -= 1

    bucket.proxy.before = before
    spans = [Span(name, offset, 10) for name in CONTENT for offset in (0, 2000)]
    assert read(ranges, spans) == expected(spans)
    assert most == 4


def test_bytes_are_on_their_way_before_the_result_is_asked_for(bucket, ranges):
    pending = ranges.start([Span("train/000000.tar", 0, 10)])
    wait_until(lambda: ranges.counters.requests == 1)
    bucket.proxy.go_away()
    assert pending.result() == [CONTENT["train/000000.tar"][:10]]


def test_a_storm_of_busy_answers_passes(bucket, ranges):
    fault = bucket.proxy.answer(503, times=20, matches=is_get)
    spans = some_spans(3)
    assert read(ranges, spans) == expected(spans)
    assert fault.times == 0
    assert ranges.counters.retries > 0
    before = bucket.proxy.count()
    assert read(ranges, spans) == expected(spans)
    assert bucket.proxy.count() - before == len(merge_spans(spans, gap_bytes=500))


@pytest.mark.parametrize("after", [0, 7])
def test_cut_answers_are_asked_for_again(bucket, ranges, after):
    fault = bucket.proxy.cut_response(after=after, times=6, matches=is_get)
    spans = some_spans(4)
    assert read(ranges, spans) == expected(spans)
    assert fault.times == 0


def test_a_silent_server_is_asked_again(bucket):
    ranges = open_bucket(bucket, patience=1)
    bucket.proxy.hang(after=3, times=2, matches=is_get)
    spans = some_spans(5)
    assert read(ranges, spans) == expected(spans)


def test_a_server_that_is_away_for_a_while_is_waited_for(bucket, ranges):
    spans = some_spans(6)
    with bucket.proxy.away_for(0.8):
        assert read(ranges, spans) == expected(spans)


def test_a_server_that_stays_away_is_an_error_that_names_the_object(bucket):
    ranges = open_bucket(bucket, patience=0.4)
    bucket.proxy.go_away()
    with pytest.raises(StoreError, match=r"set/train/00000\d\.tar: reading failed for \d+ sec"):
        read(ranges, some_spans(7))
    bucket.proxy.come_back()
    spans = some_spans(8)
    assert read(ranges, spans) == expected(spans)


def test_credentials_that_expire_are_renewed(bucket, tmp_path):
    counter = tmp_path / "count"
    counter.write_text("0")
    script = tmp_path / "credentials.py"
    script.write_text(
        "import json, pathlib\n"
        f"path = pathlib.Path({str(counter)!r})\n"
        "number = int(path.read_text()) + 1\n"
        "path.write_text(str(number))\n"
        'print(json.dumps({"Version": 1, "AccessKeyId": f"K{number}", "SecretAccessKey": "s",'
        ' "SessionToken": "t"}))\n'
    )
    ranges = open_bucket(bucket, credentials_command=f"'{sys.executable}' '{script}'")
    spans = some_spans(9)
    bucket.proxy.valid_keys = {"K1"}
    assert read(ranges, spans) == expected(spans)
    bucket.proxy.valid_keys = {"K2", "K3", "K4", "K5"}  # each request may ask for new ones
    assert read(ranges, spans) == expected(spans)
    assert int(counter.read_text()) >= 2


def test_refused_credentials_are_an_error_at_once(bucket, ranges):
    bucket.proxy.valid_keys = {"another"}
    with pytest.raises(StoreError, match=r"reading was refused \(ExpiredToken\)"):
        read(ranges, [Span("train/000000.tar", 0, 10)])


def test_a_missing_object_is_named(bucket, ranges):
    with pytest.raises(FileNotFoundError, match=r"set/train/9\.tar: not there"):
        read(ranges, [Span("train/000000.tar", 0, 10), Span("train/9.tar", 0, 1)])
    spans = some_spans(10)
    assert read(ranges, spans) == expected(spans)


@pytest.mark.parametrize("offset", [39_990, 40_000, 50_000])
def test_an_object_that_ends_before_a_span_is_damaged(bucket, ranges, offset):
    spans = [Span("train/000001.tar", 39_980, 10), Span("train/000001.tar", offset, 11)]
    message = rf"000001\.tar: the file ends at byte 40000, before bytes {offset} to {offset + 11}"
    with pytest.raises(DamageError, match=message):
        read(ranges, spans)


def test_what_is_dropped_is_taken_back(bucket, ranges):
    silent = bucket.proxy.hang(after=0, times=4)
    pending = ranges.start(some_spans(18))
    wait_until(lambda: silent.times == 0)
    del pending  # or all four that may be in flight would stay so until they are given up
    spans = some_spans(11)
    assert read(ranges, spans) == expected(spans)
    assert ranges.counters.requests == len(merge_spans(spans, gap_bytes=500))
    assert ranges.counters.retries == 0


def test_a_closed_reader_says_so_and_opens_again(bucket, ranges):
    bucket.proxy.hang(after=0, times=1)
    pending = ranges.start([Span("train/000000.tar", 0, 10)])
    wait_until(lambda: bucket.proxy.count() == 1)
    ranges.close()
    with pytest.raises(StoreError, match="the reader was closed"):
        pending.result()
    spans = some_spans(12)
    assert read(ranges, spans) == expected(spans)


def test_readers_that_come_and_go_leave_no_thread_or_file(bucket):
    def round_trip():
        ranges = open_bucket(bucket)
        read(ranges, some_spans(13))

    round_trip()
    files = len(list(Path("/proc/self/fd").iterdir()))
    threads = threading.active_count()
    for _ in range(5):
        round_trip()
    # obstore keeps idle connections of a store for its next requests.
    wait_until(lambda: threading.active_count() <= threads)
    assert len(list(Path("/proc/self/fd").iterdir())) <= files + 4


def test_a_reader_travels_to_another_process(bucket):
    ranges = open_bucket(bucket)
    spans = some_spans(14)
    read(ranges, spans)
    copy = pickle.loads(pickle.dumps(ranges))
    assert copy.counters.requests == 0
    assert read(copy, spans) == expected(spans)


def read_in_child(ranges, storage, results, depth):
    spans = some_spans(20 + depth)
    is_right = read(ranges, spans) == expected(spans)
    is_right &= storage.size("train/000000.tar") == 40_000
    is_right &= storage.read("train/000001.tar") == CONTENT["train/000001.tar"]
    try:
        storage.read("no")
        is_right = False
    except FileNotFoundError:
        pass
    results.put((is_right, ranges.counters.requests == len(merge_spans(spans, gap_bytes=500))))
    if depth:
        child = multiprocessing.get_context("fork").Process(
            target=read_in_child, args=(ranges, storage, results, depth - 1)
        )
        child.start()
        child.join()


def test_processes_that_were_forked_from_one_that_reads_can_read(bucket, ranges):
    """obstore's own threads do not survive a fork; also not that of a child's child."""
    storage = open_storage(f"{bucket.url}/set", bucket.options())
    assert storage.exists("train/000000.tar")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    bucket.proxy.hang(after=0, times=1)
    pending = ranges.start([Span("train/000000.tar", 0, 10)])  # on its way while others start
    wait_until(lambda: bucket.proxy.count() >= 2)
    children = [
        context.Process(target=read_in_child, args=(ranges, storage, results, 1)) for _ in range(2)
    ]
    for child in children:
        child.start()
    answers = [results.get() for _ in range(4)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert answers == [(True, True)] * 4
    del pending
    spans = some_spans(15)
    assert read(ranges, spans) == expected(spans)
    assert storage.exists("train/000000.tar")


LEAVE = """
import sys
from gopstream.pipeline.object_store import StoreOptions
from gopstream.shards.byte_ranges import ReadOptions, Span
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.storage import open_storage
storage = open_storage(sys.argv[1], StoreOptions(endpoint=sys.argv[2], region="us-east-1"))
ranges = open_ranges(storage, files={}, options=ReadOptions(cache=None))
pending = [ranges.start([Span("train/000000.tar", i, 1)]) for i in range(100)]
print("left", flush=True)
"""


def test_a_process_that_leaves_does_not_wait_for_a_server_that_is_away(bucket):
    """Patience is ten minutes here."""
    bucket.proxy.go_away()
    command = [sys.executable, "-c", LEAVE, f"{bucket.url}/set", bucket.proxy.url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("left\n", "")


def test_a_dataset_on_a_web_server_can_be_read(web):
    facts = DatasetFacts(("a", "b"), ("frames",), {"mode": "native"})
    storage = open_storage(f"{web.url}/set")
    with pytest.raises(StoreError, match=r"can only be read; to write give a folder"):
        save_dataset(storage, facts)
    assert web.count() == 0
    ranges = open_ranges(storage, files={}, options=OPTIONS)
    spans = some_spans(16)
    web.answer(503, times=3)
    web.cut_response(after=3, times=3)
    assert read(ranges, spans) == expected(spans)
    assert storage.exists("train/000001.tar") and not storage.exists("train/1.tar")
    assert storage.read("train/000001.tar") == CONTENT["train/000001.tar"]
    with storage.local_copy("train/000001.tar") as path:
        assert path.read_bytes() == CONTENT["train/000001.tar"]
    with pytest.raises(DamageError, match="the file ends at byte 40000"):
        read(ranges, [Span("train/000000.tar", 40_000, 1)])
    with pytest.raises(FileNotFoundError, match=r"train/1\.tar: not there"):
        read(ranges, [Span("train/1.tar", 0, 1)])


def test_a_dataset_on_a_web_server_is_opened_by_name(web, tmp_path):
    facts = DatasetFacts(("a", "b"), ("frames",), {"mode": "native"})
    save_dataset(tmp_path / "www" / "set", facts)
    assert load_dataset(f"{web.url}/set/") == facts


@pytest.mark.parametrize(
    "write",
    [
        lambda storage, path: storage.write("a", b"1"),
        lambda storage, path: storage.create("a"),
        lambda storage, path: storage.delete("a"),
        lambda storage, path: storage.put_file(path, "a"),
    ],
)
def test_nothing_is_written_to_a_web_server(write, tmp_path):
    with pytest.raises(StoreError, match="https://host/set: a dataset on a web server can only"):
        write(open_storage("https://host/set"), tmp_path)


def test_a_web_server_cannot_be_listed():
    storage = open_storage("https://host/set")
    for ask in (storage.list_folders, lambda: storage.list_names("train")):
        with pytest.raises(StoreError, match="a web server cannot be listed"):
            ask()


def test_a_dataset_below_a_query_is_refused_without_showing_it():
    with pytest.raises(StoreError, match="cannot have a query") as raised:
        open_storage("https://host/set?signature=hush")
    assert "hush" not in str(raised.value)


def test_a_web_server_that_stays_away_has_all_patience(web, monkeypatch):
    """It is where the dataset is, not one of many links."""
    monkeypatch.setattr("gopstream.pipeline.object_store._DEAD_LINK_SECONDS", 0.1)
    from gopstream.pipeline.object_store import StoreOptions

    storage = open_storage(f"{web.url}/set", StoreOptions(patience_seconds=30))
    ranges = open_ranges(storage, files={}, options=OPTIONS)
    spans = some_spans(17)
    with web.away_for(1.0):
        assert read(ranges, spans) == expected(spans)


def test_a_web_server_without_ranges_is_told_apart(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().partition("(")[2].partition("/)")[0]
            ranges = open_ranges(open_storage(address), files={}, options=OPTIONS)
            with pytest.raises(StoreError, match=r"a\.tar: the web server does not send parts"):
                read(ranges, [Span("a.tar", 3, 4)])
        finally:
            server.terminate()
