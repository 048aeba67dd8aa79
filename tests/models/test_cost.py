"""Parameters and multiplications of a model of the catalogue."""

import pytest

from gopstream.models.catalogue import MODELS
from gopstream.models.cost import measure_model
from shrunk_models import NUM_CLASSES, kinds, make_shrunk


@pytest.mark.parametrize("name", kinds())
def test_parameters_are_those_of_the_real_model(name):
    model = make_shrunk(name)
    real = sum(parameter.numel() for parameter in model.parameters())
    cost = measure_model(name, num_classes=NUM_CLASSES, **MODELS[name].shrunk)
    assert cost.parameters == real


def test_dvt_tiny_costs_what_its_layers_add_up_to():
    # Per layer, outputs times inputs of one output: 4 token frames, 8 x 8 then 4 x 4 tokens.
    first, second = 4 * 64, 4 * 16
    by_hand = (
        first * 48 * 3 * 147  # patches
        + first * 2 * 48 * 2 * 147  # motion tokens, stage 1: two frames per query
        + second * 2 * 96 * 2 * 147  # motion tokens, stage 2
        + first * (2 * 48 * 48 + 2 * 48 * 48)  # query, value; points of 2 frames (2 * 8 * 3 = 48)
        + first * (48 * 192 + 192 * 96 + 48 * 96)  # MLP and skip
        + first * 2 * 96 * 96  # query, value
        + second * 96 * 27  # query pooling
        + second * 2 * 96 * 96  # points of 2 frames (4 * 8 * 3 = 96)
        + second * 2 * 96 * 384  # MLP
        + 96 * 7  # head
        # Each point of 8 in 2 frames: 4 multiply-adds between neighbours, 1 for its weight.
        + 5 * 2 * 8 * (first * 48 + second * 96)
    )
    assert measure_model("dvt_tiny", num_classes=7).gmacs * 1e9 == pytest.approx(by_hand, abs=0.5)


def test_cost_follows_the_options():
    once = measure_model("dvt_tiny", num_classes=7)
    twice = measure_model("dvt_tiny", num_classes=7, num_frames=16)
    assert twice.gmacs == pytest.approx(2 * once.gmacs, rel=1e-4)
    assert twice.parameters - once.parameters == 4 * 48  # the embedding of time


def test_unknown_model_is_refused():
    with pytest.raises(ValueError, match="no model is called 'dvt_hug'"):
        measure_model("dvt_hug", num_classes=7)
