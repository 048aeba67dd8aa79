"""Where points lie before anything has been learned."""

import torch

from gopstream.models.dvt.point_prediction import (
    OFFSET_INITIAL_STD,
    PointPrediction,
    ring_offsets,
)


def test_eight_points_start_on_the_eight_neighbours():
    points = {tuple(point) for point in ring_offsets(1, 8)[0].round(decimals=5).tolist()}
    assert points == {(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)}


def test_heads_start_in_different_directions_at_the_same_distance():
    offsets = ring_offsets(4, 8)
    assert len({tuple(point) for point in offsets.flatten(0, 1).tolist()}) == 32
    torch.testing.assert_close(offsets.abs().amax(dim=-1), torch.ones(4, 8))


@torch.no_grad()
def test_fresh_points_are_the_ring_with_equal_weights_and_a_little_of_the_token():
    torch.manual_seed(0)
    predict = PointPrediction(64, num_heads=2, num_points=8)
    predict.initialise()
    still = predict(torch.zeros(3, 64))
    assert torch.equal(still[0, ..., :2], ring_offsets(2, 8))
    assert still[..., 2].eq(0).all()
    moved = predict(torch.randn(100, 64)) - still[0]
    assert moved[..., 2].eq(0).all()
    spread = moved[..., :2].std() / (OFFSET_INITIAL_STD * 64**0.5)
    assert 0.9 < spread < 1.1
