"""What the weights of others call the parts of Video-FocalNet.

The names are those in the authors' checkpoints, and in the ImageNet checkpoints of FocalNet
("SRF", small receptive field, has the two levels of Video-FocalNet), whose only path is the
spatial one. Shapes are the same, but for the embedding of tubelets.
"""

from typing import Final

import torch
from einops import repeat
from torch import Tensor

from gopstream.models.weights.source_layout import (
    IMAGE_HEAD,
    NO_IMAGE_HEAD,
    SourceLayout,
)

_BLOCK: Final = r"layers\.(\d+)\.blocks\.(\d+)"
_OUR_BLOCK: Final = r"stages.\1.blocks.\2"
_SPACE: Final = rf"{_OUR_BLOCK}.modulation.branch.space"
_TIME: Final = rf"{_OUR_BLOCK}.modulation.branch.time"

_SPATIAL_PATH: Final = (
    (r"patch_embed\.proj\.(weight|bias)", r"patch_embedding.projection.\1"),
    (r"patch_embed\.norm\.(weight|bias)", r"patch_embedding.norm.\1"),
    (r"layers\.(\d+)\.downsample\.proj\.(weight|bias)", r"stages.\1.downsampling.projection.\2"),
    (r"layers\.(\d+)\.downsample\.norm\.(weight|bias)", r"stages.\1.downsampling.norm.\2"),
    (rf"{_BLOCK}\.gamma_1", rf"{_OUR_BLOCK}.modulation.scale"),
    (rf"{_BLOCK}\.norm1\.(weight|bias)", rf"{_OUR_BLOCK}.modulation.norm.\3"),
    (rf"{_BLOCK}\.modulation\.f\.(weight|bias)", rf"{_SPACE}.projection.\3"),
    (rf"{_BLOCK}\.modulation\.focal_layers\.(\d+)\.0\.weight", rf"{_SPACE}.levels.\3.weight"),
    (rf"{_BLOCK}\.modulation\.h\.(weight|bias)", rf"{_SPACE}.mixing.\3"),
    (rf"{_BLOCK}\.modulation\.ln\.(weight|bias)", rf"{_OUR_BLOCK}.modulation.branch.norm.\3"),
    (
        rf"{_BLOCK}\.modulation\.proj\.(weight|bias)",
        rf"{_OUR_BLOCK}.modulation.branch.projection.\3",
    ),
    (rf"{_BLOCK}\.gamma_2", rf"{_OUR_BLOCK}.mlp.scale"),
    (rf"{_BLOCK}\.norm2\.(weight|bias)", rf"{_OUR_BLOCK}.mlp.norm.\3"),
    (rf"{_BLOCK}\.mlp\.fc1\.(weight|bias)", rf"{_OUR_BLOCK}.mlp.branch.0.\3"),
    (rf"{_BLOCK}\.mlp\.fc2\.(weight|bias)", rf"{_OUR_BLOCK}.mlp.branch.3.\3"),
    (r"norm\.(weight|bias)", r"norm.\1"),
)

_HEAD: Final = ((r"head\.(weight|bias)", r"head.\1"),)

_TEMPORAL_PATH: Final = (
    (rf"{_BLOCK}\.modulation\.f_temporal\.(weight|bias)", rf"{_TIME}.projection.\3"),
    (
        rf"{_BLOCK}\.modulation\.focal_layers_temporal\.(\d+)\.0\.weight",
        rf"{_TIME}.levels.\3.weight",
    ),
    (rf"{_BLOCK}\.modulation\.h_temporal\.(weight|bias)", rf"{_TIME}.mixing.\3"),
)

_NOT_OF_IMAGES: Final = "an image model has no temporal modulation"


def inflate_tubelets(key: str, source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Spread the patch embedding of single frames evenly over the frames of a tubelet.

    A tubelet of equal frames then gives the token of one of them.

    Args:
        key: Of ours.
        source: (C, 3, 4, 4) for ``patch_embedding.projection.weight``.
        wanted: (C, 3, frames, 4, 4).

    Returns:
        The tensor and what was done; None for any other key or shape.
    """
    if key != "patch_embedding.projection.weight" or len(wanted) != 5 or source.ndim != 4:
        return None
    num_frames = wanted[2]
    inflated = repeat(source / num_frames, "c i y x -> c i s y x", s=num_frames)
    if inflated.shape != wanted:
        return None
    return inflated, f"inflated from 1 frame to tubelets of {num_frames}"


LAYOUTS: Final = (
    SourceLayout(
        name="authors of Video-FocalNet",
        marks=(r"patch_embed\.proj\.weight", rf"{_BLOCK}\.modulation\.f_temporal\.weight"),
        renames=_SPATIAL_PATH + _TEMPORAL_PATH + _HEAD,
        adapt=inflate_tubelets,
    ),
    SourceLayout(
        name="FocalNet (ImageNet)",
        marks=(r"patch_embed\.proj\.weight", rf"{_BLOCK}\.modulation\.f\.weight"),
        renames=_SPATIAL_PATH,
        ignored=(IMAGE_HEAD,),
        left_random=(
            NO_IMAGE_HEAD,
            (r"stages\.\d+\.blocks\.\d+\.modulation\.branch\.time\..*", _NOT_OF_IMAGES),
            (r"stages\.\d+\.blocks\.\d+\.modulation\.branch\.space\.later_.*", _NOT_OF_IMAGES),
            (r"stages\.\d+\.blocks\.\d+\.modulation\.branch\.fusion_.*", _NOT_OF_IMAGES),
            (r"stages\.\d+\.blocks\.\d+\.time_modulation\..*", _NOT_OF_IMAGES),
            (r"temporal_encoder\..*", _NOT_OF_IMAGES),
        ),
        adapt=inflate_tubelets,
    ),
)
