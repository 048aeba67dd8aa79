"""Pooling of queries is MViT's: torchvision's is the reference."""

import torch
from torch import nn
from torchvision.models.video.mvit import Pool

from gopstream.models.dvt.query_pooling import NORM_EPSILON, QueryPooling


@torch.no_grad()
def test_it_is_the_pooling_of_mvit_for_every_head():
    torch.manual_seed(0)
    ours = QueryPooling(4)
    ours.norm.weight.normal_()
    theirs = Pool(
        nn.Conv3d(4, 4, (3, 3, 3), stride=(1, 2, 2), padding=1, groups=4, bias=False),
        nn.LayerNorm(4, eps=NORM_EPSILON),
    )
    theirs.pool.weight.copy_(ours.convolution.weight)
    theirs.norm_act[0].load_state_dict(ours.norm.state_dict())
    queries = torch.randn(2, 3, 5, 6, 3 * 4)
    heads = queries.unflatten(-1, (3, 4)).movedim(-2, 1).flatten(2, 4)
    class_token = torch.zeros(2, 3, 1, 4)
    pooled, grid = theirs(torch.cat([class_token, heads], dim=2), (3, 5, 6))
    expected = pooled[:, :, 1:].unflatten(2, grid).movedim(1, -2).flatten(-2)
    got = ours(queries)
    assert got.shape == (2, 3, 3, 3, 12)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
