"""The whole SIFA-Transformer: its two styles, its size, and how clips may change."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gopstream.models.sifa import sifa_swin_b, sifa_swin_s, sifa_swin_t, sifa_swin_tiny
from sifa_transformers import make_frames, make_transformer

RELEASED = {
    "variant": "regular",
    "last": "zero",
    "placement": "undisplaced",
    "motion_input": "tokens",
    "motion_norm": True,
    "temporal_convolution": True,
    "patch_norm": False,
}
PAPER = {
    "variant": "deformable",
    "last": "self",
    "placement": "even",
    "motion_input": "attention",
    "motion_norm": False,
    "temporal_convolution": False,
    "patch_norm": True,
}
OPTIONS = [
    {},
    {"style": "released"},
    {"style": "released", "tap_weights": True},
    {"style": "released", "size": 16},
    {"style": "released", "variant": "deformable"},
    {"style": "released", "variant": "none"},
    *({"variant": variant} for variant in ("none", "correlation", "regular", "bidirectional")),
    *({"offset_source": source} for source in ("frame", "clip", "difference")),
    {"region": 5, "dilation": 2, "scale": "none"},
    {"motion_norm": True},
    {"motion_input": "tokens", "temporal_convolution": True},
]


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_classifies_and_reaches_every_weight(options):
    model = make_transformer(**options)
    frames = make_frames()
    logits = model(frames)
    assert logits.shape == (2, 3)
    # A clip does not see the others of its batch.
    close(model(frames[:1]), logits[:1])
    logits.square().sum().backward()
    unreached = [key for key, p in model.named_parameters() if p.grad.abs().max() == 0]
    assert unreached == []


@torch.no_grad()
@pytest.mark.parametrize("style", ["paper", "released"])
def test_any_length_and_size_is_taken(style):
    model = make_transformer(style=style)
    for num_frames, height, width in [(2, 24, 32), (14, 33, 17), (4, 1, 5), (2, 64, 8)]:
        frames = make_frames(1, num_frames=num_frames, height=height, width=width)
        features = model.forward_features(frames)
        sides = tuple(math.ceil(math.ceil(side / 4) / 2) for side in (height, width))
        assert features.shape == (1, 16, num_frames // 2, *sides)
        assert torch.equal(model.classify(features), model(frames))


def test_styles_differ_in_the_options_that_they_set():
    """The same weights, and the same logits, when the other style's options are written out."""
    frames = make_frames()
    released = make_transformer(style="released", size=32)
    close(make_transformer(size=32, **RELEASED)(frames), released(frames))
    paper = make_transformer(style="released", saliency_residual=False, **PAPER)
    close(paper(frames), make_transformer()(frames))
    for option, value in RELEASED.items():
        size = {} if option == "placement" else {"size": 32}
        changed = make_transformer(style="released", **size, **{option: PAPER[option]})
        assert changed.state_dict().keys() != released.state_dict().keys() or (
            # Little, where the norm takes a factor back out.
            (changed(frames) - released(frames)).abs().max() > 1e-8
        ), (option, value)


def test_styles_of_offsets():
    moving = make_transformer(style="released", variant="deformable").stages[0].blocks[0].motion
    assert moving.options.offset_start == "random" and moving.options.saliency_residual
    moving = make_transformer().stages[0].blocks[0].motion
    assert moving.options.offset_start == "zero" and not moving.options.saliency_residual


def attending(model):
    """Blocks with attention between frames, and those that convolve, by stage and place."""
    places = [
        (stage, index, block)
        for stage, part in enumerate(model.stages)
        for index, block in enumerate(part.blocks)
    ]
    return (
        [(stage, index) for stage, index, block in places if block.motion is not None],
        [(stage, index) for stage, index, block in places if block.convolution is not None],
    )


@pytest.mark.parametrize(
    ("options", "attend", "convolve"),
    [
        ({}, [(0, 0), (1, 0)], []),
        ({"temporal_convolution": True}, [(0, 0), (1, 0)], [(0, 1), (1, 1)]),
        ({"variant": "none"}, [], []),
        # Windows of 4 x 4; the second stage has 28 x 28 tokens at 224 pixels, 4 x 4 at 32.
        ({"style": "released"}, [(0, 0), (1, 0)], [(0, 1), (1, 1)]),
        ({"style": "released", "size": 33}, [(0, 0), (1, 0)], [(0, 1), (1, 1)]),
        ({"style": "released", "size": 32}, [(0, 0), (1, 0), (1, 1)], [(0, 1)]),
        ({"style": "released", "size": 16}, [(0, 0), (0, 1), (1, 0), (1, 1)], []),
        ({"style": "released", "placement": "even"}, [(0, 0), (1, 0)], [(0, 1), (1, 1)]),
        ({"style": "released", "size": 32, "variant": "none"}, [], [(0, 1)]),
        ({"style": "released", "variant": "none", "placement": "even"}, [], [(0, 1), (1, 1)]),
    ],
    ids=str,
)
def test_blocks_attend_or_convolve_by_the_placement(options, attend, convolve):
    assert attending(make_transformer(**options)) == (attend, convolve)


# Property 29: in the last stage of the authors' networks no window is displaced.
def test_last_stage_attends_in_all_blocks_at_the_size_of_the_authors():
    with torch.device("meta"):
        attend, convolve = attending(sifa_swin_t(400, style="released"))
    assert [place for place in attend if place[0] == 3] == [(3, 0), (3, 1)]
    assert [stage for stage, _ in convolve] == [0, 1, 2, 2, 2]


# Property 28.
@torch.no_grad()
def test_frames_do_not_meet_where_norms_and_convolutions_are_zero():
    model = make_transformer(style="released", size=32)
    frames = make_frames()
    groups = frames.unflatten(2, (4, 2))[:, :, [2, 0, 3, 1]].flatten(2, 3)
    assert (model(groups) - model(frames)).abs().max() > 1e-4
    for block in [block for stage in model.stages for block in stage.blocks]:
        if block.convolution is not None:
            block.convolution.weight.zero_()
        if block.motion_norm is not None:
            block.motion_norm.weight.zero_()
            block.motion_norm.bias.zero_()
    close(model(groups), model(frames))
    alone = [model(frames[:, :, 2 * i : 2 * i + 2]) for i in range(4)]
    close(model(frames), sum(alone) / 4)
    plain = make_transformer(style="released", size=224, variant="none", temporal_convolution=False)
    plain.load_state_dict(
        {key: value for key, value in model.state_dict().items() if key in plain.state_dict()}
    )
    close(plain(frames), model(frames))


# Property 30: each frame takes from the next, not all from the first.
def test_a_frame_depends_on_those_that_attention_reaches():
    model = make_transformer(variant="regular", depths=(1,), num_heads=(2,))
    frames = make_frames(1).requires_grad_()
    features = model.forward_features(frames)
    for frame, expected in ((0, [0, 1, 2, 3]), (1, [2, 3, 4, 5]), (3, [6, 7])):
        (gradient,) = torch.autograd.grad(features[0, :, frame].sum(), frames, retain_graph=True)
        assert gradient[0].abs().amax(dim=(0, 2, 3)).nonzero().flatten().tolist() == expected


def test_fresh_weights_are_those_of_swin_and_of_a_network_of_frames():
    torch.manual_seed(0)
    model = sifa_swin_tiny(5, style="released")
    block = model.stages[1].blocks[0]
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention.position_table.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.attention.qkv.bias.abs().max() == 0
    assert block.motion_norm.weight.abs().max() == block.motion_norm.bias.abs().max() == 0
    assert model.stages[0].blocks[1].convolution.weight.abs().max() == 0
    moving = sifa_swin_tiny(5).stages[0].blocks[0].motion.offsets.convolution
    assert moving.weight.abs().max() == 0
    drawn = sifa_swin_tiny(5, offset_start="random").stages[0].blocks[0].motion.offsets.convolution
    assert drawn.weight.std().item() == pytest.approx((2 / (18 * 9)) ** 0.5, rel=0.05)


def test_weights_can_be_drawn_anew():
    model = make_transformer(style="released", variant="deformable", offset_start="zero")
    model.initialise()
    block = model.stages[0].blocks[0]
    for part in (block.motion_norm, block.motion.offsets.convolution):
        assert part.weight.abs().max() == 0
    torch.manual_seed(0)
    model.initialise()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(0)
    model.initialise()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_dropout_is_drawn_for_every_frame():
    model = make_transformer(head_dropout=0.5).train()
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(3, 16))
        model.head.bias.zero_()
        features = torch.ones(200, 16, 4, 2, 2, dtype=torch.float64)
        torch.manual_seed(0)
        logits = model.classify(features)
    # Means of four draws of 0 or 2.
    assert set(logits.flatten().tolist()) == {0.0, 0.5, 1.0, 1.5, 2.0}


@pytest.mark.parametrize("style", ["paper", "released"])
def test_checkpointing_changes_no_gradient(style):
    def gradients(checkpointing):
        model = make_transformer(style=style, checkpointing=checkpointing, drop_path_rate=0.5)
        torch.manual_seed(5)
        model.train()(make_frames()).square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    for got, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(got, expected)


# Offsets, displaced windows and convolutions in one, or the rest of the other style.
GRAPHS = [
    {"depths": (2,), "region": 1, "temporal_convolution": True},
    {"depths": (1,), "style": "released"},
]


@torch.no_grad()
def test_compiled_graph_takes_another_size():
    model = sifa_swin_tiny(3, num_heads=(2,), **GRAPHS[0]).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for height, width in ((32, 32), (40, 24)):
        frames = make_frames(num_frames=3, height=height, width=width).float()
        torch.testing.assert_close(compiled(frames), model(frames))
    torch.compiler.reset()


@pytest.mark.parametrize("options", GRAPHS, ids=str)
@torch.no_grad()
def test_export_gives_a_program_for_any_batch(options):
    model = sifa_swin_tiny(3, num_heads=(2,), **options).eval()
    frames = make_frames(3, num_frames=3, height=32).float()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        model, (), {"frames": frames[:2]}, dynamic_shapes={"frames": {0: batch}}
    )
    torch.testing.assert_close(program.module()(frames=frames), model(frames))


# Each block of the authors' code has the parts of both kinds; those of the other kind are idle:
# 3 C**2 where frames attend, 2 C where they do not. The classifier there is for each of 16 frames.
@pytest.mark.parametrize(
    ("constructor", "trainable", "gmacs"),
    [
        (sifa_swin_t, 34_319_050, 79.47),
        (sifa_swin_s, 60_954_586, 155.80),
        (sifa_swin_b, 108_134_216, 274.94),
    ],
)
def test_released_network_has_the_size_of_the_authors_code(constructor, trainable, gmacs):
    with torch.device("meta"):
        model = constructor(400, style="released").eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 64, 224, 224))
    idle = 0
    for stage in model.stages:
        for block in stage.blocks:
            width = block.attention_norm.weight.numel()
            idle += 2 * width if block.motion is None else 3 * width**2
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters + idle == trainable
    heads = 15 * model.head.weight.numel() / 1e9
    assert counter.get_total_flops() / 2e9 + heads == pytest.approx(gmacs, abs=6e-3)


def count_operator(model, *, num_frames):
    """GMACs of the operator at 224 pixels: 10 for each tap, place and channel, as theirs does."""
    return sum(
        10 * 9 * block.attention_norm.weight.numel() * (56 >> stage) ** 2 * num_frames / 4 / 1e9
        for stage, part in enumerate(model.stages)
        for block in part.blocks
        if block.motion is not None
    )


@pytest.mark.parametrize(
    ("constructor", "gmacs"), [(sifa_swin_t, 1.08), (sifa_swin_s, 1.73), (sifa_swin_b, 2.31)]
)
def test_operator_of_the_released_network_costs_what_theirs_does(constructor, gmacs):
    with torch.device("meta"):
        model = constructor(400, style="released")
    assert count_operator(model, num_frames=64) == pytest.approx(gmacs, abs=6e-3)


def test_weights_of_taps_are_what_the_authors_code_counts_above_that():
    with torch.device("meta"):
        model = sifa_swin_b(400, style="released", tap_weights=True)
    held = sum(value.numel() for key, value in model.named_buffers() if "tap_weights" in key)
    idle = sum(
        9 * 16 * block.attention_norm.weight.numel()
        for stage in model.stages
        for block in stage.blocks
        if block.motion is None
    )
    assert held + idle == 109_866_824 - 108_134_216


def test_network_without_frames_that_meet_is_swin():
    with torch.device("meta"):
        model = sifa_swin_b(400, variant="none").eval()
        bare = sifa_swin_b(400, variant="none", patch_norm=False)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 64, 224, 224))
    assert sum(parameter.numel() for parameter in bare.parameters()) == 87_171_400
    heads = 15 * model.head.weight.numel() / 1e9
    assert counter.get_total_flops() / 2e9 + heads == pytest.approx(247.81, abs=6e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "code"}, "style must be one of 'paper', 'released', got 'code'"),
        ({"variant": "softmax"}, "variant must be one of 'none', 'correlation'"),
        ({"placement": "odd"}, "placement must be one of 'even', 'undisplaced', got 'odd'"),
        ({"motion_input": "values"}, "motion_input must be one of 'attention', 'tokens'"),
        ({"region": 2}, "region must be one of"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"stem_frames": 0}, "stem_frames must be at least 1"),
        ({"window_size": 0}, "window_size must be at least 1"),
        ({"num_frames": 7}, "num_frames must be a positive multiple of stem_frames 2, got 7"),
        ({"num_frames": 0}, "num_frames must be a positive multiple"),
        ({"depths": (2,)}, "one number for each stage"),
        ({"num_heads": (3, 2)}, "3 heads for 8 channels in stage 0"),
        ({"region": (3, 5)}, r"region must be one number, for all stages, got \(3, 5\)"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must give the MLP"),
        ({"variant": "none", "region": 5}, "region has no effect, as variant is 'none'"),
        ({"variant": "none", "tap_weights": True}, "tap_weights has no effect"),
        ({"variant": "none", "motion_norm": True}, "motion_norm has no effect"),
        ({"variant": "none", "motion_input": "tokens"}, "motion_input has no effect"),
        ({"variant": "none", "placement": "even"}, "placement has no effect"),
        ({"style": "released", "offset_source": "clip"}, "offset_source has no effect"),
        ({"scale": "none", "tap_weights": True}, "weights of taps take the place of scale='mean'"),
        (
            {"depths": (1, 1), "temporal_convolution": True},
            "temporal_convolution has no effect, as all blocks attend",
        ),
    ],
)
def test_options_that_cannot_be_or_do_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_transformer(**options)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 4, 2, 16, 16), r"\(B, 3, F, Y, X\), got \(1, 4, 2, 16, 16\)"),
        (torch.zeros(3, 2, 16, 16), r"\(B, 3, F, Y, X\)"),
        (torch.zeros(1, 3, 2, 16, 16, dtype=torch.uint8), "floating point, got torch.uint8"),
        (torch.zeros(1, 3, 5, 16, 16), "multiple of stem_frames 2, got 5"),
        (torch.zeros(1, 3, 0, 16, 16), "multiple of stem_frames 2, got 0"),
        (torch.zeros(1, 3, 2, 0, 16), "at least one row and column"),
    ],
)
def test_wrong_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        make_transformer()(frames)
