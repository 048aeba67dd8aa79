"""Names of weights in checkpoints of DeiT, and ours.

The authors' files (facebookresearch/deit) and timm's have the same names. Only the plain models
fit: distilled ones have a second token and a second head, which strict loading refuses.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gopstream.models.weights.source_layout import (
    IMAGE_HEAD,
    NO_IMAGE_HEAD,
    SourceLayout,
)

_BLOCK = r"blocks\.(\d+)\."
_LEAF = r"(weight|bias)"


def adapt_positions(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Give positions of an image model, (1, N, D), or of one of clips the grid and frames wanted.

    The grid is resized bicubically, without its class token, as DeiT's authors do; the result is
    repeated for every frame, or that of several frames resized linearly.
    """
    if key != "positions" or source.dim() != 3 or source.shape[2] != wanted[2]:
        return None
    done = []
    if source.shape[1] != wanted[1]:
        old, new = math.isqrt(source.shape[1] - 1), math.isqrt(wanted[1] - 1)
        if old**2 + 1 != source.shape[1]:
            return None
        grid = source[:, 1:].reshape(len(source), old, old, -1).permute(0, 3, 1, 2).float()
        grid = interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
        patches = grid.flatten(2).transpose(1, 2).to(source.dtype)
        source = torch.cat([source[:, :1], patches], dim=1)
        done.append(f"resized {old} x {old} -> {new} x {new} patches")
    frames = len(source)
    if frames == 1 != wanted[0]:
        source = source.repeat(wanted[0], 1, 1)
        done.append(f"inflated 2D -> {wanted[0]} frames")
    elif frames != wanted[0]:
        series = source.permute(1, 2, 0).float()
        series = interpolate(series, size=wanted[0], mode="linear", align_corners=False)
        source = series.permute(2, 0, 1).to(source.dtype)
        done.append(f"resized {frames} -> {wanted[0]} frames")
    return source, ", ".join(sorted(done))


LAYOUTS = (
    SourceLayout(
        name="authors of DeiT, timm",
        marks=(r"cls_token", r"pos_embed", r"blocks\.0\.attn\.qkv\.weight"),
        renames=(
            (r"cls_token", "class_token"),
            (r"pos_embed", "positions"),
            (rf"patch_embed\.proj\.{_LEAF}", r"patch_embedding.\1"),
            (rf"{_BLOCK}norm1\.{_LEAF}", r"blocks.\1.attention_norm.\2"),
            (rf"{_BLOCK}attn\.qkv\.{_LEAF}", r"blocks.\1.attention.qkv.\2"),
            (rf"{_BLOCK}attn\.proj\.{_LEAF}", r"blocks.\1.attention.projection.\2"),
            (rf"{_BLOCK}norm2\.{_LEAF}", r"blocks.\1.mlp_norm.\2"),
            (rf"{_BLOCK}mlp\.fc1\.{_LEAF}", r"blocks.\1.mlp.0.\2"),
            (rf"{_BLOCK}mlp\.fc2\.{_LEAF}", r"blocks.\1.mlp.2.\2"),
            (rf"norm\.{_LEAF}", r"norm.\1"),
        ),
        ignored=(IMAGE_HEAD,),
        left_random=(NO_IMAGE_HEAD,),
        adapt=adapt_positions,
    ),
)
