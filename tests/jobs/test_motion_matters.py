"""The comparison of motion cues: what is planned, kept and claimed, and one short run of it."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="training needs torch")

from gopstream.jobs.bench import motion_matters  # noqa: E402
from gopstream.jobs.bench.matters_runs import finish_runs  # noqa: E402
from gopstream.jobs.bench.motion_matters import (  # noqa: E402
    CLIPS,
    CUES,
    PAPER,
    ZEROED,
    make_data,
    plan_runs,
    separation,
    summarise,
)
from gopstream.jobs.errors import UserError  # noqa: E402
from gopstream.jobs.network import build_network, clip_spec  # noqa: E402
from gopstream.jobs.recipe import load_recipe  # noqa: E402


def planned(folder, **more):
    given = {"clips": list(CLIPS), "cues": list(CUES), "seeds": 3, "steps": 600}
    return plan_runs(folder, **{**given, **more})


def row(cue, top1, *, clip="8x2", **more):
    return {"clip": clip, "cue": cue, "top1": top1, **more}


def test_every_cue_has_the_same_recipe_but_for_the_cue(tmp_path):
    runs = planned(tmp_path)
    assert len(runs) == len({run.out for run in runs}) == 3 * len(CLIPS) * len(CUES)
    for run in runs:
        own = {*CLIPS[run.clip], *CUES[run.cue], f"train.seed={run.seed}", "train.steps=600"}
        assert set(run.overrides) == own
        assert all(override.startswith("model.") for override in CUES[run.cue])
        assert run.data == tmp_path / ("flow" if run.cue == "OF" else "shards")
    assert {run.cue for run in runs if run.also_zeroed} == {"MD"}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("cue", CUES)
def test_every_run_is_a_recipe_that_makes_a_network(tmp_path, clip, cue):
    (run,) = planned(tmp_path, clips=[clip], cues=[cue], seeds=1)
    recipe = load_recipe(run.recipe, run.overrides)
    spec = clip_spec(recipe, build_network(recipe, 8))
    assert (spec.motion is not None) == (cue in ("MD", "OF"))
    assert (spec.rgb_residual is not None) == (cue == "RGB-R")


def test_a_sub_clip_of_the_long_clips_crosses_an_i_frame_wherever_it_begins(tmp_path):
    (run,) = planned(tmp_path, clips=["16x4"], cues=["MD"], seeds=1)
    recipe = load_recipe(run.recipe, run.overrides)
    spec = clip_spec(recipe, build_network(recipe, 8))
    assert (spec.motion.subclip_frames - 1) * spec.stride >= motion_matters.GOP
    assert (spec.num_frames - 1) * spec.stride + 1 <= motion_matters.NUM_FRAMES


def test_a_summary_by_hand():
    rows = [
        row("MD", 0.9, zeroed_top1=0.2),
        row("RGB-D", 0.5),
        row("MD", 0.8, zeroed_top1=0.1),
        row("RGB-D", 0.7),
    ]
    by_cue = {found["cue"]: found for found in summarise(rows)}
    assert by_cue["MD"] == {
        "clip": "8x2",
        "cue": "MD",
        "seeds": 2,
        "top1": [90.0, 80.0],
        "mean": 85.0,
        "least": 80.0,
        "most": 90.0,
        "paper_kinetics": PAPER["MD"],
    }
    assert by_cue[ZEROED]["mean"] == 15.0
    assert by_cue[ZEROED]["paper_kinetics"] is None


@pytest.mark.parametrize(("other", "holds", "margin"), [(0.79, True, 1.0), (0.8, False, 0.0)])
def test_ranges_that_touch_are_not_apart(other, holds, margin):
    rows = [row("MD", 0.9), row("MD", 0.8), row("RGB-D", 0.3), row("RGB-D", other)]
    found = separation(summarise(rows), "8x2")
    assert (found["holds"], found["margin"]) == (holds, margin)
    assert found["order"] == ["MD", "RGB-D"]
    assert found["order_of_the_paper"] == ["OF", "MD", "RGB-D", "RGB-R", "Avg-P-RGB"]


def test_nothing_is_claimed_of_what_was_not_run():
    summary = summarise([row("MD", 0.9)])
    assert separation(summary, "8x2") is None
    found = motion_matters.report([row("MD", 0.9)], settings={}, words=["--only", "MD"])
    assert (found["holds"], found["claims"]) == (None, [])
    assert found["command"].endswith("motion_matters --only MD")


def test_an_unknown_cue_is_refused(monkeypatch, capsys):
    words = ["motion_matters", "--json", "x.json", "--only", "MD,RGB"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        motion_matters.main()
    assert "there is no RGB; use MD,RGB-R" in capsys.readouterr().err


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """One training of one step; returns its folder, its run and its row."""
    folder = tmp_path_factory.mktemp("matters")
    make_data(folder, videos_per_class={"train": 1, "val": 1}, with_flow=False, workers=1)
    (run,) = planned(folder, clips=["8x2"], cues=["MD"], seeds=1, steps=1)
    run = replace(run, overrides=(*run.overrides, "train.batch_size=4"))
    # What a training that was killed before its first checkpoint leaves behind.
    run.out.mkdir(parents=True)
    (run.out / "recipe.json").write_text("{}")
    (found,) = finish_runs([run], parallel=1)
    return run, found


def test_a_short_run_is_scored_and_kept(work):
    run, found = work
    assert {"clip": "8x2", "cue": "MD", "seed": 0}.items() <= found.items()
    assert 0 <= found["zeroed_top1"] <= 1 and len(found["per_class"]) == 8
    assert json.loads((run.out / "result.json").read_text()) == found


def test_data_of_other_settings_is_refused(work):
    run, _ = work
    with pytest.raises(UserError, match=r"holds data of other settings \(.*'train': 1"):
        make_data(
            run.data.parent, videos_per_class={"train": 2, "val": 1}, with_flow=False, workers=1
        )


def test_a_finished_run_is_not_repeated(work):
    run, found = work
    before = (run.out / "checkpoint.pt").stat().st_mtime_ns
    assert finish_runs([run], parallel=1) == [found]
    assert (run.out / "checkpoint.pt").stat().st_mtime_ns == before


def test_a_run_of_other_settings_is_refused(work):
    run, _ = work
    other = replace(run, overrides=("train.steps=2",))
    with pytest.raises(UserError, match="holds a run of other settings"):
        finish_runs([other], parallel=1)


def test_a_training_that_fails_says_why(work, tmp_path):
    run, _ = work
    broken = replace(run, recipe="no_such_recipe", out=tmp_path / "broken")
    with pytest.raises(UserError, match="no recipe 'no_such_recipe'"):
        finish_runs([broken], parallel=1)
