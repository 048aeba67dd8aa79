"""What the blocks of a stage are given."""

from gopstream.models.layers.windows.attention_tables import WindowPlan
from gopstream.models.layers.windows.relative_position import PositionTable
from gopstream.models.pst.stage import plan_block

WINDOWS = WindowPlan(
    window=(1, 7, 7),
    rolled=False,
    pattern="C",
    sign="code",
    shift_back=True,
    phase=None,
    positions=PositionTable(16, (7, 7), "official", True),
)


def test_odd_blocks_are_displaced_and_only_tps_has_the_pattern():
    assert plan_block(WINDOWS, kind="tcs", index=0) == WINDOWS._replace(pattern="none")
    assert plan_block(WINDOWS, kind="tps", index=3) == WINDOWS._replace(rolled=True)


def test_sparse_blocks_take_turns_with_the_patches():
    phases = [plan_block(WINDOWS, kind="sparse", index=index).phase for index in range(3)]
    assert phases == [(0, 1), (1, 0), (0, 1)]
