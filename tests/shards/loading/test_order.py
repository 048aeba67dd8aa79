import numpy as np
import pytest

from gopstream.shards.loading.order import draw_generator, epoch_order

GOLDEN_ORDER = [4, 8, 0, 1, 7, 6, 2, 5, 3, 9]
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
