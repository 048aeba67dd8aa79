"""Weights of the authors and of FocalNet's image models find their places."""

import json

import pytest
import torch

from gopstream.models.video_focalnet import (
    video_focalnet_b,
    video_focalnet_s,
    video_focalnet_t,
    video_focalnet_tiny,
)
from gopstream.models.video_focalnet.source_keys import LAYOUTS, inflate_tubelets
from gopstream.models.weights.loading import load_weights, match_layout
from gopstream.models.weights.source_layout import recognise_layout

AUTHORS, IMAGES = LAYOUTS
ALL_OPTIONS = {"patches": "overlapping", "layer_scale": 1e-4, "modulated_norm": True}

# What a block is called by the authors, beside the shape it has at width C = 32.
BLOCK = {
    "norm1.weight": (32,),
    "norm1.bias": (32,),
    "modulation.f.weight": (67, 32),
    "modulation.f.bias": (67,),
    "modulation.h.weight": (32, 32, 1, 1),
    "modulation.h.bias": (32,),
    "modulation.proj.weight": (32, 32),
    "modulation.proj.bias": (32,),
    "modulation.focal_layers.0.0.weight": (32, 1, 3, 3),
    "modulation.focal_layers.1.0.weight": (32, 1, 5, 5),
    "modulation.f_temporal.weight": (35, 32),
    "modulation.f_temporal.bias": (35,),
    "modulation.h_temporal.weight": (32, 32, 1),
    "modulation.h_temporal.bias": (32,),
    "modulation.focal_layers_temporal.0.0.weight": (32, 32, 3),
    "modulation.focal_layers_temporal.1.0.weight": (32, 32, 5),
    "norm2.weight": (32,),
    "norm2.bias": (32,),
    "mlp.fc1.weight": (128, 32),
    "mlp.fc1.bias": (128,),
    "mlp.fc2.weight": (32, 128),
    "mlp.fc2.bias": (32,),
}


def draw_authors_state(*, temporal=True, seed=0):
    """Weights as the authors would save those of a model of one block."""
    shapes = {
        "patch_embed.proj.weight": (32, 3, 4, 4),
        "patch_embed.proj.bias": (32,),
        "patch_embed.norm.weight": (32,),
        "patch_embed.norm.bias": (32,),
        **{f"layers.0.blocks.0.{key}": shape for key, shape in BLOCK.items()},
        "norm.weight": (32,),
        "norm.bias": (32,),
        "head.weight": (7, 32),
        "head.bias": (7,),
    }
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=generator) / 4
        for key, shape in shapes.items()
        if temporal or "_temporal" not in key
    }


def make_model(num_classes=7, **options):
    one_stage = {"depths": (1,), "focal_levels": (2,), "focal_windows": (3,)}
    return video_focalnet_tiny(num_classes, **(one_stage | options))


# Property 14, at full size.
@pytest.mark.parametrize(
    ("file", "variant", "options"),
    [
        ("tiny", video_focalnet_t, {}),
        ("small", video_focalnet_s, {}),
        ("base", video_focalnet_b, {}),
        ("small_tubelet2", video_focalnet_s, {"tubelet_size": 2}),
        ("small_alloptions", video_focalnet_s, ALL_OPTIONS),
    ],
)
def test_every_key_of_the_authors_models_is_one_of_ours(golden_folder, file, variant, options):
    listing = json.loads((golden_folder / f"videofocalnet_keys_{file}.json").read_text())
    with torch.device("meta"):
        model = variant(listing["head.weight"][0], **options)
        source = {key: torch.empty(shape) for key, shape in listing.items()}
    layout = recognise_layout(LAYOUTS, source)
    report = match_layout(layout, wanted=model.state_dict(), source=source).report
    assert layout is AUTHORS
    assert set(report.loaded) == set(model.state_dict())
    assert set(report.loaded.values()) == set(listing)
    assert not report.inflated and not report.resized
    assert not report.left_random and not report.unused


# Property 14: exactly the authors' keys, with their shapes.
def test_keys_of_one_block_are_mapped_one_to_one():
    model, state = make_model(), draw_authors_state()
    report = load_weights(model, state, layouts=LAYOUTS)
    assert report.layout == AUTHORS.name
    assert len(report.loaded) == len(state) == len(model.state_dict())
    own = model.state_dict()
    for ours, theirs in report.loaded.items():
        assert torch.equal(own[ours], state[theirs])


# The order of f's rows, which no shape would betray: against the authors' arithmetic.
@torch.no_grad()
def test_loaded_modulation_computes_what_the_authors_names_mean():
    model, state = make_model().double(), draw_authors_state()
    load_weights(model, state, layouts=LAYOUTS)
    weights = {
        key.removeprefix("layers.0.blocks.0.modulation."): value.double()
        for key, value in state.items()
    }
    z = torch.randn(1, 3, 4, 5, 32, dtype=torch.float64)

    def gather(context, gates, levels, convolve, dims):
        gathered = 0
        for level, weight in enumerate(levels):
            context = torch.nn.functional.gelu(convolve(context, weight))
            gathered = gathered + context * gates[..., level : level + 1]
        overall = torch.nn.functional.gelu(context.mean(dims, keepdim=True))
        return gathered + overall * gates[..., -1:]

    def in_space(context, weight):
        maps, pad = context[0].permute(0, 3, 1, 2), weight.shape[-1] // 2
        out = torch.nn.functional.conv2d(maps, weight, padding=pad, groups=32)
        return out.permute(0, 2, 3, 1)[None]

    def in_time(context, weight):
        lines = context[0].permute(1, 2, 3, 0).flatten(0, 1)
        out = torch.nn.functional.conv1d(lines, weight, padding=weight.shape[-1] // 2)
        return out.unflatten(0, (4, 5)).permute(3, 0, 1, 2)[None]

    linear = torch.nn.functional.linear
    query, context, gates = linear(z, weights["f.weight"], weights["f.bias"]).split([32, 32, 3], -1)
    levels = [weights[f"focal_layers.{level}.0.weight"] for level in (0, 1)]
    space = gather(context, gates, levels, in_space, (2, 3))
    space = linear(space, weights["h.weight"][:, :, 0, 0], weights["h.bias"])
    f_temporal = linear(z, weights["f_temporal.weight"], weights["f_temporal.bias"])
    context, gates = f_temporal.split([32, 3], -1)
    levels = [weights[f"focal_layers_temporal.{level}.0.weight"] for level in (0, 1)]
    time = gather(context, gates, levels, in_time, (1,))
    time = linear(time, weights["h_temporal.weight"][:, :, 0], weights["h_temporal.bias"])
    expected = linear(query * space * time, weights["proj.weight"], weights["proj.bias"])
    actual = model.stages[0].blocks[0].modulation.branch(z)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "random"),
    [
        ({}, "branch.time."),
        ({"design": "spatial"}, None),
        ({"design": "factorized_convolution"}, "later_levels."),
        ({"design": "factorized_encoder"}, "temporal_encoder."),
        ({"design": "divided"}, "time_modulation."),
        ({"fusion": "projection"}, "branch."),
    ],
)
def test_image_weights_fill_the_spatial_path_of_every_design(options, random):
    model, state = make_model(**options), draw_authors_state(temporal=False)
    report = load_weights(model, state, layouts=LAYOUTS)
    assert report.layout == IMAGES.name
    heads = {"head.weight", "head.bias"}
    assert set(report.loaded.values()) == set(state) - heads
    assert set(report.unused) == heads
    assert set(report.loaded) | set(report.left_random) == set(model.state_dict())
    fresh = set(report.left_random) - heads
    assert all(random is not None and random in key for key in fresh)
    assert bool(fresh) is (random is not None)


# Spec A.5: the authors draw the head anew from image weights, whatever its number of classes.
@pytest.mark.parametrize("num_classes", [5, 7])
def test_head_of_an_image_model_is_never_taken(num_classes):
    model = make_model(num_classes)
    before = model.head.weight.clone()
    report = load_weights(model, draw_authors_state(temporal=False), layouts=LAYOUTS)
    assert {"head.weight", "head.bias"} <= set(report.left_random)
    assert "does not fit clips" in report.left_random["head.weight"]
    assert report.unused["head.weight"] == "its classes are those of images"
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize(("num_classes", "taken"), [(5, False), (7, True)])
def test_head_of_the_authors_is_taken_if_the_classes_are_as_many(num_classes, taken):
    model, state = make_model(num_classes), draw_authors_state()
    report = load_weights(model, state, layouts=LAYOUTS)
    assert ("head.weight" in report.loaded) is taken
    assert (
        model.head.weight.shape == (7, 32) and torch.equal(model.head.weight, state["head.weight"])
    ) is taken


# Property 8, through the loader.
@torch.no_grad()
def test_inflated_embedding_gives_repeated_frames_the_token_of_one():
    state = draw_authors_state(temporal=False)
    single, tubelets = make_model(), make_model(tubelet_size=4)
    load_weights(single, state, layouts=LAYOUTS)
    report = load_weights(tubelets, state, layouts=LAYOUTS)
    assert list(report.inflated) == ["patch_embedding.projection.weight"]
    frames = torch.randn(1, 3, 2, 8, 8)
    torch.testing.assert_close(
        tubelets.patch_embedding(frames.repeat_interleave(4, dim=2)),
        single.patch_embedding(frames),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("key", "source", "wanted"),
    [
        ("patch_embedding.projection.weight", (8, 3, 7, 7), (8, 3, 2, 4, 4)),
        ("patch_embedding.projection.weight", (8, 3, 2, 4, 4), (8, 3, 4, 4, 4)),
        ("patch_embedding.projection.weight", (8, 3, 4, 4), (8, 3, 7, 7)),
        ("stages.0.blocks.0.modulation.branch.time.levels.0.weight", (8, 8, 3, 3), (8, 8, 5)),
    ],
)
def test_other_shapes_are_not_adapted(key, source, wanted):
    assert inflate_tubelets(key, torch.zeros(source), torch.Size(wanted)) is None
