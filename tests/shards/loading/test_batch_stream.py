"""Worker processes live as long as the trainer wants them, and no longer."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.shards import ShardDataset, StreamingLoader  # noqa: E402
from gopstream.shards.loading.batch_stream import BatchStream  # noqa: E402
from gopstream.shards.loading.clip_spec import ClipSpec  # noqa: E402
from gopstream.shards.loading.clips import ClipDataset  # noqa: E402
from gopstream.shards.loading.places import BatchPlaces, Place  # noqa: E402
from gopstream.shards.loading.transform_spec import TransformSpec  # noqa: E402

SPEC = ClipSpec(num_frames=1, transform=TransformSpec(size=8))

# A trainer that goes on until it got a signal, and for longer than workers have batches ready.
TRAINER = """
import multiprocessing, os, signal, sys, time
from gopstream.shards import ClipSpec, ShardDataset, StreamingLoader, TransformSpec

SPEC = ClipSpec(num_frames=1, transform=TransformSpec(size=8))
loader = None  # stays until the process ends, and its iterator with it

def main(root, how):
    global loader
    got = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: got.append(number))
    if how == "error":  # and with a signal that comes before a worker can do anything about it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
    dataset = ShardDataset(root, "train")
    loader = StreamingLoader(dataset, SPEC, batch_size=1, seed=0, workers=2, prefetch=1)
    keys = [batch.keys[0] for batch in loader]
    pids = [child.pid for child in multiprocessing.active_children()]
    print("workers", *pids, flush=True)
    while not got:
        time.sleep(0.01)
    keys += [batch.keys[0] for _ in range(2) for batch in loader]
    same = [child.pid for child in multiprocessing.active_children()] == pids
    print("read", len(keys), "signal", int(got[0]), "workers are the same:", same, flush=True)
    if how == "error":
        raise SystemExit("a last word")

if __name__ == "__main__":
    root, how = sys.argv[1:]
    if how == "rank":
        rank = multiprocessing.get_context("fork").Process(target=main, args=sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        rank.start()
        rank.join()
        raise SystemExit(rank.exitcode)
    main(root, how)
"""


@pytest.fixture(scope="module")
def dataset(dataset_root):
    """Seven samples."""
    return ShardDataset(dataset_root, "train")


@pytest.fixture
def started():
    """A function that returns the processes that were started in this test, ended ones as well."""
    others = set(multiprocessing.active_children())
    return lambda: [one for one in multiprocessing.active_children() if one not in others]


@pytest.mark.parametrize(
    ("number", "how", "status"),
    [
        (signal.SIGTERM, "end", 0),
        (signal.SIGINT, "rank", 0),
        (signal.SIGHUP, "error", 1),
    ],
)
def test_a_signal_to_all_processes_of_a_run_leaves_it_its_workers(
    dataset_root, tmp_path, number, how, status
):
    """Then the trainer ends with its iterator still there, and leaves no process."""
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    command = [sys.executable, script, dataset_root, how]
    trainer = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    first = trainer.stdout.readline()
    os.killpg(trainer.pid, number)
    said, errors = trainer.communicate()
    assert trainer.returncode == status, errors
    assert errors == ("a last word\n" if status else "")
    words = first.split()
    assert words[0] == "workers"
    assert len(words) == 3
    assert said == f"read 21 signal {int(number)} workers are the same: True\n"
    assert not [pid for pid in words[1:] if is_there(int(pid))]
    with pytest.raises(ProcessLookupError):
        os.killpg(trainer.pid, 0)


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_end_by_themselves_with_the_iterator(dataset, started):
    loader = StreamingLoader(dataset, SPEC, batch_size=1, seed=0, workers=2)
    next(iter(loader))
    workers = started()
    assert len(workers) == 2
    assert all(worker.is_alive() for worker in workers)
    del loader
    assert [worker.exitcode for worker in workers] == [0, 0]


class SilentClips(ClipDataset):
    """Of which the second sample never comes."""

    def __getitem__(self, places):
        if places.places[0].sample == 1:
            threading.Event().wait()
        return super().__getitem__(places)


def test_a_worker_that_waits_for_something_ends_by_itself(dataset, started):
    """Torch would wait for it for five seconds and then send a signal that it ignores."""
    stream = BatchStream(SilentClips(dataset, SPEC, seed=0), SPEC, batch_size=1, workers=2)
    places = [BatchPlaces((Place(0, number, number),)) for number in range(3)]
    batches = stream.batches(iter(places))
    assert next(batches).keys == [dataset.keys[0]]
    workers = started()
    assert all(worker.is_alive() for worker in workers)
    batches.close()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_worker_that_stands_still_is_ended(dataset, started, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    loader = StreamingLoader(dataset, SPEC, batch_size=1, seed=0, workers=1)
    next(iter(loader))
    [worker] = started()
    os.kill(worker.pid, signal.SIGSTOP)
    del loader
    assert worker.exitcode == -signal.SIGKILL
