"""One block of the vision transformer, with a temporal shift around its attention or without.

Touvron et al., "Training data-efficient image transformers & distillation through attention",
ICML 2021 (the block is that of ViT); Xiang et al., ECCV 2022, appendix A.3 (the shifts).

Dimensions: B batch, T frames, N tokens of a frame (class token and patches), D width.
"""

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from gopstream.models.deit.patch_shift import PatchShift
from gopstream.models.layers.drop_path import DropPath
from gopstream.models.pst.patch_shift import ChannelBoundary, shift_channels

NORM_EPSILON = 1e-6


class FrameAttention(nn.Module):
    """Attention among the tokens of each frame, some of which may come from other frames."""

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        patch_shift: PatchShift | None,
        channel_folds: int | None,
        boundary: ChannelBoundary,
    ) -> None:
        """Build the projections.

        Args:
            width: D.
            num_heads: Heads, each of ``D // num_heads`` channels.
            patch_shift: Moves patches between frames before, and back afterwards.
            channel_folds: Shifts ``1 / channel_folds`` of each head's channels of queries, keys
                and values each way; None shifts none.
            boundary: Of the channel shift.
        """
        super().__init__()
        self.num_heads = num_heads
        self.channel_folds, self.boundary = channel_folds, boundary
        self.patch_shift = patch_shift
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        """Map (B, T, N, D) to the same shape."""
        batch = tokens_BTND.shape[0]
        # Moving tokens commutes with the linear layers; this side of them is three times narrower.
        if self.patch_shift is not None:
            tokens_BTND = self.patch_shift(tokens_BTND)
        qkv: Tensor = self.qkv(tokens_BTND)
        if self.channel_folds is not None:
            qkv = shift_channels(
                qkv.unsqueeze(2),
                num_heads=3 * self.num_heads,
                folds=self.channel_folds,
                boundary=self.boundary,
            ).squeeze(2)
        query, key, value = rearrange(
            qkv, "b t n (three h c) -> three (b t) h n c", three=3, h=self.num_heads
        )
        attended = scaled_dot_product_attention(query, key, value)
        attended = rearrange(attended, "(b t) h n c -> b t n (h c)", b=batch)
        mixed: Tensor = self.projection(attended)
        return mixed if self.patch_shift is None else self.patch_shift.back(mixed)


class DeitBlock(nn.Module):
    """Attention and MLP, each after a norm and with its skip."""

    def __init__(
        self, attention: FrameAttention, *, width: int, mlp_ratio: float, drop_path_rate: float
    ) -> None:
        """Put a block around `attention`, of width D = `width`."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        # Frames of a clip are dropped together: it is the clip that is the sample.
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        """Map (B, T, N, D) to the same shape."""
        tokens_BTND = tokens_BTND + self.drop_path(self.attention(self.attention_norm(tokens_BTND)))
        mixed: Tensor = tokens_BTND + self.drop_path(self.mlp(self.mlp_norm(tokens_BTND)))
        return mixed
