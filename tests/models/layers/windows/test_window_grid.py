"""Which token is where: against rolls and cuts of whole arrays."""

import numpy as np
import pytest

from gopstream.models.layers.windows.window_grid import plan_windows, window_mask, window_rows

CASES = {
    "even": ((4, 14, 14), (1, 7, 7), False),
    "odd": ((4, 14, 14), (1, 7, 7), True),
    "padding": ((3, 9, 16), (1, 7, 7), True),
    "clipped": ((3, 5, 9), (1, 7, 7), True),
    "two frames": ((5, 8, 7), (2, 4, 4), True),
    "joint": ((4, 8, 8), (16, 4, 4), True),
    "local": ((12, 8, 8), (8, 4, 4), True),
}


def plain_windows(size, full, rolled, pattern):
    """Roll frames of single cells first, then pad, roll all and cut."""
    window = tuple(min(axis, cut) for axis, cut in zip(size, full, strict=True))
    shift = [cut // 2 if rolled and axis > cut else 0 for axis, cut in zip(size, full, strict=True)]
    numbers = np.arange(np.prod(size)).reshape(size)
    pads = [(0, -axis % cut) for axis, cut in zip(size, window, strict=True)]
    padded = np.pad(numbers, pads, constant_values=-1)
    in_space = np.roll(padded, [-shift[1], -shift[2]], (1, 2))
    for y in range(in_space.shape[1]):
        for x in range(in_space.shape[2]):
            offset = pattern[y % window[1] % len(pattern)][x % window[2] % len(pattern[0])]
            in_space[: size[0], y, x] = np.roll(in_space[: size[0], y, x], offset)
    moved = np.roll(in_space, -shift[0], 0)
    cut = []
    for t in range(0, moved.shape[0], window[0]):
        for y in range(0, moved.shape[1], window[1]):
            for x in range(0, moved.shape[2], window[2]):
                part = moved[t : t + window[0], y : y + window[1], x : x + window[2]]
                cut.append(part.ravel())
    return np.stack(cut)


@pytest.mark.parametrize("pattern", [[[0]], [[-4, 1, 2], [-1, 0, 3], [-2, -3, 4]]])
@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_shifting_padding_rolling_and_cutting(name, pattern):
    size, window, rolled = CASES[name]
    grid = plan_windows(size, window=window, rolled=rolled, pattern=pattern)
    rows = window_rows(grid)
    assert rows.shape == (grid.counts[0], grid.counts[1] * grid.counts[2], grid.tokens_per_window)
    expected = plain_windows(size, window, rolled, pattern)
    assert (rows.reshape(expected.shape) == expected).all()
    # Each token once, however far its offset: nothing is lost (property 1).
    assert sorted(rows[rows >= 0]) == list(range(np.prod(size)))


def frame_of_cells(grid, frame, num_cells=3):
    return (window_rows(grid)[frame, 0] // (grid.size[1] * grid.size[2])).reshape(grid.window[1:])[
        :num_cells, :num_cells
    ]


def test_pattern_c_reads_the_frames_of_the_authors_code():  # property 2
    grid = plan_windows((16, 7, 7), window=(1, 7, 7), rolled=False, pattern="C")
    assert frame_of_cells(grid, 8).tolist() == [[12, 7, 6], [9, 8, 5], [10, 11, 4]]
    assert frame_of_cells(grid, 0).tolist() == [[4, 15, 14], [1, 0, 13], [2, 3, 12]]


def test_pattern_d_shows_each_of_16_frames_in_every_frame():  # property 3
    grid = plan_windows((16, 7, 7), window=(1, 7, 7), rolled=False, pattern="D")
    for frame in range(16):
        assert sorted(frame_of_cells(grid, frame, 4).ravel()) == list(range(16))


def test_pattern_starts_anew_in_each_window():  # property 4
    grid = plan_windows((16, 7, 14), window=(1, 7, 7), rolled=False, pattern="C")
    rows = window_rows(grid)[8]
    where = {int(row % 98): int(row // 98) for row in rows.ravel()}
    assert [8 - where[column] for column in (5, 6, 7, 8)] == [2, -4, -4, 1]


def test_axis_of_one_window_is_not_rolled_and_a_small_one_is_clipped():  # property 15
    grid = plan_windows((2, 7, 9), window=(1, 7, 7), rolled=True)
    assert (grid.window, grid.shift, grid.counts) == ((1, 7, 7), (0, 0, 3), (2, 1, 2))
    grid = plan_windows((2, 4, 8), window=(16, 7, 7), rolled=True)
    assert (grid.window, grid.shift, grid.counts) == ((2, 4, 7), (0, 0, 3), (1, 1, 2))


@pytest.mark.parametrize("name", CASES)
def test_mask_parts_what_is_not_near_by(name):
    """Tokens of a window see each other where no axis was cut by the roll between them."""
    size, window, rolled = CASES[name]
    grid = plan_windows(size, window=window, rolled=rolled)
    mask = window_mask(grid)
    if not any(grid.shift):
        assert mask is None
        return
    padded = [count * cut for count, cut in zip(grid.counts, grid.window, strict=True)]
    numbers = np.arange(np.prod(padded)).reshape(padded)
    rows = plain_windows(tuple(padded), window, rolled, [[0]])
    places = np.stack(np.unravel_index(rows, numbers.shape), -1)  # windows, N, 3
    apart = np.zeros((*rows.shape, rows.shape[1]), np.bool_)
    for axis, (cut, shift) in enumerate(zip(grid.window, grid.shift, strict=True)):
        if shift:
            distance = places[:, :, None, axis] - places[:, None, :, axis]
            apart |= abs(distance) >= cut
    # Padding belongs to the side it lies on, as in Swin.
    assert mask.kinds.shape == (grid.counts[0], grid.counts[1] * grid.counts[2])
    assert (mask.apart[mask.kinds.ravel()] == apart).all()
    # However many windows there are: two kinds for each axis that is rolled.
    assert len(mask.apart) == 2 ** np.count_nonzero(grid.shift)
