"""Video-FocalNet: spatio-temporal focal modulation on a pyramid of four stages.

Wasim et al., "Video-FocalNets: Spatio-Temporal Focal Modulation for Video Action Recognition",
ICCV 2023; Yang et al., "Focal Modulation Networks", NeurIPS 2022 (stages, widths, patches, the
spatial branch). The defaults are Video-FocalNet-T as the authors' code has it: 49.55 M
parameters and 63.00 GMACs for 8 frames of 224 pixels and 400 classes.

Dimensions: B batch, F sampled frames, T token frames (F / tubelet_size), Y, X pixels, H, W a
token grid, C width.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from einops import rearrange, reduce
from torch import Tensor, nn

from gopstream.models.layers.drop_path import drop_path_rates
from gopstream.models.video_focalnet.block import BlockModulators, FocalBlock, FocalStage
from gopstream.models.video_focalnet.designs import (
    STAGE_BLOCKS,
    TEMPORAL_DEPTH,
    BlockOptions,
    Design,
    DropPathRows,
    Fusion,
    NormPosition,
    Patches,
    TemporalConvolution,
    TemporalStart,
    check_choices,
    check_frames,
    check_used,
    focal_kernels,
)
from gopstream.models.video_focalnet.focal_modulation import (
    NORM_EPSILON,
    FocalContext,
)
from gopstream.models.video_focalnet.patches import PatchEmbedding

INITIAL_STD: Final = 0.02


class ModulatorMaps(NamedTuple):
    """What the queries of clips were multiplied by, and what came out."""

    logits: Tensor
    """(B, num_classes)."""
    blocks: tuple[BlockModulators, ...]
    """One for each block of the stages, from the first to the last."""


class VideoFocalNet(nn.Module):
    """Video classifier with focal modulation in space and time; any clip length and size."""

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int = 8,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        focal_levels: tuple[int, ...] = (2, 2, 2, 2),
        focal_windows: tuple[int, ...] = (3, 3, 3, 3),
        design: Design = "parallel",
        temporal_depth: int = TEMPORAL_DEPTH,
        temporal_convolution: TemporalConvolution = "dense",
        temporal_start: TemporalStart = "random",
        fusion: Fusion = "multiply",
        normalize_modulator: bool = False,
        modulated_norm: bool = False,
        patches: Patches = "separate",
        patch_norm: bool = True,
        tubelet_size: int = 1,
        mlp_ratio: float = 4.0,
        norm_position: NormPosition = "before",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path_rate: float = 0.2,
        drop_path_rows: DropPathRows = "frame",
        checkpointing: bool = False,
    ) -> None:
        """Build the model with fresh weights, drawn from torch's global generator.

        Args:
            num_classes: Outputs.
            num_frames: Sampled frames of a clip. No weight depends on it: `forward` takes any
                multiple of `tubelet_size`.
            embed_dim: Width of the first stage; it doubles with each stage.
            depths: Blocks of each stage.
            focal_levels: L of each stage, convolutions of a branch.
            focal_windows: Kernel of the first level in each stage, odd; 2 more for each level.
            design: How space and time are modulated, (a) to (e) of the paper's figure 4:
                "spatial", where frames meet only in the final mean; "factorized_convolution",
                where a level is a convolution of the frame, then one along time;
                "factorized_encoder", the stages of "spatial", then `temporal_depth` blocks on
                one token per frame; "divided", where a block modulates in time, then in space;
                "parallel", the proposed one. The paper leaves details of (b) to (d) open.
            temporal_depth: Blocks of the temporal encoder of "factorized_encoder". The paper
                gives no number; 4 is that of ViViT, which it follows.
            temporal_convolution: "dense", which alone has the paper's compute, "pointwise",
                or "depthwise".
            temporal_start: "random", or "identity": fresh temporal modulators are 1. Only with
                design "parallel" and fusion "multiply".
            fusion: Of the two modulators of "parallel" with the queries.
            normalize_modulator: Divide the gathered context by L + 1.
            modulated_norm: LayerNorm between the modulated queries and their projection.
            patches: "separate", or "overlapping" in the embedding and between stages.
            patch_norm: LayerNorm after the patch embedding.
            tubelet_size: Sampled frames of a token; above 1 only with separate patches.
            mlp_ratio: Hidden width of the MLP over C.
            norm_position: LayerNorm "before" or "after" modulation and MLP.
            layer_scale: Initial value of a learned factor per channel on modulation and MLP,
                1e-4 in the authors' code; None for no factor.
            dropout: After patch embedding and modulations, and in MLPs.
            drop_path_rate: Of the last block; it grows linearly from 0 at the first. The
                authors' configurations have 0.2, 0.3 and 0.5 for T, S and B, the paper 0.1.
            drop_path_rows: Whether single frames or whole clips are dropped.
            checkpointing: Compute the blocks again in the backward pass instead of keeping
                their activations.

        Raises:
            ValueError: If an option is none of its choices, does not go with another, or is
                chosen where the design has no use for it.
        """
        super().__init__()
        options = BlockOptions(
            temporal_convolution=temporal_convolution,
            fusion=fusion,
            normalize_modulator=normalize_modulator,
            modulated_norm=modulated_norm,
            mlp_ratio=mlp_ratio,
            norm_position=norm_position,
            layer_scale=layer_scale,
            dropout=dropout,
            drop_path_rows=drop_path_rows,
            checkpointing=checkpointing,
        )
        check_choices(design, options=options, patches=patches, temporal_start=temporal_start)
        check_used(
            design,
            options=options,
            temporal_start=temporal_start,
            temporal_depth=temporal_depth,
        )
        check_frames(num_frames, tubelet_size=tubelet_size, patches=patches)
        kernels = focal_kernels(depths, levels=focal_levels, windows=focal_windows)
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        self.smallest_side = 2 ** (len(depths) + 1) if patches == "separate" else 3
        self.patch_embedding = PatchEmbedding(
            embed_dim, patches=patches, tubelet_size=tubelet_size, norm=patch_norm
        )
        self.dropout = nn.Dropout(dropout)
        depth, width = sum(depths), embed_dim * 2 ** (len(depths) - 1)
        later = temporal_depth if design == "factorized_encoder" else 0
        rates = drop_path_rates(drop_path_rate, depth + later)
        self.stages = nn.ModuleList(
            FocalStage(
                embed_dim * 2**stage,
                kind=STAGE_BLOCKS[design],
                kernels=kernels[stage],
                drop_path_rates=rates[sum(depths[:stage]) : sum(depths[: stage + 1])],
                patches=patches if stage < len(depths) - 1 else None,
                options=options,
            )
            for stage in range(len(depths))
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.temporal_encoder = (
            TemporalEncoder(
                width, kernels=kernels[-1], drop_path_rates=rates[depth:], options=options
            )
            if later
            else None
        )
        self.head = nn.Linear(width, num_classes)
        self.initialise(temporal_start)

    def initialise(self, temporal_start: TemporalStart) -> None:
        """Draw fresh weights as the authors do, from torch's global generator.

        They initialise linear layers; convolutions keep PyTorch's default.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
                nn.init.zeros_(module.bias)
        if temporal_start == "identity":
            for module in self.modules():
                if isinstance(module, FocalContext) and module.kind == "time":
                    nn.init.zeros_(module.mixing.weight)
                    assert module.mixing.bias is not None
                    nn.init.ones_(module.mixing.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Classify clips.

        Args:
            frames: (B, 3, F, Y, X) floating, normalised; F a multiple of `tubelet_size`, Y and
                X at least `smallest_side`. Pixels beyond the last whole patch are cut off.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If a shape or dtype is not as above.
        """
        return self.classify(self.forward_features(frames))

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the normalised tokens of the last stage as (B, C, T, H, W)."""
        tokens = self._embed(frames)
        for stage in self.stages:
            tokens = stage(tokens)
        return self._finish(tokens)

    def classify(self, features: Tensor) -> Tensor:
        """Map the result of `forward_features` to (B, num_classes) logits."""
        if self.temporal_encoder is None:
            pooled = reduce(features, "b c t h w -> b c", "mean")
        else:
            frame_tokens = reduce(features, "b c t h w -> b t c", "mean")
            pooled = self.temporal_encoder(frame_tokens).mean(dim=1)
        logits: Tensor = self.head(pooled)
        return logits

    def forward_with_modulators(self, frames: Tensor) -> ModulatorMaps:
        """Do as `forward`, and return what every block of the stages multiplied by."""
        tokens = self._embed(frames)
        blocks = []
        for stage in self.stages:
            assert isinstance(stage, FocalStage)
            tokens, modulators = stage.forward_with_modulators(tokens)
            blocks += modulators
        return ModulatorMaps(self.classify(self._finish(tokens)), blocks=tuple(blocks))

    def _embed(self, frames: Tensor) -> Tensor:
        self._check(frames)
        tokens: Tensor = self.dropout(self.patch_embedding(frames))
        return tokens

    def _finish(self, tokens_BTHWC: Tensor) -> Tensor:
        features: Tensor = rearrange(self.norm(tokens_BTHWC), "b t h w c -> b c t h w")
        return features

    def _check(self, frames: Tensor) -> None:
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ValueError(f"frames must be (B, 3, F, Y, X), got {tuple(frames.shape)}")
        if not frames.is_floating_point():
            raise ValueError(f"frames must be normalised floating point, got {frames.dtype}")
        if frames.shape[2] < 1 or frames.shape[2] % self.tubelet_size:
            raise ValueError(
                f"the frames of a clip must be a positive multiple of tubelet_size "
                f"{self.tubelet_size}, got {frames.shape[2]}"
            )
        if min(frames.shape[3:]) < self.smallest_side:
            raise ValueError(
                f"frames must be at least {self.smallest_side} pixels high and wide, "
                f"got {frames.shape[3]} x {frames.shape[4]}"
            )


class TemporalEncoder(nn.Module):
    """The second encoder of design (c): blocks that modulate along time, then LayerNorm."""

    def __init__(
        self,
        width: int,
        *,
        kernels: tuple[int, ...],
        drop_path_rates: Sequence[float],
        options: BlockOptions,
    ) -> None:
        """Build a block for each drop path rate."""
        super().__init__()
        self.blocks = nn.ModuleList(
            FocalBlock(width, kind="time", kernels=kernels, drop_path_rate=rate, options=options)
            for rate in drop_path_rates
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)

    def forward(self, tokens_BTC: Tensor) -> Tensor:
        """Map (B, T, C) to the same shape."""
        tokens = rearrange(tokens_BTC, "b t c -> b t 1 1 c")
        for block in self.blocks:
            tokens = block(tokens)
        encoded: Tensor = self.norm(rearrange(tokens, "b t 1 1 c -> b t c"))
        return encoded
