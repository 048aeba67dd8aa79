import numpy as np
import pytest

from gopstream.shards.loading.sampling import clip_positions, view_draws


def positions(sampling, draws, *, total, num_frames, stride=1):
    draws = np.broadcast_to(np.asarray(draws, float), num_frames)
    found = clip_positions(sampling, draws, total=total, num_frames=num_frames, stride=stride)
    return found.tolist()


@pytest.mark.parametrize(
    ("draw", "total", "num_frames", "stride", "expected"),
    [
        (0.0, 10, 4, 1, [0, 1, 2, 3]),
        (0.999, 10, 4, 1, [6, 7, 8, 9]),
        (0.5, 10, 4, 1, [3, 4, 5, 6]),
        (0.0, 10, 4, 3, [0, 3, 6, 9]),
        (0.999, 10, 4, 3, [0, 3, 6, 9]),
        (0.5, 12, 4, 2, [3, 5, 7, 9]),
        (0.5, 3, 4, 2, [0, 2, 2, 2]),  # too short: the last frame repeats
        (0.9, 1, 3, 1, [0, 0, 0]),
    ],
)
def test_dense(draw, total, num_frames, stride, expected):
    found = positions("dense", draw, total=total, num_frames=num_frames, stride=stride)
    assert found == expected


@pytest.mark.parametrize(
    ("draws", "total", "num_frames", "expected"),
    [
        (0.0, 8, 4, [0, 2, 4, 6]),
        (0.5, 8, 4, [1, 3, 5, 7]),
        (0.999, 8, 4, [1, 3, 5, 7]),
        ([0.0, 0.9, 0.0, 0.9], 8, 4, [0, 3, 4, 7]),
        (0.5, 10, 4, [1, 3, 6, 8]),
        (0.5, 2, 4, [0, 0, 1, 1]),  # shorter than the clip: frames repeat
        (0.999, 1, 3, [0, 0, 0]),
    ],
)
def test_segment(draws, total, num_frames, expected):
    assert positions("segment", draws, total=total, num_frames=num_frames) == expected


@pytest.mark.parametrize(("draw", "frame"), [(0.0, 0), (0.5, 5), (0.999, 9)])
def test_still_repeats_one_frame(draw, frame):
    assert positions("still", draw, total=10, num_frames=3) == [frame] * 3


@pytest.mark.parametrize("sampling", ["dense", "segment", "still"])
def test_positions_never_fall_and_stay_inside(sampling):
    rng = np.random.default_rng(0)
    almost_one = np.nextafter(1.0, 0.0)
    for _ in range(200):
        total, num_frames = rng.integers(1, 40), int(rng.integers(1, 20))
        draws = rng.choice([0.0, almost_one, rng.random()], num_frames)
        found = positions(
            sampling, draws, total=int(total), num_frames=num_frames, stride=int(rng.integers(1, 6))
        )
        assert len(found) == num_frames
        assert min(found) >= 0
        assert max(found) < total
        assert (np.diff(found) >= 0).all()


def test_the_only_view_is_central_and_several_spread_evenly():
    assert view_draws(0, num_views=1, num_frames=2).tolist() == [0.5, 0.5]
    spread = [view_draws(view, num_views=4, num_frames=1)[0] for view in range(4)]
    assert spread == [0.125, 0.375, 0.625, 0.875]
