"""How a token that attended in space-time and one that attended across scales become one.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, section 3.4: a linear projection
(L), or the channel mixing of MLP-Mixer (M; Tolstikhin et al., NeurIPS 2021, equation 1). The
paper's supplement with their details is not public; these have its parameters and FLOPs.
Departure: both start as the mean of their inputs, or nearly, and M has its norm and skip as in
MLP-Mixer, without which the blocks would lose the path of identities through them.

Dimensions: D width.
"""

from typing import Final

import torch
from torch import Tensor, nn

from gopstream.models.dvt.query_pooling import NORM_EPSILON

# Not zero: the layer before would get no gradient in the first step.
FUSION_INITIAL_STD: Final = 1e-3
_MIXER_RATIO: Final = 4


class LinearFusion(nn.Module):
    """(L): one linear layer over both tokens."""

    def __init__(self, width: int) -> None:
        """Build the fusion of tokens that are `width` channels wide."""
        super().__init__()
        self.projection = nn.Linear(2 * width, width)

    @torch.no_grad()
    def initialise(self) -> None:
        """Start near the mean."""
        weight = self.projection.weight
        half = torch.eye(len(weight), dtype=weight.dtype, device=weight.device).repeat(1, 2) / 2
        weight.normal_(std=FUSION_INITIAL_STD).add_(half)
        self.projection.bias.zero_()

    def forward(self, space_time: Tensor, multi_scale: Tensor) -> Tensor:
        """Map two (..., D) to (..., D)."""
        fused: Tensor = self.projection(torch.cat([space_time, multi_scale], dim=-1))
        return fused


class MixerFusion(nn.Module):
    """(M): the mean of both tokens, and an MLP over the channels of both."""

    def __init__(self, width: int) -> None:
        """Build the fusion of tokens that are `width` channels wide."""
        super().__init__()
        hidden = _MIXER_RATIO * width
        self.norm = nn.LayerNorm(2 * width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(2 * width, hidden), nn.GELU(), nn.Linear(hidden, width))

    @torch.no_grad()
    def initialise(self) -> None:
        """Start near the mean."""
        last = self.mlp[2]
        assert isinstance(last, nn.Linear)
        last.weight.normal_(std=FUSION_INITIAL_STD)
        last.bias.zero_()

    def forward(self, space_time: Tensor, multi_scale: Tensor) -> Tensor:
        """Map two (..., D) to (..., D)."""
        joined = torch.cat([space_time, multi_scale], dim=-1)
        mixed: Tensor = (space_time + multi_scale) / 2 + self.mlp(self.norm(joined))
        return mixed
