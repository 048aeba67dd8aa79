"""An average of weights, against a loop in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from gopstream.jobs.training.weight_average import WeightAverage

DECAY = 0.9


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def change(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_it_is_the_exponential_average():
    network = make_network()
    average = WeightAverage(network, decay=DECAY)
    want = {n: p.detach().double().numpy().copy() for n, p in network.named_parameters()}
    for _ in range(25):
        change(network)
        average.update()
        for name, parameter in network.named_parameters():
            want[name] = DECAY * want[name] + (1 - DECAY) * parameter.detach().double().numpy()
    state = average.state_dict()
    for name, value in want.items():
        np.testing.assert_allclose(state[name].numpy(), value, rtol=1e-5, atol=1e-6)


def test_it_begins_with_the_weights_and_does_not_follow_them_itself():
    network = make_network()
    before = network[0].weight.detach().clone()
    average = WeightAverage(network, decay=DECAY)
    change(network)
    assert torch.equal(average.state_dict()["0.weight"], before)


def test_buffers_are_the_networks_own():
    network = make_network()
    average = WeightAverage(network, decay=DECAY)
    network(torch.randn(4, 3))
    state = average.state_dict()
    assert list(state) == list(network.state_dict())
    assert torch.equal(state["1.running_mean"], network[1].running_mean)
    assert int(state["1.num_batches_tracked"]) == 1


def test_the_network_has_it_for_a_while_and_then_its_own_again():
    network = make_network()
    average = WeightAverage(network, decay=DECAY)
    averaged = average.state_dict()["0.weight"].clone()
    change(network)
    own = network[0].weight.detach().clone()
    with pytest.raises(KeyError, match="within"), average.in_place():
        assert torch.equal(network[0].weight, averaged)
        raise KeyError("within")
    assert torch.equal(network[0].weight, own)
    assert torch.equal(average.state_dict()["0.weight"], averaged)


def test_it_goes_on_from_its_state():
    network = make_network()
    average = WeightAverage(network, decay=DECAY)
    change(network)
    average.update()
    state = {name: value.clone() for name, value in average.state_dict().items()}
    other = WeightAverage(network, decay=DECAY)
    other.load_state_dict(state)
    change(network)
    for each in (average, other):
        each.update()
    for name, value in average.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_weights_with_two_names_are_averaged_under_both():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    average = WeightAverage(network, decay=DECAY)
    before = network[0].weight.detach().clone()
    change(network)
    state = average.state_dict()
    assert torch.equal(state["0.weight"], before)
    assert torch.equal(state["1.weight"], before)
