"""One block of the Deformable Video Transformer.

Fan et al., "Multiscale Vision Transformers", ICCV 2021, gives widths, heads, skips and MLP
(first version, as in SlowFast); deformable attention takes the place of pooling attention.

Dimensions: B batch, T token frames, J target frames of a sub-clip, H, W a token grid, D width;
Hq, Wq the query grid, which is half of H, W in the first block of a stage.
"""

from einops import rearrange
from torch import Tensor, nn

from gopstream.models.dvt.deformable_attention import DeformableSpaceTimeAttention
from gopstream.models.dvt.fusion import LinearFusion, MixerFusion
from gopstream.models.dvt.multi_scale_attention import DeformableMultiScaleAttention
from gopstream.models.dvt.options import BlockOptions
from gopstream.models.dvt.query_pooling import NORM_EPSILON
from gopstream.models.layers.drop_path import DropPath
from gopstream.models.layers.multiscale_plan import BlockShape


class DeformableBlock(nn.Module):
    """Attention and MLP, each with its skip (MViT v1, as in SlowFast)."""

    def __init__(self, shape: BlockShape, *, options: BlockOptions, drop_path_rate: float) -> None:
        """Build a block; the options are those of the model."""
        super().__init__()
        width, width_out = shape.width, shape.width_out
        kinds = options.attention
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = (
            DeformableSpaceTimeAttention(shape, options=options)
            if kinds in ("space_time", "both")
            else None
        )
        self.multi_scale_attention = (
            DeformableMultiScaleAttention(shape, options=options)
            if kinds in ("multi_scale", "both")
            else None
        )
        fusion = LinearFusion if options.fusion == "linear" else MixerFusion
        self.fusion = fusion(width) if kinds == "both" else None
        self.skip_pooling = (
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
            if shape.query_stride == 2
            else nn.Identity()
        )
        hidden = int(width * options.mlp_ratio)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width_out))
        self.skip_projection = nn.Linear(width, width_out) if width != width_out else None
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens_BTHWD: Tensor, motion_tokens: Tensor | None) -> Tensor:
        """Map (B, T, H, W, D) and motion tokens (B, T, J, Hq, Wq, D) to (B, T, Hq, Wq, D_out)."""
        tokens = self._attend(tokens_BTHWD, motion_tokens)
        normalised = self.mlp_norm(tokens)
        # MViT v1 projects the normalised tokens where the width grows, not the tokens.
        skipped = tokens if self.skip_projection is None else self.skip_projection(normalised)
        mixed: Tensor = skipped + self.drop_path(self.mlp(normalised))
        return mixed

    def _attend(self, tokens_BTHWD: Tensor, motion_tokens: Tensor | None) -> Tensor:
        """Return the tokens after attention and its skip; fusion joins them with the skip in."""
        normalised = self.attention_norm(tokens_BTHWD)
        skipped = self.skip_pooling(rearrange(tokens_BTHWD, "b t h w d -> b d t h w"))
        skipped = rearrange(skipped, "b d t h w -> b t h w d")
        branches: list[Tensor] = []
        if self.attention is not None:
            branches.append(skipped + self.drop_path(self.attention(normalised, motion_tokens)))
        if self.multi_scale_attention is not None:
            branches.append(skipped + self.drop_path(self.multi_scale_attention(normalised)))
        if self.fusion is None:
            return branches[0]
        fused: Tensor = self.fusion(*branches)
        return fused
