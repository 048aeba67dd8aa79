"""What attention between frames looks at: salient motion, taps and how much each counts.

Long et al., "Stand-Alone Inter-Frame Attention in Video Models", CVPR 2022, section 4.4 and
figure 5. The figure shows 81 taps, those of two blocks of 3 x 3, one behind the other; here are
those of one block.

Dimensions: B batch, F sampled frames, T frames of features, P pairs of a frame and the neighbour
that it attends, Y, X pixels, H, W a grid, C width, Q queries that are asked about, K taps.
"""

from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from gopstream.models.layers.query_cells import QueryCells, cells_at
from gopstream.models.sifa.motion_block import InterFrameAttention
from gopstream.models.sifa.offsets import Direction, FramePairs, pair_frames
from gopstream.models.sifa.portable_aggregation import TapOptions


class AttentionMaps(NamedTuple):
    """What the frames of clips take from their neighbours in one block."""

    saliency: Tensor
    """(B, P, H, W, C) from 0 to 1: sigmoid(key - query), by which a deformable block weights the
    attended frame before it estimates offsets; 1/2 where nothing changes."""
    places: Tensor
    """(B, P, Q, K, 2) as (x, y) in pixels of the frames, whose upper left corner is (0, 0); a tap
    whose place lies outside reads 0."""
    weights: Tensor
    """(B, P, Q, K): what each tap is multiplied by, of either sign; they do not sum to 1."""
    query_places: Tensor
    """(Q, 2) as (x, y): centres of the cells that the queries stand for."""
    query_frames: tuple[int, ...]
    """P sampled frames: the first of those in the attending frame of features."""
    key_frames: tuple[int, ...]
    """P sampled frames: the first of those in the attended one."""
    block: int
    """Number of the attention."""


class _Attended(NamedTuple):
    """An attention that has run."""

    number: int
    module: InterFrameAttention
    features_BTHWC: Tensor
    """What it was given."""


def attention_maps(
    model: nn.Module,
    frames: Tensor,
    *,
    queries: Tensor,
    block: int | None = None,
    direction: Direction = "next",
) -> AttentionMaps:
    """Run a model and return what one of its blocks looks at.

    Use a model in evaluation mode, or dropout takes part. Nothing is kept on it.

    Args:
        model: One with `InterFrameAttention`, which has `forward_features`; a dual branch has no
            part in that.
        frames: (B, 3, F, Y, X), as `model` takes them.
        queries: (Q, 2) as (x, y) in pixels of the frames; each is the cell that holds it.
        block: Number of the attention, from 0, in the order in which they run; None for the last.
        direction: Which neighbour, for variant "bidirectional", which attends both.

    Returns:
        The maps of each clip.

    Raises:
        ValueError: If there is no such block, place or direction, or a clip has a single frame of
            features, which attends nothing.
    """
    block, attention, features = _run(model, frames, block=block)
    num_frames, height, width = features.shape[1:4]
    if direction == "previous" and attention.options.variant != "bidirectional":
        raise ValueError(
            f"variant {attention.options.variant!r} attends the next frame alone, "
            f"got direction={direction!r}"
        )
    pairs = pair_frames(features, direction=direction, ends=attention.options.last)
    num_pairs = pairs.query_BPHWC.shape[1]
    if num_frames == 1:
        raise ValueError(
            f"{frames.shape[2]} frames are one frame of features, which has no neighbour"
        )
    cells = cells_at(queries, grid=(height, width), pixels=(frames.shape[3], frames.shape[4]))
    places, weights = _taps(attention, pairs, cells=cells)
    cell_size = places.new_tensor([frames.shape[4] / width, frames.shape[3] / height])
    numbers = torch.arange(num_frames)
    attending = numbers[num_frames - num_pairs :] if direction == "previous" else numbers
    step = frames.shape[2] // num_frames
    return AttentionMaps(
        saliency=torch.sigmoid(pairs.keys_BPHWC - pairs.query_BPHWC),
        places=(places + 0.5) * cell_size,
        weights=weights,
        query_places=cells.centres,
        query_frames=tuple((attending[:num_pairs] * step).tolist()),
        key_frames=tuple((pairs.of_keys(numbers[None])[0] * step).tolist()),
        block=block,
    )


def _run(model: nn.Module, frames: Tensor, *, block: int | None) -> _Attended:
    count = 0
    kept: list[_Attended] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal count
        if block is None or block == count:
            kept[:] = [_Attended(count, cast(InterFrameAttention, module), given[0])]
        count += 1

    parts = [part for part in model.modules() if isinstance(part, InterFrameAttention)]
    handles = [part.register_forward_pre_hook(keep) for part in parts]
    try:
        with torch.no_grad():
            model.forward_features(frames)  # type: ignore[operator]  # a method, not a tensor
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise ValueError(f"this {type(model).__name__} has no attention between frames")
    if not kept:
        raise ValueError(
            f"block must be 0 to {count - 1}, the blocks with attention between frames, got {block}"
        )
    return kept[0]


@torch.no_grad()
def _taps(
    attention: InterFrameAttention, pairs: FramePairs, *, cells: QueryCells
) -> tuple[Tensor, Tensor]:
    """Return places (B, P, Q, K, 2) as (x, y), in cells from the first one's centre, and weights.

    Both are at least float32.
    """
    options, device = attention.options, pairs.query_BPHWC.device
    wide = torch.promote_types(pairs.query_BPHWC.dtype, torch.float32)
    query, keys = pairs.query_BPHWC.to(wide), pairs.keys_BPHWC.to(wide)
    batch, num_pairs, height, width, channels = query.shape
    rows, columns = cells.rows.to(device), cells.columns.to(device)
    taps = TapOptions(options.region, options.dilation, 1.0).places()
    steps = torch.tensor([(dx, dy) for dy, dx in taps], device=device)
    places = (torch.stack([columns, rows], dim=-1)[:, None] + steps).to(wide)
    places = places.expand(batch, num_pairs, *places.shape)
    estimator = attention.offsets if pairs.direction == "next" else attention.previous_offsets
    if estimator is not None:
        places = places + estimator(pairs)[:, :, rows, columns].to(wide).flip(-1)
    # Half pixels from the border, as a share of the whole, run from -1 to 1.
    sides = query.new_tensor([width, height])
    samples = functional.grid_sample(
        rearrange(keys, "b p h w c -> (b p) c h w"),
        rearrange((2 * places + 1) / sides - 1, "b p q k s -> (b p) q k s"),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    samples = rearrange(samples, "(b p) c q k -> b p q k c", b=batch)
    products = samples * query[:, :, rows, columns].unsqueeze(3)
    if attention.tap_weights is not None:
        of_frames = rearrange(attention.tap_weights, "c t i j -> 1 t 1 (i j) c")
        return places, (products * pairs.of_keys(of_frames)).sum(dim=-1)
    weights = products.sum(dim=-1)
    return places, weights / channels if options.scale == "mean" else weights
