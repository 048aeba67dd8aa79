"""What goes wrong while a loader runs: servers, credentials, disks, processes.

What is protected: no clip is ever wrong, and none is missing unless that is said; what cannot be
read is an error that names shard, sample and address; nothing hangs; and a run that was stopped
by an error continues from its state. Damage of the files themselves is in
``tests/jobs/test_loading_proofs.py``.
"""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from torch.utils.data import DataLoader  # noqa: E402

from gopstream.jobs.bench.loading_faults import SPEC, hashes  # noqa: E402
from gopstream.jobs.bench.sharding_disk import LimitedDisk, NoNamespaceError  # noqa: E402
from gopstream.shards import ShardDataset, StreamingLoader  # noqa: E402
from gopstream.shards.byte_ranges import Cache, ReadOptions  # noqa: E402
from gopstream.shards.errors import DamageError, ShardError  # noqa: E402
from gopstream.shards.loading.clips import ClipDataset  # noqa: E402
from gopstream.shards.loading.epoch_orders import EpochOrders  # noqa: E402
from gopstream.shards.loading.order import Shuffle  # noqa: E402
from gopstream.shards.loading.places import EpochBatches, Share  # noqa: E402
from gopstream.shards.storage import open_storage  # noqa: E402
from s3_server import wait_until  # noqa: E402

PLANES = ("frames", "motion", "residual")
NO_CACHE = ReadOptions(cache=None)
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(autouse=True)
def short_tries(monkeypatch):
    """Single tries are over long before patience is; workers inherit it."""
    monkeypatch.setattr("gopstream.pipeline.object_store._ONE_TRY_SECONDS", 0.05)


@pytest.fixture
def workers_left():
    """A function that returns the processes that were started in this test and still run."""
    gc.collect()
    others = multiprocessing.active_children()
    return lambda: [child for child in multiprocessing.active_children() if child not in others]


@pytest.fixture
def bucket(s3, dataset_root):
    for path in sorted(dataset_root.rglob("*")):
        if path.is_file():
            s3.put(f"set/{path.relative_to(dataset_root)}", path.read_bytes())
    return s3


@pytest.fixture
def open_remote(bucket):
    """A function that opens the dataset in the bucket: (reading, patience=, ...)."""

    def open_dataset(reading=NO_CACHE, **more):
        storage = open_storage(f"{bucket.url}/set", bucket.options(**more))
        return ShardDataset(storage, "train", reading=reading)

    return open_dataset


def make_loader(dataset, *, workers=0, batch_size=2, **more):
    return StreamingLoader(
        dataset, SPEC, batch_size=batch_size, seed=3, workers=workers, pin_memory=False, **more
    )


def epoch(loader):
    return [hashes(batch) for batch in loader]


@pytest.fixture(scope="module")
def from_disk(dataset_root):
    """Two epochs."""
    loader = make_loader(ShardDataset(dataset_root, "train"))
    return [epoch(loader), epoch(loader)]


def is_tar(request):
    return request.method == "GET" and request.target.partition("?")[0].endswith(".tar")


# Servers


@WORKERS
def test_a_storm_of_busy_answers_passes(bucket, open_remote, from_disk, workers):
    loader = make_loader(open_remote(), workers=workers)
    fault = bucket.proxy.answer(503, times=30, matches=is_tar)
    assert [epoch(loader), epoch(loader)] == from_disk
    assert fault.times == 0


@WORKERS
def test_connections_that_are_cut_are_made_again(bucket, open_remote, from_disk, workers):
    loader = make_loader(open_remote(), workers=workers)
    faults = [bucket.proxy.cut_response(after=n, times=3, matches=is_tar) for n in (0, 700)]
    assert [epoch(loader), epoch(loader)] == from_disk
    assert [fault.times for fault in faults] == [0, 0]


@WORKERS
def test_a_slow_server_and_one_that_falls_silent_are_waited_for(
    bucket, open_remote, from_disk, workers
):
    loader = make_loader(open_remote(patience=2.0), workers=workers)  # silence is over after one
    bucket.proxy.before = lambda request: time.sleep(0.03)
    fault = bucket.proxy.hang(after=300, times=1, matches=is_tar)
    assert epoch(loader) == from_disk[0]
    assert fault.times == 0


@WORKERS
def test_a_server_that_is_away_for_a_while_is_waited_for(bucket, open_remote, from_disk, workers):
    loader = make_loader(open_remote(), workers=workers, prefetch=1)
    batches = iter(loader)
    begun = [hashes(next(batches))]
    with bucket.proxy.away_for(0.3):
        rest = [hashes(batch) for batch in batches]
    assert begun + rest == from_disk[0]


@WORKERS
def test_a_server_that_stays_away_is_an_error_and_the_run_continues(
    bucket, open_remote, from_disk, workers_left, workers
):
    """The state after the error is that of the next batch: nothing is lost, nothing repeated."""
    loader = make_loader(open_remote(patience=1.0), workers=workers)
    got = [hashes(next(iter(loader)))]
    bucket.proxy.go_away()
    with pytest.raises(ShardError, match="sample .*failed for") as caught:
        for _ in range(10):  # what was ready is still given
            for batch in loader:
                got.append(hashes(batch))
    assert f"{bucket.url}/set/train/00000" in str(caught.value)
    assert not workers_left()
    state = json.loads(json.dumps(loader.state_dict()))
    bucket.proxy.come_back()
    both = [*from_disk[0], *from_disk[1]]
    assert got == both[: len(got)]
    rest = [hashes(batch) for batch in loader]
    assert got + rest == both[: len(got) + len(rest)]
    other = make_loader(open_remote(), workers=0)
    other.load_state_dict(state)
    assert epoch(other) == rest


def test_a_server_that_stays_away_is_never_skipped(bucket, open_remote):
    """The bytes may be right: leaving them out would train on another dataset in an outage."""
    loader = make_loader(open_remote(patience=0.5), on_error="skip")
    bucket.proxy.answer(503, times=10**9, matches=is_tar)
    with pytest.raises(ShardError, match="failed for") as caught:
        epoch(loader)
    assert not isinstance(caught.value, DamageError)
    assert loader.num_skipped == 0


def test_an_index_that_does_not_come_is_an_error_that_names_it(bucket, open_remote, workers_left):
    """What its key is only the index says: the error has the sample's number."""
    dataset = open_remote(patience=0.5)
    bucket.proxy.answer(503, times=10**9, matches=lambda r: "index.npz" in r.target)
    for workers in (0, 2):
        with pytest.raises(
            ShardError, match=r"sample \d of s3://.*train/00000[01]\.index\.npz.*failed for"
        ):
            epoch(make_loader(dataset, workers=workers, on_error="skip"))
        assert not workers_left()


@WORKERS
def test_an_index_of_the_next_batch_that_does_not_come_costs_no_batch(bucket, open_remote, workers):
    """What is read ahead waits for its turn to be an error, and is then asked for again."""
    order = [key for batch in make_loader(open_remote(), batch_size=1) for key in batch.keys]
    keys = open_remote().keys
    first_shard = set(keys[: open_remote().shard_starts[1]])
    away = "000000" if order[0] not in first_shard else "000001"
    good = next(n for n, key in enumerate(order) if (key in first_shard) == (away == "000000"))
    loader = make_loader(open_remote(patience=0.5), batch_size=1, workers=workers)
    fault = bucket.proxy.answer(503, times=10**9, matches=lambda r: f"{away}.index" in r.target)
    got = []
    with pytest.raises(ShardError, match=rf"train/{away}\.index\.npz.*failed for"):
        for batch in loader:
            got += batch.keys
    assert got == order[:good]
    fault.times = 0
    assert got + [key for batch in loader for key in batch.keys] == order


@WORKERS
def test_credentials_that_expire_in_an_epoch_are_renewed(
    bucket, open_remote, from_disk, tmp_path, workers
):
    """From some request on the server takes no key that was made before."""
    folder = tmp_path / "keys"
    folder.mkdir()
    script = tmp_path / "credentials.py"
    script.write_text(
        "import json, os, pathlib\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "now = (folder / 'now').read_text()\n"
        "(folder / f'{now}-{os.getpid()}').touch()\n"
        'print(json.dumps({"Version": 1, "AccessKeyId": now, "SecretAccessKey": "s",'
        ' "SessionToken": "t"}))\n'
    )
    (folder / "now").write_text("FIRST")
    bucket.proxy.valid_keys = {"FIRST"}
    loader = make_loader(
        open_remote(credentials_command=f"'{sys.executable}' '{script}'"), workers=workers
    )
    batches = iter(loader)
    got = [hashes(next(batches))]
    (folder / "now").write_text("SECOND")
    bucket.proxy.valid_keys = {"SECOND"}
    got += [hashes(batch) for batch in batches]
    assert [got, epoch(loader)] == from_disk
    while not list(folder.glob("SECOND-*")):  # workers may have had all of that ready
        assert len(epoch(loader)) == 3


# The cache


@pytest.fixture
def warm_cache(tmp_path, open_remote):
    """A cache that holds all files of the dataset."""
    cache = Cache(tmp_path / "cache", 1 << 30)
    dataset = open_remote(ReadOptions(cache=cache, planes=PLANES))
    loader = make_loader(dataset)
    while len(list((cache.folder / "files").glob("*.tar"))) < 4:
        epoch(loader)
    dataset._ranges.close()
    return cache


def copies(cache):
    return sorted((cache.folder / "files").glob("*.tar"))


def damage_copy(path, how):
    content = path.read_bytes()
    if how == "flipped":
        path.write_bytes(bytes(byte ^ 4 for byte in content))
    else:
        os.truncate(path, len(content) // 2 if how == "cut" else 0)


@WORKERS
@pytest.mark.parametrize("how", ["flipped", "cut", "emptied"])
def test_copies_that_are_damaged_are_read_again(open_remote, warm_cache, from_disk, how, workers):
    before = [path.read_bytes() for path in copies(warm_cache)]
    for path in copies(warm_cache):
        damage_copy(path, how)
    loader = make_loader(open_remote(ReadOptions(cache=warm_cache, planes=PLANES)), workers=workers)
    assert [epoch(loader), epoch(loader)] == from_disk
    assert loader.num_skipped == 0
    left = {path.read_bytes() for path in copies(warm_cache)}
    assert left <= set(before)


@WORKERS
def test_copies_that_are_damaged_while_they_are_read(open_remote, warm_cache, from_disk, workers):
    loader = make_loader(
        open_remote(ReadOptions(cache=warm_cache, planes=PLANES)),
        workers=workers,
        on_error="skip",
        prefetch=1,
    )
    batches = iter(loader)
    got = [hashes(next(batches))]
    for path, how in zip(copies(warm_cache), ("flipped", "cut", "emptied", "cut"), strict=True):
        damage_copy(path, how)
    got += [hashes(batch) for batch in batches]
    assert [got, epoch(loader)] == from_disk
    assert loader.num_skipped == 0


def test_copies_of_two_shards_that_changed_places(open_remote, warm_cache, from_disk):
    first, second = (p for p in copies(warm_cache) if not p.name.endswith("residual.tar"))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1][: len(contents[0])].ljust(len(contents[0]), b"\0"))
    second.write_bytes(contents[0][: len(contents[1])].ljust(len(contents[1]), b"\0"))
    loader = make_loader(open_remote(ReadOptions(cache=warm_cache, planes=PLANES)))
    assert [epoch(loader), epoch(loader)] == from_disk


@WORKERS
@pytest.mark.parametrize("fetch", ["ranges", "shards"])
def test_a_full_disk_stops_the_cache_alone(tmp_path, open_remote, from_disk, fetch, workers):
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        disk = LimitedDisk(folder, num_bytes=120_000)  # less than the four files have
    except NoNamespaceError as error:
        pytest.skip(str(error))
    with disk, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the cache .* stops to grow")
        cache = Cache(disk.content / "cache", 1 << 30)
        dataset = open_remote(ReadOptions(cache=cache, fetch=fetch, planes=PLANES))
        loader = make_loader(dataset, workers=workers)
        assert [epoch(loader), epoch(loader)] == from_disk
        if workers == 0:
            wait_until(lambda: dataset.counters.cache_is_full == 1)
        del loader
        dataset._ranges.close()


# Processes


def kill_a_worker(workers_left):
    """Kill one as the system does that has no memory left."""
    victim = workers_left()[0]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()


@pytest.mark.parametrize("place", ["disk", "server"])
def test_a_worker_that_was_killed_is_an_error_and_the_run_continues(
    dataset_root, request, from_disk, workers_left, place
):
    """Torch may hear of it wherever this process is, and so the error may be its own."""
    is_local = place == "disk"
    dataset = (
        ShardDataset(dataset_root, "train")
        if is_local
        else request.getfixturevalue("open_remote")()
    )
    loader = make_loader(dataset, workers=2)
    got = [hashes(next(iter(loader)))]
    with pytest.raises((ShardError, RuntimeError), match="killed by signal|exited unexpectedly"):
        kill_a_worker(workers_left)
        for _ in range(10):  # what was ready is still given
            for batch in loader:
                got.append(hashes(batch))
    assert not workers_left()
    rest = [hashes(batch) for batch in loader]
    both = [*from_disk[0], *from_disk[1]]
    assert got + rest == both[: len(got) + len(rest)]


SMALL_SHARED_MEMORY = """
import sys
from gopstream.jobs.bench.loading_faults import SPEC
from gopstream.shards import ShardDataset, StreamingLoader
from gopstream.shards.errors import ShardError
loader = StreamingLoader(ShardDataset(sys.argv[1], "train"), SPEC, batch_size=2, seed=0, workers=2)
try:
    next(iter(loader))
except ShardError as error:
    print(error)
loader = StreamingLoader(ShardDataset(sys.argv[1], "train"), SPEC, batch_size=2, seed=0)
print(len(next(iter(loader)).keys))
"""


def test_too_little_shared_memory_is_said(dataset_root, tmp_path):
    """Without the check the workers would be killed by the system, one after the other."""
    (tmp_path / "probe").mkdir()
    try:
        with LimitedDisk(tmp_path / "probe", num_bytes=4096):
            pass
    except NoNamespaceError as error:
        pytest.skip(str(error))
    mount = 'mount -t tmpfs -o size=200k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    command += [sys.executable, "-c", SMALL_SHARED_MEMORY, str(dataset_root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    message, rest = done.stdout.splitlines()
    assert "of shared memory, /dev/shm has 0 MB left" in message
    assert "--shm-size" in message
    assert rest == "2"


def test_a_worker_does_not_wait_for_what_its_parent_asked_for(bucket, open_remote, from_disk):
    """The first batch was asked for ahead in this process; then workers are forked."""
    dataset = open_remote()
    clips = ClipDataset(dataset, SPEC, seed=3)
    orders = EpochOrders(dataset, seed=3, shuffle=Shuffle())
    sampler = EpochBatches(orders, Share(2), num_workers=0)
    released, of_first = threading.Event(), set()

    def what_it_asks(request):
        return request.target, request.headers.get("range")

    def hold_what_is_ahead(request):
        if is_tar(request) and what_it_asks(request) not in of_first:
            released.wait()

    bucket.proxy.before = lambda request: of_first.add(what_it_asks(request))
    first = next(iter(EpochBatches(orders, Share(2), num_workers=0)))
    ClipDataset(open_remote(), SPEC, seed=3)[first._replace(ahead=())]
    bucket.proxy.before = hold_what_is_ahead
    batches = iter(DataLoader(clips, sampler=sampler, batch_size=None))
    got = [hashes(next(batches))]
    assert clips._started
    rest = iter(DataLoader(clips, sampler=sampler, batch_size=None, num_workers=2))
    released.set()
    got += [hashes(batch) for batch in rest]
    assert got == from_disk[0]


def test_clips_that_are_on_their_way_stay_behind_in_a_pickle(open_remote):
    dataset = open_remote()
    clips = ClipDataset(dataset, SPEC, seed=3)
    orders = EpochOrders(dataset, seed=3, shuffle=Shuffle())
    sampler = EpochBatches(orders, Share(2), num_workers=0)
    clips[next(iter(sampler))]
    assert clips._started
    copied = multiprocessing.reduction.ForkingPickler.loads(
        multiprocessing.reduction.ForkingPickler.dumps(clips)
    )
    assert not copied._started


# Clips that are left out


def delete_first_shard(root):
    (root / "train" / "000000.tar").unlink()


def test_what_is_left_out_is_counted_reported_and_warned_of_once(own_root):
    delete_first_shard(own_root)
    dataset = ShardDataset(own_root, "train")
    lost = set(dataset.keys[: dataset.shard_starts[1]])
    loader = make_loader(dataset, batch_size=7, on_error="skip")
    with pytest.warns(UserWarning, match="a clip was left out: shard .*000000") as warned:
        (batch,) = loader
    list(loader)
    assert {skip.key for skip in batch.skipped} == lost
    assert sorted([*batch.keys, *lost]) == sorted(dataset.keys)
    assert len(warned) == 1
    assert loader.num_skipped == len(loader.skipped) == 2 * len(lost)


def test_a_batch_of_which_nothing_is_left_is_an_error(own_root):
    delete_first_shard(own_root)
    loader = make_loader(ShardDataset(own_root, "train"), batch_size=1, on_error="skip")
    with (
        warnings.catch_warnings(),
        pytest.raises(ShardError, match=r"no clip of a batch of 1 can be read.*000000\.tar"),
    ):
        warnings.simplefilter("ignore")
        epoch(loader)


@WORKERS
def test_a_fault_of_the_next_batch_does_not_end_the_present_one(bucket, open_remote, workers):
    """The batch that comes next is asked for ahead; its index is damaged."""
    dataset = open_remote()
    loader = make_loader(dataset, batch_size=1, workers=workers)
    order = [key for batch in loader for key in batch.keys]
    of_first = set(dataset.keys[: dataset.shard_starts[1]])
    damaged = "000000" if order[0] not in of_first else "000001"
    bucket.put(f"set/train/{damaged}.index.npz", b"nothing")
    good = next(n for n, key in enumerate(order) if (key in of_first) == (damaged == "000000"))
    loader = make_loader(open_remote(), batch_size=1, workers=workers)
    got = []
    with pytest.raises(ShardError, match=rf"train/{damaged}\.index\.npz"):
        for batch in loader:
            got += batch.keys
    assert got == order[:good]
    assert good >= 1


def test_a_reader_that_is_stopped_by_hand_ends_its_workers(open_remote, bucket, workers_left):
    """Ctrl-C while a batch is waited for."""
    loader = make_loader(open_remote(), workers=1)
    next(iter(loader))
    bucket.proxy.go_away()
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(10):
            for _ in loader:
                pass
    timer.join()
    assert not workers_left()
