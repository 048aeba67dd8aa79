"""Grad-CAM against its two equations, on networks whose answer is known and on real ones."""

import pytest
import torch
from torch import nn

from gopstream.models import create_model
from gopstream.models.catalogue import MODELS
from gopstream.models.grad_cam import grad_cam


class BrightnessClassifier(nn.Module):
    """Its feature map is the frames; class k is the mean of channel k."""

    def __init__(self):
        super().__init__()
        self.block = nn.Identity()
        self.scale = nn.Parameter(torch.ones(()))

    def forward_features(self, frames):
        return self.block(frames.movedim(1, -1) * self.scale).movedim(-1, 1)

    def classify(self, features):
        return features.mean(dim=(2, 3, 4))

    def forward(self, frames):
        return self.classify(self.forward_features(frames))


def make_frames(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_model(name):
    torch.manual_seed(0)
    return create_model(name, num_classes=3, **MODELS[name].shrunk).eval()


@pytest.mark.parametrize("layer", ["features", "block", None])
def test_the_map_of_a_mean_is_the_positive_part_of_its_channel(layer):
    frames = make_frames(2, 3, 4, 5, 6)
    cam = grad_cam(BrightnessClassifier(), frames, class_index=1, layer=layer)
    torch.testing.assert_close(cam, frames[:, 1].relu() / (4 * 5 * 6) ** 2 * 4 * 5 * 6)


def test_each_clip_can_have_its_own_class():
    frames = make_frames(2, 3, 4, 5, 6)
    cam = grad_cam(BrightnessClassifier(), frames, class_index=torch.tensor([2, 0]))
    torch.testing.assert_close(cam * 120, torch.stack([frames[0, 2], frames[1, 0]]).relu())


def test_deit_is_the_equations_on_patches_before_the_last_attention():
    model, frames = make_model("deit_s_tps"), make_frames(2, 3, 3, 16, 16)
    norm, kept = model.blocks[1].attention_norm, []
    norm.register_forward_hook(lambda module, given, output: kept.append(output))
    logit = model(frames)[:, 2].sum()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    expected = torch.zeros(2, 3, 4, 4)
    for clip in range(2):
        for channel in range(kept[0].shape[-1]):
            weight = gradient[clip, :, 1:, channel].mean()
            expected[clip] += weight * kept[0][clip, :, 1:, channel].detach().view(3, 4, 4)
    cam = grad_cam(model, frames, class_index=2)
    assert cam.max() > 0
    torch.testing.assert_close(cam, expected.relu(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("video_focalnet_t", (2, 3, 2, 2)),
        ("pst_t", (2, 3, 4, 4)),
        ("deit_s_2d", (2, 3, 4, 4)),
        ("deit_s_tsm", (2, 3, 4, 4)),
        ("dvt_tiny", (2, 4, 4, 4)),
    ],
)
def test_the_map_has_the_grid_of_the_last_features(name, shape):
    size, model = MODELS[name].shrunk_size, make_model(name)
    frames = make_frames(2, 3, model.num_frames, size, size)
    cam = grad_cam(model, frames, class_index=0)
    assert cam.shape == shape
    assert cam.dtype == torch.float32
    assert cam.isfinite().all()


@pytest.mark.parametrize("layer", [None, "blocks.1"])
def test_dvt_gives_a_map_from_frames_and_motion(layer):
    model, frames = make_model("dvt_tiny"), make_frames(1, 3, 8, 32, 32)
    still = grad_cam(model, frames, class_index=0, layer=layer)
    assert still.shape == (1, 4, 4, 4)
    motion = 5 * make_frames(1, 4, 2, 4, 8, 8)
    moving = grad_cam(model, frames, class_index=0, layer=layer, inputs={"motion": motion})
    assert not torch.equal(moving, still)
    nowhere = {"motion": motion, "valid": torch.zeros(1, 4, 4, 8, 8, dtype=torch.bool)}
    torch.testing.assert_close(
        grad_cam(model, frames, class_index=0, layer=layer, inputs=nowhere), still
    )


def test_the_map_of_dvt_is_the_equations_on_its_normalised_tokens():
    model, frames = make_model("dvt_tiny"), make_frames(1, 3, 8, 32, 32)
    kept = []
    model.head_norm.register_forward_hook(lambda module, given, output: kept.append(output))
    (gradient,) = torch.autograd.grad(model(frames)[0, 2], kept[0])
    # The head averages over places: each has the same gradient, a row of its weights over 64.
    torch.testing.assert_close(gradient[0, 0, 0, 0], model.head.weight[2] / 64)
    expected = (kept[0].detach() @ model.head.weight[2] / 64).relu()
    assert expected.max() > 0
    torch.testing.assert_close(grad_cam(model, frames, class_index=2), expected)


def test_nothing_is_left_on_the_model_and_frozen_weights_do():
    model, frames = make_model("deit_s_2d"), make_frames(1, 3, 3, 16, 16)
    with torch.no_grad():
        expected = grad_cam(model, frames, class_index=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    frozen = model.requires_grad_(False)
    for layer in ("features", None):
        assert grad_cam(frozen, frames, class_index=0, layer=layer).shape[:2] == (1, 3)
    torch.testing.assert_close(grad_cam(frozen, frames, class_index=0), expected)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("pst_tiny", "motion", "PatchShiftTransformer takes no input 'motion'.* takes nothing"),
        ("dvt_tiny", "flow", "takes no input 'flow'; beside frames it takes motion, valid"),
        ("dvt_tiny", "frames", "takes no input 'frames'"),
    ],
)
@pytest.mark.parametrize("layer", ["features", None])
def test_inputs_that_a_model_does_not_take_are_refused(name, inputs, message, layer):
    model, frames = make_model(name), make_frames(1, 3, 8, 32, 32)
    with pytest.raises(ValueError, match=message):
        grad_cam(model, frames, class_index=0, layer=layer, inputs={inputs: frames})


def test_layers_that_will_not_do_are_refused_by_name():
    model, frames = make_model("dvt_tiny"), make_frames(1, 3, 8, 32, 32)
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 32 * 32, 3))
    with pytest.raises(ValueError, match="give layer=, the name of a submodule"):
        grad_cam(other, frames, class_index=0)
    with pytest.raises(ValueError, match="Sequential has no forward_features"):
        grad_cam(other, frames, class_index=0, layer="features")
    with pytest.raises(ValueError, match="has no submodule 'blocks.9'"):
        grad_cam(model, frames, class_index=0, layer="blocks.9")
    with pytest.raises(ValueError, match=r"output of head is \(1, 3\), not \(B, T, H, W, C\)"):
        grad_cam(model, frames, class_index=0, layer="head")
