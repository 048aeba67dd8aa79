"""What the weights of others call the parts of SIFA-Transformer.

The authors published code and no weights; their names are those that their code would save. Each
block of theirs has the parts of both kinds of blocks and uses one. Swin's image models fill the
spatial path: the kernel of a patch is that of one frame of a group and the others are zero, as in
the authors' code, so that until it is trained the network sees only that frame.
"""

from typing import Final

import torch
from torch import Tensor, nn

from gopstream.models.sifa.source_keys import caution_of_unscaled_sums, place_in_middle
from gopstream.models.sifa.swin import SifaTransformer
from gopstream.models.weights.source_layout import SourceLayout
from gopstream.models.weights.swin_names import (
    FC,
    LEAF,
    MASK,
    MERGING,
    MICROSOFT,
    POSITIONS,
    TIMM,
    TORCHVISION,
    fit_image_positions,
    rename_blocks,
    rename_ends,
)

_BLOCK: Final = r"layers\.(\d+)\.blocks\.(\d+)"
_OUR_BLOCK: Final = r"stages.\1.blocks.\2"

_NOT_OF_IMAGES: Final = "an image model has nothing between frames"
_PATCH_NORM: Final = rf"(patch_embed\.norm|features\.0\.2)\.{LEAF}"
_NO_PATCH_NORM: Final = (
    "this model does not normalise fresh tokens; nor do the authors, with the same weights"
)


def adapt_authors(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Take the axis of length 1 from a kernel along time of the authors' code.

    Args:
        key: Of ours.
        source: (C, C, 1, kernel) for a ``convolution.weight``.
        wanted: (C, C, kernel).

    Returns:
        The tensor and what was done; None for any other key or shape.
    """
    if not key.endswith("convolution.weight") or source.ndim != 4:
        return None
    if source.squeeze(2).shape != wanted:
        return None
    return source.squeeze(2), "resized 1 x frames -> frames"


def adapt_image(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Put the kernel of an image's patches at one frame of each group, and fit positions.

    Args:
        key: Of ours.
        source: (C, 3, height, width) for the kernel.
        wanted: (C, 3, frames, height, width) for the kernel.

    Returns:
        The tensor and what was done; None for any other key or shape.
    """
    if key == "patch_embedding.projection.weight":
        return place_in_middle(source, wanted)
    return fit_image_positions(key, source, wanted)


def caution_of_blocks(model: nn.Module) -> str | None:
    """Say so if a model's blocks are others than the authors', whose weights they can hold."""
    assert isinstance(model, SifaTransformer)
    blocks, motion = model.options, model.options.motion
    theirs: dict[str, object] = {"placement": "undisplaced", "temporal_convolution": True}
    ours = {option: getattr(blocks, option) for option in theirs}
    if motion is None:
        theirs["variant"], ours["variant"] = "regular", "none"
    else:
        of_blocks = {"motion_input": "tokens", "motion_norm": True}
        of_motion = {"region": 3, "dilation": 1, "last": "zero", "scale": "mean"}
        theirs |= of_blocks | of_motion
        ours |= {option: getattr(blocks, option) for option in of_blocks}
        ours |= {option: getattr(motion, option) for option in of_motion}
    others = [
        f"{option}={ours[option]!r} (theirs is {value!r})"
        for option, value in sorted(theirs.items())
        if ours[option] != value
    ]
    if not others:
        return None
    return (
        f"the authors' network has other blocks than this one with {', '.join(others)}: the "
        "weights fit, but features differ until it is trained further"
    )


_AUTHORS: Final = SourceLayout(
    name="authors of SIFA-Transformer",
    marks=(r"layers\.0\.blocks\.0\.tda_norm\.weight",),
    renames=(
        *rename_ends(""),
        *rename_blocks(r"layers\.(\d+)\.blocks", r"\1", mlp=FC),
        (rf"layers\.(\d+)\.{MERGING}", r"stages.\1.merging.\2.\3"),
        (rf"fc\.{LEAF}", r"head.\1"),
    ),
    ignored=(
        POSITIONS,
        MASK,
        (
            r".*\.def_cor\.weight",
            "a constant of the authors' code, 1 / channels for every tap, which the scale is",
        ),
        (r".*\.conv\.weight", "this block attends between frames and does not convolve"),
        (r".*\.tda_norm\.(weight|bias)", "nothing in this block has such a norm"),
    ),
    where_wanted=(
        (rf"{_BLOCK}\.def_cor\.weight", rf"{_OUR_BLOCK}.motion.tap_weights"),
        (rf"{_BLOCK}\.conv\.weight", rf"{_OUR_BLOCK}.convolution.weight"),
        (rf"{_BLOCK}\.tda_norm\.{LEAF}", rf"{_OUR_BLOCK}.motion_norm.\3"),
    ),
    adapt=adapt_authors,
    caution=caution_of_blocks,
)


def _of_images(layout: SourceLayout) -> SourceLayout:
    """Return a layout of Swin for networks between whose frames there is something."""
    return layout._replace(
        ignored=(*layout.ignored, (_PATCH_NORM, _NO_PATCH_NORM)),
        where_wanted=((_PATCH_NORM, r"patch_embedding.norm.\2"),),
        left_random=(
            *layout.left_random,
            (r".*\.(motion|motion_norm|convolution)\..*", _NOT_OF_IMAGES),
        ),
        adapt=adapt_image,
        caution=_caution_of_sums,
    )


def _caution_of_sums(model: nn.Module) -> str | None:
    assert isinstance(model, SifaTransformer)
    return None if model.options.motion_norm else caution_of_unscaled_sums(model)


LAYOUTS: Final = (_AUTHORS, *(_of_images(layout) for layout in (MICROSOFT, TIMM, TORCHVISION)))
