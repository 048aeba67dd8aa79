"""What can be chosen about the Deformable Video Transformer, and what goes with what."""

from typing import Literal, NamedTuple, get_args

from gopstream.models.dvt.point_attention import Implementation
from gopstream.models.layers.choices import require_choice

Attention = Literal["space_time", "multi_scale", "both"]
Fusion = Literal["linear", "mixer"]
MotionTargets = Literal["tokens", "frames"]
Projections = Literal["query_value", "value_output"]
ScaleForm = Literal["literal", "commuted"]
Cue = Literal["motion", "residual", "difference", "average", "none"]
MotionScaling = Literal["linear", "asinh", "tanh"]


class BlockOptions(NamedTuple):
    """What all blocks have in common; the model's arguments say what each means."""

    attention: Attention = "space_time"
    fusion: Fusion = "mixer"
    num_points: int = 8
    subclip_tokens: int = 4
    projections: Projections = "query_value"
    scale_form: ScaleForm = "literal"
    coarse_stride: int = 8
    mlp_ratio: float = 4.0
    implementation: Implementation = "auto"


class CueOptions(NamedTuple):
    """What the motion tokens are made of; the model's arguments say what each means."""

    cue: Cue = "motion"
    targets: MotionTargets = "tokens"
    scaling: MotionScaling = "linear"

    @property
    def channels(self) -> int:
        """2 for displacements (dx, dy), 3 for differences or means of RGB."""
        return 2 if self.cue == "motion" else 3

    @property
    def comes_from_loader(self) -> bool:
        """Whether `forward` takes it; else it is made of the frames, or there is none."""
        return self.cue in ("motion", "residual")


def check_block_options(options: BlockOptions) -> None:
    """Refuse values that are none of the choices.

    Raises:
        ValueError: Naming the option and its choices.
    """
    require_choice("attention", options.attention, choices=get_args(Attention))
    require_choice("fusion", options.fusion, choices=get_args(Fusion))
    require_choice("projections", options.projections, choices=get_args(Projections))
    require_choice("scale_form", options.scale_form, choices=get_args(ScaleForm))
    require_choice("implementation", options.implementation, choices=get_args(Implementation))
    for name in ("num_points", "subclip_tokens", "coarse_stride"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(options, name)}")
    if options.attention == "space_time" and options.scale_form != "literal":
        raise ValueError(
            f"scale_form={options.scale_form!r} is about multi-scale attention; with "
            "attention='space_time' leave it out"
        )


def choose_fusion(fusion: Fusion | None, *, attention: Attention) -> Fusion:
    """Return the fusion, the paper's choice where none is given.

    Raises:
        ValueError: If there is nothing to fuse.
    """
    if fusion is not None and attention != "both":
        raise ValueError(
            f"fusion={fusion!r} joins two attentions; with attention={attention!r} leave it out"
        )
    return "mixer" if fusion is None else fusion


def choose_cue(
    cue: Cue | None, *, attention: Attention, targets: MotionTargets, scaling: MotionScaling
) -> CueOptions:
    """Return what motion tokens are made of: motion where nothing is said and they are used.

    Raises:
        ValueError: If a value is none of its choices, or nothing would use it.
    """
    require_choice("motion_targets", targets, choices=get_args(MotionTargets))
    require_choice("motion_scaling", scaling, choices=get_args(MotionScaling))
    if cue is not None:
        require_choice("cue", cue, choices=get_args(Cue))
    if attention == "multi_scale":
        if cue not in (None, "none") or targets != "tokens":
            raise ValueError(
                "attention='multi_scale' stays in its frame and uses no motion; leave cue and "
                "motion_targets out"
            )
        cue = "none"
    if cue == "none" and targets != "tokens":
        raise ValueError("motion_targets says where motion leads; with cue='none' leave it out")
    options = CueOptions("motion" if cue is None else cue, targets, scaling)
    if options.cue != "motion" and scaling != "linear":
        raise ValueError(
            f"motion_scaling={scaling!r} is about displacements; with cue={options.cue!r} leave "
            "it out"
        )
    return options
