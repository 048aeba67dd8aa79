"""Half the query grid, where a stage begins.

Fan et al., "Multiscale Vision Transformers", ICCV 2021, section 3.1 (pool_q).
"""

from typing import Final

from einops import rearrange
from torch import Tensor, nn

NORM_EPSILON: Final = 1e-6


class QueryPooling(nn.Module):
    """Halve the query grid, as MViT's pool_q does: depthwise convolution and norm.

    The heads share the weights.
    """

    def __init__(self, head_width: int) -> None:
        """Build the pooling of heads that are `head_width` channels wide."""
        super().__init__()
        self.convolution = nn.Conv3d(
            head_width, head_width, 3, stride=(1, 2, 2), padding=1, groups=head_width, bias=False
        )
        self.norm = nn.LayerNorm(head_width, eps=NORM_EPSILON)

    def forward(self, queries_BTHWD: Tensor) -> Tensor:
        """Pool (B, T, H, W, D) to (B, T, H / 2, W / 2, D), odd sizes rounded up."""
        num_heads = queries_BTHWD.shape[-1] // self.norm.normalized_shape[0]
        heads = rearrange(queries_BTHWD, "b t y x (h d) -> (b h) d t y x", h=num_heads)
        pooled = rearrange(self.convolution(heads), "(b h) d t y x -> b t y x h d", h=num_heads)
        joined: Tensor = rearrange(self.norm(pooled), "b t y x h d -> b t y x (h d)")
        return joined
