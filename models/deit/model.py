"""DeiT on every frame of a clip, its class tokens averaged, with or without a temporal shift.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift for Action
Recognition", ECCV 2022, appendix A.3; Touvron et al., "Training data-efficient image transformers
& distillation through attention", ICML 2021. The defaults are DeiT-S-2D for 16 frames of 224
pixels: 21.8 M parameters with 400 classes.

Where the paper is silent: both shifts act in every second block from the second on; the patch
shift moves all channels by pattern C, tiled from the first patch of the 14 x 14; the channel shift
acts on queries, keys and values of each head, and a frame at the end of the clip keeps its own
channels; with a shift each frame has positions of its own, which start equal.

Dimensions: B batch, T frames, N tokens of a frame (1 class token, then patches), D width.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Final, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gopstream.models.deit.frame_attention import FrameAttention
from gopstream.models.layers.channel_shift import ChannelBoundary
from gopstream.models.layers.choices import require_choice
from gopstream.models.layers.drop_path import drop_path_rates
from gopstream.models.layers.patterns import OffsetSign, Pattern, cell_offsets
from gopstream.models.layers.pre_norm_block import PreNormBlock
from gopstream.models.layers.sizes import require_hidden_width, require_positive
from gopstream.models.layers.unused_options import refuse_unused

TemporalShift = Literal["none", "channel", "patch"]
Positions = Literal["shared", "per_frame"]

NORM_EPSILON: Final = 1e-6


_NO_MOVES: Final = ("pattern", "none")


class VideoDeit(nn.Module):
    """Video classifier made of an image transformer and a shift along time."""

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int = 16,
        size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        temporal_shift: TemporalShift = "none",
        positions: Positions = "shared",
        pattern: Pattern = "C",
        offset_sign: OffsetSign = "code",
        channel_folds: int = 8,
        channel_boundary: ChannelBoundary = "keep",
        drop_path_rate: float = 0.1,
        head_dropout: float = 0.5,
        checkpointing: bool = False,
    ) -> None:
        """Build the model with fresh weights.

        Args:
            num_classes: Outputs.
            num_frames: T, frames of a clip; each is a token frame. With shared positions any
                other T runs too.
            size: Height and width of the frames in pixels, a multiple of `patch_size`.
            patch_size: Height and width of a patch in pixels.
            embed_dim: D, a multiple of `num_heads`.
            depth: Blocks.
            num_heads: Heads of each block.
            mlp_ratio: Hidden width of the MLP over D.
            temporal_shift: What every second block, from the second on, shifts along time:
                nothing (DeiT-S-2D), channels (TSM) or patches (TPS).
            positions: One positional embedding for all frames, or one for each.
            pattern: Of the patch shift: the paper's name, or the rows of a tile of offsets in
                frames. It is laid over the whole grid from the first patch.
            offset_sign: "code": a positive offset brings an earlier frame, as in PST's code;
                "paper": a later.
            channel_folds: The channel shift takes ``1 / channel_folds`` of a head's channels
                from the frame before and as many from the frame after.
            channel_boundary: What the channel shift gives the frames at the ends of the clip:
                their own channels, zeros, or those of the other end.
            drop_path_rate: Of the last block; it grows linearly from 0 at the first.
            head_dropout: Dropout before the classifier.
            checkpointing: Compute each block again in the backward pass instead of keeping
                what it made.

        Raises:
            ValueError: If a choice is unknown, sizes do not divide as they must, or an option
                that was changed has no effect.
        """
        super().__init__()
        require_choice("temporal_shift", temporal_shift, choices=get_args(TemporalShift))
        require_choice("positions", positions, choices=get_args(Positions))
        require_choice("offset_sign", offset_sign, choices=get_args(OffsetSign))
        require_choice("channel_boundary", channel_boundary, choices=get_args(ChannelBoundary))
        require_positive(
            {
                "num_classes": num_classes,
                "num_frames": num_frames,
                "patch_size": patch_size,
                "depth": depth,
                "num_heads": num_heads,
            }
        )
        _require_multiple("size", size, divisor=patch_size)
        _require_multiple("embed_dim", embed_dim, divisor=num_heads)
        require_hidden_width(mlp_ratio, width=embed_dim)
        side = size // patch_size
        offsets = cell_offsets(pattern, height=side, width=side, sign=offset_sign)
        if temporal_shift == "channel":
            _check_folds(channel_folds, head_dim=embed_dim // num_heads)
        _refuse_unused_shifts(
            temporal_shift,
            of_patches={"pattern": pattern, "offset_sign": offset_sign},
            of_channels={"channel_folds": channel_folds, "channel_boundary": channel_boundary},
        )
        self.num_frames, self.size, self.checkpointing = num_frames, size, checkpointing
        self.takes_any_length = positions == "shared"
        frames_of_positions = num_frames if positions == "per_frame" else 1
        self.patch_embedding = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.positions = nn.Parameter(torch.empty(frames_of_positions, 1 + side**2, embed_dim))
        self.blocks = nn.ModuleList()
        for index, rate in enumerate(drop_path_rates(drop_path_rate, depth)):
            shift = temporal_shift if index % 2 else "none"
            attention = FrameAttention(
                embed_dim,
                num_heads=num_heads,
                channel_folds=channel_folds if shift == "channel" else None,
                channel_boundary=channel_boundary,
                patch_offsets=offsets if shift == "patch" else None,
            )
            self.blocks.append(
                PreNormBlock(
                    attention,
                    width=embed_dim,
                    mlp_ratio=mlp_ratio,
                    norm_epsilon=NORM_EPSILON,
                    drop_path_rate=rate,
                )
            )
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPSILON)
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(embed_dim, num_classes)
        self.initialise()

    @property
    def grad_cam_layer(self) -> str:
        """Submodule whose output shows places; patches of later ones do not reach the logits."""
        return f"blocks.{len(self.blocks) - 1}.attention_norm"

    def initialise(self) -> None:
        """Draw fresh weights from torch's global generator; those of patches keep PyTorch's."""
        nn.init.trunc_normal_(self.class_token, std=0.02)
        # Equal for all frames, as they are after loading an image model's.
        nn.init.trunc_normal_(self.positions[:1], std=0.02)
        with torch.no_grad():
            self.positions.copy_(self.positions[:1].clone())
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, frames: Tensor) -> Tensor:
        """Classify clips.

        Args:
            frames: (B, 3, T, size, size) floating, normalised; T is `num_frames`, or any if
                positions are shared.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If the shape or dtype is not as above.
        """
        return self.classify(self.forward_features(frames))

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the normalised class tokens, (B, D, T, 1, 1): one cell shows a whole frame.

        Args:
            frames: As for `forward`.

        Raises:
            ValueError: If the shape or dtype is not as above.
        """
        self._check_frames(frames)
        tokens = self._embed(frames)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        class_tokens: Tensor = self.norm(tokens[:, :, 0])
        return rearrange(class_tokens, "b t d -> b d t 1 1")

    def classify(self, features: Tensor) -> Tensor:
        """Map features (B, D, T, 1, 1) to logits (B, num_classes)."""
        logits: Tensor = self.head(self.head_dropout(features.mean(dim=(2, 3, 4))))
        return logits

    def tokens_to_map(self, tokens_BTND: Tensor) -> Tensor:
        """Leave the class tokens out: (B, T, N, D) to (B, T, H, W, D)."""
        side = math.isqrt(tokens_BTND.shape[2] - 1)
        return rearrange(tokens_BTND[:, :, 1:], "b t (h w) d -> b t h w d", h=side)

    def _embed(self, frames: Tensor) -> Tensor:
        """Map (B, 3, T, size, size) to tokens (B, T, N, D)."""
        # Patches do not overlap: a linear layer gives tokens with channels last at once.
        side = self.patch_embedding.kernel_size[0]
        patches = rearrange(frames, "b c t (h p) (w q) -> b t (h w) (c p q)", p=side, q=side)
        weight = self.patch_embedding.weight.flatten(1)
        tokens = functional.linear(patches, weight, self.patch_embedding.bias)
        class_tokens = self.class_token.to(tokens.dtype).expand(*tokens.shape[:2], 1, -1)
        return torch.cat([class_tokens, tokens], dim=2) + self.positions

    def _check_frames(self, frames: Tensor) -> None:
        length = self.num_frames
        if self.takes_any_length and frames.ndim == 5:
            length = max(1, frames.shape[2])
        if frames.ndim != 5 or tuple(frames.shape[1:]) != (3, length, self.size, self.size):
            wanted = "T > 0" if self.takes_any_length else self.num_frames
            raise ValueError(
                f"frames must be (B, 3, T, H, W) = (B, 3, {wanted}, {self.size}, {self.size}), "
                f"got {tuple(frames.shape)}; other sizes need a model made with size= or "
                "num_frames="
            )
        if not frames.is_floating_point():
            raise ValueError(f"frames must be normalised floating point, got {frames.dtype}")


def _require_multiple(option: str, value: int, *, divisor: int) -> None:
    if value <= 0 or value % divisor:
        raise ValueError(f"{option} must be a positive multiple of {divisor}, got {value}")


def _refuse_unused_shifts(
    temporal_shift: TemporalShift,
    *,
    of_patches: Mapping[str, object],
    of_channels: Mapping[str, object],
) -> None:
    refuse = partial(refuse_unused, VideoDeit, reason=f"temporal_shift is {temporal_shift!r}")
    if temporal_shift != "patch":
        # Where no patch moves, the pattern "none" is what happens.
        refuse(
            given={name: value for name, value in of_patches.items() if (name, value) != _NO_MOVES}
        )
    if temporal_shift != "channel":
        refuse(given=of_channels)


def _check_folds(folds: int, *, head_dim: int) -> None:
    if not 2 <= folds <= head_dim:
        raise ValueError(
            f"channel_folds must be from 2 to the {head_dim} channels of a head, got {folds}"
        )
