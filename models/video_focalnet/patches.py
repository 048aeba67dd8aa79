"""Cut frames into tokens, and halve the token grid between stages.

Wasim et al., "Video-FocalNets", ICCV 2023, section 3.2; overlapping patches as in Yang et al.,
"Focal Modulation Networks", NeurIPS 2022, with the sizes of the authors' code.

Dimensions: B batch, F sampled frames, T token frames, Y, X pixels, H, W a token grid, C width.
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gopstream.models.video_focalnet.designs import Patches
from gopstream.models.video_focalnet.focal_modulation import NORM_EPSILON


class PatchEmbedding(nn.Module):
    """Patches of one frame, or tubelets of the same patch in successive frames, as tokens."""

    def __init__(self, width: int, *, patches: Patches, tubelet_size: int, norm: bool) -> None:
        """Build the embedding of `tubelet_size` frames into each token."""
        super().__init__()
        self.tubelet_size = tubelet_size
        self.projection: nn.Conv2d | nn.Conv3d
        if patches == "overlapping":
            self.projection = nn.Conv2d(3, width, 7, stride=4, padding=2)
        elif tubelet_size == 1:
            self.projection = nn.Conv2d(3, width, 4, stride=4)
        else:
            tubelet = (tubelet_size, 4, 4)
            self.projection = nn.Conv3d(3, width, tubelet, stride=tubelet)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON) if norm else nn.Identity()

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, F, Y, X) to (B, T, H, W, C); pixels beyond the last whole patch are cut."""
        # Tubelets do not overlap, so that their 3D convolution is a 2D one whose channels are
        # (colour, frame of the tubelet); channels-last memory makes its result channels-last.
        pictures = rearrange(frames, "b c (t s) y x -> (b t) y x (c s)", s=self.tubelet_size)
        weight = self.projection.weight
        maps = F.conv2d(
            rearrange(pictures, "n y x c -> n c y x"),
            weight if weight.ndim == 4 else weight.flatten(1, 2),
            self.projection.bias,
            stride=4,
            padding=self.projection.padding[-1],
        )
        num_frames = frames.shape[2] // self.tubelet_size
        tokens: Tensor = self.norm(rearrange(maps, "(b t) c h w -> b t h w c", t=num_frames))
        return tokens


class Downsampling(nn.Module):
    """Twice the width on half the grid, then LayerNorm."""

    def __init__(self, width: int, *, patches: Patches) -> None:
        """Build a downsampling from `width` to twice that."""
        super().__init__()
        self.projection = (
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
            if patches == "overlapping"
            else nn.Conv2d(width, 2 * width, 2, stride=2)
        )
        self.norm = nn.LayerNorm(2 * width, eps=NORM_EPSILON)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, T, H / 2, W / 2, 2 C).

        Odd sizes are rounded down, with overlapping patches up.
        """
        maps = self.projection(rearrange(tokens_BTHWC, "b t h w c -> (b t) c h w"))
        num_frames = tokens_BTHWC.shape[1]
        tokens: Tensor = self.norm(rearrange(maps, "(b t) c h w -> b t h w c", t=num_frames))
        return tokens
