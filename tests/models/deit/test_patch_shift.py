"""Patch shift with class tokens: where each token comes from, and that nothing is lost."""

from functools import partial

import pytest
import torch

from gopstream.models.deit.patch_shift import patch_map, shift_patches, shift_patches_back
from gopstream.models.layers.patterns import cell_offsets


def make_shift(pattern="C", *, height=6, width=6):
    """The shift by a pattern, and the way back."""
    offsets = cell_offsets(pattern, height=height, width=width)
    return partial(shift_patches, offsets=offsets), partial(shift_patches_back, offsets=offsets)


def numbered(num_frames=16, num_patches=36, width=2):
    """Tokens (1, T, 1 + patches, D) that hold the number of their frame."""
    frames = torch.arange(num_frames, dtype=torch.float32).view(1, -1, 1, 1)
    return frames.expand(1, num_frames, 1 + num_patches, width).contiguous()


def test_patches_come_from_the_frames_of_the_pattern():
    shift, _ = make_shift()
    shifted = shift(numbered())[0, :, 1:, 0].view(16, 6, 6)
    # Source frames by hand: t - offset, in a ring of 16.
    assert shifted[8, :3, :3].tolist() == [[12, 7, 6], [9, 8, 5], [10, 11, 4]]
    assert shifted[8, 3:, 3:].tolist() == [[12, 7, 6], [9, 8, 5], [10, 11, 4]]
    assert shifted[0, :3, :3].tolist() == [[4, 15, 14], [1, 0, 13], [2, 3, 12]]


def test_the_tile_is_laid_from_the_first_patch_over_the_whole_grid():
    shift, _ = make_shift(height=14, width=14)
    shifted = shift(numbered(num_patches=196))[0, 8, 1:, 0].view(14, 14)
    assert torch.equal(shifted[:, :3].repeat(1, 5)[:, :14], shifted)
    assert torch.equal(shifted[:3].repeat(5, 1)[:14], shifted)


def test_patches_keep_their_place_and_class_tokens_their_frame():
    tokens = torch.arange(37.0).view(1, 1, 37, 1).expand(1, 16, 37, 2).contiguous()
    shift, _ = make_shift()
    assert torch.equal(shift(tokens), tokens)
    shifted = shift(numbered())
    assert torch.equal(shifted[:, :, 0], numbered()[:, :, 0])


@pytest.mark.parametrize("pattern", ["none", "center-one", "uneven", "even-2", "A", "B", "C", "D"])
@pytest.mark.parametrize("num_frames", [1, 3, 8, 16])
def test_shifting_back_restores_every_bit(pattern, num_frames):
    tokens = torch.randn(2, num_frames, 37, 3, generator=torch.Generator().manual_seed(0))
    shift, back = make_shift(pattern)
    assert torch.equal(back(shift(tokens)), tokens)
    assert torch.equal(shift(back(tokens)), tokens)


def test_the_gradient_goes_back_to_the_frame_that_a_patch_came_from():
    tokens = torch.zeros(1, 16, 37, 1, requires_grad=True)
    shift, back = make_shift()
    shift(tokens)[0, 8, 1 + 0].sum().backward()
    assert tokens.grad.nonzero().tolist() == [[0, 12, 1, 0]]
    tokens.grad = None
    back(tokens)[0, 8, 1 + 0].sum().backward()
    assert tokens.grad.nonzero().tolist() == [[0, 4, 1, 0]]


def test_clips_of_a_batch_do_not_touch_each_other():
    tokens = torch.stack([numbered()[0], 100 + numbered()[0]])
    shift, _ = make_shift()
    shifted = shift(tokens)
    assert torch.equal(shifted[1], shifted[0] + 100)


def test_the_map_of_a_length_is_made_once():
    offsets = cell_offsets("C", height=6, width=6)
    device = torch.device("cpu")
    first = patch_map(offsets, 16, device=device)
    assert patch_map(offsets, 16, device=device) is first
    assert patch_map(offsets, 8, device=device) is not first
