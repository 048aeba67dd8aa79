"""The block against its equations."""

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm

from gopstream.models.layers.pre_norm_block import PreNormBlock


def make_block(**options):
    torch.manual_seed(0)
    settings = {"width": 6, "mlp_ratio": 1.5, "norm_epsilon": 0.5, "drop_path_rate": 0.0} | options
    block = PreNormBlock(nn.Linear(6, 6), **settings).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block


def test_each_branch_is_normed_and_has_its_skip():
    block, tokens = make_block(), torch.randn(2, 3, 4, 6, dtype=torch.float64)
    state = block.state_dict()

    def norm(x, name):
        return layer_norm(x, (6,), state[f"{name}.weight"], state[f"{name}.bias"], eps=0.5)

    attended = tokens + block.attention(norm(tokens, "attention_norm"))
    hidden = norm(attended, "mlp_norm") @ state["mlp.0.weight"].T + state["mlp.0.bias"]
    assert hidden.shape[-1] == 9
    expected = attended + gelu(hidden) @ state["mlp.2.weight"].T + state["mlp.2.bias"]
    torch.testing.assert_close(block(tokens), expected, rtol=1e-12, atol=1e-12)


def test_each_branch_of_a_clip_is_dropped_in_training_as_a_whole():
    block, tokens = make_block(drop_path_rate=0.5), torch.randn(64, 2, 6, dtype=torch.float64)
    with torch.no_grad():
        block.mlp[2].weight.zero_()
        block.mlp[2].bias.fill_(10.0)
        added = block.train()(tokens) - tokens
        attended = 2 * block.attention(block.attention_norm(tokens))
    kinds = {
        (attends, mixes): torch.isclose(added, attends * attended + 20.0 * mixes).all((1, 2))
        for attends in (0, 1)
        for mixes in (0, 1)
    }
    assert all(rows.any() for rows in kinds.values())
    assert torch.stack(list(kinds.values())).sum(0).tolist() == [1] * 64
