"""'gopstream evaluate --report': scores beside a paper's, and what differs."""

import json

import pytest
import torch

from gopstream.jobs.cli import main
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.evaluation.paper_report import (
    published_recipes,
    recipe_changes,
    report_text,
)
from gopstream.jobs.recipe import load_recipe

PAPER = ("paper.source='Made Up, Table 1'", "paper.dataset=kinetics400", "paper.top1=50.0")


@pytest.fixture
def reported(make_checkpoint, root, tmp_path):
    """Return a function: (name, overrides, step=, steps=, options of evaluate) -> report."""

    def make(name, overrides=(), *, step=1, steps=1, **options):
        path = tmp_path / "checkpoint.pt"
        make_checkpoint(path, name, overrides, step=step, steps=steps)
        return evaluate(path, root, report=True, **options)

    return make


def test_scores_stand_beside_those_of_the_paper(reported):
    result = reported("dvt_tiny_demo", PAPER)
    rows = result["report"]["rows"]
    measured = 100 * result["top1"]
    assert rows[0] == {
        "metric": "top-1",
        "paper": 50.0,
        "yours": measured,
        "difference": measured - 50.0,
    }
    assert rows[1]["metric"] == "top-5"
    assert rows[1]["paper"] is rows[1]["difference"] is None
    text = report_text(result["report"])
    assert "paper: Made Up, Table 1" in text
    assert f"{measured - 50.0:+.2f}" in text


def test_what_differs_from_the_paper_is_said(reported):
    words = (*PAPER, "paper.weights=ImageNet-1K", "data.fps=15", "test.views=1x1")
    report = reported(
        "dvt_tiny_demo", words, step=3, steps=9, views="2x1", force=True, zero_motion=True
    )["report"]
    assert report["differs"] == [
        "views: 2x1, of the paper 1x1",
        "the motion was zeroed (--zero-motion)",
        "dataset: of the paper kinetics400, 400 classes; yours has 3 classes",
        "samples: 5 measured; compare with the paper's split",
        "weights to begin with: of the paper ImageNet-1K; yours fresh weights",
        "steps: the checkpoint is of step 3 of 9",
        "the dataset was not made as [data] of the recipe asks (--force); see the warning",
    ]
    text = report_text(report)
    assert all(f"- {difference}" in text for difference in report["differs"])


def test_a_paper_that_is_followed_differs_in_nothing_that_is_known(reported, root):
    words = ("paper.source=S", "paper.dataset=demo")
    assert reported("dvt_tiny_demo", words)["report"]["differs"] == [
        f"dataset: of the paper demo; not compared with {root}",
        "samples: 5 measured; compare with the paper's split",
    ]


def test_weights_that_a_run_began_with_are_named(reported, make_checkpoint, root, tmp_path):
    """A checkpoint's own recipe says which file it was."""
    network = make_checkpoint(tmp_path / "run.pt", "dvt_tiny_demo")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    words = ("paper.source=S", "paper.dataset=demo", f"model.weights={tmp_path / 'weights.pt'}")
    differs = reported("dvt_tiny_demo", words)["report"]["differs"]
    began = tmp_path / "weights.pt"
    assert f"weights to begin with: of the paper fresh weights; yours {began}" in differs


def test_changes_of_a_published_recipe_are_listed():
    name = "video_focalnet_t_k400"
    assert list(recipe_changes(load_recipe(name))) == []
    elsewhere = ("train.workers=3", "train.seed=7", "train.accumulate=2", "model.weights=file")
    assert list(recipe_changes(load_recipe(name, elsewhere))) == []
    changed = load_recipe(name, ["train.learning_rate=0.5", "transform.flip=0.25"])
    published = load_recipe(name)
    assert sorted(recipe_changes(changed)) == [
        f"recipe: train.learning_rate = 0.5, of {name} {published.train.learning_rate}",
        f"recipe: transform.flip = 0.25, of {name} {published.transform.flip}",
    ]


def test_another_model_and_another_length_are_changes_of_a_recipe():
    changed = load_recipe("pst_t_ssv2", ["model.name=pst_b", "train.epochs=1"])
    epochs = load_recipe("pst_t_ssv2").train.epochs
    assert list(recipe_changes(changed)) == [
        "recipe: model.name = pst_b, of pst_t_ssv2 pst_t",
        f"recipe: train.epochs = 1.0, of pst_t_ssv2 {epochs}",
    ]


def test_without_a_paper_the_published_recipes_of_the_model_are_named(reported):
    report = reported("dvt_tiny_demo")["report"]
    assert report["source"] == ""
    assert report["published"] == []
    assert "no published recipe is of its model" in report_text(report)
    names = published_recipes("video_focalnet_t")
    assert "video_focalnet_t_k400" in names
    assert all(load_recipe(name).paper is not None for name in names)
    text = report_text(report | {"published": names})
    assert "published recipes of its model: video_focalnet_t_k400" in text


def test_the_command_prints_the_report(make_checkpoint, root, tmp_path, capsys):
    make_checkpoint(tmp_path / "run.pt", "dvt_tiny_demo", PAPER)
    words = ["evaluate", str(tmp_path / "run.pt"), "--data", str(root), "--report"]
    assert main([*words, "--json", str(tmp_path / "result.json")]) == 0
    said = capsys.readouterr().out
    assert "difference" in said
    assert "what differs:" in said
    assert json.loads((tmp_path / "result.json").read_text())["report"]["source"]
