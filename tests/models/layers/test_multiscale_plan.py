"""Blocks are laid out as in MViT-B."""

import pytest

from gopstream.models.layers.multiscale_plan import BlockShape, plan_blocks


def test_blocks_are_laid_out_as_in_mvit():
    plan = plan_blocks(16, embed_dim=96, num_heads=1, stage_starts=(1, 3, 14))
    assert plan[0] == BlockShape(96, 192, 1, stage=0, query_stride=1)
    assert plan[1] == BlockShape(192, 192, 2, stage=1, query_stride=2)
    assert plan[2] == BlockShape(192, 384, 2, stage=1, query_stride=1)
    assert plan[3] == BlockShape(384, 384, 4, stage=2, query_stride=2)
    assert set(plan[4:13]) == {BlockShape(384, 384, 4, stage=2, query_stride=1)}
    assert plan[13] == BlockShape(384, 768, 4, stage=2, query_stride=1)
    assert plan[14] == BlockShape(768, 768, 8, stage=3, query_stride=2)
    assert plan[15] == BlockShape(768, 768, 8, stage=3, query_stride=1)


def test_coarse_strides_follow_the_stages():
    plan = plan_blocks(16, embed_dim=96, num_heads=1, stage_starts=(1, 3, 14))
    assert [shape.coarse_stride(8) for shape in plan] == [8, 4, 4, *[2] * 11, 1, 1]
    assert [shape.coarse_stride(2) for shape in plan] == [2, *[1] * 15]


@pytest.mark.parametrize("starts", [(2,), (0,), (1, 1), (1, 0)])
def test_stages_that_cannot_begin_there_are_refused(starts):
    with pytest.raises(ValueError, match=r"stage_starts must be ascending blocks from 1 to 1"):
        plan_blocks(2, embed_dim=8, num_heads=1, stage_starts=starts)
