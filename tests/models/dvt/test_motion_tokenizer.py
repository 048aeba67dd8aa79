"""Pooling and tokenizing of motion against slow loops."""

import pytest
import torch
from torch import nn

from gopstream.models.dvt.motion_tokenizer import (
    MotionTokenizer,
    clean_motion,
    mask_invalid,
    pool_motion,
)
from gopstream.models.dvt.options import CueOptions
from gopstream.models.dvt.patch_embedding import PatchGeometry

PATCHES = PatchGeometry(kernel=(3, 7, 7), stride=(2, 4, 4), padding=(1, 3, 3))


def random_motion(rows, columns, *, seed=0, num_queries=2, num_frames=4):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, num_queries, 2, num_frames, rows, columns)
    motion = 5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    valid = torch.rand(1, num_queries, num_frames, rows, columns, generator=generator) < 0.6
    return motion, valid


def pool_slowly(motion, valid, *, frame, factor):
    """Mean of the valid pixels of each `factor` x `factor` square of the frame."""
    height, width = frame
    rows, columns = motion.shape[-2:]
    out = torch.zeros(*motion.shape[:-2], height // factor, width // factor, dtype=motion.dtype)
    for b, q, c, j, y, x in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        kept = []
        for pixel_y in range(y * factor, (y + 1) * factor):
            for pixel_x in range(x * factor, (x + 1) * factor):
                row, column = pixel_y * rows // height, pixel_x * columns // width
                if valid[b, q, j, row, column]:
                    kept.append(motion[b, q, c, j, row, column].item())
        out[b, q, c, j, y, x] = sum(kept) / len(kept) if kept else 0.0
    return out


@pytest.mark.parametrize(
    ("grid", "factor"),
    [((4, 8), 1), ((4, 8), 2), ((4, 8), 8), ((16, 32), 2), ((8, 16), 4), ((2, 2), 4)],
)
def test_pooling_equals_the_mean_over_valid_pixels(grid, factor):
    motion, valid = random_motion(*grid)
    clean, validity = clean_motion(motion, valid=valid, height=1000, width=1000)
    pooled = pool_motion(clean, validity, height=16 // factor, width=32 // factor)
    expected = pool_slowly(motion, valid, frame=(16, 32), factor=factor)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-10)


def test_pooling_equals_the_mean_where_neither_grid_divides_the_other():
    motion, valid = random_motion(8, 8, num_queries=1, num_frames=2)
    clean, validity = clean_motion(motion, valid=valid, height=1000, width=1000)
    pooled = pool_motion(clean, validity, height=12, width=12)
    expected = pool_slowly(motion, valid, frame=(24, 24), factor=2)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-10)


def test_invalid_motion_counts_as_none_even_if_it_is_nan():
    motion, valid = random_motion(4, 4)
    poisoned = motion.masked_fill(~valid.unsqueeze(2), float("nan"))
    clean, _ = clean_motion(poisoned, valid=valid, height=16, width=16)
    expected, _ = clean_motion(motion, valid=valid, height=16, width=16)
    assert torch.equal(clean, expected)
    assert clean.masked_select(~valid.unsqueeze(2)).eq(0).all()


def test_motion_longer_than_the_frame_is_clipped_per_axis():
    motion = torch.tensor([50.0, 50.0, -50.0, -50.0]).view(1, 2, 2, 1, 1, 1)
    clean, _ = clean_motion(motion, valid=None, height=16, width=32)
    assert clean.flatten().tolist() == [32.0, 16.0, -32.0, -16.0]


def make_tokenizer(downsampling, *, seed=0, patches=PATCHES, **options):
    torch.manual_seed(seed)
    return MotionTokenizer(
        3, patches=patches, downsampling=downsampling, options=CueOptions(**options)
    ).double()


def inputs_of(module):
    """Collect what the module is given."""
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("downsampling", [1, 2])
@torch.no_grad()
def test_tokenizer_equals_the_loop(downsampling):
    tokenizer = make_tokenizer(downsampling)
    motion, valid = random_motion(4, 8)
    clean, validity = clean_motion(motion, valid=valid, height=1000, width=1000)
    got = tokenizer(clean, validity, height=16, width=32)

    volume = pool_slowly(motion, valid, frame=(16, 32), factor=downsampling) / (4 * downsampling)
    padded = nn.functional.pad(volume, (3, 3, 3, 3, 1, 1))
    weight, bias = tokenizer.projection.weight, tokenizer.projection.bias
    expected = torch.zeros(1, 2, 2, 4 // downsampling, 8 // downsampling, 3, dtype=torch.float64)
    for q, k, y, x, d in torch.cartesian_prod(*map(torch.arange, expected.shape[1:])).tolist():
        patch = padded[0, q, :, 2 * k : 2 * k + 3, 4 * y : 4 * y + 7, 4 * x : 4 * x + 7]
        expected[0, q, k, y, x, d] = (patch * weight[d]).sum() + bias[d]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("downsampling", [1, 2, 4, 8])
def test_uniform_motion_enters_each_stage_in_its_own_token_cells(downsampling):  # property 17
    tokenizer = make_tokenizer(downsampling)
    seen = []
    tokenizer.projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    motion = torch.tensor([6.0, -2.0], dtype=torch.float64).view(1, 1, 2, 1, 1, 1)
    clean, validity = clean_motion(motion.expand(1, 1, 2, 4, 4, 4), valid=None, height=32, width=32)
    tokenizer(clean, validity, height=32, width=32)
    assert seen[0].shape == (1, 2, 4, 32 // downsampling, 32 // downsampling)
    assert seen[0][:, 0].eq(6.0 / (4 * downsampling)).all()
    assert seen[0][:, 1].eq(-2.0 / (4 * downsampling)).all()


@torch.no_grad()
def test_token_k_is_centred_on_sampled_frame_2k():
    tokenizer = make_tokenizer(1)
    tokenizer.projection.weight[:, :, [0, 2]] = 0.0
    motion = torch.zeros(1, 1, 2, 4, 4, 4, dtype=torch.float64)
    motion[:, :, :, 2] = 3.0
    clean, validity = clean_motion(motion, valid=None, height=16, width=16)
    tokens = tokenizer(clean, validity, height=16, width=16) - tokenizer.projection.bias
    assert tokens[:, :, 0].abs().max() == 0
    assert tokens[:, :, 1].abs().min() > 0


@pytest.mark.parametrize(
    ("scaling", "expected"), [("linear", 1.5), ("asinh", 1.1947632), ("tanh", 0.9051483)]
)
@torch.no_grad()
def test_motion_may_be_made_smaller_where_it_is_large(scaling, expected):
    tokenizer = make_tokenizer(1, scaling=scaling)
    seen = inputs_of(tokenizer.projection)
    motion = torch.tensor([6.0, 6.0], dtype=torch.float64).view(1, 1, 2, 1, 1, 1)
    clean, validity = clean_motion(motion.expand(1, 1, 2, 4, 4, 4), valid=None, height=32, width=32)
    tokenizer(clean, validity, height=32, width=32)
    assert torch.allclose(seen[0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("downsampling", [1, 2])
@torch.no_grad()
def test_rgb_enters_as_it_is_averaged_over_what_is_valid(downsampling):
    tokenizer = make_tokenizer(downsampling, cue="residual")
    seen = inputs_of(tokenizer.projection)
    generator = torch.Generator().manual_seed(0)
    residual = 90 * torch.randn(1, 2, 3, 4, 16, 32, generator=generator, dtype=torch.float64)
    valid = torch.rand(1, 2, 4, 16, 32, generator=generator) < 0.6
    masked, validity = mask_invalid(residual, valid=valid)
    tokens = tokenizer(masked, validity, height=16, width=32)
    assert tokens.shape == (1, 2, 2, 4 // downsampling, 8 // downsampling, 3)
    expected = pool_slowly(residual, valid, frame=(16, 32), factor=downsampling)
    torch.testing.assert_close(seen[0], expected[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@torch.no_grad()
def test_a_token_for_each_sampled_frame_covers_what_a_token_frame_there_covers(kernel):
    patches = PatchGeometry((kernel, 4, 4), (2, 4, 4), (kernel // 3, 0, 0))
    of_frames = make_tokenizer(1, patches=patches, targets="frames")
    of_tokens = make_tokenizer(1, patches=patches)
    motion, _ = random_motion(4, 4)
    clean, validity = clean_motion(motion, valid=None, height=1000, width=1000)
    each = of_frames(clean, validity, height=16, width=16)
    assert each.shape == (1, 2, 4, 4, 4, 3)
    torch.testing.assert_close(each[:, :, ::2], of_tokens(clean, validity, height=16, width=16))
    assert (each[:, :, 1] - each[:, :, 0]).abs().min() > 0
