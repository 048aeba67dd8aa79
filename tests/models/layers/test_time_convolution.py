"""Convolution along time is one of each place's series of frames."""

import pytest
import torch

from gopstream.models.layers.time_convolution import TimeConvolution


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("num_frames", [1, 2, 5])
@torch.no_grad()
def test_every_place_is_convolved_by_itself(num_frames, groups):
    generator = torch.Generator().manual_seed(0)
    convolution = TimeConvolution(4, kernel=5, groups=groups).double()
    tokens = torch.randn(2, num_frames, 5, 4, 4, generator=generator, dtype=torch.float64)
    places = tokens.permute(0, 2, 3, 4, 1).flatten(0, 2)
    expected = torch.nn.functional.conv1d(places, convolution.weight, padding=2, groups=groups)
    expected = expected.view(2, 5, 4, 4, num_frames).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(convolution(tokens), expected, rtol=1e-12, atol=1e-12)
