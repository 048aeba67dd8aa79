"""The whole Deformable Video Transformer: geometry, inputs, and that motion teaches it."""

import pytest
import torch
from torch import nn

from gopstream.models.dvt.cues import average_cue, difference_cue
from gopstream.models.dvt.model import DeformableVideoTransformer


def make_model(seed=0, **options):
    torch.manual_seed(seed)
    shape = {"num_frames": 8, "size": 16, "embed_dim": 8, "depth": 2, "stage_starts": (1,)}
    quiet = {"subclip_tokens": 2, "drop_path_rate": 0.0, "head_dropout": 0.0}
    return DeformableVideoTransformer(3, **(shape | quiet | {"initial_std": 0.3} | options))


def make_inputs(seed=1, *, size=16, grid=4, num_frames=8, subclip_frames=4):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(2, 3, num_frames, size, size, generator=generator)
    motion = 3 * torch.randn(2, num_frames // 2, 2, subclip_frames, grid, grid, generator=generator)
    return frames, motion


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 24},
        {"depth": 4, "stage_starts": (1, 2)},
        {"num_frames": 16, "subclip_tokens": 4},
        {"num_points": 3, "num_heads": 2},
        {
            "stage_starts": (),
            "patch_kernel": (2, 8, 8),
            "patch_stride": (2, 8, 8),
            "patch_padding": (0, 0, 0),
        },
        {"attention": "both"},
        {"attention": "both", "fusion": "linear", "scale_form": "commuted"},
        {"attention": "both", "projections": "value_output", "stage_starts": ()},
        {"motion_targets": "frames"},
        {"motion_targets": "frames", "attention": "both", "motion_scaling": "asinh"},
        {
            "motion_targets": "frames",
            "subclip_tokens": 1,
            "patch_kernel": (2, 4, 4),
            "patch_stride": (2, 4, 4),
            "patch_padding": (0, 0, 0),
        },
    ],
)
def test_every_geometry_classifies(options):
    model = make_model(**options)
    frames, motion = make_inputs(
        size=options.get("size", 16),
        num_frames=options.get("num_frames", 8),
        subclip_frames=2 * options.get("subclip_tokens", 2),
    )
    logits = model(frames, motion=motion)
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()


@torch.no_grad()
def test_no_motion_is_zero_motion_and_motion_changes_the_answer():
    model = make_model()
    frames, motion = make_inputs()
    without = model(frames)
    zeros = torch.zeros_like(motion)
    nothing_valid = torch.zeros(2, 4, 4, 4, 4, dtype=torch.bool)
    assert torch.allclose(model(frames, motion=zeros), without, rtol=0, atol=1e-6)
    assert torch.allclose(
        model(frames, motion=motion, valid=nothing_valid), without, rtol=0, atol=1e-6
    )
    assert (model(frames, motion=motion) - without).abs().max() > 1e-5


@torch.no_grad()
def test_forward_is_classify_of_channels_first_features():
    model = make_model(head_dropout=0.9).eval()
    frames, motion = make_inputs()
    valid = torch.rand(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    features = model.forward_features(frames, motion=motion, valid=valid)
    assert features.shape == (2, 16, 4, 2, 2)
    logits = model(frames, motion=motion, valid=valid)
    assert torch.equal(model.classify(features), logits)
    pooled = features.mean((2, 3, 4))
    expected = pooled @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(logits, expected)
    assert not torch.equal(model.train().classify(features), logits)  # dropout is the head's
    tokens = features.movedim(1, -1)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 4, 2, 2), atol=1e-5, rtol=0)


@torch.no_grad()
def test_all_valid_is_the_same_as_no_validity_map():
    model = make_model()
    frames, motion = make_inputs()
    valid = torch.ones(2, 4, 4, 4, 4, dtype=torch.bool)
    assert torch.equal(model(frames, motion=motion, valid=valid), model(frames, motion=motion))


@torch.no_grad()
def test_block_motion_may_come_on_any_grid_that_shows_the_same_pixels():
    model = make_model().double()
    frames, motion = (tensor.double() for tensor in make_inputs())
    fine = motion.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)
    torch.testing.assert_close(
        model(frames, motion=fine), model(frames, motion=motion), rtol=0, atol=1e-12
    )


def test_fresh_models_are_equal_only_for_equal_seeds():
    frames, motion = make_inputs()
    first = make_model(seed=0)(frames, motion=motion)
    assert torch.equal(make_model(seed=0)(frames, motion=motion), first)
    assert not torch.equal(make_model(seed=1)(frames, motion=motion), first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 6}, "num_frames must be a positive multiple of 4, got 6"),
        ({"size": 20}, "size must be a positive multiple of 8, got 20"),
        ({"num_heads": 3}, "embed_dim must be a positive multiple of 3, got 8"),
        ({"stage_starts": (2,)}, r"blocks from 1 to 1 \(depth 2\), got \(2,\)"),
        ({"stage_starts": (1, 1)}, r"stage_starts must be ascending"),
        ({"patch_padding": (1, 0, 0)}, r"one token per stride, \(4, 4, 4\)"),
        ({"attention": "time"}, "attention must be one of 'space_time', 'multi_scale', 'both'"),
        ({"attention": "both", "fusion": "sum"}, "fusion must be one of 'linear', 'mixer'"),
        ({"fusion": "linear"}, "with attention='space_time' leave it out"),
        ({"projections": "value"}, "projections must be one of"),
        ({"attention": "both", "scale_form": "coarse"}, "scale_form must be one of"),
        ({"scale_form": "commuted"}, "is about multi-scale attention"),
        ({"motion_targets": "all"}, "motion_targets must be one of 'tokens', 'frames'"),
        ({"attention": "multi_scale", "motion_targets": "frames"}, "uses no motion"),
        ({"attention": "multi_scale", "cue": "motion"}, "uses no motion"),
        ({"cue": "flow"}, "cue must be one of 'motion', 'residual', 'difference'"),
        ({"cue": "none", "motion_targets": "frames"}, "says where motion leads"),
        ({"motion_scaling": "log"}, "motion_scaling must be one of"),
        ({"motion_scaling": "tanh", "cue": "residual"}, "is about displacements"),
        ({"implementation": "cuda"}, "implementation must be one of"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"patch_stride": (2, 0, 4)}, r"patch_stride must be at least 1, got \(2, 0, 4\)"),
        ({"mlp_ratio": 0.01}, "mlp_ratio must give the MLP of .* got 0.01"),
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"coarse_stride": 0}, "coarse_stride must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def test_wrong_inputs_are_refused_by_name():
    model = make_model()
    frames, motion = make_inputs()
    valid = torch.ones(2, 4, 4, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"frames must be .*\(B, 3, 8, 16, 16\), got \(2, 3, 7,"):
        model(frames[:, :, :7])
    with pytest.raises(ValueError, match="frames must be normalised floating point, got .*uint8"):
        model(frames.byte())
    with pytest.raises(ValueError, match=r"motion must be .*\(2, 4, 2, 4, Y, X\), got \(2, 4, 1,"):
        model(frames, motion=motion[:, :, :1])
    with pytest.raises(ValueError, match=r"motion grid must divide the 16 x 16 .* got 3 x 4"):
        model(frames, motion=motion[..., :3, :])
    with pytest.raises(ValueError, match="motion must be floating point pixels, got .*int16"):
        model(frames, motion=motion.to(torch.int16))
    with pytest.raises(ValueError, match=r"valid must be bool .*got torch.bool \(2, 4, 4, 4, 3\)"):
        model(frames, motion=motion, valid=valid[..., :3])
    with pytest.raises(ValueError, match=r"valid must be bool .*got torch.float32"):
        model(frames, motion=motion, valid=valid.float())
    with pytest.raises(ValueError, match="valid was given without motion"):
        model(frames, valid=valid)


OTHER_KINDS = [
    {"attention": "multi_scale"},
    {"attention": "both", "fusion": "linear", "projections": "value_output"},
    {"attention": "both", "scale_form": "commuted", "motion_targets": "frames", "cue": "average"},
    {"cue": "residual"},
    {"cue": "difference"},
    {"cue": "none"},
]


def inputs_for(model, seed=1):
    """What a model of `make_model` takes, by keyword."""
    frames, motion = make_inputs(seed)
    if not model.cue.comes_from_loader:
        return {"frames": frames}
    if model.cue.cue == "residual":
        motion = torch.cat([motion, motion[:, :, :1].flip(-1)], dim=2)
    return {"frames": frames, "motion": motion}


@pytest.mark.parametrize("options", OTHER_KINDS)
def test_every_parameter_of_every_kind_gets_a_gradient(options):  # property 4
    model = make_model(**options)
    model(**inputs_for(model)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("options", OTHER_KINDS[1:3])
def test_computing_blocks_again_gives_the_same_gradients(options):
    gradients = []
    for checkpointing in (False, True):
        model, runs = make_model(checkpointing=checkpointing, **options), []
        model.blocks[0].mlp_norm.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        model(**inputs_for(model)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        assert len(runs) == 1 + checkpointing
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


@torch.no_grad()
def test_a_kind_beside_the_catalogues_is_one_graph():
    model = make_model(depth=1, stage_starts=(), **OTHER_KINDS[2]).eval()
    inputs = inputs_for(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = model(**inputs)
    try:
        torch.testing.assert_close(compiled(**inputs), expected, rtol=1e-4, atol=1e-5)
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize(
    ("cue", "make"), [("difference", difference_cue), ("average", average_cue)]
)
@torch.no_grad()
def test_cues_of_frames_enter_each_stage_averaged_over_its_pixels(cue, make):
    model = make_model(cue=cue).double()
    seen = []
    for tokenizer in model.motion_tokenizers:
        tokenizer.projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    frames = make_inputs()[0].double()
    model(frames)
    whole = make(frames, query_stride=2, subclip_frames=4).flatten(0, 1)
    halves = whole.unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean(dim=(-3, -1))
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[1], halves, rtol=0, atol=1e-12)


@torch.no_grad()
def test_rgb_residuals_count_where_they_are_valid():
    model = make_model(cue="residual")
    inputs = inputs_for(model)
    nothing_valid = torch.zeros(2, 4, 4, 4, 4, dtype=torch.bool)
    without = model(inputs["frames"])
    assert torch.equal(model(**inputs, valid=nothing_valid), without)
    assert (model(**inputs) - without).abs().max() > 1e-5
    with pytest.raises(ValueError, match=r"motion must be \(B, T, 3, J, Y, X\) = \(2, 4, 3, 4, Y"):
        model(inputs["frames"], motion=inputs["motion"][:, :, :2])


@pytest.mark.parametrize("options", [{"cue": "difference"}, {"attention": "multi_scale"}])
def test_a_model_that_uses_no_motion_takes_none(options):
    frames, motion = make_inputs()
    with pytest.raises(ValueError, match="and takes no motion"):
        make_model(**options)(frames, motion=motion)


@torch.no_grad()
def test_a_mirrored_clip_is_another_clip():
    # Property 23: fresh weights know left from right, so that mirroring frames and motion may
    # not be taken for an identity; mirroring twice is one.
    model = make_model()
    frames, motion = make_inputs()
    mirrored = motion.flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    plain, other = model(frames, motion=motion), model(frames.flip(-1), motion=mirrored)
    assert (plain - other).abs().max() > 1e-3


@torch.no_grad()
def test_bfloat16_is_within_a_hundredth():  # property 22
    model = make_model(initial_std=0.06, attention="both").eval()
    frames, motion = make_inputs()
    exact = model.forward_features(frames, motion=motion)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.forward_features(frames, motion=motion)
    assert (mixed.float() - exact).norm() / exact.norm() < 1e-2


def test_it_learns_from_motion_alone():
    """Frames are noise; only the motion tells left, right and down apart."""
    model = make_model(initial_std=0.1)
    frames, _ = make_inputs()
    frames = frames[:1].expand(6, -1, -1, -1, -1)
    labels = torch.arange(6) % 3
    directions = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])[labels]
    steps = torch.arange(4)[None] - 2 * (torch.arange(4) % 2)[:, None]  # (query, sampled frame)
    motion = torch.einsum("bc,qj->bqcj", directions, steps.float())[..., None, None]
    motion = motion.expand(-1, -1, -1, -1, 4, 4)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(frames, motion=motion), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    assert nn.functional.cross_entropy(model(frames), labels) > 1.0
