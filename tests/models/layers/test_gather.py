"""Copies of rows, and their gradient, against plain indexing."""

import numpy as np
import pytest
import torch

from gopstream.models.layers.gather import gather_rows, make_row_map, widen_to_clips

MAPS = {
    "permutation": ([2, 0, 3, 1], 4),
    "with padding": ([2, -1, 0, 3, -1, 1], 4),
    "of some rows": ([3, 1], 5),
    "of some rows with padding": ([-1, 3, 1], 5),
}


def plain(rows, source):
    padded = torch.cat([rows, torch.zeros_like(rows[:, :1])], dim=1)
    return padded[:, torch.tensor(source)]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", MAPS)
def test_rows_and_gradient_are_those_of_indexing(name, backwards):
    source, num_rows = MAPS[name]
    row_map = make_row_map(np.array(source), num_rows=num_rows, device=torch.device("cpu"))
    if backwards:
        row_map = row_map.reversed()
        num_rows, source = (
            len(source),
            [source.index(row) if row in source else -1 for row in range(num_rows)],
        )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, num_rows, 3, generator=generator, dtype=torch.float64)
    rows.requires_grad_()
    weights = torch.randn(2, len(source), 3, generator=generator, dtype=torch.float64)
    expected = plain(rows, source)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), rows)
    copied = gather_rows(rows, row_map)
    (got,) = torch.autograd.grad((copied * weights).sum(), rows)
    assert torch.equal(copied, expected)
    assert torch.equal(got, wanted)


def test_gradient_of_the_gradient_is_right():
    row_map = make_row_map(np.array([2, -1, 0]), num_rows=4, device=torch.device("cpu"))
    rows = torch.randn(1, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda given: gather_rows(given, row_map) ** 3, (rows,))


@pytest.mark.parametrize("name", ["permutation", "with padding", "of some rows"])
def test_widened_map_lays_groups_of_all_clips_side_by_side(name):
    source, num_rows = MAPS[name]
    row_map = make_row_map(np.array(source), num_rows=num_rows, device=torch.device("cpu"))
    wide = widen_to_clips(row_map, batch=3, group=2)
    rows = torch.randn(3, num_rows, 4, dtype=torch.float64)
    groups = gather_rows(rows, row_map).unflatten(1, (-1, 2)).transpose(0, 1)
    got = gather_rows(rows.flatten(0, 1)[None], wide)[0]
    assert torch.equal(got, groups.flatten(0, 2))
    back = gather_rows(groups.flatten(0, 2)[None], wide.reversed())[0]
    expected = gather_rows(groups.transpose(0, 1).flatten(1, 2), row_map.reversed())
    assert torch.equal(back, expected.flatten(0, 1))


def test_row_that_would_be_copied_twice_is_refused():
    with pytest.raises(AssertionError, match="twice"):
        make_row_map(np.array([1, 1]), num_rows=2, device=torch.device("cpu"))
