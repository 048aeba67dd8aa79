"""The whole transformer: size, reach in time, options, and what does not depend on what."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gopstream.models.pst import (
    pst_b,
    pst_b_dagger,
    pst_t,
    pst_t_dagger,
    pst_tiny,
    swin2d_b,
    swin2d_t,
    video_swin_b,
    video_swin_t,
)
from gopstream.models.pst.model import PatchShiftTransformer

PATCH_ONLY = ("plain", "tps")


def make_model(seed=0, **options):
    torch.manual_seed(seed)
    small = {"num_frames": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
    model = PatchShiftTransformer(3, **(small | options)).eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def make_frames(seed=1, *, num_frames=32, size=(32, 32)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, num_frames, *size, generator=generator)


@pytest.mark.parametrize(
    ("constructor", "classes", "options", "parameters", "flops"),
    [
        (pst_t, 400, {}, 28_531_222, 144_136_593_408),
        (pst_t, 174, {}, 28_357_428, 144_136_246_272),
        (pst_b, 174, {}, 88_834_038, 494_374_449_152),
        # One more product of attention (property 10).
        (pst_t_dagger, 174, {}, 28_357_428, 144_136_246_272 + 4_484_530_176),
        (pst_b_dagger, 174, {}, 88_834_038, 494_374_449_152 + 9_755_820_032),
        # Fewer by 30 * 169 rows for each head (property 9).
        (swin2d_t, 174, {}, 28_357_428 - 699_660, 144_136_246_272),
        (swin2d_b, 174, {}, 88_834_038 - 1_906_320, 494_374_449_152),
        (video_swin_t, 174, {}, 28_357_428, 211_404_198_912),
        (video_swin_b, 174, {}, 88_834_038, 640_711_749_632),
        (video_swin_t, 174, {"temporal_window": 8, "table_frames": 8}, 27_984_276, 175_527_957_504),
        (pst_t, 174, {"block_kinds": ("plain", "tps"), "pattern": "D"}, 28_357_428,
         144_136_246_272),
        (pst_t, 174, {"block_kinds": ("tcs", "tcs")}, 28_357_428, 144_136_246_272),
    ],
)  # fmt: skip
def test_full_size_is_that_of_the_authors(constructor, classes, options, parameters, flops):
    with torch.device("meta"):
        model = constructor(classes, **options).eval()
        with FlopCounterMode(display=False) as counter:
            logits = model(torch.zeros(1, 3, 32, 224, 224))
    assert logits.shape == (1, classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert counter.get_total_flops() == flops


def test_sparse_attention_has_the_multiplications_of_the_paper():
    with torch.device("meta"):
        model = video_swin_t(174, block_kinds=("sparse", "sparse")).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 32, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(72.07, rel=0.002)


def frames_that_reach(model, frame, *, num_tokens=16, size=7, cell=(0, 0)):
    """Return the token frames on which a token of the last norm's input depends."""
    tokens = torch.randn(1, num_tokens, size, size, 16, requires_grad=True)
    out = tokens
    for stage in model.stages:
        out = stage(out)
    (gradient,) = torch.autograd.grad(out[0, frame, cell[0], cell[1]].sum(), tokens)
    return gradient[0].abs().amax(dim=(1, 2, 3)).nonzero().flatten().tolist()


def one_block(kinds, depth=1, **options):
    return make_model(depths=(depth,), num_heads=(2,), block_kinds=kinds, **options)


@pytest.mark.parametrize(
    ("cell", "reach"), [((0, 0), range(-8, 1)), ((1, 1), range(-4, 5)), ((2, 2), range(9))]
)
def test_patch_shift_sees_nine_frames_around_the_frame_it_moved_to(cell, reach):  # property 5
    model = one_block(("tps", "tps"))
    for frame in (0, 7):
        expected = sorted({(frame + step) % 16 for step in reach})
        assert frames_that_reach(model, frame, cell=cell) == expected


def test_channel_shift_sees_its_neighbours_and_a_plain_block_itself():  # property 5
    model = one_block(("tcs", "tcs"))
    assert [frames_that_reach(model, frame) for frame in (0, 5, 15)] == [
        [0, 1],
        [4, 5, 6],
        [14, 15],
    ]
    assert frames_that_reach(one_block(("plain", "plain")), 5) == [5]


def test_reach_grows_with_blocks():  # property 6
    both = one_block(("tcs", "tps"), depth=2)
    assert len(frames_that_reach(both, 8, cell=(1, 1))) == 11
    assert len(frames_that_reach(one_block(PATCH_ONLY, depth=4), 8, cell=(1, 1))) == 16
    assert len(frames_that_reach(one_block(("tcs", "tcs"), depth=3), 8)) == 7
    # Patches come around the end, channels do not.
    assert {12, 13, 14, 15} <= set(frames_that_reach(both, 0, cell=(1, 1)))


@pytest.mark.parametrize("rpe", ["official", "paper"])
@torch.no_grad()
def test_one_frame_is_2d_swin_with_the_group_of_no_difference(rpe):  # property 7
    model = make_model(num_frames=2, table_frames=16, rpe=rpe)
    flat = make_model(num_frames=2, table_frames=1, rpe="paper", block_kinds=("plain", "plain"))
    state = model.state_dict()
    for key in state:
        if key.endswith("position_table"):
            state[key] = state[key][15 * 169 : 16 * 169]
    flat.load_state_dict(state)
    frames = make_frames(num_frames=2)
    torch.testing.assert_close(model(frames), flat(frames), rtol=0, atol=1e-5)


def test_weights_do_not_depend_on_kinds_and_pattern():  # property 9
    def shapes(**options):
        return {key: value.shape for key, value in make_model(**options).state_dict().items()}

    assert shapes() == shapes(block_kinds=PATCH_ONLY, pattern="D") == shapes(rpe="paper")


def with_constant_positions(model):
    """Give all frame differences the positions of the first."""
    with torch.no_grad():
        for name, table in model.named_parameters():
            if name.endswith("position_table"):
                table.copy_(table[:169].repeat(len(table) // 169, 1))
    return model


@pytest.mark.parametrize(("kinds", "commutes"), [(PATCH_ONLY, True), (("tcs", "tps"), False)])
@torch.no_grad()
def test_patches_shift_alike_in_all_frames(kinds, commutes):  # property 11
    model = with_constant_positions(make_model(block_kinds=kinds))
    frames = make_frames()
    features = model.forward_features(frames)
    rolled = model.forward_features(frames.roll(6, 2))
    assert torch.allclose(rolled, features.roll(3, 2), atol=1e-4) == commutes


@torch.no_grad()
def test_without_shift_and_positions_frames_are_apart():  # property 13
    model = make_model(block_kinds=PATCH_ONLY, pattern="none")
    for stage in model.stages:
        for block in stage.blocks:
            block.attention.position_table.zero_()
    frames = make_frames()
    features = model.forward_features(frames)
    pairs = frames.view(1, 3, 16, 2, 32, 32).transpose(1, 2).flatten(0, 1)
    alone = model.forward_features(pairs)[:, :, 0]
    torch.testing.assert_close(features[0].transpose(0, 1), alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(70, 90), (16, 20), (30, 64)])
@pytest.mark.parametrize("num_frames", [5, 16])
@torch.no_grad()
def test_any_size_and_length_runs_and_clips_are_apart(num_frames, size):  # properties 15 and 16
    model = make_model()
    clips = torch.cat([make_frames(seed, num_frames=num_frames, size=size) for seed in (1, 2)])
    both = model(clips)
    assert torch.equal(both, model(clips))
    torch.testing.assert_close(both[:1], model(clips[:1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1:], model(clips[1:]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_features_are_of_the_token_grid_and_classify_to_the_logits():
    model = make_model()
    frames = make_frames(num_frames=8, size=(56, 60))
    features = model.forward_features(frames)
    assert features.shape == (1, 32, 4, 7, 8)
    assert torch.equal(model.classify(features), model(frames))
    expected = model.head(features.mean(dim=(2, 3, 4)))
    assert torch.equal(model.classify(features), expected)


def logits_of(**options):
    with torch.no_grad():
        return make_model(**options)(make_frames(num_frames=16))


@pytest.mark.parametrize(
    "options",
    [
        {"rpe": "paper"},
        {"pattern": "D"},
        {"offset_sign": "paper"},
        {"shift_back": False},
        {"shift_positions": False},
        {"shift_stages": (0,)},
        {"shift_stages": (1,)},
        {"shift_stages": ()},
        {"channel_boundary": "zero"},
        {"channel_boundary": "cyclic"},
        {"channel_folds": 4},
        {"temporal_window": 2, "rpe": "paper"},
        {"block_kinds": ("tps", "tps")},
        {"block_kinds": ("tcs", "tcs")},
        {"block_kinds": ("sparse", "tps")},
    ],
)
def test_every_option_changes_the_network(options):
    assert not torch.allclose(logits_of(), logits_of(**options), atol=1e-4)


def test_stages_without_shift_are_plain():
    everywhere = logits_of(block_kinds=("plain", "plain"))
    assert torch.equal(logits_of(shift_stages=()), everywhere)


def test_checkpointing_changes_no_gradient():
    def gradients(checkpointing):
        model = make_model(checkpointing=checkpointing, drop_path_rate=0.5, head_dropout=0.0)
        model.train()
        torch.manual_seed(5)
        model(make_frames(num_frames=4).repeat(4, 1, 1, 1, 1)).square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    for got, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("wants_gradients", "passes"), [(True, 2), (False, 1)])
def test_blocks_are_computed_again_wherever_gradients_are_wanted(wants_gradients, passes):
    model = make_model(depths=(1,), num_heads=(2,), checkpointing=True).eval()
    seen = []
    model.stages[0].blocks[0].register_forward_pre_hook(lambda *given: seen.append(given))
    with torch.set_grad_enabled(wants_gradients):
        logits = model(make_frames(num_frames=4, size=(8, 8)))
    if wants_gradients:
        logits.sum().backward()
    assert len(seen) == passes


@torch.no_grad()
def test_compiled_graph_takes_another_size():
    model = pst_tiny(3, depths=(2,), num_heads=(2,)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for size in ((32, 32), (40, 24)):
        frames = make_frames(num_frames=8, size=size)
        torch.testing.assert_close(compiled(frames), model(frames))
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_kinds": ("tcs", "psm")}, "block_kinds must be one of 'plain', .*got 'psm'"),
        ({"block_kinds": ("tcs",)}, "block_kinds must be two"),
        ({"offset_sign": "+"}, "offset_sign must be one of 'code', 'paper', got"),
        ({"rpe": "none"}, "rpe must be one of 'official', 'paper', got 'none'"),
        ({"channel_boundary": "wrap"}, "channel_boundary must be one of 'keep', 'zero', 'cyclic'"),
        ({"pattern": "E"}, "pattern must be one of"),
        ({"temporal_window": 2}, "give rpe='paper'"),
        ({"temporal_window": 0}, "temporal_window must be at least 1"),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"patch_size": (2, 0, 4)}, r"patch_size must be at least 1, got \(2, 0, 4\)"),
        ({"depths": (2, 0)}, r"depths must be at least 1, got \(2, 0\)"),
        ({"depths": (), "num_heads": ()}, "one number for each stage"),
        ({"embed_dim": 0}, "embed_dim must be at least 1, got 0"),
        ({"num_heads": (2, 0)}, r"num_heads must be at least 1, got \(2, 0\)"),
        ({"table_frames": 0}, "table_frames must be at least 1, got 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must give the MLP .* got 0.0"),
        ({"table_frames": 8}, "at least 16, .* got 8"),
        ({"shift_stages": (2,)}, "from 0 to 1, got"),
        ({"num_heads": (3, 2)}, "3 heads for 16 channels in stage 0"),
        ({"num_heads": (2,)}, "one number for each stage"),
        ({"num_heads": (4, 4)}, "heads of 4 channels have none to shift"),
        ({"num_heads": (2, 8)}, "heads of 4 channels have none to shift"),
        ({"channel_folds": 1}, "at least 2"),
    ],
)
def test_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


CHANNELS = ("tcs", "tcs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_kinds": CHANNELS, "pattern": "D"}, "pattern has no effect, as no block is 'tps'"),
        ({"block_kinds": CHANNELS, "offset_sign": "paper"}, "offset_sign has no effect"),
        ({"block_kinds": CHANNELS, "shift_back": False}, "shift_back has no effect"),
        ({"block_kinds": CHANNELS, "shift_positions": False}, "shift_positions has no effect"),
        ({"block_kinds": PATCH_ONLY, "channel_folds": 4}, "channel_folds .* no block is 'tcs'"),
        ({"block_kinds": PATCH_ONLY, "channel_boundary": "zero"}, "channel_boundary has no eff"),
        ({"shift_stages": (), "pattern": "A"}, "pattern has no effect"),
        ({"shift_stages": (), "block_kinds": PATCH_ONLY}, "block_kinds .* shift_stages has no st"),
        ({"shift_stages": (0,), "block_kinds": ("plain", "plain")}, "shift_stages has no effect"),
    ],
)
def test_option_that_no_block_uses_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def test_option_that_no_block_uses_may_have_its_default_and_no_pattern_may_be_asked_for():
    make_model(block_kinds=CHANNELS, pattern="none", shift_back=True)
    make_model(block_kinds=("plain", "plain"), channel_folds=8, num_heads=(4, 4))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(3, 8, 32, 32), r"must be \(B, 3, F, H, W\)"),
        (torch.zeros(1, 1, 8, 32, 32), r"got \(1, 1, 8"),
        (torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8), "floating point, got torch.uint8"),
        (torch.zeros(1, 3, 34, 32, 32), "17 token frames .* num_frames="),
        (torch.zeros(1, 3, 0, 32, 32), r"at least one frame, row and column, got \(1, 3, 0, 32"),
        (torch.zeros(1, 3, 8, 0, 32), r"got \(1, 3, 8, 0, 32\)"),
        (torch.zeros(1, 3, 8, 32, 0), r"got \(1, 3, 8, 32, 0\)"),
    ],
)
def test_wrong_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        make_model()(frames)


def test_table_grows_with_the_clip_it_is_made_for():
    model = make_model(num_frames=64)
    assert model.stages[0].blocks[0].attention.position_table.shape[0] == 63 * 169
    assert model(make_frames(num_frames=64, size=(8, 8))).shape == (1, 3)
