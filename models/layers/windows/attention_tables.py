"""Everything about a block's attention that depends on sizes alone, made once and kept.

The tables are made in NumPy, outside of any trace, the first time that a size is seen: a
compiled or exported graph has them as constants.
"""

import math
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gopstream.models.layers.gather import RowMap, make_row_map
from gopstream.models.layers.kept_tables import KeptTables
from gopstream.models.layers.patterns import OffsetSign, Pattern
from gopstream.models.layers.windows.relative_position import PositionTable, position_rows
from gopstream.models.layers.windows.sparse import Phase, kept_places
from gopstream.models.layers.windows.window_grid import (
    Triple,
    WindowGrid,
    plan_windows,
    window_mask,
    window_rows,
)

MOST_BYTES_KEPT: Final = 2**28
"""Of the tables of all models and sizes together, on all devices."""

_kept: Final = KeptTables(most_bytes=MOST_BYTES_KEPT)


class WindowPlan(NamedTuple):
    """How a block cuts any grid into windows, and what it moves; plain data."""

    window: Triple
    """Frames, rows and columns of tokens in a full window."""
    rolled: bool
    """Whether windows are displaced by half a window, as in odd blocks."""
    pattern: Pattern
    """Of the patch shift; "none" without."""
    sign: OffsetSign
    shift_back: bool
    """Whether patches return to their frames after the attention."""
    phase: Phase | None
    """First row and column of the cells that attend; None: all do."""
    positions: PositionTable


class BiasMask(NamedTuple):
    """Of each of the L biases, its positions and its mask."""

    positions: Tensor
    """(L,) int64, index into the first dimension of `position_rows`."""
    kinds: Tensor
    """(L,) int64, index into `apart`."""
    apart: Tensor
    """(M, N, N) bool, pairs that must not see each other."""


class AttentionTables(NamedTuple):
    """The tables of one plan and size on one device (see `window_grid` for the letters)."""

    into_windows: RowMap
    """From (T H W) tokens to P places; windows that share a bias follow each other."""
    unmoved_windows: RowMap | None
    """The same without patch shift, where patches do not return; None where all do."""
    kept: RowMap | None
    """From the places of a window to those that attend; None where all do."""
    position_rows: Tensor
    """(K or 1, N, N) int64, rows of the table of positions."""
    mask: BiasMask | None
    """What is added to the positions; None where nothing is masked."""
    windows_per_bias: tuple[int, ...]
    """L numbers whose sum is K * S; L = K or 1 without a mask."""
    bias_of_window: Tensor
    """(K S,) int64, from 0 to L - 1, ascending."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch has no types
def attention_tables(plan: WindowPlan, size: Triple, *, device: torch.device) -> AttentionTables:
    """Return the tables for a grid of (T, H, W) tokens.

    Raises:
        ValueError: If the clip has more frames than the table of positions.
    """
    tables: AttentionTables = _kept.get(
        (plan, size, device), make=partial(_make_tables, plan, size=size, device=device)
    )
    return tables


def _make_tables(plan: WindowPlan, *, size: Triple, device: torch.device) -> AttentionTables:
    grid = plan_windows(
        size, window=plan.window, rolled=plan.rolled, pattern=plan.pattern, sign=plan.sign
    )
    positions, mask = position_rows(grid, table=plan.positions), window_mask(grid)
    apart = None if mask is None else mask.apart
    kept = None
    if plan.phase is not None:
        places = kept_places(grid, phase=plan.phase)
        kept = make_row_map(places, num_rows=grid.tokens_per_window, device=device)
        positions = positions[:, places[:, None], places]
        apart = None if apart is None else apart[:, places[:, None], places]
    num_kinds = 1 if apart is None else len(apart)
    pairs = np.zeros((grid.counts[0], grid.counts[1] * grid.counts[2]), np.int64)
    if len(positions) > 1:
        pairs += num_kinds * np.arange(len(positions))[:, None]
    if mask is not None:
        pairs += mask.kinds
    order = np.argsort(pairs, axis=None, kind="stable")
    found, bias_of_window, counts = np.unique(pairs, return_inverse=True, return_counts=True)

    def rows_of(grid: WindowGrid) -> RowMap:
        rows = window_rows(grid).reshape(-1, grid.tokens_per_window)[order].ravel()
        return make_row_map(rows, num_rows=math.prod(size), device=device)

    unmoved = grid._replace(offsets=(0,) * len(grid.offsets))
    return AttentionTables(
        into_windows=rows_of(grid),
        unmoved_windows=None if plan.shift_back else rows_of(unmoved),
        kept=kept,
        position_rows=torch.from_numpy(positions).to(device),
        mask=None
        if apart is None
        else BiasMask(
            torch.from_numpy(found // num_kinds).to(device),
            torch.from_numpy(found % num_kinds).to(device),
            torch.from_numpy(apart).to(device),
        ),
        windows_per_bias=tuple(counts.tolist()),
        bias_of_window=torch.from_numpy(np.sort(bias_of_window, axis=None)).to(device),
    )
