"""The fused kernels in Triton's interpreter: `test_triton_points.py` runs this file by itself.

The interpreter must be chosen before triton is imported, so it needs a process of its own.
"""

import random

import pytest
import torch

from gopstream.models.dvt.point_attention import attend_points
from sampled_points import PointCase, attend_in_loops

# One head of five channels, which fill a chunk of 16 in part.
SUBCLIPS = PointCase(
    groups=2, queries=2, heads=1, head_width=5, points=2, query_grid=(2, 3), grids=((4, 6),) * 2
)
# Two heads of three chunks, two runs of maps, more places than a tile of either kernel.
SCALES = PointCase(
    groups=1,
    queries=1,
    heads=2,
    head_width=48,
    points=1,
    query_grid=(11, 12),
    grids=((11, 12), (3, 4)),
)
SMALL = PointCase(
    groups=2, queries=1, heads=2, head_width=3, points=2, query_grid=(1, 2), grids=((2, 2),)
)
RELATIVE_ERROR = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def draw_case(seed):
    choice = random.Random(seed)
    grids = tuple((choice.randint(1, 5), choice.randint(1, 5)) for _ in range(choice.randint(1, 2)))
    return PointCase(
        groups=choice.randint(1, 2),
        queries=choice.randint(1, 2),
        heads=choice.choice([1, 3]),
        head_width=choice.choice([2, 16, 24]),
        points=choice.randint(1, 2),
        query_grid=(choice.randint(1, 3), choice.randint(1, 3)),
        grids=choice.choice([grids, grids[:1] * 2]),
    )


def attend(case, values, predicted, implementation="triton"):
    return attend_points(
        values,
        predicted,
        grids=case.grids,
        query_grid=case.query_grid,
        implementation=implementation,
    )


def assert_near(got, expected, *, dtype):
    error = (got.double() - expected).abs().max() / expected.abs().max()
    assert error < RELATIVE_ERROR[dtype]


def check_case(case, dtype, *, seed):
    """Compare result and gradients with float64 loops over the very numbers that are stored."""
    inputs = [tensor.to(dtype).requires_grad_() for tensor in case.draw(seed)]
    plain = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = attend_in_loops(*plain, grids=case.grids, query_grid=case.query_grid)
    got = attend(case, *inputs)
    assert got.dtype == dtype
    assert_near(got.detach(), expected.detach(), dtype=dtype)
    weights = torch.linspace(-1, 2, got.numel()).view(got.shape).to(dtype)
    ours = torch.autograd.grad(got, inputs, weights)
    theirs = torch.autograd.grad(expected, plain, weights.double())
    assert [gradient.dtype for gradient in ours] == [dtype, dtype]
    assert_near(ours[0], theirs[0], dtype=dtype)
    assert_near(ours[1][..., :2], theirs[1][..., :2], dtype=dtype)
    assert_near(ours[1][..., 2], theirs[1][..., 2], dtype=dtype)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(SUBCLIPS, torch.float64), (SUBCLIPS, torch.bfloat16), (SCALES, torch.float32)],
)
def test_equals_plain_loops_and_so_do_the_gradients(case, dtype):
    check_case(case, dtype, seed=0)


@pytest.mark.parametrize("seed", range(2))
def test_random_shapes_equal_plain_loops(seed):
    check_case(draw_case(seed), [torch.float32, torch.bfloat16][seed % 2], seed=seed)


def test_half_precision_predictions_beside_float32_values_keep_their_types():
    values, predicted = SUBCLIPS.draw(1)
    inputs = values.float().requires_grad_(), predicted.bfloat16().requires_grad_()
    got = attend(SUBCLIPS, *inputs)
    expected = attend(SUBCLIPS, *inputs, implementation="portable")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(got.sum(), inputs)
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.bfloat16]


def test_inputs_may_be_views():
    values, predicted = (tensor.float() for tensor in SMALL.draw(2))
    expected = attend(SMALL, values, predicted)
    wide = torch.cat([values, values], dim=2)[:, :, 6:]
    turned = predicted.transpose(3, 5).contiguous().transpose(3, 5)
    assert torch.equal(attend(SMALL, wide, turned), expected)
    channels_first = values.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(attend(SMALL, channels_first, turned), expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_points_far_outside_bring_nothing_and_what_is_no_number_shows():
    values, predicted = (tensor.float() for tensor in SMALL.draw(3))
    predicted[..., 0] = 1e30
    predicted[1, 0, 0, 1, 1, 1, 1] = float("nan")
    inputs = values.requires_grad_(), predicted.requires_grad_()
    got = attend(SMALL, *inputs)
    of_values, of_predicted = torch.autograd.grad(got[0].sum(), inputs, retain_graph=True)
    assert got.detach()[1, 0, 1, 3:].isnan().all()
    assert got.isnan().sum() == 3
    assert got.detach().nan_to_num().eq(0).all()
    assert of_values.eq(0).all()
    assert of_predicted[0].eq(0).all()


def test_torch_takes_it_for_an_operator():
    values, predicted = (tensor.float().requires_grad_() for tensor in SMALL.draw(4))
    torch.library.opcheck(
        torch.ops.gopstream.attend_points.default, (values[:1], predicted[:1], [2, 2], 1, 2)
    )


def test_gradient_is_refused_where_the_order_of_sums_must_be_fixed():
    values, predicted = (tensor.float().requires_grad_() for tensor in SMALL.draw(5))
    attended = attend(SMALL, values, predicted)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match=r"attend_points adds in an order .* warn_only=True"):
            attended.sum().backward(retain_graph=True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="attend_points adds in an order"):
            attended.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert values.grad.isfinite().all()
