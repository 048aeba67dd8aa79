"""Parts of an epoch are exact; each dataset goes around its own samples, wherever one resumes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.shards.loading.mixture import MixedEpoch, dataset_seed, mixed_order
from gopstream.shards.loading.order import epoch_order
from gopstream.shards.mixture_shares import Mixture, shares_of

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5)


@st.composite
def mixtures(draw):
    weights = draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4))
    sizes = draw(st.lists(st.integers(1, 40), min_size=len(weights), max_size=len(weights)))
    return Mixture(tuple(sizes), tuple(weights), draw(st.integers(100, 200)))


def order_of(mixture, seed):
    """Return the orders that the datasets have, as a loader gives them."""

    def order(dataset, epoch):
        return epoch_order(mixture.sizes[dataset], seed=dataset_seed(seed, dataset), epoch=epoch)

    return order


@given(total=st.integers(0, 10_000), weights=WEIGHTS)
def test_shares_are_rounded_quotients_and_sum_up(total, weights):
    counts = shares_of(total, weights)
    assert sum(counts) == total
    whole = sum(Fraction(weight) for weight in weights)
    quotients = [total * Fraction(weight) / whole for weight in weights]
    assert all(abs(count - quotient) < 1 for count, quotient in zip(counts, quotients, strict=True))
    up = [q % 1 for count, q in zip(counts, quotients, strict=True) if count > q]
    down = [q % 1 for count, q in zip(counts, quotients, strict=True) if count <= q and q % 1]
    assert not up or not down or min(up) >= max(down)


def test_shares_by_hand():
    assert shares_of(10, (1, 1, 1)) == (4, 3, 3)
    assert shares_of(12, (0.125, 0.25, 0.625)) == (2, 3, 7)
    assert shares_of(7, (2, 2, 3)) == (2, 2, 3)


def places_of(mixture, *, seed, epoch):
    """Dataset, epoch of its own and position in that, at each position: orders that name them."""

    def order(number, own_epoch):
        size = mixture.sizes[number]
        return own_epoch * size + np.arange(size)

    datasets = MixedEpoch(mixture, seed=seed, epoch=epoch).datasets.tolist()
    named = mixed_order(mixture, order, seed=seed, epoch=epoch).tolist()
    offsets = np.cumsum([0, *mixture.sizes]).tolist()
    return [
        (number, *divmod(name - offsets[number], mixture.sizes[number]))
        for number, name in zip(datasets, named, strict=True)
    ]


@given(mixture=mixtures(), seed=st.integers(0, 2**63), epoch=st.integers(0, 50))
def test_an_epoch_has_exact_shares(mixture, seed, epoch):
    datasets = MixedEpoch(mixture, seed=seed, epoch=epoch).datasets
    assert len(datasets) == mixture.num_samples == sum(mixture.counts)
    counts = np.bincount(datasets, minlength=len(mixture.sizes))
    assert tuple(counts.tolist()) == mixture.counts


@given(mixture=mixtures(), seed=st.integers(0, 2**63))
def test_each_dataset_goes_through_epochs_of_its_own(mixture, seed):
    drawn = [[] for _ in mixture.sizes]
    for epoch in range(3):
        mixed = MixedEpoch(mixture, seed=seed, epoch=epoch)
        for number, own_epoch, position in places_of(mixture, seed=seed, epoch=epoch):
            assert own_epoch in mixed.epochs_of(number)
            drawn[number].append((own_epoch, position))
    for size, places in zip(mixture.sizes, drawn, strict=True):
        assert places == [divmod(number, size) for number in range(len(places))]


@given(mixture=mixtures(), seed=st.integers(0, 2**63), epoch=st.integers(0, 9))
def test_the_mixed_order_has_the_samples_of_the_places(mixture, seed, epoch):
    orders = order_of(mixture, seed)
    offsets = np.cumsum([0, *mixture.sizes])
    wanted = [
        offsets[number] + orders(number, own_epoch)[position]
        for number, own_epoch, position in places_of(mixture, seed=seed, epoch=epoch)
    ]
    found = mixed_order(mixture, orders, seed=seed, epoch=epoch)
    assert found.dtype == np.int64
    assert found.tolist() == wanted


def test_no_sample_comes_twice_before_all_have_come():
    mixture = Mixture((50, 7), (3.0, 2.0), 100)
    samples = np.concatenate(
        [mixed_order(mixture, order_of(mixture, 5), seed=5, epoch=epoch) for epoch in range(5)]
    )
    for first, size in ((0, 50), (50, 7)):
        own = samples[(samples >= first) & (samples < first + size)]
        for begin in range(0, len(own) - size + 1, size):
            assert sorted(own[begin : begin + size].tolist()) == list(range(first, first + size))


def test_datasets_are_spread_over_the_epoch():
    """A dataset's places in a tenth of an epoch vary as those of a draw without replacement."""
    mixture = Mixture((1000, 1000), (3.0, 1.0), 20_000)
    mixed = MixedEpoch(mixture, seed=11, epoch=3)
    counts = [np.count_nonzero(part == 1) for part in np.split(mixed.datasets, 10)]
    expected, spread = 500.0, (2000 * 0.25 * 0.75 * 0.9) ** 0.5
    assert max(abs(count - expected) for count in counts) < 4 * spread
    assert len(set(counts)) > 1


def test_epochs_and_seeds_differ():
    mixture = Mixture((30, 30), (1.0, 1.0), 60)
    found = {
        tuple(MixedEpoch(mixture, seed=seed, epoch=epoch).datasets.tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(found) == 9
    assert len({dataset_seed(seed, number) for seed in range(20) for number in range(20)}) == 400


def test_the_mixture_of_a_seed_stays():
    mixed = MixedEpoch(Mixture((4, 3), (1.0, 2.0), 9), seed=0, epoch=1)
    assert mixed.datasets.tolist() == GOLDEN_DATASETS
    assert dataset_seed(0, 1) == GOLDEN_SEED


@pytest.mark.parametrize(
    ("sizes", "weights", "problem"),
    [
        ((), (), "a weight for each dataset"),
        ((3, 3), (1.0,), "2 datasets and 1 weights"),
        ((3, 0), (1.0, 1.0), "dataset 1 has no samples"),
        ((3, 3), (1.0, 0.0), "positive and finite"),
        ((3, 3), (1.0, float("nan")), "positive and finite"),
        ((3, 3), (1.0, float("inf")), "positive and finite"),
        ((3, 3), (1.0, 1e-6), "dataset 1 with weight 1e-06 has no place in an epoch of 100"),
    ],
)
def test_what_is_no_mixture_is_refused(sizes, weights, problem):
    with pytest.raises(ValueError, match=problem):
        Mixture(sizes, weights, 100)


GOLDEN_DATASETS = [1, 0, 0, 1, 1, 1, 1, 0, 1]
GOLDEN_SEED = 7943483842894601534
