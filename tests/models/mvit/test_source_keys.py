"""Weights of torchvision and PySlowFast: every key has its place."""

import re

import pytest
import torch

from gopstream.models.mvit import mvit_b, mvit_tiny
from gopstream.models.mvit.source_keys import LAYOUTS
from gopstream.models.weights.loading import load_weights, match_layout
from gopstream.models.weights.source_layout import recognise_layout

# PySlowFast's name of each part, written the other way round than the layout has it.
TO_PYSLOWFAST = (
    (r"conv_proj\.", "patch_embed.proj."),
    (r"pos_encoding\.class_token", "cls_token"),
    (r"pos_encoding\.(spatial|temporal|class)_pos", r"pos_embed_\1"),
    (r"attn\.project\.0\.", "attn.proj."),
    (r"attn\.pool_([qkv])\.pool\.", r"attn.pool_\1."),
    (r"attn\.pool_([qkv])\.norm_act\.0\.", r"attn.norm_\1."),
    (r"mlp\.0\.", "mlp.fc1."),
    (r"mlp\.3\.", "mlp.fc2."),
    (r"(blocks\.\d+)\.project\.", r"\1.proj."),
    (r"head\.", "head.projection."),
)


def pyslowfast_weights(model, *, separate=False):
    """The weights of our model under PySlowFast's names and in its shapes."""
    state = {}
    for key, tensor in model.state_dict().items():
        for pattern, name in TO_PYSLOWFAST:
            key = re.sub(pattern, name, key)
        if key.startswith(("cls_token", "pos_embed")):
            tensor = tensor.reshape(1, -1, tensor.shape[-1])
        if separate and ".qkv." in key:
            for name, rows in zip("qkv", tensor.chunk(3), strict=True):
                state[key.replace("qkv", name)] = rows
        else:
            state[key] = tensor
    return state


def make_small(seed=0, classes=3, **options):
    torch.manual_seed(seed)
    model = mvit_tiny(classes, **({"num_frames": 4, "size": 16, "embed_dim": 8} | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("separate", [False, True])
@torch.no_grad()
def test_pyslowfast_weights_make_the_same_network(separate):
    theirs, ours = make_small(seed=0).eval(), make_small(seed=1).eval()
    weights = pyslowfast_weights(theirs, separate=separate)
    assert "blocks.0.attn.pool_k.weight" in weights
    report = load_weights(ours, weights, layouts=LAYOUTS)
    assert report.layout == "PySlowFast MViT"
    assert not report.left_random
    assert not report.unused
    frames = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours(frames), theirs(frames))


def test_every_key_of_the_full_size_model_is_matched():
    with torch.device("meta"):
        model = mvit_b(400)
    source = pyslowfast_weights(model)
    layout = recognise_layout(LAYOUTS, source)
    report = match_layout(layout, wanted=model.state_dict(), source=source).report
    assert report.loaded.keys() == model.state_dict().keys()
    assert not report.unused


def test_torchvision_weights_of_other_classes_leave_the_head_alone():
    theirs, ours = make_small(seed=0, classes=7), make_small(seed=1)
    weights = {key.replace("head", "head.1"): tensor for key, tensor in theirs.state_dict().items()}
    report = load_weights(ours, weights, layouts=LAYOUTS)
    assert report.layout == "torchvision mvit_v1_b"
    assert report.left_random.keys() == {"head.weight", "head.bias"}
    assert torch.equal(ours.blocks[2].mlp[3].weight, theirs.blocks[2].mlp[3].weight)


def test_positions_of_longer_clips_and_larger_pictures_are_resized():
    theirs, ours = make_small(seed=0), make_small(seed=1, num_frames=8, size=32)
    report = load_weights(ours, pyslowfast_weights(theirs), layouts=LAYOUTS)
    assert report.resized["pos_encoding.spatial_pos"] == "resized 4 x 4 -> 8 x 8 places"
    assert report.resized["pos_encoding.temporal_pos"] == "resized 2 -> 4 token frames"
    assert torch.equal(ours.pos_encoding.class_token, theirs.pos_encoding.class_token)
