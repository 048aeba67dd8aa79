"""One block of the Deformable Video Transformer, and the plan of them all.

Fan et al., "Multiscale Vision Transformers", ICCV 2021, gives widths, heads, skips and MLP
(first version, as in SlowFast); deformable attention takes the place of pooling attention.

Dimensions: B batch, T token frames, K token frames of a sub-clip, H, W a token grid, D width;
Hq, Wq the query grid, which is half of H, W in the first block of a stage.
"""

from typing import NamedTuple

from einops import rearrange
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from gopstream.models.dvt.deformable_attention import NORM_EPSILON, DeformableSpaceTimeAttention


class BlockShape(NamedTuple):
    """What differs from block to block."""

    width: int
    """D of the attention."""
    width_out: int
    """Width after the MLP: the width of the next block's attention."""
    num_heads: int
    stage: int
    query_stride: int
    """2 in the first block of each stage but the first, else 1."""


def plan_blocks(
    depth: int, *, embed_dim: int, num_heads: int, stage_starts: tuple[int, ...]
) -> list[BlockShape]:
    """Lay out the blocks as MViT's dim_mul, head_mul and pool_q_stride do.

    At each block of `stage_starts` heads double and the query grid halves; the width was
    doubled by the MLP of the block before.

    Raises:
        ValueError: If a stage would start before block 1 or after the last, or two at once.
    """
    if list(stage_starts) != sorted(set(stage_starts) & set(range(1, depth))):
        raise ValueError(
            f"stage_starts must be ascending blocks from 1 to {depth - 1} (depth {depth}), "
            f"got {stage_starts}"
        )
    stages = [sum(start <= index for start in stage_starts) for index in range(depth + 1)]
    return [
        BlockShape(
            width=embed_dim * 2 ** stages[index],
            width_out=embed_dim * 2 ** stages[index + 1],
            num_heads=num_heads * 2 ** stages[index],
            stage=stages[index],
            query_stride=2 if index in stage_starts else 1,
        )
        for index in range(depth)
    ]


class DeformableBlock(nn.Module):
    """Attention and MLP, each with its skip (spec: MViT v1 as in SlowFast)."""

    def __init__(
        self,
        shape: BlockShape,
        *,
        num_points: int,
        subclip_tokens: int,
        mlp_ratio: float,
        drop_path_rate: float,
    ) -> None:
        """Build a block; the arguments are those of the model."""
        super().__init__()
        width, width_out = shape.width, shape.width_out
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = DeformableSpaceTimeAttention(
            width,
            num_heads=shape.num_heads,
            num_points=num_points,
            subclip_tokens=subclip_tokens,
            query_stride=shape.query_stride,
        )
        self.skip_pooling = (
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
            if shape.query_stride == 2
            else nn.Identity()
        )
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(width, int(width * mlp_ratio)),
            nn.GELU(),
            nn.Linear(int(width * mlp_ratio), width_out),
        )
        self.skip_projection = nn.Linear(width, width_out) if width != width_out else None
        self.drop_path = StochasticDepth(drop_path_rate, mode="row")

    def forward(self, tokens_BTHWD: Tensor, motion_tokens: Tensor) -> Tensor:
        """Map (B, T, H, W, D) and motion tokens (B, T, K, Hq, Wq, D) to (B, T, Hq, Wq, D_out)."""
        attended = self.attention(self.attention_norm(tokens_BTHWD), motion_tokens)
        skipped = rearrange(tokens_BTHWD, "b t h w d -> b d t h w")
        skipped = rearrange(self.skip_pooling(skipped), "b d t h w -> b t h w d")
        tokens = skipped + self.drop_path(attended)
        normalised = self.mlp_norm(tokens)
        # MViT v1 projects the normalised tokens where the width grows, not the tokens.
        skipped = tokens if self.skip_projection is None else self.skip_projection(normalised)
        mixed: Tensor = skipped + self.drop_path(self.mlp(normalised))
        return mixed
