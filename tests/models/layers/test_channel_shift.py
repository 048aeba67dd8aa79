"""The channel shift against loops."""

import numpy as np
import pytest
import torch

from gopstream.models.layers.channel_shift import shift_channels


def slow_shift(tokens, num_heads, folds, boundary):
    """Move channels of (B, T, H, W, C) one by one."""
    _, frames, _, _, width = tokens.shape
    head_dim = width // num_heads
    fold = head_dim // folds
    shifted = tokens.copy()
    for t in range(frames):
        for channel in range(width):
            group = channel % head_dim // fold
            source = t - 1 if group == 0 else t + 1 if group == 1 else t
            if 0 <= source < frames:
                shifted[:, t, ..., channel] = tokens[:, source, ..., channel]
            elif boundary == "zero":
                shifted[:, t, ..., channel] = 0
            elif boundary == "cyclic":
                shifted[:, t, ..., channel] = tokens[:, source % frames, ..., channel]
    return shifted


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("boundary", ["keep", "zero", "cyclic"])
def test_channels_of_each_head_move_and_the_gradient_is_the_transpose(boundary, frames):
    tokens = np.random.default_rng(0).normal(size=(2, frames, 2, 1, 24))
    given = torch.from_numpy(tokens).requires_grad_()

    def shift(x):
        return shift_channels(x, num_heads=2, folds=4, boundary=boundary)

    assert (shift(given).detach().numpy() == slow_shift(tokens, 2, 4, boundary)).all()
    assert torch.autograd.gradcheck(shift, (given,))


def test_fold_is_rounded_down():
    tokens = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 12)
    middle = shift_channels(tokens, num_heads=1, folds=8, boundary="keep")[0, 1, 0, 0]
    assert middle.tolist() == [0, 2] + [1] * 10
