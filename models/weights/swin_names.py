"""Names of weights in checkpoints of Swin, image and video, and how their tables of positions fit.

Order of the four patches that are merged, and of queries, keys and values, is ours in all. Our
names are those of families that are made of Swin's stages and blocks.

Dimensions: w rows and columns of a window.
"""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gopstream.models.weights.source_layout import (
    IMAGE_HEAD,
    NO_IMAGE_HEAD,
    SourceLayout,
)

LEAF: Final = r"(weight|bias)"
FC: Final = (r"fc1", r"fc2")
POSITIONS: Final = (
    r".*\.attn\.relative_position_index(_old)?",
    "which pairs have which positions follows from sizes",
)
MASK: Final = (r".*\.attn_mask", "what is masked follows from sizes")
MERGING: Final = rf"downsample\.(norm|reduction)\.{LEAF}"

_USUAL_SIDES: Final = (13, 23, 15)
"""2 w - 1 of windows of 7 (all of PST and Video Swin), 12 and 8 (Swin at 384 and 256 pixels)."""


def fit_position_table(
    source: Tensor, wanted: torch.Size, *, side: int
) -> tuple[Tensor, str] | None:
    """Fit a table of positions to one of other windows, or of other differences of frames.

    The group of each difference of frames keeps its meaning: the outer ones are cut off, or
    repeated where the wanted table reaches further.

    Args:
        source: (frames * side * side, heads), frames and side odd.
        wanted: (rows, heads), of as many heads.
        side: As above.

    Returns:
        The table and what was done; None if it is of no such form.
    """
    new_side = side if wanted[0] % side**2 == 0 else find_side(wanted[0])
    frames, new_frames = source.shape[0] // side**2, wanted[0] // new_side**2
    if 0 in (frames % 2, new_frames % 2, side % 2, new_side % 2):
        return None
    done = []
    groups = source.reshape(frames, side, side, -1)
    if new_side != side:
        planes = interpolate(
            groups.permute(0, 3, 1, 2).float(), size=(new_side, new_side), mode="bicubic"
        )
        groups = planes.permute(0, 2, 3, 1).to(source.dtype)
        done.append(f"resized {side} x {side} -> {new_side} x {new_side} differences")
    if new_frames != frames:
        nearest = torch.arange(new_frames) - new_frames // 2 + frames // 2
        groups = groups[nearest.clamp(0, frames - 1).to(groups.device)]
        done.append(
            f"inflated 2D -> {new_frames} frame differences"
            if frames == 1
            else f"resized {frames} -> {new_frames} frame differences"
        )
    return groups.reshape(*wanted), ", ".join(sorted(done))


def fit_image_positions(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Fit a table of an image model, (side * side, heads), to a key that ends in position_table.

    Returns:
        As `fit_position_table` does; None for another key or number of heads.
    """
    side = math.isqrt(source.shape[0])
    if not key.endswith("position_table") or source.shape[1] != wanted[1]:
        return None
    return fit_position_table(source, wanted, side=side) if side**2 == source.shape[0] else None


def find_side(rows: int) -> int:
    """Return the side of the group of one frame difference."""
    fitting = [side for side in range(1, math.isqrt(rows) + 1, 2) if rows % side**2 == 0]
    return next((side for side in _USUAL_SIDES if side in fitting), fitting[-1])


def rename_blocks(source: str, stage: str, *, mlp: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the renames of a stage's blocks.

    Args:
        source: Regex of what precedes a block's number, with a group if `stage` has one.
        stage: Our stage.
        mlp: Names of the two linear layers.
    """
    number = 2 if "(" in source else 1
    block = rf"{source}\.(\d+)\."
    ours = rf"stages.{stage}.blocks.\{number}."
    leaf = rf"\{number + 1}"
    return (
        (rf"{block}norm1\.{LEAF}", rf"{ours}attention_norm.{leaf}"),
        (rf"{block}attn\.qkv\.{LEAF}", rf"{ours}attention.qkv.{leaf}"),
        (rf"{block}attn\.proj\.{LEAF}", rf"{ours}attention.projection.{leaf}"),
        (rf"{block}attn\.relative_position_bias_table", rf"{ours}attention.position_table"),
        (rf"{block}norm2\.{LEAF}", rf"{ours}mlp_norm.{leaf}"),
        (rf"{block}mlp\.{mlp[0]}\.{LEAF}", rf"{ours}mlp.0.{leaf}"),
        (rf"{block}mlp\.{mlp[1]}\.{LEAF}", rf"{ours}mlp.2.{leaf}"),
    )


def rename_ends(prefix: str) -> tuple[tuple[str, str], ...]:
    """Return the renames of what precedes and follows the stages."""
    return (
        (rf"{prefix}patch_embed\.proj\.{LEAF}", r"patch_embedding.projection.\1"),
        (rf"{prefix}patch_embed\.norm\.{LEAF}", r"patch_embedding.norm.\1"),
        (rf"{prefix}norm\.{LEAF}", r"norm.\1"),
    )


MICROSOFT: Final = SourceLayout(
    name="Microsoft Swin",
    marks=(r"patch_embed\.proj\.weight", r"layers\.0\.downsample\.reduction\.weight"),
    renames=(
        *rename_ends(""),
        *rename_blocks(r"layers\.(\d+)\.blocks", r"\1", mlp=FC),
        (rf"layers\.(\d+)\.{MERGING}", r"stages.\1.merging.\2.\3"),
    ),
    ignored=(POSITIONS, MASK, IMAGE_HEAD),
    left_random=(NO_IMAGE_HEAD,),
)

# The same names but for the merging, which begins the next stage.
TIMM: Final = SourceLayout(
    name="timm Swin",
    marks=(r"patch_embed\.proj\.weight", r"layers\.1\.downsample\.reduction\.weight"),
    renames=(
        *rename_ends(""),
        *rename_blocks(r"layers\.(\d+)\.blocks", r"\1", mlp=FC),
        *(
            (rf"layers\.{stage + 1}\.{MERGING}", rf"stages.{stage}.merging.\1.\2")
            for stage in range(3)
        ),
    ),
    ignored=(POSITIONS, MASK, IMAGE_HEAD),
    left_random=(NO_IMAGE_HEAD,),
)

TORCHVISION: Final = SourceLayout(
    name="torchvision Swin",
    marks=(r"features\.0\.0\.weight", r"features\.1\.0\.attn\.relative_position_bias_table"),
    renames=(
        (rf"features\.0\.0\.{LEAF}", r"patch_embedding.projection.\1"),
        (rf"features\.0\.2\.{LEAF}", r"patch_embedding.norm.\1"),
        (rf"norm\.{LEAF}", r"norm.\1"),
        *(
            rename
            for stage in range(4)
            for rename in rename_blocks(rf"features\.{2 * stage + 1}", str(stage), mlp=("0", "3"))
        ),
        *(
            (
                rf"features\.{2 * stage + 2}\.(norm|reduction)\.{LEAF}",
                rf"stages.{stage}.merging.\1.\2",
            )
            for stage in range(3)
        ),
    ),
    ignored=(POSITIONS, IMAGE_HEAD),
    left_random=(NO_IMAGE_HEAD,),
)
