"""What SIFA looks at: taps by hand, and those that the attention really sums."""

import math

import pytest
import torch

from gopstream.models.sifa.attention_maps import attention_maps
from gopstream.models.sifa.motion_block import InterFrameAttention
from sifa_networks import make_frames, make_network

SIDES = (24, 32)  # res5 is one cell high and wide; res4 is 2 x 2, res3 is 3 x 4
QUERIES = torch.tensor([[20.0, 10.0], [0.0, 23.0]])


def run(model, frames=None, *, queries=QUERIES, **options):
    frames = make_frames(batch=1) if frames is None else frames
    return attention_maps(model, frames, queries=queries, **options)


def attentions(model):
    return [part for part in model.stages.modules() if isinstance(part, InterFrameAttention)]


def sample(picture, y, x):
    """Read (H, W, C) between pixels; outside is zero."""
    value = torch.zeros(picture.shape[2], dtype=picture.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                value = value + share * picture[row, column]
    return value


@pytest.mark.parametrize("region", [1, 3])
def test_fresh_offsets_are_none_so_that_taps_are_the_square_about_the_query(region):
    """Cells of 8 pixels: the second query is in the lower left one of 3 x 4."""
    model = make_network(region=region)
    for part in attentions(model):
        torch.nn.init.zeros_(part.offsets.convolution.weight)
    maps = run(model, block=0)
    assert maps.query_places.tolist() == [[20, 12], [4, 20]]
    steps = [8.0 * step for step in range(-(region // 2), region // 2 + 1)]
    square = torch.tensor([(x, y) for y in steps for x in steps], dtype=torch.float64)
    expected = (maps.query_places[:, None] + square).expand(1, 4, -1, -1, -1)
    torch.testing.assert_close(maps.places, expected)


def test_equal_frames_have_no_saliency_and_weigh_a_tap_on_the_query_by_its_square():
    frames = make_frames(batch=1)[:, :, :2].repeat(1, 1, 4, 1, 1)
    seen = []
    model = make_network(variant="regular", region=1, scale="mean")
    attentions(model)[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    maps = run(model, frames, block=0)
    assert (maps.saliency == 0.5).all()
    expected = seen[0][:, :, 1, 2].square().mean(dim=-1)
    torch.testing.assert_close(maps.weights[:, :, 0, 0], expected)


@pytest.mark.parametrize("last", ["self", "zero"])
@pytest.mark.parametrize(
    "options",
    [
        {"variant": "regular", "scale": "mean", "region": 3, "dilation": 2},
        {"variant": "deformable"},
        {"variant": "deformable", "saliency_residual": True, "scale": "mean", "tap_weights": True},
        {"variant": "deformable", "offset_source": "clip", "scale": "mean"},
        {"variant": "bidirectional", "scale": "mean"},
    ],
)
@torch.no_grad()
def test_they_are_the_taps_that_attention_sums(options, last):
    """What the attention gives at the query is the sum of its taps, each times its weight."""
    model, seen = make_network(**options, last=last), {}
    attention = attentions(model)[1]
    if attention.tap_weights is not None:
        generator = torch.Generator().manual_seed(3)
        noise = torch.rand(attention.tap_weights.shape, generator=generator).double()
        attention.tap_weights.copy_(noise)
    attention.register_forward_hook(lambda _, given, output: seen.update(x=given[0], y=output))
    directions = ["next", "previous"] if options["variant"] == "bidirectional" else ["next"]
    maps = {direction: run(model, block=1, direction=direction) for direction in directions}
    height, width = seen["x"].shape[2:4]
    assert (height, width) == (3, 4)
    for frame in range(4):
        for query, (row, column) in enumerate([(1, 2), (2, 0)]):
            total = torch.zeros_like(seen["y"][0, 0, 0, 0])
            for of_direction in maps.values():
                if 2 * frame not in of_direction.query_frames:
                    continue
                pair = of_direction.query_frames.index(2 * frame)
                keys = seen["x"][0, of_direction.key_frames[pair] // 2]
                places = of_direction.places[0, pair, query].tolist()
                weights = of_direction.weights[0, pair, query]
                for (x, y), weight in zip(places, weights, strict=True):
                    total += weight * sample(keys, y * height / 24 - 0.5, x * width / 32 - 0.5)
            torch.testing.assert_close(seen["y"][0, frame, row, column], total)


@pytest.mark.parametrize(
    ("last", "direction", "query_frames", "key_frames"),
    [
        ("self", "next", (0, 2, 4, 6), (2, 4, 6, 6)),
        ("zero", "next", (0, 2, 4), (2, 4, 6)),
        ("self", "previous", (0, 2, 4, 6), (0, 0, 2, 4)),
        ("zero", "previous", (2, 4, 6), (0, 2, 4)),
    ],
)
def test_pairs_are_named_by_the_first_sampled_frame_of_each(
    last, direction, query_frames, key_frames
):
    """The stem makes one of two frames."""
    model = make_network(variant="bidirectional", last=last)
    maps = run(model, direction=direction)
    assert (maps.query_frames, maps.key_frames) == (query_frames, key_frames)
    assert maps.weights.shape == (1, len(query_frames), 2, 9)


def test_saliency_grows_where_the_attended_frame_does():
    seen = []
    model = make_network()
    attentions(model)[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    saliency = run(model, block=0).saliency
    assert saliency.shape == (1, 4, *seen[0].shape[2:])
    change = seen[0][:, 1:] - seen[0][:, :-1]
    torch.testing.assert_close(saliency[:, :3], 1 / (1 + (-change).exp()))
    assert (saliency[:, 3] == 0.5).all()  # the last frame attends itself


def test_correlation_has_the_square_too():
    maps = run(make_network(variant="correlation"), block=0)
    assert maps.weights.shape == (1, 4, 2, 9)


def test_blocks_are_numbered_in_the_order_in_which_they_run_and_the_last_is_the_default():
    model = make_network()
    count = len(attentions(model))
    assert count == 6
    widths = [run(model, block=block).saliency.shape[-1] for block in range(count)]
    assert widths == [8, 8, 16, 16, 32, 32]
    torch.testing.assert_close(run(model).weights, run(model, block=count - 1).weights)
    assert not torch.equal(run(model).weights, run(model, block=count - 2).weights)


def test_a_dual_branch_has_no_part():
    model = make_network(style="released")
    assert model.dual_stage is not None
    with pytest.raises(ValueError, match=f"block must be 0 to {len(attentions(model)) - 1}, "):
        run(model, block=len(attentions(model)))


def test_nothing_is_left_on_the_model():
    model = make_network()
    maps = run(model)
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert not maps.weights.requires_grad


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ({"variant": "none"}, {}, "this SifaNet has no attention between frames"),
        ({}, {"block": 6}, "block must be 0 to 5, .* got 6"),
        ({}, {"direction": "previous"}, "variant 'deformable' attends the next frame alone"),
        ({}, {"queries": torch.tensor([[32.0, 1.0]])}, r"\(32, 1\) lies outside of .* 32 x 24"),
        ({}, {"frames": make_frames(1, num_frames=2)}, "2 frames are one frame of features"),
    ],
)
def test_what_is_not_there_is_refused_by_name(network, options, message):
    with pytest.raises(ValueError, match=message):
        run(make_network(**network), **options)
