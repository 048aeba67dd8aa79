"""The baseline is torchvision's network behind the form that all models here have."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import mvit_v1_b
from torchvision.models.video.mvit import MSBlockConfig, MViT

from gopstream.models.mvit import mvit_b, mvit_tiny
from gopstream.models.mvit.source_keys import LAYOUTS
from gopstream.models.weights.loading import load_weights

SMALL = {"num_frames": 4, "size": 16, "embed_dim": 8, "depth": 3, "pooling_stride": 2}


def make_small(seed=0, **options):
    torch.manual_seed(seed)
    model = mvit_tiny(3, **(SMALL | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def make_frames(batch=2, seed=1):
    return torch.randn(batch, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_full_size_has_the_parameters_and_multiplications_of_the_paper():
    with torch.device("meta"):
        model = mvit_b(400).eval()
        with FlopCounterMode(display=False) as counter:
            logits = model(torch.zeros(1, 3, 16, 224, 224))
    assert logits.shape == (1, 400)
    # 36.6 M and 70.5 G in the paper; torchvision says 36,610,672 and 70.599.
    assert sum(parameter.numel() for parameter in model.parameters()) == 36_610_672
    assert counter.get_total_flops() / 2e9 == pytest.approx(70.599, abs=1e-3)


def test_full_size_is_torchvisions_network_part_by_part():
    with torch.device("meta"):
        ours, theirs = mvit_b(400), mvit_v1_b()
    shapes = {
        key.replace("head.1", "head"): tensor.shape for key, tensor in theirs.state_dict().items()
    }
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    for mine, yours in zip(ours.blocks, theirs.blocks, strict=True):
        assert str(mine) == str(yours)


@torch.no_grad()
def test_it_gives_what_torchvisions_forward_gives():
    model = make_small().eval()
    pooled = {"kernel_kv": [3, 3, 3], "kernel_q": [], "stride_q": []}
    settings = [
        MSBlockConfig(1, 8, 16, stride_kv=[1, 2, 2], **pooled),
        MSBlockConfig(
            2,
            16,
            16,
            stride_kv=[1, 1, 1],
            **(pooled | {"kernel_q": [3, 3, 3], "stride_q": [1, 2, 2]}),
        ),
        MSBlockConfig(2, 16, 16, stride_kv=[1, 1, 1], **pooled),
    ]
    theirs = MViT(
        spatial_size=(16, 16),
        temporal_size=4,
        block_setting=settings,
        residual_pool=False,
        residual_with_cls_embed=False,
        rel_pos_embed=False,
        proj_after_attn=False,
        num_classes=3,
    ).eval()
    load_weights(model, theirs.state_dict(), layouts=LAYOUTS)
    frames = make_frames()
    assert torch.equal(model(frames), theirs(frames))


@torch.no_grad()
def test_forward_is_classify_of_the_class_token():
    model = make_small(head_dropout=0.9).eval()
    features = model.forward_features(make_frames())
    assert features.shape == (2, 16, 1, 1, 1)
    assert torch.equal(model.classify(features), model(make_frames()))


def test_every_parameter_gets_a_gradient_and_computing_blocks_again_the_same():
    gradients = []
    for checkpointing in (False, True):
        model, runs = make_small(checkpointing=checkpointing), []
        model.blocks[0].norm2.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        model(make_frames()).square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().sum() > 0, key
        gradients.append([parameter.grad for parameter in model.parameters()])
        assert len(runs) == 1 + checkpointing
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_tokens_of_the_last_block_lie_on_its_grid():
    model = make_small(stage_starts=(1, 2), size=32).eval()
    seen = []
    layer = dict(model.named_modules())[model.grad_cam_layer]
    layer.register_forward_hook(lambda module, given, output: seen.append(output))
    model(torch.zeros(1, 3, 4, 32, 32))
    # The last block begins a stage: its input is still on the grid of the one before, 32 / 8.
    assert model.tokens_to_map(seen[0]).shape == (1, 2, 4, 4, 32)
    numbers = torch.arange(1.0 + 32).view(1, 33, 1)
    grid = model.tokens_to_map(numbers)[0, ..., 0]
    assert grid[0, 0].tolist() == [1, 2, 3, 4]
    assert grid[1, 0, 0] == 17


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 3}, "num_frames must be a positive multiple of 2, got 3"),
        ({"size": 20}, "size must be a positive multiple of 8, got 20"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"pooling_stride": 0}, "pooling_stride must be at least 1, got 0"),
        ({"num_heads": 3}, "embed_dim must be a positive multiple of 3, got 8"),
        ({"depth": 1, "stage_starts": ()}, "depth must be at least 2, got 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mvit_tiny(3, **(SMALL | options))


def test_wrong_frames_are_refused_by_name():
    model = make_small()
    with pytest.raises(ValueError, match=r"frames must be .*\(B, 3, 4, 16, 16\), got \(2, 3, 3,"):
        model(make_frames()[:, :, :3])
    with pytest.raises(ValueError, match="frames must be normalised floating point, got .*uint8"):
        model(make_frames().byte())
