"""Quarter turns are exact: pictures, motion, and the prediction of one from the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gopstream.pipeline.compensation import INTRA_PREDICTION, predict_planes
from gopstream.pipeline.grid import BlockMotion, Planes
from gopstream.pipeline.rotation import rotate_motion, rotate_planes, rotate_rect

TURNS = [0, 1, 2, 3]


def draw_planes(rng, height, width):
    def plane(*shape):
        extreme = rng.choice(np.array([0, 255], np.uint8), shape)
        return np.where(rng.random(shape) < 0.5, extreme, rng.integers(0, 256, shape, np.uint8))

    half = (height // 2, width // 2)
    return Planes(plane(height, width), plane(*half), plane(*half))


def assert_turning_commutes(planes, motion, coverage, turns):
    fields = BlockMotion(motion[None], coverage[None])
    turned = rotate_motion(fields, turns)
    found = predict_planes(rotate_planes(planes, turns), turned.motion[0], turned.coverage[0])
    expected = rotate_planes(predict_planes(planes, motion, coverage), turns)
    for plane, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(plane, right)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_predicting_a_turned_picture_gives_the_turned_prediction_at_each_fraction(turns):
    """All 64 fractions of chroma, and with them the 16 of luma; the taps are symmetric."""
    rng = np.random.default_rng(turns)
    planes = draw_planes(rng, 16, 32)
    covered = np.ones((2, 4), np.uint8)
    for fraction in range(64):
        whole = 8 * rng.integers(-3, 3, (2, 4, 2))
        motion = (whole + (fraction % 8, fraction // 8)).astype(np.int16)
        assert_turning_commutes(planes, motion, covered, turns)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(16, 16), (16, 48), (32, 16)]),
    st.sampled_from([4, 60, 1000, 32767]),
    st.sampled_from([1, 2, 3]),
)
def test_predicting_a_turned_picture_gives_the_turned_prediction(seed, size, reach, turns):
    rng = np.random.default_rng(seed)
    grid = (size[0] // 8, size[1] // 8)
    motion = rng.integers(-reach, reach + 1, (*grid, 2)).astype(np.int16)
    coverage = rng.integers(0, 2, grid).astype(np.uint8)
    assert_turning_commutes(draw_planes(rng, *size), motion, coverage, turns)


@pytest.mark.parametrize("turns", TURNS)
def test_pictures_turn_as_numpy_turns_them_with_rows_side_by_side(turns):
    planes = draw_planes(np.random.default_rng(0), 16, 32)
    for plane, original in zip(rotate_planes(planes, turns), planes, strict=True):
        np.testing.assert_array_equal(plane, np.rot90(original, turns))
        assert plane.flags.c_contiguous


@pytest.mark.parametrize(
    ("turns", "expected"), [(0, (3, -5)), (1, (-5, -3)), (2, (-3, 5)), (3, (5, 3))]
)
def test_a_vector_turns_with_its_block(turns, expected):
    """Counterclockwise, right becomes up, and down becomes right."""
    motion = np.zeros((2, 2, 4, 2), np.int16)
    coverage = np.zeros((2, 2, 4), np.uint8)
    motion[1, 0, 3], coverage[1, 0, 3] = (3, -5), 1
    turned = rotate_motion(BlockMotion(motion, coverage), turns)
    place = {0: (0, 3), 1: (0, 0), 2: (1, 0), 3: (3, 1)}[turns]
    assert tuple(turned.motion[(1, *place)]) == expected
    assert turned.coverage[(1, *place)] == 1
    assert turned.coverage.sum() == 1
    assert np.count_nonzero(turned.motion) == 2
    assert turned.motion.dtype == np.int16
    assert turned.motion.flags.c_contiguous
    assert turned.coverage.flags.c_contiguous


def test_four_turns_are_none():
    rng = np.random.default_rng(1)
    motion = rng.integers(-999, 999, (2, 4, 6, 2)).astype(np.int16)
    fields = BlockMotion(motion, rng.integers(0, 2, (2, 4, 6)).astype(np.uint8))
    turned = fields
    for _ in range(4):
        turned = rotate_motion(turned, 1)
    for array, original in zip(turned, fields, strict=True):
        np.testing.assert_array_equal(array, original)


def test_blocks_without_prediction_stay_so():
    planes = draw_planes(np.random.default_rng(2), 16, 16)
    nothing = np.zeros((2, 2), np.uint8)
    turned = rotate_motion(BlockMotion(np.zeros((1, 2, 2, 2), np.int16), nothing[None]), 1)
    predicted = predict_planes(rotate_planes(planes, 1), turned.motion[0], turned.coverage[0])
    assert all((plane == INTRA_PREDICTION).all() for plane in predicted)


@pytest.mark.parametrize("turns", TURNS)
def test_a_rectangle_turns_with_the_picture(turns):
    """Marked pixels are found where the turned rectangle says."""
    picture = np.zeros((20, 30), np.uint8)
    x, y, width, height = 4, 1, 7, 5
    picture[y : y + height, x : x + width] = 1
    x, y, width, height = rotate_rect((x, y, width, height), turns, size=(30, 20))
    turned = np.rot90(picture, turns)
    assert turned[y : y + height, x : x + width].sum() == 35
    assert (width, height) == ((5, 7) if turns % 2 else (7, 5))
