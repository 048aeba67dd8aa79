"""What holds for every model that can be made by name."""

import math

import pytest
import torch

from gopstream.models import create_model, list_models
from gopstream.models.catalogue import MODELS

NUM_CLASSES = 5


def make_model(name, seed=0):
    torch.manual_seed(seed)
    return create_model(name, num_classes=NUM_CLASSES)


def make_inputs(name, *, batch=2, seed=1):
    contract = MODELS[name].contract
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, contract.num_frames, contract.size, contract.size)
    inputs = {"frames": torch.randn(shape, generator=generator)}
    if "motion" in contract.planes:
        grid = contract.size // 8
        queries = contract.num_frames // contract.query_stride
        shape = (batch, queries, 2, contract.subclip_frames, grid, grid)
        inputs["motion"] = 3 * torch.randn(shape, generator=generator)
    return inputs


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_gets_a_gradient(name):
    model = make_model(name)
    model(**make_inputs(name)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_the_same_input_gives_the_same_output(name):
    model = make_model(name).eval()
    inputs = make_inputs(name)
    first = model(**inputs)
    assert first.shape == (2, NUM_CLASSES)
    assert torch.equal(model(**inputs), first)
    assert torch.equal(make_model(name).eval()(**inputs), first)


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_clips_of_a_batch_do_not_touch_each_other(name):
    model = make_model(name).eval().double()
    inputs = {key: value.double() for key, value in make_inputs(name).items()}
    both = model(**inputs)
    second = model(**{key: value[1:] for key, value in inputs.items()})
    torch.testing.assert_close(second, both[1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_bfloat16_is_within_a_hundredth(name):
    model = make_model(name).eval()
    inputs = make_inputs(name, batch=4)
    exact = model(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**inputs)
    assert (mixed.float() - exact).norm() / exact.norm() < 1e-2
    inputs["frames"] = inputs["frames"].bfloat16()
    pure = model.bfloat16()(**inputs)
    assert pure.dtype == torch.bfloat16
    assert (pure.float() - exact).norm() / exact.norm() < 3e-2


GOLDEN = {"dvt_tiny": [-1.0716508166, -1.3754376138, 1.5123597034, -1.0722825822, -0.1035770847]}


def scatter(shape, *, phase):
    """Numbers in [-0.5, 0.5) that look random and need no generator."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((places * 12.9898 + phase).sin() * 43758.5453).frac().abs().sub(0.5).view(shape)


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_output_is_the_stored_golden(name):
    """Made by this code in float64: a change of function must be on purpose."""
    model = make_model(name).eval().double()
    for index, parameter in enumerate(model.parameters()):
        fan_in = math.prod(parameter.shape[1:])
        parameter.copy_(3 * scatter(parameter.shape, phase=index + 1) / math.sqrt(fan_in))
    inputs = {
        key: scatter(value.shape, phase=0.5) * (8.0 if key == "motion" else 4.0)
        for key, value in make_inputs(name, batch=1).items()
    }
    got = model(**inputs)[0].tolist()
    assert got == pytest.approx(GOLDEN[name], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", list_models())
def test_contract_is_that_of_the_model(name):
    entry, model = MODELS[name], make_model(name)
    assert entry.name == name
    assert model.num_frames == entry.contract.num_frames
    assert model.size == entry.contract.size
    if "motion" in entry.contract.planes:
        assert model.subclip_frames == entry.contract.subclip_frames
        assert model.num_frames // model.num_queries == entry.contract.query_stride


def test_dvt_tiny_takes_48_pixels_and_16_frames():
    model = create_model("dvt_tiny", num_classes=2, num_frames=16, size=48)
    assert model(torch.zeros(1, 3, 16, 48, 48)).shape == (1, 2)


def test_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"no model is called 'dvt_tny' \(did you mean 'dvt_tiny'"):
        create_model("dvt_tny", num_classes=2)


def test_unknown_option_names_the_nearest():
    with pytest.raises(ValueError, match=r"has no option 'num_point' \(did you mean 'num_points'"):
        create_model("dvt_tiny", num_classes=2, num_point=4)
