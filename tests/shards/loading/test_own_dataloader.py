"""Loaders that are not ours: torch's DataLoader and torchdata's StatefulDataLoader."""

import hashlib
import io

import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")
stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")

from torch.utils.data import DataLoader  # noqa: E402

from gopstream.shards import ShardDataset, StreamingLoader  # noqa: E402
from gopstream.shards.loading.clip_spec import ClipSpec  # noqa: E402
from gopstream.shards.loading.clips import ClipDataset  # noqa: E402
from gopstream.shards.loading.epoch_orders import EpochOrders  # noqa: E402
from gopstream.shards.loading.order import Shuffle  # noqa: E402
from gopstream.shards.loading.places import EpochBatches, Share  # noqa: E402
from gopstream.shards.loading.transform_spec import TransformSpec  # noqa: E402

SPEC = ClipSpec(
    num_frames=3, transform=TransformSpec(size=24, flip=0.5, jitter=1.0, brightness=0.4)
)
SEED = 3


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return ShardDataset(dataset_root, "train")


@pytest.fixture(scope="module")
def epochs(dataset):
    """Prints of the batches of three epochs, as our own loader gives them."""
    loader = StreamingLoader(dataset, SPEC, batch_size=2, seed=SEED)
    return [prints(loader) for _ in range(3)]


def prints(batches):
    return [print_of(batch) for batch in batches]


def print_of(batch):
    """Tell a batch by its clips' places and pixels."""
    content = hashlib.sha256(batch.frames.numpy().tobytes()).hexdigest()
    return batch.keys, batch.positions.tolist(), batch.labels.tolist(), content


def make(kind, dataset, *, workers, **options):
    sampler = EpochBatches(
        EpochOrders(dataset, seed=SEED, shuffle=Shuffle()), Share(2), num_workers=workers
    )
    clips = ClipDataset(dataset, SPEC, seed=SEED)
    return kind(clips, sampler=sampler, batch_size=None, num_workers=workers, **options), sampler


def saved(state):
    """Return a state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def rest_of(loader, state, *, num_epochs):
    loader.load_state_dict(state)
    return [prints(loader) for _ in range(num_epochs)]


def test_epochs_differ(epochs):
    assert len({str(batch) for epoch in epochs for batch in epoch}) == 9


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [DataLoader, stateful.StatefulDataLoader])
def test_each_pass_is_the_next_epoch(dataset, epochs, kind, workers):
    loader, sampler = make(kind, dataset, workers=workers)
    assert len(loader) == 3
    assert [prints(loader) for _ in range(3)] == epochs
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["position"]) == (3, 0)


@pytest.mark.parametrize("kind", [DataLoader, stateful.StatefulDataLoader])
def test_each_pass_is_the_next_epoch_with_workers_that_stay(dataset, epochs, kind):
    loader, _ = make(kind, dataset, workers=2, persistent_workers=True)
    assert [prints(loader) for _ in range(3)] == epochs


@pytest.mark.parametrize("prefetch", [1, 4])
def test_how_far_workers_are_ahead_plays_no_part(dataset, epochs, prefetch):
    loader, _ = make(DataLoader, dataset, workers=2, prefetch_factor=prefetch)
    assert [prints(loader) for _ in range(2)] == epochs[:2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_after_any_batch(dataset, epochs, workers):
    loader, _ = make(stateful.StatefulDataLoader, dataset, workers=workers)
    states = []
    for epoch in range(2):
        for number, _ in enumerate(loader, start=1):
            states.append((epoch, number, saved(loader.state_dict())))
    assert len(states) == 6
    for epoch, number, state in states if workers == 0 else states[::2]:
        resumed, _ = make(stateful.StatefulDataLoader, dataset, workers=workers)
        found = rest_of(resumed, state, num_epochs=3 - epoch)
        assert found == [epochs[epoch][number:], *epochs[epoch + 1 :]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_between_epochs(dataset, epochs, workers):
    loader, _ = make(stateful.StatefulDataLoader, dataset, workers=workers)
    before = saved(loader.state_dict())
    assert prints(loader) == epochs[0]
    between = saved(loader.state_dict())
    resumed, _ = make(stateful.StatefulDataLoader, dataset, workers=workers)
    assert rest_of(resumed, between, num_epochs=2) == epochs[1:]
    assert rest_of(resumed, before, num_epochs=2) == epochs[:2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_back_in_the_middle_of_an_epoch(dataset, epochs, workers):
    loader, _ = make(stateful.StatefulDataLoader, dataset, workers=workers)
    running = iter(loader)
    next(running)
    state = saved(loader.state_dict())
    next(running)
    assert rest_of(loader, state, num_epochs=2) == [epochs[0][1:], epochs[1]]


def test_a_stateful_loader_that_keeps_few_snapshots_resumes_as_exactly(dataset, epochs):
    make_one = lambda: make(  # noqa: E731
        stateful.StatefulDataLoader, dataset, workers=2, snapshot_every_n_steps=2
    )[0]
    loader = make_one()
    states = [saved(loader.state_dict()) for _ in loader]
    for number, state in enumerate(states, start=1):
        assert rest_of(make_one(), state, num_epochs=2) == [epochs[0][number:], epochs[1]]


def test_a_stateful_loader_refuses_the_state_of_another_seed(dataset):
    loader, _ = make(stateful.StatefulDataLoader, dataset, workers=0)
    next(iter(loader))
    sampler = EpochBatches(EpochOrders(dataset, seed=4, shuffle=Shuffle()), Share(2))
    clips = ClipDataset(dataset, SPEC, seed=4)
    other = stateful.StatefulDataLoader(clips, sampler=sampler, batch_size=None)
    with pytest.raises(ValueError, match="seed 3, this loader 4"):
        rest_of(other, loader.state_dict(), num_epochs=1)


def test_the_sampler_of_a_plain_loader_without_workers_has_the_state(dataset, epochs):
    loader, sampler = make(DataLoader, dataset, workers=0)
    states = [sampler.state_dict() for _ in loader]
    for number, state in enumerate(states, start=1):
        resumed, sampler = make(DataLoader, dataset, workers=2)
        sampler.load_state_dict(saved(state))
        assert [prints(resumed) for _ in range(2)] == [epochs[0][number:], epochs[1]]


def test_the_state_of_a_plain_loader_with_workers_is_counted_by_hand(dataset, epochs):
    """The sampler is as far as the workers, not as the loop: position is clips that were taken."""
    loader, sampler = make(DataLoader, dataset, workers=2)
    begun = sampler.state_dict()
    running = iter(loader)
    next(running)
    state = begun | {"position": begun["position"] + 2}
    assert sampler.state_dict() != state
    resumed, sampler = make(DataLoader, dataset, workers=2)
    sampler.load_state_dict(saved(state))
    assert [prints(resumed) for _ in range(2)] == [epochs[0][1:], epochs[1]]


def test_a_resume_divides_the_rest_among_other_ranks(dataset, epochs):
    loader, _ = make(stateful.StatefulDataLoader, dataset, workers=0)
    next(iter(loader))
    state = loader.state_dict()
    shown = []
    for rank in range(2):
        sampler = EpochBatches(
            EpochOrders(dataset, seed=SEED, shuffle=Shuffle()), Share(1, rank, 2, "fill")
        )
        clips = ClipDataset(dataset, SPEC, seed=SEED)
        resumed = stateful.StatefulDataLoader(clips, sampler=sampler, batch_size=None)
        shown.append(rest_of(resumed, saved(state), num_epochs=1)[0])
    assert [len(batches) for batches in shown] == [3, 3]
    taken = [batch[1][0] for step in zip(*shown, strict=True) for batch in step]
    assert taken == [2, 3, 4, 5, 6, 0]
