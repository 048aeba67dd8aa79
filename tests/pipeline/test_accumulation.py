"""Accumulated motion against a plain loop that follows one position at a time."""

import math

import numpy as np
import pytest

from gopstream.pipeline.accumulation import accumulate, step_motion

CELL = 32  # quarter pixels


class Loop:
    """The loop reference, in float64 and in cells; ``size`` is (width, height) in cells."""

    def __init__(self, steps, ok, size):
        self.steps, self.ok, self.size = np.asarray(steps, np.float64), ok, size
        self.rows, self.columns = ok.shape[1:]

    def inside(self, q):
        width, height = self.size
        return -0.5 <= q[0] < width - 0.5 and -0.5 <= q[1] < height - 0.5

    def nearest(self, q):
        x, y = (math.floor(value + 0.5) for value in q)
        return min(max(y, 0), self.rows - 1), min(max(x, 0), self.columns - 1)

    def cells(self):
        return [(y, x) for y in range(self.rows) for x in range(self.columns)]

    def backward(self, later, earlier):
        moved = np.zeros((self.rows, self.columns, 2))
        valid = np.zeros((self.rows, self.columns), bool)
        for y, x in self.cells():
            q, good = np.array([x, y], float), True
            for frame in range(later, earlier, -1):
                cell = self.nearest(q)
                good = good and self.inside(q) and bool(self.ok[frame][cell])
                q = q + self.steps[frame][cell]
            moved[y, x] = q - (x, y)
            valid[y, x] = good and self.inside(q)
        return moved, valid

    def forward(self, earlier, later):
        back, back_valid = self.backward(later, earlier)
        moved, valid = np.zeros_like(back), np.zeros_like(back_valid)
        hit = np.zeros_like(back_valid)
        for y, x in sorted(self.cells(), key=lambda cell: np.square(back[cell]).sum()):
            target = np.array([x, y]) + back[y, x]
            if back_valid[y, x] and self.inside(target):
                cell = self.nearest(target)
                moved[cell], hit[cell], valid[cell] = -back[y, x], True, True
        for y, x in self.cells():
            if hit[y, x]:
                continue
            p = np.array([x, y], float)
            found = -back[y, x]
            for _ in range(5):
                found = -back[self.nearest(p + found)]
            cell = self.nearest(p + found)
            close = np.abs(found + back[cell]).max() <= 0.5 / 8  # half a pixel
            moved[y, x] = found
            valid[y, x] = self.inside(p + found) and back_valid[cell] and close
        return moved, valid


def predicted_frames(motion):
    """Make steps of P-frames only, each block predicted."""
    coverage = np.ones(motion.shape[:3], np.uint8)
    return step_motion(motion.astype(np.int16), coverage, np.zeros(len(motion), bool))


def constant(num_frames, vector, rows=6, columns=8):
    return np.broadcast_to(np.array(vector, np.int16), (num_frames, rows, columns, 2)).copy()


def assert_equals_loop(step, samples, size):
    result = accumulate(step, samples, display_size=(8 * size[0], 8 * size[1]))
    loop = Loop(step.steps, step.valid, size)
    for group, frames in enumerate(samples.tolist()):
        for i, t in enumerate(frames):
            for j, u in enumerate(frames):
                moved, valid = loop.backward(t, u) if j <= i else loop.forward(t, u)
                at = (group, i, j)
                np.testing.assert_array_equal(result.displacement[at], moved * 8, err_msg=str(at))
                np.testing.assert_array_equal(result.valid[at], valid, err_msg=str(at))


@pytest.mark.parametrize("unit", [CELL, 1], ids=["whole cells", "quarter pixels"])
@pytest.mark.parametrize("seed", range(4))
def test_random_fields_equal_the_loop(unit, seed):
    rng = np.random.default_rng(seed)
    motion = rng.integers(-48 // unit - 1, 48 // unit + 2, (8, 4, 5, 2)) * unit
    coverage = (rng.random((8, 4, 5)) < 0.9).astype(np.uint8)
    is_intra = np.zeros(8, bool)
    is_intra[[0, 4]] = True
    coverage[is_intra] = 0
    motion[coverage == 0] = 0
    step = step_motion(motion.astype(np.int16), coverage, is_intra)
    assert_equals_loop(step, np.array([[1, 3, 3], [2, 5, 7]]), (5, 4))


def test_the_picture_may_end_inside_the_grid():
    rng = np.random.default_rng(10)
    step = predicted_frames(rng.integers(-40, 41, (5, 4, 5, 2)))
    assert_equals_loop(step, np.array([[0, 2, 4]]), (4.5, 3.25))


def test_a_translation_is_followed_both_ways_over_any_distance():
    """Content moves right by 1 cell and down by half a cell per frame."""
    step = predicted_frames(constant(7, (-CELL, -CELL // 2), 8, 12))
    result = accumulate(step, np.array([[0, 2, 6]]), display_size=(96, 64))
    frames = [0, 2, 6]
    for i, t in enumerate(frames):
        for j, u in enumerate(frames):
            valid = result.valid[0, i, j]
            assert valid.sum() >= (12 - abs(u - t)) * (8 - abs(u - t) // 2 - 1)
            np.testing.assert_array_equal(
                result.displacement[0, i, j][valid], np.array([[8.0, 4.0]] * valid.sum()) * (u - t)
            )


def test_what_leaves_the_picture_is_not_valid():
    step = predicted_frames(constant(3, (-CELL, 0)))
    valid = accumulate(step, np.array([[0, 2]]), display_size=(64, 48)).valid[0]
    assert not valid[1, 0, :, :2].any()  # came in from the left
    assert valid[1, 0, :, 2:].all()
    assert not valid[0, 1, :, 6:].any()  # goes out to the right
    assert valid[0, 1, :, :6].all()


def test_of_two_blocks_from_one_place_the_larger_motion_wins():
    """A block that has moved hides the still one behind it."""
    motion = constant(2, (0, 0))
    motion[1, 2, 5] = (-2 * CELL, 0)  # came from column 3; the block at column 3 stayed
    result = accumulate(predicted_frames(motion), np.array([[0, 1]]), display_size=(64, 48))
    assert result.displacement[0, 0, 1, 2, 3].tolist() == [16.0, 0.0]
    assert result.displacement[0, 0, 1, 2, 4].tolist() == [0.0, 0.0]
    assert result.valid[0, 0, 1, 2, 3]


def test_an_intra_frame_takes_the_motion_of_the_next_frame_and_is_marked():
    motion, coverage = constant(4, (-8, 4)), np.ones((4, 6, 8), np.uint8)
    motion[2], coverage[2] = 0, 0
    motion[3] = (12, 0)
    coverage[3, 0, 0] = 0
    motion[3, 0, 0] = 0
    step = step_motion(motion, coverage, np.array([False, False, True, False]))
    np.testing.assert_array_equal(step.steps[2], step.steps[3])
    np.testing.assert_array_equal(step.valid[2], step.valid[3])
    assert not step.valid[2, 0, 0]
    assert step.valid[2].sum() == 47
    assert step.extrapolated.tolist() == [False, False, True, False]


def test_the_last_intra_frame_takes_the_motion_of_the_frame_before():
    motion, coverage = constant(3, (-8, 4)), np.ones((3, 6, 8), np.uint8)
    motion[2], coverage[2] = 0, 0
    step = step_motion(motion, coverage, np.array([False, False, True]))
    np.testing.assert_array_equal(step.steps[2], step.steps[1])
    assert step.valid[2].all()


def test_a_pair_is_extrapolated_only_with_an_intra_frame_on_the_way():
    step = predicted_frames(constant(6, (0, 0)))
    step.extrapolated[3] = True
    pairs = accumulate(step, np.array([[1, 2, 3, 5]]), display_size=(64, 48)).extrapolated[0]
    frames = [1, 2, 3, 5]
    for i, t in enumerate(frames):
        for j, u in enumerate(frames):
            assert pairs[i, j] == (min(t, u) < 3 <= max(t, u)), (t, u)


def test_a_scene_cut_separates_all_pairs_across_it():
    coverage = np.ones((5, 6, 8), np.uint8)
    coverage[3].reshape(-1)[:29] = 0  # 29 of 48 blocks are more than 60 %
    motion = constant(5, (0, 0))
    step = step_motion(motion, coverage, np.zeros(5, bool))
    valid = accumulate(step, np.array([[1, 2, 3, 4]]), display_size=(64, 48)).valid[0]
    assert not valid[:2, 2:].any()
    assert not valid[2:, :2].any()
    assert valid[:2, :2].all()
    assert valid[2:, 2:].all()


def test_an_intra_block_takes_the_median_of_its_neighbours_and_stays_invalid():
    motion, coverage = constant(1, (0, 0)), np.ones((1, 6, 8), np.uint8)
    motion[0, 1, 2], motion[0, 3, 2], motion[0, 2, 1], motion[0, 2, 3] = (
        (32, 0),
        (64, 8),
        (96, -8),
        (320, 16),
    )
    coverage[0, 2, 2] = 0
    step = step_motion(motion, coverage, np.zeros(1, bool))
    np.testing.assert_array_equal(step.steps[0, 2, 2] * CELL, [80, 4])
    assert not step.valid[0, 2, 2]
    assert step.valid[0].sum() == 47


def test_an_intra_block_in_a_corner_uses_the_neighbours_it_has():
    motion, coverage = constant(1, (0, 0)), np.ones((1, 6, 8), np.uint8)
    motion[0, 0, 1] = (10, 20)
    coverage[0, 0, 0] = coverage[0, 1, 0] = 0
    step = step_motion(motion, coverage, np.zeros(1, bool))
    np.testing.assert_array_equal(step.steps[0, 0, 0] * CELL, [10, 20])


def test_repeated_samples_have_no_motion_between_them():
    step = predicted_frames(constant(5, (-8, 4)))
    result = accumulate(step, np.array([[2, 2, 2], [4, 4, 4]]), display_size=(64, 48))
    assert not result.displacement.any()
    assert result.valid.all()


@pytest.mark.parametrize("samples", [[[0, 5]], [[-1, 2]]])
def test_samples_outside_of_the_window_are_refused(samples):
    with pytest.raises(ValueError, match=r"0\.\.4"):
        accumulate(predicted_frames(constant(5, (0, 0))), np.array(samples), display_size=(64, 48))


def test_falling_samples_are_refused():
    with pytest.raises(ValueError, match="must not fall"):
        accumulate(predicted_frames(constant(5, (0, 0))), np.array([[3, 2]]), display_size=(64, 48))
