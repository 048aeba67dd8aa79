"""What holds for every model that can be made by name, shrunk by its own options."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from gopstream.models import create_model, list_models
from gopstream.models.catalogue import MODELS
from gopstream.models.weights.loading import OWN_LAYOUT
from shrunk_models import NUM_CLASSES, kinds, make_inputs, make_shrunk


@pytest.mark.parametrize("name", kinds())
def test_every_parameter_gets_a_gradient(name):
    model = make_shrunk(name)
    model(**make_inputs(name)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", kinds())
@torch.no_grad()
def test_the_same_input_gives_the_same_output(name):
    model = make_shrunk(name).eval()
    inputs = make_inputs(name)
    first = model(**inputs)
    assert first.shape == (2, NUM_CLASSES)
    assert torch.equal(model(**inputs), first)
    assert torch.equal(make_shrunk(name).eval()(**inputs), first)


@pytest.mark.parametrize("name", kinds())
@torch.no_grad()
def test_clips_of_a_batch_do_not_touch_each_other(name):
    model = make_shrunk(name).eval().double()
    inputs = {key: value.double() for key, value in make_inputs(name).items()}
    both = model(**inputs)
    second = model(**{key: value[1:] for key, value in inputs.items()})
    torch.testing.assert_close(second, both[1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", kinds())
@torch.no_grad()
def test_bfloat16_is_within_a_few_hundredths(name):
    model = make_shrunk(name).eval()
    inputs = make_inputs(name, batch=4)
    exact = model(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**inputs)
    assert (mixed.float() - exact).norm() / exact.norm() < 2e-2
    inputs["frames"] = inputs["frames"].bfloat16()
    pure = model.bfloat16()(**inputs)
    assert pure.dtype == torch.bfloat16
    assert (pure.float() - exact).norm() / exact.norm() < 3e-2


@pytest.mark.parametrize("name", kinds())
@torch.no_grad()
def test_weights_come_back_from_a_file_and_replace_fresh_ones(name, tmp_path):
    saved = make_shrunk(name).eval()
    torch.save(saved.state_dict(), tmp_path / "weights.pth")
    loaded = make_shrunk(name, seed=1, weights=tmp_path / "weights.pth").eval()
    inputs = make_inputs(name)
    assert not torch.equal(make_shrunk(name, seed=1).eval()(**inputs), saved(**inputs))
    assert torch.equal(loaded(**inputs), saved(**inputs))


@pytest.mark.parametrize("name", kinds())
def test_a_state_dict_holds_parameters_alone_and_what_batch_norms_count(name):
    model = make_shrunk(name)
    counted = {
        f"{path}.{key}"
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for key, _ in module.named_buffers(recurse=False)
    }
    parameters = {key for key, _ in model.named_parameters()}
    assert model.state_dict().keys() == parameters | counted


@pytest.mark.parametrize("name", kinds())
@torch.no_grad()
def test_features_are_channels_first_and_make_the_logits(name):
    model, inputs = make_shrunk(name).eval(), make_inputs(name)
    features = model.forward_features(**inputs)
    assert features.ndim == 5
    assert features.shape[:2] == (2, model.head.in_features)
    assert torch.equal(model.classify(features), model(**inputs))


# Of networks for which no golden tensors of their authors' code exist.
GOLDEN = {
    "dvt_tiny": [-1.0716508166, -1.3754376138, 1.5123597034, -1.0722825822, -0.1035770847],
    "deit_s_2d": [0.5034253074, 3.5638829933, 0.0166269518, -1.2492270086, -1.9554124835],
    "deit_s_tsm": [0.4875693853, 3.556607463, 0.0270169674, -1.2259018455, -1.9528448798],
    "deit_s_tps": [0.5156923326, 3.5608132115, 0.026942254, -1.2365403627, -1.9527840185],
}


def scatter(shape, *, phase):
    """Numbers in [-0.5, 0.5) that look random and need no generator."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((places * 12.9898 + phase).sin() * 43758.5453).frac().abs().sub(0.5).view(shape)


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_output_is_the_stored_golden(name):
    """Made by this code in float64: a change of function must be on purpose."""
    model = make_shrunk(name).eval().double()
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
    entry = MODELS[name]
    with torch.device("meta"):
        model = create_model(name, num_classes=NUM_CLASSES)
    assert entry.name == name
    assert model.num_frames == entry.contract.num_frames
    if "size" in entry.options:
        assert model.size == entry.contract.size
    if "motion" in entry.contract.planes:
        assert model.subclip_frames == entry.contract.subclip_frames
        assert model.num_frames // model.num_queries == entry.contract.query_stride


@pytest.mark.parametrize("name", list_models())
def test_only_dense_clips_have_a_stride(name):
    contract = MODELS[name].contract
    assert (contract.sampling == "dense") == (contract.frame_stride is not None)


# Specs: the sampling of the authors' code, and the views of the tables that the figures are from.
@pytest.mark.parametrize(
    ("name", "sampling", "stride", "views"),
    [
        ("video_focalnet_b", "segments", None, (4, 3)),
        ("pst_t", "dense", 2, (4, 3)),
        ("pst_b_dagger", "dense", 2, (4, 3)),
        ("swin2d_t", "segments", None, (1, 3)),
        ("video_swin_b", "segments", None, (1, 3)),
        ("deit_s_tps", "dense", 2, (4, 3)),
        ("dvt_tiny", "dense", 2, (1, 1)),
    ],
)
def test_clips_are_taken_as_in_the_authors_recipe(name, sampling, stride, views):
    contract = MODELS[name].contract
    assert (contract.sampling, contract.frame_stride) == (sampling, stride)
    assert (contract.test_clips, contract.test_crops) == views


def test_dvt_tiny_takes_48_pixels_and_16_frames():
    model = create_model("dvt_tiny", num_classes=2, num_frames=16, size=48)
    assert model(torch.zeros(1, 3, 16, 48, 48)).shape == (1, 2)


def test_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"no model is called 'dvt_tny' \(did you mean 'dvt_tiny'"):
        create_model("dvt_tny", num_classes=2)


def test_unknown_option_names_the_nearest():
    with pytest.raises(ValueError, match=r"has no option 'num_point' \(did you mean 'num_points'"):
        create_model("dvt_tiny", num_classes=2, num_point=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": "4"}, "num_classes must be a whole number, got '4'"),
        ({"num_frames": 3.5}, "num_frames must be a whole number, got 3.5"),
        ({"shift_back": "False"}, "shift_back must be True or False, got 'False'"),
        ({"drop_path_rate": "0.1"}, "drop_path_rate must be a number, got '0.1'"),
        ({"window_size": True}, "window_size must be a whole number, got True"),
    ],
)
def test_values_of_another_kind_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        create_model("pst_tiny", **{"num_classes": 4, **options})


def test_cautions_of_weights_are_warnings(tmp_path):
    model = create_model("pst_tiny", num_classes=4)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("pst_tiny", num_classes=4, weights=tmp_path / "own.pth")
    layout = OWN_LAYOUT._replace(
        marks=(r"theirs\.head\.bias",),
        renames=((r"theirs\.(.*)", r"\1"),),
        caution=lambda model: "hot",
    )
    theirs = {f"theirs.{key}": weight for key, weight in model.state_dict().items()}
    torch.save(theirs, tmp_path / "their.pth")
    entry = replace(MODELS["pst_tiny"], layouts=(layout,))
    warned = pytest.warns(UserWarning, match=r"their.pth in pst_tiny: hot")
    with pytest.MonkeyPatch.context() as patch, warned:
        patch.setitem(MODELS, "pst_tiny", entry)
        create_model("pst_tiny", num_classes=4, weights=tmp_path / "their.pth")
