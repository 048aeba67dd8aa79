"""SIFA-Net: a residual network on frames, with attention between frames in its blocks.

Long et al., "Stand-Alone Inter-Frame Attention in Video Models", CVPR 2022, section 3.3 and the
ablations of table 1; He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

The paper and the authors' code are two networks; ``style`` chooses between them, and each of
their differences is an option of its own. The stem over four frames is in the code alone, but
only with it does a network have the paper's FLOPs, so both styles have it.

Dimensions: B batch, F sampled frames, T frames of features (F / stem_frames), Y, X pixels, H, W a
grid, C width.
"""

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Final, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from gopstream.models.layers.choices import require_choice
from gopstream.models.sifa.aggregation import Implementation
from gopstream.models.sifa.bottleneck import (
    EXPANSION,
    BlockOptions,
    Bottleneck,
    Placement,
    Stage,
    Stem,
)
from gopstream.models.sifa.motion_block import InterFrameAttention, Scale, draw_convolution
from gopstream.models.sifa.offsets import Ends, OffsetSource, OffsetStart
from gopstream.models.sifa.styles import (
    STAGES,
    USUAL_STAGES,
    AttentionChoice,
    NetVariant,
    PerStage,
    Style,
)

# Of all batch norms; the authors' code has another one with a deep stem.
_NORM_EPSILON: Final = 1e-5
_DEEP_NORM_EPSILON: Final = 2e-5


class SifaNet(nn.Module):
    """Video classifier: ResNet with inter-frame attention; any clip length and size."""

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int = 16,
        depths: tuple[int, int, int, int] = (3, 4, 6, 3),
        base_width: int = 64,
        style: Style = "paper",
        variant: NetVariant = "deformable",
        offset_source: OffsetSource = "motion",
        offset_start: OffsetStart | None = None,
        region: PerStage = 3,
        dilation: PerStage = 1,
        saliency_residual: bool | None = None,
        last: Ends | None = None,
        scale: Scale = "mean",
        tap_weights: bool = False,
        sifa_stages: tuple[int, ...] = USUAL_STAGES,
        placement: Placement | None = None,
        global_context: bool | None = None,
        dual_branch: bool | None = None,
        stem_frames: int = 4,
        deep_stem: bool = False,
        zero_init_residual: bool = True,
        head_dropout: float = 0.5,
        implementation: Implementation = "auto",
        checkpointing: bool = False,
    ) -> None:
        """Build the model with fresh weights, drawn from torch's global generator.

        Args:
            num_classes: Outputs.
            num_frames: Sampled frames of a clip. Without `tap_weights` nothing depends on it:
                `forward` takes any multiple of `stem_frames`.
            depths: Blocks of the stages res2 to res5.
            base_width: Width of the first stage's 3 x 3 convolutions; it doubles with each stage.
            style: What the options that are None become, "paper" / "released" (the authors'
                code): `offset_start` "zero" (the paper does not say) / "random",
                `saliency_residual` False / True, `last` "self" / "zero", `placement` "every" /
                "odd", `global_context` and `dual_branch` False / True.
            variant: As in `MotionOptions`; "none" is a network whose frames meet in the stem and
                the final mean only (2D-ResNet of the paper).
            offset_source: As in `MotionOptions`.
            offset_start: As in `MotionOptions`.
            region: As in `MotionOptions`, for all stages or for each of the four. Those of
                stages without attention are not looked at; nor is it so with `dilation`.
            dilation: As in `MotionOptions`, likewise.
            saliency_residual: As in `MotionOptions`.
            last: As in `MotionOptions`.
            scale: As in `MotionOptions`; the paper's dot products are "none".
            tap_weights: Have the scale as weights of each channel, frame and tap, to hold those
                of the authors' checkpoints; clips then have `num_frames`.
            sifa_stages: Stages with attention, of 2 to 5.
            placement: Blocks of these stages with attention: all, or each second from the second.
            global_context: Give each second block of res3 to res5, from the first on, a
                `GlobalContext`.
            dual_branch: Have a second res5 on twice the grid and half the frames, with a head of
                its own.
            stem_frames: Successive sampled frames that the stem makes one.
            deep_stem: Three convolutions of 3 x 3 in the stem, in place of one of 7 x 7.
            zero_init_residual: Fresh blocks are their shortcuts: the last norm of each is zero.
            head_dropout: Before each head.
            implementation: As for `attend_neighbours`.
            checkpointing: Compute the blocks again in the backward pass instead of keeping their
                activations.

        Raises:
            ValueError: If an option is none of its choices, or has no effect with the others.
        """
        super().__init__()
        require_choice("style", style, choices=get_args(Style))
        released = style == "released"
        motion = AttentionChoice(
            variant=variant,
            offset_source=offset_source,
            offset_start=offset_start,
            region=region,
            dilation=dilation,
            saliency_residual=saliency_residual,
            last=last,
            scale=scale,
            implementation=implementation,
            tap_weights=tap_weights,
            sifa_stages=sifa_stages,
            placement=placement,
        ).by_stage(style)
        placement = placement or ("odd" if released else "every")
        require_choice("placement", placement, choices=get_args(Placement))
        dual_branch = released if dual_branch is None else dual_branch
        frames = _count_frames(num_frames, stem_frames=stem_frames, dual=dual_branch)
        _check_depths(depths, stages=motion.keys(), placement=placement)
        self.num_frames, self.stem_frames = num_frames, stem_frames
        shared = BlockOptions(
            motion=None,
            placement=placement,
            global_context=released if global_context is None else global_context,
            tap_frames=frames if tap_weights else None,
            norm_epsilon=_DEEP_NORM_EPSILON if deep_stem else _NORM_EPSILON,
            checkpointing=checkpointing,
        )
        self.stem = Stem(
            base_width, num_frames=stem_frames, deep=deep_stem, norm_epsilon=shared.norm_epsilon
        )
        self.stages = nn.ModuleList()
        inputs = base_width * (2 if deep_stem else 1)
        for index, (stage, depth) in enumerate(zip(STAGES, depths, strict=True)):
            width = base_width * 2**index
            options = replace(
                shared,
                motion=motion.get(stage),
                global_context=shared.global_context and index > 0,
            )
            stride = 2 if index else 1
            self.stages.append(Stage(inputs, width, depth=depth, stride=stride, options=options))
            before, inputs = inputs, EXPANSION * width
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(inputs, num_classes)
        self.dual_stage: Stage | None = None
        self.dual_head: nn.Linear | None = None
        if dual_branch:
            options = replace(options, tap_frames=frames // 2 if tap_weights else None)
            self.dual_stage = Stage(before, width, depth=depth, stride=1, options=options)
            self.dual_head = nn.Linear(inputs, num_classes)
        self.initialise(zero_init_residual=zero_init_residual)

    def initialise(self, *, zero_init_residual: bool) -> None:
        """Draw fresh weights as the authors do, from torch's global generator.

        Linear layers keep PyTorch's default.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                draw_convolution(module)
        for module in self.modules():
            if isinstance(module, InterFrameAttention):
                module.initialise()
            elif isinstance(module, Bottleneck) and zero_init_residual:
                nn.init.zeros_(module.expand_norm.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """Classify clips.

        Args:
            frames: (B, 3, F, Y, X) floating, normalised; F a multiple of `stem_frames`, with a
                dual branch at least twice that.

        Returns:
            (B, num_classes) logits; with a dual branch the logarithm of the mean of both heads'
            probabilities, as the authors score clips in tests.

        Raises:
            ValueError: If a shape or dtype is not as above.
        """
        heads = self.forward_heads(frames)
        if len(heads) == 1:
            return heads[0]
        logs = [functional.log_softmax(logits, dim=-1) for logits in heads]
        return torch.logaddexp(logs[0], logs[1]) - math.log(2)

    def forward_heads(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (B, num_classes) of the head and, if there is one, the dual head.

        The authors' loss is the sum of the cross-entropies of both.
        """
        shared = self._shared_features(frames)
        logits = self.classify(self._own_features(shared))
        if self.dual_stage is None or self.dual_head is None:
            return (logits,)
        pairs = shared.shape[1] // 2
        if pairs == 0:
            raise ValueError(
                f"the dual branch needs at least {2 * self.stem_frames} frames, "
                f"got {frames.shape[2]}"
            )
        halved = torch.maximum(shared[:, 0 : 2 * pairs : 2], shared[:, 1 : 2 * pairs : 2])
        dual = self.dual_stage(halved).mean(dim=(1, 2, 3))
        dual_logits: Tensor = self.dual_head(self.head_dropout(dual))
        return logits, dual_logits

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return what res5 gives, (B, C, T, H, W); the dual branch has no part in it."""
        return self._own_features(self._shared_features(frames))

    def classify(self, features: Tensor) -> Tensor:
        """Map the result of `forward_features` to the (B, num_classes) logits of the head.

        They are those of `forward` where there is no dual branch.
        """
        logits: Tensor = self.head(self.head_dropout(features.mean(dim=(2, 3, 4))))
        return logits

    def _shared_features(self, frames: Tensor) -> Tensor:
        """Return what res4 gives, (B, T, H, W, C)."""
        self._check(frames)
        features: Tensor = self.stem(frames)
        for index in range(len(STAGES) - 1):
            features = self.stages[index](features)
        return features

    def _own_features(self, shared_BTHWC: Tensor) -> Tensor:
        features: Tensor = rearrange(self.stages[-1](shared_BTHWC), "b t h w c -> b c t h w")
        return features

    def _check(self, frames: Tensor) -> None:
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ValueError(f"frames must be (B, 3, F, Y, X), got {tuple(frames.shape)}")
        if not frames.is_floating_point():
            raise ValueError(f"frames must be normalised floating point, got {frames.dtype}")
        if frames.shape[2] < 1 or frames.shape[2] % self.stem_frames:
            raise ValueError(
                f"the frames of a clip must be a positive multiple of stem_frames "
                f"{self.stem_frames}, got {frames.shape[2]}"
            )


def _check_depths(
    depths: tuple[int, ...], *, stages: Collection[int], placement: Placement
) -> None:
    """Refuse depths at which none of the stages that shall attend has a block that does."""
    if len(depths) != len(STAGES) or min(depths) < 1:
        raise ValueError(f"depths must be four numbers from 1 on, got {depths!r}")
    deepest = max((depths[STAGES.index(stage)] for stage in stages), default=None)
    if placement == "odd" and deepest == 1:
        raise ValueError(
            "no block attends between frames: placement 'odd' takes each second block of a "
            f"stage, and depths are {depths!r}; use placement='every', or variant='none'"
        )


def _count_frames(num_frames: int, *, stem_frames: int, dual: bool) -> int:
    """Return the frames of features."""
    if stem_frames < 1:
        raise ValueError(f"stem_frames must be at least 1, got {stem_frames}")
    shortest = stem_frames * (2 if dual else 1)
    if num_frames % stem_frames or num_frames < shortest:
        raise ValueError(
            f"num_frames must be a multiple of stem_frames {stem_frames}, at least {shortest}, "
            f"got {num_frames}"
        )
    return num_frames // stem_frames
