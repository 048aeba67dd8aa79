"""The parts of SIFA-Transformer: Swin's blocks, in which frames meet, and its stages.

Long et al., "Stand-Alone Inter-Frame Attention in Video Models", CVPR 2022, section 3.3 and figure
4(b); Liu et al., "Swin Transformer", ICCV 2021. The norm after the attention between frames and
the convolution along time are in the authors' code alone.

Dimensions: B batch, T frames of tokens, H, W a token grid, C width.
"""

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gopstream.models.layers.drop_path import DropPath
from gopstream.models.layers.time_convolution import TimeConvolution
from gopstream.models.layers.windows.attention_tables import WindowPlan
from gopstream.models.layers.windows.patches import NORM_EPSILON, PatchMerging
from gopstream.models.layers.windows.relative_position import PositionTable
from gopstream.models.layers.windows.window_attention import WindowAttention
from gopstream.models.sifa.motion_block import InterFrameAttention, MotionOptions

SwinPlacement = Literal["even", "undisplaced"]
MotionInput = Literal["attention", "tokens"]

_TEMPORAL_KERNEL: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SwinOptions:
    """What all blocks of a SIFA-Transformer share."""

    window_size: int
    """Rows and columns of a window."""
    mlp_ratio: float
    """Hidden width of the MLP over C."""
    motion: MotionOptions | None
    """Of the attention between frames; None for a network without."""
    tap_frames: int | None
    """As for `InterFrameAttention`."""
    placement: SwinPlacement
    """Which blocks attend between frames: every second one, from the first on, or those whose
    windows are not displaced, which all blocks of a grid no larger than a window are."""
    motion_input: MotionInput
    """What attends: what the attention in windows gives, or the tokens that it was added to."""
    motion_norm: bool
    """Normalise what a frame takes from its neighbour, by a norm that begins as zero."""
    temporal_convolution: bool
    """Give a convolution along time to the blocks that do not attend between frames."""
    checkpointing: bool
    """Compute the blocks again in the backward pass instead of keeping their activations."""

    def attends(self, index: int, *, side: int) -> bool:
        """Return whether a block's place is one of attention between frames.

        Args:
            index: Of the block in its stage.
            side: Rows and columns of the stage's grid in a picture of the model's size.
        """
        undisplaced = self.placement == "undisplaced" and side <= self.window_size
        return index % 2 == 0 or undisplaced


class SwinBlock(nn.Module):
    """Attention in windows of each frame, what frames take from each other, and an MLP."""

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        rolled: bool,
        attends: bool,
        drop_path_rate: float,
        options: SwinOptions,
    ) -> None:
        """Build a block.

        Args:
            width: C.
            num_heads: Of the attention in windows.
            rolled: Whether windows are displaced by half a window, on grids of several.
            attends: Whether its place is one of attention between frames.
            drop_path_rate: Of the attention in windows and the MLP; each frame is drawn for.
            options: Of all blocks.
        """
        super().__init__()
        self.motion_input = options.motion_input
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = WindowAttention(
            width,
            num_heads=num_heads,
            windows=_plan_windows(options.window_size, rolled=rolled),
            channel_shift=None,
            qkv_bias=True,
        )
        self.motion: InterFrameAttention | None = None
        self.motion_norm: nn.LayerNorm | None = None
        self.convolution: TimeConvolution | None = None
        if attends and options.motion is not None:
            self.motion = InterFrameAttention(
                width, options=options.motion, tap_frames=options.tap_frames
            )
            if options.motion_norm:
                self.motion_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        if not attends and options.temporal_convolution:
            self.convolution = TimeConvolution(width, kernel=_TEMPORAL_KERNEL)
        hidden = int(width * options.mlp_ratio)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop_path = DropPath(drop_path_rate, row_dims=2)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to the same shape."""
        tokens = tokens_BTHWC
        added = self.attention(self.attention_norm(tokens))
        if self.motion is not None and self.motion_input == "attention":
            added = added + self._take(added)
        tokens = tokens + self.drop_path(added)
        if self.motion is not None and self.motion_input == "tokens":
            tokens = tokens + self._take(tokens)
        if self.convolution is not None:
            tokens = tokens + self.convolution(tokens)
        mixed: Tensor = tokens + self.drop_path(self.mlp(self.mlp_norm(tokens)))
        return mixed

    def _take(self, features_BTHWC: Tensor) -> Tensor:
        """Return what each frame takes from its neighbours."""
        assert self.motion is not None
        taken: Tensor = self.motion(features_BTHWC)
        return taken if self.motion_norm is None else self.motion_norm(taken)


class SwinStage(nn.Module):
    """Blocks of one width, then the merging of patches."""

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        drop_path_rates: list[float],
        side: int,
        merges: bool,
        options: SwinOptions,
    ) -> None:
        """Build a stage.

        Args:
            width: C.
            num_heads: Of each block.
            drop_path_rates: One for each block.
            side: As for `SwinOptions.attends`.
            merges: Whether patches are merged at the end.
            options: Of all blocks.
        """
        super().__init__()
        self.checkpointing = options.checkpointing
        self.blocks = nn.ModuleList(
            SwinBlock(
                width,
                num_heads=num_heads,
                rolled=index % 2 == 1,
                attends=options.attends(index, side=side),
                drop_path_rate=rate,
                options=options,
            )
            for index, rate in enumerate(drop_path_rates)
        )
        self.merging = PatchMerging(width) if merges else None

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to itself, or to (B, T, H / 2, W / 2, 2 C) if it merges."""
        tokens = tokens_BTHWC
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens if self.merging is None else self.merging(tokens)


def _plan_windows(side: int, *, rolled: bool) -> WindowPlan:
    """Return windows of one frame, in which nothing shifts."""
    return WindowPlan(
        window=(1, side, side),
        rolled=rolled,
        pattern="none",
        sign="code",
        shift_back=True,
        phase=None,
        positions=PositionTable(1, (side, side), "paper", moved=True),
    )
