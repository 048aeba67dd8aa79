"""The published variants: their cost at full size, and their fresh weights."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gopstream.models.video_focalnet import (
    video_focalnet_b,
    video_focalnet_s,
    video_focalnet_t,
    video_focalnet_tiny,
)
from gopstream.models.video_focalnet.model import VideoFocalNet


# Measured on the authors' code: whole for the first two, for the others with parts taken out.
@pytest.mark.parametrize(
    ("variant", "options", "parameters", "gmacs"),
    [
        (video_focalnet_t, {}, 49_553_272, 63.000),
        (video_focalnet_s, {"tubelet_size": 2, "num_frames": 16}, 88_739_776, 124.445),
        (video_focalnet_t, {"design": "spatial"}, 27_965_716, 35.22),
        (video_focalnet_t, {"temporal_convolution": "pointwise"}, 36_614_008, 46.35),
        (video_focalnet_t, {"temporal_convolution": "depthwise"}, 32_336_248, 40.90),
    ],
)
def test_full_size_has_the_parameters_and_multiplications_of_the_authors(
    variant, options, parameters, gmacs
):
    with torch.device("meta"):
        model = variant(400, **options)
        with FlopCounterMode(display=False) as counter:
            logits = model(torch.zeros(1, 3, model.num_frames, 224, 224))
    assert logits.shape == (1, 400)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=2e-4)


@pytest.mark.parametrize(
    ("variant", "width", "depth", "rate"),
    [
        (video_focalnet_t, 768, 12, 0.2),
        (video_focalnet_s, 768, 24, 0.3),
        (video_focalnet_b, 1024, 24, 0.5),
    ],
)
def test_variants_have_the_width_depth_and_drop_path_of_the_configurations(
    variant, width, depth, rate
):
    with torch.device("meta"):
        model = variant(10)
    rates = [block.modulation.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert model.head.in_features == width
    assert len(rates) == depth
    assert rates[-1] == pytest.approx(rate)
    assert model.num_frames == 8


def test_tiny_variant_takes_frames_of_32_pixels():
    model = video_focalnet_tiny(4)
    assert model(torch.zeros(1, 3, 8, 32, 32)).shape == (1, 4)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1e6


def test_fresh_weights_are_drawn_as_the_authors_draw_them():
    torch.manual_seed(0)
    model = VideoFocalNet(5, embed_dim=64, depths=(1, 1), focal_levels=(2, 2), focal_windows=(3, 3))
    branch = model.stages[1].blocks[0].modulation.branch
    width = 128
    assert branch.projection.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.head.bias.abs().max() == 0
    # PyTorch's own for convolutions: uniform up to 1 / sqrt(fan in), biases too.
    for convolution, fan_in in [
        (branch.space.mixing, width),
        (branch.time.mixing, width),
        (branch.time.levels[1], 5 * width),
        (branch.space.levels[0], 9),
    ]:
        assert convolution.weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.02)
    assert branch.space.mixing.bias.abs().max() > 0


def test_layer_scale_starts_at_the_value_given():
    model = VideoFocalNet(2, embed_dim=8, depths=(1, 1, 1, 1), layer_scale=1e-4)
    scales = [p for name, p in model.named_parameters() if name.endswith(".scale")]
    assert len(scales) == 8
    assert all(torch.equal(scale, torch.full_like(scale, 1e-4)) for scale in scales)
