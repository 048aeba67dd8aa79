"""Everything about a block's attention that depends on sizes alone, made once and kept.

The tables are made in NumPy, outside of any trace, the first time that a size is seen: a
compiled or exported graph has them as constants.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gopstream.models.pst.gather import RowMap, make_row_map
from gopstream.models.pst.patterns import OffsetSign, Pattern
from gopstream.models.pst.relative_position import PositionTable, position_rows
from gopstream.models.pst.sparse import Phase, kept_places
from gopstream.models.pst.windows import Triple, WindowGrid, plan_windows, window_mask, window_rows

_MOST_KEPT: Final = 256
_kept: dict[tuple["WindowPlan", Triple, torch.device], "AttentionTables"] = {}


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


class AttentionTables(NamedTuple):
    """The tables of one plan and size on one device (see `windows` for the letters)."""

    into_windows: RowMap
    """From (T H W) tokens to P places."""
    out_of_windows: RowMap
    """Back."""
    kept: RowMap | None
    """From P places to those that attend; None where all do."""
    position_rows: Tensor
    """(K or 1, N, N) int64, rows of the table of positions."""
    mask: Tensor | None
    """(K or 1, S, N, N) float32, added to the logits; None where nothing is masked."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch has no types
def attention_tables(plan: WindowPlan, size: Triple, device: torch.device) -> AttentionTables:
    """Return the tables for a grid of (T, H, W) tokens.

    Raises:
        ValueError: If the clip has more frames than the table of positions.
    """
    key = (plan, size, device)
    if key in _kept:
        return _kept[key]
    # Tables made in inference mode could not be saved for a later backward pass.
    with torch.inference_mode(mode=False):
        tables = _make_tables(plan, size, device)
    # A tracer's own kind of tensor must not outlive the trace.
    if type(tables.position_rows) is Tensor:
        if len(_kept) >= _MOST_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = tables
    return tables


def _make_tables(plan: WindowPlan, size: Triple, device: torch.device) -> AttentionTables:
    grid = plan_windows(
        size, window=plan.window, rolled=plan.rolled, pattern=plan.pattern, sign=plan.sign
    )
    num_tokens = size[0] * size[1] * size[2]
    into = make_row_map(window_rows(grid).ravel(), num_rows=num_tokens, device=device)
    out = into.reversed()
    if not plan.shift_back:
        unmoved = grid._replace(offsets=(0,) * len(grid.offsets))
        rows = window_rows(unmoved).ravel()
        out = make_row_map(rows, num_rows=num_tokens, device=device).reversed()
    positions = position_rows(grid, table=plan.positions)
    mask = window_mask(grid)
    kept = None
    if plan.phase is not None:
        places = kept_places(grid, phase=plan.phase)
        positions = positions[:, places[:, None], places]
        mask = None if mask is None else mask[..., places[:, None], places]
        kept = _kept_map(grid, places, device)
    return AttentionTables(
        into_windows=into,
        out_of_windows=out,
        kept=kept,
        position_rows=torch.from_numpy(positions).to(device),
        mask=None if mask is None else torch.from_numpy(mask).to(device),
    )


def _kept_map(grid: WindowGrid, places: npt.NDArray[np.int64], device: torch.device) -> RowMap:
    num_windows = grid.counts[0] * grid.counts[1] * grid.counts[2]
    starts = np.arange(num_windows)[:, None] * grid.tokens_per_window
    rows = (starts + places).ravel()
    return make_row_map(rows, num_rows=num_windows * grid.tokens_per_window, device=device)
