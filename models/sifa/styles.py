"""What the paper and the authors' code decide for the attention of SIFA-Net's stages."""

from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

from gopstream.models.layers.choices import require_choice
from gopstream.models.layers.unused_options import refuse_unused
from gopstream.models.sifa.aggregation import Implementation
from gopstream.models.sifa.bottleneck import Placement
from gopstream.models.sifa.motion_block import MotionOptions, Scale, Variant
from gopstream.models.sifa.offsets import Ends, OffsetSource, OffsetStart

Style = Literal["paper", "released"]
NetVariant = Variant | Literal["none"]
PerStage = int | tuple[int, int, int, int]

STAGES: Final = (2, 3, 4, 5)
"""The paper counts the stages res2 to res5."""
USUAL_STAGES: Final = (3, 4, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionChoice:
    """Arguments of `SifaNet` that are about attention; None for what the style decides."""

    variant: NetVariant = "deformable"
    offset_source: OffsetSource = "motion"
    offset_start: OffsetStart | None = None
    region: PerStage = 3
    dilation: PerStage = 1
    saliency_residual: bool | None = None
    last: Ends | None = None
    scale: Scale = "mean"
    implementation: Implementation = "auto"
    tap_weights: bool = False
    sifa_stages: tuple[int, ...] = USUAL_STAGES
    placement: Placement | None = None

    def by_stage(self, style: Style) -> dict[int, MotionOptions]:
        """Return the options of each stage that has attention.

        Raises:
            ValueError: If an option is none of its choices, or has no effect with the others.
        """
        require_choice("variant", self.variant, choices=("none", *get_args(Variant)))
        if not self.sifa_stages or not set(self.sifa_stages) <= set(STAGES):
            raise ValueError(f"sifa_stages must be some of 2, 3, 4 and 5, got {self.sifa_stages!r}")
        if self.variant == "none":
            given = {field.name: getattr(self, field.name) for field in fields(self)}
            del given["variant"]
            given["sifa_stages"] = tuple(self.sifa_stages)
            refuse_unused(AttentionChoice, given=given, reason="variant is 'none'")
            return {}
        released = style == "released"
        moves_taps = self.variant in ("deformable", "bidirectional")
        gated = moves_taps and self.offset_source == "motion"
        regions = _for_each_stage("region", self.region)
        dilations = _for_each_stage("dilation", self.dilation)
        return {
            stage: MotionOptions(
                variant=self.variant,
                offset_source=self.offset_source,
                offset_start=self.offset_start or ("random" if released and moves_taps else "zero"),
                region=region,
                dilation=dilation,
                saliency_residual=released and gated
                if self.saliency_residual is None
                else self.saliency_residual,
                last=self.last or ("zero" if released else "self"),
                scale=self.scale,
                implementation=self.implementation,
            )
            for stage, region, dilation in zip(STAGES, regions, dilations, strict=True)
            if stage in self.sifa_stages
        }


def _for_each_stage(option: str, value: PerStage) -> tuple[int, ...]:
    values = (value,) * len(STAGES) if isinstance(value, int) else tuple(value)
    if len(values) != len(STAGES):
        raise ValueError(f"{option} must be one number, or one for each of 4 stages, got {value!r}")
    return values
