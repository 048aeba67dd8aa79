"""Which tokens of a window attend."""

import numpy as np
import pytest

from gopstream.models.layers.windows.sparse import PHASES, kept_places
from gopstream.models.layers.windows.window_grid import plan_windows


@pytest.mark.parametrize(("phase", "rows", "columns"), [
    (PHASES[0], [0, 2, 4, 6], [1, 3, 5]),
    (PHASES[1], [1, 3, 5], [0, 2, 4, 6]),
])  # fmt: skip
def test_every_second_row_and_column_attends_in_all_frames(phase, rows, columns):
    grid = plan_windows((2, 7, 7), window=(16, 7, 7), rolled=False)
    kept = np.zeros(98, np.bool_)
    kept[kept_places(grid, phase=phase)] = True
    expected = np.zeros((2, 7, 7), np.bool_)
    expected[np.ix_([0, 1], rows, columns)] = True
    assert (kept == expected.ravel()).all()


def test_window_of_one_row_keeps_it():
    grid = plan_windows((1, 1, 5), window=(1, 7, 7), rolled=False)
    assert kept_places(grid, phase=(1, 0)).tolist() == [0, 2, 4]
