"""Which cell a place lies in: borders, grids that do not divide the picture, refusals."""

import pytest
import torch

from gopstream.models.layers.query_cells import cells_at


def test_a_place_belongs_to_the_cell_that_holds_it():
    """Two rows and three columns over 12 x 8 pixels: cells of 4 x 4."""
    places = torch.tensor([[0.0, 0.0], [3.9, 4.0], [4.0, 3.9], [11.9, 7.9]])
    cells = cells_at(places, grid=(2, 3), pixels=(8, 12))
    assert cells.columns.tolist() == [0, 0, 1, 2]
    assert cells.rows.tolist() == [0, 1, 0, 1]
    assert cells.centres.tolist() == [[2, 2], [2, 6], [6, 2], [10, 6]]


def test_cells_need_not_be_whole_pixels():
    cells = cells_at(torch.tensor([[3.0, 1.0]]), grid=(2, 3), pixels=(5, 8))
    assert (cells.columns.item(), cells.rows.item()) == (1, 0)
    torch.testing.assert_close(cells.centres, torch.tensor([[4.0, 1.25]], dtype=torch.float64))


def test_a_rounding_error_before_the_border_is_in_the_last_cell():
    last = torch.tensor([[10.0, 10.0]], dtype=torch.float64).nextafter(torch.zeros(1, 2).double())
    cells = cells_at(last, grid=(3, 7), pixels=(10, 10))
    assert (cells.columns.item(), cells.rows.item()) == (6, 2)


@pytest.mark.parametrize("place", [(-0.1, 2), (2, -0.1), (12, 2), (2, 8), (float("nan"), 2)])
def test_a_place_outside_is_named(place):
    places = torch.tensor([[1.0, 1.0], place])
    with pytest.raises(ValueError, match=rf"\({place[0]:g}, {place[1]:g}\) lies .* of 12 x 8"):
        cells_at(places, grid=(2, 3), pixels=(8, 12))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"places must be \(Q, 2\) as \(x, y\), got \(2,\)"):
        cells_at(torch.zeros(2), grid=(2, 3), pixels=(8, 12))
