"""Motion of a crop's blocks, from queries alone, against all pairs of all blocks."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from gopstream.pipeline.accumulation import accumulate, accumulate_cells, step_motion


def random_steps(seed, *, rows, columns, num_frames=12, longest=48):
    """Motion with holes, occlusions, I-frames and scene cuts; whole pairs are dead behind one."""
    rng = np.random.default_rng(seed)
    motion = rng.integers(-longest, longest + 1, (num_frames, rows, columns, 2)).astype(np.int16)
    coverage = (rng.random((num_frames, rows, columns)) < 0.85).astype(np.uint8)
    is_intra = rng.random(num_frames) < 0.2
    coverage[is_intra] = 0
    motion[coverage == 0] = 0
    return step_motion(motion, coverage, is_intra, scene_cuts=rng.random(num_frames) < 0.1)


def crop_of_pairs(step, samples, *, size, query_stride, cells, linear):
    """What is asked for, taken out of all pairs of all blocks."""
    pairs = accumulate(step, samples, display_size=size)
    num_cells = step.valid[0].size
    moved = pairs.displacement[:, ::query_stride].reshape(-1, samples.shape[1], num_cells, 2)
    valid = pairs.valid[:, ::query_stride].reshape(moved.shape[:-1])
    moved, valid = moved[:, :, np.maximum(cells, 0)], valid[:, :, np.maximum(cells, 0)]
    valid = valid & (cells >= 0)
    scale = np.diag(linear)
    turned = moved * scale if np.array_equal(np.diag(scale), linear) else moved @ linear.T
    return np.moveaxis(np.where(valid[..., None], turned, np.float32(0)), -1, 1), valid


def case(seed, *, grid, samples_each, query_stride, longest=48):
    rng = np.random.default_rng(seed)
    rows, columns = grid
    side = int(rng.integers(1, 8))
    return random_steps(seed, rows=rows, columns=columns, longest=longest), {
        "samples": np.sort(rng.integers(0, 12, (2, samples_each)), axis=1),
        "size": (columns * 8 - int(rng.integers(0, 12)), rows * 8 - int(rng.integers(0, 12))),
        "query_stride": query_stride,
        "cells": rng.integers(-2, rows * columns, (side, side)),
        "linear": np.diag(rng.uniform(-3, 3, 2)).astype(np.float32),
    }


def ask(step, *, samples, size, query_stride, cells, linear):
    return accumulate_cells(
        step, samples, display_size=size, query_stride=query_stride, cells=cells, linear=linear
    )


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    samples_each=st.integers(1, 5),
    query_stride=st.integers(1, 4),
    longest=st.sampled_from([3, 32, 96, 3000]),
)
def test_it_equals_all_pairs_of_all_blocks_bit_for_bit(
    seed, grid, samples_each, query_stride, longest
):
    step, asked = case(
        seed, grid=grid, samples_each=samples_each, query_stride=query_stride, longest=longest
    )
    motion, valid = crop_of_pairs(step, **asked)
    result = ask(step, **asked)
    assert result.motion.dtype == np.float32
    np.testing.assert_array_equal(result.motion, motion)
    np.testing.assert_array_equal(result.valid, valid)


def test_vectors_are_turned_by_a_map_that_is_not_diagonal():
    step, asked = case(3, grid=(6, 7), samples_each=4, query_stride=2)
    asked["linear"] = np.array([[0.5, -2.0], [1.5, 0.25]], np.float32)
    asked["cells"] = np.arange(42).reshape(6, 7)
    motion, valid = crop_of_pairs(step, **asked)
    result = ask(step, **asked)
    assert valid.any()
    assert motion.any()
    np.testing.assert_allclose(result.motion, motion, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(result.valid, valid)


def test_cells_that_show_no_block_have_no_motion():
    step, asked = case(3, grid=(6, 7), samples_each=4, query_stride=1)
    asked["cells"] = np.arange(-1, 41).reshape(6, 7)
    asked["cells"][3] = -1
    result = ask(step, **asked)
    assert result.valid[..., 1, :].any()
    assert not result.valid[..., asked["cells"] < 0].any()
    assert not result.motion[..., asked["cells"] < 0].any()


def test_samples_outside_of_the_window_are_refused():
    step, asked = case(0, grid=(3, 3), samples_each=3, query_stride=1)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.11"):
        ask(step, **asked | {"samples": np.array([[0, 12]])})
    with pytest.raises(ValueError, match="must not fall"):
        ask(step, **asked | {"samples": np.array([[2, 1]])})


def test_the_order_of_motion_in_memory_plays_no_part():
    """Intra blocks are filled in place."""
    rng = np.random.default_rng(0)
    motion = rng.integers(-40, 41, (5, 4, 6, 2)).astype(np.int16)
    coverage = (rng.random((5, 4, 6)) < 0.7).astype(np.uint8)
    is_intra = np.zeros(5, bool)
    turned = np.asfortranarray(motion)
    step, same = (step_motion(each, coverage, is_intra) for each in (motion, turned))
    np.testing.assert_array_equal(step.steps, same.steps)
    assert not np.array_equal(step.steps, motion / np.float32(32))
