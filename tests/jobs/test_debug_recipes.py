"""The debug recipes, and the proof that they learn: one short run of it, and what it refuses."""

import inspect
import json
import sys

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from gopstream.jobs import demo  # noqa: E402
from gopstream.jobs.bench import debug_recipes, matters_runs  # noqa: E402
from gopstream.jobs.bench.debug_recipes import (  # noqa: E402
    RECIPES,
    find_failures,
    least_top1,
    make_data,
    plan_runs,
    summarise,
)
from gopstream.jobs.bench.matters_runs import VIEWS  # noqa: E402
from gopstream.jobs.cli import main  # noqa: E402
from gopstream.jobs.demo_videos import write_demo_videos  # noqa: E402
from gopstream.jobs.errors import UserError  # noqa: E402
from gopstream.jobs.network import build_network, clip_spec  # noqa: E402
from gopstream.jobs.recipe import list_recipes, load_recipe  # noqa: E402
from gopstream.models.catalogue import MODELS  # noqa: E402

FEW = {"train": 2, "val": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debug_recipes")
    return make_data(folder, videos_per_class=FEW, workers=1)


def row(top1, *, recipe="pst_debug", seed=0):
    needed = least_top1(chance=0.125, samples=320)
    return {"recipe": recipe, "seed": seed, "top1": top1, "needed": needed, "seconds": 60.0}


def test_the_proof_has_every_debug_recipe():
    assert sorted(RECIPES) == [name for name in list_recipes() if name.endswith("_debug")]


def test_there_is_one_for_each_family_of_networks():
    models = {load_recipe(name).model.name for name in RECIPES}
    assert models == {
        "dvt_tiny",
        "pst_tiny",
        "sifa_net_tiny",
        "sifa_swin_tiny",
        "video_focalnet_tiny",
    }
    assert {MODELS[name].family for name in models} == {"dvt", "pst", "sifa", "video_focalnet"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_debug_recipe_makes_a_network_and_suits_a_cpu(name):
    recipe = load_recipe(name)
    network = build_network(recipe, 8)
    assert clip_spec(recipe, network).num_frames == recipe.clip.num_frames
    assert recipe.transform.size == 32
    assert recipe.train.threads == 1
    assert recipe.train.precision == "float32"
    assert not recipe.train.compile


@pytest.mark.parametrize("name", RECIPES)
def test_a_debug_recipe_keeps_directions_and_is_tested_as_the_proof_tests(name):
    recipe = load_recipe(name)
    assert recipe.transform.flip == 0.0, "mirroring turns move_left into move_right"
    assert recipe.test.views == VIEWS
    assert recipe.train.epochs / 3.5 < recipe.train.validate_epochs < recipe.train.epochs / 1.5


def test_the_data_are_the_demos():
    assert dict(debug_recipes.VIDEOS_PER_CLASS) == demo._VIDEOS_PER_CLASS
    assert (debug_recipes.DATA_SEED, debug_recipes.SHORT_SIDE) == (demo._SEED, demo._SHORT_SIDE)
    frames = inspect.signature(write_demo_videos).parameters["num_frames"]
    assert frames.default == debug_recipes.NUM_FRAMES


def test_what_a_run_must_exceed_by_hand():
    """Of 16 samples and chance 1/2 a standard error is 1/8."""
    assert least_top1(chance=0.5, samples=16) == pytest.approx(0.5 + 3 / 8)


@pytest.mark.parametrize("top1", [0.125, 0.18, float("nan")])
def test_a_run_near_chance_fails(top1):
    rows = [row(0.5), row(top1, recipe="dvt_debug", seed=2)]
    (failure,) = find_failures(rows)
    assert failure.startswith("dvt_debug, seed 2: top-1")
    assert "18.0 %" in failure


def test_a_run_above_it_does_not_fail():
    assert find_failures([row(0.19), row(0.9)]) == []


def test_the_summary_is_by_recipe():
    rows = [row(0.25), row(0.5, seed=1), row(0.75, recipe="dvt_debug")]
    assert summarise(rows) == [
        {
            "recipe": "pst_debug",
            "seeds": 2,
            "mean": 37.5,
            "least": 25.0,
            "most": 50.0,
            "seconds": 60.0,
        },
        {
            "recipe": "dvt_debug",
            "seeds": 1,
            "mean": 75.0,
            "least": 75.0,
            "most": 75.0,
            "seconds": 60.0,
        },
    ]


def test_all_recipes_of_a_seed_come_before_the_next_seed(tmp_path):
    runs = plan_runs(tmp_path, data=tmp_path, recipes=["dvt_debug", "pst_debug"], seeds=[4, 1])
    planned = [(run.recipe, run.seed, run.overrides) for run in runs]
    assert planned == [
        ("dvt_debug", 4, ("train.seed=4",)),
        ("pst_debug", 4, ("train.seed=4",)),
        ("dvt_debug", 1, ("train.seed=1",)),
        ("pst_debug", 1, ("train.seed=1",)),
    ]


def test_a_changed_recipe_is_another_run(tmp_path):
    given = {"data": tmp_path, "recipes": ["pst_debug"], "seeds": [0]}
    (plain,) = plan_runs(tmp_path, **given)
    (same,) = plan_runs(tmp_path, **given)
    (changed,) = plan_runs(tmp_path, **given, overrides=["clip.stride=1"])
    assert plain.out == same.out != changed.out


def test_data_of_other_settings_are_refused(data):
    with pytest.raises(UserError, match="data of other settings"):
        make_data(data.parent, videos_per_class={"train": 1, "val": 1}, workers=1)


@pytest.fixture
def commands_run_here(monkeypatch):
    """Spare two processes; that a run's commands get them is tested with the other proof."""

    def run(processes, words, log):
        assert main([*words]) == 0

    monkeypatch.setattr(matters_runs._Processes, "run", run)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("commands_run_here")
def test_a_short_run_goes_through_and_is_found_at_chance(data, tmp_path, monkeypatch):
    file = tmp_path / "result.json"
    words = ["--json", str(file), "--data", str(data), "--work", str(tmp_path)]
    words += ["--recipes", "dvt_debug", "--seeds", "3", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["debug_recipes", *words])
    assert debug_recipes.main() == 1, "two steps teach nothing, and eight samples prove nothing"
    content = json.loads(file.read_text())
    (run,) = content["runs"]
    assert (run["recipe"], run["seed"], run["steps"], run["chance"]) == ("dvt_debug", 3, 2, 0.125)
    assert run["needed"] == least_top1(chance=0.125, samples=8)
    assert content["settings"]["samples"] == {"train": 16, "val": 8}
    assert content["failures"] == find_failures(content["runs"])
    assert len(content["failures"]) == 1
