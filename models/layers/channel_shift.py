"""Temporal channel shift: some channels of each head come from the neighbouring frames.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift", ECCV 2022,
section 3.4, as the authors' code has it: the first f channels of each head come from the
frame before, the next f from the frame after, f being an eighth of the head's width. The
paper does not say what happens at the ends; the code keeps the frame's own channels.
"""

from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

ChannelBoundary = Literal["keep", "zero", "cyclic"]


def shift_channels(
    tokens_BTHWC: Tensor, *, num_heads: int, folds: int, boundary: ChannelBoundary
) -> Tensor:
    """Exchange channels between neighbouring frames.

    Args:
        tokens_BTHWC: (B, T, H, W, C) floating.
        num_heads: Heads that C is divided into.
        folds: 1 / folds of a head's channels, rounded down, go each way.
        boundary: What the first frame has in place of the frame before it, and the last in
            place of the frame after: its own channels, zeros, or those of the other end.

    Returns:
        The shifted tokens, of the same shape.
    """
    head_dim = tokens_BTHWC.shape[-1] // num_heads
    shifted: Tensor = _ShiftChannels.apply(tokens_BTHWC, num_heads, head_dim // folds, boundary)
    return shifted


def _exchange(
    tokens: Tensor, num_heads: int, *, later: slice, earlier: slice, boundary: ChannelBoundary
) -> tuple[Tensor, Tensor]:
    """Return (B, T, H, W, heads, head_dim) before, and with `later` channels moved to t + 1."""
    before = rearrange(tokens, "b t h w (heads d) -> b t h w heads d", heads=num_heads)
    after = before.clone()
    after[:, 1:, ..., later] = before[:, :-1, ..., later]
    after[:, :-1, ..., earlier] = before[:, 1:, ..., earlier]
    if boundary == "zero":
        after[:, 0, ..., later] = 0
        after[:, -1, ..., earlier] = 0
    elif boundary == "cyclic":
        after[:, 0, ..., later] = before[:, -1, ..., later]
        after[:, -1, ..., earlier] = before[:, 0, ..., earlier]
    return before, after


class _ShiftChannels(torch.autograd.Function):
    # Written out because autograd would fill a tensor of full size for each slice.
    @staticmethod
    def forward(tokens: Tensor, num_heads: int, fold: int, boundary: ChannelBoundary) -> Tensor:
        _, after = _exchange(
            tokens,
            num_heads,
            later=slice(0, fold),
            earlier=slice(fold, 2 * fold),
            boundary=boundary,
        )
        return after.flatten(-2)

    @staticmethod
    def setup_context(
        ctx: Any,  # noqa: ANN401  torch's own context object
        inputs: tuple[Tensor, int, int, ChannelBoundary],
        output: Tensor,
    ) -> None:
        _, ctx.num_heads, ctx.fold, ctx.boundary = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        first, second = slice(0, ctx.fold), slice(ctx.fold, 2 * ctx.fold)
        before, after = _exchange(
            gradient,
            ctx.num_heads,
            later=second,
            earlier=first,
            boundary="cyclic" if ctx.boundary == "cyclic" else "zero",
        )
        if ctx.boundary == "keep":
            after[:, 0, ..., first] += before[:, 0, ..., first]
            after[:, -1, ..., second] += before[:, -1, ..., second]
        return after.flatten(-2), None, None, None
