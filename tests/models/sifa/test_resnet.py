"""The whole SIFA-Net: its two styles, where attention sits, and how clips may change."""

import math

import pytest
import torch
from torch.nn import functional

from gopstream.models.sifa import sifa_net_tiny
from gopstream.models.sifa.bottleneck import GlobalContext
from sifa_networks import make_frames, make_network

RELEASED = {
    "offset_start": "random",
    "saliency_residual": True,
    "last": "zero",
    "placement": "odd",
    "global_context": True,
    "dual_branch": True,
}
OPTIONS = [
    {},
    {"style": "released"},
    {"style": "released", "tap_weights": True},
    {"tap_weights": True},
    {"style": "released", "variant": "regular"},
    *({"variant": variant} for variant in ("none", "correlation", "regular", "bidirectional")),
    *({"offset_source": source} for source in ("frame", "clip", "difference")),
    {"region": 5, "dilation": 2, "scale": "none"},
    {"region": (1, 3, 5, 1), "sifa_stages": (2, 4, 5)},
    {"deep_stem": True, "stem_frames": 2},
    {"global_context": True, "dual_branch": True},
]


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def attentions(model):
    """Blocks with attention, by stage and place in it."""
    return [
        (stage, index)
        for stage, part in enumerate(model.stages, start=2)
        for index, block in enumerate(part.blocks)
        if block.motion is not None
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_classifies_and_reaches_every_weight(options):
    model = make_network(**options)
    frames = make_frames()
    logits = model(frames)
    assert logits.shape == (2, 3)
    # A clip does not see the others of its batch.
    close(model(frames[:1]), logits[:1])
    close(model(frames.flip(0)), logits.flip(0))
    model.train()
    # More places than in the frames above: the norm of a single one is zero.
    sum(head.square().sum() for head in model.forward_heads(make_frames(height=40))).backward()
    unreached = [key for key, p in model.named_parameters() if p.grad.abs().max() == 0]
    assert unreached == []


@torch.no_grad()
def test_any_length_and_size_is_taken():
    model = make_network()
    for num_frames, height, width in [(2, 24, 32), (14, 33, 17), (4, 1, 5)]:
        frames = make_frames(1, num_frames=num_frames, height=height, width=width)
        features = model.forward_features(frames)
        sides = tuple(math.ceil(side / 32) for side in (height, width))
        assert features.shape == (1, 128, num_frames // 2, *sides)
        close(model.classify(features), model(frames))


def test_styles_differ_in_the_options_that_they_set():
    """The same weights, and the same logits, when the other style's options are written out."""
    released = make_network(style="released")
    spelled = make_network(**RELEASED)
    close(spelled(make_frames()), released(make_frames()))
    back = {
        "offset_start": "zero",
        "saliency_residual": False,
        "last": "self",
        "placement": "every",
        "global_context": False,
        "dual_branch": False,
    }
    close(make_network(style="released", **back)(make_frames()), make_network()(make_frames()))
    for option, value in RELEASED.items():
        changed = make_network(style="released", **{option: back[option]})
        if option == "offset_start":
            assert changed.stages[1].blocks[1].motion.options.offset_start == "zero"
        else:
            assert changed.state_dict().keys() != released.state_dict().keys() or (
                (changed(make_frames()) - released(make_frames())).abs().max() > 1e-4
            ), (option, value)


def test_attention_is_in_every_block_or_each_second_of_the_stages():
    assert attentions(make_network()) == [(3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (5, 1)]
    assert attentions(make_network(sifa_stages=(2, 5))) == [(2, 0), (5, 0), (5, 1)]
    assert attentions(make_network(variant="none")) == []
    released = make_network(style="released", depths=(2, 2, 3, 3))
    assert attentions(released) == [(3, 1), (4, 1), (5, 1)]
    with_context = [
        (stage, index)
        for stage, part in enumerate(released.stages, start=2)
        for index, block in enumerate(part.blocks)
        if isinstance(block.context, GlobalContext)
    ]
    assert with_context == [(3, 0), (4, 0), (4, 2), (5, 0), (5, 2)]
    dual = [(block.motion is None, block.context is None) for block in released.dual_stage.blocks]
    assert dual == [(True, False), (False, True), (True, False)]


def test_each_stage_has_its_own_region_and_dilation():
    model = make_network(region=(9, 1, 3, 5), dilation=(1, 1, 2, 3), dual_branch=True)
    parts = [*model.stages[1:], model.dual_stage]
    found = [
        (block.motion.options.region, block.motion.options.dilation)
        for part in parts
        for block in part.blocks[:1]
    ]
    assert found == [(1, 1), (3, 2), (5, 3), (5, 3)]


def test_all_norms_have_the_epsilon_of_the_stem():
    for deep, epsilon in ((False, 1e-5), (True, 2e-5)):
        model = make_network(deep_stem=deep)
        norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        assert {norm.eps for norm in norms} == {epsilon}
        assert model.stages[0].blocks[0].reduce.in_channels == (8 if deep else 4)


# Property 25: eight frames leave the dual branch one.
@torch.no_grad()
@pytest.mark.parametrize("last", ["zero", "self"])
def test_dual_branch_sees_the_stronger_of_two_frames_on_twice_the_grid(last):
    model = make_network(style="released", stem_frames=4, last=last)
    frames = make_frames()
    shared = model.stem(frames)
    for stage in model.stages[:3]:
        shared = stage(shared)
    halved = functional.max_pool3d(shared.permute(0, 4, 1, 2, 3), (2, 1, 1)).permute(0, 2, 3, 4, 1)
    assert halved.shape[1] == 1
    dual = model.dual_stage(halved)
    assert dual.shape[2:4] == shared.shape[2:4]
    logits, dual_logits = model.forward_heads(frames)
    close(dual_logits, model.dual_head(dual.mean((1, 2, 3))))
    close(logits, model.classify(model.forward_features(frames)))
    taken = model.dual_stage.blocks[1].motion(torch.rand(1, 1, 3, 3, 32, dtype=torch.float64))
    assert (taken.abs().max() > 0) == (last == "self")


@torch.no_grad()
def test_both_heads_score_a_clip_by_the_mean_of_their_probabilities():
    model = make_network(style="released")
    frames = make_frames()
    heads = model.forward_heads(frames)
    mean = sum(head.softmax(-1) for head in heads) / 2
    close(model(frames), mean.log())
    single = make_network()
    assert len(single.forward_heads(frames)) == 1
    assert torch.equal(single(frames), single.forward_heads(frames)[0])


@torch.no_grad()
def test_an_odd_frame_out_is_not_seen_by_the_dual_branch():
    model = make_network(style="released", variant="none", global_context=False)
    frames = make_frames(num_frames=6)
    other = frames.clone()
    other[:, :, 4:] += 1
    (first, first_dual), (second, second_dual) = map(model.forward_heads, (frames, other))
    close(first_dual, second_dual)
    assert (first - second).abs().max() > 1e-4


def test_fresh_weights_are_those_of_the_authors():
    torch.manual_seed(0)
    model = sifa_net_tiny(5, style="released", depths=(1, 2, 2, 2))
    block = model.stages[3].blocks[1]
    for convolution in (
        block.reduce,
        block.convolve,
        block.expand,
        block.motion.offsets.convolution,
    ):
        fan_out = convolution.out_channels * math.prod(convolution.kernel_size)
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert block.expand_norm.weight.abs().max() == 0
    assert (block.convolve_norm.weight == 1).all()
    paper = sifa_net_tiny(5)
    assert paper.stages[3].blocks[0].motion.offsets.convolution.weight.abs().max() == 0
    full = sifa_net_tiny(5, zero_init_residual=False)
    assert (full.stages[0].blocks[0].expand_norm.weight == 1).all()


@torch.no_grad()
def test_frames_without_attention_meet_in_the_stem_and_the_mean():
    frames = make_frames()
    groups = frames.unflatten(2, (4, 2))[:, :, [2, 0, 3, 1]].flatten(2, 3)
    plain = make_network(variant="none")
    close(plain(groups), plain(frames))
    for options in ({"variant": "regular"}, {"variant": "correlation"}, {}):
        model = make_network(**options)
        assert (model(groups) - model(frames)).abs().max() > 1e-4


@torch.no_grad()
def test_region_of_one_without_offsets_is_a_weight_of_the_same_place():
    model = make_network(variant="regular", region=1, scale="mean", last="zero")
    features = torch.rand(1, 3, 2, 2, 8, dtype=torch.float64)
    taken = model.stages[1].blocks[0].motion(features)
    # Property 16, from the side of the query.
    weight = (features[:, :-1] * features[:, 1:]).mean(-1, keepdim=True)
    close(taken[:, :-1], weight * features[:, 1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "code"}, "style must be one of 'paper', 'released', got 'code'"),
        ({"variant": "softmax"}, "variant must be one of 'none', 'correlation'"),
        ({"placement": "even"}, "placement must be one of 'every', 'odd'"),
        ({"sifa_stages": (1, 2)}, r"sifa_stages must be some of 2, 3, 4 and 5, got \(1, 2\)"),
        ({"sifa_stages": ()}, "sifa_stages must be some of"),
        ({"depths": (1, 1, 1)}, "depths must be four numbers"),
        ({"depths": (1, 1, 1, 0)}, "depths must be four numbers"),
        ({"region": (3, 3, 3)}, "region must be one number, or one for each of 4 stages"),
        ({"region": 2}, "region must be one of"),
        ({"stem_frames": 0}, "stem_frames must be at least 1"),
        ({"num_frames": 7}, "num_frames must be a multiple of stem_frames 2"),
        ({"num_frames": 2, "dual_branch": True}, "at least 4, got 2"),
        ({"variant": "none", "region": 5}, "region has no effect, as variant is 'none'"),
        ({"variant": "none", "scale": "none"}, "scale has no effect"),
        ({"variant": "none", "sifa_stages": (5,)}, "sifa_stages has no effect"),
        ({"variant": "none", "placement": "odd"}, "placement has no effect"),
        ({"variant": "none", "tap_weights": True}, "tap_weights has no effect"),
        ({"variant": "none", "offset_source": "clip"}, "offset_source has no effect"),
        ({"variant": "regular", "offset_source": "clip"}, "offset_source has no effect"),
        ({"variant": "regular", "saliency_residual": True}, "saliency_residual has no effect"),
        (
            {"depths": (1, 1, 1, 1), "placement": "odd"},
            r"no block attends between frames: .* depths are \(1, 1, 1, 1\)",
        ),
        ({"scale": "none", "tap_weights": True}, "weights of taps take the place of scale='mean'"),
    ],
)
def test_options_that_cannot_be_or_do_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_network(**options)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 4, 2, 16, 16), r"\(B, 3, F, Y, X\), got \(1, 4, 2, 16, 16\)"),
        (torch.zeros(3, 2, 16, 16), r"\(B, 3, F, Y, X\)"),
        (torch.zeros(1, 3, 2, 16, 16, dtype=torch.uint8), "floating point, got torch.uint8"),
        (torch.zeros(1, 3, 5, 16, 16), "multiple of stem_frames 2, got 5"),
        (torch.zeros(1, 3, 2, 16, 16).double(), "needs at least 4 frames, got 2"),
    ],
)
def test_wrong_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        make_network(dual_branch=True)(frames)
