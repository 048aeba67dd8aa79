"""The parts of SIFA-Net: stem, residual blocks with attention between frames, stages.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (the bottleneck; its stride is
on the 3 x 3 convolution, as in torchvision); Long et al., "Stand-Alone Inter-Frame Attention in
Video Models", CVPR 2022, section 3.3 and figure 4(a). The stem over several frames and the global
context are in the authors' code alone.

Dimensions: B batch, F sampled frames, T frames of features, Y, X pixels, H, W a grid, C width.
Features are (B, T, H, W, C) between blocks; inside, frames are pictures of one batch, in
channels-last memory, so that changing between the two costs nothing.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gopstream.models.sifa.motion_block import InterFrameAttention, MotionOptions

Placement = Literal["every", "odd"]

EXPANSION: Final = 4
CONTEXT_REDUCTION: Final = 16


class Stem(nn.Module):
    """Frames to features on a quarter of the grid; some frames are taken together."""

    def __init__(self, width: int, *, num_frames: int, deep: bool, norm_epsilon: float) -> None:
        """Build a stem.

        Args:
            width: C after one convolution of 7 x 7; a deep stem, of three of 3 x 3, has 2 C.
            num_frames: Successive frames that become one.
            deep: As above.
            norm_epsilon: Of the batch norms.
        """
        super().__init__()
        self.num_frames = num_frames
        side = 3 if deep else 7
        convolutions: list[nn.Module] = [
            nn.Conv3d(
                3,
                width,
                (num_frames, side, side),
                stride=(num_frames, 2, 2),
                padding=(0, side // 2, side // 2),
                bias=False,
            )
        ]
        widths = [width, width, 2 * width] if deep else [width]
        convolutions += [
            nn.Conv2d(width, outputs, 3, padding=1, bias=False) for outputs in widths[1:]
        ]
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.BatchNorm2d(size, eps=norm_epsilon) for size in widths)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, F, Y, X) to (B, T, H, W, C), T = F / num_frames, H = Y / 4 rounded up."""
        # Groups of frames do not overlap, so that the 3D convolution is a 2D one whose channels
        # are (colour, frame of the group).
        pixels = rearrange(frames, "b c (t s) y x -> (b t) y x (c s)", s=self.num_frames)
        first = self.convolutions[0]
        assert isinstance(first, nn.Conv3d)
        maps = functional.conv2d(
            rearrange(pixels, "n y x c -> n c y x"),
            first.weight.flatten(1, 2),
            stride=2,
            padding=first.padding[-1],
        )
        maps = functional.relu(self.norms[0](maps), inplace=True)
        for index in range(1, len(self.convolutions)):
            maps = functional.relu(self.norms[index](self.convolutions[index](maps)), inplace=True)
        maps = functional.max_pool2d(maps, 3, stride=2, padding=1)
        return _to_features(maps, num_frames=frames.shape[2] // self.num_frames)


class GlobalContext(nn.Module):
    """Two linear layers on the mean over time and space: what is added to every place."""

    def __init__(self, width: int) -> None:
        """Build the layers; hidden is a sixteenth of the width."""
        super().__init__()
        self.squeeze = nn.Linear(width, width // CONTEXT_REDUCTION)
        self.excite = nn.Linear(width // CONTEXT_REDUCTION, width)

    def forward(self, features_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, 1, 1, 1, C)."""
        mean = features_BTHWC.mean(dim=(1, 2, 3), keepdim=True)
        context: Tensor = self.excite(functional.relu(self.squeeze(mean)))
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOptions:
    """What the blocks of a stage share."""

    motion: MotionOptions | None
    """Of the attention between frames; None for a stage without."""
    placement: Placement
    """The blocks with attention: all, or each second from the second on."""
    global_context: bool
    """Give each second block, from the first on, a global context."""
    tap_frames: int | None
    """As for `InterFrameAttention`."""
    norm_epsilon: float
    """Of the batch norms."""
    checkpointing: bool
    """Compute the blocks again in the backward pass instead of keeping their activations."""


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, attention between frames, 1 x 1; the shortcut and the context are added."""

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        motion: InterFrameAttention | None,
        global_context: bool,
        norm_epsilon: float,
    ) -> None:
        """Build a block.

        Args:
            inputs: Channels that come in.
            width: Of the 3 x 3 convolution; `EXPANSION` times as many channels come out.
            stride: Of the 3 x 3 convolution in space.
            motion: Attention of that width; None for a block where frames do not meet.
            global_context: Add a `GlobalContext` of what the last norm gives.
            norm_epsilon: Of the batch norms.
        """
        super().__init__()
        outputs = EXPANSION * width
        self.reduce = nn.Conv2d(inputs, width, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(width, eps=norm_epsilon)
        self.convolve = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.convolve_norm = nn.BatchNorm2d(width, eps=norm_epsilon)
        self.motion = motion
        self.expand = nn.Conv2d(width, outputs, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(outputs, eps=norm_epsilon)
        self.context = GlobalContext(outputs) if global_context else None
        self.shortcut = (
            None
            if stride == 1 and inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs, eps=norm_epsilon),
            )
        )

    def forward(self, features_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, T, H / stride, W / stride, C'), rounded up."""
        num_frames = features_BTHWC.shape[1]
        given = _to_maps(features_BTHWC)
        maps = functional.relu(self.reduce_norm(self.reduce(given)), inplace=True)
        maps = functional.relu(self.convolve_norm(self.convolve(maps)), inplace=True)
        if self.motion is not None:
            features = _to_features(maps, num_frames=num_frames)
            maps = _to_maps(features + self.motion(features))
        expanded = self.expand_norm(self.expand(maps))
        added = expanded + (given if self.shortcut is None else self.shortcut(given))
        result = _to_features(added, num_frames=num_frames)
        if self.context is not None:
            result = result + self.context(_to_features(expanded, num_frames=num_frames))
        return functional.relu(result, inplace=True)


class Stage(nn.Module):
    """Bottlenecks of one width; the first changes grid and channels."""

    def __init__(
        self, inputs: int, width: int, *, depth: int, stride: int, options: BlockOptions
    ) -> None:
        """Build `depth` blocks.

        Args:
            inputs: Channels that come in.
            width: As for `Bottleneck`.
            depth: Blocks.
            stride: Of the first block.
            options: Of all blocks.
        """
        super().__init__()
        self.checkpointing = options.checkpointing
        self.blocks = nn.ModuleList()
        for index in range(depth):
            attends = options.motion is not None and (options.placement == "every" or index % 2)
            self.blocks.append(
                Bottleneck(
                    EXPANSION * width if index else inputs,
                    width,
                    stride=1 if index else stride,
                    motion=_make_motion(width, options) if attends else None,
                    global_context=options.global_context and index % 2 == 0,
                    norm_epsilon=options.norm_epsilon,
                )
            )

    def forward(self, features_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, T, H / stride, W / stride, C'), rounded up."""
        features = features_BTHWC
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                features = _checkpoint(block, features)
            else:
                features = block(features)
        return features


def _make_motion(width: int, options: BlockOptions) -> InterFrameAttention:
    assert options.motion is not None
    return InterFrameAttention(width, options=options.motion, tap_frames=options.tap_frames)


def _checkpoint(block: nn.Module, features: Tensor) -> Tensor:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_untouched(block)

    result: Tensor = checkpoint(block, features, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _statistics_untouched(block: nn.Module) -> Iterator[None]:
    """Let batch norms normalise as they do in training, but count no batch a second time."""
    norms = [
        part for part in block.modules() if isinstance(part, (nn.BatchNorm2d, nn.SyncBatchNorm))
    ]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _to_maps(features_BTHWC: Tensor) -> Tensor:
    return rearrange(features_BTHWC, "b t h w c -> (b t) c h w")


def _to_features(maps: Tensor, *, num_frames: int) -> Tensor:
    return rearrange(maps, "(b t) c h w -> b t h w c", t=num_frames)
