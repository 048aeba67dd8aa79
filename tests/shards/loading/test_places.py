"""Who reads what, when: each position of an epoch once over all ranks, wherever it was begun."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.shards.loading.epoch_orders import EpochOrders
from gopstream.shards.loading.order import Shuffle, epoch_order
from gopstream.shards.loading.places import (
    BatchPlaces,
    EpochBatches,
    Place,
    Share,
    epoch_batches,
    with_ahead,
)
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset

ORDER = np.array([5, 3, 9, 0, 7])
SIZES = st.integers(1, 60)
BATCHES = st.integers(1, 7)
WORLDS = st.sampled_from([1, 2, 3, 4, 8])
LASTS = st.sampled_from(["drop", "fill"])


@pytest.fixture(scope="module")
def dataset(dataset_root):
    """Seven samples in two shards."""
    return ShardDataset(dataset_root, "train")


def sampler(dataset, share=None, *, seed=0, shuffle=None, weights=None, num_workers=1):
    orders = EpochOrders(dataset, seed=seed, shuffle=shuffle or Shuffle(), weights=weights)
    return EpochBatches(orders, share or Share(2), num_workers=num_workers)


def all_ranks(order, *, batch_size, world_size, last, first):
    """Batches of each rank of the rest of epoch 4."""
    return [
        list(epoch_batches(order, Share(batch_size, rank, world_size, last), epoch=4, first=first))
        for rank in range(world_size)
    ]


def positions(batches):
    return [place.position for batch in batches for place in batch]


def samples(batches):
    return [[place.sample for place in batch] for batch in batches]


@pytest.mark.parametrize(
    ("num_positions", "drop", "fill"),
    [(0, 0, 0), (1, 0, 1), (5, 0, 1), (6, 1, 1), (7, 1, 2), (12, 2, 2), (13, 2, 3)],
)
def test_batches_of_three_clips_on_two_ranks(num_positions, drop, fill):
    for rank in range(2):
        assert Share(3, rank, 2, "drop").num_batches(num_positions) == drop
        assert Share(3, rank, 2, "fill").num_batches(num_positions) == fill
    assert Share(3, 0, 2).step_size == 6


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, r"rank must be in 0 \.\. 1, got 2"),
        ({"batch_size": 1, "rank": -1}, "rank must be in"),
        ({"batch_size": 1, "world_size": 0}, "rank must be in"),
        ({"batch_size": 1, "batches_per_step": 0}, "batches_per_step must be at least 1, got 0"),
        ({"batch_size": 1, "batches_per_step": 1.5}, "batches_per_step must be a whole number"),
        ({"batch_size": 1, "last": "keep"}, "last must be one of drop, fill, got 'keep'"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(words, problem):
    with pytest.raises(ValueError, match=problem):
        Share(**words)


def test_an_epoch_by_hand():
    [whole] = all_ranks(ORDER, batch_size=2, world_size=1, last="drop", first=0)
    assert whole == [(Place(4, 0, 5), Place(4, 1, 3)), (Place(4, 2, 9), Place(4, 3, 0))]
    [rest] = all_ranks(ORDER, batch_size=2, world_size=1, last="drop", first=3)
    assert rest == [(Place(4, 3, 0), Place(4, 4, 7))]


def test_each_rank_takes_its_part_of_a_step_by_hand():
    first, second = all_ranks(ORDER, batch_size=1, world_size=2, last="drop", first=1)
    assert (samples(first), samples(second)) == ([[3], [0]], [[9], [7]])


def test_a_last_step_is_filled_with_the_first_samples_by_hand():
    first, second = all_ranks(ORDER, batch_size=2, world_size=2, last="fill", first=2)
    assert first == [(Place(4, 2, 9), Place(4, 3, 0))]
    assert second == [(Place(4, 4, 7), Place(4, 0, 5, is_repeat=True))]


def test_fewer_samples_than_a_step_are_gone_round_several_times():
    [batches] = all_ranks(ORDER[:2], batch_size=5, world_size=1, last="fill", first=0)
    assert positions(batches) == [0, 1, 0, 1, 0]
    assert [place.is_repeat for place in batches[0]] == [False, False, True, True, True]
    assert all_ranks(ORDER[:2], batch_size=5, world_size=1, last="drop", first=0) == [[]]


@given(size=SIZES, batch_size=BATCHES, world_size=WORLDS, data=st.data())
def test_filled_ranks_show_each_position_of_the_rest_once(size, batch_size, world_size, data):
    first = data.draw(st.integers(0, size))
    order = epoch_order(size, seed=1, epoch=4)
    ranks = all_ranks(order, batch_size=batch_size, world_size=world_size, last="fill", first=first)
    places = [place for batches in ranks for batch in batches for place in batch]
    own = [place for place in places if not place.is_repeat]
    assert sorted(place.position for place in own) == list(range(first, size))
    assert sorted(place.sample for place in own) == sorted(order[first:].tolist())
    assert len(places) - len(own) == -(size - first) % (batch_size * world_size)
    assert all(place.sample == order[place.position] and place.epoch == 4 for place in places)


@given(size=SIZES, batch_size=BATCHES, world_size=WORLDS, data=st.data())
def test_dropping_ranks_lack_the_remainder_alone(size, batch_size, world_size, data):
    first = data.draw(st.integers(0, size))
    order = epoch_order(size, seed=1, epoch=4)
    ranks = all_ranks(order, batch_size=batch_size, world_size=world_size, last="drop", first=first)
    found = sorted(position for batches in ranks for position in positions(batches))
    lacking = (size - first) % (batch_size * world_size)
    assert found == list(range(first, size - lacking))
    assert not any(place.is_repeat for batches in ranks for batch in batches for place in batch)


@given(size=SIZES, batch_size=BATCHES, world_size=WORLDS, last=LASTS, data=st.data())
def test_ranks_have_equally_many_batches_and_steps_follow_each_other(
    size, batch_size, world_size, last, data
):
    first = data.draw(st.integers(0, size))
    ranks = all_ranks(
        np.arange(size), batch_size=batch_size, world_size=world_size, last=last, first=first
    )
    assert len({len(batches) for batches in ranks}) == 1
    assert len(ranks[0]) == Share(batch_size, 0, world_size, last).num_batches(size - first)
    taken = [p for step in zip(*ranks, strict=True) for p in positions(step)]
    assert taken == [position % size for position in range(first, first + len(taken))]


@given(counts=st.integers(0, 12), num_workers=st.integers(1, 5))
def test_a_batch_comes_with_the_next_one_of_its_worker(counts, num_workers):
    batches = [(Place(0, number, number),) for number in range(counts)]
    told = list(with_ahead(iter(batches), num_workers))
    assert [batch.places for batch in told] == batches
    for worker in range(num_workers):
        own = told[worker::num_workers]
        assert [b.ahead for b in own] == [b.places for b in own[1:]] + [()] * bool(own)


def test_no_more_is_taken_ahead_than_told():
    """Else an endless stream would never begin."""
    endless = ((Place(0, number, number),) for number in itertools.count())
    assert next(with_ahead(endless, 2)) == BatchPlaces((Place(0, 0, 0),), (Place(0, 2, 2),))
    assert next(endless) == (Place(0, 3, 3),)


def test_a_pass_gives_an_epoch_and_steps_to_the_next(dataset):
    batches = sampler(dataset)
    orders = EpochOrders(dataset, seed=0, shuffle=Shuffle())
    for epoch in range(3):
        assert (batches.state_dict()["epoch"], batches.state_dict()["position"]) == (epoch, 0)
        found = [[place.sample for place in batch.places] for batch in batches]
        assert found == orders.order(epoch, 7)[:6].reshape(3, 2).tolist()


@pytest.mark.parametrize("times", [1, 2, 5])
def test_the_next_epoch_begins_once_however_often_the_end_is_asked_for(dataset, times):
    """A DataLoader with workers asks once more for each batch that they have under way."""
    batches = sampler(dataset)
    one_pass = iter(batches)
    assert len(list(one_pass)) == 3
    for _ in range(times):
        with pytest.raises(StopIteration):
            next(one_pass)
    assert (batches.state_dict()["epoch"], batches.state_dict()["position"]) == (1, 0)


@pytest.mark.parametrize("last", ["drop", "fill"])
def test_a_state_of_any_batch_gives_the_same_rest(dataset, last):
    share = Share(2, last=last)
    whole = sampler(dataset, share)
    want = [batch.places for batch in itertools.chain(whole, whole)]
    running = sampler(dataset, share)
    states = [running.state_dict()]
    for _ in range(2):
        states += [json.loads(json.dumps(running.state_dict())) for _ in running]
    assert len(states) == len(want) + 1
    for number, state in enumerate(states):
        resumed = sampler(dataset, share)
        resumed.load_state_dict(state)
        shown = number - len(want) // 2 * state["epoch"]
        assert resumed.num_left() == len(want) // 2 - shown
        rest = [batch.places for batch in itertools.chain(resumed, resumed)]
        assert rest[: len(want) - number] == want[number:]


def test_the_state_of_a_pass_is_that_after_the_last_batch_it_gave(dataset):
    running = iter(sampler(dataset))
    next(running)
    state = running.state_dict()
    rest = [batch.places for batch in running]
    other = iter(sampler(dataset))
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert [batch.places for batch in other] == rest
    other.load_state_dict(state)  # a pass that has ended takes up a state as well
    assert [batch.places for batch in other] == rest
    assert other.state_dict()["epoch"] == 1


def test_looking_at_what_follows_changes_nothing(dataset):
    batches = sampler(dataset, num_workers=2)
    next(iter(batches))
    before = batches.state_dict()
    rest = [batch.places for batch in batches.rest()]
    stream = list(itertools.islice(batches.endless(), 8))
    assert batches.state_dict() == before
    assert [batch.places for batch in batches] == rest
    follow = [batch.places for _ in range(2) for batch in batches]
    assert stream == rest + follow


@pytest.mark.parametrize("weights", [None, np.array([1.0, 2, 3, 4, 5, 6, 7])])
def test_an_epoch_over_fewer_samples_is_followed_by_one_over_all(dataset, dataset_root, weights):
    """Samples that were appended come with the next epoch."""
    [first_shard, _] = dataset.manifest.shards
    fewer = ShardDataset(dataset_root, "train", shards=[first_shard.name])
    own = None if weights is None else weights[: len(fewer)]
    begun = sampler(fewer, Share(1), weights=own)
    next(iter(begun))
    grown = sampler(dataset, Share(1), weights=weights)
    assert grown.state_dict()["num_samples"] == 7
    grown.load_state_dict(begun.state_dict())
    assert grown.state_dict() == begun.state_dict()
    assert (len(grown), grown.num_left()) == (len(fewer), len(fewer) - 1)
    stream = list(itertools.islice(grown.endless(), len(fewer) + 6))
    assert [batch.places for batch in grown] == [batch.places for batch in begun]
    assert (len(grown), grown.state_dict()["num_samples"]) == (7, 7)
    assert stream[len(fewer) - 1 :] == [batch.places for batch in grown]


@pytest.mark.parametrize("last", ["drop", "fill"])
def test_a_state_from_behind_the_last_sample_has_nothing_left(dataset, last):
    wide = sampler(dataset, Share(4, world_size=4, last="fill"))
    running = iter(wide)
    next(running)
    state = running.state_dict()
    assert state["position"] == 7
    early = state | {"position": 16}  # states of before said where the step ended
    del early["content"]
    for told in (state, early):
        narrow = sampler(dataset, Share(1, last=last))
        narrow.load_state_dict(told)
        assert narrow.num_left() == 0
        assert list(narrow) == []
        assert narrow.num_left() == 7


@given(size=st.integers(1, 40), before=WORLDS, after=WORLDS, last=LASTS, data=st.data())
def test_the_rest_is_the_same_with_another_number_of_ranks(
    mixtures_of, size, before, after, last, data
):
    """What was shown and what is shown then make up the epoch, however it was divided."""
    mixture = mixtures_of(size)
    batch_size = data.draw(st.integers(1, 3))
    shares = [Share(batch_size, rank, before, last) for rank in range(before)]
    running = [iter(sampler(mixture, share)) for share in shares]
    stop = data.draw(st.integers(0, len(sampler(mixture, shares[0]))))
    shown = [next(one).places for _ in range(stop) for one in running]
    states = [one.state_dict() for one in running]
    assert all(state == states[0] for state in states)
    for rank in range(after):
        resumed = sampler(mixture, Share(1, rank, after, "fill"))
        resumed.load_state_dict(states[0])
        shown += [batch.places for batch in resumed]
    own = [place for batch in shown for place in batch if not place.is_repeat]
    assert sorted(place.position for place in own) == list(range(size))
    assert len({(place.position, place.sample) for place in own}) == size


@pytest.fixture(scope="module")
def mixtures_of(dataset):
    """Return a function that makes epochs of any length."""
    return lambda size: MixedDataset([dataset], num_samples=size)


def test_the_position_of_a_rank_counts_over_all_ranks(dataset):
    running = iter(sampler(dataset, Share(1, rank=1, world_size=3)))
    next(running)
    assert running.state_dict()["position"] == 3


REFUSED = {
    "another seed": ({"seed": 1}, {}, "seed 1, this loader 0"),
    "another mode": ({"shuffle": Shuffle("none")}, {}, "shuffle 'none', this loader 'global'"),
    "other windows": (
        {"shuffle": Shuffle("windows", 1)},
        {"shuffle": Shuffle("windows", 2)},
        "window_shards 1, this loader 2",
    ),
    "weights that are gone": ({"weights": np.arange(7.0)}, {}, "with other weights="),
    "weights that are new": ({}, {"weights": np.arange(7.0)}, "with other weights="),
    "other weights": (
        {"weights": np.arange(7.0)},
        {"weights": np.arange(7.0) + 1},
        "with other weights=.* other samples",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_state_of_another_order_is_refused(dataset, case):
    before, after, problem = REFUSED[case]
    state = sampler(dataset, **before).state_dict()
    with pytest.raises(ValueError, match=problem):
        sampler(dataset, **after).load_state_dict(state)


def test_a_state_of_another_mixture_is_refused(dataset, dataset_root):
    left = ShardDataset(dataset_root, "train", classes=["left"])
    state = sampler(MixedDataset([dataset, left], num_samples=10)).state_dict()
    assert json.loads(json.dumps(state)) == state
    for other, problem in (
        (MixedDataset([dataset, left], num_samples=12), "num_samples 10, this loader 12"),
        (MixedDataset([dataset, left], num_samples=8), "num_samples 10, this loader 8"),
        (MixedDataset([left, dataset], num_samples=10), "sizes"),
        (MixedDataset([dataset, left], weights=[1, 2], num_samples=10), "weights"),
        (dataset, "the state is of a mixture, this loader reads one dataset"),
    ):
        with pytest.raises(ValueError, match=problem):
            sampler(other).load_state_dict(state)
    with pytest.raises(ValueError, match="of one dataset, this loader reads a mixture"):
        sampler(MixedDataset([dataset])).load_state_dict(sampler(dataset).state_dict())


def test_a_state_of_another_selection_of_as_many_samples_is_refused(dataset, dataset_root):
    names = dataset.keys
    some, others = (
        ShardDataset(dataset_root, "train", where=f"key in {keys!r}")
        for keys in (names[:3], names[1:4])
    )
    assert len(some) == len(others) == 3
    for make in (lambda d: d, lambda d: MixedDataset([dataset, d])):
        state = sampler(make(some)).state_dict()
        sampler(make(some)).load_state_dict(state)
        with pytest.raises(ValueError, match="another where=, classes= or labels="):
            sampler(make(others)).load_state_dict(state)


def test_what_cannot_be_meant_is_refused_before_anything_is_read(dataset):
    for seed in (-1, 1 << 64):
        with pytest.raises(ValueError, match=f"seed must be from 0 to .*, got {seed}"):
            sampler(dataset, seed=seed)
    with pytest.raises(ValueError, match="3 weights for 7 samples"):
        sampler(dataset, weights=np.ones(3))
    with pytest.raises(ValueError, match="a mixture has its own"):
        sampler(MixedDataset([dataset]), weights=np.ones(7))
    with pytest.raises(ValueError, match="positive and finite"):
        MixedDataset([dataset], weights=[0.0])
