"""D-ST-A against a slow loop and against what the paper's equations imply."""

import math

import pytest
import torch
from torch import nn

from gopstream.models.dvt.deformable_attention import DeformableSpaceTimeAttention
from gopstream.models.dvt.options import BlockOptions
from gopstream.models.layers.multiscale_plan import BlockShape

# Not square, so that an exchange of x and y cannot pass.
HEIGHT, WIDTH = 4, 6


def make_attention(seed=0, *, num_heads=2, query_stride=1, **options):
    """An attention in float64 whose points lie a cell or two away, some outside the map."""
    torch.manual_seed(seed)
    attention = DeformableSpaceTimeAttention(
        BlockShape(8, 8, num_heads, stage=0, query_stride=query_stride),
        options=BlockOptions(**({"num_points": 3, "subclip_tokens": 2} | options)),
    ).double()
    nn.init.normal_(attention.sampling.weight)
    nn.init.normal_(attention.sampling.bias)
    return attention


def make_inputs(seed=1, *, num_frames=4, num_targets=2, query_stride=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, num_frames, HEIGHT, WIDTH, 8, generator=generator, dtype=torch.float64)
    grid = (HEIGHT // query_stride, WIDTH // query_stride)
    motion_tokens = torch.randn(
        2, num_frames, num_targets, *grid, 8, generator=generator, dtype=torch.float64
    )
    return tokens, motion_tokens


@torch.no_grad()
def set_offsets(attention, dx, dy):
    """The same offset in cells for all points, and equal weights."""
    attention.sampling.weight.zero_()
    bias = attention.sampling.bias.view(-1, 3)
    bias[:, 0], bias[:, 1], bias[:, 2] = dx, dy, 0.0


def bilinear(grid, u, v):
    """Value of `grid` (H, W, d) at pixel-index place (u, v), 0 outside."""
    total = torch.zeros(grid.shape[-1], dtype=grid.dtype)
    for y in (math.floor(v), math.floor(v) + 1):
        for x in (math.floor(u), math.floor(u) + 1):
            if 0 <= y < grid.shape[0] and 0 <= x < grid.shape[1]:
                total = total + (1 - abs(u - x)) * (1 - abs(v - y)) * grid[y, x]
    return total


def pool_queries_slowly(pooling, queries):
    num_frames, height, width, channels = queries.shape
    kernel = pooling.convolution.weight  # (d, 1, 3, 3, 3)
    head_width = kernel.shape[0]
    pooled = torch.zeros(num_frames, height // 2, width // 2, channels, dtype=queries.dtype)
    for t in range(num_frames):
        for y in range(height // 2):
            for x in range(width // 2):
                for c in range(channels):
                    for a, b, d in torch.cartesian_prod(*[torch.arange(3)] * 3).tolist():
                        tt, yy, xx = t + a - 1, 2 * y + b - 1, 2 * x + d - 1
                        if 0 <= tt < num_frames and 0 <= yy < height and 0 <= xx < width:
                            pooled[t, y, x, c] += (
                                kernel[c % head_width, 0, a, b, d] * queries[tt, yy, xx, c]
                            )
    heads = pooled.split(head_width, dim=-1)
    return torch.cat([pooling.norm(head) for head in heads], dim=-1)


def attend_slowly(attention, tokens, motion_tokens):
    """Equations 3, 5, 10 to 14 for one clip, query by query."""
    num_heads, num_points = attention.sampling.num_heads, attention.sampling.num_points
    subclip_tokens, num_targets = attention.subclip_tokens, motion_tokens.shape[1]
    per_token = num_targets // subclip_tokens
    queries, values = attention.query(tokens), attention.value(tokens)
    if attention.pooling is not None:
        queries = pool_queries_slowly(attention.pooling, queries)
    num_frames, query_height, query_width, width = queries.shape
    value_height, value_width = values.shape[1:3]
    head_width = width // num_heads
    out = torch.zeros_like(queries)
    for t in range(num_frames):
        first = t // subclip_tokens * subclip_tokens
        for y in range(query_height):
            for x in range(query_width):
                predicted = torch.stack(
                    [
                        attention.sampling(queries[t, y, x] + motion_tokens[t, j, y, x])
                        for j in range(num_targets)
                    ]
                )
                for head in range(num_heads):
                    exponents = predicted[:, head, :, 2].exp()
                    alpha = exponents / exponents.sum()
                    channels = slice(head * head_width, (head + 1) * head_width)
                    for j in range(num_targets):
                        for n in range(num_points):
                            dx, dy, _ = predicted[j, head, n].tolist()
                            u = (x + 0.5) / query_width * value_width + dx - 0.5
                            v = (y + 0.5) / query_height * value_height + dy - 0.5
                            sampled = bilinear(values[first + j // per_token, :, :, channels], u, v)
                            out[t, y, x, channels] += alpha[j, n] * sampled
    return attention.output(out)


@pytest.mark.parametrize(
    ("query_stride", "num_targets", "projections"),
    [
        (1, 2, "query_value"),
        (2, 2, "query_value"),
        (1, 2, "value_output"),
        # Each token frame is read for the two sampled frames that it holds.
        (1, 4, "query_value"),
    ],
)
@torch.no_grad()
def test_equals_the_loop_over_queries_frames_and_points(query_stride, num_targets, projections):
    attention = make_attention(query_stride=query_stride, projections=projections)
    tokens, motion_tokens = make_inputs(query_stride=query_stride, num_targets=num_targets)
    expected = torch.stack(
        [attend_slowly(attention, tokens[b], motion_tokens[b]) for b in range(2)]
    )
    torch.testing.assert_close(attention(tokens, motion_tokens), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_without_offsets_and_logits_it_is_the_mean_over_the_subclip():  # property 1
    attention = make_attention()
    set_offsets(attention, 0.0, 0.0)
    tokens, motion_tokens = make_inputs()
    values = attention.value(tokens)
    mean = values.unflatten(1, (2, 2)).mean(dim=2).repeat_interleave(2, dim=1)
    torch.testing.assert_close(attention(tokens, motion_tokens), mean, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (-2, 1), (3, -2)])
@torch.no_grad()
def test_whole_offset_is_a_shift_that_brings_in_zeros(dx, dy):  # property 2
    attention = make_attention(subclip_tokens=1)
    set_offsets(attention, float(dx), float(dy))
    tokens, motion_tokens = make_inputs(num_targets=1)
    values = attention.value(tokens)
    expected = torch.zeros_like(values)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            if 0 <= y + dy < HEIGHT and 0 <= x + dx < WIDTH:
                expected[:, :, y, x] = values[:, :, y + dy, x + dx]
    torch.testing.assert_close(attention(tokens, motion_tokens), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (0, 1)])
@torch.no_grad()
def test_where_queries_are_pooled_an_offset_counts_value_cells_from_between_four(dx, dy):
    # Property 16; its other half, one cell for each 1 of dx, is the shift above.
    attention = make_attention(subclip_tokens=1, query_stride=2)
    set_offsets(attention, float(dx), float(dy))
    tokens, motion_tokens = make_inputs(num_targets=1, query_stride=2)
    values = attention.value(tokens)
    padded = torch.zeros(2, 4, HEIGHT + 1, WIDTH + 1, 8, dtype=torch.float64)
    padded[:, :, :HEIGHT, :WIDTH] = values
    shifted = padded[:, :, dy : dy + HEIGHT, dx : dx + WIDTH]
    means = shifted.unflatten(3, (WIDTH // 2, 2)).unflatten(2, (HEIGHT // 2, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(attention(tokens, motion_tokens), means, rtol=0, atol=1e-13)


def test_no_gradient_crosses_from_one_subclip_to_another():  # property 3
    attention = make_attention()
    tokens, motion_tokens = make_inputs()
    tokens.requires_grad_()
    attention(tokens, motion_tokens)[:, :2].square().sum().backward()
    assert tokens.grad[:, 2:].eq(0).all()
    assert tokens.grad[:, :2].ne(0).all()


def test_gradients_reach_motion_offsets_and_weights_from_the_start():  # property 4
    attention = make_attention()
    attention.sampling.initialise()
    tokens, motion_tokens = make_inputs()
    motion_tokens.requires_grad_()
    attention(tokens, motion_tokens).square().sum().backward()
    rows = attention.sampling.weight.grad.view(2, 3, 3, 8)
    assert motion_tokens.grad.abs().sum() > 0
    assert (rows[:, :, :2].abs().sum(dim=-1) > 0).all()
    assert (rows[:, :, 2].abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("query_stride", [1, 2])
def test_gradients_equal_finite_differences(query_stride):  # property 5
    attention = make_attention(num_points=2, query_stride=query_stride)
    tokens, motion_tokens = make_inputs(num_frames=2, query_stride=query_stride)
    tokens, motion_tokens = tokens[:1].requires_grad_(), motion_tokens[:1].requires_grad_()
    assert torch.autograd.gradcheck(
        attention, (tokens, motion_tokens), eps=1e-7, atol=1e-5, fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(
            attention, {"sampling.weight": weight}, (tokens.detach(), motion_tokens.detach())
        ),
        (attention.sampling.weight.detach().clone().requires_grad_(),),
        eps=1e-7,
        atol=1e-5,
        fast_mode=True,
    )


@torch.no_grad()
def test_weights_sum_to_one_so_that_a_constant_stays():  # property 13
    attention = make_attention()
    attention.sampling.weight.view(2, 3, 3, 8)[:, :, :2] = 0.0
    attention.sampling.bias.view(2, 3, 3)[:, :, :2] = 0.0
    attention.value.weight.zero_()
    tokens, motion_tokens = make_inputs()
    constant = attention.value.bias.expand_as(tokens)
    torch.testing.assert_close(attention(tokens, motion_tokens), constant, rtol=0, atol=1e-14)


@torch.no_grad()
def test_order_of_the_points_does_not_matter():  # property 14
    attention = make_attention()
    tokens, motion_tokens = make_inputs()
    before = attention(tokens, motion_tokens)
    for parameter in (attention.sampling.weight, attention.sampling.bias):
        rows = parameter.view(2, 3, 3, -1)
        rows.copy_(rows[:, [2, 0, 1]].clone())
    torch.testing.assert_close(attention(tokens, motion_tokens), before, rtol=0, atol=1e-13)


@torch.no_grad()
def test_without_motion_all_frames_of_a_query_count_the_same():  # property 15
    attention = make_attention()
    attention.sampling.weight.view(2, 3, 3, 8)[:, :, :2] = 0.0
    attention.sampling.bias.view(2, 3, 3)[:, :, :2] = 0.0
    tokens, motion_tokens = make_inputs()
    mean = attention.value(tokens).unflatten(1, (2, 2)).mean(dim=2).repeat_interleave(2, dim=1)
    still = torch.zeros_like(motion_tokens)
    torch.testing.assert_close(attention(tokens, still), mean, rtol=0, atol=1e-13)
    assert (attention(tokens, motion_tokens) - mean).abs().max() > 1e-2


@pytest.mark.parametrize("num_targets", [2, 4])
@torch.no_grad()
def test_no_motion_tokens_are_motion_tokens_of_zeros(num_targets):
    attention = make_attention()
    tokens, motion_tokens = make_inputs(num_targets=num_targets)
    without = attention(tokens, None)
    still = attention(tokens, torch.zeros_like(motion_tokens))
    torch.testing.assert_close(without, still, rtol=0, atol=1e-13)


@torch.no_grad()
def test_bfloat16_is_close_since_points_stay_in_float32():  # property 22
    # A 56-cell grid, the largest of MViT-B: in bfloat16 its far places are an eighth of a cell
    # apart or more.
    torch.manual_seed(0)
    shape = BlockShape(32, 32, 2, stage=0, query_stride=1)
    attention = DeformableSpaceTimeAttention(shape, options=BlockOptions(subclip_tokens=1))
    attention.sampling.initialise()
    tokens, motion_tokens = torch.randn(1, 1, 56, 56, 32), torch.randn(1, 1, 1, 56, 56, 32)
    exact = attention(tokens, motion_tokens)
    rounded = attention.bfloat16()(tokens.bfloat16(), motion_tokens.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() / exact.norm() < 1e-2
