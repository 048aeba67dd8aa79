"""A block of SIFA-Transformer against its equations, and what of it depends on what."""

import pytest
import torch

from gopstream.models.sifa.motion_block import MotionOptions
from gopstream.models.sifa.swin_block import SwinBlock, SwinOptions, SwinStage
from sifa_networks import shake

REGULAR = MotionOptions(variant="regular", last="zero", scale="mean")


def make_options(**changed):
    usual = {
        **{"window_size": 3, "mlp_ratio": 2.0, "motion": REGULAR, "tap_frames": None},
        **{"placement": "undisplaced", "motion_input": "tokens", "motion_norm": True},
        **{"temporal_convolution": True, "checkpointing": False},
    }
    return SwinOptions(**(usual | changed))


def make_block(*, attends=True, rolled=False, rate=0.0, width=4, **options):
    block = SwinBlock(
        width,
        num_heads=2,
        rolled=rolled,
        attends=attends,
        drop_path_rate=rate,
        options=make_options(**options),
    )
    return shake(block.double(), seed=0).eval()


def make_tokens(batch=2, *, num_frames=4, height=5, width=4, channels=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_frames, height, width, channels)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def in_windows(block, tokens):
    return block.attention(block.attention_norm(tokens))


def with_mlp(block, tokens):
    return tokens + block.mlp(block.mlp_norm(tokens))


@torch.no_grad()
def test_released_block_adds_what_frames_take_from_each_other_to_the_tokens():
    block, tokens = make_block(), make_tokens()
    expected = tokens + in_windows(block, tokens)
    taken = block.motion(expected)
    assert taken[:, -1].abs().max() == 0
    expected = expected + block.motion_norm(taken)
    close(block(tokens), with_mlp(block, expected))


@torch.no_grad()
def test_papers_block_attends_what_the_attention_in_windows_gives():
    block = make_block(
        motion=MotionOptions(), placement="even", motion_input="attention", motion_norm=False
    )
    tokens = make_tokens()
    attended = in_windows(block, tokens)
    close(block(tokens), with_mlp(block, tokens + attended + block.motion(attended)))


@torch.no_grad()
def test_norm_and_input_are_apart():
    block = make_block(motion_input="attention")
    tokens = make_tokens()
    attended = in_windows(block, tokens)
    expected = tokens + attended + block.motion_norm(block.motion(attended))
    close(block(tokens), with_mlp(block, expected))


@torch.no_grad()
def test_block_that_does_not_attend_convolves_along_time():
    block, tokens = make_block(attends=False, rolled=True), make_tokens()
    assert block.motion is None and block.motion_norm is None
    attended = tokens + in_windows(block, tokens)
    # Loops over taps; outside of the clip there is nothing.
    expected = attended.clone()
    weight = block.convolution.weight
    for frame in range(4):
        for tap in range(3):
            if 0 <= frame + tap - 1 < 4:
                expected[:, frame] += attended[:, frame + tap - 1] @ weight[:, :, tap].T
    close(block(tokens), with_mlp(block, expected))


# Property 28: with a weight of zero every frame gets the bias, the last one too.
@torch.no_grad()
def test_zero_norm_of_what_is_taken_adds_its_bias_to_every_frame():
    block, tokens = make_block(), make_tokens()
    block.motion_norm.weight.zero_()
    bias = block.motion_norm.bias
    assert bias.abs().min() > 0
    close(block(tokens), with_mlp(block, tokens + in_windows(block, tokens) + bias))
    block.motion_norm.bias.zero_()
    close(block(tokens), with_mlp(block, tokens + in_windows(block, tokens)))


# Property 28: the norm takes the factor back out.
@torch.no_grad()
def test_norm_makes_the_scale_of_products_irrelevant():
    tokens = 30 * make_tokens(channels=8)
    outputs = [
        make_block(width=8, motion=MotionOptions(variant="regular", last="zero", scale=scale))
        for scale in ("mean", "none")
    ]
    first, second = (block(tokens)[:, :-1] for block in outputs)
    close(first, second, 1e-6)
    plain = [
        make_block(
            width=8,
            motion_norm=False,
            motion=MotionOptions(variant="regular", last="zero", scale=scale),
        )(tokens)
        for scale in ("mean", "none")
    ]
    assert (plain[0] - plain[1]).abs().max() > 1


def frames_that_reach(block, frame, *, cell=(0, 0)):
    tokens = make_tokens(1).requires_grad_()
    (gradient,) = torch.autograd.grad(block(tokens)[0, frame, cell[0], cell[1]].sum(), tokens)
    return gradient[0].abs().amax(dim=(1, 2, 3)).nonzero().flatten().tolist()


@pytest.mark.parametrize("motion_input", ["tokens", "attention"])
def test_frames_see_the_next_or_both_neighbours(motion_input):
    attending = make_block(motion_input=motion_input)
    assert [frames_that_reach(attending, frame) for frame in range(4)] == [
        [0, 1],
        [1, 2],
        [2, 3],
        [3],
    ]
    convolving = make_block(attends=False)
    assert [frames_that_reach(convolving, frame) for frame in (0, 2, 3)] == [
        [0, 1],
        [1, 2, 3],
        [2, 3],
    ]
    alone = make_block(attends=False, temporal_convolution=False)
    assert frames_that_reach(alone, 1) == [1]


# Property 29, as far as it says where windows are displaced.
def test_windows_are_displaced_in_odd_blocks_of_grids_larger_than_one():
    def tokens_that_reach(rolled, height, width):
        block = make_block(attends=False, rolled=rolled, temporal_convolution=False)
        tokens = make_tokens(1, num_frames=1, height=height, width=width).requires_grad_()
        (gradient,) = torch.autograd.grad(block(tokens)[0, 0, 0, 0].sum(), tokens)
        # What is masked counts as little as the exponential of -100.
        return (gradient[0, 0].abs().amax(-1) > 1e-30).nonzero().tolist()

    whole = [[y, x] for y in range(3) for x in range(3)]
    assert tokens_that_reach(True, 3, 3) == tokens_that_reach(False, 3, 3) == whole
    assert tokens_that_reach(False, 6, 6) == whole
    # The corner of the displaced grid is a window of one token.
    assert tokens_that_reach(True, 6, 6) == [[0, 0]]
    # An axis of one window is not displaced.
    assert tokens_that_reach(True, 3, 6) == [[0, 0], [1, 0], [2, 0]]
    # A grid smaller than a window is one.
    assert tokens_that_reach(True, 2, 2) == [[y, x] for y in range(2) for x in range(2)]


def test_rows_are_left_out_frame_by_frame():
    """Rows of the authors' code are frames; what frames take from each other always stays."""
    block = make_block(rate=0.5, motion_norm=False).train()
    tokens = make_tokens(8)
    torch.manual_seed(0)
    with torch.no_grad():
        added = block(tokens) - tokens
        block.motion = None
        torch.manual_seed(0)
        difference = added - (block(tokens) - tokens)
    # Frames that were left out twice, or once in two ways, of clips that were not.
    kept = (block.drop_path(torch.ones_like(tokens)) > 0).flatten(2).all(-1)
    assert 0 < kept.sum() < kept.numel()
    assert any(0 < row.sum() < 4 for row in kept)
    assert (difference[:, :-1].abs().flatten(2).amax(-1) > 0).all()


def make_stage(**options):
    return SwinStage(
        4,
        num_heads=2,
        drop_path_rates=[0.0] * 3,
        side=options.pop("side", 6),
        merges=True,
        options=make_options(**options),
    )


@pytest.mark.parametrize(
    ("placement", "side", "attending"),
    [
        ("even", 6, [0, 2]),
        ("even", 3, [0, 2]),
        ("undisplaced", 6, [0, 2]),
        ("undisplaced", 4, [0, 2]),
        ("undisplaced", 3, [0, 1, 2]),
        ("undisplaced", 1, [0, 1, 2]),
    ],
)
def test_blocks_that_attend_follow_the_placement(placement, side, attending):
    stage = make_stage(placement=placement, side=side)
    assert [i for i, block in enumerate(stage.blocks) if block.motion is not None] == attending
    others = [i for i, block in enumerate(stage.blocks) if block.convolution is not None]
    assert sorted(attending + others) == [0, 1, 2]


@torch.no_grad()
def test_stage_merges_patches_at_its_end():
    stage = make_stage().double()
    assert stage(make_tokens()).shape == (2, 4, 3, 2, 8)
