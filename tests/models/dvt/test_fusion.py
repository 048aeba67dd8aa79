"""Two tokens become one: by the layers that were counted, starting at their mean."""

import pytest
import torch
from torch import nn

from gopstream.models.dvt.fusion import FUSION_INITIAL_STD, LinearFusion, MixerFusion

WIDTH = 16


def make_pair():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 5, WIDTH, generator=generator).unbind(0)


@pytest.mark.parametrize(
    ("fusion", "parameters"),
    [(LinearFusion, 2 * WIDTH**2 + WIDTH), (MixerFusion, 12 * WIDTH**2 + 9 * WIDTH)],
)
def test_a_fusion_has_the_weights_that_the_papers_totals_leave_for_it(fusion, parameters):
    assert sum(parameter.numel() for parameter in fusion(WIDTH).parameters()) == parameters


@pytest.mark.parametrize("fusion", [LinearFusion, MixerFusion])
@torch.no_grad()
def test_it_starts_near_the_mean_of_both_and_not_at_it(fusion):
    torch.manual_seed(0)
    fuse = fusion(WIDTH)
    fuse.initialise()
    first, second = make_pair()
    away = (fuse(first, second) - (first + second) / 2).abs().max()
    assert 0 < away < 100 * FUSION_INITIAL_STD


@torch.no_grad()
def test_the_linear_one_adds_a_projection_of_each():
    torch.manual_seed(0)
    fuse = LinearFusion(WIDTH)
    first, second = make_pair()
    of_first, of_second = fuse.projection.weight.split(WIDTH, dim=1)
    expected = first @ of_first.T + second @ of_second.T + fuse.projection.bias
    torch.testing.assert_close(fuse(first, second), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_mixer_adds_an_mlp_over_the_channels_of_both_to_their_mean():
    torch.manual_seed(0)
    fuse = MixerFusion(WIDTH)
    for parameter in fuse.parameters():
        nn.init.normal_(parameter)
    first, second = make_pair()
    joined = torch.cat([first, second], dim=-1)
    centred = joined - joined.mean(dim=-1, keepdim=True)
    normal = centred / (joined.var(dim=-1, correction=0, keepdim=True) + 1e-6).sqrt()
    hidden = (normal * fuse.norm.weight + fuse.norm.bias) @ fuse.mlp[0].weight.T + fuse.mlp[0].bias
    active = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    expected = (first + second) / 2 + active @ fuse.mlp[2].weight.T + fuse.mlp[2].bias
    torch.testing.assert_close(fuse(first, second), expected, rtol=1e-4, atol=1e-3)
