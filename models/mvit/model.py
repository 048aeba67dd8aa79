"""MViT-B with multi-head pooling attention, the first version: torchvision's, in our form.

Fan et al., "Multiscale Vision Transformers", ICCV 2021. The defaults are MViT-B, 16x4, as in
SlowFast and torchvision's mvit_v1_b: 36.61 M parameters and 70.6 GMACs for 16 frames of 224
pixels and 400 classes.

Dimensions: B batch, F sampled frames, T token frames (F / 2), H, W the grid that the last block
is given, N its tokens (a class token and T * H * W), D width.
"""

from typing import Final, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.video.mvit import MSBlockConfig, MViT

from gopstream.models.layers.multiscale_plan import BlockShape, plan_blocks
from gopstream.models.layers.sizes import require_positive

_TUBELET: Final = 2
"""Sampled frames from one token frame to the next."""
_PATCH: Final = 4
"""Pixels from one token of the first stage to the next."""


class MultiscaleVisionTransformer(nn.Module):
    """Video classifier with attention among pooled tokens; weights have torchvision's names."""

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
        pooling_stride: int = 8,
        drop_path_rate: float = 0.2,
        head_dropout: float = 0.5,
        checkpointing: bool = False,
    ) -> None:
        """Build the model with fresh weights, drawn from torch's global generator.

        Args:
            num_classes: Outputs.
            num_frames: Sampled frames of a clip, an even number.
            size: Height and width of the frames in pixels, a multiple of the token cell of the
                last stage. The positional embedding is made for it.
            embed_dim: Width of the first stage; it doubles with each stage.
            depth: Blocks, at least 2.
            num_heads: Heads of the first stage; they double with each stage.
            stage_starts: Blocks that begin a new stage: they pool the query grid by 2.
            pooling_stride: Of keys and values in the first stage; halved with each stage.
            drop_path_rate: Of the last block; it grows linearly from 0 at the first.
            head_dropout: Dropout before the classifier.
            checkpointing: Compute the blocks again in the backward pass instead of keeping
                their activations.

        Raises:
            ValueError: If sizes do not divide as they must.
        """
        super().__init__()
        require_positive({"num_heads": num_heads, "pooling_stride": pooling_stride})
        for name, value, divisor in (
            ("num_frames", num_frames, _TUBELET),
            ("size", size, _PATCH * 2 ** len(stage_starts)),
            ("embed_dim", embed_dim, num_heads),
        ):
            if value <= 0 or value % divisor:
                raise ValueError(f"{name} must be a positive multiple of {divisor}, got {value}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        plan = plan_blocks(
            depth, embed_dim=embed_dim, num_heads=num_heads, stage_starts=stage_starts
        )
        built = MViT(
            spatial_size=(size, size),
            temporal_size=num_frames,
            block_setting=[_setting(shape, pooling_stride=pooling_stride) for shape in plan],
            residual_pool=False,
            residual_with_cls_embed=False,
            rel_pos_embed=False,
            proj_after_attn=False,
            dropout=head_dropout,
            stochastic_depth_prob=drop_path_rate,
            num_classes=num_classes,
        )
        self.num_frames, self.size, self.checkpointing = num_frames, size, checkpointing
        self.conv_proj, self.pos_encoding = built.conv_proj, built.pos_encoding
        self.blocks, self.norm = built.blocks, built.norm
        # Apart, as in every model here.
        self.head_dropout, self.head = built.head
        side = size // _PATCH
        self.token_grid = (num_frames // _TUBELET, side, side)
        before_last = sum(start < depth - 1 for start in stage_starts)
        self._last_grid = (num_frames // _TUBELET, side // 2**before_last, side // 2**before_last)

    @property
    def grad_cam_layer(self) -> str:
        """Submodule whose output shows places; patches of later ones do not reach the logits."""
        return f"blocks.{len(self.blocks) - 1}.norm1"

    def forward(self, frames: Tensor) -> Tensor:
        """Classify clips.

        Args:
            frames: (B, 3, F, size, size) floating, normalised.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If the shape or dtype is not as above.
        """
        return self.classify(self.forward_features(frames))

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the normalised class token, (B, D, 1, 1, 1): its one cell shows the clip.

        Args:
            frames: As for `forward`.

        Raises:
            ValueError: If the shape or dtype is not as above.
        """
        self._check_frames(frames)
        tokens = rearrange(self.conv_proj(frames), "b d t h w -> b (t h w) d")
        tokens, grid = self.pos_encoding(tokens), self.token_grid
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens, grid = checkpoint(block, tokens, grid, use_reentrant=False)
            else:
                tokens, grid = block(tokens, grid)
        features: Tensor = rearrange(self.norm(tokens)[:, 0], "b d -> b d 1 1 1")
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Map features (B, D, 1, 1, 1) to logits (B, num_classes)."""
        return cast(Tensor, self.head(self.head_dropout(features.mean(dim=(2, 3, 4)))))

    def tokens_to_map(self, tokens_BND: Tensor) -> Tensor:
        """Leave the class token out: (B, N, D) of the last block to (B, T, H, W, D)."""
        times, rows, _ = self._last_grid
        return rearrange(tokens_BND[:, 1:], "b (t h w) d -> b t h w d", t=times, h=rows)

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


def _setting(shape: BlockShape, *, pooling_stride: int) -> MSBlockConfig:
    stride = shape.coarse_stride(pooling_stride)
    pooled = shape.query_stride == 2
    return MSBlockConfig(
        num_heads=shape.num_heads,
        input_channels=shape.width,
        output_channels=shape.width_out,
        kernel_q=[3, 3, 3] if pooled else [],
        kernel_kv=[3, 3, 3],
        stride_q=[1, 2, 2] if pooled else [],
        stride_kv=[1, stride, stride],
    )
