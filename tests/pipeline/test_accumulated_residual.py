"""The residual along accumulated motion, against a loop over pixels and its telescoping sum."""

import math

import numpy as np
import pytest

from gopstream.pipeline.accumulated_residual import accumulated_residual, pair_residual
from gopstream.pipeline.accumulation import AccumulatedMotion, accumulate, step_motion

PIXEL = 4  # quarter pixels


def pictures(num_frames, *, height=32, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width), np.uint8)


def motion_between(vectors, samples):
    """Accumulate (N, Hb, Wb, 2) pixels per frame, all blocks predicted."""
    motion = (np.asarray(vectors) * PIXEL).astype(np.int16)
    step = step_motion(motion, np.ones(motion.shape[:3], np.uint8), np.zeros(len(motion), bool))
    rows, columns = motion.shape[1:3]
    return accumulate(step, np.array(samples), display_size=(columns * 8, rows * 8))


def loop_residual(frame, other, displacement, followed, side):
    residual, valid = np.zeros(frame.shape, np.int64), np.zeros(frame.shape, bool)
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            dx, dy = displacement[y // side, x // side] * side / 8
            there = math.floor(y + dy + 0.5), math.floor(x + dx + 0.5)
            inside = 0 <= there[0] < frame.shape[0] and 0 <= there[1] < frame.shape[1]
            if inside and followed[y // side, x // side]:
                residual[y, x], valid[y, x] = int(frame[y, x]) - int(other[there]), True
    return residual, valid


@pytest.mark.parametrize(
    ("height", "width", "subsampling"),
    [(32, 48, 1), (27, 41, 1), (16, 24, 2), (13, 21, 2)],
    ids=["coded luma", "cropped luma", "coded chroma", "cropped chroma"],
)
def test_all_pairs_equal_the_loop(height, width, subsampling):
    rng = np.random.default_rng(height)
    planes = pictures(5, height=height, width=width, seed=1)
    samples = np.array([[0, 2, 4], [1, 1, 3]])
    shape = (2, 3, 3, 4, 6)
    displacement = (rng.integers(-96, 97, (*shape, 2)) / 8).astype(np.float32)
    motion = AccumulatedMotion(displacement, rng.random(shape) < 0.8, np.zeros(shape[:3], bool))
    result = accumulated_residual(planes, samples, motion=motion, subsampling=subsampling)
    assert result.residual.dtype == np.int16
    for group, query, key in np.ndindex(2, 3, 3):
        at = (group, query, key)
        frame, other = planes[samples[group, query]], planes[samples[group, key]]
        residual, valid = loop_residual(
            frame, other, displacement[at], motion.valid[at], 8 // subsampling
        )
        np.testing.assert_array_equal(result.residual[at], residual)
        np.testing.assert_array_equal(result.valid[at], valid)


def test_a_translated_picture_leaves_nothing():
    """Content moves by (3, -2) a frame; wherever it was followed, nothing is left over."""
    texture = pictures(1, height=80, width=96)[0]
    planes = np.stack([np.roll(texture, (-2 * t, 3 * t), (0, 1))[:32, :48] for t in range(6)])
    samples = np.array([[0, 1, 3, 5]])
    motion = motion_between(np.broadcast_to([-3, 2], (6, 4, 6, 2)), samples)
    result = accumulated_residual(planes, samples, motion=motion)
    assert not result.residual.any()
    assert result.valid.any(axis=(-2, -1)).all()
    wrong = AccumulatedMotion(-motion.displacement, motion.valid, motion.extrapolated)
    assert accumulated_residual(planes, samples, motion=wrong).residual.any()


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_sum_of_the_steps_along_a_way_of_whole_cells(seed):
    """Moving by whole cells, each pixel stays in one block and has a way of its own."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-1, 2, (5, 4, 6, 2)) * 8
    planes = pictures(5, seed=seed)
    result = accumulated_residual(
        planes, np.array([[0, 4]]), motion=motion_between(steps, [[0, 4]])
    )
    residual, valid = result.residual[0, 1, 0], result.valid[0, 1, 0]
    assert valid.any()
    for y, x in np.argwhere(valid):
        total, here = 0, (y, x)
        for frame in range(4, 0, -1):
            dx, dy = steps[frame, here[0] // 8, here[1] // 8]
            there = (here[0] + dy, here[1] + dx)
            total += int(planes[frame][here]) - int(planes[frame - 1][there])
            here = there
        assert residual[y, x] == total


def test_it_is_the_sum_of_the_steps_along_a_common_whole_pixel_way():
    """All blocks move alike, differently in each frame, and by pixels, not cells."""
    steps = np.random.default_rng(7).integers(-3, 4, (6, 1, 1, 2)).repeat(4, 1).repeat(6, 2)
    planes = pictures(6, seed=2)
    result = accumulated_residual(
        planes, np.array([[1, 5]]), motion=motion_between(steps, [[1, 5]])
    )
    ways = np.cumsum(steps[5:1:-1, 0, 0], axis=0)
    for y, x in np.argwhere(result.valid[0, 1, 0]):
        way = [(y, x), *((y + dy, x + dx) for dx, dy in ways)]
        if min(map(min, way)) < 0 or any(v >= 32 or u >= 48 for v, u in way):
            continue  # between the two frames this pixel, not its block's centre, was outside
        shown = [int(planes[5 - back][place]) for back, place in enumerate(way)]
        assert result.residual[0, 1, 0, y, x] == -np.diff(shown).sum()
    assert result.valid[0, 1, 0].sum() > 500


def test_halves_go_right_and_down():
    frame, other = np.zeros((16, 16), np.uint8), np.arange(256, dtype=np.uint8).reshape(16, 16)
    followed = np.ones((2, 2), bool)
    for half, whole in ((0.5, 1), (-0.5, 0), (-1.5, -1), (0.375, 0)):
        displacement = np.full((2, 2, 2), half, np.float32)
        result = pair_residual(frame, other, displacement=displacement, followed=followed)
        assert -result.residual[5, 5] == other[5 + whole, 5 + whole]


@pytest.mark.parametrize("shape", [(33, 48), (0, 48), (32, 24), (16, 24)])
def test_a_plane_that_does_not_fit_the_grid_is_refused(shape):
    plane = np.zeros(shape, np.uint8)
    displacement, followed = np.zeros((4, 8, 2), np.float32), np.ones((4, 8), bool)
    with pytest.raises(ValueError, match="does not belong to a grid of 8x4 blocks"):
        pair_residual(plane, plane, displacement=displacement, followed=followed)


def test_planes_of_two_sizes_are_refused():
    displacement, followed = np.zeros((4, 6, 2), np.float32), np.ones((4, 6), bool)
    with pytest.raises(ValueError, match="two planes of one size"):
        pair_residual(
            np.zeros((32, 48), np.uint8),
            np.zeros((16, 24), np.uint8),
            displacement=displacement,
            followed=followed,
        )


def test_samples_of_other_motion_or_without_a_plane_are_refused():
    motion = motion_between(np.zeros((5, 4, 6, 2)), [[0, 4]])
    with pytest.raises(ValueError, match="do not belong"):
        accumulated_residual(pictures(5), np.array([[0, 2, 4]]), motion=motion)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        accumulated_residual(pictures(4), np.array([[0, 4]]), motion=motion)
