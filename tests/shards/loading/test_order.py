"""An order is a function of seed and epoch alone, and has each sample as often as it should."""

import tracemalloc
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.shards.loading import order as order_module
from gopstream.shards.loading.order import Mode, Shuffle, draw_generator, epoch_order

GOLDEN_ORDER = [4, 8, 0, 1, 7, 6, 2, 5, 3, 9]
GOLDEN_WINDOWS = [8, 0, 1, 2, 9, 4, 7, 6, 5, 3]
GOLDEN_WEIGHTED = [6, 9, 2, 4, 8, 8, 5, 7, 6, 9]
GOLDEN_DRAWS = [0.8535001692919197, 0.6193152283162884, 0.6815260578407656]


@pytest.mark.parametrize("num_samples", [0, 1, 2, 10, 1000])
def test_the_order_is_a_permutation(num_samples):
    order = epoch_order(num_samples, seed=3, epoch=5)
    np.testing.assert_array_equal(np.sort(order), np.arange(num_samples))


def test_the_order_of_a_seed_never_changes():
    assert epoch_order(10, seed=0, epoch=0).tolist() == GOLDEN_ORDER


def test_the_draws_of_a_position_never_change():
    drawn = draw_generator(seed=0, epoch=0, position=0).random(3)
    np.testing.assert_allclose(drawn, GOLDEN_DRAWS, rtol=0, atol=1e-15)


def test_each_epoch_and_each_seed_has_its_own_order():
    orders = {
        tuple(epoch_order(50, seed=seed, epoch=epoch).tolist())
        for seed in range(8)
        for epoch in range(8)
    }
    assert len(orders) == 64


def test_each_position_has_its_own_draws_whatever_was_drawn_before():
    first = draw_generator(seed=1, epoch=2, position=3).random(4)
    draw_generator(seed=1, epoch=2, position=4).random(4)
    again = draw_generator(seed=1, epoch=2, position=3).random(4)
    np.testing.assert_array_equal(first, again)
    places = [(1, 2, 4), (1, 3, 3), (2, 2, 3), (2, 1, 3)]
    for seed, epoch, position in places:
        other = draw_generator(seed=seed, epoch=epoch, position=position).random(4)
        assert not np.array_equal(other, first)


def test_every_sample_is_first_about_equally_often():
    firsts = [epoch_order(5, seed=0, epoch=epoch)[0] for epoch in range(1000)]
    counts = np.bincount(firsts, minlength=5)
    assert counts.min() > 150
    assert counts.max() < 250


def slow_order(num_samples, seed, epoch):
    """Sort by whole hashes, in Python."""

    def mixed(value):
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    stream = mixed((mixed(seed) + epoch) % 2**64)
    return sorted(range(num_samples), key=lambda number: mixed((number + stream) % 2**64))


SEEDS = st.integers(0, 2**64 - 1)
EPOCHS = st.integers(0, 2**40)
STARTS = st.lists(st.integers(0, 9), max_size=12).map(lambda counts: np.cumsum([0, *counts]))
MODES = st.builds(Shuffle, st.sampled_from(get_args(Mode)), st.integers(1, 5))


@given(num_samples=st.integers(0, 300), seed=SEEDS, epoch=EPOCHS)
def test_the_global_order_is_that_of_whole_hashes(num_samples, seed, epoch):
    order = epoch_order(num_samples, seed=seed, epoch=epoch)
    assert order.dtype == np.uint32
    assert order.tolist() == slow_order(num_samples, seed, epoch)


def test_equal_leading_bits_are_put_into_the_order_of_whole_hashes(monkeypatch):
    """Rare for few samples: here hashes differ in their last bits alone, or not at all."""

    def coarse(values):
        return (values % np.uint64(7)) << np.uint64(60) | (values * np.uint64(5)) % np.uint64(11)

    count = 1000
    monkeypatch.setattr(order_module, "_mixed", coarse)
    monkeypatch.setattr(order_module, "_AT_ONCE", 64)
    stream = np.uint64(3)
    wanted = np.argsort(coarse(np.arange(count, dtype=np.uint64) + stream), kind="stable")
    assert order_module._hash_order(count, stream).tolist() == wanted.tolist()


@pytest.mark.parametrize("at_once", [1, 7, 300, 301])
def test_work_in_parts_gives_the_same(monkeypatch, at_once):
    weights = np.random.default_rng(0).random(300)
    wanted = epoch_order(300, seed=1, epoch=2), epoch_order(300, seed=1, epoch=2, weights=weights)
    monkeypatch.setattr(order_module, "_AT_ONCE", at_once)
    found = epoch_order(300, seed=1, epoch=2), epoch_order(300, seed=1, epoch=2, weights=weights)
    for one, other in zip(wanted, found, strict=True):
        assert one.tolist() == other.tolist()


@given(starts=STARTS, seed=SEEDS, epoch=EPOCHS, shuffle=MODES)
def test_each_sample_comes_exactly_once_however_they_are_mixed(starts, seed, epoch, shuffle):
    order = epoch_order(starts, seed=seed, epoch=epoch, shuffle=shuffle)
    assert sorted(order.tolist()) == list(range(starts[-1]))
    again = epoch_order(starts, seed=seed, epoch=epoch, shuffle=shuffle)
    assert again.tolist() == order.tolist()


@given(starts=STARTS, seed=SEEDS, epoch=EPOCHS, window_shards=st.integers(1, 5))
def test_a_shard_is_read_in_one_window_only(starts, seed, epoch, window_shards):
    shuffle = Shuffle("windows", window_shards)
    order = epoch_order(starts, seed=seed, epoch=epoch, shuffle=shuffle)
    shards = np.searchsorted(starts, order, side="right") - 1
    counts = np.diff(starts)
    # Positions of a shard lie no further apart than its window is long.
    longest = int(np.sort(counts)[::-1][:window_shards].sum()) if len(counts) else 0
    for shard in set(shards.tolist()):
        places = np.flatnonzero(shards == shard)
        assert places[-1] - places[0] < longest


def test_windows_are_whole_shards_in_a_row_of_their_own():
    starts = np.arange(0, 101, 10)
    order = epoch_order(starts, seed=4, epoch=0, shuffle=Shuffle("windows", 2))
    windows = [frozenset((part // 10).tolist()) for part in np.split(order, 5)]
    assert [len(window) for window in windows] == [2] * 5
    assert frozenset().union(*windows) == frozenset(range(10))
    within = [part.tolist() for part in np.split(order, 5)]
    assert all(part != sorted(part) for part in within)
    others = epoch_order(starts, seed=4, epoch=1, shuffle=Shuffle("windows", 2))
    assert [frozenset((part // 10).tolist()) for part in np.split(others, 5)] != windows


def test_without_shuffling_samples_come_as_stored():
    order = epoch_order(np.array([0, 3, 5]), seed=1, epoch=1, shuffle=Shuffle("none"))
    assert order.tolist() == [0, 1, 2, 3, 4]


# 0.9999 quantile of the chi-square distribution with 49 degrees of freedom.
CHI_SQUARE_49 = 97.0


@pytest.mark.parametrize("shuffle", [Shuffle(), Shuffle("windows", 8), Shuffle("windows", 1)])
def test_every_sample_is_at_every_position_equally_often(shuffle):
    starts = np.arange(9)
    counts = np.zeros((8, 8))
    for epoch in range(2000):
        order = epoch_order(starts, seed=7, epoch=epoch, shuffle=shuffle)
        counts[np.arange(8), order] += 1
    assert ((counts - 250) ** 2 / 250).sum() < CHI_SQUARE_49


WEIGHTS = st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda w: max(w) > 0)


@given(weights=WEIGHTS, seed=SEEDS, epoch=EPOCHS)
def test_a_sample_comes_as_often_as_its_weight_says(weights, seed, epoch):
    weights = np.array(weights)
    order = epoch_order(len(weights), seed=seed, epoch=epoch, weights=weights)
    assert len(order) == len(weights)
    counts = np.bincount(order, minlength=len(weights))
    shares = len(weights) * weights / weights.sum()
    slack = len(weights) * 1e-7  # weights are rounded to 32 bits
    assert np.all(counts >= np.floor(shares - slack))
    assert np.all(counts <= np.ceil(shares + slack))
    assert np.all(counts[weights == 0] == 0)


@given(weight=st.floats(1e-9, 1e9), seed=SEEDS, shuffle=MODES, starts=STARTS)
def test_equal_weights_are_no_weights(weight, seed, shuffle, starts):
    if not starts[-1]:
        return
    weights = np.full(starts[-1], weight)
    weighted = epoch_order(starts, seed=seed, epoch=1, shuffle=shuffle, weights=weights)
    plain = epoch_order(starts, seed=seed, epoch=1, shuffle=shuffle)
    assert weighted.tolist() == plain.tolist()


def test_weighted_counts_are_right_on_average_and_not_in_step():
    weights = np.array([2.0] * 10 + [0.5] * 40)
    shares = 50 * weights / weights.sum()
    epochs = 2000
    counts = np.array(
        [
            np.bincount(epoch_order(50, seed=3, epoch=e, weights=weights), minlength=50)
            for e in range(epochs)
        ]
    )
    spread = np.sqrt(epochs * (shares % 1) * (1 - shares % 1))
    assert np.all(np.abs(counts.sum(axis=0) - epochs * shares) < 4.5 * spread)
    # Any two of a small weight come together about as often as by chance, near or far.
    for apart in (1, 2, 8, 20):
        together = (counts[:, 10:-apart] * counts[:, 10 + apart :]).mean()
        assert abs(together - shares[-1] ** 2) < 0.02


def test_a_point_on_the_border_of_two_samples_is_the_second_ones(monkeypatch):
    """Rare, but where it is, a sample would come twice and another not at all."""
    monkeypatch.setattr(order_module, "_derived", lambda stream, purpose: np.uint64(0))
    order = epoch_order(5, seed=0, epoch=0, weights=np.array([1.0, 1.0, 0.0, 2.0, 1.0]))
    assert 2 not in order
    assert sorted(epoch_order(5, seed=0, epoch=0, weights=np.ones(5)).tolist()) == list(range(5))


@given(starts=STARTS, seed=SEEDS, window_shards=st.integers(1, 4))
def test_weights_keep_windows(starts, seed, window_shards):
    if not starts[-1]:
        return
    weights = np.random.default_rng(seed).random(starts[-1]) + 0.01
    shuffle = Shuffle("windows", window_shards)
    order = epoch_order(starts, seed=seed, epoch=0, shuffle=shuffle, weights=weights)
    plain = epoch_order(starts, seed=seed, epoch=0, shuffle=shuffle)
    assert sorted(np.bincount(order, minlength=starts[-1])) == sorted(
        np.bincount(epoch_order(starts, seed=seed, epoch=0, weights=weights), minlength=starts[-1])
    )
    # Shards come in windows of the same shards: the first window's come before all others.
    if np.all(np.diff(starts) > 0):
        in_order = dict.fromkeys((np.searchsorted(starts, plain, side="right") - 1).tolist())
        first = list(in_order)[:window_shards]
        seen = np.isin(np.searchsorted(starts, order, side="right") - 1, first).tolist()
        assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        (np.ones(4), r"shape \(4,\), expected \(5,\)"),
        (np.zeros(5), "not all 0"),
        (np.array([1, 1, -1, 1, 1.0]), "not negative"),
        (np.array([1, 1, np.nan, 1, 1.0]), "finite"),
        (np.array([1, 1, np.inf, 1, 1.0]), "finite"),
    ],
)
def test_weights_that_are_none_are_refused(weights, problem):
    with pytest.raises(ValueError, match=problem):
        epoch_order(5, seed=0, epoch=0, weights=weights)


def test_a_shuffle_that_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="mode must be one of global, windows, none, got 'all'"):
        Shuffle("all")
    with pytest.raises(ValueError, match="window_shards must be at least 1, got 0"):
        Shuffle("windows", 0)
    with pytest.raises(ValueError, match="where the samples of each shard begin"):
        epoch_order(5, seed=0, epoch=0, shuffle=Shuffle("windows"))


def test_the_orders_of_a_seed_never_change():
    starts = np.array([0, 3, 5, 8, 10])
    windows = epoch_order(starts, seed=0, epoch=0, shuffle=Shuffle("windows", 2))
    assert windows.tolist() == GOLDEN_WINDOWS
    weights = np.arange(10.0)
    assert epoch_order(10, seed=0, epoch=0, weights=weights).tolist() == GOLDEN_WEIGHTED


@pytest.mark.parametrize(
    ("words", "bytes_per_sample"),
    [
        ({}, 13),
        ({"shuffle": Shuffle("windows")}, 6),
        ({"weights": np.random.default_rng(0).random(500_000)}, 25),
    ],
)
def test_memory_is_a_few_bytes_per_sample(monkeypatch, words, bytes_per_sample):
    count = 500_000
    monkeypatch.setattr(order_module, "_AT_ONCE", 1 << 12)
    starts = np.arange(0, count + 1, 100)
    tracemalloc.start()
    order = epoch_order(starts, seed=0, epoch=0, **words)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert order.nbytes == 4 * count
    assert peak < bytes_per_sample * count
