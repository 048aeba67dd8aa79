"""Tables of blocks in which few tokens attend."""

import torch

from gopstream.models.layers.windows.attention_tables import WindowPlan, attention_tables
from gopstream.models.layers.windows.relative_position import PositionTable
from gopstream.models.layers.windows.sparse import kept_places
from gopstream.models.layers.windows.window_grid import plan_windows, window_mask


def test_mask_and_positions_of_sparse_windows_are_those_of_their_tokens():
    size, window = (2, 6, 7), (16, 3, 3)
    positions = PositionTable(2, (3, 3), "paper", True)
    plan = WindowPlan(window, True, "none", "code", True, (1, 0), positions)
    tables = attention_tables(plan, size, device=torch.device("cpu"))
    grid = plan_windows(size, window=window, rolled=True)
    kept = kept_places(grid, phase=(1, 0))
    mask = window_mask(grid)
    assert torch.equal(tables.mask.apart, torch.from_numpy(mask.apart[:, kept[:, None], kept]))
    assert tables.mask.apart.any()
    # Row 1, columns 0 and 2, in two frames: 4 tokens of each of 2 x 3 windows.
    assert kept.tolist() == [3, 5, 12, 14]
    assert tables.position_rows.shape == (1, 4, 4)
    assert torch.equal(tables.kept.source, torch.from_numpy(kept))
