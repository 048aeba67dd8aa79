"""What the weights of others call the parts of SIFA-Net.

The authors published code and no weights; their names are those that their code would save.
Its convolutions have an axis of time, of length 1 but in the stem. torchvision's ResNets fill the
spatial path. In the stem they are the kernel of one frame of a group and the others are zero, as
in the authors' code, so that until it is trained the network sees only that frame.
"""

from typing import Final

import torch
from torch import Tensor, nn

from gopstream.models.sifa.motion_block import InterFrameAttention
from gopstream.models.weights.source_layout import IMAGE_HEAD, NO_IMAGE_HEAD, SourceLayout

# Ours are numbered from 0, theirs from 1; the second res5 has a name of its own.
_STAGES: Final = {
    "layer1": "stages.0",
    "layer2": "stages.1",
    "layer3": "stages.2",
    "layer4": "stages.3",
    "layer4_dual": "dual_stage",
}
_NORM: Final = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


def _stem(*, depth: int) -> tuple[tuple[str, str], ...]:
    return tuple(
        rename
        for index in range(depth)
        for rename in (
            (rf"conv{index + 1}\.weight", f"stem.convolutions.{index}.weight"),
            (rf"bn{index + 1}\.{_NORM}", rf"stem.norms.{index}.\1"),
        )
    )


def _stage(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    block, our_block = rf"{theirs}\.(\d+)", rf"{ours}.blocks.\1"
    parts = ("reduce", "convolve", "expand")
    rules = []
    for number, part in enumerate(parts, start=1):
        rules.append((rf"{block}\.conv{number}\.weight", rf"{our_block}.{part}.weight"))
        rules.append((rf"{block}\.bn{number}\.{_NORM}", rf"{our_block}.{part}_norm.\2"))
    return (
        *rules,
        (rf"{block}\.downsample\.0\.weight", rf"{our_block}.shortcut.0.weight"),
        (rf"{block}\.downsample\.1\.{_NORM}", rf"{our_block}.shortcut.1.\2"),
        (rf"{block}\.fc1\.(weight|bias)", rf"{our_block}.context.squeeze.\2"),
        (rf"{block}\.fc2\.(weight|bias)", rf"{our_block}.context.excite.\2"),
        (
            rf"{block}\.conv_offset\.weight",
            rf"{our_block}.motion.offsets.convolution.weight",
        ),
    )


_STAGE_RULES: Final = tuple(
    rule for theirs, ours in _STAGES.items() for rule in _stage(theirs, ours)
)
_HEADS: Final = (
    (r"fc\.(weight|bias)", r"head.\1"),
    (r"fc_dual\.(weight|bias)", r"dual_head.\1"),
)
_AUTHORS_MARKS: Final = (r"layer2\.1\.conv_offset\.weight", r"layer4_dual\.0\.conv1\.weight")
_HEAD_ROWS: Final = r"(dual_)?head\.(weight|bias)"

_COUNTERS: Final = (
    r".*\.num_batches_tracked",
    "files of old versions of PyTorch do not count the batches; nothing reads it here",
)
_NOT_OF_IMAGES: Final = "an image model has no attention between frames"


def drop_time(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Take the axis of time, of length 1, from a kernel of the authors' code.

    Args:
        key: Of ours.
        source: (outputs, inputs, 1, height, width).
        wanted: (outputs, inputs, height, width).

    Returns:
        The tensor and what was done; None for any other shape.
    """
    if source.ndim != 5 or source.shape[2] != 1 or source.squeeze(2).shape != wanted:
        return None
    return source.squeeze(2), "resized 1 x height x width -> height x width"


def inflate_stem(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Put the first kernel of an image model at one frame of each group; the others are zero.

    Args:
        key: Of ours.
        source: (C, 3, height, width) for ``stem.convolutions.0.weight``.
        wanted: (C, 3, frames, height, width).

    Returns:
        The tensor and what was done; None for any other key or shape.
    """
    if key != "stem.convolutions.0.weight":
        return None
    return place_in_middle(source, wanted)


def place_in_middle(source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Make the kernel of an image that of one frame of a group; the others are zero.

    Args:
        source: (C, 3, height, width).
        wanted: (C, 3, frames, height, width).

    Returns:
        The tensor and what was done; None for any other shape.
    """
    if len(wanted) != 5 or source.shape != wanted[:2] + wanted[3:]:
        return None
    frames = wanted[2]
    tap = frames // 2
    inflated = source.new_zeros(wanted)
    inflated[:, :, tap] = source
    return inflated, f"inflated 2D -> frame {tap} of {frames}"


def caution_of_attention(model: nn.Module) -> str | None:
    """Say so if a model attends otherwise than the network of the authors' code, with its keys."""
    theirs = {
        "offset_source": "motion",
        "saliency_residual": True,
        "last": "zero",
        "scale": "mean",
        "dilation": 1,
    }
    found = {
        f"{option}={getattr(module.options, option)!r} (theirs is {value!r})"
        for module in model.modules()
        if isinstance(module, InterFrameAttention)
        for option, value in theirs.items()
        if getattr(module.options, option) != value
    }
    if not found:
        return None
    return (
        "the authors' network attends otherwise than this one with "
        f"{', '.join(sorted(found))}: the weights fit, but features differ until it is trained "
        "further"
    )


def caution_of_unscaled_sums(model: nn.Module) -> str | None:
    """Say so if attention grows with the third power of features that an image model has made."""
    motions = [module for module in model.modules() if isinstance(module, InterFrameAttention)]
    if all(module.options.scale == "mean" for module in motions):
        return None
    return (
        "attention adds sums of products that nothing scales, as the paper has them, to features "
        "of an image model, and drowns them; scale='mean' is the authors'"
    )


LAYOUTS: Final = (
    SourceLayout(
        name="authors of SIFA-Net",
        marks=_AUTHORS_MARKS,
        renames=_stem(depth=3) + _STAGE_RULES + _HEADS,
        ignored=(
            (
                r".*\.def_cor\.weight",
                "a constant of the authors' code, 1 / channels for every tap, which the scale is",
            ),
        ),
        where_wanted=tuple(
            (
                rf"{theirs}\.(\d+)\.def_cor\.weight",
                rf"{ours}.blocks.\1.motion.tap_weights",
            )
            for theirs, ours in _STAGES.items()
        ),
        left_random=(_COUNTERS,),
        adapt=drop_time,
        head=_HEAD_ROWS,
        caution=caution_of_attention,
    ),
    SourceLayout(
        name="torchvision ResNet (ImageNet)",
        marks=(r"conv1\.weight", r"layer4\.0\.conv3\.weight", r"fc\.weight"),
        renames=_stem(depth=1) + _STAGE_RULES,
        # As in the authors' code, both branches start from the same weights.
        where_wanted=_stage("layer4", "dual_stage"),
        ignored=((r"fc\.(weight|bias)", IMAGE_HEAD[1]),),
        left_random=(
            _COUNTERS,
            NO_IMAGE_HEAD,
            (r".*\.motion\..*", _NOT_OF_IMAGES),
            (r".*\.context\..*", "an image model has no global context in its blocks"),
            (r"dual_head\..*", "an image model has no second head"),
        ),
        adapt=inflate_stem,
        head=_HEAD_ROWS,
        caution=caution_of_unscaled_sums,
    ),
)
