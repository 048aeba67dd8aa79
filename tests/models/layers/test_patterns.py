"""The tables of offsets, and how they lie in a window."""

import numpy as np
import pytest

from gopstream.models.layers.patterns import TILES, cell_offsets, freeze_pattern


def lay(pattern, height=7, width=7, **options):
    offsets = cell_offsets(pattern, height=height, width=width, **options)
    return np.array(offsets).reshape(height, width)


def test_each_pattern_shows_the_frames_it_should():  # property 3
    assert sorted(np.ravel(TILES["D"])) == list(range(-7, 9))
    assert sorted(np.ravel(TILES["C"])) == list(range(-4, 5))
    assert sorted(np.ravel(TILES["B"])) == [-1, 0, 1, 2]
    assert sorted(np.ravel(TILES["A"])) == [-1, 0, 0, 1]
    assert sorted(np.ravel(TILES["even-2"])) == [0, 0, 1, 1]
    assert set(np.ravel(TILES["D"]) % 16) == set(range(16))


def test_tile_starts_in_the_first_cell_and_is_cut_at_the_end():
    cells = lay("C")
    assert cells[0].tolist() == [-4, 1, 2, -4, 1, 2, -4]
    assert cells[:, 0].tolist() == [-4, -1, -2, -4, -1, -2, -4]
    counts = {offset: int((cells == offset).sum()) for offset in range(-4, 5)}
    assert counts == {-4: 9, 1: 6, 2: 6, -1: 6, -2: 6, 0: 4, 3: 4, -3: 4, 4: 4}


def test_patterns_without_a_tile_follow_the_window():
    assert np.argwhere(lay("center-one")).tolist() == [[3, 3]]
    assert np.flatnonzero(lay("uneven").all(0)).tolist() == [0, 1, 2, 3]
    assert lay("uneven").sum() == 28
    assert np.argwhere(lay("center-one", 4, 3)).tolist() == [[2, 1]]


def test_sign_of_the_paper_is_the_other_one():
    assert (lay("C", sign="paper") == -lay("C")).all()


def test_tile_can_be_given_by_its_rows():
    assert lay([[0, 5], [2, 0], [1, 1]], 3, 2).tolist() == [[0, 5], [2, 0], [1, 1]]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("E", "must be one of 'none', .*got 'E'"),
        ([[1], [2, 3]], "rows of one"),
        ([], "rows of one"),
    ],
)
def test_wrong_pattern_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        freeze_pattern(pattern)
