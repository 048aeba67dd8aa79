"""The whole Deformable Video Transformer: geometry, inputs, and that motion teaches it."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gopstream.models.dvt.block import BlockShape, DeformableBlock, plan_blocks
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


def test_full_size_has_the_papers_parameters_and_multiplications():
    with torch.device("meta"):
        model = DeformableVideoTransformer(400)
        frames, motion = torch.zeros(1, 3, 16, 224, 224), torch.zeros(1, 8, 2, 8, 28, 28)
        with FlopCounterMode(display=False) as counter:
            logits = model(frames, motion=motion)
    assert logits.shape == (1, 400)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(31.89, abs=0.005)
    # The paper's 57.4 has 1.6 for the sampling, which the counter does not see.
    assert counter.get_total_flops() / 2e9 == pytest.approx(55.8, rel=0.01)


def test_blocks_are_laid_out_as_in_mvit():
    plan = plan_blocks(16, embed_dim=96, num_heads=1, stage_starts=(1, 3, 14))
    assert plan[0] == BlockShape(96, 192, 1, stage=0, query_stride=1)
    assert plan[1] == BlockShape(192, 192, 2, stage=1, query_stride=2)
    assert plan[2] == BlockShape(192, 384, 2, stage=1, query_stride=1)
    assert plan[3] == BlockShape(384, 384, 4, stage=2, query_stride=2)
    assert set(plan[4:13]) == {BlockShape(384, 384, 4, stage=2, query_stride=1)}
    assert plan[13] == BlockShape(384, 768, 4, stage=2, query_stride=1)
    assert plan[14] == BlockShape(768, 768, 8, stage=3, query_stride=2)
    assert plan[15] == BlockShape(768, 768, 8, stage=3, query_stride=1)


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
def test_block_adds_attention_and_mlp_to_their_skips():
    torch.manual_seed(0)
    for shape in (BlockShape(8, 8, 2, 0, 1), BlockShape(8, 16, 2, 0, 1), BlockShape(8, 8, 2, 1, 2)):
        block = DeformableBlock(
            shape, num_points=2, subclip_tokens=2, mlp_ratio=4.0, drop_path_rate=0.0
        ).double()
        stride = shape.query_stride
        tokens = torch.randn(1, 2, 4, 4, 8, dtype=torch.float64)
        motion_tokens = torch.randn(1, 2, 2, 4 // stride, 4 // stride, 8, dtype=torch.float64)
        skipped = tokens
        if stride == 2:
            padded = nn.functional.pad(tokens, (0, 0, 1, 1, 1, 1), value=-torch.inf)
            windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)
            skipped = windows.amax(dim=(-1, -2))
        middle = skipped + block.attention(block.attention_norm(tokens), motion_tokens)
        normalised = block.mlp_norm(middle)
        skipped = (
            normalised @ block.skip_projection.weight.T + block.skip_projection.bias
            if shape.width_out != shape.width
            else middle
        )
        expected = skipped + block.mlp(normalised)
        torch.testing.assert_close(block(tokens, motion_tokens), expected, rtol=0, atol=1e-12)


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
