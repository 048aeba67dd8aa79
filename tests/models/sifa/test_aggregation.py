"""The SIFA operator: what its specification says, in the form that runs everywhere."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from gopstream.models.sifa.aggregation import attend_neighbours

loops = runpy.run_path(str(Path(__file__).with_name("aggregation_loops.py")))
draw_inputs, run, run_loops = loops["draw_inputs"], loops["run"], loops["run_loops"]


def draw(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def draw_pair(*, channels=3, height=4, width=5):
    shape = (1, 1, height, width, channels)
    return draw(*shape, seed=1), draw(*shape, seed=2)


def attend(query, keys, offsets=None, *, region=3, **options):
    return attend_neighbours(query, keys, offsets_BPHWK2=offsets, region=region, **options)


def move(offsets_like, dy, dx, *, region=3):
    """Return the same offset for every tap of every pixel."""
    offset = torch.tensor([dy, dx], dtype=offsets_like.dtype)
    return offset.expand(*offsets_like.shape[:4], region**2, 2).clone()


@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize("has_offsets", [False, True])
@pytest.mark.parametrize(("region", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_result_and_gradients_are_those_of_loops(region, dilation, has_offsets, has_weights):
    inputs = draw_inputs(
        7, channels=3, region=region, has_offsets=has_offsets, has_weights=has_weights
    )

    def ours(query, keys, offsets, weights):
        return attend(query, keys, offsets, region=region, dilation=dilation, tap_weights=weights)

    expected = run_loops(inputs, region=region, dilation=dilation)
    torch.testing.assert_close(run(ours, inputs), expected, rtol=1e-12, atol=1e-12)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        coarse = draw_inputs(
            7,
            channels=3,
            region=region,
            has_offsets=has_offsets,
            has_weights=has_weights,
            dtype=dtype,
        )
        expected = run_loops(coarse, region=region, dilation=dilation)
        for got, wanted in zip(run(ours, coarse, dtype=dtype), expected, strict=True):
            assert got.dtype == dtype
            assert (got.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_output_is_that_of_the_authors_kernels(golden_folder):
    with np.load(golden_folder / "sifa_op_1.npz") as archive:
        arrays = {
            name: torch.from_numpy(archive[name])
            for name in ("x", "offset", "weight", "agg", "agg64")
        }
    clip = arrays["x"].permute(0, 2, 3, 4, 1)
    query = torch.cat([clip[:, :1], clip[:, :-1]], dim=1)
    offsets = arrays["offset"].permute(0, 2, 3, 4, 1).unflatten(-1, (9, 2))
    weights = arrays["weight"].flatten(2).permute(1, 2, 0)
    found = attend(query, clip, offsets, tap_weights=weights).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(found, arrays["agg"], rtol=0, atol=1e-5)
    found = attend(query.double(), clip.double(), offsets.double(), tap_weights=weights.double())
    torch.testing.assert_close(found.permute(0, 4, 1, 2, 3), arrays["agg64"], rtol=0, atol=1e-12)


def test_regular_taps_are_those_of_unfold():  # property 15
    query, keys = draw_pair(channels=4)
    columns = functional.unfold(keys[0].movedim(-1, 1), 3, padding=1)
    reads = columns.view(4, 9, 4, 5)
    asked = query[0, 0].movedim(-1, 0)
    products = (asked[:, None] * reads).mean(dim=0)
    expected = (products * reads).sum(dim=1).movedim(0, -1)
    torch.testing.assert_close(attend(query, keys)[0, 0], expected)
    zeros = move(query, 0.0, 0.0)
    torch.testing.assert_close(attend(query, keys, zeros)[0, 0], expected)


@pytest.mark.parametrize("has_offsets", [False, True])
def test_region_of_one_scales_the_other_frame(has_offsets):  # property 16
    query, keys = draw_pair()
    offsets = move(query, 0.0, 0.0, region=1) if has_offsets else None
    expected = (query * keys).mean(dim=-1, keepdim=True) * keys
    torch.testing.assert_close(attend(query, keys, offsets, region=1), expected)


@pytest.mark.parametrize("has_offsets", [False, True])
def test_sum_is_of_third_order(has_offsets):  # property 17
    query, keys = draw_pair()
    offsets = draw(1, 1, 4, 5, 9, 2) if has_offsets else None
    plain = attend(query, keys, offsets)
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(attend(2 * query, 2 * keys, offsets), 8 * plain)
    torch.testing.assert_close(attend(-query, keys, offsets), -plain)
    torch.testing.assert_close(attend(query, -keys, offsets), plain)
    torch.testing.assert_close(attend(query, keys, offsets, scale=1.0), 3 * plain)


@pytest.mark.parametrize("far", [1e3, -1e3, 1e30, float("inf"), float("-inf"), float("nan")])
def test_taps_far_outside_read_nothing(far):  # property 18
    query, keys = draw_pair()
    query.requires_grad_()
    offsets = move(query, far, 0.0).requires_grad_()
    result = attend(query, keys, offsets)
    assert result.abs().max() == 0
    gradients = torch.autograd.grad(result.sum(), [query, offsets])
    assert [gradient.abs().max() for gradient in gradients] == [0, 0]


def test_whole_offsets_move_the_region():  # property 20
    query, keys = draw_pair()
    below = functional.pad(keys, (0, 0, 0, 0, 0, 1))[:, :, 1:]
    found = attend(query, keys, move(query, 1.0, 0.0))
    # Row 0 also reads keys[0] as the neighbour above, which the moved map has lost.
    torch.testing.assert_close(found[:, :, 1:], attend(query, below)[:, :, 1:])
    aside = functional.pad(keys, (0, 0, 1, 0))[:, :, :, :-1]
    found = attend(query, keys, move(query, 0.0, -1.0))
    torch.testing.assert_close(found[:, :, :, :-1], attend(query, aside)[:, :, :, :-1])


def test_offsets_that_cancel_the_taps_make_them_equal():  # property 20
    query, keys = draw_pair()
    taps = torch.tensor([[1 - tap // 3, 1 - tap % 3] for tap in range(9)], dtype=query.dtype)
    found = attend(query, keys, taps.expand(1, 1, 4, 5, 9, 2))
    expected = 9 * (query * keys).mean(dim=-1, keepdim=True) * keys
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("dy", "expected_row"),
    [
        (0.5, lambda rows: (rows[1] + rows[2]) / 2),
        (-1.25, lambda rows: 0.75 * rows[0]),
        (-1.999, lambda rows: 0.001 * rows[0]),
        (-2.0, lambda rows: 0 * rows[0]),
        (2.75, lambda rows: 0.25 * rows[3]),
        (3.0, lambda rows: 0 * rows[0]),
    ],
    ids=lambda value: str(value) if isinstance(value, float) else "",
)
def test_between_pixels_and_at_the_border_reading_is_bilinear(dy, expected_row):  # property 21
    query, keys = draw_pair()
    found = attend(query, keys, move(query, dy, 0.0, region=1), region=1)
    read = expected_row(keys[0, 0])
    expected = (query[0, 0, 1] * read).mean(dim=-1, keepdim=True) * read
    torch.testing.assert_close(found[0, 0, 1], expected)
    turned = attend(
        query.transpose(2, 3), keys.transpose(2, 3), move(query, 0.0, dy, region=1).transpose(2, 3),
        region=1,
    )  # fmt: skip
    torch.testing.assert_close(turned.transpose(2, 3), found)


def test_channels_may_be_permuted():  # property 22
    query, keys = draw_pair(channels=5)
    offsets = draw(1, 1, 4, 5, 9, 2)
    order = torch.tensor([3, 0, 4, 1, 2])
    found = attend(query[..., order], keys[..., order], offsets)
    torch.testing.assert_close(found, attend(query, keys, offsets)[..., order])


def test_moved_frames_give_a_moved_result_away_from_the_border():  # property 22
    query, keys = draw_pair(height=9, width=8)
    offsets = draw(1, 1, 9, 8, 9, 2).clamp(-0.9, 0.9)
    moved = [tensor.roll((1, 2), (2, 3)) for tensor in (query, keys, offsets)]
    found, expected = attend(*moved), attend(query, keys, offsets).roll((1, 2), (2, 3))
    torch.testing.assert_close(found[:, :, 3:-2, 4:-2], expected[:, :, 3:-2, 4:-2])


@pytest.mark.parametrize("align_corners", [False, True])
def test_reading_is_that_of_grid_sample(align_corners):  # property 23
    query, keys = draw_pair()
    offsets = 2 * draw(1, 1, 4, 5, 9, 2)
    products, reads = [], []
    for tap in range(9):
        y = torch.arange(4)[:, None] - 1 + tap // 3 + offsets[0, 0, ..., tap, 0]
        x = torch.arange(5) - 1 + tap % 3 + offsets[0, 0, ..., tap, 1]
        if align_corners:
            places = torch.stack([2 * x / 4 - 1, 2 * y / 3 - 1], dim=-1)
        else:
            places = torch.stack([(2 * x + 1) / 5 - 1, (2 * y + 1) / 4 - 1], dim=-1)
        read = functional.grid_sample(
            keys[0].movedim(-1, 1), places[None], align_corners=align_corners
        )
        reads.append(read[0].movedim(0, -1))
        products.append((query[0, 0] * reads[-1]).mean(dim=-1))
    # Two steps, as in the paper: the correlation of all taps, then the sum.
    expected = torch.einsum("khw,khwc->hwc", torch.stack(products), torch.stack(reads))
    torch.testing.assert_close(attend(query, keys, offsets)[0, 0], expected)


@pytest.mark.parametrize("has_offsets", [False, True])
def test_gradients_are_those_of_differences(has_offsets):  # property 24
    inputs = draw_inputs(
        3, channels=2, region=3, has_offsets=has_offsets, has_weights=True, height=2, width=2
    )
    given = [inputs["frames"][:, :-1], inputs["frames"][:, 1:]]
    given += [inputs["offsets"]] if has_offsets else []
    given = [tensor.clone().requires_grad_() for tensor in given]
    weights = inputs["weights"]
    assert torch.autograd.gradcheck(
        lambda *tensors: attend(*tensors, tap_weights=weights), given, raise_exception=True
    )


def test_on_a_pixel_the_derivative_is_the_one_ahead():
    """By every form: a rounding error decides nothing. Outside, it is 0."""
    query, keys = draw_pair(height=7, width=11)
    offsets = move(query, 0.0, 0.0).requires_grad_()
    torch.autograd.backward(attend(query, keys, offsets).sum())
    step = 1e-6
    for axis in range(2):
        ahead = offsets.detach().clone()
        ahead[..., 4, axis] += step
        slope = (attend(query, keys, ahead) - attend(query, keys)).sum(dim=-1) / step
        torch.testing.assert_close(offsets.grad[..., 4, axis], slope, rtol=1e-4, atol=1e-4)
    assert offsets.grad[:, :, 0, :, :3, 0].abs().max() == 0
    assert offsets.grad[:, :, :, -1, 2::3, 1].abs().max() == 0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (3, 1)])
def test_frames_of_one_row_or_column_are_as_any(height, width):
    inputs = draw_inputs(
        5, channels=2, region=3, has_offsets=True, has_weights=False, height=height, width=width
    )
    found = run(lambda query, keys, offsets, _: attend(query, keys, offsets), inputs)
    expected = run_loops(inputs, region=3, dilation=1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("has_offsets", [False, True])
def test_memory_order_changes_nothing(has_offsets):
    """Frames come as views of clips, and channels last as views of channels first."""
    query, keys = draw(2, 3, 4, 5, 6, seed=1), draw(2, 3, 4, 5, 6, seed=2)
    offsets = draw(2, 3, 4, 5, 9, 2) if has_offsets else None
    expected = attend(query, keys, offsets)
    assert expected.is_contiguous()
    for axes in ((0, 4, 1, 2, 3), (4, 3, 2, 1, 0)):
        back = sorted(range(5), key=axes.__getitem__)
        turned = [each.permute(axes).contiguous().permute(back) for each in (query, keys)]
        assert not turned[0].is_contiguous()
        found = attend(*turned, offsets)
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected)


def test_half_precision_is_summed_in_float32():
    """A bfloat16 sum of 512 products, times 49 taps, would be off by per cents."""
    query, keys = (tensor.bfloat16() for tensor in draw_pair(channels=512))
    offsets = draw(1, 1, 4, 5, 49, 2).bfloat16()
    for given in (None, offsets):
        exact = attend(
            query.double(), keys.double(), None if given is None else given.double(), region=7
        )
        found = attend(query, keys, given, region=7)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


def test_memory_for_the_way_back_does_not_grow_with_the_taps():
    query, keys = (tensor.requires_grad_() for tensor in draw_pair(channels=64))

    def kept(region):
        storages = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        offsets = draw(1, 1, 4, 5, region**2, 2).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            attend(query, keys, offsets, region=region)
        return sum(storages.values()) - offsets.untyped_storage().nbytes()

    assert kept(5) == kept(1) == 2 * query.untyped_storage().nbytes()


@pytest.mark.parametrize("has_offsets", [False, True])
def test_forward_and_backward_compile_as_one_graph(has_offsets):
    frames = draw(2, 3, 4, 5, 6).requires_grad_()
    offsets = draw(2, 2, 4, 5, 1, 2).requires_grad_() if has_offsets else None

    def gradients(function):
        result = function(frames[:, :-1], frames[:, 1:], offsets, region=1)
        wanted = [frames] if offsets is None else [frames, offsets]
        return [result.detach(), *torch.autograd.grad(result.square().sum(), wanted)]

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled), gradients(attend))
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"region": 2}, "region must be odd and at least 1, got 2"),
        ({"region": -1}, "region must be odd and at least 1, got -1"),
        ({"dilation": 0}, "dilation must be at least 1, got 0"),
        ({"implementation": "cuda"}, "implementation must be one of 'auto', 'portable', 'triton'"),
        ({"keys_BPHWC": torch.zeros(1, 1, 4, 5, 2)}, r"got \(1, 1, 4, 5, 3\) torch.float32 and"),
        ({"keys_BPHWC": torch.zeros(1, 1, 4, 5, 3).half()}, "of one dtype, got .*torch.float16"),
        ({"offsets_BPHWK2": torch.zeros(1, 1, 4, 5, 18)}, r"must be \(1, 1, 4, 5, 9, 2\), got"),
        ({"tap_weights": torch.zeros(1, 9, 1)}, r"tap_weights must be \(1, 9, 3\), got"),
        ({"tap_weights": torch.zeros(1, 9, 3), "scale": 1.0}, "exclude each other"),
        ({"tap_weights": torch.zeros(1, 9, 3, requires_grad=True)}, "are constants"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    given = {
        "query_BPHWC": torch.zeros(1, 1, 4, 5, 3),
        "keys_BPHWC": torch.zeros(1, 1, 4, 5, 3),
        "offsets_BPHWK2": None,
        "region": 3,
        **changed,
    }
    with pytest.raises(ValueError, match=message):
        attend_neighbours(given.pop("query_BPHWC"), given.pop("keys_BPHWC"), **given)


def test_whole_numbers_are_refused():
    frames = torch.zeros(1, 1, 4, 5, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="must be floating-point, got torch.int64"):
        attend(frames, frames)
