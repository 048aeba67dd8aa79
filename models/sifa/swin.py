"""SIFA-Transformer: Swin on frames, with attention between frames after that in windows.

Long et al., "Stand-Alone Inter-Frame Attention in Video Models", CVPR 2022, section 3.3 and table
2; Liu et al., "Swin Transformer", ICCV 2021.

The paper and the authors' code are two networks; ``style`` chooses between them, and each of
their differences is an option of its own. That four frames make one is in the code alone, but
only so does a network have the paper's FLOPs, so both styles have it.

The paper's sum has neither a factor nor a norm: it grows with the cube of what attends, and with
the width. Both styles divide by the width, as the code does; ``scale="none"`` does not.

Departures: the authors' code runs at one size of square pictures and one clip length, and leaves
fresh weights as PyTorch draws them; here they are drawn as Swin's, and the convolutions along time
begin as zero, which in the code they do with weights of images alone.

Dimensions: B batch, F sampled frames, T frames of tokens (F / stem_frames), Y, X pixels, H, W a
token grid, C width.
"""

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from einops import rearrange
from torch import Tensor, nn

from gopstream.models.layers.choices import require_choice
from gopstream.models.layers.drop_path import drop_path_rates
from gopstream.models.layers.sizes import require_hidden_width, require_positive
from gopstream.models.layers.time_convolution import TimeConvolution
from gopstream.models.layers.windows.patches import NORM_EPSILON, PatchEmbedding
from gopstream.models.layers.windows.stage_widths import stage_widths
from gopstream.models.layers.windows.window_attention import WindowAttention
from gopstream.models.sifa.aggregation import Implementation
from gopstream.models.sifa.motion_block import Scale
from gopstream.models.sifa.offsets import Ends, OffsetSource, OffsetStart
from gopstream.models.sifa.styles import STAGES, AttentionChoice, NetVariant, Style
from gopstream.models.sifa.swin_block import (
    MotionInput,
    SwinBlock,
    SwinOptions,
    SwinPlacement,
    SwinStage,
)
from gopstream.models.sifa.swin_styles import BlockChoice

PATCH_SIZE: Final = 4


class SifaTransformer(nn.Module):
    """Video classifier: Swin with inter-frame attention; any clip length and size."""

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int = 64,
        size: int = 224,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        style: Style = "paper",
        variant: NetVariant | None = None,
        offset_source: OffsetSource = "motion",
        offset_start: OffsetStart | None = None,
        region: int = 3,
        dilation: int = 1,
        saliency_residual: bool | None = None,
        last: Ends | None = None,
        scale: Scale = "mean",
        tap_weights: bool = False,
        placement: SwinPlacement | None = None,
        motion_input: MotionInput | None = None,
        motion_norm: bool | None = None,
        temporal_convolution: bool | None = None,
        patch_norm: bool | None = None,
        stem_frames: int = 4,
        drop_path_rate: float = 0.2,
        head_dropout: float = 0.5,
        implementation: Implementation = "auto",
        checkpointing: bool = False,
    ) -> None:
        """Build the model with fresh weights, drawn from torch's global generator.

        Args:
            num_classes: Outputs.
            num_frames: Sampled frames of a clip. Without `tap_weights` nothing depends on it:
                `forward` takes any multiple of `stem_frames`.
            size: Height and width in pixels that the model is meant for; any others run too. By it
                `placement` "undisplaced" tells which blocks attend between frames.
            embed_dim: C of the first stage; it doubles with each stage.
            depths: Blocks of each stage; those with odd index have their windows displaced.
            num_heads: Heads of each stage's blocks.
            window_size: Rows and columns of a window.
            mlp_ratio: Hidden width of the MLP over C.
            style: What the options that are None become, "paper" / "released" (the authors'
                code): `variant` "deformable" / "regular", `offset_start` "zero" / "random",
                `saliency_residual` False / True, `last` "self" / "zero", `placement` "even" /
                "undisplaced", `motion_input` "attention" / "tokens", `motion_norm` and
                `temporal_convolution` False / True, `patch_norm` True / False.
            variant: As in `MotionOptions`; "none" is a network without attention between frames.
            offset_source: As in `MotionOptions`; likewise the next six.
            offset_start: As there.
            region: As there.
            dilation: As there.
            saliency_residual: As there.
            last: As there.
            scale: As there.
            tap_weights: Have the scale as weights of each channel, frame and tap, to hold those
                of the authors' checkpoints; clips then have `num_frames`.
            placement: As in `SwinOptions`.
            motion_input: As in `SwinOptions`.
            motion_norm: As in `SwinOptions`.
            temporal_convolution: As in `SwinOptions`.
            patch_norm: Whether fresh tokens are normalised.
            stem_frames: Successive sampled frames that a token is made of.
            drop_path_rate: Of the last block; it grows linearly from 0 at the first.
            head_dropout: Of the mean of each frame, before the classifier.
            implementation: As for `attend_neighbours`.
            checkpointing: Compute the blocks again in the backward pass instead of keeping their
                activations.

        Raises:
            ValueError: If an option is none of its choices, or has no effect with the others.
        """
        super().__init__()
        require_choice("style", style, choices=get_args(Style))
        released = style == "released"
        _check_sizes(num_frames, size=size, stem_frames=stem_frames, window_size=window_size)
        widths = stage_widths(embed_dim, depths=depths, num_heads=num_heads)
        require_hidden_width(mlp_ratio, width=embed_dim)
        _check_numbers({"region": region, "dilation": dilation})
        # The choice is made for each stage of a ResNet; here all stages have the same.
        motion = AttentionChoice(
            variant=variant or ("regular" if released else "deformable"),
            offset_source=offset_source,
            offset_start=offset_start,
            region=region,
            dilation=dilation,
            saliency_residual=saliency_residual,
            last=last,
            scale=scale,
            tap_weights=tap_weights,
            implementation=implementation,
        ).by_stage(style)
        self.options = BlockChoice(
            placement=placement,
            motion_input=motion_input,
            motion_norm=motion_norm,
            temporal_convolution=temporal_convolution,
        ).decide(
            style,
            motion=motion.get(STAGES[-1]),
            tap_frames=num_frames // stem_frames if tap_weights else None,
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            checkpointing=checkpointing,
        )
        self.num_frames, self.size, self.stem_frames = num_frames, size, stem_frames
        self.patch_embedding = PatchEmbedding(
            embed_dim,
            patch_size=(stem_frames, PATCH_SIZE, PATCH_SIZE),
            norm=not released if patch_norm is None else patch_norm,
        )
        self.stages = _make_stages(
            widths,
            depths=depths,
            num_heads=num_heads,
            drop_path_rate=drop_path_rate,
            size=size,
            options=self.options,
        )
        self._refuse_unused_convolution(asked=temporal_convolution)
        self.norm = nn.LayerNorm(widths[-1], eps=NORM_EPSILON)
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(widths[-1], num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw fresh weights from torch's global generator, as Swin's code does.

        What the authors' code adds to Swin's blocks gives zero at first.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.position_table, std=0.02)
            elif isinstance(module, TimeConvolution):
                nn.init.zeros_(module.weight)
            elif isinstance(module, SwinBlock):
                if module.motion is not None:
                    module.motion.initialise()
                if module.motion_norm is not None:
                    nn.init.zeros_(module.motion_norm.weight)
                    nn.init.zeros_(module.motion_norm.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Classify clips.

        Args:
            frames: (B, 3, F, Y, X) floating, normalised; F a multiple of `stem_frames`.

        Returns:
            (B, num_classes) logits: the mean of those of the frames of tokens.

        Raises:
            ValueError: If a shape or dtype is not as above.
        """
        return self.classify(self.forward_features(frames))

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return normalised features (B, C, T, H, W) of frames as for `forward`.

        C is `embed_dim` times 2 for each stage but the first; H and W count patches of 4 x 4
        pixels merged as often, rounded up.

        Raises:
            ValueError: As `forward` does.
        """
        self._check(frames)
        tokens = self.patch_embedding(frames)
        for stage in self.stages:
            tokens = stage(tokens)
        features: Tensor = self.norm(tokens)
        return rearrange(features, "b t h w c -> b c t h w")

    def classify(self, features: Tensor) -> Tensor:
        """Map features as of `forward_features` to (B, num_classes) logits."""
        dropped = self.head_dropout(features.mean(dim=(3, 4)))
        logits: Tensor = self.head(dropped.mean(dim=2))
        return logits

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
        if 0 in frames.shape[3:]:
            raise ValueError(
                f"frames must have at least one row and column, got {tuple(frames.shape)}"
            )

    def _refuse_unused_convolution(self, *, asked: bool | None) -> None:
        if asked and not any(isinstance(module, TimeConvolution) for module in self.modules()):
            raise ValueError(
                "temporal_convolution has no effect, as all blocks attend between frames; leave "
                "it out"
            )


def _make_stages(
    widths: Sequence[int],
    *,
    depths: Sequence[int],
    num_heads: Sequence[int],
    drop_path_rate: float,
    size: int,
    options: SwinOptions,
) -> nn.ModuleList:
    rates = drop_path_rates(drop_path_rate, sum(depths))
    return nn.ModuleList(
        SwinStage(
            width,
            num_heads=num_heads[stage],
            drop_path_rates=rates[sum(depths[:stage]) : sum(depths[: stage + 1])],
            side=-(-size // (PATCH_SIZE * 2**stage)),
            merges=stage < len(depths) - 1,
            options=options,
        )
        for stage, width in enumerate(widths)
    )


def _check_numbers(options: Mapping[str, int]) -> None:
    """Refuse lists, which are for the stages of a ResNet."""
    for option, value in options.items():
        if not isinstance(value, int):
            raise ValueError(f"{option} must be one number, for all stages, got {value!r}")


def _check_sizes(num_frames: int, *, size: int, stem_frames: int, window_size: int) -> None:
    require_positive({"size": size, "stem_frames": stem_frames, "window_size": window_size})
    if num_frames < 1 or num_frames % stem_frames:
        raise ValueError(
            f"num_frames must be a positive multiple of stem_frames {stem_frames}, got {num_frames}"
        )
