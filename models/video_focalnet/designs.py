"""The choices of Video-FocalNet, and which of them go together.

Wasim et al., "Video-FocalNets", ICCV 2023, section 3.1.3 and figures 4 to 6; the options of the
blocks are those of Yang et al., "Focal Modulation Networks", NeurIPS 2022.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

from gopstream.models.layers.choices import require_choice

Design = Literal["spatial", "factorized_convolution", "factorized_encoder", "divided", "parallel"]
"""Paper, figure 4, (a) to (e)."""

TemporalConvolution = Literal["dense", "pointwise", "depthwise"]
"""Along time: "dense" over channels with the levels' kernels, "pointwise" the same with kernel 1
(the paper's word taken literally), "depthwise" each channel by itself with the levels' kernels."""

TemporalStart = Literal["random", "identity"]
"""Fresh temporal modulators: random as the authors have them, or 1, so that a model with
ImageNet weights starts as the image model, its logits averaged over frames."""

Fusion = Literal["multiply", "average", "projection"]
"""Of query q with the modulators Ms and Mt: q Ms Mt, q (Ms + Mt) / 2, or q Linear([Ms, Mt])."""

Patches = Literal["separate", "overlapping"]
"""Patches of 4 pixels, then of 2 tokens; or of 7 pixels every 4, then of 3 tokens every 2."""

NormPosition = Literal["before", "after"]
"""LayerNorm on what a branch is given, or on what it returns (before the skip is added)."""

DropPathRows = Literal["frame", "clip"]
"""What stochastic depth keeps or drops as one; the authors' rows are the frames of clips."""

ContextKind = Literal["space", "time", "factorized"]
"""Of a branch: what its levels run along, in "factorized" first space, then time. Its global
mean is along time in "time", else along space."""

ModulationKind = Literal["space", "time", "factorized", "parallel"]
"""Of a modulation: one branch of a `ContextKind`, or one of space and one of time."""

BlockKind = Literal["space", "time", "factorized", "divided", "parallel"]
"""Of a block: one modulation of a `ModulationKind`, or in "divided" one of time, then one of
space. The paper leaves their order open; TimeSformer, which it follows, has time first."""

STAGE_BLOCKS: Final[dict[Design, BlockKind]] = {
    "spatial": "space",
    "factorized_convolution": "factorized",
    "factorized_encoder": "space",
    "divided": "divided",
    "parallel": "parallel",
}
"""The blocks of the stages."""

TEMPORAL_DEPTH: Final = 4
"""Blocks of the temporal encoder where none are given."""


class BlockOptions(NamedTuple):
    """What all blocks have in common; `VideoFocalNet` says what each means."""

    temporal_convolution: TemporalConvolution
    fusion: Fusion
    normalize_modulator: bool
    modulated_norm: bool
    mlp_ratio: float
    norm_position: NormPosition
    layer_scale: float | None
    dropout: float
    drop_path_rows: DropPathRows
    checkpointing: bool


def check_choices(
    design: Design, *, options: BlockOptions, patches: Patches, temporal_start: TemporalStart
) -> None:
    """Refuse values that are no choice.

    Raises:
        ValueError: Naming the option.
    """
    for option, value, choices in (
        ("design", design, Design),
        ("temporal_convolution", options.temporal_convolution, TemporalConvolution),
        ("temporal_start", temporal_start, TemporalStart),
        ("fusion", options.fusion, Fusion),
        ("patches", patches, Patches),
        ("norm_position", options.norm_position, NormPosition),
        ("drop_path_rows", options.drop_path_rows, DropPathRows),
    ):
        require_choice(option, value, choices=get_args(choices))


def check_used(
    design: Design, *, options: BlockOptions, temporal_start: TemporalStart, temporal_depth: int
) -> None:
    """Refuse what was chosen and would change nothing, or that the design cannot have.

    Raises:
        ValueError: Naming the option and the designs that it is for.
    """
    if temporal_depth < 1:
        raise ValueError(f"temporal_depth must be at least 1, got {temporal_depth}")
    if temporal_depth != TEMPORAL_DEPTH and design != "factorized_encoder":
        raise ValueError(
            f"temporal_depth is for design 'factorized_encoder' alone: {design!r} has no temporal "
            f"encoder; got {temporal_depth}"
        )
    if options.fusion != "multiply" and design != "parallel":
        raise ValueError(
            f"fusion is for design 'parallel' alone: {design!r} never has two modulators to fuse; "
            f"got {options.fusion!r}"
        )
    if options.temporal_convolution != "dense" and design == "spatial":
        raise ValueError(
            "temporal_convolution is for designs other than 'spatial', which has no convolution "
            f"along time; got {options.temporal_convolution!r}"
        )
    multiplied = design == "parallel" and options.fusion == "multiply"
    if temporal_start == "identity" and not multiplied:
        raise ValueError(
            "temporal_start 'identity' needs design 'parallel' and fusion 'multiply', "
            f"got {design!r} and {options.fusion!r}"
        )


def check_frames(num_frames: int, *, tubelet_size: int, patches: Patches) -> None:
    """Refuse tubelets that do not cut a clip evenly, or that overlap.

    Raises:
        ValueError: Naming the option.
    """
    if tubelet_size < 1 or (tubelet_size > 1 and patches == "overlapping"):
        raise ValueError(
            f"tubelet_size must be at least 1, and 1 with patches 'overlapping', got {tubelet_size}"
        )
    if num_frames < 1 or num_frames % tubelet_size:
        raise ValueError(
            f"num_frames must be a positive multiple of tubelet_size {tubelet_size}, "
            f"got {num_frames}"
        )


def focal_kernels(
    depths: Sequence[int], *, levels: Sequence[int], windows: Sequence[int]
) -> list[tuple[int, ...]]:
    """Return the kernels of each stage: its window, and 2 more for each further level.

    Raises:
        ValueError: If the stages of the three differ in number, or one has no block or level,
            or an even window, which has no middle.
    """
    if not depths or not len(depths) == len(levels) == len(windows):
        raise ValueError(
            "depths, focal_levels and focal_windows must have one number for each stage, "
            f"got {tuple(depths)}, {tuple(levels)} and {tuple(windows)}"
        )
    if min(depths) < 1 or min(levels) < 1:
        raise ValueError(
            "depths and focal_levels must be at least 1 in every stage, "
            f"got {tuple(depths)} and {tuple(levels)}"
        )
    if any(window < 1 or window % 2 == 0 for window in windows):
        raise ValueError(f"focal_windows must be odd and positive, got {tuple(windows)}")
    return [
        tuple(window + 2 * level for level in range(count))
        for count, window in zip(levels, windows, strict=True)
    ]
