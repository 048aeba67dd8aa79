"""Which parameters have which rate and decay."""

import pytest
import torch
from torch import nn

from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe_sections import GroupRecipe, OptimiserRecipe
from gopstream.jobs.training.parameter_groups import (
    freeze_all_but_head,
    layer_shares,
    make_optimiser,
    parameter_groups,
)
from gopstream.models import create_model


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.Linear(3, 3)
        self.mlp = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(2, 3)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 2)


def by_name(network, recipe, *, learning_rate=1.0):
    groups = parameter_groups(network, recipe, learning_rate=learning_rate)
    return {
        name: (group["lr_share"], group["weight_decay"])
        for group in groups
        for name in group["names"]
    }


def test_every_parameter_is_in_one_group_and_vectors_are_not_decayed():
    network = Network()
    groups = parameter_groups(network, OptimiserRecipe(weight_decay=0.3), learning_rate=2.0)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(given) == sorted(map(id, network.parameters()))
    assert {group["lr"] for group in groups} == {2.0}
    decays = by_name(network, OptimiserRecipe(weight_decay=0.3))
    assert decays["stem.weight"] == decays["blocks.0.mlp.2.weight"] == (1.0, 0.3)
    assert decays["stem.bias"] == decays["norm.weight"] == (1.0, 0.0)


def test_vectors_are_decayed_where_the_recipe_says_so():
    decays = by_name(Network(), OptimiserRecipe(weight_decay=0.3, decay_vectors=True))
    assert set(decays.values()) == {(1.0, 0.3)}


def test_the_first_group_that_matches_counts():
    rules = (
        GroupRecipe("head.bias", rate=3.0),
        GroupRecipe("head.*", rate=10.0, weight_decay=0.0),
        GroupRecipe("norm.*", weight_decay=0.2),
    )
    shares = by_name(Network(), OptimiserRecipe(weight_decay=0.3, groups=rules))
    assert shares["head.bias"] == (3.0, 0.0)
    assert shares["head.weight"] == (10.0, 0.0)
    assert shares["norm.weight"] == (1.0, 0.2)
    assert shares["stem.weight"] == (1.0, 0.3)


def test_a_rate_of_zero_freezes():
    network = Network()
    shares = by_name(network, OptimiserRecipe(groups=(GroupRecipe("stem.*", rate=0.0),)))
    assert not any(name.startswith("stem.") for name in shares)
    assert not network.stem.weight.requires_grad
    assert network.head.weight.requires_grad


def test_a_group_that_matches_nothing_is_refused():
    recipe = OptimiserRecipe(groups=(GroupRecipe("heed.*"),))
    with pytest.raises(UserError, match=r"'heed\.\*' is the first match of no parameter.*stem\.w"):
        parameter_groups(Network(), recipe, learning_rate=1.0)
    hidden = OptimiserRecipe(groups=(GroupRecipe("*"), GroupRecipe("head.*")))
    with pytest.raises(UserError, match=r"'head\.\*' is the first match of no parameter"):
        parameter_groups(Network(), hidden, learning_rate=1.0)


def test_nothing_left_to_train_is_refused():
    recipe = OptimiserRecipe(groups=(GroupRecipe("*", rate=0.0),))
    with pytest.raises(UserError, match="no parameter is left to train"):
        make_optimiser(Network(), recipe, learning_rate=1.0)


def test_layer_decay_counts_blocks_whatever_is_in_them():
    shares = layer_shares(Network(), 0.5)
    assert shares["stem.weight"] == 1 / 8
    assert shares["blocks.0.attention.weight"] == shares["blocks.0.mlp.2.bias"] == 1 / 4
    assert shares["blocks.1.attention.weight"] == shares["blocks.1.mlp.0.weight"] == 1 / 2
    assert shares["norm.weight"] == shares["head.bias"] == 1.0


def test_layer_decay_counts_the_blocks_of_stages():
    shares = layer_shares(create_model("pst_tiny", num_classes=4), 0.5)
    first, *_, head = shares.items()
    assert head == ("head.bias", 1.0)
    assert first[0].startswith("patch_embedding.")
    assert first[1] == min(shares.values())
    of_blocks = [
        {share for name, share in shares.items() if name.startswith(f"stages.{stage}.blocks.{n}.")}
        for stage in (0, 1)
        for n in (0, 1)
    ]
    assert all(len(of_one) == 1 for of_one in of_blocks)
    rising = [share for (share,) in of_blocks]
    assert rising == sorted(set(rising))
    assert rising[-1] == 0.5


def test_layer_decay_and_a_groups_rate_multiply():
    recipe = OptimiserRecipe(layer_decay=0.5, groups=(GroupRecipe("stem.*", rate=4.0),))
    assert by_name(Network(), recipe)["stem.weight"][0] == 0.5


def test_the_recipes_optimiser_is_made():
    betas = OptimiserRecipe(betas=(0.8, 0.95))
    adamw = make_optimiser(Network(), betas, learning_rate=0.1)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {group["betas"] for group in adamw.param_groups} == {(0.8, 0.95)}
    recipe = OptimiserRecipe(name="sgd", momentum=0.7, nesterov=True)
    sgd = make_optimiser(Network(), recipe, learning_rate=0.1)
    assert isinstance(sgd, torch.optim.SGD)
    assert {(group["momentum"], group["nesterov"]) for group in sgd.param_groups} == {(0.7, True)}


def trained(network):
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def test_all_but_the_head_is_frozen():
    network = Network()
    freeze_all_but_head(network, is_own=False)
    assert trained(network) == ["head.weight", "head.bias"]
    assert set(by_name(network, OptimiserRecipe())) == {"head.weight", "head.bias"}


def test_both_heads_of_sifa_net_are_left():
    network = create_model("sifa_net_tiny", num_classes=4, style="released", dual_branch=True)
    freeze_all_but_head(network, is_own=False)
    heads = ["head.weight", "head.bias", "dual_head.weight", "dual_head.bias"]
    assert sorted(trained(network)) == sorted(heads)


def test_of_ones_own_network_the_last_linear_layer_is_left():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.Softmax(1))
    freeze_all_but_head(network, is_own=True)
    assert trained(network) == ["2.weight", "2.bias"]
    with pytest.raises(UserError, match="has no linear last layer"):
        freeze_all_but_head(nn.Sequential(nn.Conv2d(1, 1, 1)), is_own=True)
