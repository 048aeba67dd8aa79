"""Where the Deformable Video Transformer looks: its sampled points and how much each counts.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, figure 2.

Dimensions: B batch, T token frames, K maps that a query attends (frames of its sub-clip, or
scales of its frame), Y, X the query grid of a block, L = Y * X its places, P queries that are
asked about, h heads, N points, S = (dx, dy, logit).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from gopstream.models.dvt.block import DeformableBlock
from gopstream.models.dvt.deformable_attention import DeformableSpaceTimeAttention
from gopstream.models.dvt.model import DeformableVideoTransformer
from gopstream.models.dvt.multi_scale_attention import DeformableMultiScaleAttention
from gopstream.models.dvt.point_prediction import PointPrediction
from gopstream.models.dvt.portable_points import Grids, point_locations
from gopstream.models.layers.choices import require_choice
from gopstream.models.layers.query_cells import cells_at

PointKind = Literal["space_time", "multi_scale"]


class SampledPoints(NamedTuple):
    """What queries of one token frame attend in one block."""

    places: Tensor
    """(B, P, K, h, N, 2) as (x, y), at least float32, in pixels of the frames, whose upper left
    corner is (0, 0); a place outside the frame reads 0."""
    weights: Tensor
    """(B, P, K, h, N), at least float32; those of a query and head sum to 1 over K and N."""
    query_places: Tensor
    """(P, 2) as (x, y): centres of the cells that the queries stand for."""
    query_frame: int
    """Sampled frame on which the queries' token frame is centred."""
    frames: tuple[int, ...]
    """K sampled frames that the maps show; of scales, the query's frame each time."""


class _Kept(NamedTuple):
    """What an attention has computed on its way."""

    grids: Grids
    """Of its value maps: one, which all frames have, or one for each scale."""
    predicted: list[Tensor]
    """(B, T, K, Y, X, h, N, S), without K where no motion is known; or one for each scale."""


def sampled_points(
    model: DeformableVideoTransformer,
    frames: Tensor,
    *,
    block: int,
    query_frame: int,
    queries: Tensor,
    inputs: Mapping[str, Tensor] | None = None,
    kind: PointKind = "space_time",
) -> SampledPoints:
    """Run a model and return where some queries of a block look.

    Use a model in evaluation mode, or dropout takes part. Nothing is kept on it.

    Args:
        model: The model.
        frames: (B, 3, F, size, size), as `model` takes them.
        block: Number of the block, from 0.
        query_frame: Sampled frame of the queries, 0 to F - 1; they belong to the token frame
            that holds it.
        queries: (P, 2) as (x, y) in pixels of the frames; each is the cell that holds it.
        inputs: More of what `model.forward` takes, by keyword: motion and its validity.
        kind: Of a block with both attentions or one: that of the sub-clip's frames, or of the
            two scales.

    Returns:
        The points of each clip.

    Raises:
        ValueError: If there is no such block, frame, place or attention, or the model does not
            take the inputs.
    """
    require_choice("kind", kind, choices=get_args(PointKind))
    attention = _find_attention(model, block, kind=kind)
    if not 0 <= query_frame < model.num_frames:
        raise ValueError(f"query_frame must be 0 to {model.num_frames - 1}, got {query_frame}")
    kept = _run(model, frames, attention=attention, inputs={} if inputs is None else inputs)
    token_frame = query_frame // model.query_stride
    if isinstance(attention, DeformableMultiScaleAttention):
        grids = kept.grids
        predicted = rearrange(kept.predicted, "k b t y x h n s -> b t k y x h n s")[:, token_frame]
        shown = (token_frame * model.query_stride,) * len(grids)
    else:
        (predicted,) = kept.predicted
        predicted = predicted[:, token_frame]
        if predicted.ndim == 6:
            count = attention.subclip_tokens
            predicted = repeat(predicted, "b y x h n s -> b k y x h n s", k=count)
        grids = kept.grids * predicted.shape[1]
        first = query_frame // model.subclip_frames * model.subclip_frames
        step = model.subclip_frames // len(grids)
        shown = tuple(range(first, first + model.subclip_frames, step))
    query_grid = (predicted.shape[2], predicted.shape[3])
    cells = cells_at(queries, grid=query_grid, pixels=(model.size, model.size))
    places, weights = point_locations(
        rearrange(predicted, "b k y x h n s -> b 1 k (y x) h n s"),
        grids=grids,
        query_grid=query_grid,
    )
    chosen = (cells.rows * query_grid[1] + cells.columns).to(places.device)
    places = rearrange(places, "b 1 k l h n s -> b l k h n s")[:, chosen]
    return SampledPoints(
        places=places * model.size,
        weights=rearrange(weights, "b 1 k l h n -> b l k h n")[:, chosen],
        query_places=cells.centres,
        query_frame=token_frame * model.query_stride,
        frames=shown,
    )


def _find_attention(
    model: DeformableVideoTransformer, block: int, *, kind: PointKind
) -> DeformableSpaceTimeAttention | DeformableMultiScaleAttention:
    if not 0 <= block < len(model.blocks):
        raise ValueError(f"block must be 0 to {len(model.blocks) - 1}, got {block}")
    chosen = model.blocks[block]
    assert isinstance(chosen, DeformableBlock)
    found = chosen.attention if kind == "space_time" else chosen.multi_scale_attention
    if found is None:
        raise ValueError(f"the model's blocks have no {kind} attention; take the other kind")
    return found


def _run(
    model: DeformableVideoTransformer,
    frames: Tensor,
    *,
    attention: DeformableSpaceTimeAttention | DeformableMultiScaleAttention,
    inputs: Mapping[str, Tensor],
) -> _Kept:
    values: list[Tensor] = []
    predicted: list[Tensor] = []

    def keep_value(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        values.append(output)

    def keep_points(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        predicted.append(output)

    handles = [attention.value.register_forward_hook(keep_value)]
    handles += [
        part.register_forward_hook(keep_points)
        for part in attention.modules()
        if isinstance(part, PointPrediction)
    ]
    try:
        with torch.no_grad():
            model.forward_features(frames, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    return _Kept(tuple((value.shape[2], value.shape[3]) for value in values), predicted)
