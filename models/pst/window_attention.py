"""Attention in windows, with patches or channels shifted along time.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift", ECCV 2022,
section 3; Liu et al., "Video Swin Transformer", CVPR 2022. Padding, roll, partition and patch
shift are one copy before the attention, and one after it takes them back.

Dimensions: B batch, T frames, H, W token grid, C width; K windows in time, S in space, N tokens
of a window that attend, P = K * S * N.
"""

from operator import index
from typing import Final, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from gopstream.models.pst.attention_tables import AttentionTables, WindowPlan, attention_tables
from gopstream.models.pst.gather import gather_rows
from gopstream.models.pst.patch_shift import ChannelBoundary, shift_channels

_ROW_ALIGNMENT: Final = 16


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
        # A tracer that has met other sizes has symbols here: the tables need numbers.
        frames, height, width = map(index, tokens_BTHWC.shape[1:4])
        tables: AttentionTables = attention_tables(
            self.windows, (frames, height, width), tokens_BTHWC.device
        )
        if self.channel_shift is not None:
            tokens_BTHWC = shift_channels(
                tokens_BTHWC,
                num_heads=self.num_heads,
                folds=self.channel_shift.folds,
                boundary=self.channel_shift.boundary,
            )
        rows = rearrange(tokens_BTHWC, "b t h w c -> b (t h w) c")
        qkv = self.qkv(gather_rows(rows, tables.into_windows))
        if tables.kept is None:
            attended = self._attend(qkv, tables)
        else:
            attended = self._attend(gather_rows(qkv, tables.kept), tables)
            attended = gather_rows(attended, tables.kept.reversed())
        # The projection treats every row alike, so it may follow the way back, without padding.
        added: Tensor = self.projection(gather_rows(attended, tables.out_of_windows))
        return rearrange(added, "b (t h w) c -> b t h w c", t=frames, h=height, w=width)

    def position_bias(self, tables: AttentionTables) -> Tensor:
        """Return what is added to the logits, (K or 1, S or 1, heads, N, N)."""
        rows = tables.position_rows
        values = self.position_table.index_select(0, rows.flatten())
        values = values.view(*rows.shape, self.num_heads)
        bias = rearrange(values, "k n m heads -> k 1 heads n m").contiguous()
        return bias if tables.mask is None else bias + tables.mask[:, :, None]

    def _attend(self, qkv: Tensor, tables: AttentionTables) -> Tensor:
        """Map (B, P, 3 C) to (B, P, C)."""
        batch, num_places, _ = qkv.shape
        window = tables.position_rows.shape[-1]
        query, key, value = rearrange(
            qkv,
            "b (w n) (three heads d) -> three (b w) heads n d",
            n=window,
            three=3,
            heads=self.num_heads,
        )
        bias = self.position_bias(tables).to(query.dtype)
        bias = _spread(bias, batch=batch, num_windows=num_places // window)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return rearrange(attended, "(b w) heads n d -> b (w n) (heads d)", b=batch)


def _spread(bias: Tensor, *, batch: int, num_windows: int) -> Tensor:
    """Give each window its bias: (K or 1, S or 1, heads, N, N) to (B K S or 1, heads, N, N).

    A bias that all windows share stays one. The fused kernels take no other broadcast.
    """
    in_time, in_space, heads, window, _ = bias.shape
    if in_time == in_space == 1:
        return bias[0]
    if bias.is_cuda:
        # The kernels want rows that begin at multiples of 16; else they copy everything again.
        bias = functional.pad(bias, (0, -window % _ROW_ALIGNMENT))
    in_time = in_time if in_space == 1 else num_windows // in_space
    bias = bias.expand(batch, in_time, num_windows // in_time, heads, window, bias.shape[-1])
    return bias.reshape(batch * num_windows, heads, window, bias.shape[-1])[..., :window]
