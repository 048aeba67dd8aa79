"""Attention over sampled points: equal to plain loops, and the properties of the operator.

Numbers in comments are those of the properties in the specification of DVT.
"""

import pytest
import torch
import torch.nn.functional as F

from gopstream.models.dvt.point_attention import attend_points
from gopstream.models.dvt.portable_points import point_locations
from sampled_points import PointCase, attend_in_loops

SUBCLIPS = PointCase(
    groups=2, queries=2, heads=2, head_width=3, points=3, query_grid=(2, 3), grids=((2, 3),) * 2
)
POOLED = PointCase(
    groups=1, queries=2, heads=2, head_width=2, points=2, query_grid=(2, 3), grids=((4, 6),) * 2
)
SCALES = PointCase(
    groups=2, queries=1, heads=1, head_width=4, points=4, query_grid=(3, 4), grids=((3, 4), (5, 2))
)
SINGLE_CELLS = PointCase(
    groups=1, queries=1, heads=1, head_width=2, points=3, query_grid=(1, 1), grids=((1, 1), (1, 2))
)
CASES = [SUBCLIPS, POOLED, SCALES, SINGLE_CELLS]


def attend(case, values, predicted, **options):
    return attend_points(values, predicted, grids=case.grids, query_grid=case.query_grid, **options)


def gradients(result, inputs):
    weights = torch.linspace(-1, 2, result.numel(), dtype=torch.float64).view(result.shape)
    return torch.autograd.grad(result, inputs, weights.to(result.dtype))


@pytest.mark.parametrize("case", CASES)
def test_equals_plain_loops_and_so_do_the_gradients(case):
    values, predicted = (tensor.requires_grad_() for tensor in case.draw(0))
    expected = attend_in_loops(values, predicted, grids=case.grids, query_grid=case.query_grid)
    got = attend(case, values, predicted)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
    for ours, plain in zip(
        gradients(got, (values, predicted)),
        gradients(expected, (values, predicted)),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [SUBCLIPS, SCALES])
def test_gradients_equal_finite_differences(case):  # 5
    inputs = tuple(tensor.requires_grad_() for tensor in case.draw(1))
    assert torch.autograd.gradcheck(lambda *pair: attend(case, *pair), inputs, fast_mode=True)


def test_without_offsets_and_logits_it_is_the_mean_over_the_maps():  # 1
    values, predicted = SUBCLIPS.draw(2)
    mean = values.unflatten(1, (2, 6)).mean(dim=1, keepdim=True).expand(-1, 2, -1, -1)
    got = attend(SUBCLIPS, values, torch.zeros_like(predicted))
    torch.testing.assert_close(got, mean, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (-2, 1), (0, -1), (3, 0)])
def test_whole_offset_shifts_by_cells_of_each_map_and_brings_in_zeros(dx, dy):  # 2, 16
    values, predicted = SCALES.draw(3)
    predicted = torch.zeros_like(predicted)
    predicted[..., 0], predicted[..., 1] = dx, dy
    predicted[:, :, 1, ..., 2] = -1e9  # the first map alone counts
    cells = values[:, :12].unflatten(1, (3, 4))
    expected = torch.zeros_like(cells)
    for y in range(3):
        for x in range(4):
            if 0 <= y + dy < 3 and 0 <= x + dx < 4:
                expected[:, y, x] = cells[:, y + dy, x + dx]
    got = attend(SCALES, values, predicted)[:, 0].unflatten(1, (3, 4))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (0, 1)])
def test_query_over_four_cells_reads_their_mean_and_an_offset_counts_cells(dx, dy):  # 16
    values, predicted = POOLED.draw(4)
    predicted = torch.zeros_like(predicted)
    predicted[..., 0], predicted[..., 1] = dx, dy
    padded = torch.zeros(1, 2, 5, 7, 4, dtype=torch.float64)
    padded[:, :, :4, :6] = values.unflatten(1, (2, 4, 6))
    shifted = padded[:, :, dy : dy + 4, dx : dx + 6].mean(dim=1)
    means = shifted.unflatten(2, (3, 2)).unflatten(1, (2, 2)).mean(dim=(2, 4))
    got = attend(POOLED, values, predicted)
    for query in range(2):
        torch.testing.assert_close(got[:, query], means.flatten(1, 2), rtol=0, atol=1e-14)


def test_no_gradient_crosses_from_group_to_group():  # 3
    values, predicted = (tensor.requires_grad_() for tensor in SUBCLIPS.draw(5))
    result = attend(SUBCLIPS, values, predicted)
    for gradient in torch.autograd.grad(result[0].square().sum(), (values, predicted)):
        assert gradient[1].eq(0).all()
        assert gradient[0].ne(0).any()


def test_weights_of_a_query_and_head_sum_to_one_over_all_points_of_all_maps():  # 13
    _, predicted = SCALES.draw(6)
    _, weights = point_locations(predicted, grids=SCALES.grids, query_grid=SCALES.query_grid)
    torch.testing.assert_close(
        weights.sum(dim=(2, 5)), torch.ones(2, 1, 12, 1, dtype=torch.float64), rtol=0, atol=1e-14
    )


def test_constant_stays_where_all_points_are_inside():  # 13
    values, predicted = POOLED.draw(7)
    inside = predicted.clone()
    inside[..., :2] = inside[..., :2].clamp(-0.49, 0.49)
    constant = torch.full_like(values, 0.7)
    torch.testing.assert_close(
        attend(POOLED, constant, inside), torch.full_like(inside[:, :, 0, :, :, 0, 0], 0.7)
        .repeat_interleave(2, dim=-1), rtol=0, atol=1e-14
    )  # fmt: skip
    assert attend(POOLED, constant, predicted).min() < 0.6


def test_order_of_the_points_does_not_matter():  # 14
    values, predicted = SCALES.draw(8)
    torch.testing.assert_close(
        attend(SCALES, values, predicted[..., [2, 0, 3, 1], :]),
        attend(SCALES, values, predicted),
        rtol=0,
        atol=1e-14,
    )


def attend_by_embedding_bag(values, locations, weights, *, grids):
    """Add up table rows: four for each point, weighted with alpha and the bilinear share."""
    groups, num_queries, _, num_places, num_heads = locations.shape[:5]
    head_width = values.shape[2] // num_heads
    bags, shares, first = [], [], 0
    for k, (height, width) in enumerate(grids):
        x = locations[:, :, k, ..., 0] * width - 0.5
        y = locations[:, :, k, ..., 1] * height - 0.5
        for row_step in (0, 1):
            for column_step in (0, 1):
                row, column = y.detach().floor() + row_step, x.detach().floor() + column_step
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                cell = first + row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
                bags.append(cell.long())
                bilinear = (1 - (y - row).abs()) * (1 - (x - column).abs())
                shares.append(weights[:, :, k] * bilinear * inside)
        first += height * width
    group = torch.arange(groups)[:, None, None, None, None]
    head = torch.arange(num_heads)[:, None]
    rows = (group * first + torch.cat(bags, dim=-1)) * num_heads + head
    summed = F.embedding_bag(
        rows.flatten(0, 3),
        values.reshape(-1, head_width),
        per_sample_weights=torch.cat(shares, dim=-1).flatten(0, 3),
        mode="sum",
    )
    return summed.view(groups, num_queries, num_places, -1)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_embedding_bag_form_with_all_its_gradients(case):  # 12
    values, predicted = (tensor.requires_grad_() for tensor in case.draw(9))
    sizes = {"grids": case.grids, "query_grid": case.query_grid}
    locations, weights = point_locations(predicted, **sizes)
    bags = attend_by_embedding_bag(values, locations, weights, grids=case.grids)
    got = attend(case, values, predicted)
    torch.testing.assert_close(got, bags, rtol=0, atol=1e-14)
    ours, theirs = (gradients(result, (values, predicted)) for result in (got, bags))
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(ours[1][..., :2], theirs[1][..., :2], rtol=0, atol=1e-13)
    torch.testing.assert_close(ours[1][..., 2], theirs[1][..., 2], rtol=0, atol=1e-13)


def test_locations_span_each_map_from_zero_to_one():
    predicted = torch.zeros(1, 1, 2, 12, 1, 1, 3)
    predicted[:, :, 1, ..., 0] = 1.0
    locations, _ = point_locations(predicted, grids=SCALES.grids, query_grid=(3, 4))
    places = locations[0, 0, :, :, 0, 0].unflatten(1, (3, 4))
    torch.testing.assert_close(places[0, 0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(places[0, :, 0, 1], torch.tensor([1 / 6, 0.5, 5 / 6]))
    # One cell of the second map, two columns wide.
    torch.testing.assert_close(places[1, ..., 0], places[0, ..., 0] + 0.5)


def test_half_precision_values_are_read_at_float32_places():  # 22
    case = PointCase(1, 1, 2, 4, 8, (8, 8), ((56, 56),))
    values, predicted = (tensor.bfloat16() for tensor in case.draw(10, spread=20.0))
    exact = attend(case, values.double(), predicted.double())
    got = attend(case, values, predicted)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), exact, rtol=2**-8, atol=2e-5)


@pytest.mark.parametrize("far", [1e5, 1e30])
def test_points_far_outside_bring_nothing_and_finite_gradients(far):
    values, predicted = SUBCLIPS.draw(11)
    predicted[..., 0] = far
    values, predicted = values.requires_grad_(), predicted.requires_grad_()
    result = attend(SUBCLIPS, values, predicted)
    assert result.eq(0).all()
    assert all(gradient.eq(0).all() for gradient in gradients(result, (values, predicted)))


def test_inputs_may_be_views():
    values, predicted = SCALES.draw(12)
    wide = torch.cat([values, values], dim=2)[:, :, 4:]
    turned = predicted.transpose(3, 5).contiguous().transpose(3, 5)
    assert not wide.is_contiguous()
    assert torch.equal(attend(SCALES, wide, turned), attend(SCALES, values, predicted))


def test_compiles_in_one_graph():
    inputs = tuple(tensor.float() for tensor in SCALES.draw(13))
    compiled = torch.compile(
        lambda *pair: attend(SCALES, *pair), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(*inputs), attend(SCALES, *inputs))


def test_on_a_cpu_the_portable_form_is_taken():
    inputs = SCALES.draw(14)
    portable = attend(SCALES, *inputs, implementation="portable")
    assert torch.equal(attend(SCALES, *inputs), portable)


def test_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match=r"'auto', 'portable', 'triton', got 'cuda'"):
        attend(SCALES, *SCALES.draw(15), implementation="cuda")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, p: (v[:, 1:], p), r"22 cells of grids .* as P, got \(2, 21, 4\)"),
        (lambda v, p: (v, p[:, :, :1]), r"K = 2 \(grids\) and L = 12 .*got \(2, 1, 1, 12,"),
        (lambda v, p: (v, p[:, :, :, 1:]), r"L = 12 \(query_grid \(3, 4\)\), got"),
        (lambda v, p: (v, p[..., :2]), r"predicted must be \(G, Q, K, L, h, N, 3\)"),
        (lambda v, p: (v[:1], p), r"same groups, got G = 1 and 2"),
        (
            lambda v, p: (v[..., :3], p.repeat(1, 1, 1, 1, 2, 1, 1)),
            r"multiple of the h = 2 .*D = 3",
        ),
    ],
)
def test_wrong_shapes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        attend(SCALES, *change(*SCALES.draw(16)))
