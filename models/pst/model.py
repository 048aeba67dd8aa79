"""The Patch Shift Transformer (PST), and the Swin transformers it is compared with.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift for Action
Recognition", ECCV 2022; Liu et al., "Video Swin Transformer", CVPR 2022. The defaults are PST-T
for clips of 32 frames (28.5 M parameters).

Departures: the authors' code runs with 16 token frames and at least 193 pixels only; here
offsets count modulo any number of frames, and windows are clipped to small grids with the
positions they have. Absolute positions, Eq. 1 of the paper, are in no code and not here.

Dimensions: B batch, F frames, T token frames, H, W a token grid, C width.
"""

from collections.abc import Sequence
from typing import Final

from einops import rearrange
from torch import Tensor, nn

from gopstream.models.layers.channel_shift import ChannelBoundary
from gopstream.models.layers.drop_path import drop_path_rates
from gopstream.models.layers.patterns import OffsetSign, Pattern
from gopstream.models.layers.sizes import require_hidden_width, require_positive
from gopstream.models.layers.windows.patches import NORM_EPSILON, PatchEmbedding
from gopstream.models.layers.windows.relative_position import PositionRule
from gopstream.models.layers.windows.stage_widths import stage_widths
from gopstream.models.layers.windows.window_attention import ChannelShift, WindowAttention
from gopstream.models.pst.shift_options import (
    ShiftOptions,
    check_shifts,
    check_table,
    plan_all_windows,
)
from gopstream.models.pst.stage import BlockKind, Stage

PAPER_TOKEN_FRAMES: Final = 16
"""Frames of the table of positions in the authors' code."""


class PatchShiftTransformer(nn.Module):
    """Video classifier whose windows exchange patches and channels along time."""

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int = 32,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        patch_size: tuple[int, int, int] = (2, 4, 4),
        patch_norm: bool = True,
        window_size: int = 7,
        temporal_window: int = 1,
        block_kinds: tuple[BlockKind, BlockKind] = ("tcs", "tps"),
        shift_stages: Sequence[int] | None = None,
        pattern: Pattern = "C",
        offset_sign: OffsetSign = "code",
        shift_back: bool = True,
        shift_positions: bool = True,
        rpe: PositionRule = "official",
        table_frames: int | None = None,
        channel_folds: int = 8,
        channel_boundary: ChannelBoundary = "keep",
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
        head_dropout: float = 0.5,
        checkpointing: bool = False,
    ) -> None:
        """Build the model with fresh weights.

        Args:
            num_classes: Outputs.
            num_frames: F that the model is meant for. Any other runs too, as long as
                `table_frames` covers its token frames.
            embed_dim: C of the first stage; it doubles with each stage.
            depths: Blocks of each stage.
            num_heads: Heads of each stage's blocks.
            patch_size: Frames, rows and columns of pixels in a token.
            patch_norm: Whether fresh tokens are normalised.
            window_size: Rows and columns of a window.
            temporal_window: Token frames of a window: 1 for PST, 2 for its dagger form, all
                for joint attention.
            block_kinds: Of the blocks with even and with odd index in a stage: "tcs" shifts
                channels, "tps" shifts patches, "plain" nothing, "sparse" lets a quarter of the
                patches attend. Odd blocks have their windows displaced.
            shift_stages: Stages, from 0, that have `block_kinds`; the others are plain. None
                means all (Table 2c).
            pattern: Of the patch shift: a name, or rows of offsets in frames.
            offset_sign: "code": a positive offset brings an earlier frame; "paper": a later.
            shift_back: Whether patches return to their frame after attention (Table 2d).
            shift_positions: Whether patches keep their frame for the position bias (Table 2d).
            rpe: "official" counts the key's frame as 0, as the authors' weights need; "paper"
                is Eq. 5. Windows of several frames have "paper" only.
            table_frames: Frames that the table of positions covers; None means 16, as in the
                authors' code, or the token frames of `num_frames` if those are more.
            channel_folds: 1 / channel_folds of each head's channels go each way in "tcs".
            channel_boundary: What "tcs" puts at the ends of the clip: the frame's own channels,
                zeros, or those of the other end.
            mlp_ratio: Hidden width of the MLP over C.
            qkv_bias: Whether queries, keys and values have a bias.
            drop_path_rate: Of the last block; it grows linearly from 0 at the first.
            head_dropout: Dropout before the classifier.
            checkpointing: Compute blocks again in the backward pass to save memory.

        Raises:
            ValueError: If an option has none of its values, they do not go together, or one
                that was changed has no effect in any block.
        """
        super().__init__()
        require_positive(
            {"num_classes": num_classes, "num_frames": num_frames, "patch_size": patch_size}
        )
        widths = stage_widths(embed_dim, depths=depths, num_heads=num_heads)
        require_hidden_width(mlp_ratio, width=embed_dim)
        shifts = ShiftOptions(
            block_kinds,
            shift_stages,
            pattern,
            offset_sign,
            shift_back,
            shift_positions,
            channel_folds,
            channel_boundary,
        )
        check_shifts(
            shifts,
            constructor=PatchShiftTransformer,
            num_stages=len(depths),
            head_dim=min(width // heads for width, heads in zip(widths, num_heads, strict=True)),
        )
        token_frames = -(-num_frames // patch_size[0])
        windows = plan_all_windows(
            shifts,
            window=(temporal_window, window_size),
            rpe=rpe,
            table_frames=max(PAPER_TOKEN_FRAMES, token_frames)
            if table_frames is None
            else table_frames,
        )
        check_table(windows, token_frames=token_frames, kinds=shifts.kinds_in_use)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        self.num_frames = num_frames
        self.patch_embedding = PatchEmbedding(embed_dim, patch_size=patch_size, norm=patch_norm)
        self.stages = nn.ModuleList(
            Stage(
                width,
                num_heads=num_heads[stage],
                kinds=shifts.kinds_of(stage),
                windows=windows,
                channel_shift=ChannelShift(channel_folds, channel_boundary),
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path_rates=rates[sum(depths[:stage]) : sum(depths[: stage + 1])],
                merges=stage < len(depths) - 1,
                checkpointing=checkpointing,
            )
            for stage, width in enumerate(widths)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=NORM_EPSILON)
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(widths[-1], num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw fresh weights from torch's global generator, as Swin's code and mmaction do."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.position_table, std=0.02)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, frames: Tensor) -> Tensor:
        """Classify clips.

        Args:
            frames: (B, 3, F, H, W) floating, normalised; any sizes.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If the shape or dtype is not as above, or F needs a larger table of
                positions.
        """
        return self.classify(self.forward_features(frames))

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return normalised features (B, C, T, H', W') of frames as for `forward`.

        C is `embed_dim` times 2 for each stage but the first; H' and W' count patches merged
        as often.

        Raises:
            ValueError: As `forward` does.
        """
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ValueError(f"frames must be (B, 3, F, H, W), got {tuple(frames.shape)}")
        if 0 in frames.shape[2:]:
            raise ValueError(
                f"frames must have at least one frame, row and column, got {tuple(frames.shape)}"
            )
        if not frames.is_floating_point():
            raise ValueError(f"frames must be normalised floating point, got {frames.dtype}")
        tokens = self.patch_embedding(frames)
        for stage in self.stages:
            tokens = stage(tokens)
        features: Tensor = self.norm(tokens)
        return rearrange(features, "b t h w c -> b c t h w")

    def classify(self, features: Tensor) -> Tensor:
        """Map features as of `forward_features` to (B, num_classes) logits."""
        logits: Tensor = self.head(self.head_dropout(features.mean(dim=(2, 3, 4))))
        return logits
