"""Copy rows of tokens by a table, with a copy as the gradient.

A partial one-to-one map never writes a row twice, neither forwards nor backwards: both ways
are a gather, and no gradient needs the atomic additions of a general index.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class RowMap(NamedTuple):
    """A one-to-one map between some of S rows and some of P rows."""

    source: Tensor
    """(P,) int64, the row of S that is copied to each row of P; 0 where `source_empty`."""
    source_empty: Tensor | None
    """(P, 1) bool, the rows of P that become zero; None where there are none."""
    target: Tensor
    """(S,) int64, the inverse of `source`."""
    target_empty: Tensor | None
    """(S, 1) bool, the rows of S that are copied nowhere; None where there are none."""

    def reversed(self) -> "RowMap":
        """Return the map from P to S."""
        return RowMap(self.target, self.target_empty, self.source, self.source_empty)


def make_row_map(source: npt.NDArray[np.int64], *, num_rows: int, device: torch.device) -> RowMap:
    """Make a map from the row that each place takes.

    Args:
        source: (P,) rows of S, each at most once; -1 for zeros.
        num_rows: S.
        device: Where the map is wanted.

    Returns:
        The map.
    """
    filled = source >= 0
    target = np.full(num_rows, -1, np.int64)
    target[source[filled]] = np.flatnonzero(filled)
    assert len(np.unique(source[filled])) == filled.sum(), "a row is copied twice"
    return RowMap(*_table_of(source, device), *_table_of(target, device))


def widen_to_clips(row_map: RowMap, *, batch: int, group: int) -> RowMap:
    """Return the map of many clips at once, whose groups of rows lie side by side.

    Args:
        row_map: From S rows to P of one clip.
        batch: B, clips.
        group: N, a divisor of P.

    Returns:
        From (B S) rows to (P/N B N): the first N rows of each clip, then the next N of each.
    """
    num_source, num_target = len(row_map.target), len(row_map.source)
    device = row_map.source.device
    clip = torch.arange(batch, device=device)
    source = row_map.source.view(-1, 1, group) + (clip * num_source)[:, None]
    part, within = row_map.target // group, row_map.target % group
    target = part * (batch * group) + within + (clip * group)[:, None]
    source_empty, target_empty = row_map.source_empty, row_map.target_empty
    if source_empty is not None:
        source_empty = source_empty.view(-1, 1, group).expand(-1, batch, -1).reshape(-1, 1)
    if target_empty is not None:
        target_empty = target_empty.repeat(batch, 1)
    assert num_target % group == 0, "groups must be whole"
    return RowMap(source.flatten(), source_empty, target.flatten(), target_empty)


def gather_rows(rows: Tensor, row_map: RowMap) -> Tensor:
    """Copy (B, S, C) rows to (B, P, C) as the map says."""
    gathered: Tensor = _GatherRows.apply(rows, *row_map)
    return gathered


def _table_of(rows: npt.NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor | None]:
    empty = rows < 0
    marks = torch.from_numpy(empty[:, None]).to(device) if empty.any() else None
    return torch.from_numpy(np.maximum(rows, 0)).to(device), marks


def _copy_rows(rows: Tensor, source: Tensor, *, empty: Tensor | None) -> Tensor:
    copied = rows.index_select(1, source)
    return copied if empty is None else copied.masked_fill_(empty, 0)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(
        rows: Tensor,
        source: Tensor,
        source_empty: Tensor | None,
        target: Tensor,
        target_empty: Tensor | None,
    ) -> Tensor:
        return _copy_rows(rows, source, empty=source_empty)

    @staticmethod
    def setup_context(
        ctx: Any,  # noqa: ANN401  torch's own context object
        inputs: tuple[Tensor | None, ...],
        output: Tensor,
    ) -> None:
        ctx.save_for_backward(inputs[3], inputs[4])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        target, target_empty = ctx.saved_tensors
        return _copy_rows(gradient, target, empty=target_empty), None, None, None, None
