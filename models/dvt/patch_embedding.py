"""Cut clips into tokens that know their place.

Dimensions: B batch, F sampled frames, T token frames, H, W the token grid, D width.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn


class PatchGeometry(NamedTuple):
    """A convolution that cuts patches; each over (sampled frames, rows, columns)."""

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]

    def grid_of(self, extent: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return how many patches fit in (F, rows, columns)."""
        frames, rows, columns = (
            (length + 2 * padding - kernel) // stride + 1
            for length, kernel, stride, padding in zip(
                extent, self.kernel, self.stride, self.padding, strict=True
            )
        )
        return frames, rows, columns


class PatchEmbedding(nn.Module):
    """Patches plus separate embeddings of place and time (paper, section 3)."""

    def __init__(self, width: int, *, patches: PatchGeometry, num_frames: int, size: int) -> None:
        """Build the embedding for clips of one size.

        Args:
            width: D.
            patches: How patches are cut.
            num_frames: F.
            size: Height and width of the frames in pixels.

        Raises:
            ValueError: If the patches do not give one token per stride.
        """
        super().__init__()
        extent = (num_frames, size, size)
        times, rows, columns = patches.grid_of(extent)
        expected = tuple(
            length // stride for length, stride in zip(extent, patches.stride, strict=True)
        )
        if (times, rows, columns) != expected:
            raise ValueError(
                f"patches must give one token per stride, {expected} for a clip of {extent}, "
                f"got {(times, rows, columns)} from {patches}"
            )
        self.projection = nn.Conv3d(
            3, width, patches.kernel, stride=patches.stride, padding=patches.padding
        )
        self.space = nn.Parameter(torch.zeros(1, 1, rows, columns, width))
        self.time = nn.Parameter(torch.zeros(1, times, 1, 1, width))

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, F, size, size) to (B, T, H, W, D)."""
        tokens: Tensor = rearrange(self.projection(frames), "b d t h w -> b t h w d")
        return tokens + self.space + self.time
