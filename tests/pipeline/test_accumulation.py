"""Accumulated motion against a plain loop that follows one position at a time."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

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
                moved[cell], hit[cell], valid[cell] = -back[y, x], True, self.inside(cell[::-1])
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
            inside = self.inside(p) and self.inside(p + found)
            valid[y, x] = inside and back_valid[cell] and close
        return moved, valid


def predicted_frames(motion):
    """Make steps of P-frames only, each block predicted."""
    coverage = np.ones(motion.shape[:3], np.uint8)
    return step_motion(motion.astype(np.int16), coverage, np.zeros(len(motion), bool))


def constant(num_frames, vector, rows=6, columns=8):
    return np.broadcast_to(np.array(vector, np.int16), (num_frames, rows, columns, 2)).copy()


def random_stream(seed, *, num_frames=9, rows=4, columns=5, gop=4, longest=48):
    """Motion with intra blocks, I-frames and scene cuts, one of them at an I-frame."""
    rng = np.random.default_rng(seed)
    motion = rng.integers(-longest, longest + 1, (num_frames, rows, columns, 2)).astype(np.int16)
    coverage = (rng.random((num_frames, rows, columns)) < 0.85).astype(np.uint8)
    is_intra = np.arange(num_frames) % gop == 0
    coverage[is_intra] = 0
    motion[coverage == 0] = 0
    cuts = rng.random(num_frames) < 0.15
    return motion, coverage, is_intra, cuts


def assert_equals_loop(step, samples, size):
    """``size`` is (width, height) of the picture in cells."""
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


def test_a_pair_is_extrapolated_only_with_an_intra_frame_on_the_way():
    step = predicted_frames(constant(6, (0, 0)))
    step.extrapolated[3] = True
    pairs = accumulate(step, np.array([[1, 2, 3, 5]]), display_size=(64, 48)).extrapolated[0]
    frames = [1, 2, 3, 5]
    for i, t in enumerate(frames):
        for j, u in enumerate(frames):
            assert pairs[i, j] == (min(t, u) < 3 <= max(t, u)), (t, u)


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


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    gop=st.sampled_from([1, 3, 4, 12]),
    longest=st.sampled_from([3, 8, 30, 300]),
    short=st.tuples(st.integers(0, 15), st.integers(0, 15)),
    samples=st.lists(st.integers(0, 8), min_size=1, max_size=4).map(sorted),
)
def test_whole_streams_equal_the_loop(seed, gop, longest, short, samples):
    """GOPs, cuts, intra blocks, pictures that end inside a block, repeated samples."""
    motion, coverage, is_intra, cuts = random_stream(seed, gop=gop, longest=longest)
    step = step_motion(motion, coverage, is_intra, scene_cuts=cuts)
    size = (5 - short[0] / 8, 4 - short[1] / 8)
    assert_equals_loop(step, np.array([samples]), size)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), frames=st.tuples(*[st.integers(0, 6)] * 3).map(sorted))
def test_motion_composes_over_any_frame_on_the_way(seed, frames):
    """MD(t, t'') = MD(t, t') + MD(t', t'')(p + MD(t, t')), exact for whole cells."""
    rng = np.random.default_rng(seed)
    step = predicted_frames(rng.integers(-2, 3, (7, 6, 8, 2)) * CELL)
    result = accumulate(step, np.array([frames]), display_size=(64, 48))
    moved, valid = result.displacement[0], result.valid[0]
    for y, x in np.argwhere(valid[2, 1]):
        dx, dy = (moved[2, 1, y, x] / 8).astype(int)
        np.testing.assert_array_equal(
            moved[2, 0, y, x], moved[2, 1, y, x] + moved[1, 0, y + dy, x + dx]
        )
        assert valid[2, 0, y, x] == valid[1, 0, y + dy, x + dx]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_mirrored_stream_gives_mirrored_motion(seed):
    """Exact for whole cells, backwards; forwards equal lengths are settled by place."""
    motion = np.random.default_rng(seed).integers(-2, 3, (4, 5, 6, 2)) * CELL
    mirrored = motion[:, :, ::-1] * np.array([-1, 1])
    samples = np.array([[0, 1, 3]])
    one = accumulate(predicted_frames(motion), samples, display_size=(48, 40))
    two = accumulate(predicted_frames(mirrored), samples, display_size=(48, 40))
    for later, earlier in ((1, 0), (2, 0), (2, 1)):
        at = (0, later, earlier)
        np.testing.assert_array_equal(
            two.displacement[at], one.displacement[at][:, ::-1] * np.array([-1, 1], np.float32)
        )
        np.testing.assert_array_equal(two.valid[at], one.valid[at][:, ::-1])


def test_constant_motion_is_followed_through_every_gop():
    motion, coverage = constant(30, (-4, 4)), np.ones((30, 6, 8), np.uint8)
    is_intra = np.arange(30) % 6 == 0
    motion[is_intra], coverage[is_intra] = 0, 0
    step = step_motion(motion, coverage, is_intra)
    result = accumulate(step, np.array([[0, 5, 17, 24]]), display_size=(64, 48))
    for i, t in enumerate((0, 5, 17, 24)):
        for j, u in enumerate((0, 5, 17, 24)):
            valid = result.valid[0, i, j]
            assert valid.any()
            np.testing.assert_array_equal(
                result.displacement[0, i, j][valid], [[u - t, t - u]] * valid.sum()
            )
    assert result.extrapolated[0].tolist() == [
        [False, False, True, True],
        [False, False, True, True],
        [True, True, False, True],
        [True, True, True, False],
    ]


def test_what_has_left_the_picture_stays_invalid_when_it_comes_back():
    motion = constant(3, (0, 0))
    motion[2, :, 0], motion[1, :, 0] = (-CELL, 0), (CELL, 0)
    result = accumulate(predicted_frames(motion), np.array([[0, 2]]), display_size=(64, 48))
    assert not result.displacement[0, 1, 0, :, 0].any()
    assert not result.valid[0, 1, 0, :, 0].any()
    assert result.valid[0, 1, 0, :, 1:].all()


def test_a_block_whose_centre_is_not_in_the_picture_is_never_valid():
    """340 pixels of 352: the block at 336 would be written to from the left."""
    motion = constant(2, (-CELL // 4, 0))
    result = accumulate(predicted_frames(motion), np.array([[0, 1]]), display_size=(60, 48))
    assert not result.valid[..., 7].any()
    assert result.valid[0, 0, 1, :, :7].all()


def test_of_two_motions_of_one_length_the_later_block_wins():
    motion = constant(2, (0, 0))
    motion[1, 2, 2], motion[1, 2, 4] = (CELL, 0), (-CELL, 0)  # both came from column 3
    result = accumulate(predicted_frames(motion), np.array([[0, 1]]), display_size=(64, 48))
    assert result.displacement[0, 0, 1, 2, 3].tolist() == [8.0, 0.0]


def test_the_larger_motion_wins_however_large():
    """Squares of 2**32 that differ by less than float32 can tell are told apart."""
    motion = constant(2, (0, 0), 2, 1024)
    motion[1, 0, 0] = (1023 * CELL, CELL // 2)
    motion[1, 1, 0] = (1023 * CELL, CELL // 2 - 1)
    step = predicted_frames(motion)
    result = accumulate(step, np.array([[0, 1]]), display_size=(8192, 16))
    assert result.displacement[0, 0, 1, 1, 1023].tolist() == [-8184.0, -4.0]


@pytest.mark.parametrize(("quarters", "agrees"), [(16, True), (15, False)])
def test_an_inverse_may_be_off_by_half_a_pixel_and_no_more(quarters, agrees):
    """No block comes from place 1; the iteration ends between motions of 18 and fewer quarters."""
    motion = constant(2, (0, 0), 1, 5)
    motion[1, 0, :, 0] = (-34, 18, quarters, 6, -26)
    result = accumulate(predicted_frames(motion), np.array([[0, 1]]), display_size=(40, 8))
    assert result.valid[0, 0, 1, 0, 1] == agrees


def test_steps_finer_than_the_vectors_are_refused():
    step = predicted_frames(constant(3, (0, 0)))
    step.steps[1, 2, 3, 0] = 0.001
    with pytest.raises(ValueError, match="multiples of 1/64 cell"):
        accumulate(step, np.array([[0, 2]]), display_size=(64, 48))


def whole_cells(seed, *, num_frames=6, rows=5, columns=7):
    """Draw motion of whole cells, so that every position is the centre of a block."""
    random = np.random.default_rng(seed)
    return CELL * random.integers(-1, 2, (num_frames, rows, columns, 2))


@pytest.mark.parametrize("factor", [2, 3])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_an_enlarged_stream_gives_enlarged_backward_motion(factor, seed):
    """Resize then accumulate, or accumulate then multiply (spec of DVT, property 18).

    Of two blocks from one place the later wins, and enlarging makes other blocks tie: forward
    motion is then one of several that are as good.
    """
    motion, samples = whole_cells(seed), np.array([[0, 2, 5]])
    large = factor * motion.repeat(factor, axis=1).repeat(factor, axis=2)
    size, backward = (7 * 8, 5 * 8), np.tril_indices(3)
    small = accumulate(predicted_frames(motion), samples, display_size=size)
    big = accumulate(
        predicted_frames(large), samples, display_size=(factor * size[0], factor * size[1])
    )
    moved = factor * small.displacement.repeat(factor, axis=3).repeat(factor, axis=4)
    valid = small.valid.repeat(factor, axis=3).repeat(factor, axis=4)
    for later, earlier in zip(*backward, strict=True):
        where = valid[0, later, earlier]
        assert np.array_equal(big.valid[0, later, earlier], where)
        found = big.displacement[0, later, earlier]
        assert np.array_equal(found[where], moved[0, later, earlier][where])


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_a_cropped_stream_gives_the_same_motion_where_it_does_not_leave_the_crop(seed):
    """Crop leaves interior values unchanged (spec of DVT, property 19)."""
    motion, samples = whole_cells(seed, rows=9, columns=11), np.array([[0, 1, 3]])
    whole = accumulate(predicted_frames(motion), samples, display_size=(11 * 8, 9 * 8))
    cropped = motion[:, 1:8, 2:10]
    part = accumulate(predicted_frames(cropped), samples, display_size=(8 * 8, 7 * 8))
    shown = np.s_[0, :, :, 1:8, 2:10]
    backward = np.tril(np.ones((3, 3), bool))[:, :, None, None]
    inside = part.valid[0] & backward
    assert inside.any()
    assert whole.valid[shown][inside].all()
    assert np.array_equal(part.displacement[0][inside], whole.displacement[shown][inside])
