"""What a frame takes from its neighbour, against plain loops and by its properties."""

import math

import pytest
import torch

from gopstream.models.sifa.motion_block import InterFrameAttention, MotionOptions
from gopstream.models.sifa.offsets import pair_frames

ATTENDING = ["regular", "deformable", "bidirectional"]
VARIANTS = ["correlation", *ATTENDING]
SOURCES = ["frame", "clip", "difference", "motion"]


def make_block(channels=3, *, tap_frames=None, seed=0, **options):
    """Make a block in float64 whose offsets are about a pixel and of which all weights matter."""
    block = InterFrameAttention(
        channels, options=MotionOptions(**options), tap_frames=tap_frames
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * parameter.shape[1:].numel() ** -0.5)
    return block


def make_clip(batch=1, *, num_frames=4, height=4, width=5, channels=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_frames, height, width, channels)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(actual, expected, tolerance=1e-11):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def sample(picture, y, x):
    """Read (H, W, C) between pixels; outside is zero."""
    height, width, channels = picture.shape
    top, left = math.floor(y), math.floor(x)
    value = torch.zeros(channels, dtype=picture.dtype)
    for row, row_share in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_share in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value = value + row_share * column_share * picture[row, column]
    return value


def attend_slowly(query, keys, offsets, *, region, dilation=1, weight_of):
    """Sum weighted taps for one pair of (H, W, C) pictures, place by place."""
    result = torch.zeros_like(query)
    margin = (dilation * (region - 1) + 1) // 2
    for y in range(query.shape[0]):
        for x in range(query.shape[1]):
            for tap in range(region**2):
                i, j = divmod(tap, region)
                dy, dx = (0, 0) if offsets is None else offsets[y, x, tap].tolist()
                place = (y - margin + i * dilation + dy, x - margin + j * dilation + dx)
                value = sample(keys, *place)
                result[y, x] += (weight_of(tap) * query[y, x] * value).sum() * value
    return result


def expected_of(block, clip, *, direction, weight_of=None):
    """What the block should take from one side, (T, H, W, C) of the first clip."""
    options = block.options
    pairs = pair_frames(clip, direction=direction, ends=options.last)
    estimator = block.offsets if direction == "next" else block.previous_offsets
    offsets = None if estimator is None else estimator(pairs)
    if weight_of is None:
        scale = 1 / clip.shape[-1] if options.scale == "mean" else 1.0

        def weight_of(pair, tap):
            return scale

    taken = [
        attend_slowly(
            pairs.query_BPHWC[0, pair],
            pairs.keys_BPHWC[0, pair],
            None if offsets is None else offsets[0, pair],
            region=options.region,
            dilation=options.dilation,
            weight_of=lambda tap, pair=pair: weight_of(pair, tap),
        )
        for pair in range(pairs.query_BPHWC.shape[1])
    ]
    if options.last == "zero":
        taken.insert(len(taken) if direction == "next" else 0, torch.zeros_like(clip[0, 0]))
    return torch.stack(taken)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        *({"variant": variant, "last": last} for variant in ATTENDING for last in ("zero", "self")),
        {"scale": "mean"},
        {"region": 1},
        {"region": 5, "variant": "regular"},
        {"region": 3, "dilation": 2},
        {"saliency_residual": True, "variant": "bidirectional", "scale": "mean"},
        *({"offset_source": source} for source in SOURCES),
    ],
    ids=str,
)
def test_block_takes_what_a_plain_loop_says(options):
    block, clip = make_block(**options), make_clip(num_frames=3)
    expected = expected_of(block, clip, direction="next")
    if block.options.variant == "bidirectional":
        expected = expected + expected_of(block, clip, direction="previous")
    added = block(clip)
    assert added.shape == clip.shape
    close(added[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("scale", ["none", "mean"])
@pytest.mark.parametrize(("region", "dilation"), [(3, 1), (3, 2), (1, 1)])
def test_correlation_maps_products_with_a_square_to_the_width(scale, region, dilation):
    options = {"scale": scale, "region": region, "dilation": dilation}
    block, clip = make_block(variant="correlation", **options), make_clip(num_frames=2)
    query, keys = clip[0]
    margin = (dilation * (region - 1) + 1) // 2
    for y in range(4):
        for x in range(5):
            products = torch.stack(
                [
                    (query[y, x] * sample(keys, y - margin + i * dilation, x - margin + j)).sum()
                    for i in range(region)
                    for j in range(0, region * dilation, dilation)
                ]
            )
            expected = block.mapping.weight @ products / (3 if scale == "mean" else 1)
            close(block(clip)[0, 0, y, x], expected)


@torch.no_grad()
@pytest.mark.parametrize("variant", ATTENDING)
@pytest.mark.parametrize("last", ["zero", "self"])
def test_weights_of_taps_are_those_of_the_attended_frame(variant, last):
    block = make_block(variant=variant, last=last, scale="mean", tap_frames=3)
    clip = make_clip(num_frames=3)
    plain = make_block(variant=variant, last=last, scale="mean")
    close(block(clip), plain(clip), tolerance=1e-6)  # a third at first, in float32

    weights = torch.rand(3, 3, 3, 3, dtype=torch.float64, generator=torch.manual_seed(3))
    block.tap_weights.copy_(weights)

    def expected(direction):
        keys = {"next": [1, 2, 2], "previous": [0, 0, 1]}[direction]
        if last == "zero":
            keys = keys[:-1] if direction == "next" else keys[1:]

        def weight_of(pair, tap):
            i, j = divmod(tap, 3)
            return weights[:, keys[pair], i, j]

        return expected_of(block, clip, direction=direction, weight_of=weight_of)

    both = variant == "bidirectional"
    close(block(clip)[0], expected("next") + (expected("previous") if both else 0))


def test_weights_of_taps_are_no_parameters_and_know_their_number_of_frames():
    block = make_block(scale="mean", tap_frames=4)
    assert dict(block.named_buffers()).keys() == {"tap_weights"} <= block.state_dict().keys()
    with pytest.raises(ValueError, match="for 4 frames of features, got 3"):
        block(make_clip(num_frames=3))


# Property 18.
@torch.no_grad()
@pytest.mark.parametrize("variant", ["deformable", "bidirectional"])
def test_offsets_far_outside_take_nothing(variant):
    block, clip = make_block(variant=variant), make_clip()
    for estimator in (block.offsets, block.previous_offsets):
        if estimator is not None:
            estimator.forward = lambda pairs: torch.full(
                (*pairs.query_BPHWC.shape[:-1], 9, 2), -50.0, dtype=torch.float64
            )
    close(block(clip), torch.zeros_like(clip))


# Properties 19 and 30: a shift that copies a frame onto all later ones would let frame 0 through.
@torch.no_grad()
@pytest.mark.parametrize("last", ["zero", "self"])
@pytest.mark.parametrize("source", ["frame", "difference", "motion"])
@pytest.mark.parametrize("variant", ["deformable", "bidirectional"])
def test_a_frame_depends_on_itself_and_its_neighbour_alone(variant, source, last):
    block = make_block(variant=variant, offset_source=source, last=last)
    clip = make_clip(num_frames=5)
    before = block(clip)
    for changed in range(5):
        other = clip.clone()
        other[:, changed] += torch.randn(4, 5, 3, dtype=torch.float64)
        moved = (block(other) - before).abs().amax(dim=(0, 2, 3, 4)) > 1e-9
        expected = {changed, changed - 1} - {-1}
        if variant == "bidirectional":
            expected |= {changed + 1} - {5}
        elif last == "zero":
            expected -= {4}
        assert set(moved.nonzero().flatten().tolist()) == expected


@torch.no_grad()
def test_the_clip_estimator_alone_sees_further():
    block, clip = make_block(offset_source="clip"), make_clip(num_frames=5)
    other = clip.clone()
    other[:, 3] += 1
    moved = (block(other) - block(clip)).abs().amax(dim=(0, 2, 3, 4)) > 1e-9
    # Frame 1 attends frame 2, whose offsets see frames 1 to 3.
    assert moved.tolist() == [False, True, True, True, True]


# Property 25.
@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_single_frame_takes_nothing_or_attends_itself(variant):
    clip = make_clip(num_frames=1)
    close(make_block(variant=variant, last="zero")(clip), torch.zeros_like(clip))
    attended = make_block(variant=variant, last="self")(clip)
    assert attended.abs().max() > 0.1
    twice = make_block(variant=variant, last="self")(clip.expand(-1, 2, -1, -1, -1))
    close(twice, attended.expand(-1, 2, -1, -1, -1))


# Property 26: without offsets, frames of a still clip are worked on one by one.
@torch.no_grad()
@pytest.mark.parametrize("saliency_residual", [False, True])
def test_fresh_offsets_on_a_still_clip_make_a_local_operation(saliency_residual):
    options = MotionOptions(scale="none", saliency_residual=saliency_residual)
    fresh = InterFrameAttention(3, options=options).double()
    still = make_clip(num_frames=1).expand(-1, 4, -1, -1, -1)
    picture = still[0, 0]
    expected = attend_slowly(picture, picture, None, region=3, weight_of=lambda tap: 1.0)
    close(fresh(still), expected.expand(1, 4, -1, -1, -1))
    # A change at one place stays within a pixel of it.
    other = still.clone()
    other[:, :, 0, 0] += 1
    reached = (fresh(other) - fresh(still)).abs().amax(dim=(0, 1, 4)) > 1e-9
    assert {tuple(place) for place in reached.nonzero().tolist()} == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    }


@torch.no_grad()
def test_both_directions_of_a_reversed_clip_are_exchanged():
    block, clip = make_block(variant="bidirectional"), make_clip()
    reversed_block = make_block(variant="bidirectional")
    reversed_block.offsets.load_state_dict(block.previous_offsets.state_dict())
    reversed_block.previous_offsets.load_state_dict(block.offsets.state_dict())
    close(reversed_block(clip.flip(1)), block(clip).flip(1))
    forwards = make_block(variant="deformable")
    assert (forwards(clip.flip(1)) - forwards(clip).flip(1)).abs().max() > 0.1


def test_fresh_offsets_are_none_or_drawn_for_their_outputs():
    zero = InterFrameAttention(8, options=MotionOptions())
    assert zero.offsets.convolution.weight.abs().max() == 0
    torch.manual_seed(0)
    options = MotionOptions(variant="bidirectional", offset_start="random")
    drawn = InterFrameAttention(256, options=options)
    for estimator in (drawn.offsets, drawn.previous_offsets):
        std = estimator.convolution.weight.std().item()
        assert std == pytest.approx((2 / (18 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_and_the_frames_get_a_gradient(variant):
    block = make_block(variant=variant)
    clip = make_clip().requires_grad_()
    block(clip).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in block.parameters())
    assert (clip.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()


@torch.no_grad()
def test_memory_order_of_the_frames_changes_nothing():
    block, clip = make_block(variant="bidirectional"), make_clip(2)
    channels_first = clip.movedim(-1, 1).contiguous().movedim(1, -1)
    assert not channels_first.is_contiguous()
    close(block(channels_first), block(clip))


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"variant": "bidirectional"},
        {"variant": "correlation"},
        {"offset_source": "clip", "last": "zero"},
        {"scale": "mean", "tap_frames": 4},
    ],
    ids=str,
)
def test_block_is_one_graph(options):
    block, clip = make_block(region=1, **options), make_clip()
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    close(compiled(clip), block(clip))
    close(torch.export.export(block, (clip,)).module()(clip), block(clip))
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "none"}, "variant must be one of 'correlation', 'regular'"),
        ({"offset_source": "flow"}, "offset_source must be one of 'frame', 'clip'"),
        ({"offset_start": "one"}, "offset_start must be one of 'zero', 'random'"),
        ({"last": "first"}, "last must be one of 'zero', 'self'"),
        ({"scale": "max"}, "scale must be one of 'mean', 'none'"),
        ({"implementation": "cuda"}, "implementation must be one of 'auto'"),
        ({"region": 4}, r"region must be one of \(1, 3, 5, 7, 9\), got 4"),
        ({"dilation": 0}, "dilation must be at least 1, got 0"),
        (
            {"variant": "regular", "offset_source": "clip"},
            "offset_source has no effect, as variant 'regular' has no offsets",
        ),
        ({"variant": "regular", "offset_start": "random"}, "offset_start has no effect"),
        ({"variant": "regular", "saliency_residual": True}, "saliency_residual has no effect"),
        (
            {"offset_source": "difference", "saliency_residual": True},
            "saliency_residual has no effect",
        ),
        ({"region": 1, "dilation": 2}, "dilation has no effect"),
        ({"variant": "correlation", "implementation": "portable"}, "implementation has no effect"),
    ],
)
def test_options_that_cannot_be_or_do_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MotionOptions(**options)


@pytest.mark.parametrize(
    "options", [{"scale": "none"}, {"scale": "mean", "variant": "correlation"}], ids=str
)
def test_weights_of_taps_need_a_scale_that_they_replace(options):
    with pytest.raises(ValueError, match="weights of taps take the place of scale='mean'"):
        make_block(tap_frames=3, **options)
