"""Weights of image DeiT: every key has its place, positions are inflated and resized."""

import pytest
import torch

from gopstream.models import create_model
from gopstream.models.deit import deit_s_2d, deit_s_tps
from gopstream.models.deit.source_keys import LAYOUTS, adapt_positions
from gopstream.models.weights.loading import load_weights, match_layout


def image_keys(*, width=384, depth=12, patch=16, side=14, classes=1000):
    """Names and shapes of the authors' deit_small_patch16_224, of other sizes if wanted."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side**2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }
    leaves = {
        "norm1": (width,),
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "norm2": (width,),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    for block in range(depth):
        for leaf, shape in leaves.items():
            shapes[f"blocks.{block}.{leaf}.weight"] = shape
            shapes[f"blocks.{block}.{leaf}.bias"] = shape[:1]
    return shapes


SMALL = {"size": 12, "patch_size": 4, "embed_dim": 16, "num_heads": 2, "depth": 2, "num_frames": 5}


def small_weights(*, side=3, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = image_keys(width=16, depth=2, patch=4, side=side, classes=classes)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.mark.parametrize(("make", "classes"), [(deit_s_2d, 1000), (deit_s_tps, 400)])
def test_every_key_of_the_full_size_model_is_matched(make, classes):
    with torch.device("meta"):
        source = {key: torch.empty(shape) for key, shape in image_keys().items()}
        wanted = make(classes).state_dict()
    report = match_layout(LAYOUTS[0], wanted=wanted, source=source).report
    assert len(source) == 152
    heads = {"head.weight", "head.bias"}  # of images: not taken for as many classes either
    assert report.loaded.keys() == wanted.keys() - heads
    assert report.left_random.keys() == report.unused.keys() == heads
    inflated = {} if make is deit_s_2d else {"positions": "inflated 2D -> 16 frames"}
    assert report.inflated == inflated


@torch.no_grad()
def test_each_frame_of_the_video_model_gets_the_positions_of_the_image():
    weights = small_weights()
    model = deit_s_tps(7, **SMALL)
    load_weights(model, weights, layouts=LAYOUTS)
    assert torch.equal(model.positions, weights["pos_embed"].expand(5, -1, -1))
    assert torch.equal(model.blocks[1].mlp[2].weight, weights["blocks.1.mlp.fc2.weight"])
    assert torch.equal(model.blocks[0].mlp_norm.bias, weights["blocks.0.norm2.bias"])


def test_the_catalogue_loads_a_file_of_the_authors(tmp_path):
    weights = small_weights(classes=1000)
    torch.save({"model": weights}, tmp_path / "deit.pth")
    model = create_model("deit_s_tps", num_classes=7, weights=tmp_path / "deit.pth", **SMALL)
    assert torch.equal(model.blocks[1].attention.qkv.weight, weights["blocks.1.attn.qkv.weight"])
    assert model.head.weight.shape == (7, 16)


def test_positions_of_another_grid_are_resized_and_the_class_token_s_is_not():
    rows = torch.arange(4.0).view(4, 1).expand(4, 4)
    source = torch.cat([torch.tensor([9.0]), rows.flatten()]).view(1, 17, 1)
    adapted, how = adapt_positions("positions", source, torch.Size((2, 65, 1)))
    assert how == "inflated 2D -> 2 frames, resized 4 x 4 -> 8 x 8 patches"
    assert adapted.shape == (2, 65, 1)
    assert torch.equal(adapted[0], adapted[1])
    assert adapted[0, 0] == 9.0
    grid = adapted[0, 1:, 0].view(8, 8)
    # Rows stay rows. A quarter past row 1, the cubic of a = -0.75 weighs rows 0 to 3 with
    # -27/256, 225/256, 67/256 and -9/256.
    assert torch.allclose(grid, grid[:, :1])
    assert grid[3, 0].item() == pytest.approx((225 + 2 * 67 - 3 * 9) / 256)
    assert grid[4, 0].item() == pytest.approx(3 - (225 + 2 * 67 - 3 * 9) / 256)
    assert torch.all(grid[1:, 0] > grid[:-1, 0])


def test_positions_of_a_clip_are_resized_in_time_linearly():
    positions = torch.tensor([0.0, 4.0]).view(2, 1, 1).expand(2, 17, 3)
    adapted, what = adapt_positions("positions", positions, torch.Size((4, 17, 3)))
    assert what == "resized 2 -> 4 frames"
    assert adapted.shape == (4, 17, 3)
    assert adapted[:, 5, 1].tolist() == [0.0, 1.0, 3.0, 4.0]


def test_what_does_not_fit_is_left_alone():
    assert adapt_positions("class_token", torch.zeros(1, 2, 4), torch.Size((1, 1, 4))) is None
    assert adapt_positions("positions", torch.zeros(1, 17, 4), torch.Size((1, 17, 8))) is None
    assert adapt_positions("positions", torch.zeros(1, 18, 4), torch.Size((1, 10, 4))) is None


def test_distilled_weights_are_refused_by_name():
    weights = small_weights() | {"dist_token": torch.zeros(1, 1, 16)}
    with pytest.raises(ValueError, match="dist_token of the weights: no rule"):
        load_weights(deit_s_2d(7, **SMALL), weights, layouts=LAYOUTS)


@torch.no_grad()
def test_the_image_model_of_timm_gives_the_same_class_tokens():
    timm = pytest.importorskip("timm", reason="timm, whose model is the reference, is not there")
    torch.manual_seed(0)
    image = timm.models.vision_transformer.VisionTransformer(
        img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=7
    ).eval()
    model = deit_s_2d(7, **SMALL).eval()
    load_weights(model, image.state_dict(), layouts=LAYOUTS)
    frames = torch.randn(2, 3, 5, 12, 12, generator=torch.Generator().manual_seed(1))
    features = model.forward_features(frames)
    for frame in range(5):
        expected = image.forward_features(frames[:, :, frame])[:, 0]
        torch.testing.assert_close(features[:, :, frame, 0, 0], expected, rtol=1e-5, atol=1e-5)
