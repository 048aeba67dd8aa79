"""Which cell of a grid holds a place of a picture.

Dimensions: Q places.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class QueryCells(NamedTuple):
    """Cells of a grid that spans a picture."""

    rows: Tensor
    """(Q,) int64."""
    columns: Tensor
    """(Q,) int64."""
    centres: Tensor
    """(Q, 2) float64 as (x, y), in pixels of the picture."""


def cells_at(places: Tensor, *, grid: tuple[int, int], pixels: tuple[int, int]) -> QueryCells:
    """Return the cells that hold places.

    Args:
        places: (Q, 2) as (x, y) in pixels, from the picture's upper left corner (0, 0).
        grid: (rows, columns).
        pixels: (height, width) of the picture.

    Returns:
        The cells, on the CPU.

    Raises:
        ValueError: If the shape is another, or a place lies outside of the picture.
    """
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"places must be (Q, 2) as (x, y), got {tuple(places.shape)}")
    sides = torch.tensor([pixels[1], pixels[0]], dtype=torch.float64)
    counts = torch.tensor([grid[1], grid[0]])
    exact = places.detach().cpu().to(torch.float64)
    inside = ((exact >= 0) & (exact < sides)).all(dim=1)
    if not inside.all():
        x, y = exact[~inside][0].tolist()
        raise ValueError(
            f"the place ({x:g}, {y:g}) lies outside of frames of {pixels[1]} x {pixels[0]} pixels"
        )
    # A place a rounding error short of the border may come out on it.
    cells = (exact * counts / sides).long().minimum(counts - 1)
    columns, rows = cells.unbind(dim=1)
    return QueryCells(rows, columns, (cells + 0.5) * sides / counts)
