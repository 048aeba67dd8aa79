"""What the paper and the authors' code decide for the blocks of SIFA-Transformer."""

from dataclasses import dataclass
from typing import get_args

from gopstream.models.layers.choices import require_choice
from gopstream.models.layers.unused_options import refuse_unused
from gopstream.models.sifa.motion_block import MotionOptions
from gopstream.models.sifa.styles import Style
from gopstream.models.sifa.swin_block import MotionInput, SwinOptions, SwinPlacement


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChoice:
    """Arguments of `SifaTransformer` about its blocks; None for what the style decides."""

    placement: SwinPlacement | None = None
    motion_input: MotionInput | None = None
    motion_norm: bool | None = None
    temporal_convolution: bool | None = None

    def decide(
        self,
        style: Style,
        *,
        motion: MotionOptions | None,
        tap_frames: int | None,
        window_size: int,
        mlp_ratio: float,
        checkpointing: bool,
    ) -> SwinOptions:
        """Return the options of all blocks.

        Raises:
            ValueError: If an option is none of its choices, or has no effect with the others.
        """
        released = style == "released"
        options = SwinOptions(
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            motion=motion,
            tap_frames=tap_frames,
            placement=self.placement or ("undisplaced" if released else "even"),
            motion_input=self.motion_input or ("tokens" if released else "attention"),
            motion_norm=released if self.motion_norm is None else self.motion_norm,
            temporal_convolution=released
            if self.temporal_convolution is None
            else self.temporal_convolution,
            checkpointing=checkpointing,
        )
        require_choice("placement", options.placement, choices=get_args(SwinPlacement))
        require_choice("motion_input", options.motion_input, choices=get_args(MotionInput))
        if motion is None:
            given: dict[str, object] = {
                "motion_input": self.motion_input,
                "motion_norm": self.motion_norm,
            }
            if not options.temporal_convolution:
                given["placement"] = self.placement
            refuse_unused(BlockChoice, given=given, reason="variant is 'none'")
        return options
