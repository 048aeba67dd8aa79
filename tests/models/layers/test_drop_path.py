"""Stochastic depth: whole rows go, the expectation stays, evaluation is untouched."""

import pytest
import torch

from gopstream.models.layers.drop_path import DropPath, drop_path, drop_path_rates


def test_each_row_is_all_zero_or_scaled():
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(64, 3, 2), rate=0.25, training=True)
    rows = dropped.flatten(1)
    assert torch.equal(rows.amin(1), rows.amax(1))
    assert rows.unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_rows_of_two_dimensions_are_drawn_apart():
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(16, 8, 5), rate=0.5, training=True, row_dims=2)
    assert torch.equal(dropped.amin(2), dropped.amax(2))
    kept_frames = (dropped[:, :, 0] > 0).sum(1)
    assert ((kept_frames > 0) & (kept_frames < 8)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_of_dropped_rows_is_the_rate(dtype):
    torch.manual_seed(0)
    rows = 200_000
    dropped = drop_path(torch.ones(rows, 1, dtype=dtype), rate=0.003, training=True)
    assert dropped.dtype == dtype
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(0.003, abs=4 * (0.003 / rows) ** 0.5)


def test_the_gradient_is_that_of_the_kept_rows():
    torch.manual_seed(1)
    branch = torch.ones(16, 2, requires_grad=True)
    dropped = drop_path(branch, rate=0.5, training=True)
    dropped.sum().backward()
    assert torch.equal(branch.grad, dropped.detach())
    assert 0 < (dropped == 0).sum() < dropped.numel()


def test_evaluation_and_rate_0_return_the_branch_itself_and_draw_nothing():
    branch, state = torch.ones(4), torch.random.get_rng_state()
    assert drop_path(branch, rate=0.9, training=False) is branch
    assert drop_path(branch, rate=0.0, training=True) is branch
    assert DropPath(0.9).eval()(branch) is branch
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_module_does_what_the_function_does():
    torch.manual_seed(3)
    by_function = drop_path(torch.ones(8, 8, 2), rate=0.5, training=True, row_dims=2)
    torch.manual_seed(3)
    assert torch.equal(DropPath(0.5, row_dims=2)(torch.ones(8, 8, 2)), by_function)


def test_rates_are_linear_over_the_blocks():
    assert drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 1) == [0.0]
    assert drop_path_rates(0.3, 0) == []
    with torch.device("meta"):
        assert drop_path_rates(0.2, 2) == pytest.approx([0.0, 0.2])


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_rate_that_is_no_probability_is_refused(rate):
    for call in (
        lambda: DropPath(rate),
        lambda: drop_path_rates(rate, 3),
        lambda: drop_path(torch.ones(2), rate=rate, training=True),
    ):
        with pytest.raises(ValueError, match=f"drop path rate is {rate}"):
            call()


@pytest.mark.parametrize("row_dims", [0, 3])
def test_row_dims_must_be_dimensions_of_the_branch(row_dims):
    with pytest.raises(ValueError, match=f"row_dims is {row_dims}"):
        drop_path(torch.ones(2, 2), rate=0.5, training=True, row_dims=row_dims)


def test_depth_must_not_be_negative():
    with pytest.raises(ValueError, match="depth is -1"):
        drop_path_rates(0.1, -1)
