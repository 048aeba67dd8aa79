"""Names of weights in checkpoints of MViT, and ours, which are torchvision's but for the head.

PySlowFast's are those of its first version of MViT with separate positions of place and time
(configs/Kinetics/MVIT_B_16x4_CONV.yaml). Queries, keys and values are one matrix or three.
"""

import math
from typing import Final

import torch
from torch import Tensor

from gopstream.models.weights.inflation import fit_places, fit_times, inflate_kernel
from gopstream.models.weights.source_layout import Merge, SourceLayout

_LEAF: Final = r"(weight|bias)"
_BLOCK: Final = r"blocks\.(\d+)\."


def adapt_positions(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Fit positions of another picture size or clip length, and patches of images."""
    if key == "conv_proj.weight":
        return inflate_kernel(source, wanted)
    if key == "pos_encoding.spatial_pos":
        return fit_places(source, wanted, side=math.isqrt(wanted[0]))
    if key == "pos_encoding.temporal_pos":
        return fit_times(source, wanted, times=wanted[0])
    if key in ("pos_encoding.class_token", "pos_encoding.class_pos"):
        same = source.numel() == wanted.numel()
        return (source.reshape(wanted), "resized in form alone") if same else None
    return None


LAYOUTS: Final = (
    SourceLayout(
        name="torchvision mvit_v1_b",
        marks=(r"conv_proj\.weight", r"pos_encoding\.spatial_pos"),
        renames=((rf"head\.1\.{_LEAF}", r"head.\1"), (r"(.*)", r"\1")),
        adapt=adapt_positions,
    ),
    SourceLayout(
        name="PySlowFast MViT",
        marks=(r"pos_embed_spatial", r"blocks\.0\.attn\.pool_k\.weight"),
        renames=(
            (rf"patch_embed\.proj\.{_LEAF}", r"conv_proj.\1"),
            (r"cls_token", "pos_encoding.class_token"),
            (r"pos_embed_spatial", "pos_encoding.spatial_pos"),
            (r"pos_embed_temporal", "pos_encoding.temporal_pos"),
            (r"pos_embed_class", "pos_encoding.class_pos"),
            (rf"{_BLOCK}norm([12])\.{_LEAF}", r"blocks.\1.norm\2.\3"),
            (rf"{_BLOCK}attn\.qkv\.{_LEAF}", r"blocks.\1.attn.qkv.\2"),
            (rf"{_BLOCK}attn\.proj\.{_LEAF}", r"blocks.\1.attn.project.0.\2"),
            (rf"{_BLOCK}attn\.pool_([qkv])\.weight", r"blocks.\1.attn.pool_\2.pool.weight"),
            (rf"{_BLOCK}attn\.norm_([qkv])\.{_LEAF}", r"blocks.\1.attn.pool_\2.norm_act.0.\3"),
            (rf"{_BLOCK}mlp\.fc1\.{_LEAF}", r"blocks.\1.mlp.0.\2"),
            (rf"{_BLOCK}mlp\.fc2\.{_LEAF}", r"blocks.\1.mlp.3.\2"),
            (rf"{_BLOCK}proj\.{_LEAF}", r"blocks.\1.project.\2"),
            (rf"norm\.{_LEAF}", r"norm.\1"),
            (rf"head\.projection\.{_LEAF}", r"head.\1"),
        ),
        merges=(
            Merge(
                parts=tuple(rf"{_BLOCK}attn\.{name}\.{_LEAF}" for name in "qkv"),
                target=r"blocks.\1.attn.qkv.\2",
            ),
        ),
        adapt=adapt_positions,
    ),
)
