"""Names of weights in checkpoints of ViT and MViT, and ours in a DVT of their geometry.

Deformable attention has queries and values of its own kind and no keys. Both attentions of
"both" start from the same weights. No code of DVT was published, so there are no weights of its
authors.
"""

import math
from typing import Final

import torch
from torch import Tensor

from gopstream.models.weights.inflation import fit_places, fit_times, inflate_kernel
from gopstream.models.weights.source_layout import (
    IMAGE_HEAD,
    NO_IMAGE_HEAD,
    SourceLayout,
    Split,
)

_LEAF: Final = r"(weight|bias)"
_BLOCK: Final = r"blocks\.(\d+)\."

_NO_KEYS: Final = "keys have no place in deformable attention, queries with 'query_value' alone"
_NO_OUTPUT: Final = "output projections have a place with projections='value_output' alone"
_NOT_POOLED: Final = "keys and values are not pooled in deformable attention"
_NO_CLASS_TOKEN: Final = "DVT has no class token"

_LEFT_RANDOM: Final = (
    (r"blocks\.\d+\.\w+\.sampling\..*", "no other attention predicts points"),
    (r"blocks\.\d+\.\w+\.coarse_scale\..*", "no other attention has a coarse map of all channels"),
    (r"blocks\.\d+\.fusion\..*", "no other block joins two attentions"),
    (r"motion_tokenizers\..*", "no other model is given motion"),
)


def adapt_to_clips(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Fit positions of another picture size or clip length, and patches of images."""
    if key == "patch_embedding.projection.weight":
        return inflate_kernel(source, wanted)
    if key == "patch_embedding.space":
        return fit_places(source, wanted, side=math.isqrt(wanted.numel() // wanted[-1]))
    if key == "patch_embedding.time":
        return fit_times(source, wanted, times=wanted[1])
    return None


def _ours(part: str, leaf: str) -> tuple[str, ...]:
    """Return our keys of a part that each attention has, for the block of the first group."""
    kinds = ("attention", "multi_scale_attention")
    return tuple(rf"blocks.\1.{kind}.{part}.{leaf}" for kind in kinds)


def _attention(projection: str) -> tuple[Split, ...]:
    """Return where queries, keys and values go, from one matrix or three, and the projection."""
    query, value = _ours("query", r"\2"), _ours("value", r"\2")
    return (
        Split(rf"{_BLOCK}attn\.qkv\.{_LEAF}", (query, (), value), otherwise=_NO_KEYS),
        Split(rf"{_BLOCK}attn\.q\.{_LEAF}", (query,), otherwise=_NO_KEYS),
        Split(rf"{_BLOCK}attn\.k\.{_LEAF}", ((),), otherwise=_NO_KEYS),
        Split(rf"{_BLOCK}attn\.v\.{_LEAF}", (value,), otherwise=_NO_KEYS),
        Split(
            rf"{_BLOCK}attn\.{projection}\.{_LEAF}",
            (_ours("output", r"\2"),),
            otherwise=_NO_OUTPUT,
        ),
    )


def _pooling(convolution: str, *, norm: str) -> tuple[Split, ...]:
    """Return where the pooling of queries goes."""
    return (
        Split(
            rf"{_BLOCK}attn\.{convolution}\.weight",
            (_ours("pooling.convolution", "weight"),),
            otherwise=_NOT_POOLED,
        ),
        Split(
            rf"{_BLOCK}attn\.{norm}\.{_LEAF}",
            (_ours("pooling.norm", r"\2"),),
            otherwise=_NOT_POOLED,
        ),
    )


def _rest(mlp: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the renames of norms and MLPs, which all sources name alike but for the MLP."""
    return (
        (rf"{_BLOCK}norm1\.{_LEAF}", r"blocks.\1.attention_norm.\2"),
        (rf"{_BLOCK}norm2\.{_LEAF}", r"blocks.\1.mlp_norm.\2"),
        (rf"{_BLOCK}mlp\.{mlp[0]}\.{_LEAF}", r"blocks.\1.mlp.0.\2"),
        (rf"{_BLOCK}mlp\.{mlp[1]}\.{_LEAF}", r"blocks.\1.mlp.2.\2"),
        (rf"norm\.{_LEAF}", r"head_norm.\1"),
    )


_TORCHVISION: Final = SourceLayout(
    name="torchvision mvit_v1_b",
    marks=(r"conv_proj\.weight", r"pos_encoding\.spatial_pos"),
    renames=(
        (rf"conv_proj\.{_LEAF}", r"patch_embedding.projection.\1"),
        (r"pos_encoding\.spatial_pos", "patch_embedding.space"),
        (r"pos_encoding\.temporal_pos", "patch_embedding.time"),
        *_rest(("0", "3")),
        (rf"{_BLOCK}project\.{_LEAF}", r"blocks.\1.skip_projection.\2"),
        (rf"head\.1\.{_LEAF}", r"head.\1"),
    ),
    ignored=(
        (r"pos_encoding\.class_(token|pos)", _NO_CLASS_TOKEN),
        (rf"{_BLOCK}attn\.pool_[kv]\..*", _NOT_POOLED),
    ),
    left_random=_LEFT_RANDOM,
    adapt=adapt_to_clips,
    splits=(*_attention(r"project\.0"), *_pooling(r"pool_q\.pool", norm=r"pool_q\.norm_act\.0")),
)

_PYSLOWFAST: Final = SourceLayout(
    name="PySlowFast MViT",
    marks=(r"pos_embed_spatial", r"blocks\.0\.attn\.pool_k\.weight"),
    renames=(
        (rf"patch_embed\.proj\.{_LEAF}", r"patch_embedding.projection.\1"),
        (r"pos_embed_spatial", "patch_embedding.space"),
        (r"pos_embed_temporal", "patch_embedding.time"),
        *_rest(("fc1", "fc2")),
        (rf"{_BLOCK}proj\.{_LEAF}", r"blocks.\1.skip_projection.\2"),
        (rf"head\.projection\.{_LEAF}", r"head.\1"),
    ),
    ignored=(
        (r"cls_token|pos_embed_class", _NO_CLASS_TOKEN),
        (rf"{_BLOCK}attn\.(pool|norm)_[kv]\..*", _NOT_POOLED),
    ),
    left_random=_LEFT_RANDOM,
    adapt=adapt_to_clips,
    splits=(*_attention("proj"), *_pooling("pool_q", norm="norm_q")),
)

_VIT: Final = SourceLayout(
    name="timm ViT",
    marks=(r"pos_embed", r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight"),
    renames=(
        (rf"patch_embed\.proj\.{_LEAF}", r"patch_embedding.projection.\1"),
        (r"pos_embed", "patch_embedding.space"),
        *_rest(("fc1", "fc2")),
    ),
    ignored=(
        IMAGE_HEAD,
        (r"cls_token", _NO_CLASS_TOKEN),
        (r"(pre_logits|fc_norm)\..*", "it belongs to the classifier of images"),
    ),
    left_random=(
        *_LEFT_RANDOM,
        NO_IMAGE_HEAD,
        (r"patch_embedding\.time", "an image has no time"),
    ),
    adapt=adapt_to_clips,
    splits=_attention("proj"),
)

_VIT_LAYER: Final = r"encoder\.layers\.encoder_layer_(\d+)\."
_TORCHVISION_VIT: Final = SourceLayout(
    name="torchvision ViT",
    marks=(r"conv_proj\.weight", r"encoder\.pos_embedding"),
    renames=(
        (rf"conv_proj\.{_LEAF}", r"patch_embedding.projection.\1"),
        (r"encoder\.pos_embedding", "patch_embedding.space"),
        (rf"{_VIT_LAYER}ln_1\.{_LEAF}", r"blocks.\1.attention_norm.\2"),
        (rf"{_VIT_LAYER}ln_2\.{_LEAF}", r"blocks.\1.mlp_norm.\2"),
        (rf"{_VIT_LAYER}mlp\.(?:linear_1|0)\.{_LEAF}", r"blocks.\1.mlp.0.\2"),
        (rf"{_VIT_LAYER}mlp\.(?:linear_2|3)\.{_LEAF}", r"blocks.\1.mlp.2.\2"),
        (rf"encoder\.ln\.{_LEAF}", r"head_norm.\1"),
    ),
    ignored=(
        (r"heads\..*", "it is the classifier of images"),
        (r"class_token", _NO_CLASS_TOKEN),
    ),
    left_random=_VIT.left_random,
    adapt=adapt_to_clips,
    splits=(
        Split(
            rf"{_VIT_LAYER}self_attention\.in_proj_{_LEAF}",
            (_ours("query", r"\2"), (), _ours("value", r"\2")),
            otherwise=_NO_KEYS,
        ),
        Split(
            rf"{_VIT_LAYER}self_attention\.out_proj\.{_LEAF}",
            (_ours("output", r"\2"),),
            otherwise=_NO_OUTPUT,
        ),
    ),
)

LAYOUTS: Final = (_TORCHVISION, _PYSLOWFAST, _VIT, _TORCHVISION_VIT)
