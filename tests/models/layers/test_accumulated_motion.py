"""The batched form against the NumPy form in every element, and both against a plain loop."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from gopstream.models.layers import accumulated_motion as batched
from gopstream.pipeline import accumulation as single


def make_batch(seed, *, batch=3, rows=4, columns=5, longest=48, gop=5, whole=False):
    """Streams of several lengths, with intra blocks, cuts, I-frames; padding is garbage."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 14, batch)
    window = int(lengths.max()) + 1
    unit = 32 if whole else 1
    most = max(1, longest // unit)
    motion = rng.integers(-most, most + 1, (batch, window, rows, columns, 2)) * unit
    coverage = (rng.random((batch, window, rows, columns)) < 0.85).astype(np.uint8)
    coverage[:, 3] &= rng.random((batch, rows, columns)) < 0.5
    phase = rng.integers(0, gop, (batch, 1))
    is_intra = (np.arange(window) + phase) % gop == 0
    is_intra |= rng.random((batch, window)) < 0.1
    beyond = np.arange(window) >= lengths[:, None]
    coverage[is_intra & ~beyond] = 0
    motion[(coverage == 0) & ~beyond[:, :, None, None]] = 0
    cuts = rng.random((batch, window)) < 0.1
    samples = np.sort(rng.integers(0, lengths[:, None, None], (batch, 2, 4)), axis=2)
    sizes = np.array([columns * 8, rows * 8]) - rng.integers(0, 16, (batch, 2))
    arrays = (motion.astype(np.int16), coverage, is_intra, cuts, samples, sizes, lengths)
    return [torch.from_numpy(array) for array in arrays]


def run_batched(inputs, *, with_cuts=True):
    motion, coverage, is_intra, cuts, samples, sizes, lengths = inputs
    step = batched.step_motion(
        motion,
        coverage,
        is_intra_frame=is_intra,
        num_frames=lengths,
        scene_cuts=cuts if with_cuts else None,
    )
    return step, batched.accumulate(step, samples, display_size=sizes, num_frames=lengths)


def run_single(inputs, item, *, with_cuts=True):
    *arrays, samples, sizes, lengths = [tensor.numpy()[item] for tensor in inputs]
    motion, coverage, is_intra, cuts = (array[:lengths] for array in arrays)
    step = single.step_motion(motion, coverage, is_intra, scene_cuts=cuts if with_cuts else None)
    return step, single.accumulate(step, samples, display_size=tuple(sizes.tolist()))


def assert_equal(inputs, **options):
    step, pairs = run_batched(inputs, **options)
    for item, length in enumerate(inputs[-1].tolist()):
        one_step, one_pairs = run_single(inputs, item, **options)
        np.testing.assert_array_equal(step.steps[item, :length].numpy() / 64, one_step.steps)
        np.testing.assert_array_equal(step.valid[item, :length].numpy(), one_step.valid)
        for got, expected in zip(pairs, one_pairs, strict=True):
            assert got[item].numpy().dtype == expected.dtype
            np.testing.assert_array_equal(got[item].numpy(), expected)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    longest=st.sampled_from([3, 32, 96, 3000]),
    gop=st.sampled_from([1, 2, 5, 40]),
    whole=st.booleans(),
    with_cuts=st.booleans(),
)
def test_it_equals_the_numpy_form(seed, grid, longest, gop, whole, with_cuts):
    """Whole cells make many blocks of one length land in one place: the ties."""
    rows, columns = grid
    inputs = make_batch(seed, rows=rows, columns=columns, longest=longest, gop=gop, whole=whole)
    assert_equal(inputs, with_cuts=with_cuts)


def test_it_equals_the_numpy_form_on_a_clip_of_full_size():
    """16 frames, stride 8, on the grid of 340x256: a window of 122 frames."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(-40, 41, (1, 122, 4, 11, 2)).repeat(8, 2).repeat(4, 3)
    motion = (coarse + rng.integers(-3, 4, (1, 122, 32, 44, 2))).astype(np.int16)
    coverage = (rng.random((1, 122, 32, 44)) < 0.95).astype(np.uint8)
    is_intra = (np.arange(122) % 12 == 0)[None]
    coverage[is_intra] = 0
    motion[coverage == 0] = 0
    samples = (np.arange(16) * 8 + 1).reshape(1, 2, 8)
    arrays = (motion, coverage, is_intra, np.zeros_like(is_intra), samples)
    inputs = [torch.from_numpy(array) for array in arrays]
    assert_equal([*inputs, torch.tensor([[340, 256]]), torch.tensor([122])])


def loop_pair(step, frames, size):
    """MD(t, t') and validity in float64, straight from the definition; t' may be later."""
    t, u = frames
    rows, columns = step.valid.shape[1:]
    limits = np.array(size) / 8 - 0.5
    cells = [(y, x) for y in range(rows) for x in range(columns)]

    def inside(q):
        return min(q) >= -0.5 and q[0] < limits[0] and q[1] < limits[1]

    def nearest(q):
        x, y = (math.floor(value + 0.5) for value in q)
        return min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)

    back, followed = np.zeros((rows, columns, 2)), np.zeros((rows, columns), bool)
    for y, x in cells:
        q, good = np.array([x, y], float), inside((x, y))
        for frame in range(max(t, u), min(t, u), -1):
            cell = nearest(q)
            q = q + step.steps[frame][cell].astype(float)
            good = good and bool(step.valid[frame][cell]) and inside(q)
        back[y, x], followed[y, x] = q - (x, y), good
    if u <= t:
        return back * 8, followed
    moved, valid, length = np.zeros_like(back), np.zeros_like(followed), np.full(back.shape[:2], -1)
    for y, x in cells:
        target = back[y, x] + (x, y)
        cell = nearest(target)
        square = round(np.square(back[y, x] * 64).sum())
        if followed[y, x] and inside(target) and square >= length[cell]:
            moved[cell], valid[cell], length[cell] = -back[y, x], inside(cell[::-1]), square
    for y, x in cells:
        if length[y, x] >= 0:
            continue
        found = -back[y, x]
        for _ in range(5):
            found = -back[nearest(found + (x, y))]
        cell = nearest(found + (x, y))
        agrees = np.abs(found + back[cell]).max() <= 0.5 / 8
        reached = inside((x, y)) and inside(found + (x, y)) and followed[cell]
        moved[y, x], valid[y, x] = found, agrees and reached
    return moved * 8, valid


@pytest.mark.parametrize("whole", [False, True], ids=["quarter pixels", "whole cells"])
@pytest.mark.parametrize("seed", range(4))
def test_both_forms_equal_the_loop(seed, whole):
    inputs = make_batch(seed, whole=whole)
    _, pairs = run_batched(inputs)
    samples, sizes = inputs[4].numpy(), inputs[5].numpy()
    for item in range(len(samples)):
        step, one = run_single(inputs, item)
        for group, i, j in np.ndindex(2, 4, 4):
            frames = samples[item, group, i], samples[item, group, j]
            if frames[0] == frames[1] and i != j:
                continue  # the same frame twice: its own case below
            moved, valid = loop_pair(step, frames, sizes[item])
            at = (group, i, j)
            for form in (one, batched.AccumulatedMotion(*(part[item] for part in pairs))):
                np.testing.assert_array_equal(np.asarray(form.displacement[at]), moved)
                np.testing.assert_array_equal(np.asarray(form.valid[at]), valid)


def test_a_frame_that_is_sampled_twice_has_not_moved():
    inputs = make_batch(0)
    inputs[4] = torch.tensor([2, 2, 4, 4]).expand(3, 2, 4)
    inputs[5] = torch.tensor([40, 32]).expand(3, 2)
    _, pairs = run_batched(inputs)
    for i, j in ((0, 1), (1, 0), (2, 3), (3, 2)):
        assert not pairs.displacement[:, :, i, j].any()
        assert pairs.valid[:, :, i, j].all()


def test_a_group_may_have_one_sample():
    inputs = make_batch(1)
    inputs[4] = inputs[4][..., :1]
    assert_equal(inputs)


def test_the_order_of_clips_in_a_batch_and_their_padding_change_nothing():
    inputs = make_batch(5)
    _, pairs = run_batched(inputs)
    _, turned = run_batched([tensor.flip(0) for tensor in inputs])
    for one, other in zip(pairs, turned, strict=True):
        assert torch.equal(one, other.flip(0))
    more = [torch.nn.functional.pad(t, (0, 0) * (t.ndim - 2) + (0, 6)) for t in inputs[:4]]
    _, padded = run_batched([*more, *inputs[4:]])
    for one, other in zip(pairs, padded, strict=True):
        assert torch.equal(one, other)


def test_inputs_are_left_as_they_are():
    inputs = make_batch(6)
    before = [tensor.clone() for tensor in inputs]
    step, _ = run_batched(inputs)
    steps = step.steps.clone()
    batched.accumulate(step, inputs[4], display_size=inputs[5])
    assert torch.equal(step.steps, steps)
    for tensor, old in zip(inputs, before, strict=True):
        assert torch.equal(tensor, old)


def test_rules_are_those_of_the_numpy_form():
    """A P-frame of exactly 60 % intra blocks goes on, one block more starts a scene."""
    assert batched.BLOCK_PIXELS == single.BLOCK_PIXELS
    assert batched.SCENE_CUT_INTRA_SHARE == single.SCENE_CUT_INTRA_SHARE
    motion = torch.zeros(1, 2, 5, 6, 2, dtype=torch.int16)
    coverage = torch.ones(1, 2, 5, 6, dtype=torch.uint8)
    coverage[0, 0].view(-1)[:18] = 0
    coverage[0, 1].view(-1)[:19] = 0
    is_intra = torch.zeros(1, 2, dtype=torch.bool)
    step = batched.step_motion(motion, coverage, is_intra_frame=is_intra)
    assert step.valid.sum(dim=(2, 3)).tolist() == [[12, 0]]
    alone = single.step_motion(motion[0].numpy(), coverage[0].numpy(), is_intra[0].numpy())
    np.testing.assert_array_equal(step.valid[0].numpy(), alone.valid)


def test_samples_in_the_padding_are_refused():
    inputs = make_batch(2)
    inputs[4][1, 1, -1] = inputs[-1][1]
    with pytest.raises(ValueError, match=rf"item 1 must lie in 0\.\.{int(inputs[-1][1]) - 1}"):
        run_batched(inputs)
    step, _ = run_batched(make_batch(2))
    with pytest.raises(ValueError, match="item 2 must lie in"):
        samples = torch.tensor([[[0, 1]], [[0, 1]], [[0, 99]]])
        batched.accumulate(step, samples, display_size=inputs[5])


def test_falling_samples_are_refused():
    inputs = make_batch(2)
    inputs[4][0, 0] = torch.tensor([0, 2, 1, 3])
    with pytest.raises(ValueError, match="must not fall"):
        run_batched(inputs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_every_time():
    inputs = make_batch(7, batch=4, rows=28, columns=44, whole=True)
    _, expected = run_batched(inputs)
    for _ in range(3):
        _, pairs = run_batched([tensor.cuda() for tensor in inputs])
        for got, wanted in zip(pairs, expected, strict=True):
            assert torch.equal(got.cpu(), wanted)
