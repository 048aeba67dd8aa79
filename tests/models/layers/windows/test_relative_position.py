"""Rows of the table of positions against loops over pairs."""

import numpy as np
import pytest

from gopstream.models.layers.windows.relative_position import PositionTable, position_rows
from gopstream.models.layers.windows.window_grid import plan_windows


def slow_rows(frames, offsets, rule, *, table_frames=16, moved=True):
    """Rows of windows of one frame of 7 x 7, pair by pair, (T, 49, 49)."""
    rows = np.empty((frames, 49, 49), np.int64)
    for t in range(frames):
        for i in range(49):
            for j in range(49):
                s_i, s_j = (offsets[i], offsets[j]) if moved else (0, 0)
                key_frame = t if rule == "paper" else 0
                dt = (t - s_i) % frames - (key_frame - s_j) % frames
                dy, dx = i // 7 - j // 7, i % 7 - j % 7
                rows[t, i, j] = (dt + table_frames - 1) * 169 + (dy + 6) * 13 + dx + 6
    return rows


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("pattern", ["none", "C"])
@pytest.mark.parametrize("rule", ["official", "paper"])
@pytest.mark.parametrize("frames", [3, 16])
def test_rows_are_those_of_every_pair(frames, rule, pattern, moved):
    grid = plan_windows((frames, 7, 7), window=(1, 7, 7), rolled=False, pattern=pattern)
    rows = position_rows(grid, table=PositionTable(16, (7, 7), rule, moved))
    expected = slow_rows(frames, grid.offsets, rule, moved=moved)
    assert (np.broadcast_to(rows, expected.shape) == expected).all()


@pytest.mark.parametrize(
    ("pattern", "rule", "distinct"),
    [("none", "official", 2704), ("none", "paper", 169), ("C", "official", 4780),
     ("C", "paper", 1625)],
)  # fmt: skip
def test_number_of_rows_that_are_used(pattern, rule, distinct):  # property 12
    grid = plan_windows((16, 14, 14), window=(1, 7, 7), rolled=True, pattern=pattern)
    rows = position_rows(grid, table=PositionTable(16, (7, 7), rule, True))
    assert len(np.unique(rows)) == distinct


def test_official_frame_without_patch_shift_has_one_group():  # property 12
    grid = plan_windows((16, 7, 7), window=(1, 7, 7), rolled=False)
    rows = position_rows(grid, table=PositionTable(16, (7, 7), "official", True))
    assert (rows // 169 == 15 + np.arange(16)[:, None, None]).all()


def test_windows_of_several_frames_count_from_token_to_token():
    grid = plan_windows((4, 7, 7), window=(2, 7, 7), rolled=True, pattern="C")
    rows = position_rows(grid, table=PositionTable(16, (7, 7), "paper", True))
    assert rows.shape == (2, 98, 98)
    # The second window holds frames 3 and 0 after the roll by one; cells 0 (offset -4) and 1 (1).
    tau = [[(frame - offset) % 4 for offset in (-4, 1)] for frame in (3, 0)]
    for q, place in enumerate((0, 49)):
        assert rows[1, place, 1] // 169 - 15 == tau[q][0] - tau[0][1]
    grid = plan_windows((4, 7, 7), window=(2, 7, 7), rolled=False)
    rows = position_rows(grid, table=PositionTable(2, (7, 7), "paper", True))
    assert rows.shape == (1, 98, 98)
    assert rows[0, [0, 49, 97], [49, 0, 97]].tolist() == [84, 2 * 169 + 84, 169 + 84]


def test_clipped_window_keeps_the_meaning_of_its_positions():
    grid = plan_windows((1, 3, 5), window=(1, 7, 7), rolled=False)
    rows = position_rows(grid, table=PositionTable(1, (7, 7), "paper", True))
    assert rows[0, 14, 0] == (2 + 6) * 13 + 4 + 6


@pytest.mark.parametrize(("rule", "window"), [("official", 1), ("paper", 8)])
def test_clip_longer_than_the_table_is_refused(rule, window):
    grid = plan_windows((8, 7, 7), window=(window, 7, 7), rolled=False)
    with pytest.raises(ValueError, match="8 token frames .* table of 8 frames, got 4; make the"):
        position_rows(grid, table=PositionTable(4, (7, 7), rule, True))
