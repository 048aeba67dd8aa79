"""Where a token looks and how much each point counts, as a linear function of the token.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, equations 12 and 13.

Dimensions: D width, h heads, N points, S = (dx, dy, logit).
"""

import math
from typing import Final

import torch
from einops import rearrange
from torch import Tensor, nn

OFFSET_INITIAL_STD: Final = 1e-3


def ring_offsets(num_heads: int, num_points: int) -> Tensor:
    """Spread each head's points over directions, at a distance of about one cell.

    The ring is square, as in Deformable DETR (Zhu et al., ICLR 2021, initialisation of
    MSDeformAttn): with eight points they are the eight neighbouring cells. Departure:
    Deformable DETR gives each of its eight heads one direction and its points growing
    distances; the first stages here have one or two heads, which would leave them blind in
    most directions, so the directions are spread over the points, and heads are turned
    against each other by a fraction of the step.

    Returns:
        (h, N, 2) offsets (dx, dy) in cells.
    """
    turn = torch.arange(num_heads)[:, None] / num_heads
    angle = 2 * math.pi * (torch.arange(num_points) + turn) / num_points
    ring = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return ring / ring.abs().amax(dim=-1, keepdim=True)


class PointPrediction(nn.Linear):
    """W_Delta and W_alpha of all heads in one matrix, rows in the order (h, N, S)."""

    def __init__(self, width: int, *, num_heads: int, num_points: int) -> None:
        """Build the matrix of tokens that are `width` channels wide."""
        super().__init__(width, num_heads * num_points * 3)
        self.num_heads, self.num_points = num_heads, num_points

    @torch.no_grad()
    def initialise(self) -> None:
        """Start with equal weights on a ring of points.

        W_Delta is small and not zero: with zero no gradient would reach the motion tokens
        in the first step.
        """
        shape = {"h": self.num_heads, "n": self.num_points, "s": 3}
        weight = rearrange(self.weight, "(h n s) d -> h n s d", **shape)
        weight[:, :, :2].normal_(std=OFFSET_INITIAL_STD)
        weight[:, :, 2].zero_()
        bias = rearrange(self.bias, "(h n s) -> h n s", **shape)
        bias[:, :, :2].copy_(ring_offsets(self.num_heads, self.num_points))
        bias[:, :, 2].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., D) to (..., h, N, 3), a view of what the matrix gives."""
        shape = {"h": self.num_heads, "n": self.num_points, "s": 3}
        return rearrange(super().forward(tokens), "... (h n s) -> ... h n s", **shape)
