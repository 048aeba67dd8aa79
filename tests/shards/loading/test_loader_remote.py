"""Batches from object storage and web servers.

What is protected: they are bit for bit those from disk, however many processes read and however
these were started; they cost the requests and bytes that the cost model names; and the next
batch's bytes are on their way while this one is decoded.
"""

import multiprocessing
import pickle
import re
import shutil
import sys
import threading
from collections import Counter

import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.jobs.bench.load_ours import model_cost, watch_spans  # noqa: E402
from gopstream.jobs.bench.loading_faults import SPEC, hashes  # noqa: E402
from gopstream.shards import MixedDataset, ShardDataset, StreamingLoader, view_batches  # noqa: E402
from gopstream.shards.byte_ranges import ReadOptions  # noqa: E402
from gopstream.shards.loading import clip_reader  # noqa: E402
from gopstream.shards.loading.clip_spec import View  # noqa: E402
from gopstream.shards.loading.clips import ClipDataset, ViewDataset  # noqa: E402
from gopstream.shards.loading.epoch_orders import EpochOrders  # noqa: E402
from gopstream.shards.loading.order import Shuffle  # noqa: E402
from gopstream.shards.loading.places import BatchPlaces, EpochBatches, Place, Share  # noqa: E402
from gopstream.shards.storage import open_storage  # noqa: E402
from s3_server import wait_until  # noqa: E402
from web_server import running_web_server  # noqa: E402

NO_CACHE = ReadOptions(cache=None)


@pytest.fixture
def bucket(s3, dataset_root):
    for path in sorted(dataset_root.rglob("*")):
        if path.is_file():
            s3.put(f"set/{path.relative_to(dataset_root)}", path.read_bytes())
    return s3


@pytest.fixture
def on_s3(bucket):
    """A function that opens the dataset in the bucket."""

    def open_dataset(reading=NO_CACHE, **words):
        storage = open_storage(f"{bucket.url}/set", bucket.options())
        return ShardDataset(storage, "train", reading=reading, **words)

    return open_dataset


@pytest.fixture
def on_web(dataset_root, tmp_path):
    """A function that opens the dataset on a web server."""
    shutil.copytree(dataset_root, tmp_path / "www" / "set")
    with running_web_server(tmp_path / "www") as proxy:
        yield lambda: ShardDataset(f"{proxy.url}/set", "train", reading=NO_CACHE)


def make_loader(dataset, *, workers=0, batch_size=2, **more):
    return StreamingLoader(
        dataset, SPEC, batch_size=batch_size, seed=3, workers=workers, pin_memory=False, **more
    )


def shown(dataset, *, epochs=2, **more):
    loader = make_loader(dataset, **more)
    return [hashes(batch) for _ in range(epochs) for batch in loader]


@pytest.fixture(scope="module")
def from_disk(dataset_root):
    return shown(ShardDataset(dataset_root, "train"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["on_s3", "on_web"])
def test_batches_are_those_from_disk(from_disk, request, place, workers):
    """The dataset is in use when workers are forked, as the labels were read before."""
    dataset = request.getfixturevalue(place)()
    dataset.read_json(0)
    assert shown(dataset, workers=workers) == from_disk


def test_processes_that_were_spawned_give_the_same(from_disk, on_s3):
    method = multiprocessing.get_start_method(allow_none=True)
    dataset = on_s3()
    dataset.read_json(0)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert shown(dataset, epochs=1, workers=2) == from_disk[: len(from_disk) // 2]
    finally:
        multiprocessing.set_start_method(method, force=True)


def test_views_are_those_from_disk(dataset_root, on_s3):
    views = [View(clip, 2, crop, 3) for clip in range(2) for crop in range(3)]

    def all_of(dataset, workers):
        batches = view_batches(dataset, SPEC, batch_size=4, views=views, workers=workers)
        return [hashes(batch) for batch in batches]

    assert all_of(on_s3(), 2) == all_of(ShardDataset(dataset_root, "train"), 0)


def requests_of(bucket):
    """Without what tests before this one have left on its way."""
    return [r for r in list(bucket.proxy.requests) if f"/{bucket.name}/" in r.target]


def ranges_of(bucket):
    """What was asked of the server for parts of files: (name, first byte, end) and how often."""
    found = Counter()
    for request in requests_of(bucket):
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if match is not None:
            name = request.target.partition("/set/")[2]
            found[name, int(match[1]), int(match[2]) + 1] += 1
    return found


def indexes_of(dataset_root):
    """Requests for whole indexes."""
    paths = sorted((dataset_root / "train").glob("*.index.npz"))
    return Counter((f"train/{path.name}", 0, path.stat().st_size) for path in paths)


@pytest.mark.parametrize("gap_bytes", [0, 300, 1 << 20])
def test_requests_and_bytes_are_those_of_the_cost_model(bucket, on_s3, dataset_root, gap_bytes):
    """And of each shard its index, whole and once."""
    dataset = on_s3(ReadOptions(cache=None, merge_gap_bytes=gap_bytes))
    asked = watch_spans(dataset)
    clips = ClipDataset(dataset, SPEC, seed=3)
    orders = EpochOrders(dataset, seed=3, shuffle=Shuffle())
    for places in EpochBatches(orders, Share(2)):
        clips[places]
    assert len(asked) == 6
    costs = [model_cost(spans, merge_gap_bytes=gap_bytes) for spans in asked]
    clips_alone = Counter(request for cost in costs for request in cost.requests)
    expected = clips_alone + indexes_of(dataset_root)
    assert ranges_of(bucket) == expected
    assert dataset.counters.requests == expected.total()
    assert dataset.counters.retries == 0
    assert dataset.counters.bytes_read == sum(end - begin for _, begin, end in expected.elements())
    num_index_bytes = sum(end for _, _, end in indexes_of(dataset_root))
    wanted = num_index_bytes + sum(cost.bytes_wanted for cost in costs)
    assert dataset.counters.bytes_wanted == wanted
    if gap_bytes > 1000:  # of each tar one request a clip
        assert clips_alone.total() == 2 * len(asked)


def test_indexes_are_read_once(bucket, on_s3):
    """Each process opens a shard's index for its first clip of it, not for each."""
    list(make_loader(on_s3(), workers=0))
    names = Counter(r.target.rpartition("/")[2] for r in requests_of(bucket))
    assert names["000000.index.npz"] == names["000001.index.npz"] == 1
    assert names["manifest.json"] == 1


@pytest.fixture
def only_together(bucket):
    """Answers no request for an index before as many as are given have come."""

    def answer(number):
        together = threading.Barrier(number)

        def wait_for_the_others(request):
            if request.target.endswith(".index.npz"):
                together.wait(timeout=60)

        bucket.proxy.before = wait_for_the_others

    return answer


def test_indexes_of_a_batch_and_the_next_are_fetched_together(on_s3, only_together):
    first, last = Place(0, 0, sample=0), Place(0, 1, sample=6)
    dataset = on_s3()
    only_together(2)
    clips = ClipDataset(dataset, SPEC, seed=3)
    clips[BatchPlaces((first,), (last,))]
    batch = clips[BatchPlaces((last,))]
    assert list(batch.keys) == [dataset.key(6)]


def test_indexes_of_views_are_fetched_together(on_s3, only_together):
    dataset = on_s3()
    only_together(2)
    clips = ViewDataset(dataset, SPEC, [View(0, 1, crop, 3) for crop in range(3)])
    batch = clips[[0, 1, 2, 3 * 6]]
    assert list(batch.keys) == [dataset.key(0)] * 3 + [dataset.key(6)]


def test_indexes_of_all_datasets_of_a_mixture_are_fetched_together(on_s3, only_together):
    first, second = on_s3(), on_s3()
    mixed = MixedDataset([first, second])
    only_together(4)
    places = [Place(0, number, sample) for number, sample in enumerate((13, 0, 7, 6))]
    batch = ClipDataset(mixed, SPEC, seed=3)[BatchPlaces(tuple(places))]
    assert list(batch.keys) == [first.key(sample) for sample in (6, 0, 0, 6)]


def test_indexes_of_chosen_samples_are_those_of_their_shards(bucket, on_s3):
    """A sample's place among the chosen ones is not its place in the split."""
    dataset = on_s3(classes=["right"])
    assert dataset.shard_starts.tolist() == [0, 0, len(dataset)]
    dataset = pickle.loads(pickle.dumps(dataset))  # without the indexes that are open
    bucket.proxy.requests.clear()
    dataset.prefetch([0])
    wait_until(lambda: ranges_of(bucket).total() > 0)
    dataset.sample(0)
    assert [name for name, _, _ in ranges_of(bucket).elements()] == ["train/000001.index.npz"]


def has_asked_for(bucket, name):
    return any(request.target.endswith(name) for request in requests_of(bucket))


def test_labels_come_from_the_table_of_samples(bucket, on_s3, dataset_root):
    """For them alone the indexes, a hundred times as large, are not fetched."""
    wanted = ShardDataset(dataset_root, "train").labels.tolist()
    assert set(wanted) == {0, 1}
    assert on_s3().labels.tolist() == wanted
    assert has_asked_for(bucket, "samples.parquet")
    chosen = on_s3(where="frames < 20")
    assert chosen.labels.tolist() == [chosen.label(n) for n in range(len(chosen))]
    assert 0 < len(chosen) < len(wanted)


def test_labels_of_some_shards_and_without_pyarrow_come_from_indexes(
    bucket, on_s3, dataset_root, monkeypatch
):
    own = ShardDataset(dataset_root, "train")
    assert on_s3(shards=["000001"]).labels.tolist() == own.labels[own.shard_starts[1] :].tolist()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert on_s3().labels.tolist() == own.labels.tolist()
    assert not has_asked_for(bucket, "samples.parquet")


def test_the_next_batch_is_on_its_way_while_one_is_decoded(bucket, on_s3, monkeypatch):
    """Nothing is decoded before the server has seen the requests for the batch that follows."""
    dataset = on_s3()
    asked = watch_spans(dataset)
    batches = iter(make_loader(dataset, batch_size=3))
    decode = clip_reader.StartedClip._read_frames
    seen = []

    def decode_later(self, *arguments):
        if not seen:
            assert len(asked) == 6
            wait_until(lambda: ranges_of(bucket).total() >= 2 + 2 * 6)  # two indexes, two tars
            seen.append(ranges_of(bucket).total())
        decode(self, *arguments)

    monkeypatch.setattr(clip_reader.StartedClip, "_read_frames", decode_later)
    next(batches)
    assert seen == [14]


def test_a_worker_fetches_the_batch_that_it_is_asked_for_next(bucket, on_s3):
    """Two workers take batches in turn: no clip is fetched by one of them in vain."""
    dataset = on_s3()
    loader = make_loader(dataset, workers=2, batch_size=1)
    first = [hashes(batch) for batch in loader]
    assert len(first) == 7
    shares = Counter(name for name, _, _ in ranges_of(bucket).elements())
    # A worker has two batches ready, one in the making and one on its way: 8 beyond the epoch.
    assert 7 <= sum(shares[f"train/00000{n}.tar"] for n in range(2)) <= 7 + 8


def test_nothing_is_left_when_the_loader_is_dropped(on_s3):
    loader = make_loader(on_s3(), workers=2)
    next(iter(loader))
    assert len(multiprocessing.active_children()) == 2
    del loader
    assert not multiprocessing.active_children()
