"""Which options Video-FocalNet refuses, and the kernels of its levels."""

import pytest
import torch

from gopstream.models.video_focalnet import video_focalnet_tiny
from gopstream.models.video_focalnet.designs import focal_kernels


@pytest.mark.parametrize(
    "options",
    [
        {"design": "factorized_encoder", "temporal_depth": 2, "temporal_convolution": "pointwise"},
        {"design": "spatial", "temporal_depth": 4, "temporal_convolution": "dense"},
        {"design": "divided", "temporal_convolution": "depthwise", "fusion": "multiply"},
        {"design": "factorized_convolution", "temporal_convolution": "depthwise"},
        {"fusion": "projection"},
    ],
)
def test_options_that_a_design_uses_and_defaults_are_taken(options):
    with torch.device("meta"):
        assert video_focalnet_tiny(3, **options).head.out_features == 3


def test_kernels_grow_by_two_from_the_window_of_their_stage():
    kernels = focal_kernels((1, 1, 4), levels=(2, 3, 1), windows=(3, 5, 1))
    assert kernels == [(3, 5), (5, 7, 9), (1,)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"design": "joint"}, "design must be one of 'spatial', .*'parallel', got 'joint'"),
        ({"temporal_convolution": "sparse"}, "temporal_convolution must be .*got 'sparse'"),
        ({"temporal_start": "zero"}, "temporal_start must be .*got 'zero'"),
        ({"fusion": "sum"}, "fusion must be .*'projection', got 'sum'"),
        ({"patches": "conv"}, "patches must be .*got 'conv'"),
        ({"norm_position": "none"}, "norm_position must be .*got 'none'"),
        ({"drop_path_rows": "batch"}, "drop_path_rows must be .*got 'batch'"),
        ({"temporal_start": "identity", "fusion": "average"}, "needs design 'parallel'"),
        ({"temporal_start": "identity", "design": "divided"}, "got 'divided' and 'multiply'"),
        ({"tubelet_size": 2, "patches": "overlapping"}, "tubelet_size must be .*got 2"),
        ({"tubelet_size": 0}, "tubelet_size must be at least 1"),
        ({"tubelet_size": 3}, "num_frames must be a positive multiple of tubelet_size 3, got 8"),
        ({"num_frames": 0}, "num_frames must be a positive multiple"),
        ({"temporal_depth": 0}, "temporal_depth must be at least 1, got 0"),
        ({"temporal_depth": 2}, "temporal_depth is for design 'factorized_encoder' alone.*got 2"),
        (
            {"fusion": "average", "design": "divided"},
            "fusion is for design 'parallel' alone.*got 'a",
        ),
        (
            {"design": "spatial", "temporal_convolution": "depthwise"},
            "'spatial', .*got 'depthwise'",
        ),
        ({"depths": (1, 1)}, r"one number for each stage, got \(1, 1\), \(2, 2, 2\)"),
        ({"focal_levels": (2, 0, 2)}, "at least 1 in every stage"),
        ({"depths": (1, 0, 2)}, "at least 1 in every stage"),
        ({"focal_windows": (3, 4, 3)}, r"focal_windows must be odd and positive, got \(3, 4, 3\)"),
    ],
)
def test_wrong_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        video_focalnet_tiny(3, **options)
