"""Names of weights in checkpoints of PST, Video Swin and Swin, and ours.

The tables of positions are kept by frame difference, with all pairs of one frame together, in
every source; in image checkpoints there is one such group, which all differences then share.
Order of the four patches that are merged, and of queries, keys and values, is ours in all.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gopstream.models.pst.window_attention import WindowAttention
from gopstream.models.weights.source_layout import (
    IMAGE_HEAD,
    NO_IMAGE_HEAD,
    SourceLayout,
)

_LEAF: Final = r"(weight|bias)"

_USUAL_SIDES: Final = (13, 23, 15)
"""2 w - 1 of windows of 7 (all of PST and Video Swin), 12 and 8 (Swin at 384 and 256 pixels)."""


def adapt_video(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Fit a table of positions in time and space to another one.

    The group of each frame difference keeps its meaning: the outer ones are cut off, or repeated
    where the wanted table reaches further.
    """
    if not key.endswith("position_table") or source.shape[1] != wanted[1]:
        return None
    return _fit_table(source, wanted, side=_find_side(source.shape[0]))


def adapt_image(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Inflate weights of an image model, so that a clip that stands still gives the same.

    Patches of several frames share the kernel; all frame differences share the positions.
    """
    if key == "patch_embedding.projection.weight" and source.dim() == 4:
        frames = wanted[2]
        if source.shape != wanted[:2] + wanted[3:]:
            return None
        kernel = source.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
        return kernel, f"inflated 2D -> {frames} frames"
    if key.endswith("position_table") and source.shape[1] == wanted[1]:
        side = math.isqrt(source.shape[0])
        return _fit_table(source, wanted, side=side) if side**2 == source.shape[0] else None
    return None


def caution_of_rule(model: nn.Module) -> str | None:
    """Say so if a model counts positions otherwise than the one that the authors trained."""
    rules = {
        module.windows.positions.rule
        for module in model.modules()
        if isinstance(module, WindowAttention)
    }
    if rules <= {"official"}:
        return None
    return (
        "the authors trained with rpe='official', this model has rpe='paper': the position tables "
        "fit, but are read otherwise, so that features differ until it is trained further"
    )


def _fit_table(source: Tensor, wanted: torch.Size, *, side: int) -> tuple[Tensor, str] | None:
    """Fit (frames * side * side, heads), frames and side odd, to (rows, heads)."""
    new_side = side if wanted[0] % side**2 == 0 else _find_side(wanted[0])
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


def _find_side(rows: int) -> int:
    """Return the side of the group of one frame difference."""
    fitting = [side for side in range(1, math.isqrt(rows) + 1, 2) if rows % side**2 == 0]
    return next((side for side in _USUAL_SIDES if side in fitting), fitting[-1])


def _blocks(source: str, stage: str, *, mlp: tuple[str, str]) -> tuple[tuple[str, str], ...]:
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
        (rf"{block}norm1\.{_LEAF}", rf"{ours}attention_norm.{leaf}"),
        (rf"{block}attn\.qkv\.{_LEAF}", rf"{ours}attention.qkv.{leaf}"),
        (rf"{block}attn\.proj\.{_LEAF}", rf"{ours}attention.projection.{leaf}"),
        (rf"{block}attn\.relative_position_bias_table", rf"{ours}attention.position_table"),
        (rf"{block}norm2\.{_LEAF}", rf"{ours}mlp_norm.{leaf}"),
        (rf"{block}mlp\.{mlp[0]}\.{_LEAF}", rf"{ours}mlp.0.{leaf}"),
        (rf"{block}mlp\.{mlp[1]}\.{_LEAF}", rf"{ours}mlp.2.{leaf}"),
    )


def _ends(prefix: str) -> tuple[tuple[str, str], ...]:
    """Return the renames of what precedes and follows the stages."""
    return (
        (rf"{prefix}patch_embed\.proj\.{_LEAF}", r"patch_embedding.projection.\1"),
        (rf"{prefix}patch_embed\.norm\.{_LEAF}", r"patch_embedding.norm.\1"),
        (rf"{prefix}norm\.{_LEAF}", r"norm.\1"),
    )


_FC: Final = (r"fc1", r"fc2")
_POSITIONS: Final = (
    r".*\.attn\.relative_position_index(_old)?",
    "which pairs have which positions follows from sizes",
)
_MASK: Final = (r".*\.attn_mask", "what is masked follows from sizes")
_MERGING: Final = rf"downsample\.(norm|reduction)\.{_LEAF}"

_VIDEO: Final = SourceLayout(
    name="authors of PST",
    marks=(r"backbone\.layers\.0\.blocks\.0\.attn\.relative_position_bias_table",),
    renames=(
        *_ends(r"backbone\."),
        *_blocks(r"backbone\.layers\.(\d+)\.blocks", r"\1", mlp=_FC),
        (rf"backbone\.layers\.(\d+)\.{_MERGING}", r"stages.\1.merging.\2.\3"),
        (rf"cls_head\.fc_cls\.{_LEAF}", r"head.\1"),
    ),
    ignored=(_POSITIONS,),
    adapt=adapt_video,
)

_MICROSOFT: Final = SourceLayout(
    name="Microsoft Swin",
    marks=(r"patch_embed\.proj\.weight", r"layers\.0\.downsample\.reduction\.weight"),
    renames=(
        *_ends(""),
        *_blocks(r"layers\.(\d+)\.blocks", r"\1", mlp=_FC),
        (rf"layers\.(\d+)\.{_MERGING}", r"stages.\1.merging.\2.\3"),
    ),
    ignored=(_POSITIONS, _MASK, IMAGE_HEAD),
    left_random=(NO_IMAGE_HEAD,),
    adapt=adapt_image,
)

# The same names but for the merging, which begins the next stage.
_TIMM: Final = SourceLayout(
    name="timm Swin",
    marks=(r"patch_embed\.proj\.weight", r"layers\.1\.downsample\.reduction\.weight"),
    renames=(
        *_ends(""),
        *_blocks(r"layers\.(\d+)\.blocks", r"\1", mlp=_FC),
        *(
            (rf"layers\.{stage + 1}\.{_MERGING}", rf"stages.{stage}.merging.\1.\2")
            for stage in range(3)
        ),
    ),
    ignored=(_POSITIONS, _MASK, IMAGE_HEAD),
    left_random=(NO_IMAGE_HEAD,),
    adapt=adapt_image,
)

_TORCHVISION_2D: Final = SourceLayout(
    name="torchvision Swin",
    marks=(r"features\.0\.0\.weight", r"features\.1\.0\.attn\.relative_position_bias_table"),
    renames=(
        (rf"features\.0\.0\.{_LEAF}", r"patch_embedding.projection.\1"),
        (rf"features\.0\.2\.{_LEAF}", r"patch_embedding.norm.\1"),
        (rf"norm\.{_LEAF}", r"norm.\1"),
        *(
            rename
            for stage in range(4)
            for rename in _blocks(rf"features\.{2 * stage + 1}", str(stage), mlp=("0", "3"))
        ),
        *(
            (
                rf"features\.{2 * stage + 2}\.(norm|reduction)\.{_LEAF}",
                rf"stages.{stage}.merging.\1.\2",
            )
            for stage in range(3)
        ),
    ),
    ignored=(_POSITIONS, IMAGE_HEAD),
    left_random=(NO_IMAGE_HEAD,),
    adapt=adapt_image,
)

_TORCHVISION_3D: Final = SourceLayout(
    name="torchvision Video Swin",
    marks=(r"patch_embed\.proj\.weight", r"features\.0\.0\.attn\.relative_position_bias_table"),
    renames=(
        *_ends(""),
        *(
            rename
            for stage in range(4)
            for rename in _blocks(rf"features\.{2 * stage}", str(stage), mlp=("0", "3"))
        ),
        *(
            (
                rf"features\.{2 * stage + 1}\.(norm|reduction)\.{_LEAF}",
                rf"stages.{stage}.merging.\1.\2",
            )
            for stage in range(3)
        ),
        (rf"head\.{_LEAF}", r"head.\1"),
    ),
    ignored=(_POSITIONS,),
    adapt=adapt_video,
)

LAYOUTS: Final = (
    # PST has a second set of indices. A file without any is named after PST: the weights of
    # both have the same names.
    _VIDEO._replace(
        marks=(r"backbone\..*\.attn\.relative_position_index_old",), caution=caution_of_rule
    ),
    _VIDEO._replace(
        name="authors of Video Swin", marks=(r"backbone\..*\.attn\.relative_position_index",)
    ),
    _VIDEO,
    _MICROSOFT,
    _TIMM,
    _TORCHVISION_2D,
    _TORCHVISION_3D,
)
