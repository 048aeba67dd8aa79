"""One stage: blocks of alternating kinds on one grid, then the merging of patches."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gopstream.models.layers.pre_norm_block import PreNormBlock
from gopstream.models.layers.windows.attention_tables import WindowPlan
from gopstream.models.layers.windows.patches import NORM_EPSILON, PatchMerging
from gopstream.models.layers.windows.sparse import PHASES
from gopstream.models.layers.windows.window_attention import ChannelShift, WindowAttention

BlockKind = Literal["plain", "tcs", "tps", "sparse"]


def plan_block(windows: WindowPlan, *, kind: BlockKind, index: int) -> WindowPlan:
    """Return the windows of a block, given those of all.

    Args:
        windows: With the pattern of blocks that shift patches.
        kind: Of the block.
        index: In the stage; odd blocks have their windows displaced.
    """
    return windows._replace(
        rolled=index % 2 == 1,
        pattern=windows.pattern if kind == "tps" else "none",
        phase=PHASES[index % 2] if kind == "sparse" else None,
    )


class Stage(nn.Module):
    """Blocks of one width."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        kinds: tuple[BlockKind, BlockKind],
        windows: WindowPlan,
        channel_shift: ChannelShift,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path_rates: list[float],
        merges: bool,
        checkpointing: bool,
    ) -> None:
        """Build it.

        Args:
            dim: C.
            num_heads: Of each block.
            kinds: Of the blocks with even and with odd index.
            windows: As for `plan_block`.
            channel_shift: Of blocks that shift channels.
            mlp_ratio: Hidden width of the MLP over C.
            qkv_bias: Whether queries, keys and values have a bias.
            drop_path_rates: One for each block.
            merges: Whether patches are merged at the end.
            checkpointing: Compute blocks again in the backward pass to save memory.
        """
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList()
        for index, rate in enumerate(drop_path_rates):
            kind = kinds[index % 2]
            attention = WindowAttention(
                dim,
                num_heads=num_heads,
                windows=plan_block(windows, kind=kind, index=index),
                channel_shift=channel_shift if kind == "tcs" else None,
                qkv_bias=qkv_bias,
            )
            self.blocks.append(
                PreNormBlock(
                    attention,
                    width=dim,
                    mlp_ratio=mlp_ratio,
                    norm_epsilon=NORM_EPSILON,
                    drop_path_rate=rate,
                )
            )
        self.merging = PatchMerging(dim) if merges else None

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to itself, or to (B, T, H / 2, W / 2, 2 C) if it merges."""
        tokens = tokens_BTHWC
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens if self.merging is None else self.merging(tokens)
