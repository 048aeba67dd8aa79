"""Steps made ready for chaining: intra blocks, I-frames, scene cuts, streams with two lists."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from gopstream.pipeline.accumulation import accumulate, one_list_motion, step_motion

CELL = 32  # quarter pixels


def loop_steps(motion, coverage, is_intra, cuts):
    """Steps of one frame after the other in float64, from the rules as they are written."""
    num_frames, rows, columns = coverage.shape
    steps, valid = motion / CELL, coverage.astype(bool)
    for frame in range(num_frames):
        if is_intra[frame]:
            continue
        known = {(y, x): steps[frame, y, x] for y, x in np.argwhere(coverage[frame])}
        for y, x in np.argwhere(coverage[frame] == 0):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            near = [known[place] for place in around if place in known]
            steps[frame, y, x] = np.median(near, axis=0) if near else 0
        if rows * columns - len(known) > 0.6 * rows * columns or cuts[frame]:
            valid[frame] = False
    for frame in np.flatnonzero(is_intra):
        for near in (frame + 1, frame - 1):
            if 0 <= near < num_frames and not is_intra[near] and not cuts[near]:
                steps[frame], valid[frame] = steps[near], valid[near] & (not cuts[frame])
                break
    return steps, valid


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


@pytest.mark.parametrize("seed", range(12))
def test_steps_equal_the_loop(seed):
    """Intra blocks at borders, I-frames at both ends and side by side, cuts everywhere."""
    motion, coverage, is_intra, cuts = random_stream(seed, gop=(1, 2, 4, 7)[seed % 4])
    coverage[5, :3] = 0
    motion[5, :3] = 0
    is_intra[seed % 9] = True
    coverage[is_intra] = 0
    motion[is_intra] = 0
    step = step_motion(motion, coverage, is_intra, scene_cuts=cuts)
    steps, valid = loop_steps(motion, coverage, is_intra, cuts)
    np.testing.assert_array_equal(step.steps, steps)
    np.testing.assert_array_equal(step.valid, valid)


def test_no_cuts_change_nothing():
    motion, coverage, is_intra, _ = random_stream(3)
    without = step_motion(motion, coverage, is_intra)
    with_none = step_motion(motion, coverage, is_intra, scene_cuts=np.zeros(9, bool))
    for one, two in zip(without, with_none, strict=True):
        np.testing.assert_array_equal(one, two)


def test_cuts_of_another_number_of_frames_are_refused():
    motion, coverage, is_intra, _ = random_stream(3)
    with pytest.raises(ValueError, match=r"scene_cuts must have shape \(9,\), got \(8,\)"):
        step_motion(motion, coverage, is_intra, scene_cuts=np.zeros(8, bool))


def gop_of_four(cut_at):
    """Twelve frames, I-frames at 0, 4 and 8, each P-frame with a motion of its own."""
    is_intra = np.arange(12) % 4 == 0
    motion = constant(12, (0, 0))
    motion[:] = np.arange(12)[:, None, None, None]
    coverage = np.ones((12, 6, 8), np.uint8)
    motion[is_intra], coverage[is_intra] = 0, 0
    cuts = np.isin(np.arange(12), cut_at)
    return step_motion(motion, coverage, is_intra, scene_cuts=cuts)


@pytest.mark.parametrize(
    ("cut_at", "taken"),
    [
        ([], 5),
        ([4], None),  # its own step leads into another scene
        ([5], 3),  # the step after it leads into another scene, the one before it does not
        ([3], 5),
        ([3, 5], None),  # alone in its scene with a frame of unknown motion
        ([4, 5], None),
    ],
)
def test_an_intra_frame_at_the_border_of_a_scene(cut_at, taken):
    step = gop_of_four(cut_at)
    assert step.valid[4].all() == step.valid[4].any() == (taken is not None)
    if taken is not None:
        np.testing.assert_array_equal(step.steps[4], step.steps[taken])
    assert step.valid[8].all()  # another GOP is not concerned
    np.testing.assert_array_equal(step.steps[8], step.steps[9])


def test_pairs_around_a_cut_at_an_intra_frame():
    """Both scenes stay whole, and the I-frame of the second is not on the way of any pair."""
    samples = np.array([[1, 3, 4, 7]])
    result = accumulate(gop_of_four([4]), samples, display_size=(64, 48))
    inner = (slice(2, -2), slice(2, -2))
    valid = result.valid[0][:, :, *inner]
    assert valid[:2, :2].all()
    assert valid[2:, 2:].all()
    assert not result.valid[0, :2, 2:].any()
    assert not result.valid[0, 2:, :2].any()
    assert not result.extrapolated[0, 2:, 2:].any()


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


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 7))
def test_a_cut_known_from_pixels_parts_the_scenes_and_nothing_else(seed, cut):
    """With P-frames only; the cut's own step is the one that no pair may use."""
    motion, coverage, _, _ = random_stream(seed, num_frames=8, gop=8)
    coverage[0] = 1
    no_intra = np.zeros(8, bool)
    samples = np.array([[0, 2, 3, 5, 7]])
    cuts = np.arange(8) == cut
    whole = accumulate(step_motion(motion, coverage, no_intra), samples, display_size=(40, 32))
    parted = accumulate(
        step_motion(motion, coverage, no_intra, scene_cuts=cuts), samples, display_size=(40, 32)
    )
    side = samples[0] >= cut
    across = side[:, None] != side[None]
    assert not parted.valid[0][across].any()
    np.testing.assert_array_equal(parted.valid[0][~across], whole.valid[0][~across])
    np.testing.assert_array_equal(parted.displacement[0][~across], whole.displacement[0][~across])


def two_lists():
    motion, coverage, _, _ = random_stream(0)
    empty = np.zeros_like(motion), np.zeros_like(coverage)
    return np.stack([motion, empty[0]], 1), np.stack([coverage, empty[1]], 1)


def test_one_list_is_handed_on_where_it_is_the_only_one_used():
    motion, coverage = two_lists()
    for lists in (slice(1), slice(2)):
        result = one_list_motion(motion[:, lists], coverage[:, lists], kinds="IPPPIPPPI")
        np.testing.assert_array_equal(result.motion, motion[:, 0])
        np.testing.assert_array_equal(result.coverage, coverage[:, 0])
        np.testing.assert_array_equal(result.is_intra_frame, np.arange(9) % 4 == 0)
        step_motion(*result)


def test_b_frames_are_refused_with_the_reason():
    motion, coverage = two_lists()
    with pytest.raises(ValueError, match="do not name the frame.*canonical shards"):
        one_list_motion(motion, coverage, kinds=["I", "B", "P"] * 3)
    coverage[3, 1, 2, 2] = 1
    with pytest.raises(ValueError, match="B-frames.*canonical shards"):
        one_list_motion(motion, coverage, kinds="IPPPIPPPI")


def test_kinds_and_shapes_that_do_not_fit_are_refused():
    motion, coverage = two_lists()
    with pytest.raises(ValueError, match=r"must be I, P or B, got \['S'\]"):
        one_list_motion(motion, coverage, kinds="IPPSIPPPI")
    with pytest.raises(ValueError, match="and 8"):
        one_list_motion(motion, coverage, kinds="IPPPIPPP")
    with pytest.raises(ValueError, match="coverage"):
        one_list_motion(motion[:, 0], coverage[:, 0], kinds="IPPPIPPPI")


def test_a_frame_of_exactly_the_share_of_intra_blocks_goes_on():
    """18 of 30 blocks are 60 %; one block more starts a scene."""
    coverage = np.ones((2, 5, 6), np.uint8)
    coverage[0].reshape(-1)[:18] = 0
    coverage[1].reshape(-1)[:19] = 0
    step = step_motion(np.zeros((2, 5, 6, 2), np.int16), coverage, np.zeros(2, bool))
    assert step.valid.sum(axis=(1, 2)).tolist() == [12, 0]
