"""Which frames inter-frame attention pairs, and how far it moves the taps of each pair.

Long et al., "Stand-Alone Inter-Frame Attention in Video Models", CVPR 2022, sections 3.1 and 3.2
(equations 4 and 5) and table 1(b).

Dimensions: B batch, T frames, P pairs of a frame and the neighbour that it attends, H, W a grid,
C width, K taps, the square of the region.
"""

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

OffsetSource = Literal["frame", "clip", "difference", "motion"]
OffsetStart = Literal["zero", "random"]
Direction = Literal["next", "previous"]
Ends = Literal["zero", "self"]


class FramePairs(NamedTuple):
    """Frames, and the neighbour that each attends."""

    clip_BTHWC: Tensor
    """All frames."""
    query_BPHWC: Tensor
    """Those that attend, in order."""
    keys_BPHWC: Tensor
    """What each of them attends."""
    direction: Direction
    ends: Ends

    def of_keys(self, values_BT: Tensor) -> Tensor:
        """Pick, from values (B, T, ...) of the frames, those of the keys, (B, P, ...)."""
        return _pick_keys(values_BT, direction=self.direction, ends=self.ends)


def pair_frames(clip_BTHWC: Tensor, *, direction: Direction, ends: Ends) -> FramePairs:
    """Pair each frame with the one after or before it.

    Args:
        clip_BTHWC: (B, T, H, W, C), T at least 1.
        direction: Where the keys are.
        ends: The frame that has no neighbour there is paired with itself ("self", the paper) or
            not at all ("zero", the authors' code).

    Returns:
        T pairs with "self", T - 1 with "zero".
    """
    query = clip_BTHWC
    if ends == "zero":
        query = clip_BTHWC[:, :-1] if direction == "next" else clip_BTHWC[:, 1:]
    keys = _pick_keys(clip_BTHWC, direction=direction, ends=ends)
    return FramePairs(clip_BTHWC, query, keys, direction, ends)


def motion_saliency(pairs: FramePairs, *, residual: bool) -> Tensor:
    """Weight the keys by how much they grew from the query: sigmoid(key - query) * key.

    Args:
        pairs: Of P pairs.
        residual: Add the keys, as the authors' code does; equation 5 of the paper does not.

    Returns:
        (B, P, H, W, C).
    """
    keys = pairs.keys_BPHWC
    salient = torch.sigmoid(keys - pairs.query_BPHWC) * keys
    return salient + keys if residual else salient


class OffsetEstimator(nn.Module):
    """A convolution of 3 x 3, whatever the region, from features to an offset for each tap."""

    def __init__(
        self, width: int, *, source: OffsetSource, region: int, saliency_residual: bool
    ) -> None:
        """Build an estimator.

        Args:
            width: C.
            source: What is convolved: the attended frame ("frame"), the whole clip in space and
                time ("clip", 3 x 3 x 3, read at the attended frame), the attended frame less
                the attending one ("difference"), or the saliency of motion ("motion").
            region: Side of the region; there are region**2 taps.
            saliency_residual: As for `motion_saliency`; used by "motion" alone.
        """
        super().__init__()
        self.source = source
        self.saliency_residual = saliency_residual
        outputs = 2 * region**2
        self.convolution: nn.Conv2d | nn.Conv3d
        if source == "clip":
            self.convolution = nn.Conv3d(width, outputs, 3, padding=1, bias=False)
        else:
            self.convolution = nn.Conv2d(width, outputs, 3, padding=1, bias=False)

    def forward(self, pairs: FramePairs) -> Tensor:
        """Estimate (B, P, H, W, K, 2), (dy, dx) in pixels of the grid, taps row by row."""
        if self.source == "clip":
            maps = self.convolution(rearrange(pairs.clip_BTHWC, "b t h w c -> b c t h w"))
            offsets = pairs.of_keys(rearrange(maps, "b k t h w -> b t h w k"))
        else:
            tokens = self._input(pairs)
            maps = self.convolution(rearrange(tokens, "b p h w c -> (b p) c h w"))
            offsets = rearrange(maps, "(b p) k h w -> b p h w k", p=tokens.shape[1])
        return rearrange(offsets, "b p h w (k two) -> b p h w k two", two=2)

    def _input(self, pairs: FramePairs) -> Tensor:
        if self.source == "frame":
            return pairs.keys_BPHWC
        if self.source == "difference":
            return pairs.keys_BPHWC - pairs.query_BPHWC
        return motion_saliency(pairs, residual=self.saliency_residual)


def _pick_keys(values_BT: Tensor, *, direction: Direction, ends: Ends) -> Tensor:
    if direction == "next":
        inner, end = values_BT[:, 1:], values_BT[:, -1:]
        return inner if ends == "zero" else torch.cat([inner, end], dim=1)
    inner, end = values_BT[:, :-1], values_BT[:, :1]
    return inner if ends == "zero" else torch.cat([end, inner], dim=1)
