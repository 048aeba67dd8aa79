"""Steps of several batches: what makes a step does not depend on how it is divided."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.shards.loading.epoch_orders import EpochOrders
from gopstream.shards.loading.order import Shuffle, epoch_order
from gopstream.shards.loading.places import EpochBatches, Share, epoch_batches
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset

SIZES = st.integers(1, 60)
LASTS = st.sampled_from(["drop", "fill"])


@pytest.fixture(scope="module")
def dataset(dataset_root):
    """Seven samples in two shards."""
    return ShardDataset(dataset_root, "train")


@pytest.fixture(scope="module")
def mixtures_of(dataset):
    """Return a function that makes epochs of any length."""
    return lambda size: MixedDataset([dataset], num_samples=size)


def sampler(dataset, share):
    return EpochBatches(EpochOrders(dataset, seed=0, shuffle=Shuffle()), share, num_workers=1)


def samples(batches):
    return [[place.sample for place in batch] for batch in batches]


def steps_of(order, share_of, *, last, first=0):
    """Return the places of each step, over all ranks and parts, in their order."""
    batch_size, world_size, parts = share_of
    ranks = [
        list(
            epoch_batches(
                order, Share(batch_size, rank, world_size, last, parts), epoch=4, first=first
            )
        )
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert len(ranks[0]) % parts == 0
    return [
        [place for rank in ranks for batch in rank[begin : begin + parts] for place in batch]
        for begin in range(0, len(ranks[0]), parts)
    ]


def divisions(product):
    """Return each (batch size, ranks, batches per step) with a product."""
    return [
        (batch_size, world_size, product // batch_size // world_size)
        for batch_size in range(1, product + 1)
        for world_size in range(1, product + 1)
        if product % (batch_size * world_size) == 0
    ]


def test_a_step_of_two_ranks_and_two_batches_by_hand():
    order = np.arange(10, 20)
    shares = [Share(2, rank, 2, "drop", batches_per_step=2) for rank in range(2)]
    first, second = (list(epoch_batches(order, one, epoch=4, first=1)) for one in shares)
    assert (samples(first), samples(second)) == ([[11, 12], [13, 14]], [[15, 16], [17, 18]])
    assert (shares[0].step_size, shares[0].num_batches(15), shares[0].num_batches(16)) == (8, 2, 4)
    filled = Share(2, 1, 2, "fill", batches_per_step=2)
    assert filled.num_batches(9) == 4
    last = list(epoch_batches(order, filled, epoch=4, first=8))
    assert [place.position for batch in last for place in batch] == [2, 3, 4, 5]
    assert all(place.is_repeat for batch in last for place in batch)
    assert list(epoch_batches(order, filled, epoch=4, first=8, num_taken=1)) == last[1:]


@given(size=SIZES, product=st.sampled_from([1, 2, 4, 6, 8, 12]), last=LASTS, data=st.data())
def test_a_step_has_the_same_samples_however_it_is_divided(size, product, last, data):
    first = data.draw(st.integers(0, size))
    order = epoch_order(size, seed=1, epoch=4)
    whole = steps_of(order, (product, 1, 1), last=last, first=first)
    num_steps = (size - first) // product if last == "drop" else -(-(size - first) // product)
    assert len(whole) == num_steps
    for division in divisions(product):
        assert steps_of(order, division, last=last, first=first) == whole


@given(size=st.integers(1, 40), product=st.sampled_from([2, 4, 6]), last=LASTS, data=st.data())
def test_a_run_goes_on_in_another_division_with_the_same_steps(
    mixtures_of, size, product, last, data
):
    """The states are the same as well, and so is what an epoch counts."""
    mixture = mixtures_of(size)
    before, after = (data.draw(st.sampled_from(divisions(product))) for _ in range(2))
    [whole] = passes_of(mixture, (product, 1, 1), last=last)
    stop = data.draw(st.integers(0, len(whole)))
    running = samplers_of(mixture, before, last=last)
    shown = take_steps(running, before[2], stop)
    states = [one.state_dict() for one in running]
    assert all(state == states[0] for state in states)
    assert states[0]["position"] == min(stop * product, size)
    resumed = samplers_of(mixture, after, last=last)
    for one in resumed:
        one.load_state_dict(states[0])
        assert one.num_left() == (len(whole) - stop) * after[2]
    assert shown + take_steps(resumed, after[2], len(whole) - stop) == whole


def samplers_of(dataset, division, *, last):
    batch_size, world_size, parts = division
    return [
        sampler(dataset, Share(batch_size, rank, world_size, last, parts))
        for rank in range(world_size)
    ]


def take_steps(samplers, parts, num_steps):
    """Return the places of the next steps, over ranks and parts."""
    running = [iter(one) for one in samplers]
    return [
        [place for one in running for _ in range(parts) for place in next(one).places]
        for _ in range(num_steps)
    ]


def passes_of(dataset, division, *, last):
    """Return the steps of the first epoch, in a list."""
    samplers = samplers_of(dataset, division, last=last)
    return [take_steps(samplers, division[2], samplers[0].num_left() // division[2])]


@pytest.mark.parametrize("last", ["drop", "fill"])
def test_a_state_within_a_step_is_that_of_its_beginning(dataset, last):
    share = Share(1, last=last, batches_per_step=3)
    whole = sampler(dataset, share)
    want = [batch.places for batch in whole]
    assert len(want) == len(whole) == {"drop": 6, "fill": 9}[last]
    begun = sampler(dataset, share)
    running = iter(begun)
    states = [begun.state_dict()]
    for number in range(1, len(want) + 1):
        assert next(running).places == want[number - 1]
        states.append(begun.state_dict())
        assert begun.num_left() == len(want) - number
        # What is read ahead goes on within the step.
        assert [batch.places for batch in begun.rest()] == want[number:]
        assert list(itertools.islice(begun.endless(), len(want) - number)) == want[number:]
    beginnings = [number - number % 3 for number in range(len(want))] + [len(want)]
    assert [state["position"] for state in states] == [min(7, number) for number in beginnings]
    for state, number in zip(states, beginnings, strict=True):
        resumed = sampler(dataset, share)
        next(iter(resumed))  # a state is taken in the middle of a step as well
        resumed.load_state_dict(state)
        assert [batch.places for batch in resumed.rest()] == want[number:]


def test_an_epoch_that_is_begun_anew_within_a_step_has_whole_steps(dataset):
    batches = sampler(dataset, Share(1, batches_per_step=3))
    for begin in (lambda: batches.start_epoch(0), batches.next_epoch):
        next(iter(batches))
        begin()
        assert batches.num_left() == 6


def test_what_is_announced_is_each_position_once(dataset, monkeypatch):
    """As many at a time as all ranks take, so that a remote dataset is asked evenly."""
    told = []
    monkeypatch.setattr(
        EpochOrders, "announce", lambda self, order, position, count: told.append((position, count))
    )
    batches = sampler(dataset, Share(1, 1, 2, batches_per_step=3))
    next(iter(batches))
    list(itertools.islice(batches.endless(), 4))
    assert told == [(2, 2), (4, 2), (0, 2), (2, 2)]
