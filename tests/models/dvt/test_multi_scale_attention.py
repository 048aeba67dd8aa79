"""D-MS-A against a slow loop and against what the paper's equations imply."""

import math

import pytest
import torch
from torch import nn

from gopstream.models.dvt.multi_scale_attention import (
    CoarseScale,
    DeformableMultiScaleAttention,
    resize_tokens,
)
from gopstream.models.dvt.options import BlockOptions
from gopstream.models.layers.multiscale_plan import BlockShape

# Not square, so that an exchange of x and y cannot pass.
HEIGHT, WIDTH = 4, 6


def make_attention(seed=0, *, query_stride=1, **options):
    """An attention in float64 whose points lie a cell or two away, some outside the map."""
    torch.manual_seed(seed)
    attention = DeformableMultiScaleAttention(
        BlockShape(8, 8, 2, stage=0, query_stride=query_stride),
        options=BlockOptions(**({"num_points": 3, "coarse_stride": 2} | options)),
    ).double()
    for predict in attention.sampling:
        nn.init.normal_(predict.weight)
        nn.init.normal_(predict.bias)
    return attention


def make_tokens(seed=1, *, batch=2, num_frames=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        batch, num_frames, HEIGHT, WIDTH, 8, generator=generator, dtype=torch.float64
    )


def bilinear(grid, u, v, *, inside_only=True):
    """Value of `grid` (H, W, d) at pixel-index place (u, v); outside 0, or that at the border."""
    height, width = grid.shape[:2]
    total = torch.zeros(grid.shape[-1], dtype=grid.dtype)
    for y in (math.floor(v), math.floor(v) + 1):
        for x in (math.floor(u), math.floor(u) + 1):
            weight = (1 - abs(u - x)) * (1 - abs(v - y))
            if 0 <= y < height and 0 <= x < width:
                total = total + weight * grid[y, x]
            elif not inside_only:
                total = total + weight * grid[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]
    return total


def upsample_slowly(frame):
    """Bring a (H, W, D) map to the token grid, keeping to the border."""
    rows, columns = frame.shape[:2]
    out = torch.zeros(HEIGHT, WIDTH, frame.shape[-1], dtype=frame.dtype)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            u, v = (x + 0.5) * columns / WIDTH - 0.5, (y + 0.5) * rows / HEIGHT - 0.5
            out[y, x] = bilinear(frame, u, v, inside_only=False)
    return out


def attend_slowly(attention, tokens):
    """Equations 15 and 16 for one clip, query by query."""
    coarse = attention.coarse_scale(tokens.unsqueeze(0))[0]
    upsampled = torch.stack([upsample_slowly(frame) for frame in coarse])
    scales = [tokens, upsampled]
    sampled_maps = [tokens, upsampled if attention.scale_form == "literal" else coarse]
    queries = [attention.query(scale) for scale in scales]
    if attention.pooling is not None:
        queries = [attention.pooling(query.unsqueeze(0))[0] for query in queries]
    values = [attention.value(scale) for scale in sampled_maps]
    out = torch.zeros_like(queries[0])
    num_frames, query_height, query_width = out.shape[:3]
    for t in range(num_frames):
        for y in range(query_height):
            for x in range(query_width):
                predicted = torch.stack(
                    [attention.sampling[f](queries[f][t, y, x]) for f in range(2)]
                )
                for head in range(2):
                    exponents = predicted[:, head, :, 2].exp()
                    alpha = exponents / exponents.sum()
                    channels = slice(head * 4, (head + 1) * 4)
                    for f in range(2):
                        rows, columns = values[f].shape[1:3]
                        for n in range(predicted.shape[2]):
                            dx, dy, _ = predicted[f, head, n].tolist()
                            u = (x + 0.5) * columns / query_width + dx - 0.5
                            v = (y + 0.5) * rows / query_height + dy - 0.5
                            out[t, y, x, channels] += alpha[f, n] * bilinear(
                                values[f][t, :, :, channels], u, v
                            )
    return attention.output(out)


@pytest.mark.parametrize("scale_form", ["literal", "commuted"])
@pytest.mark.parametrize(
    ("query_stride", "projections"), [(1, "query_value"), (1, "value_output"), (2, "query_value")]
)
@torch.no_grad()
def test_equals_the_loop_over_queries_scales_and_points(scale_form, query_stride, projections):
    attention = make_attention(
        scale_form=scale_form, query_stride=query_stride, projections=projections
    )
    tokens = make_tokens(batch=2, num_frames=2)
    expected = torch.stack([attend_slowly(attention, clip) for clip in tokens])
    torch.testing.assert_close(attention(tokens), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_coarse_map_is_a_strided_convolution_of_each_channel_and_its_norm():
    torch.manual_seed(0)
    scale = CoarseScale(4, stride=2)
    tokens = torch.randn(1, 3, 5, 6, 4)
    padded = nn.functional.pad(tokens, (0, 0, 1, 1, 1, 1, 1, 1))
    kernel = scale.convolution.weight[:, 0]
    assert kernel.shape == (4, 3, 3, 3)
    for t, y, x in [(0, 0, 0), (1, 2, 1), (2, 1, 2)]:
        patch = padded[0, t : t + 3, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
        summed = torch.einsum("tyxd,dtyx->d", patch, kernel)
        torch.testing.assert_close(scale(tokens)[0, t, y, x], scale.norm(summed))
    assert scale(tokens).shape == (1, 3, 3, 3, 4)


@pytest.mark.parametrize("stage", [0, 1, 2, 3, 4])
def test_the_coarse_stride_halves_with_each_stage(stage):
    shape = BlockShape(8, 8, 2, stage=stage, query_stride=1)
    attention = DeformableMultiScaleAttention(shape, options=BlockOptions())
    stride = max(1, 8 // 2**stage)
    assert attention.coarse_scale.convolution.stride == (1, stride, stride)


@torch.no_grad()
def test_projecting_and_resizing_may_change_places():
    """The two scale forms have the same queries, since weights sum to 1 at borders too."""
    torch.manual_seed(0)
    project = nn.Linear(8, 8).double()
    coarse = make_tokens()[:, :, ::2, ::2]
    first = project(resize_tokens(coarse, height=HEIGHT, width=WIDTH))
    last = resize_tokens(project(coarse), height=HEIGHT, width=WIDTH)
    torch.testing.assert_close(first, last, rtol=0, atol=1e-13)


@torch.no_grad()
def test_the_scale_forms_differ_in_how_values_are_read_alone():
    literal, commuted = make_attention(), make_attention(scale_form="commuted")
    tokens = make_tokens()
    assert (literal(tokens) - commuted(tokens)).abs().max() > 1e-3
    for attention in (literal, commuted):
        # The finer scale wins all the weight, so that values of the coarse one do not count.
        attention.sampling[1].weight.view(2, 3, 3, 8)[:, :, 2] = 0.0
        attention.sampling[1].bias.view(2, 3, 3)[:, :, 2] = -1e4
    torch.testing.assert_close(literal(tokens), commuted(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("whole", "reached"), [(True, {1, 2, 3}), (False, {2})])
@torch.no_grad()
def test_a_frame_is_seen_only_as_far_as_the_coarse_convolution_reaches(whole, reached):
    # Property 11: without offsets, and with them: points stay in the query's frame.
    attention = make_attention()
    if not whole:
        attention.coarse_scale.convolution.weight[:, :, [0, 2]] = 0.0
    tokens = make_tokens(num_frames=5)
    changed = tokens.clone()
    changed[:, 2] *= -1.0
    difference = (attention(changed) - attention(tokens)).abs().amax(dim=(0, 2, 3, 4))
    assert {t for t in range(5) if difference[t] > 0} == reached


@pytest.mark.parametrize("query_stride", [1, 2])
def test_gradients_equal_finite_differences(query_stride):  # property 5
    attention = make_attention(query_stride=query_stride)
    tokens = make_tokens(batch=1, num_frames=2).requires_grad_()
    assert torch.autograd.gradcheck(attention, (tokens,), eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("scale_form", ["literal", "commuted"])
@torch.no_grad()
def test_weights_of_both_scales_sum_to_one_so_that_a_constant_stays(scale_form):  # property 13
    attention = make_attention(scale_form=scale_form)
    for predict in attention.sampling:
        predict.weight.view(2, 3, 3, 8)[:, :, :2] = 0.0
        predict.bias.view(2, 3, 3)[:, :, :2] = 0.0
    attention.value.weight.zero_()
    # Away from the border of the coarse map, outside of which it is 0.
    got = attention(make_tokens())[:, :, 1:-1, 1:-1]
    constant = attention.value.bias.expand_as(got)
    torch.testing.assert_close(got, constant, rtol=0, atol=1e-13)


@torch.no_grad()
def test_order_of_the_points_of_a_scale_does_not_matter():  # property 14
    attention = make_attention()
    tokens = make_tokens()
    before = attention(tokens)
    for parameter in attention.sampling[1].parameters():
        rows = parameter.view(2, 3, 3, -1)
        rows.copy_(rows[:, [2, 0, 1]].clone())
    torch.testing.assert_close(attention(tokens), before, rtol=0, atol=1e-13)
