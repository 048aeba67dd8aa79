"""Focal modulation against loops over single numbers, and the properties that follow from it."""

import itertools
import math

import pytest
import torch
from torch import nn

from gopstream.models.layers.time_convolution import TimeConvolution
from gopstream.models.video_focalnet.designs import BlockOptions
from gopstream.models.video_focalnet.focal_modulation import (
    FocalContext,
    FocalModulation,
    SpatialConvolution,
)

WIDTH = 4


def make_options(**changes):
    options = BlockOptions(
        temporal_convolution="dense",
        fusion="multiply",
        normalize_modulator=False,
        modulated_norm=False,
        mlp_ratio=4.0,
        norm_position="before",
        layer_scale=None,
        dropout=0.0,
        drop_path_rows="frame",
        checkpointing=False,
    )
    return options._replace(**changes)


def randomise(module, seed=0):
    """Draw every weight large enough that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
            )
    return module.double()


def make_modulation(kind="parallel", *, kernels=(3, 5), width=WIDTH, **changes):
    options = make_options(**changes)
    return randomise(FocalModulation(width, kind=kind, kernels=kernels, options=options))


def make_tokens(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gelu(number):
    return number * (1 + math.erf(number / math.sqrt(2))) / 2


def project(tokens, weight, bias):
    """Apply a matrix to each token, number by number."""
    result = torch.zeros(*tokens.shape[:-1], len(weight), dtype=torch.float64)
    for place in itertools.product(*map(range, tokens.shape[:-1])):
        for row in range(len(weight)):
            total = float(bias[row])
            for column in range(tokens.shape[-1]):
                total += float(weight[row, column]) * float(tokens[(*place, column)])
            result[(*place, row)] = total
    return result


def convolve_space(tokens, weight):
    """Depthwise: weight (C, 1, k, k), zeros around each frame."""
    _, _, height, width, _ = tokens.shape
    size = weight.shape[-1]
    result = torch.zeros_like(tokens)
    for b, t, y, x, c in itertools.product(*map(range, tokens.shape)):
        for i, j in itertools.product(range(size), repeat=2):
            row, column = y + i - size // 2, x + j - size // 2
            if 0 <= row < height and 0 <= column < width:
                result[b, t, y, x, c] += weight[c, 0, i, j] * tokens[b, t, row, column, c]
    return result


def convolve_time(tokens, weight):
    """Dense (C, C, k) or depthwise (C, 1, k), zeros before and after the clip."""
    length = weight.shape[-1]
    result = torch.zeros_like(tokens)
    for b, t, y, x, c in itertools.product(*map(range, tokens.shape)):
        for k in range(length):
            frame = t + k - length // 2
            if not 0 <= frame < tokens.shape[1]:
                continue
            for source in range(weight.shape[1]):
                channel = source if weight.shape[1] > 1 else c
                result[b, t, y, x, c] += weight[c, source, k] * tokens[b, frame, y, x, channel]
    return result


def loop_branch(branch, tokens, *, over, normalize=False):
    """Return query (None without) and modulator; `over` lists what each level convolves."""
    num_levels = len(branch.levels)
    rows = project(tokens, branch.projection.weight, branch.projection.bias)
    width = tokens.shape[-1]
    has_query = rows.shape[-1] > width + num_levels + 1
    query = rows[..., :width] if has_query else None
    rest = rows[..., width:] if has_query else rows
    context, gates = rest[..., :width].clone(), rest[..., width:]
    gathered = torch.zeros_like(context)
    for level in range(num_levels):
        context = convolve_level(branch, context, level=level, over=over)
        context.apply_(gelu)
        gathered += context * gates[..., level : level + 1]
    for b, t, y, x, c in itertools.product(*map(range, context.shape)):
        along_time = over == "time"
        summed = context[b, :, y, x, c] if along_time else context[b, t, :, :, c]
        overall = gelu(float(summed.sum()) / summed.numel())
        gathered[b, t, y, x, c] += overall * gates[b, t, y, x, num_levels]
    if normalize:
        gathered /= num_levels + 1
    matrix = branch.mixing.weight.reshape(width, width)
    return query, project(gathered, matrix, branch.mixing.bias)


def convolve_level(branch, context, *, level, over):
    weight = branch.levels[level].weight
    if over == "time":
        return convolve_time(context, weight)
    convolved = convolve_space(context, weight)
    if over == "factorized":
        convolved = convolve_time(convolved, branch.later_levels[level].weight)
    return convolved


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# Property 12, with 13 where the kernel 5 is longer than the clip of 3 frames.
@torch.no_grad()
@pytest.mark.parametrize("fusion", ["multiply", "average", "projection"])
@pytest.mark.parametrize("normalize", [False, True])
def test_parallel_modulation_equals_loops(fusion, normalize):
    module = make_modulation(fusion=fusion, normalize_modulator=normalize)
    tokens = make_tokens(1, 3, 3, 4, WIDTH)
    query, space = loop_branch(module.space, tokens, over="space", normalize=normalize)
    none, time = loop_branch(module.time, tokens, over="time", normalize=normalize)
    assert none is None
    if fusion == "multiply":
        fused = space * time
    elif fusion == "average":
        fused = (space + time) / 2
    else:
        projection = module.fusion_projection
        fused = project(torch.cat([space, time], -1), projection.weight, projection.bias)
    expected = project(query * fused, module.projection.weight, module.projection.bias)
    close(module(tokens), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["space", "time", "factorized"])
@pytest.mark.parametrize("convolution", ["dense", "pointwise", "depthwise"])
def test_modulation_of_one_branch_equals_loops(kind, convolution):
    module = make_modulation(kind, temporal_convolution=convolution)
    tokens = make_tokens(1, 3, 3, 4, WIDTH)
    query, modulator = loop_branch(
        module.time if kind == "time" else module.space, tokens, over=kind
    )
    expected = project(query * modulator, module.projection.weight, module.projection.bias)
    close(module(tokens), expected)


@torch.no_grad()
def test_three_levels_from_a_window_of_five_equal_loops():
    module = make_modulation(kernels=(5, 7, 9), width=2)
    tokens = make_tokens(1, 4, 3, 3, 2)
    query, space = loop_branch(module.space, tokens, over="space")
    _, time = loop_branch(module.time, tokens, over="time")
    expected = project(query * space * time, module.projection.weight, module.projection.bias)
    close(module(tokens), expected)


@torch.no_grad()
def test_norm_comes_between_the_modulated_queries_and_the_projection():
    module = make_modulation(modulated_norm=True)
    tokens = make_tokens(2, 3, 4, 4, WIDTH)
    parts = module.modulate(tokens)
    product = parts.space.query * parts.space.modulator * parts.time.modulator
    mean = product.mean(-1, keepdim=True)
    deviation = (product.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = (product - mean) / deviation * module.norm.weight + module.norm.bias
    close(module(tokens), normed @ module.projection.weight.T + module.projection.bias)


def make_large_modulation(**changes):
    """Every query is 300, the modulators are 300 and 0.01; the projection changes nothing."""
    module = FocalModulation(WIDTH, kind="parallel", kernels=(3,), options=make_options(**changes))
    for parameter in module.parameters():
        parameter.zero_()
    module.space.projection.bias[:WIDTH] = 300
    module.space.mixing.bias.fill_(300)
    module.time.mixing.bias.fill_(0.01)
    if module.norm is not None:
        module.norm.weight.fill_(1)
    module.projection.weight.copy_(torch.eye(WIDTH))
    return module


@torch.no_grad()
def test_float16_holds_a_product_whose_first_factors_leave_its_range():
    module, tokens = make_large_modulation(), torch.ones(1, 2, 3, 3, WIDTH)
    expected = torch.full_like(tokens, 900)
    with torch.autocast("cpu", torch.float16):
        mixed = module(tokens)
    assert mixed.dtype == torch.float16
    torch.testing.assert_close(mixed.float(), expected, rtol=2e-3, atol=0)
    pure = module.half()(tokens.half())
    assert pure.dtype == torch.float16
    torch.testing.assert_close(pure.float(), expected, rtol=2e-3, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["multiply", "average"])
def test_under_autocast_the_norm_is_given_products_beyond_float16(fusion):
    module, tokens = (
        make_large_modulation(modulated_norm=True, fusion=fusion),
        torch.ones(1, 2, 3, 3, WIDTH),
    )
    module.space.projection.bias[0] = 3000
    module.time.mixing.bias.fill_(30)
    exact = module(tokens)
    with torch.autocast("cpu", torch.float16):
        mixed = module(tokens)
    assert exact.abs().max() > 1
    torch.testing.assert_close(mixed.float(), exact, rtol=5e-3, atol=5e-3)


@torch.no_grad()
def test_a_modulation_in_float16_with_its_norm_runs():
    module = make_modulation(modulated_norm=True).half()
    out = module(make_tokens(1, 3, 4, 4, WIDTH).half())
    assert out.dtype == torch.float16
    assert out.isfinite().all()


# Property 5.
@torch.no_grad()
def test_temporal_modulator_sees_its_place_only_and_spatial_its_frame_only():
    module = make_modulation()
    tokens = make_tokens(1, 5, 4, 4, WIDTH)
    other = tokens.clone()
    other[0, 2, 1, 3] += 1.0
    before, after = module.modulate(tokens), module.modulate(other)
    space = (before.space.modulator - after.space.modulator).abs().amax(-1)[0]
    time = (before.time.modulator - after.time.modulator).abs().amax(-1)[0]
    assert (space[2] > 1e-9).all() and (space[[0, 1, 3, 4]] == 0).all()
    assert (time[:, 1, 3] > 1e-9).all()
    time[:, 1, 3] = 0
    assert (time == 0).all()


# Property 7: only the weights of the mixing are divided, its bias is added afterwards.
@torch.no_grad()
def test_normalized_modulator_is_mixing_divided_by_the_number_of_gates():
    normalised, plain = make_modulation(normalize_modulator=True), make_modulation()
    for branch in (plain.space, plain.time):
        branch.mixing.weight /= 3
    tokens = make_tokens(1, 4, 4, 4, WIDTH)
    close(normalised(tokens), plain(tokens))
    assert (make_modulation()(tokens) - plain(tokens)).abs().max() > 1e-3


# Property 9.
@torch.no_grad()
def test_modulator_of_the_global_gate_alone_is_constant():
    module = make_modulation()
    for branch in (module.space, module.time):
        branch.projection.weight[-3:] = 0
        branch.projection.bias[-3:] = torch.tensor([0.0, 0.0, 1.0])
    parts = module.modulate(make_tokens(2, 4, 3, 5, WIDTH))
    space, time = parts.space.modulator, parts.time.modulator
    close(space, space[:, :, :1, :1].expand_as(space))
    close(time, time[:, :1].expand_as(time))
    assert space.std(dim=1).min() > 1e-6  # each frame still has its own
    assert time.flatten(2, 3).std(dim=2).min() > 1e-6


# Property 10.
@torch.no_grad()
def test_queries_of_zero_leave_the_bias_of_the_projection():
    module = make_modulation()
    module.space.projection.weight[:WIDTH] = 0
    module.space.projection.bias[:WIDTH] = 0
    out = module(make_tokens(1, 3, 4, 4, WIDTH))
    assert torch.equal(out, module.projection.bias.expand_as(out))


# Property 13: zero padding is the same as more frames of zeros.
@torch.no_grad()
def test_kernel_longer_than_the_clip_is_zero_padded():
    convolution = randomise(TimeConvolution(WIDTH, kernel=5))
    tokens = make_tokens(1, 2, 3, 3, WIDTH)
    padded = torch.zeros(1, 8, 3, 3, WIDTH, dtype=torch.float64)
    padded[:, 3:5] = tokens
    close(convolution(tokens), convolution(padded)[:, 3:5])
    close(convolution(tokens), convolve_time(tokens, convolution.weight))


# Property 14: the rows of f are query, context, gates.
@torch.no_grad()
def test_exchanging_query_and_context_changes_the_result():
    module = make_modulation()
    tokens = make_tokens(1, 3, 4, 4, WIDTH)
    before = module(tokens)
    projection = module.space.projection
    order = [*range(WIDTH, 2 * WIDTH), *range(WIDTH), *range(2 * WIDTH, 2 * WIDTH + 3)]
    projection.weight.copy_(projection.weight[order])
    projection.bias.copy_(projection.bias[order])
    assert (module(tokens) - before).abs().max() > 1e-3


def test_gates_are_returned_as_the_linear_layer_has_them():
    module = make_modulation()
    tokens = make_tokens(1, 3, 2, 2, WIDTH)
    parts = module.modulate(tokens)
    rows = nn.functional.linear(
        tokens, module.space.projection.weight, module.space.projection.bias
    )
    close(parts.space.gates, rows[..., -3:])
    assert (
        parts.space.gates.min() < 0 and parts.space.gates.max() > 1
    )  # neither sigmoid nor softmax


# What makes the convolutions fast: neither end of them copies.
@pytest.mark.parametrize(
    "convolution",
    [
        SpatialConvolution(8, kernel=5),
        TimeConvolution(8, kernel=3),
        TimeConvolution(8, kernel=3, groups=8),
    ],
)
def test_convolutions_return_tokens_in_channels_last_memory(convolution):
    tokens = torch.randn(2, 4, 6, 5, 8)
    out = convolution(tokens)
    assert out.shape == tokens.shape
    assert out.is_contiguous()


def test_nothing_is_kept_after_forward():
    module = make_modulation()
    before = [set(vars(part)) for part in module.modules()]
    module(make_tokens(1, 3, 4, 4, WIDTH))
    assert [set(vars(part)) for part in module.modules()] == before
    kept = [
        value
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor)
    ]
    assert not kept
    assert not dict(module.named_buffers())


def test_branches_of_a_kind_have_the_weights_of_the_kind():
    def rows(branch: FocalContext) -> int:
        return branch.projection.out_features

    parallel = make_modulation()
    assert rows(parallel.space) == 2 * WIDTH + 3
    assert rows(parallel.time) == WIDTH + 3
    alone = make_modulation("time")
    assert alone.space is None and rows(alone.time) == 2 * WIDTH + 3
    assert make_modulation("space").time is None
    depthwise = make_modulation("factorized", temporal_convolution="depthwise").space
    assert [level.weight.shape for level in depthwise.later_levels] == [(4, 1, 3), (4, 1, 5)]
    pointwise = make_modulation(temporal_convolution="pointwise").time
    assert [level.weight.shape for level in pointwise.levels] == [(4, 4, 1), (4, 4, 1)]
