"""Which width, heads and grid each block of a multiscale vision transformer has.

Fan et al., "Multiscale Vision Transformers", ICCV 2021, tables 2 and 3 (first version, as in
SlowFast: the width grows in the MLP before a stage, not in the attention that begins it).
"""

from typing import NamedTuple


class BlockShape(NamedTuple):
    """What differs from block to block."""

    width: int
    """D of the attention."""
    width_out: int
    """Width after the MLP: the width of the next block's attention."""
    num_heads: int
    stage: int
    query_stride: int
    """2 in the first block of each stage but the first, else 1."""

    def coarse_stride(self, initial: int) -> int:
        """Return `initial`, halved at each stage, at least 1: a stride from the input grid.

        With it the coarse grid is the same in all blocks but the first of a stage, whose
        input grid is still that of the stage before.
        """
        return max(1, initial >> self.stage)


def plan_blocks(
    depth: int, *, embed_dim: int, num_heads: int, stage_starts: tuple[int, ...]
) -> list[BlockShape]:
    """Lay out the blocks as MViT's dim_mul, head_mul and pool_q_stride do.

    At each block of `stage_starts` heads double and the query grid halves; the width was
    doubled by the MLP of the block before.

    Raises:
        ValueError: If a stage would start before block 1 or after the last, or two at once.
    """
    if list(stage_starts) != sorted(set(stage_starts) & set(range(1, depth))):
        raise ValueError(
            f"stage_starts must be ascending blocks from 1 to {depth - 1} (depth {depth}), "
            f"got {stage_starts}"
        )
    stages = [sum(start <= index for start in stage_starts) for index in range(depth + 1)]
    return [
        BlockShape(
            width=embed_dim * 2 ** stages[index],
            width_out=embed_dim * 2 ** stages[index + 1],
            num_heads=num_heads * 2 ** stages[index],
            stage=stages[index],
            query_stride=2 if index in stage_starts else 1,
        )
        for index in range(depth)
    ]
