"""Models as published, built without memory: sizes and arithmetic of papers and authors' code."""

import json
from functools import cache

import pytest
import torch

from gopstream.models import create_model, list_models, paper_figures
from gopstream.models.catalogue import MODELS
from gopstream.models.cost import measure_model
from gopstream.models.paper_figures_motion import MOTION_FIGURES
from gopstream.models.weights.loading import match_layout
from gopstream.models.weights.source_layout import recognise_layout

FIGURES = {name: entry.figures for name, entry in MODELS.items() if entry.figures is not None}

# Reproduced neither by us nor by the authors' code: figures.deviations says why.
GMACS_NOT_THE_PAPERS = {"video_focalnet_b", "sifa_net_r50", "sifa_net_r101", "sifa_swin_b"}


@pytest.fixture(scope="module")
def costs():
    """Costs with the classes that the published counts have."""
    return {
        name: measure_model(name, num_classes=figures.num_classes)
        for name, figures in FIGURES.items()
    }


@cache
def make_full_size(name):
    with torch.device("meta"):
        return create_model(name, num_classes=400).eval()


def test_every_model_of_a_paper_is_in_the_catalogue_with_its_figures():
    published = {**paper_figures.FIGURES, **MOTION_FIGURES}
    assert published.keys() == FIGURES.keys()
    for name, entry in MODELS.items():
        assert entry.figures is published.get(name)
        assert name.endswith("tiny") == (entry.figures is None) or name == "deit_tiny_tps"


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_and_gmacs_are_those_of_the_authors_code(costs, name):
    figures, cost = FIGURES[name], costs[name]
    if figures.official_params is None:
        assert figures.deviations, "no code: the entry must say what the figures rest on"
        return
    assert cost.parameters == figures.official_params
    assert cost.gmacs == pytest.approx(figures.official_gmacs, rel=2e-5)


@pytest.mark.parametrize("name", [name for name in FIGURES if FIGURES[name].gmacs is not None])
def test_gmacs_are_the_papers_to_one_percent(costs, name):
    close = costs[name].gmacs == pytest.approx(FIGURES[name].gmacs, rel=1e-2)
    assert close == (name not in GMACS_NOT_THE_PAPERS)


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_are_the_papers_to_one_percent_or_a_deviation_says_why(costs, name):
    figures = FIGURES[name]
    if figures.params_millions is not None:
        close = costs[name].parameters / 1e6 == pytest.approx(figures.params_millions, rel=1e-2)
        assert close or figures.deviations


@pytest.mark.parametrize("name", [name for name in FIGURES if name.startswith("deit")])
def test_deit_costs_what_its_layers_add_up_to(costs, name):
    # 12 blocks of width 384 on 197 tokens of 16 frames; per token: qkv, projection, MLP, attention.
    block = 384 * (3 * 384 + 384 + 2 * 4 * 384) + 2 * 197 * 384
    macs = 16 * (196 * 768 * 384 + 12 * 197 * block) + 384 * 400
    assert costs[name].gmacs * 1e9 == pytest.approx(macs, abs=0.5)
    positions = 1 if name == "deit_s_2d" else 16
    assert costs[name].parameters == (
        (768 + 1) * 384  # patches
        + 384 * (1 + 197 * positions)
        + 12 * (12 * 384**2 + 13 * 384)  # weights; biases and norms
        + 2 * 384
        + 385 * 400
    )


@pytest.mark.parametrize("name", [name for name in list_models() if name in FIGURES])
def test_shapes_follow_the_contract(name):
    contract = MODELS[name].contract
    model = make_full_size(name)
    with torch.device("meta"):
        frames = torch.zeros(2, 3, contract.num_frames, contract.size, contract.size)
        features = model.forward_features(frames)
        assert model.classify(features).shape == (2, 400)
    assert features.shape[:2] == (2, model.head.in_features)


@pytest.mark.parametrize(
    ("name", "listing"),
    [
        ("video_focalnet_t", "videofocalnet_keys_tiny"),
        ("video_focalnet_s", "videofocalnet_keys_small"),
        ("video_focalnet_b", "videofocalnet_keys_base"),
        ("pst_t", "pst_keys_PST-T"),
        ("pst_b", "pst_keys_PST-B"),
        ("pst_t_dagger", "pst_keys_Video-Swin-T"),
        ("video_swin_t", "pst_keys_Video-Swin-T"),
    ],
)
def test_every_key_of_the_authors_models_has_its_place(golden_folder, name, listing):
    shapes = json.loads((golden_folder / f"{listing}.json").read_text())
    wanted = make_full_size(name).state_dict()
    with torch.device("meta"):
        source = {
            key: torch.empty(shape, dtype=torch.int64 if "index" in key else torch.float32)
            for key, shape in shapes.items()
        }
    layout = recognise_layout(MODELS[name].layouts, source)
    report = match_layout(layout, wanted=wanted, source=source).report
    assert report.loaded.keys() == wanted.keys()
    assert not report.inflated
    assert all("relative_position_index" in key for key in report.unused)
    assert len(report.loaded) + len(report.unused) == len(shapes)


def test_accuracies_say_where_they_stand():
    for figures in FIGURES.values():
        for row in figures.top1:
            assert 0 < row.top1 < 100
            assert row.source.startswith("Table")
            assert row.views in ("", "1x1", "1x3", "4x3", "5x1", "10x3")
