"""Weights under the authors' names, and those of Swin's image models, find their places."""

import json

import pytest
import timm
import torch
import torchvision

from gopstream.models.sifa import sifa_swin_b, sifa_swin_s, sifa_swin_t
from gopstream.models.sifa.swin import SifaTransformer
from gopstream.models.sifa.swin_source_keys import LAYOUTS, adapt_authors, adapt_image
from gopstream.models.weights.loading import load_weights, match_layout
from gopstream.models.weights.source_layout import recognise_layout
from sifa_networks import shake
from sifa_transformers import make_transformer

AUTHORS = LAYOUTS[0]


def read_listing(golden_folder, name):
    """A state dict of the authors' code, without values."""
    shapes = json.loads((golden_folder / f"sifa_swin_{name}_keys_64f.json").read_text())
    return {
        key: torch.empty(
            shape, device="meta", dtype=torch.int64 if key.endswith("index") else torch.float32
        )
        for key, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("name", "constructor", "convolving"),
    [("tiny", sifa_swin_t, 5), ("small", sifa_swin_s, 11), ("base", sifa_swin_b, 11)],
)
def test_every_key_of_the_authors_models_has_its_place(
    golden_folder, name, constructor, convolving
):
    source = read_listing(golden_folder, name)
    assert recognise_layout(LAYOUTS, source) is AUTHORS
    with torch.device("meta"):
        exact = constructor(400, style="released", tap_weights=True)
        usual = constructor(400, style="released")
    blocks = sum(map(len, (stage.blocks for stage in exact.stages)))
    for model in (exact, usual):
        wanted = model.state_dict()
        report = match_layout(AUTHORS, wanted=wanted, source=source).report
        assert report.loaded.keys() == wanted.keys()
        assert set(report.loaded.values()) | report.unused.keys() == source.keys()
        assert not report.left_random and not report.inflated
        assert len(report.resized) == convolving
        idle = {
            part: sum(part in key for key in report.unused)
            for part in ("relative_position_index", "attn_mask", "conv.weight", "tda_norm.weight")
        }
        attending = blocks - convolving
        assert list(idle.values()) == [blocks, convolving, attending, convolving]
        constants = sum("def_cor" in key for key in report.unused)
        assert constants == (convolving if model is exact else blocks)


def authors_state(model):
    """What the authors' code would save of a model of ours, whose idle parts are of no use."""
    state = {}
    parts = {
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "motion_norm": "tda_norm",
        "attention.qkv": "attn.qkv",
        "attention.projection": "attn.proj",
        "attention.position_table": "attn.relative_position_bias_table",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
        "motion.tap_weights": "def_cor.weight",
        "convolution": "conv",
        "merging": "downsample",
        "stages": "layers",
        "patch_embedding.projection": "patch_embed.proj",
        "patch_embedding.norm": "patch_embed.norm",
    }
    for key, value in model.state_dict().items():
        theirs = key.replace("head.", "fc.")
        for ours, name in parts.items():
            theirs = theirs.replace(ours, name)
        state[theirs] = value.unsqueeze(2) if theirs.endswith(".conv.weight") else value
    for stage, part in enumerate(model.stages):
        for index, block in enumerate(part.blocks):
            prefix = f"layers.{stage}.blocks.{index}"
            width = block.attention_norm.weight.numel()
            state[f"{prefix}.attn.relative_position_index"] = torch.zeros(16, 16).long()
            state.setdefault(f"{prefix}.def_cor.weight", torch.ones(width, 4, 3, 3))
            state.setdefault(f"{prefix}.conv.weight", torch.ones(width, width, 1, 3))
            for leaf in ("weight", "bias"):
                state.setdefault(f"{prefix}.tda_norm.{leaf}", torch.ones(width))
    return state


RELEASED = {"style": "released", "size": 32}


@pytest.mark.parametrize("tap_weights", [False, True])
def test_weights_under_the_authors_names_make_the_same_network(tap_weights):
    saved = make_transformer(tap_weights=True, **RELEASED)
    for part in (part for name, part in saved.named_buffers() if "tap_weights" in name):
        part.mul_(3)
    loaded = make_transformer(seed=1, tap_weights=tap_weights, **RELEASED)
    report = load_weights(loaded, authors_state(saved), layouts=LAYOUTS)
    assert not report.left_random and not report.cautions
    for key, value in loaded.state_dict().items():
        assert torch.equal(saved.state_dict()[key], value), key
    reasons = [why for key, why in report.unused.items() if "def_cor" in key]
    assert len(reasons) == (1 if tap_weights else 4)
    assert all("1 / channels" in why for why in reasons)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, {}),
        ({"last": "self"}, {"last": "'self' (theirs is 'zero')"}),
        ({"scale": "none"}, {"scale": "'none' (theirs is 'mean')"}),
        ({"region": 5, "dilation": 2}, {"region": "5 (theirs is 3)", "dilation": "2"}),
        ({"motion_input": "attention"}, {"motion_input": "'attention'"}),
        ({"motion_norm": False}, {"motion_norm": "False (theirs is True)"}),
        ({"temporal_convolution": False}, {"temporal_convolution": "False"}),
        ({"variant": "none"}, {"variant": "'none' (theirs is 'regular')"}),
    ],
    ids=str,
)
def test_authors_weights_come_with_a_caution_where_blocks_are_others(options, said):
    state = authors_state(make_transformer(**RELEASED))
    model = make_transformer(seed=1, **(RELEASED | options))
    cautions = load_weights(model, state, layouts=LAYOUTS).cautions
    assert len(cautions) == bool(said)
    assert all(f"{option}={words}" in cautions[0] for option, words in said.items())


@pytest.mark.parametrize(
    "options",
    [
        {"style": "paper"},
        {"variant": "deformable"},
        {"variant": "correlation"},
        {"patch_norm": True},
    ],
    ids=str,
)
def test_authors_weights_are_refused_where_others_are_needed(options):
    state = authors_state(make_transformer(style="released"))
    model = make_transformer(**({"style": "released"} | options))
    with pytest.raises(ValueError, match="nothing was loaded"):
        load_weights(model, state, layouts=LAYOUTS)


SWIN = {"embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 7}


def make_clip_model(**options):
    return make_transformer(4, **(SWIN | {"num_frames": 8, "stem_frames": 4} | options))


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


def make_image_model(source):
    """Return a Swin of others, its weights under the names of `source`, and its features."""
    if source == "torchvision Swin":
        model = torchvision.models.SwinTransformer(
            [4, 4], 8, [2, 1, 1, 1], [1, 2, 4, 8], [7, 7], num_classes=4
        )
        shake(model.double().eval())
        return model.state_dict(), lambda image: model.norm(model.features(image))
    names = {key: value for key, value in SWIN.items() if key != "window_size"}
    model = shake(timm.models.SwinTransformer(num_classes=4, **names).double().eval())
    state = model.state_dict()
    return state if "timm" in source else microsoft_names(state), model.forward_features


@pytest.mark.parametrize("source", ["timm Swin", "Microsoft Swin", "torchvision Swin"])
@torch.no_grad()
def test_image_weights_make_an_image_model_of_one_frame_of_four(source):
    """Fresh norms and convolutions are zero, so that frames do not meet."""
    state, features_of = make_image_model(source)
    frames = torch.randn(1, 3, 8, 224, 224, dtype=torch.float64, generator=torch.manual_seed(0))
    for options in ({"variant": "none"}, {"style": "released", "patch_norm": True}):
        model = SifaTransformer(4, **SWIN, num_frames=8, **options).double().eval()
        report = load_weights(model, state, layouts=LAYOUTS)
        assert report.layout == source
        assert {"head.weight", "head.bias"} <= report.left_random.keys()
        assert all("head" in key or "mo" in key or "conv" in key for key in report.left_random)
        assert report.inflated == {
            "patch_embedding.projection.weight": "inflated 2D -> frame 2 of 4"
        }
        features = model.forward_features(frames)
        for group in range(2):
            expected = features_of(frames[:, :, 4 * group + 2]).permute(0, 3, 1, 2)
            torch.testing.assert_close(features[:, :, group], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("style", ["paper", "released"])
def test_what_is_between_frames_stays_as_it_was_drawn(style):
    state, _ = make_image_model("timm Swin")
    model = make_clip_model(style=style)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_weights(model, state, layouts=LAYOUTS)
    parts = ("motion.", "motion_norm.", "convolution.", "head.")
    kept = {key for key in before if any(part in key for part in parts)}
    assert report.left_random.keys() == kept
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in kept)
    unused = {key for key in report.unused if "patch_embed.norm" in key}
    assert len(unused) == (2 if style == "released" else 0)
    assert report.unused.keys() - unused == {"head.fc.weight", "head.fc.bias"}


def test_tables_of_other_windows_are_resized():
    state, _ = make_image_model("timm Swin")
    model = make_clip_model(window_size=5)
    report = load_weights(model, state, layouts=LAYOUTS)
    assert len(report.resized) == 5
    assert set(report.resized.values()) == {"resized 13 x 13 -> 9 x 9 differences"}


@pytest.mark.parametrize(
    ("images", "constructor"),
    [("swin_t", sifa_swin_t), ("swin_s", sifa_swin_s), ("swin_b", sifa_swin_b)],
)
def test_image_weights_fill_the_spatial_path_at_full_size(images, constructor):
    with torch.device("meta"):
        state = torchvision.models.get_model(images).state_dict()
        for style in ("paper", "released"):
            model = constructor(400, style=style)
            layout = recognise_layout(LAYOUTS, state)
            report = match_layout(layout, wanted=model.state_dict(), source=state).report
            assert report.loaded.keys() | report.left_random.keys() == model.state_dict().keys()
            assert not report.resized


@pytest.mark.parametrize(
    ("adapt", "key", "source", "wanted"),
    [
        (adapt_authors, "stages.0.blocks.1.convolution.weight", (4, 4, 2, 3), (4, 4, 3)),
        (adapt_authors, "stages.0.blocks.1.convolution.weight", (4, 4, 1, 5), (4, 4, 3)),
        (adapt_authors, "stages.0.blocks.1.convolution.weight", (4, 4, 5), (4, 4, 3)),
        (adapt_authors, "stages.0.blocks.0.motion.tap_weights", (4, 2, 3, 3), (4, 4, 3, 3)),
        (adapt_authors, "stages.0.blocks.0.attention.qkv.weight", (4, 4, 1, 3), (4, 4, 3)),
        (adapt_image, "patch_embedding.projection.weight", (8, 3, 2, 2), (8, 3, 4, 4, 4)),
        (adapt_image, "patch_embedding.projection.weight", (8, 3, 2, 4, 4), (8, 3, 4, 4, 4)),
        (adapt_image, "stages.0.blocks.0.attention.position_table", (170, 2), (169, 2)),
        (adapt_image, "stages.0.blocks.0.attention.position_table", (225, 3), (169, 2)),
        (adapt_image, "norm.weight", (3,), (4,)),
    ],
)
def test_other_shapes_are_not_adapted(adapt, key, source, wanted):
    assert adapt(key, torch.zeros(source), torch.Size(wanted)) is None


@pytest.mark.parametrize(
    ("options", "cautions"),
    [
        ({"scale": "none"}, 1),
        ({}, 0),
        ({"scale": "none", "motion_norm": True}, 0),
        ({"style": "released"}, 0),
    ],
)
def test_a_caution_says_where_sums_may_drown_the_features_of_an_image_model(options, cautions):
    state, _ = make_image_model("timm Swin")
    report = load_weights(make_clip_model(**options), state, layouts=LAYOUTS)
    assert len(report.cautions) == cautions
