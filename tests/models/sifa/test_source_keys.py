"""Weights under the authors' names, and those of torchvision's ResNets, find their places."""

import json
from functools import partial

import pytest
import torch
from torchvision.models import resnet50, resnet101
from torchvision.models.resnet import Bottleneck, ResNet

from gopstream.models.sifa import sifa_net_r50, sifa_net_r101
from gopstream.models.sifa.source_keys import LAYOUTS, drop_time, inflate_stem
from gopstream.models.weights.loading import load_weights, match_layout
from gopstream.models.weights.source_layout import recognise_layout
from sifa_networks import make_network, shake

AUTHORS, IMAGES = LAYOUTS


def read_listing(golden_folder, name):
    """A state dict of the authors' code, without values."""
    shapes = json.loads((golden_folder / f"sifa_{name}_keys_16f.json").read_text())
    return {
        key: torch.empty(
            shape,
            device="meta",
            dtype=torch.int64 if key.endswith("num_batches_tracked") else torch.float32,
        )
        for key, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("name", "constructor", "num_attentions"),
    [("resnet50", sifa_net_r50, 7), ("resnet101", sifa_net_r101, 15)],
)
def test_every_key_of_the_authors_models_has_its_place(
    golden_folder, name, constructor, num_attentions
):
    source = read_listing(golden_folder, name)
    with torch.device("meta"):
        exact = constructor(400, style="released", tap_weights=True).state_dict()
        usual = constructor(400, style="released").state_dict()
    report = match_layout(AUTHORS, wanted=exact, source=source).report
    assert report.loaded.keys() == exact.keys()
    assert set(report.loaded.values()) == source.keys()
    assert not report.left_random and not report.unused and not report.inflated

    assert recognise_layout(LAYOUTS, source) is AUTHORS
    report = match_layout(AUTHORS, wanted=usual, source=source).report
    assert report.loaded.keys() == usual.keys()
    assert len(report.unused) == num_attentions == len(source) - len(usual)
    assert all(key.endswith("def_cor.weight") for key in report.unused)
    assert all("1 / channels" in why for why in report.unused.values())


def authors_state(model, *, deep=False):
    """What the authors' code would save of a model of ours."""
    parts = {"reduce": 1, "convolve": 2, "expand": 3}
    state = {}
    for key, value in model.state_dict().items():
        words = key.split(".")
        if words[0] == "stem":
            number = int(words[2]) + 1
            theirs = f"{'conv' if words[1] == 'convolutions' else 'bn'}{number}.{words[3]}"
        elif "head" in words[0]:
            theirs = f"fc{'_dual' if 'dual' in words[0] else ''}.{words[1]}"
        else:
            stage = "layer4_dual" if words[0] == "dual_stage" else f"layer{int(words[1]) + 1}"
            block, part, *leaf = words[words.index("blocks") + 1 :]
            if part == "shortcut":
                part = f"downsample.{leaf.pop(0)}"
            elif part == "context":
                part = {"squeeze": "fc1", "excite": "fc2"}[leaf.pop(0)]
            elif part == "motion":
                part = {"offsets": "conv_offset", "tap_weights": "def_cor"}[leaf[0]]
                leaf = ["weight"]
            else:
                kind = "bn" if part.endswith("_norm") else "conv"
                part = f"{kind}{parts[part.removesuffix('_norm')]}"
            theirs = ".".join([stage, block, part, *leaf])
        is_flat = value.ndim == 4 and "def_cor" not in theirs
        state[theirs] = value.unsqueeze(2) if is_flat else value
    return state


@pytest.mark.parametrize("deep", [False, True])
def test_weights_under_the_authors_names_make_the_same_network(deep):
    options = {"style": "released", "tap_weights": True, "deep_stem": deep}
    saved, loaded = make_network(**options), make_network(seed=1, **options)
    saved.stages[1].blocks[1].motion.tap_weights.mul_(3)
    report = load_weights(loaded, authors_state(saved), layouts=LAYOUTS)
    assert len(report.loaded) == len(saved.state_dict())
    for key, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_constants_of_the_authors_code_are_taken_where_there_is_a_place():
    state = authors_state(make_network(style="released", tap_weights=True))
    for tap_weights in (False, True):
        model = make_network(seed=1, style="released", tap_weights=tap_weights)
        report = load_weights(model, state, layouts=LAYOUTS)
        assert len(report.unused) == (0 if tap_weights else 4)
        assert not report.left_random


def test_both_branches_start_from_the_last_stage_of_the_image_model():
    images, model = make_image_model(), make_clip_model(dual_branch=True)
    report = load_weights(model, images.state_dict(), layouts=LAYOUTS)
    main, dual = model.stages[-1].state_dict(), model.dual_stage.state_dict()
    assert main.keys() == dual.keys()
    for key, value in main.items():
        assert torch.equal(dual[key], value) or "motion" in key
    assert {key for key in report.left_random if "motion" not in key} == {
        *("head.weight", "head.bias"),
        *("dual_head.weight", "dual_head.bias"),
    }


def test_authors_weights_come_with_a_caution_where_attention_is_another():
    state = authors_state(make_network(style="released"))
    for options in ({}, {"last": "self", "scale": "none"}, {"offset_source": "frame"}):
        model = make_network(seed=1, style="released", **options)
        cautions = load_weights(model, state, layouts=LAYOUTS).cautions
        assert len(cautions) == bool(options)
        assert all(f"{key}={value!r} (theirs" in cautions[0] for key, value in options.items())


@pytest.mark.parametrize("option", [{"style": "paper"}, {"style": "released", "region": 5}])
def test_weights_of_another_network_are_refused(option):
    state = authors_state(make_network(style="released"))
    with pytest.raises(ValueError, match="nothing was loaded"):
        load_weights(make_network(**option), state, layouts=LAYOUTS)


def make_image_model(num_classes=7, *, seed=3):
    model = ResNet(Bottleneck, [1, 2, 1, 2], num_classes=num_classes)
    return shake(model, seed=seed).double().eval()


make_clip_model = partial(make_network, 7, depths=(1, 2, 1, 2), base_width=64, seed=4)


@torch.no_grad()
def test_image_weights_make_an_image_model_of_each_frame():
    images = make_image_model()
    model = make_clip_model(variant="none", stem_frames=1, num_frames=2)
    report = load_weights(model, images.state_dict(), layouts=LAYOUTS)
    assert report.layout == IMAGES.name
    # As many classes as here, but of images.
    assert report.left_random.keys() == {"head.weight", "head.bias"}
    assert report.unused.keys() == {"fc.weight", "fc.bias"}
    model.head = images.fc
    frames = torch.randn(2, 3, 2, 33, 40, dtype=torch.float64, generator=torch.manual_seed(0))
    expected = (images(frames[:, :, 0]) + images(frames[:, :, 1])) / 2
    torch.testing.assert_close(model(frames), expected, rtol=1e-9, atol=1e-9)


# Property 31.
@torch.no_grad()
def test_inflated_stem_sees_one_frame_of_four():
    images = make_image_model()
    model = make_clip_model(variant="none", stem_frames=4)
    report = load_weights(model, images.state_dict(), layouts=LAYOUTS)
    assert report.inflated == {"stem.convolutions.0.weight": "inflated 2D -> frame 2 of 4"}
    model.head = images.fc
    frames = torch.randn(1, 3, 8, 33, 40, dtype=torch.float64, generator=torch.manual_seed(0))
    other = torch.randn(frames.shape, dtype=torch.float64, generator=torch.manual_seed(1))
    other[:, :, 2::4] = frames[:, :, 2::4]
    expected = (images(frames[:, :, 2]) + images(frames[:, :, 6])) / 2
    for clip in (frames, other):
        torch.testing.assert_close(model(clip), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("images", "constructor"), [(resnet50, sifa_net_r50), (resnet101, sifa_net_r101)]
)
@pytest.mark.parametrize(
    ("options", "random"),
    [
        ({}, ("motion.offsets.", "head.")),
        ({"variant": "correlation"}, ("motion.mapping.", "head.")),
        (
            {"style": "released", "tap_weights": True},
            ("motion.", "context.", "dual_head.", "head."),
        ),
    ],
)
def test_image_weights_fill_the_spatial_path_at_full_size(images, constructor, options, random):
    with torch.device("meta"):
        state, model = images().state_dict(), constructor(400, **options)
    report = match_layout(IMAGES, wanted=model.state_dict(), source=state).report
    assert recognise_layout(LAYOUTS, state) is IMAGES
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    assert set(report.loaded.values()) == state.keys() - report.unused.keys()
    assert all(any(part in key for part in random) for key in report.left_random)
    assert all(any(part in key for key in report.left_random) for part in random)


@pytest.mark.parametrize(
    ("options", "cautions"),
    [({"scale": "none"}, 1), ({}, 0), ({"style": "released"}, 0), ({"variant": "none"}, 0)],
)
def test_a_caution_says_where_sums_may_drown_the_features_of_an_image_model(options, cautions):
    model = make_clip_model(**options)
    report = load_weights(model, make_image_model().state_dict(), layouts=LAYOUTS)
    assert len(report.cautions) == cautions
    assert all("scale='mean'" in words for words in report.cautions)


def test_old_files_that_count_no_batches_are_taken():
    with torch.device("meta"):
        state, model = resnet50().state_dict(), sifa_net_r50(400, variant="none")
    old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    report = match_layout(IMAGES, wanted=model.state_dict(), source=old).report
    counters = report.left_random.keys() - {"head.weight", "head.bias"}
    assert len(counters) == len(state) - len(old)
    assert all(key.endswith("num_batches_tracked") for key in counters)


def test_heads_of_other_classes_stay_as_they_were_drawn():
    state = authors_state(make_network(3, style="released"))
    model = make_network(5, seed=1, style="released")
    before = model.dual_head.weight.clone()
    report = load_weights(model, state, layouts=LAYOUTS)
    assert report.left_random.keys() == {
        *("head.weight", "head.bias"),
        *("dual_head.weight", "dual_head.bias"),
    }
    assert torch.equal(model.dual_head.weight, before)


@pytest.mark.parametrize(
    ("adapt", "key", "source", "wanted"),
    [
        (inflate_stem, "stem.convolutions.0.weight", (8, 3, 3, 3), (8, 3, 4, 7, 7)),
        (inflate_stem, "stem.convolutions.0.weight", (8, 3, 4, 7, 7), (8, 3, 2, 7, 7)),
        (inflate_stem, "stages.0.blocks.0.reduce.weight", (8, 8, 3, 3), (8, 8, 2, 3, 3)),
        (drop_time, "stages.0.blocks.0.reduce.weight", (8, 8, 3, 1, 1), (8, 8, 1, 1)),
        (drop_time, "stages.0.blocks.0.reduce.weight", (8, 8, 1, 3, 3), (8, 8, 1, 1)),
        (drop_time, "stages.1.blocks.1.motion.tap_weights", (8, 4, 3, 3), (8, 2, 3, 3)),
    ],
)
def test_other_shapes_are_not_adapted(adapt, key, source, wanted):
    assert adapt(key, torch.zeros(source), torch.Size(wanted)) is None
