"""The Deformable Video Transformer with space-time attention, on the geometry of MViT.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022; Fan et al., "Multiscale Vision
Transformers", ICCV 2021 (patches, stages, widths, skips). The defaults are the paper's
D-ST-A on MViT-B for clips of 16 frames at 224 pixels (31.9 M parameters).

Departure, where the paper is silent: no class token, since it has no place from which to
deform; the head averages the normalised tokens, as MViT does without one.

Dimensions: B batch, F sampled frames, T token frames, K token frames and J sampled frames of a
sub-clip, H, W a token grid, Y, X the motion grid, D width.
"""

import torch
from torch import Tensor, nn

from gopstream.models.dvt.block import DeformableBlock, plan_blocks
from gopstream.models.dvt.deformable_attention import NORM_EPSILON, DeformableSpaceTimeAttention
from gopstream.models.dvt.motion_tokenizer import MotionTokenizer, clean_motion
from gopstream.models.dvt.patch_embedding import PatchEmbedding, PatchGeometry


class DeformableVideoTransformer(nn.Module):
    """Video classifier with deformable space-time attention driven by codec motion."""

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
        num_points: int = 8,
        subclip_tokens: int = 4,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        head_dropout: float = 0.5,
        initial_std: float = 0.02,
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
            num_points: N, sampled points per token frame and head.
            subclip_tokens: K, token frames of a sub-clip; attention stays in a sub-clip.
            mlp_ratio: Hidden width of the MLP over D.
            drop_path_rate: Of the last block; it grows linearly from 0 at the first.
            head_dropout: Dropout before the classifier.
            initial_std: Standard deviation of fresh weights; 0.02 is MViT's.

        Raises:
            ValueError: If sizes do not divide as they must.
        """
        super().__init__()
        patches = PatchGeometry(patch_kernel, patch_stride, patch_padding)
        _require_multiple("num_frames", num_frames, patch_stride[0] * subclip_tokens)
        _require_multiple("size", size, max(patch_stride[1:]) * 2 ** len(stage_starts))
        _require_multiple("embed_dim", embed_dim, num_heads)
        plan = plan_blocks(
            depth, embed_dim=embed_dim, num_heads=num_heads, stage_starts=stage_starts
        )
        self.num_frames, self.size = num_frames, size
        self.num_queries = num_frames // patch_stride[0]
        self.subclip_frames = patch_stride[0] * subclip_tokens
        self.block_stages = [shape.stage for shape in plan]
        self.patch_embedding = PatchEmbedding(
            embed_dim, patches=patches, num_frames=num_frames, size=size
        )
        self.motion_tokenizers = nn.ModuleList(
            MotionTokenizer(embed_dim * 2**stage, patches=patches, downsampling=2**stage)
            for stage in range(len(stage_starts) + 1)
        )
        self.blocks = nn.ModuleList(
            DeformableBlock(
                shape,
                num_points=num_points,
                subclip_tokens=subclip_tokens,
                mlp_ratio=mlp_ratio,
                drop_path_rate=drop_path_rate * index / max(depth - 1, 1),
            )
            for index, shape in enumerate(plan)
        )
        self.head_norm = nn.LayerNorm(plan[-1].width_out, eps=NORM_EPSILON)
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(plan[-1].width_out, num_classes)
        self.initialise(initial_std)

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
            if isinstance(module, DeformableSpaceTimeAttention):
                module.initialise_sampling()

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
                clipped. None means no motion at all: the tokenizers see zeros.
            valid: (B, T, J, Y, X) bool; elsewhere motion counts as 0. None: all valid.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If a shape or dtype is not as above.
        """
        self._check_frames(frames)
        if motion is None:
            if valid is not None:
                raise ValueError("valid was given without motion; give both or neither")
            shape = (frames.shape[0], self.num_queries, 2, self.subclip_frames, 1, 1)
            motion = torch.zeros(shape, dtype=torch.float32, device=frames.device)
        self._check_motion(motion, batch=frames.shape[0], valid=valid)
        tokens = self.patch_embedding(frames)
        motion_tokens = self._tokenize_motion(motion, valid)
        for stage, block in zip(self.block_stages, self.blocks, strict=True):
            tokens = block(tokens, motion_tokens[stage])
        pooled = self.head_norm(tokens).mean(dim=(1, 2, 3))
        logits: Tensor = self.head(self.head_dropout(pooled))
        return logits

    def _tokenize_motion(self, motion: Tensor, valid: Tensor | None) -> list[Tensor]:
        """Return the motion tokens (B, T, K, H, W, D) of each stage."""
        wide = torch.promote_types(self.head.weight.dtype, torch.float32)
        clean, validity = clean_motion(
            motion.to(wide), valid=valid, height=self.size, width=self.size
        )
        return [
            tokenizer(clean, validity, height=self.size, width=self.size)
            for tokenizer in self.motion_tokenizers
        ]

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
        expected = (batch, self.num_queries, 2, self.subclip_frames)
        if motion.ndim != 6 or tuple(motion.shape[:4]) != expected:
            raise ValueError(
                f"motion must be (B, T, 2, J, Y, X) = ({', '.join(map(str, expected))}, Y, X), "
                f"got {tuple(motion.shape)}"
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


def _require_multiple(name: str, value: int, divisor: int) -> None:
    if value <= 0 or value % divisor:
        raise ValueError(f"{name} must be a positive multiple of {divisor}, got {value}")
