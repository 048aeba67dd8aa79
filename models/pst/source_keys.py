"""Names of weights in checkpoints of PST, Video Swin and Swin, and ours.

The tables of positions are kept by frame difference, with all pairs of one frame together, in
every source; in image checkpoints there is one such group, which all differences then share.
Order of the four patches that are merged, and of queries, keys and values, is ours in all.
"""

from typing import Final

import torch
from torch import Tensor, nn

from gopstream.models.layers.windows.window_attention import WindowAttention
from gopstream.models.weights.source_layout import SourceLayout
from gopstream.models.weights.swin_names import (
    FC,
    LEAF,
    MERGING,
    MICROSOFT,
    POSITIONS,
    TIMM,
    TORCHVISION,
    find_side,
    fit_image_positions,
    fit_position_table,
    rename_blocks,
    rename_ends,
)


def adapt_video(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Fit a table of positions in time and space to another one.

    The group of each frame difference keeps its meaning: the outer ones are cut off, or repeated
    where the wanted table reaches further.
    """
    if not key.endswith("position_table") or source.shape[1] != wanted[1]:
        return None
    return fit_position_table(source, wanted, side=find_side(source.shape[0]))


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
    return fit_image_positions(key, source, wanted)


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


_VIDEO: Final = SourceLayout(
    name="authors of PST",
    marks=(r"backbone\.layers\.0\.blocks\.0\.attn\.relative_position_bias_table",),
    renames=(
        *rename_ends(r"backbone\."),
        *rename_blocks(r"backbone\.layers\.(\d+)\.blocks", r"\1", mlp=FC),
        (rf"backbone\.layers\.(\d+)\.{MERGING}", r"stages.\1.merging.\2.\3"),
        (rf"cls_head\.fc_cls\.{LEAF}", r"head.\1"),
    ),
    ignored=(POSITIONS,),
    adapt=adapt_video,
)

_TORCHVISION_3D: Final = SourceLayout(
    name="torchvision Video Swin",
    marks=(r"patch_embed\.proj\.weight", r"features\.0\.0\.attn\.relative_position_bias_table"),
    renames=(
        *rename_ends(""),
        *(
            rename
            for stage in range(4)
            for rename in rename_blocks(rf"features\.{2 * stage}", str(stage), mlp=("0", "3"))
        ),
        *(
            (
                rf"features\.{2 * stage + 1}\.(norm|reduction)\.{LEAF}",
                rf"stages.{stage}.merging.\1.\2",
            )
            for stage in range(3)
        ),
        (rf"head\.{LEAF}", r"head.\1"),
    ),
    ignored=(POSITIONS,),
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
    *(layout._replace(adapt=adapt_image) for layout in (MICROSOFT, TIMM, TORCHVISION)),
    _TORCHVISION_3D,
)
