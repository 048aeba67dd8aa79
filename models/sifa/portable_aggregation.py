"""The SIFA operator in operations that every device has.

Without offsets the taps are shifted views of one padded map. With offsets each tap gathers the
four pixels around its place; what it has read is made again on the way back, so that memory
does not grow with the number of taps. `grid_sample` is not used: it would have a place in
[-1, 1], from which a place on a pixel comes back a rounding error to either side of it, and so
does its derivative.

Arithmetic is in float32, or in float64 for float64; results have the dtype of the query.

Dimensions: B batch, P pairs of frames, H, W a grid, C width; K taps, N = B * P * H * W.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_OUTSIDE: Final = -2.0
"""A coordinate whose neighbours are all outside, for whatever lies a pixel or more outside."""


class TapOptions(NamedTuple):
    """What an aggregation is told beside its tensors."""

    region: int
    """Side of the square of taps."""
    dilation: int
    """Pixels from tap to tap."""
    scale: float
    """Factor of every product; unused where there are tap weights."""

    @property
    def margin(self) -> int:
        """How many pixels above and left of its query the first tap lies."""
        return (self.dilation * (self.region - 1) + 1) // 2

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield where each tap lies from its query, (dy, dx) in pixels, row by row."""
        for row in range(self.region):
            for column in range(self.region):
                yield row * self.dilation - self.margin, column * self.dilation - self.margin


def attend_regular(
    query_BPHWC: Tensor, keys_BPHWC: Tensor, *, tap_weights: Tensor | None, options: TapOptions
) -> Tensor:
    """Do as `attend_neighbours` without offsets.

    Args:
        query_BPHWC: The query.
        keys_BPHWC: The keys.
        tap_weights: (P, K, C) or None.
        options: The rest.

    Returns:
        (B, P, H, W, C).
    """
    height, width = query_BPHWC.shape[2:4]
    margin = options.margin
    query = query_BPHWC.to(_sum_dtype(query_BPHWC))
    padded = functional.pad(keys_BPHWC, (0, 0, margin, margin, margin, margin)).to(query.dtype)
    summed = torch.zeros_like(query, memory_format=torch.contiguous_format)
    for tap, (dy, dx) in enumerate(options.places()):
        read = padded[:, :, margin + dy :, margin + dx :][:, :, :height, :width]
        weighted = _weigh(query, tap_weights, tap=tap, options=options)
        summed = summed + (weighted * read).sum(dim=-1, keepdim=True) * read
    return summed.to(query_BPHWC.dtype)


def attend_deformable(
    query_BPHWC: Tensor,
    keys_BPHWC: Tensor,
    *,
    offsets_BPHWK2: Tensor,
    tap_weights: Tensor | None,
    options: TapOptions,
) -> Tensor:
    """Do as `attend_neighbours` with offsets.

    Args:
        query_BPHWC: The query.
        keys_BPHWC: The keys.
        offsets_BPHWK2: The offsets.
        tap_weights: (P, K, C) or None.
        options: The rest.

    Returns:
        (B, P, H, W, C).
    """
    attended: Tensor = _AttendDeformable.apply(
        query_BPHWC, keys_BPHWC, offsets_BPHWK2, tap_weights, *options
    )
    return attended


class _Corners(NamedTuple):
    """The four pixels around the places of all taps: upper left, upper right, lower ones."""

    rows: Tensor
    """(K, N, 4) int64 rows of the flattened keys; any row where there is no such pixel."""
    weights: Tensor
    """(K, N, 4) bilinear, 0 where there is no such pixel."""


class _Slopes(NamedTuple):
    """Derivatives of the weights of `_Corners`, both (K, N, 4)."""

    down: Tensor
    right: Tensor


class _AttendDeformable(torch.autograd.Function):
    @staticmethod
    def forward(
        query: Tensor,
        keys: Tensor,
        offsets: Tensor,
        tap_weights: Tensor | None,
        region: int,
        dilation: int,
        scale: float,
    ) -> Tensor:
        options = TapOptions(region, dilation, scale)
        dtype = _sum_dtype(query)
        wide_query, rows = query.to(dtype), keys.to(dtype).flatten(0, 3)
        summed = torch.zeros_like(wide_query, memory_format=torch.contiguous_format)
        corners, _ = _find_corners(offsets.to(dtype), options=options)
        for tap in range(region**2):
            read = functional.embedding_bag(
                corners.rows[tap], rows, per_sample_weights=corners.weights[tap], mode="sum"
            ).view(query.shape)
            weighted = _weigh(wide_query, tap_weights, tap=tap, options=options)
            summed += (weighted * read).sum(dim=-1, keepdim=True) * read
        return summed.to(query.dtype)

    @staticmethod
    def setup_context(
        ctx: Any,  # noqa: ANN401  torch's own context object
        inputs: tuple[Any, ...],
        output: Tensor,
    ) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.options = inputs[4:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        query, keys, offsets, tap_weights = ctx.saved_tensors
        options, dtype = TapOptions(*ctx.options), _sum_dtype(query)
        gradient, wide_query = gradient.to(dtype), query.to(dtype)
        rows = keys.to(dtype).flatten(0, 3)
        of_query = torch.zeros_like(wide_query, memory_format=torch.contiguous_format)
        of_rows = torch.zeros_like(rows)
        of_offsets = []
        corners, slopes = _find_corners(offsets.to(dtype), options=options)
        for tap in range(options.region**2):
            pixels = [rows.index_select(0, row) for row in corners.rows[tap].unbind(-1)]
            weights = corners.weights[tap].unbind(-1)
            read = sum(map(_times, pixels, weights), torch.zeros_like(pixels[0])).view(query.shape)
            weighted = _weigh(wide_query, tap_weights, tap=tap, options=options)
            with_query = (weighted * read).sum(dim=-1, keepdim=True)
            with_gradient = (gradient * read).sum(dim=-1, keepdim=True)
            of_query += with_gradient * _weigh(read, tap_weights, tap=tap, options=options)
            of_read = (with_query * gradient + with_gradient * weighted).flatten(0, 3)
            for row, weight in zip(corners.rows[tap].unbind(-1), weights, strict=True):
                of_rows.index_add_(0, row, _times(of_read, weight))
            of_weights = torch.stack([(of_read * pixel).sum(dim=-1) for pixel in pixels], dim=-1)
            of_offsets += [(slope[tap] * of_weights).sum(dim=-1) for slope in slopes]
        return (
            of_query.to(query.dtype),
            of_rows.view(keys.shape).to(keys.dtype),
            torch.stack(of_offsets, dim=-1).view(offsets.shape).to(offsets.dtype),
            *(None,) * 4,
        )


def _find_corners(offsets_BPHWK2: Tensor, *, options: TapOptions) -> tuple[_Corners, _Slopes]:
    """Return the pixels around the places of the taps; the keys are as large as the offsets."""
    batch, num_pairs, height, width = offsets_BPHWK2.shape[:4]
    device, side = offsets_BPHWK2.device, options.region
    offsets = offsets_BPHWK2.reshape(batch, num_pairs, height, width, side, side, 2)
    steps = torch.arange(side, device=device) * options.dilation - options.margin
    y = torch.arange(height, device=device).view(-1, 1, 1, 1) + steps[:, None] + offsets[..., 0]
    x = torch.arange(width, device=device).view(-1, 1, 1) + steps + offsets[..., 1]
    # What is not a number goes outside too: no row is ever made of it.
    y = torch.where((y > -1) & (y < height), y, _OUTSIDE)
    x = torch.where((x > -1) & (x < width), x, _OUTSIDE)
    top, left = y.floor(), x.floor()
    frame = torch.arange(batch * num_pairs, device=device).view(batch, num_pairs, 1, 1, 1, 1)
    rows, weights, down_slopes, right_slopes = [], [], [], []
    for row, down, down_slope in ((top, 1 - (y - top), -1.0), (top + 1, y - top, 1.0)):
        for column, right, right_slope in ((left, 1 - (x - left), -1.0), (left + 1, x - left, 1.0)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            rows.append(frame * (height * width) + place)
            weights.append(inside * (down * right))
            down_slopes.append(inside * (down_slope * right))
            right_slopes.append(inside * (right_slope * down))
    corners = _Corners(_stack_by_tap(rows), _stack_by_tap(weights))
    return corners, _Slopes(_stack_by_tap(down_slopes), _stack_by_tap(right_slopes))


def _stack_by_tap(corners: list[Tensor]) -> Tensor:
    """Stack four (B, P, H, W, i, j) tensors to (K, N, 4)."""
    return torch.stack(corners, dim=-1).flatten(4, 5).flatten(0, 3).transpose(0, 1).contiguous()


def _weigh(
    values_BPHWC: Tensor, tap_weights: Tensor | None, *, tap: int, options: TapOptions
) -> Tensor:
    if tap_weights is None:
        return options.scale * values_BPHWC
    return tap_weights[:, tap, None, None].to(values_BPHWC.dtype) * values_BPHWC


def _times(values_NC: Tensor, weights_N: Tensor) -> Tensor:
    return values_NC * weights_N[:, None]


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
