"""The embedding of the first patches, and the merging of patches between stages.

Liu et al., "Swin Transformer", ICCV 2021 and "Video Swin Transformer", CVPR 2022, as their code
has them. Tokens are (B, T, H, W, C) throughout.
"""

from typing import Final

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON: Final = 1e-5


class PatchMerging(nn.Module):
    """Make one token of 2 x 2, twice as wide."""

    def __init__(self, dim: int) -> None:
        """Build it for tokens of width `dim`."""
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=NORM_EPSILON)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, T, H / 2, W / 2, 2 C), rounded up with zeros."""
        height, width = tokens_BTHWC.shape[2:4]
        if height % 2 or width % 2:
            tokens_BTHWC = functional.pad(tokens_BTHWC, (0, 0, 0, width % 2, 0, height % 2))
        # Swin's order of the four: down before right.
        quads = rearrange(tokens_BTHWC, "b t (h y) (w x) c -> b t h w (x y c)", y=2, x=2)
        merged: Tensor = self.reduction(self.norm(quads))
        return merged


class PatchEmbedding(nn.Module):
    """Make tokens of patches of pixels that do not overlap."""

    def __init__(self, dim: int, *, patch_size: tuple[int, int, int], norm: bool) -> None:
        """Build it.

        Args:
            dim: C, width of a token.
            patch_size: Frames, rows and columns of a patch.
            norm: Whether tokens are normalised.
        """
        super().__init__()
        self.patch_size = patch_size
        # Holds the weights; kernel and stride are equal, so a linear layer does the work.
        self.projection = nn.Conv3d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON) if norm else nn.Identity()

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, F, H, W) to (B, T, H', W', C), the ends padded with zeros."""
        depth, height, width = self.patch_size
        missing = [
            -size % patch for size, patch in zip(frames.shape[2:], self.patch_size, strict=True)
        ]
        if any(missing):
            frames = functional.pad(frames, (0, missing[2], 0, missing[1], 0, missing[0]))
        patches = rearrange(
            frames, "b c (t d) (h y) (w x) -> b t h w (c d y x)", d=depth, y=height, x=width
        )
        weight = self.projection.weight.flatten(1)
        tokens: Tensor = self.norm(functional.linear(patches, weight, self.projection.bias))
        return tokens
