"""Attention in windows, with patches or channels shifted along time.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift", ECCV 2022,
section 3; Liu et al., "Video Swin Transformer", CVPR 2022. Padding, roll, partition and patch
shift are one copy before the attention, and one after it takes them back.

Dimensions: B batch, T frames, H, W token grid, C width; K windows in time, S in space, N tokens
of a window that attend; L biases among the windows.
"""

from functools import partial
from operator import index
from typing import Final, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from gopstream.models.layers.channel_shift import ChannelBoundary, shift_channels
from gopstream.models.layers.gather import gather_rows, widen_to_clips
from gopstream.models.layers.windows.attention_tables import (
    AttentionTables,
    WindowPlan,
    attention_tables,
)
from gopstream.models.layers.windows.window_grid import MASKED

_ROW_ALIGNMENT: Final = 16

_LARGEST_SPREAD: Final = 2**21
"""Numbers of one clip's biases up to which each window is given a copy of its own."""


class ChannelShift(NamedTuple):
    """Options of `shift_channels`."""

    folds: int
    boundary: ChannelBoundary


class WindowAttention(nn.Module):
    """Multi-head attention of each window's tokens among themselves."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        windows: WindowPlan,
        channel_shift: ChannelShift | None,
        qkv_bias: bool,
    ) -> None:
        """Build it with fresh weights.

        Args:
            dim: C, a multiple of `num_heads`.
            num_heads: Heads.
            windows: The windows, their patch shift and their positions.
            channel_shift: What is exchanged between neighbouring frames; None: nothing.
            qkv_bias: Whether queries, keys and values have a bias.
        """
        super().__init__()
        self.num_heads = num_heads
        self.windows = windows
        self.channel_shift = channel_shift
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.projection = nn.Linear(dim, dim)
        self.position_table = nn.Parameter(torch.zeros(windows.positions.num_rows, num_heads))

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) normalised tokens to what is added to them, of the same shape.

        Raises:
            ValueError: If the clip has more frames than the table of positions.
        """
        batch = tokens_BTHWC.shape[0]
        # A tracer that has met other sizes has symbols here: the tables need numbers.
        frames, height, width = map(index, tokens_BTHWC.shape[1:4])
        tables: AttentionTables = attention_tables(
            self.windows, (frames, height, width), device=tokens_BTHWC.device
        )
        if self.channel_shift is not None:
            tokens_BTHWC = shift_channels(
                tokens_BTHWC,
                num_heads=self.num_heads,
                folds=self.channel_shift.folds,
                boundary=self.channel_shift.boundary,
            )
        num_windows = len(tables.bias_of_window)
        widen = partial(
            widen_to_clips, batch=batch, group=len(tables.into_windows.source) // num_windows
        )
        # Windows first, then clips: those that share a bias are one slice, of all clips.
        into = widen(tables.into_windows)
        out = into if tables.unmoved_windows is None else widen(tables.unmoved_windows)
        rows = gather_rows(rearrange(tokens_BTHWC, "b t h w c -> 1 (b t h w) c"), into)
        qkv = rearrange(self.qkv(rows), "1 (w n) c -> w n c", w=num_windows * batch)
        if tables.kept is None:
            attended = self._attend(qkv, tables=tables, batch=batch)
        else:
            attended = self._attend(gather_rows(qkv, tables.kept), tables=tables, batch=batch)
            attended = gather_rows(attended, tables.kept.reversed())
        rows = rearrange(attended, "w n c -> 1 (w n) c")
        # The projection treats every row alike, so it may follow the way back, without padding.
        added: Tensor = self.projection(gather_rows(rows, out.reversed()))
        return added.view(tokens_BTHWC.shape)

    def position_bias(self, tables: AttentionTables) -> Tensor:
        """Return what is added to the logits, (L, heads, N, N)."""
        rows, mask = tables.position_rows, tables.mask
        values = self.position_table.index_select(0, rows.flatten())
        values = values.view(*rows.shape, self.num_heads)
        bias = rearrange(values, "k n m heads -> k heads n m").contiguous()
        if mask is None:
            return bias
        apart = mask.apart.index_select(0, mask.kinds).unsqueeze(1)
        return bias.index_select(0, mask.positions).add_(MASKED * apart)

    def _attend(self, qkv: Tensor, *, tables: AttentionTables, batch: int) -> Tensor:
        """Map (K S B, N, 3 C) to (K S B, N, C)."""
        bias = self.position_bias(tables).to(qkv.dtype)
        if bias.is_cuda:
            # The kernels want rows that begin at multiples of 16; else they copy everything.
            bias = functional.pad(bias, (0, -bias.shape[-1] % _ROW_ALIGNMENT))
        counts = tables.windows_per_bias
        if len(counts) > 1 and sum(counts) * bias[0].numel() <= _LARGEST_SPREAD:
            spread = bias.index_select(0, _repeat_each(tables.bias_of_window, times=batch))
            return self._attend_windows(qkv, bias=spread)
        parts = [
            self._attend_windows(part, bias=shared)
            for part, shared in zip(
                torch.split(qkv, [count * batch for count in counts]),
                torch.split(bias, 1),
                strict=True,
            )
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_windows(self, qkv: Tensor, *, bias: Tensor) -> Tensor:
        """Map (windows, N, 3 C) to (windows, N, C); the bias may have columns to spare."""
        query, key, value = rearrange(
            qkv, "w n (three heads d) -> three w heads n d", three=3, heads=self.num_heads
        )
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias[..., : qkv.shape[1]]
        )
        return rearrange(attended, "w heads n d -> w n (heads d)")


def _repeat_each(values: Tensor, *, times: int) -> Tensor:
    return values.unsqueeze(1).expand(-1, times).flatten()
