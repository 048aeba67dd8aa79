"""Attention of a frame's tokens, with a temporal shift around it or without.

Touvron et al., "Training data-efficient image transformers & distillation through attention",
ICML 2021 (the attention is that of ViT); Xiang et al., ECCV 2022, appendix A.3 (the shifts).

Dimensions: B batch, T frames, N tokens of a frame (class token and patches), D width.
"""

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from gopstream.models.deit.patch_shift import shift_patches, shift_patches_back
from gopstream.models.layers.channel_shift import ChannelBoundary, shift_channels


class FrameAttention(nn.Module):
    """Attention among the tokens of each frame, some of which may come from other frames."""

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        patch_offsets: tuple[int, ...] | None,
        channel_folds: int | None,
        channel_boundary: ChannelBoundary,
    ) -> None:
        """Build the projections.

        Args:
            width: D.
            num_heads: Heads, each of ``D // num_heads`` channels.
            patch_offsets: Of each patch, in frames, as for `shift_patches`: patches are moved
                before, and back afterwards; None moves none.
            channel_folds: Shifts ``1 / channel_folds`` of each head's channels of queries, keys
                and values each way; None shifts none.
            channel_boundary: Of the channel shift.
        """
        super().__init__()
        self.num_heads = num_heads
        self.channel_folds, self.channel_boundary = channel_folds, channel_boundary
        self.patch_offsets = patch_offsets
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        """Map (B, T, N, D) to the same shape."""
        batch = tokens_BTND.shape[0]
        # Moving tokens commutes with the linear layers; this side of them is three times narrower.
        if self.patch_offsets is not None:
            tokens_BTND = shift_patches(tokens_BTND, offsets=self.patch_offsets)
        qkv: Tensor = self.qkv(tokens_BTND)
        if self.channel_folds is not None:
            qkv = shift_channels(
                qkv.unsqueeze(2),
                num_heads=3 * self.num_heads,
                folds=self.channel_folds,
                boundary=self.channel_boundary,
            ).squeeze(2)
        query, key, value = rearrange(
            qkv, "b t n (three h c) -> three (b t) h n c", three=3, h=self.num_heads
        )
        attended = scaled_dot_product_attention(query, key, value)
        attended = rearrange(attended, "(b t) h n c -> b t n (h c)", b=batch)
        mixed: Tensor = self.projection(attended)
        if self.patch_offsets is None:
            return mixed
        return shift_patches_back(mixed, offsets=self.patch_offsets)
