"""A block adds its attentions and its MLP to what it was given."""

import pytest
import torch
from torch import nn

from gopstream.models.dvt.block import DeformableBlock
from gopstream.models.dvt.options import BlockOptions
from gopstream.models.layers.multiscale_plan import BlockShape

SHAPES = (BlockShape(8, 8, 2, 0, 1), BlockShape(8, 16, 2, 0, 1), BlockShape(8, 8, 2, 1, 2))


def make_block(shape, *, drop_path_rate=0.0, **options):
    torch.manual_seed(0)
    chosen = BlockOptions(**({"num_points": 2, "subclip_tokens": 2, "coarse_stride": 2} | options))
    return DeformableBlock(shape, options=chosen, drop_path_rate=drop_path_rate).double()


def make_inputs(shape, *, num_frames=2):
    generator = torch.Generator().manual_seed(1)
    side = 4 // shape.query_stride
    tokens = torch.randn(1, num_frames, 4, 4, 8, generator=generator, dtype=torch.float64)
    motion_tokens = torch.randn(
        1, num_frames, 2, side, side, 8, generator=generator, dtype=torch.float64
    )
    return tokens, motion_tokens


def pool_skip(tokens, stride):
    if stride == 1:
        return tokens
    padded = nn.functional.pad(tokens, (0, 0, 1, 1, 1, 1), value=-torch.inf)
    return padded.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(-1, -2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("attention", "fusion"),
    [("space_time", "mixer"), ("multi_scale", "mixer"), ("both", "linear"), ("both", "mixer")],
)
@torch.no_grad()
def test_block_adds_attention_and_mlp_to_their_skips(shape, attention, fusion):
    block = make_block(shape, attention=attention, fusion=fusion)
    tokens, motion_tokens = make_inputs(shape)
    skipped = pool_skip(tokens, shape.query_stride)
    normalised = block.attention_norm(tokens)
    if attention != "multi_scale":
        middle = space_time = skipped + block.attention(normalised, motion_tokens)
    if attention != "space_time":
        middle = multi_scale = skipped + block.multi_scale_attention(normalised)
    if attention == "both":
        # Both carry the residual into the fusion.
        middle = block.fusion(space_time, multi_scale)
    normalised = block.mlp_norm(middle)
    skipped = (
        normalised @ block.skip_projection.weight.T + block.skip_projection.bias
        if shape.width_out != shape.width
        else middle
    )
    expected = skipped + block.mlp(normalised)
    torch.testing.assert_close(block(tokens, motion_tokens), expected, rtol=0, atol=1e-12)


def test_a_block_has_the_parts_of_its_attention_alone():
    parts = {
        attention: {name.split(".")[0] for name, _ in block.named_parameters()}
        for attention in ("space_time", "multi_scale", "both")
        for block in [make_block(SHAPES[0], attention=attention)]
    }
    rest = {"attention_norm", "mlp_norm", "mlp"}
    assert parts["space_time"] == rest | {"attention"}
    assert parts["multi_scale"] == rest | {"multi_scale_attention"}
    assert parts["both"] == rest | {"attention", "multi_scale_attention", "fusion"}


@pytest.mark.parametrize("attention", ["space_time", "both"])
def test_gradients_equal_finite_differences(attention):  # property 5
    block = make_block(SHAPES[2], attention=attention, num_points=1)
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
    inputs = tuple(tensor.requires_grad_() for tensor in make_inputs(SHAPES[2]))
    assert torch.autograd.gradcheck(block, inputs, eps=1e-7, atol=1e-5, fast_mode=True)


def test_each_attention_is_dropped_on_its_own_draw():
    block = make_block(SHAPES[0], attention="both", fusion="linear", drop_path_rate=0.5).train()
    nn.init.zeros_(block.mlp[2].weight)
    nn.init.zeros_(block.mlp[2].bias)
    with torch.no_grad():
        block.fusion.projection.bias.zero_()
        block.fusion.projection.weight.copy_(torch.eye(8).repeat(1, 2) / 2)
        tokens, motion_tokens = (
            tensor.expand(64, *tensor.shape[1:]) for tensor in make_inputs(SHAPES[0])
        )
        changes = (block(tokens, motion_tokens) - tokens).flatten(1)
    kinds = {tuple(change) for change in changes.round(decimals=9).tolist()}
    # Neither, either, both.
    assert len(kinds) == 4
