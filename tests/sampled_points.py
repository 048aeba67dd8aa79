"""Attention over sampled points in plain loops, and inputs to compare it on."""

from typing import NamedTuple

import torch
from torch import Tensor

Grids = tuple[tuple[int, int], ...]


class PointCase(NamedTuple):
    """Sizes: G groups, Q query frames, h heads, d channels of a head, N points, the grids."""

    groups: int
    queries: int
    heads: int
    head_width: int
    points: int
    query_grid: tuple[int, int]
    grids: Grids

    def draw(self, seed: int, *, spread: float = 1.0) -> tuple[Tensor, Tensor]:
        """Draw float64 values (G, P, D) and predictions (G, Q, K, L, h, N, 3).

        No point is within 0.06 of a row or column of cells: there the derivative jumps, and
        rounding alone would decide on which side it is taken.
        """
        generator = torch.Generator().manual_seed(seed)
        rows, columns = self.query_grid
        cells = sum(height * width for height, width in self.grids)
        width = self.heads * self.head_width
        values = torch.randn(self.groups, cells, width, generator=generator, dtype=torch.float64)
        shape = (self.groups, self.queries, len(self.grids), rows * columns, self.heads)
        predicted = torch.randn(*shape, self.points, 3, generator=generator, dtype=torch.float64)
        predicted[..., :2] *= spread
        for index, (map_rows, map_columns) in enumerate(self.grids):
            for axis, (count, cells_along) in enumerate([(columns, map_columns), (rows, map_rows)]):
                along = (torch.arange(count, dtype=torch.float64) + 0.5) * cells_along / count - 0.5
                start = along.repeat(rows) if axis == 0 else along.repeat_interleave(columns)
                places = start[:, None, None] + predicted[:, :, index, ..., axis]
                moved = places.floor() + 0.06 + 0.88 * (places - places.floor())
                predicted[:, :, index, ..., axis] += moved - places
        return values, predicted


def attend_in_loops(
    values: Tensor, predicted: Tensor, *, grids: Grids, query_grid: tuple[int, int]
) -> Tensor:
    """Attend one point after the other, as the equations are written; autograd goes through."""
    groups, num_queries, num_maps, num_places, num_heads, num_points, _ = predicted.shape
    head_width = values.shape[2] // num_heads
    results = []
    for g in range(groups):
        for q in range(num_queries):
            for place in range(num_places):
                for head in range(num_heads):
                    chosen = predicted[g, q, :, place, head]
                    weights = chosen[..., 2].exp() / chosen[..., 2].exp().sum()
                    channels = slice(head * head_width, (head + 1) * head_width)
                    total = torch.zeros(head_width, dtype=values.dtype)
                    first = 0
                    for k, (height, width) in enumerate(grids):
                        cells = values[g, first : first + height * width, channels]
                        first += height * width
                        y = (place // query_grid[1] + 0.5) * height / query_grid[0] - 0.5
                        x = (place % query_grid[1] + 0.5) * width / query_grid[1] - 0.5
                        for n in range(num_points):
                            sampled = _sample(
                                cells.view(height, width, -1),
                                x + chosen[k, n, 0],
                                y + chosen[k, n, 1],
                            )
                            total = total + weights[k, n] * sampled
                    results.append(total)
    return torch.cat(results).view(groups, num_queries, num_places, -1)


def _sample(cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
    left, top = int(x.detach().floor()), int(y.detach().floor())
    sampled = torch.zeros(cells.shape[2], dtype=cells.dtype)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < cells.shape[0] and 0 <= column < cells.shape[1]:
                share = (1 - (y - row).abs()) * (1 - (x - column).abs())
                sampled = sampled + share * cells[row, column]
    return sampled
