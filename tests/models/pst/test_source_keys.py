"""Weights of other libraries: real networks of theirs, whose outputs ours must give."""

import json

import pytest
import timm
import torch
import torchvision

from gopstream.models.pst import pst_b, pst_t, video_swin_t
from gopstream.models.pst.model import PatchShiftTransformer
from gopstream.models.pst.source_keys import LAYOUTS, adapt_image, adapt_video
from gopstream.models.weights.loading import load_weights, match_layout
from gopstream.models.weights.source_layout import recognise_layout

LOCAL = {"temporal_window": 8, "table_frames": 8}


@pytest.mark.parametrize(
    ("listing", "constructor", "options", "name"),
    [
        ("PST-T", pst_t, {}, "authors of PST"),
        ("PST-B", pst_b, {}, "authors of PST"),
        ("Video-Swin-T", video_swin_t, LOCAL, "authors of Video Swin"),
    ],
)
def test_every_key_of_the_authors_has_its_place(golden_folder, listing, constructor, options, name):
    shapes = json.loads((golden_folder / f"pst_keys_{listing}.json").read_text())
    with torch.device("meta"):
        model = constructor(400, **options)
        source = {
            key: torch.empty(shape, dtype=torch.int64 if "index" in key else torch.float32)
            for key, shape in shapes.items()
        }
    layout = recognise_layout(LAYOUTS, source)
    report = match_layout(layout, wanted=model.state_dict(), source=source).report
    assert layout.name == name
    assert set(report.loaded) == set(model.state_dict())
    assert not report.inflated and not report.resized and not report.left_random
    assert all("relative_position_index" in key for key in report.unused)


def make_small(**options):
    small = {"embed_dim": 16, "depths": (2, 2, 2, 1), "num_heads": (1, 2, 4, 8)}
    return PatchShiftTransformer(3, **(small | options)).eval()


@pytest.fixture
def clip_of_one_image():
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return image, image.unsqueeze(2).expand(-1, -1, 4, -1, -1)


def microsoft_names(state):
    """Name timm's weights as Microsoft's code does, with the tables that it keeps."""
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts).replace("head.fc", "head")] = value
    renamed["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49).long()
    renamed["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    return renamed


def freshen(model):
    """Draw weights that make attention, bias and norms count."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            scale = 1.0 if "table" in name else 0.2
            parameter.copy_(drawn * scale + ("norm" in name and name.endswith("weight")))
    return model.eval()


@pytest.mark.parametrize("source", ["timm Swin", "Microsoft Swin", "torchvision Swin"])
@pytest.mark.parametrize("kinds", [("plain", "plain"), ("tcs", "tps")])
@torch.no_grad()
def test_clip_that_stands_still_has_the_features_of_its_image(source, kinds, clip_of_one_image):
    """Inflated weights do not see time, whatever moves along it (properties 8 and 17)."""
    image, clip = clip_of_one_image
    if source == "torchvision Swin":
        theirs = torchvision.models.SwinTransformer(
            [4, 4], 16, [2, 2, 2, 1], [1, 2, 4, 8], [7, 7], num_classes=5
        )
        expected = freshen(theirs).norm(theirs.features(image))
        state = theirs.state_dict()
    else:
        theirs = timm.models.SwinTransformer(
            embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8), num_classes=5
        )
        expected = freshen(theirs).forward_features(image)
        state = theirs.state_dict()
        state = state if source == "timm Swin" else microsoft_names(state)
    model = make_small(block_kinds=kinds)
    report = load_weights(model, state, layouts=LAYOUTS)
    assert report.layout == source
    assert set(report.left_random) == {"head.weight", "head.bias"}
    features = model.forward_features(clip)
    assert features.shape == (1, 128, 2, 7, 7)
    for frame in range(2):
        got = features[:, :, frame].permute(0, 2, 3, 1)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


@torch.no_grad()
def test_video_swin_of_torchvision_classifies_alike():
    theirs = freshen(
        torchvision.models.video.SwinTransformer3d(
            [2, 4, 4], 16, [2, 2], [1, 2], [2, 7, 7], num_classes=3
        )
    )
    model = PatchShiftTransformer(
        3, embed_dim=16, depths=(2, 2), num_heads=(1, 2), block_kinds=("plain", "plain"),
        temporal_window=2, table_frames=2, rpe="paper",
    ).eval()  # fmt: skip
    report = load_weights(model, theirs.state_dict(), layouts=LAYOUTS)
    assert report.layout == "torchvision Video Swin"
    assert set(report.loaded) == set(model.state_dict())
    frames = torch.randn(2, 3, 8, 56, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(frames), theirs(frames), rtol=0, atol=1e-4)


def test_groups_of_frame_differences_keep_their_place():
    table = torch.arange(3.0).repeat_interleave(169)[:, None]  # differences -1, 0, 1

    def groups(frames):
        fitted, how = adapt_video("x.position_table", table, torch.Size([frames * 169, 1]))
        assert how == f"resized 3 -> {frames} frame differences"
        return fitted.view(frames, 169)[:, 0].tolist()

    assert groups(1) == [1]
    assert groups(7) == [0, 0, 0, 1, 2, 2, 2]


def test_table_of_an_image_model_is_resized_and_shared():
    plane = torch.arange(23.0).repeat(23)[:, None]  # grows along dx
    fitted, how = adapt_image("x.position_table", plane, torch.Size([31 * 169, 1]))
    assert how == "inflated 2D -> 31 frame differences, resized 23 x 23 -> 13 x 13 differences"
    cells = fitted.view(31, 13, 13)
    assert torch.equal(cells[0], cells[30])
    assert cells[0, 6, 6] == pytest.approx(11, abs=1e-4)
    assert (cells.diff(dim=2) > 1).all() and (cells.diff(dim=1).abs() < 1e-4).all()


def test_what_cannot_be_fitted_is_not():
    table = torch.zeros(169, 2)
    assert adapt_image("x.position_table", table, torch.Size([169, 3])) is None
    assert adapt_image("x.position_table", torch.zeros(170, 2), torch.Size([169, 2])) is None
    assert adapt_image("norm.weight", torch.zeros(3), torch.Size([4])) is None
    patches = torch.zeros(8, 3, 2, 2)
    wanted = torch.Size([8, 3, 2, 4, 4])
    assert adapt_image("patch_embedding.projection.weight", patches, wanted) is None
