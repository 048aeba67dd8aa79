"""Where DVT looks: points that follow from weights by hand, and those that attention sums."""

import pytest
import torch
from einops import rearrange, repeat

from gopstream.models.dvt.model import DeformableVideoTransformer
from gopstream.models.dvt.point_prediction import PointPrediction, ring_offsets
from gopstream.models.dvt.sampled_points import sampled_points

QUERIES = torch.tensor([[5.0, 9.0], [0.0, 0.0]])


def make_model(**options):
    """8 frames of 16 pixels; 4 x 4 tokens of 4 pixels in 4 token frames, then 2 x 2."""
    torch.manual_seed(0)
    settings = {
        "num_frames": 8,
        "size": 16,
        "embed_dim": 8,
        "depth": 2,
        "num_heads": 2,
        "stage_starts": (1,),
        "num_points": 4,
        "subclip_tokens": 2,
        "coarse_stride": 4,
        "drop_path_rate": 0.0,
        "head_dropout": 0.0,
    }
    return DeformableVideoTransformer(3, **(settings | options)).double().eval()


def make_inputs(seed=0):
    """Frames, and motion of some pixels."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(1, 3, 8, 16, 16, generator=generator, dtype=torch.float64)
    motion = 4 * torch.randn(1, 4, 2, 4, 4, 4, generator=generator, dtype=torch.float64)
    return frames, motion


def forget_weights(model):
    """Leave predictions their biases alone: the ring, with equal weights."""
    for part in model.modules():
        if isinstance(part, PointPrediction):
            torch.nn.init.zeros_(part.weight)
    return model


def shake(model, seed=0):
    """Let every weight matter, logits too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    return model


def points_of(model, frames, motion=None, *, block=0, query_frame=0, queries=QUERIES, **more):
    inputs = None if motion is None else {"motion": motion}
    return sampled_points(
        model,
        frames,
        block=block,
        query_frame=query_frame,
        queries=queries,
        inputs=inputs,
        **more,
    )


@pytest.mark.parametrize(
    ("block", "heads", "centres"), [(0, 2, [[6, 10], [2, 2]]), (1, 4, [[4, 12], [4, 4]])]
)
def test_without_weights_points_are_the_ring_about_the_query_with_equal_weights(
    block, heads, centres
):
    """The second block pools queries to 2 x 2 cells of 8 pixels; its values stay at 4 x 4."""
    points = points_of(forget_weights(make_model()), *make_inputs(), block=block)
    assert points.query_places.tolist() == centres
    ring = 4 * ring_offsets(heads, 4).double()  # in pixels of a value's cell
    expected = (points.query_places[:, None, None, None] + ring).expand(2, 2, heads, 4, 2)
    torch.testing.assert_close(points.places[0], expected, rtol=0, atol=1e-5)
    equal = torch.full((1, 2, 2, heads, 4), 1 / 8, dtype=torch.float64)
    torch.testing.assert_close(points.weights, equal)


@pytest.mark.parametrize(
    ("query_frame", "of_query", "shown"),
    [(0, 0, (0, 2)), (1, 0, (0, 2)), (3, 2, (0, 2)), (4, 4, (4, 6)), (7, 6, (4, 6))],
)
def test_a_query_looks_at_the_token_frames_of_its_sub_clip(query_frame, of_query, shown):
    points = points_of(make_model(), *make_inputs(), query_frame=query_frame)
    assert points.query_frame == of_query
    assert points.frames == shown


def test_with_frames_for_targets_it_looks_at_each_sampled_frame():
    model = make_model(motion_targets="frames")
    points = points_of(model, *make_inputs(), query_frame=5)
    assert points.frames == (4, 5, 6, 7)
    assert points.places.shape == (1, 2, 4, 2, 4, 2)


@pytest.mark.parametrize("kind", ["space_time", "multi_scale"])
@pytest.mark.parametrize("block", [0, 1])
def test_the_weights_of_a_query_and_head_sum_to_one(kind, block):
    model = shake(make_model(attention="both"))
    weights = points_of(model, *make_inputs(), block=block, kind=kind).weights
    assert weights.std() > 0.01
    torch.testing.assert_close(weights.sum(dim=(2, 4)), torch.ones_like(weights[:, :, 0, :, 0]))


def test_points_move_as_far_as_the_prediction_of_the_motion_says():
    """A tokenizer that hands on dx, dy in cells, and a prediction that adds them to the ring."""
    model = forget_weights(make_model())
    tokenizer = model.motion_tokenizers[0].projection
    attention = model.blocks[0].attention
    with torch.no_grad():
        tokenizer.weight.zero_()
        tokenizer.bias.zero_()
        for axis in (0, 1):  # channel = displacement at the centre of the patch
            tokenizer.weight[axis, axis, 1, 3, 3] = 1.0
        attention.query.weight.zero_()
        attention.query.bias.zero_()
        weight = rearrange(attention.sampling.weight, "(h n s) d -> h n s d", h=2, s=3)
        for axis in (0, 1):
            weight[:, :, axis, axis] = 1.0
    frames, _ = make_inputs()
    motion = torch.zeros(1, 4, 2, 4, 4, 4, dtype=torch.float64)
    motion[:, 0, 0, 2], motion[:, 0, 1, 2] = 6.0, -2.0  # from query 0 to the third frame
    still, moved = points_of(model, frames), points_of(model, frames, motion)
    step = (moved.places - still.places)[0]
    torch.testing.assert_close(step[:, 0], torch.zeros_like(step[:, 0]))  # its own frame
    expected = torch.tensor([6.0, -2.0], dtype=torch.float64).expand(2, 2, 4, 2)
    torch.testing.assert_close(step[:, 1], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(moved.weights, still.weights)


def attended_at(points, values, *, grids, size=16):
    """Sum values (K maps of (H, W, h, d)) at points (K, h, N, 2) pixels, one after the other."""
    places, weights = points
    total = torch.zeros(values[0].shape[2:], dtype=values[0].dtype)
    for k, (height, width) in enumerate(grids):
        for head in range(places.shape[1]):
            for (x, y), weight in zip(places[k, head], weights[k, head], strict=True):
                column, row = x * width / size - 0.5, y * height / size - 0.5
                for i in range(height):
                    for j in range(width):
                        share = (1 - abs(row - i)).clamp(min=0) * (1 - abs(column - j)).clamp(min=0)
                        total[head] += weight * share * values[k][i, j, head]
    return total.flatten()


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("targets", ["tokens", "frames"])
@torch.no_grad()
def test_they_are_the_points_that_attention_sums(block, targets):
    """What the block's attention gives at the query is the weighted sum of its values there."""
    model, seen = shake(make_model(motion_targets=targets)), {}
    frames, motion = make_inputs()
    attention = model.blocks[block].attention
    attention.register_forward_hook(lambda _, given, output: seen.update(attended=output))
    attention.value.register_forward_hook(lambda _, given, output: seen.update(values=output))
    points = points_of(model, frames, motion, block=block, query_frame=6)
    values = rearrange(seen["values"][0], "t y x (h d) -> t y x h d", h=2 * (block + 1))[2:]
    values = repeat(values, "k y x h d -> (k r) y x h d", r=len(points.frames) // 2)
    cells = [(2, 1), (0, 0)] if block == 0 else [(1, 0), (0, 0)]  # rows and columns of QUERIES
    for query, (row, column) in enumerate(cells):
        chosen = points.places[0, query], points.weights[0, query]
        expected = attended_at(chosen, values, grids=((4, 4),) * len(points.frames))
        torch.testing.assert_close(seen["attended"][0, 3, row, column], expected)


@pytest.mark.parametrize("scale_form", ["literal", "commuted"])
@torch.no_grad()
def test_scales_are_the_points_that_attention_sums(scale_form):
    model, seen = shake(make_model(attention="multi_scale", scale_form=scale_form)), []
    frames, _ = make_inputs()
    attention = model.blocks[0].multi_scale_attention
    attention.value.register_forward_hook(lambda _, given, output: seen.append(output))
    attention.register_forward_hook(lambda _, given, output: seen.append(output))
    points = points_of(model, frames, query_frame=3, kind="multi_scale")
    assert points.frames == (2, 2)
    *values, attended = seen
    values = [rearrange(value[0, 1], "y x (h d) -> y x h d", h=2) for value in values]
    grids = ((4, 4), (4, 4) if scale_form == "literal" else (1, 1))
    expected = attended_at((points.places[0, 0], points.weights[0, 0]), values, grids=grids)
    torch.testing.assert_close(attended[0, 1, 2, 1], expected)


def test_without_a_cue_all_frames_are_read_at_the_same_points():
    points = points_of(shake(make_model(cue="none")), make_inputs()[0])
    assert points.frames == (0, 2)
    assert torch.equal(points.places[:, :, 0], points.places[:, :, 1])


def test_nothing_is_left_on_the_model():
    model = make_model()
    points = points_of(model, *make_inputs())
    assert not any(part._forward_hooks for part in model.modules())
    assert not points.places.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 2}, "block must be 0 to 1, got 2"),
        ({"block": -1}, "block must be 0 to 1, got -1"),
        ({"query_frame": 8}, "query_frame must be 0 to 7, got 8"),
        ({"queries": torch.tensor([[16.0, 3.0]])}, r"\(16, 3\) lies outside of frames of 16 x 16"),
        ({"kind": "multi_scale"}, "blocks have no multi_scale attention; take the other kind"),
        ({"kind": "scales"}, "kind must be one of 'space_time', 'multi_scale'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        points_of(make_model(), *make_inputs(), **options)
