"""Stem, blocks and stages of SIFA-Net, against convolutions in three dimensions."""

import pytest
import torch
from torch.nn import functional

from gopstream.models.sifa import sifa_net_tiny
from gopstream.models.sifa.bottleneck import Bottleneck, Stem
from gopstream.models.sifa.motion_block import InterFrameAttention, MotionOptions
from sifa_networks import make_frames, make_network, shake


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("deep", [False, True])
def test_stem_is_a_convolution_in_three_dimensions(deep):
    stem = shake(Stem(4, num_frames=4, deep=deep, norm_epsilon=1e-5).double()).eval()
    frames = make_frames(height=21, width=30)
    expected = frames
    for index, (convolution, norm) in enumerate(zip(stem.convolutions, stem.norms, strict=True)):
        weight = convolution.weight if index == 0 else convolution.weight.unsqueeze(2)
        side = weight.shape[-1]
        expected = functional.conv3d(
            expected,
            weight,
            stride=(1, 1, 1) if index else (4, 2, 2),
            padding=(0, side // 2, side // 2),
        )
        statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        expected = functional.batch_norm(expected, *statistics, eps=1e-5).relu()
    assert len(stem.convolutions) == (3 if deep else 1)
    expected = functional.max_pool3d(expected, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    close(stem(frames), expected.permute(0, 2, 3, 4, 1))


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("context", [False, True])
def test_block_attends_after_its_three_by_three_convolution(stride, context):
    attention = InterFrameAttention(4, options=MotionOptions(scale="mean"))
    block = Bottleneck(
        6, 4, stride=stride, motion=attention, global_context=context, norm_epsilon=1e-3
    )
    shake(block.double()).eval()
    if context:
        block.context.squeeze.bias.fill_(3)  # else its only hidden unit is off
    features = torch.randn(2, 3, 5, 6, 6, dtype=torch.float64, generator=torch.manual_seed(0))

    def normalise(values, norm):
        shape = (1, -1, 1, 1, 1)
        share = norm.weight / (norm.running_var + 1e-3).sqrt()
        return (values - norm.running_mean.view(shape)) * share.view(shape) + norm.bias.view(shape)

    def convolve(values, part, *, stride=1):
        weight = part.weight.unsqueeze(2)
        side = weight.shape[-1] // 2
        return functional.conv3d(
            values, weight, stride=(1, stride, stride), padding=(0, side, side)
        )

    given = features.permute(0, 4, 1, 2, 3)
    inner = normalise(convolve(given, block.reduce), block.reduce_norm).relu()
    inner = convolve(inner, block.convolve, stride=stride)
    inner = normalise(inner, block.convolve_norm).relu()
    inner = inner + attention(inner.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
    outer = normalise(convolve(inner, block.expand), block.expand_norm)
    expected = outer + normalise(
        convolve(given, block.shortcut[0], stride=stride), block.shortcut[1]
    )
    if context:
        added = block.context.squeeze(outer.mean(dim=(2, 3, 4))).relu()
        expected = expected + block.context.excite(added)[:, :, None, None, None]
    close(block(features), expected.relu().permute(0, 2, 3, 4, 1))


# Property 27.
@torch.no_grad()
@pytest.mark.parametrize("style", ["paper", "released"])
def test_fresh_blocks_are_their_shortcuts_and_a_constant(style):
    torch.manual_seed(0)
    model = sifa_net_tiny(5, style=style, depths=(2, 2, 2, 2), num_frames=4).double().eval()
    features = torch.randn(1, 4, 8, 8, 16, dtype=torch.float64)
    for block in [block for stage in model.stages for block in stage.blocks]:
        maps = features.flatten(0, 1).permute(0, 3, 1, 2)
        kept = maps if block.shortcut is None else block.shortcut(maps)
        expected = kept.permute(0, 2, 3, 1).unflatten(0, (1, 4))
        if block.context is not None:
            expected = expected + block.context.excite(block.context.squeeze.bias.relu())
        features = block(features)
        close(features, expected.relu())
    frames = make_frames(1, num_frames=4, height=32)
    before = model(frames)
    for module in model.modules():
        if isinstance(module, InterFrameAttention):
            shake(module, seed=1)
    close(model(frames), before)


@pytest.mark.parametrize("style", ["paper", "released"])
def test_checkpointing_changes_neither_results_nor_statistics(style):
    found = []
    for checkpointing in (False, True):
        model = make_network(style=style, checkpointing=checkpointing, head_dropout=0.3).train()
        torch.manual_seed(0)
        logits = model(make_frames())
        logits.square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        found.append([logits.detach(), *gradients, *model.buffers()])
    for without, with_checkpoints in zip(*found, strict=True):
        close(with_checkpoints, without)
    assert model.stages[0].blocks[0].reduce_norm.num_batches_tracked == 1


def test_checkpointing_keeps_fewer_activations():
    sizes = {}
    for checkpointing in (False, True):
        model = make_network(checkpointing=checkpointing).train()
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(make_frames())
        sizes[checkpointing] = sum(kept)
    assert sizes[True] < 0.4 * sizes[False]
