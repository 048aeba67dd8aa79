"""'bench train_real': a run that really trains, and what its log says of waiting."""

import json
import sys

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from gopstream.jobs.bench import train_real as bench  # noqa: E402
from gopstream.jobs.errors import UserError  # noqa: E402
from gopstream.jobs.recipe import load_recipe  # noqa: E402


def row(step, *, loss=1.0, seconds=1.0, wait=0.0, rate=4.0):
    return {
        "kind": "train",
        "step": step,
        "loss": loss,
        "step_seconds": seconds,
        "data_wait": wait,
        "clips_per_second": rate,
        "gpu_memory_gib": 2.0 + step / 100,
    }


ROWS = [
    row(10, loss=2.0, seconds=9.0, wait=0.9),
    row(20, seconds=1.0, wait=0.01, rate=8.0),
    {"kind": "validation", "step": 20, "top1": 0.25},
    row(25, loss=0.5, seconds=6.0, wait=0.05, rate=4.0),
]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["train_real", *map(str, words)])
    return bench.main()


def test_rows_count_by_their_time_and_the_first_one_not_at_all():
    found = bench.summarise(ROWS)
    assert (found["steps"], found["measured_steps"], found["measured_seconds"]) == (25, 15, 40.0)
    assert found["data_wait"] == pytest.approx((10 * 0.01 + 30 * 0.05) / 40)
    assert found["largest_data_wait"] == 0.05
    assert found["clips_per_second"] == pytest.approx((10 * 8 + 30 * 4) / 40)
    assert found["step_seconds"] == pytest.approx(40 / 15)
    assert found["losses"] == [[10, 2.0], [20, 1.0], [25, 0.5]]
    assert found["top1"] == [[20, 0.25]]
    assert found["gpu_memory_gib"] == 2.25


def test_a_run_that_waits_fails_and_a_quick_one_measures_nothing():
    found = bench.summarise(ROWS)
    assert bench.failures(found, is_quick=False) == [
        "4.0% of the time went to waiting for clips, 3% is the bar"
    ]
    assert bench.failures(found, is_quick=True) == []
    assert bench.failures(found | {"data_wait": 0.0299}, is_quick=False) == []
    for wrong in ({"losses": [[1, float("nan")]]}, {"top1": []}):
        assert len(bench.failures(found | wrong, is_quick=True)) == 1


def test_the_full_recipe_is_in_bfloat16_compiled_at_the_models_own_size():
    scale = bench.full_scale("pst_t", batch_size=16)
    words = [*bench.overrides_of(scale, workers=15), "train.steps=1000"]
    recipe = load_recipe("dvt_tiny_demo", words)
    train = recipe.train
    assert (train.precision, train.compile, train.workers) == ("bfloat16", True, 15)
    assert (train.batch_size, train.threads) == (16, 0)
    assert (recipe.clip.num_frames, recipe.transform.size) == (32, 224)
    span = (recipe.clip.num_frames - 1) * recipe.clip.stride + 1
    assert scale.video_frames > span, "clips begin at more than one frame"


def test_a_quick_run_trains_validates_and_reports(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "_QUICK_MINUTES", 0.0)  # as few steps as there may be
    path = tmp_path / "docs" / "result.json"
    words = ("--quick", "--json", path, "--work", tmp_path / "work")
    assert run(monkeypatch, *words, "--set", "train.batch_size=8") == 0
    assert "its figures mean nothing" in capsys.readouterr().out
    content = json.loads(path.read_text())
    found = content["found"]
    assert content["recipe"]["train"]["batch_size"] == 8
    assert content["samples"] == {"train": 8, "val": 8}
    assert (content["chance"], content["holds"], content["failures"]) == (0.125, None, [])
    assert found["losses"][-1][0] == found["steps"] == content["recipe"]["train"]["steps"] == 6
    assert 0 <= found["data_wait"] <= 1 and found["clips_per_second"] > 0
    assert found["top1"][-1][0] == found["steps"]
    assert all(0 <= top1 <= 1 for _, top1 in found["top1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is measured")
def test_without_a_gpu_only_the_quick_run_is_made(monkeypatch, tmp_path, capsys):
    path = tmp_path / "result.json"
    assert run(monkeypatch, "--json", path, "--work", tmp_path / "work") == 1
    assert "a CUDA device is needed, and there is none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="--model: no model is called 'pst_q'"):
        bench.full_scale("pst_q", batch_size=1)
