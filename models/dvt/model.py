"""The Deformable Video Transformer, on the geometry of MViT or of ViT.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022; Fan et al., "Multiscale Vision
Transformers", ICCV 2021 (patches, stages, widths, skips). The defaults are the paper's
D-ST-A on MViT-B for clips of 16 frames at 224 pixels (31.9 M parameters).

Departure, where the paper is silent: no class token, since it has no place from which to
deform; the head averages the normalised tokens, as MViT does without one.

Dimensions: B batch, F sampled frames, T token frames, K token frames and J sampled frames of a
sub-clip, H, W a token grid, Y, X the motion grid, D width.
"""

from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gopstream.models.dvt.block import DeformableBlock
from gopstream.models.dvt.cues import average_cue, difference_cue
from gopstream.models.dvt.fusion import LinearFusion, MixerFusion
from gopstream.models.dvt.motion_tokenizer import MotionTokenizer, clean_motion, mask_invalid
from gopstream.models.dvt.options import (
    Attention,
    BlockOptions,
    Cue,
    Fusion,
    MotionScaling,
    MotionTargets,
    Projections,
    ScaleForm,
    check_block_options,
    choose_cue,
    choose_fusion,
)
from gopstream.models.dvt.patch_embedding import PatchEmbedding, PatchGeometry
from gopstream.models.dvt.point_attention import Implementation
from gopstream.models.dvt.point_prediction import PointPrediction
from gopstream.models.dvt.query_pooling import NORM_EPSILON
from gopstream.models.layers.drop_path import drop_path_rates
from gopstream.models.layers.multiscale_plan import BlockShape, plan_blocks
from gopstream.models.layers.sizes import require_hidden_width, require_positive


class DeformableVideoTransformer(nn.Module):
    """Video classifier whose tokens attend points that they choose, led by codec motion.

    `sampled_elements` is how many numbers one clip's points read from value maps, which counters
    of PyTorch do not see; `sampling_macs` is their multiply-adds: 4 to interpolate each, fvcore's
    rule, and one in the weighted sum.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int = 16,
        size: int = 224,
        embed_dim: int = 96,
        depth: int = 16,
        num_heads: int = 1,
        stage_starts: tuple[int, ...] = (1, 3, 14),
        patch_kernel: tuple[int, int, int] = (3, 7, 7),
        patch_stride: tuple[int, int, int] = (2, 4, 4),
        patch_padding: tuple[int, int, int] = (1, 3, 3),
        attention: Attention = "space_time",
        fusion: Fusion | None = None,
        num_points: int = 8,
        subclip_tokens: int = 4,
        motion_targets: MotionTargets = "tokens",
        projections: Projections = "query_value",
        scale_form: ScaleForm = "literal",
        coarse_stride: int = 8,
        cue: Cue | None = None,
        motion_scaling: MotionScaling = "linear",
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        head_dropout: float = 0.5,
        initial_std: float = 0.02,
        implementation: Implementation = "auto",
        checkpointing: bool = False,
    ) -> None:
        """Build the model with fresh weights.

        Args:
            num_classes: Outputs.
            num_frames: Sampled frames of a clip, a multiple of ``patch_stride[0] * K``.
            size: Height and width of the frames in pixels, a multiple of the token cell of
                the last stage. The positional embedding is made for it.
            embed_dim: Width of the first stage; it doubles with each stage.
            depth: Blocks.
            num_heads: Heads of the first stage; they double with each stage.
            stage_starts: Blocks that begin a new stage: they pool the query grid by 2.
            patch_kernel: Patches of frames and of motion, (time, height, width).
            patch_stride: As above; time is sampled frames per token frame.
            patch_padding: As above.
            attention: "space_time" (D-ST-A), "multi_scale" (D-MS-A), or "both".
            fusion: Of "both": "linear" (L) or "mixer" (M); None for the paper's choice, M.
            num_points: N, sampled points per head and target frame, or scale.
            subclip_tokens: K, token frames of a sub-clip; space-time attention stays in it. The
                paper's four sub-clips in 16 frames are 4 frames each: of the token frames here,
                or, with subclip_tokens=2 and motion_targets="frames", of the sampled ones.
            motion_targets: "tokens": a query has points in each token frame of its sub-clip;
                "frames": in each sampled frame, read from the token frame that holds it.
            projections: "query_value" (W_q and W_v, no output projection), or "value_output":
                points follow from the normalised token itself and W_o mixes the heads; as many
                parameters, and a place for both matrices of a pretrained ViT.
            scale_form: Of multi-scale attention; "commuted" computes less, with the same
                queries, but its coarse map is sampled on its own grid.
            coarse_stride: Of the coarse map in the first stage; halved with each stage.
            cue: What the motion tokens are made of: "motion" (displacements) or "residual"
                (RGB residuals), which `forward` is given; "difference" or "average" (of RGB),
                made of the frames; or "none", without motion tokens. None for motion, or for
                "none" where the attention uses it not.
            motion_scaling: Of displacements in token cells, before they are embedded;
                "asinh" and "tanh" are not in the paper.
            mlp_ratio: Hidden width of the MLP over D.
            drop_path_rate: Of the last block; it grows linearly from 0 at the first.
            head_dropout: Dropout before the classifier.
            initial_std: Standard deviation of fresh weights; 0.02 is MViT's.
            implementation: Of the sampling, as `attend_points` takes it.
            checkpointing: Compute the blocks again in the backward pass instead of keeping
                their activations.

        Raises:
            ValueError: If sizes do not divide as they must, or an option is none of its choices
                or does not go with another.
        """
        super().__init__()
        patches = PatchGeometry(patch_kernel, patch_stride, patch_padding)
        options = BlockOptions(
            attention=attention,
            fusion=choose_fusion(fusion, attention=attention),
            num_points=num_points,
            subclip_tokens=subclip_tokens,
            projections=projections,
            scale_form=scale_form,
            coarse_stride=coarse_stride,
            mlp_ratio=mlp_ratio,
            implementation=implementation,
        )
        check_block_options(options)
        self.cue = choose_cue(
            cue, attention=attention, targets=motion_targets, scaling=motion_scaling
        )
        require_positive({"num_heads": num_heads, "depth": depth, "patch_stride": patch_stride})
        require_hidden_width(mlp_ratio, width=embed_dim)
        _require_multiple("num_frames", num_frames, divisor=patch_stride[0] * subclip_tokens)
        _require_multiple("size", size, divisor=max(patch_stride[1:]) * 2 ** len(stage_starts))
        _require_multiple("embed_dim", embed_dim, divisor=num_heads)
        plan = plan_blocks(
            depth, embed_dim=embed_dim, num_heads=num_heads, stage_starts=stage_starts
        )
        self.num_frames, self.size, self.checkpointing = num_frames, size, checkpointing
        self.query_stride = patch_stride[0]
        self.num_queries = num_frames // patch_stride[0]
        self.subclip_frames = patch_stride[0] * subclip_tokens
        self.block_stages = [shape.stage for shape in plan]
        self.patch_embedding = PatchEmbedding(
            embed_dim, patches=patches, num_frames=num_frames, size=size
        )
        num_tokenizers = 0 if self.cue.cue == "none" else len(stage_starts) + 1
        self.motion_tokenizers = nn.ModuleList(
            MotionTokenizer(
                embed_dim * 2**stage, patches=patches, downsampling=2**stage, options=self.cue
            )
            for stage in range(num_tokenizers)
        )
        self.blocks = _make_blocks(plan, options=options, drop_path_rate=drop_path_rate)
        self.sampled_elements = _count_sampled_elements(
            plan,
            options=options,
            targets=self.subclip_frames if motion_targets == "frames" else subclip_tokens,
            grid=(self.num_queries, size // patch_stride[1], size // patch_stride[2]),
        )
        self.head_norm = nn.LayerNorm(plan[-1].width_out, eps=NORM_EPSILON)
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(plan[-1].width_out, num_classes)
        self.initialise(initial_std)

    @property
    def sampling_macs(self) -> int:
        """Multiply-adds of one clip's sampled points."""
        return 5 * self.sampled_elements

    def initialise(self, std: float) -> None:
        """Draw fresh weights of standard deviation `std` from torch's global generator."""
        nn.init.trunc_normal_(self.patch_embedding.space, std=std)
        nn.init.trunc_normal_(self.patch_embedding.time, std=std)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, (PointPrediction, LinearFusion, MixerFusion)):
                module.initialise()

    def forward(
        self, frames: Tensor, *, motion: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """Classify clips.

        Query token frame q is centred on sampled frame ``q * patch_stride[0]`` = t. Its sub-clip
        is the J sampled frames from ``(q // K) * J``. ``motion[:, q, :, j]`` at place p is the
        displacement that leads from p in frame t to where the same content lies in the j-th
        frame of that sub-clip; it is 0 for frame t itself.

        Args:
            frames: (B, 3, F, size, size) floating, normalised.
            motion: (B, T, 2, J, Y, X) floating, (dx, dy) in pixels of `frames`. Y and X divide
                `size`; each value holds for the pixels of its cell. Longer than the frame is
                clipped. None means no motion at all: the tokenizers see zeros. With cue
                "residual" it is (B, T, 3, J, Y, X): RGB of frame t at p less that of the j-th
                frame where the same content lies, in the unit of `frames`, so divided by the
                same standard deviation. Other cues take none.
            valid: (B, T, J, Y, X) bool; elsewhere motion counts as 0. None: all valid.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If a shape or dtype is not as above.
        """
        return self.classify(self.forward_features(frames, motion=motion, valid=valid))

    def forward_features(
        self, frames: Tensor, *, motion: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """Return the normalised tokens of the last block as (B, C, T, H, W).

        Arguments and errors are those of `forward`; C is the head's width.
        """
        self._check_frames(frames)
        if motion is None and valid is not None:
            raise ValueError("valid was given without motion; give both or neither")
        tokens = self.patch_embedding(frames)
        motion_tokens = self._tokenize(frames, motion, valid=valid)
        for stage, block in zip(self.block_stages, self.blocks, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, motion_tokens[stage], use_reentrant=False)
            else:
                tokens = block(tokens, motion_tokens[stage])
        features: Tensor = rearrange(self.head_norm(tokens), "b t h w d -> b d t h w")
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Map the result of `forward_features` to (B, num_classes) logits."""
        logits: Tensor = self.head(self.head_dropout(features.mean(dim=(2, 3, 4))))
        return logits

    def _tokenize(
        self, frames: Tensor, motion: Tensor | None, *, valid: Tensor | None
    ) -> Sequence[Tensor | None]:
        """Return the motion tokens (B, T, K or J, H, W, D) of each stage."""
        wide = torch.promote_types(self.head.weight.dtype, torch.float32)
        if not self.cue.comes_from_loader:
            if motion is not None:
                raise ValueError(f"this model has cue {self.cue.cue!r} and takes no motion")
            return self._tokenize_frames(frames.to(wide))
        if motion is None:
            shape = (
                frames.shape[0],
                self.num_queries,
                self.cue.channels,
                self.subclip_frames,
                1,
                1,
            )
            motion = torch.zeros(shape, dtype=wide, device=frames.device)
        self._check_motion(motion, batch=frames.shape[0], valid=valid)
        if self.cue.cue == "motion":
            side = self.size
            clean, validity = clean_motion(motion.to(wide), valid=valid, height=side, width=side)
        else:
            clean, validity = mask_invalid(motion.to(wide), valid=valid)
        return [
            tokenizer(clean, validity, height=self.size, width=self.size)
            for tokenizer in self.motion_tokenizers
        ]

    def _tokenize_frames(self, frames: Tensor) -> Sequence[Tensor | None]:
        if self.cue.cue == "none":
            return [None] * (self.block_stages[-1] + 1)
        make_cue = difference_cue if self.cue.cue == "difference" else average_cue
        tokens = []
        for tokenizer in self.motion_tokenizers:
            assert isinstance(tokenizer, MotionTokenizer)
            # Both cues are linear: of pooled frames they are the pooled cues, and cheaper.
            side = tokenizer.downsampling
            pooled = reduce(frames, "b c f (y r) (x s) -> b c f y x", "mean", r=side, s=side)
            volume = make_cue(
                pooled, query_stride=self.query_stride, subclip_frames=self.subclip_frames
            )
            tokens.append(tokenizer.embed(volume))
        return tokens

    def _check_frames(self, frames: Tensor) -> None:
        expected = (3, self.num_frames, self.size, self.size)
        if frames.ndim != 5 or tuple(frames.shape[1:]) != expected:
            raise ValueError(
                f"frames must be (B, 3, F, H, W) = (B, {', '.join(map(str, expected))}), "
                f"got {tuple(frames.shape)}; other sizes need a model made with size= or "
                "num_frames="
            )
        if not frames.is_floating_point():
            raise ValueError(f"frames must be normalised floating point, got {frames.dtype}")

    def _check_motion(self, motion: Tensor, *, batch: int, valid: Tensor | None) -> None:
        channels = self.cue.channels
        expected = (batch, self.num_queries, channels, self.subclip_frames)
        if motion.ndim != 6 or tuple(motion.shape[:4]) != expected:
            raise ValueError(
                f"motion must be (B, T, {channels}, J, Y, X) = "
                f"({', '.join(map(str, expected))}, Y, X), got {tuple(motion.shape)}"
            )
        if self.size % motion.shape[4] or self.size % motion.shape[5]:
            raise ValueError(
                f"the motion grid must divide the {self.size} x {self.size} pixels of the "
                f"frames, got {motion.shape[4]} x {motion.shape[5]}"
            )
        if not motion.is_floating_point():
            raise ValueError(f"motion must be floating point pixels, got {motion.dtype}")
        shape = (*motion.shape[:2], *motion.shape[3:])
        if valid is not None and (tuple(valid.shape) != shape or valid.dtype != torch.bool):
            raise ValueError(
                f"valid must be bool of shape (B, T, J, Y, X) = {shape}, "
                f"got {valid.dtype} {tuple(valid.shape)}"
            )


def _make_blocks(
    plan: Sequence[BlockShape], *, options: BlockOptions, drop_path_rate: float
) -> nn.ModuleList:
    rates = drop_path_rates(drop_path_rate, len(plan))
    return nn.ModuleList(
        DeformableBlock(shape, options=options, drop_path_rate=rate)
        for shape, rate in zip(plan, rates, strict=True)
    )


def _count_sampled_elements(
    plan: Sequence[BlockShape],
    *,
    options: BlockOptions,
    targets: int,
    grid: tuple[int, int, int],
) -> int:
    """Count over all blocks, for (token frames, rows, columns) of the first stage."""
    num_scales = 2
    maps_read = {
        "space_time": targets,
        "multi_scale": num_scales,
        "both": targets + num_scales,
    }[options.attention]
    times, rows, columns = grid
    widths_of_queries = sum(
        (rows >> shape.stage) * (columns >> shape.stage) * shape.width for shape in plan
    )
    return times * widths_of_queries * options.num_points * maps_read


def _require_multiple(name: str, value: int, *, divisor: int) -> None:
    if value <= 0 or value % divisor:
        raise ValueError(f"{name} must be a positive multiple of {divisor}, got {value}")
