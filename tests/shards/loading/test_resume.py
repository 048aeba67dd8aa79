"""A loader goes on exactly where it was, whatever happened to it; with a share of the proof."""

import dataclasses
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from torch.utils.data import DataLoader  # noqa: E402

from gopstream.jobs.bench import loading_resume, loading_resume_cases  # noqa: E402
from gopstream.jobs.bench.loading_resume import Combination, Shown  # noqa: E402
from gopstream.shards import MixedDataset, ShardDataset, StreamingLoader  # noqa: E402
from gopstream.shards.errors import DamageError, ShardError  # noqa: E402
from gopstream.shards.index import load_index  # noqa: E402
from gopstream.shards.loading.clip_reader import clip_arrays  # noqa: E402
from gopstream.shards.loading.clip_spec import ClipSpec, VectorSpec  # noqa: E402
from gopstream.shards.loading.clips import ClipDataset  # noqa: E402
from gopstream.shards.loading.epoch_orders import EpochOrders  # noqa: E402
from gopstream.shards.loading.order import Shuffle  # noqa: E402
from gopstream.shards.loading.places import EpochBatches, Share  # noqa: E402
from gopstream.shards.loading.slots import SharedSlots  # noqa: E402
from gopstream.shards.loading.transform_spec import TransformSpec  # noqa: E402
from gopstream.shards.local_storage import LocalStorage  # noqa: E402

SPEC = ClipSpec(
    num_frames=2, transform=TransformSpec(size=16, flip=0.5), vectors=VectorSpec(grid=4)
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    roots = loading_resume_cases.Roots(tmp_path_factory.mktemp("resume"))
    return loading_resume_cases.small_cases(roots)


@pytest.fixture(scope="module")
def dataset(dataset_root):
    """Seven samples."""
    return ShardDataset(dataset_root, "train")


@pytest.fixture(scope="module")
def epochs(dataset):
    """Prints of the batches of three epochs."""
    loader = make_loader(dataset)
    return [prints(loader) for _ in range(3)]


def make_loader(dataset, *, workers=0, batch_size=1, seed=1, **options):
    return StreamingLoader(
        dataset, SPEC, batch_size=batch_size, seed=seed, workers=workers, **options
    )


def print_of(batch):
    content = hashlib.sha256(batch.frames.numpy().tobytes() + batch.vectors.numpy().tobytes())
    return batch.keys, batch.positions.tolist(), content.hexdigest()


def prints(batches):
    return [print_of(batch) for batch in batches]


# A share of the proof


def test_a_run_goes_on_anywhere_in_a_share_of_all_ways(cases):
    case = dataclasses.replace(cases[0], all_workers=False)
    shown = loading_resume.prove_case(case, share=0.04)
    assert shown["failures"] == []
    assert (shown["positions"], shown["combinations"] > 80) == (7, True)
    assert shown["with_workers"] >= 2
    assert shown["worker_processes"] > shown["with_workers"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_other_orders_go_on_as_well(cases, number):
    case, rng = cases[number], random.Random(number)
    peace = loading_resume.run_in_peace(case)
    assert loading_resume.check_peace(case, peace) == []
    ways = list(loading_resume.combinations(case, peace, rng=rng, share=0.05))
    for how in rng.sample(ways, 20):
        assert loading_resume.go_on(case, peace, how)[1] == []


def test_places_alone_are_right_in_each_combination(cases):
    shown = loading_resume.prove_places(cases[0].before, (1, 5))
    assert shown == {"sizes": [1, 5], "combinations": 8 * 5 * 3 * 3 * 2, "failures": []}


def test_wrong_clips_batches_and_marks_are_found():
    """The proof can fail."""
    clips = [Shown(position, str(position), 0, f"content {position}") for position in range(5)]
    peace = loading_resume.Peace((clips, clips), [])
    fill = Combination(stop=1, world_size=2, workers=0, batch_size=3, last="fill")
    again = clips[0]._replace(is_repeat=True), clips[1]._replace(is_repeat=True)
    right = [[clips[1:4]], [[clips[4], *again]]]
    assert loading_resume.check_rest(fill, right, peace) == []
    assert loading_resume.check_rest(fill, right[::-1], peace) != []
    assert loading_resume.check_rest(fill, [[clips[1:4]], []], peace) != []
    assert loading_resume.check_rest(fill, [[clips[1:4]], [[clips[4], *clips[:2]]]], peace) != []
    other = clips[2]._replace(content="other")
    assert loading_resume.check_rest(fill, [[[clips[1], other, clips[3]]], right[1]], peace) != []
    drop = fill._replace(batch_size=1, last="drop", stop=2)
    assert loading_resume.check_rest(drop, [[clips[2:3]], [clips[3:4]]], peace) == []
    assert loading_resume.check_rest(drop, [[clips[2:3], clips[4:]], [clips[3:4], []]], peace) != []
    # What is left is no step: the next epoch.
    drop = drop._replace(stop=4)
    whole = [[clips[0:1], clips[2:3]], [clips[1:2], clips[3:4]]]
    assert loading_resume.check_rest(drop, whole, peace) == []
    assert loading_resume.check_rest(drop, [[], []], peace) != []


def test_what_was_not_tried_is_not_proven():
    row = {"name": "a run", "with_workers": 0, "failures": ["x"]}
    places = {"failures": ["y"]}
    result = {"places": places, "clips": [row], "kills": {"failures": []}}
    assert loading_resume.failures(result) == ["y", "x", "a run: no workers"]


# One loader, used in other ways than from end to end


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_breaks_is_gone_on_with_by_the_next_one(dataset, epochs, workers):
    loader = make_loader(dataset, workers=workers)
    shown = []
    while len(shown) < 14:
        for number, batch in enumerate(loader):
            shown.append(print_of(batch))
            if number == 2:
                break
    assert shown[:14] == epochs[0] + epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_abandoned_iterator_takes_nothing_with_it(dataset, epochs, workers):
    loader = make_loader(dataset, workers=workers)
    abandoned = iter(loader)
    shown = [print_of(next(abandoned))]
    del abandoned
    shown += prints(loader)
    assert [shown, prints(loader)] == epochs[:2]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_iterators_of_a_loader_share_an_epoch(dataset, epochs, workers):
    """Whichever asks gets the next batch; who is late finds the epoch at its end."""
    loader = make_loader(dataset, workers=workers)
    first, second = iter(loader), iter(loader)
    shown = [print_of(next(one)) for one in (first, second, first, first)]
    assert shown + prints(second) == epochs[0]
    assert list(first) == []
    assert [prints(loader), prints(loader)] == epochs[1:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_that_is_loaded_in_a_loop_holds_for_its_next_batch(dataset, epochs, workers):
    loader = make_loader(dataset, workers=workers)
    shown, states = [], [loader.state_dict()]
    for batch in loader:
        shown.append(print_of(batch))
        states.append(loader.state_dict())
        if len(shown) == 2:
            loader.load_state_dict(states[0])  # back to the beginning
        if len(shown) == 5:
            loader.load_state_dict(states[0] | {"epoch": 1, "position": 3})
    assert shown == epochs[0][:2] + epochs[0][:3] + epochs[1][3:]
    assert prints(loader) == epochs[2]


def test_several_loaders_at_once_do_not_meet(dataset, epochs):
    other = prints(make_loader(dataset, seed=2))
    assert other != epochs[0]
    loaders = [make_loader(dataset, seed=seed, workers=2) for seed in (1, 2, 1)]
    steps = list(zip(*loaders, strict=True))
    shown = [prints(batches) for batches in zip(*steps, strict=True)]
    assert shown == [epochs[0], other, epochs[0]]


@pytest.mark.parametrize("last", ["drop", "fill"])
def test_who_stops_at_the_last_batch_goes_on_with_the_next_epoch(dataset, epochs, last):
    loader = make_loader(dataset, last=last)
    running = iter(loader)
    assert [print_of(next(running)) for _ in range(len(loader))] == epochs[0]
    resumed = make_loader(dataset, last=last)
    resumed.load_state_dict(loader.state_dict())
    assert prints(resumed) == prints(loader) == epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_random_numbers_of_training(dataset, workers):
    before = torch.get_rng_state()
    list(make_loader(dataset, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_length_of_a_mixtures_epoch_counts_and_not_its_samples(dataset):
    """A step that no epoch fills would be waited for without end."""
    few, many = (MixedDataset([dataset], num_samples=n) for n in (3, 20))
    with pytest.raises(ShardError, match="has 3 samples, fewer than a batch of 4"):
        make_loader(few, batch_size=4)
    assert len(prints(make_loader(few, batch_size=4, last="fill"))) == 1
    assert len(prints(make_loader(many, batch_size=10))) == 2


# Errors in the middle


@pytest.fixture
def damaged(own_root, epochs):
    """A dataset whose sample at position 3 is damaged, its shard's path and its right bytes."""
    [key], _, _ = epochs[0][3]
    for name in ("000000", "000001"):
        index = load_index(LocalStorage(own_root), f"train/{name}.index.npz")
        if key.encode() in index.keys.tolist():
            break
    sample = index.keys.tolist().index(key.encode())
    path = own_root / "train" / f"{name}.tar"
    right = path.read_bytes()
    content = bytearray(right)
    for piece in range(*index.frames.start[sample : sample + 2].tolist()):
        content[int(index.frames.offset[piece]) + 200] ^= 1
    path.write_bytes(content)
    return own_root, path, right


@pytest.mark.parametrize("workers", [0, 2])
def test_after_an_error_the_same_batch_is_next(damaged, epochs, workers):
    root, path, right = damaged
    loader = make_loader(ShardDataset(root, "train"), workers=workers)
    shown = []
    for _ in range(2):
        with pytest.raises(DamageError, match="frames"):
            for batch in loader:
                shown.append(print_of(batch))
        assert loader.state_dict()["position"] == 3
    path.write_bytes(right)
    assert shown + prints(loader) == epochs[0]
    assert prints(loader) == epochs[1]
    # Ends its workers: the garbage collector, to which errors leave it, would take seconds.
    loader.load_state_dict(loader.state_dict())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_warning_that_is_an_error_loses_no_batch(damaged, workers):
    dataset = ShardDataset(damaged[0], "train")
    whole = make_loader(dataset, batch_size=2, on_error="skip")
    with pytest.warns(UserWarning, match="was left out"):
        want = prints(whole)
    assert [len(keys) for keys, _, _ in want] == [2, 1, 2]
    loader = make_loader(dataset, batch_size=2, workers=workers, on_error="skip")
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="was left out"):
            for batch in loader:
                shown.append(print_of(batch))
    with pytest.warns(UserWarning, match="was left out"):
        shown += prints(loader)
    assert shown == want
    assert loader.num_skipped == 1
    loader.load_state_dict(loader.state_dict())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_wait_loses_no_batch(dataset, epochs, error):
    others = set(multiprocessing.active_children())
    loader = make_loader(dataset, workers=1, prefetch=1)
    shown = [print_of(next(iter(loader)))]
    [worker] = set(multiprocessing.active_children()) - others

    def interrupt(number, frame):
        os.kill(worker.pid, signal.SIGCONT)
        raise error

    # A worker that stands still is waited for, whatever it has ready.
    os.kill(worker.pid, signal.SIGSTOP)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(error):
            for batch in loader:
                shown.append(print_of(batch))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 0 < len(shown) < 7
    assert shown + prints(loader) == epochs[0]
    assert prints(loader) == epochs[1]
    loader.load_state_dict(loader.state_dict())


# Processes and shared memory

# Everything below the condition: a child runs the rest of the script again.
SPAWNED = """
if __name__ == "__main__":
    import multiprocessing, sys
    sys.path.insert(0, sys.argv[2])
    import test_resume

    multiprocessing.set_start_method("spawn")
    dataset = test_resume.ShardDataset(sys.argv[1], "train")
    loader = test_resume.make_loader(dataset, workers=1)
    for _ in range(2):
        print(test_resume.prints(loader))
"""


def test_workers_that_are_spawned_give_the_same(dataset_root, epochs, tmp_path):
    """They do not inherit memory: everything they need has to be sent to them."""
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    command = [sys.executable, script, dataset_root, os.path.dirname(__file__)]  # noqa: PTH120
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(epoch) for epoch in epochs[:2]]


@pytest.mark.parametrize("prefetch", [1, 2, 3])
def test_a_slot_is_not_filled_again_before_it_was_copied(dataset, epochs, prefetch):
    """However long the training process waits with the copy, and however fast workers are."""
    slots = SharedSlots(clip_arrays(SPEC), batch_size=1, workers=2, prefetch=prefetch)
    clips = ClipDataset(dataset, SPEC, seed=1)
    clips.use(slots)
    orders = EpochOrders(dataset, seed=1, shuffle=Shuffle())
    places = (places for _ in range(3) for places in EpochBatches(orders, Share(1)).rest())
    loader = DataLoader(
        clips, batch_size=None, sampler=list(places), num_workers=2, prefetch_factor=prefetch
    )
    shown = []
    for filled in loader:
        time.sleep(0.03)  # workers go on as far as they may
        shown.append(print_of(slots.take(filled, pin_memory=False)))
    assert shown == epochs[0] * 3


def test_batches_that_are_kept_do_not_change(dataset, epochs):
    loader = make_loader(dataset, workers=2, prefetch=1)
    kept = [batch for _ in range(3) for batch in loader]
    assert prints(kept) == epochs[0] + epochs[1] + epochs[2]
