import json
import math
import subprocess
import sys

import pytest
import torch

from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.recipe import TrainRecipe, load_recipe
from gopstream.jobs.train import learning_rate, train

SHORT = ("train.steps=12", "train.batch_size=4", "train.log_every=1", "train.checkpoint_every=4")

# Trains until step 10 begins, then dies as if power had failed: the last checkpoint is of step 8.
DIE_IN_STEP_10 = """
import os, signal, sys
import gopstream.jobs.train as job
from gopstream.jobs.cli import main
true_rate = job.learning_rate
def rate(step, recipe):
    if step == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return true_rate(step, recipe)
job.learning_rate = rate
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    write_demo_videos(folder, split="train", videos_per_class=1, seed=1, num_frames=24, size=64)
    root = folder / "set"
    words = ["shard", str(folder / "train"), "--out", str(root), "--short-side", "64"]
    assert main([*words, "--workers", "1"]) == 0
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, root):
    """A run of 12 steps that nothing interrupted."""
    out = tmp_path_factory.mktemp("run") / "whole"
    train(load_recipe("dvt_tiny_demo", SHORT), root, out=out)
    return out


def read_log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_log_and_checkpoint(run):
    rows = read_log(run)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert all(math.isfinite(row["loss"]) and row["rate"] > 0 for row in rows)
    assert sorted(contents(run)) == ["checkpoint.pt", "log.jsonl", "recipe.json"]
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    assert content["step"] == 12
    assert len(content["classes"]) == 8


def test_resumed_run_is_bit_identical(run, root, tmp_path):
    out = tmp_path / "killed"
    words = ["train", "dvt_tiny_demo", *SHORT, "--data", str(root), "--out", str(out)]
    command = [sys.executable, "-c", DIE_IN_STEP_10, *words]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 8
    assert read_log(out)[-1]["step"] == 10
    train(load_recipe("dvt_tiny_demo", SHORT), root, out=out, resume=True)
    whole, resumed = (torch.load(o / "checkpoint.pt", weights_only=True) for o in (run, out))
    assert resumed["step"] == whole["step"]
    assert resumed["loader"] == whole["loader"]
    assert resumed["model"].keys() == whole["model"].keys()
    for name, weights in whole["model"].items():
        assert torch.equal(resumed["model"][name], weights), name
    for key, state in whole["optimiser"]["state"].items():
        for name, value in state.items():
            assert torch.equal(resumed["optimiser"]["state"][key][name], value), name
    assert torch.equal(resumed["rng"], whole["rng"])
    losses = [(row["step"], row["loss"]) for row in read_log(out)]
    assert losses == [(row["step"], row["loss"]) for row in read_log(run)]


def test_other_labels_are_trained_and_evaluated_on(root, tmp_path):
    """Two classes of eight, without a new shard."""
    (tmp_path / "labels.csv").write_text("class,label\nzoom_in,near\nzoom_out,far\n")
    view = ["relabel", str(root), "--name", "zoom", "--labels", str(tmp_path / "labels.csv")]
    assert main([*view, "--only"]) == 0
    few = ("train.steps=1", "train.batch_size=2", "train.labels=zoom")
    train(load_recipe("dvt_tiny_demo", few), root, out=tmp_path / "run")
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert sorted(content["classes"]) == ["far", "near"]
    result = evaluate(tmp_path / "run", root, split="train", views="1x1")
    assert (result["samples"], result["chance"]) == (2, 0.5)


def test_other_runs_folder_is_refused(run, root):
    before = contents(run)
    with pytest.raises(UserError, match="is not empty; use --resume"):
        train(load_recipe("dvt_tiny_demo", SHORT), root, out=run)
    with pytest.raises(UserError, match="holds a run of another recipe"):
        train(load_recipe("dvt_tiny_demo", ["train.steps=13"]), root, out=run, resume=True)
    assert contents(run) == before


def test_nothing_to_resume(root, tmp_path):
    with pytest.raises(UserError, match="there is no run to resume"):
        train(load_recipe("dvt_tiny_demo", SHORT), root, out=tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_each_head_has_a_loss_of_its_own(root, tmp_path):
    """SIFA-Net's authors add the losses of both heads, the one of their mean is another."""
    short = (*SHORT, "train.steps=1", "train.learning_rate=0.0", "model.name=sifa_net_tiny")
    losses = {}
    for dual in ("true", "false"):
        words = (*short, "model.options.style=released", f"model.options.dual_branch={dual}")
        losses[dual] = train(load_recipe("dvt_tiny_demo", words), root, out=tmp_path / dual).loss
    assert losses["false"] == pytest.approx(math.log(8), rel=0.2)
    assert losses["true"] == pytest.approx(2 * math.log(8), rel=0.2)


def test_loss_that_is_no_number_is_named(root, tmp_path):
    wild = ("train.learning_rate=1e30", "train.warmup_steps=0", "train.clip_norm=0")
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+ \(clips train-0000"):
        train(load_recipe("dvt_tiny_demo", [*SHORT, *wild]), root, out=tmp_path / "wild")
    assert not (tmp_path / "wild" / "checkpoint.pt").exists()


def test_learning_rate_by_hand():
    recipe = TrainRecipe(
        steps=110, batch_size=1, learning_rate=2.0, warmup_steps=10, final_rate=0.1
    )
    assert learning_rate(4, recipe) == pytest.approx(1.0)
    assert learning_rate(10, recipe) == pytest.approx(2.0)
    assert learning_rate(60, recipe) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert learning_rate(110, recipe) == pytest.approx(0.2)


def test_videos_without_labels_are_refused(root, tmp_path):
    videos = tmp_path / "flat"
    videos.mkdir()
    source = next(root.parent.glob("train/*/0000.mp4"))
    (videos / "a.mp4").write_bytes(source.read_bytes())
    words = ["shard", str(videos), "--out", str(tmp_path / "set"), "--short-side", "64"]
    assert main([*words, "--workers", "1"]) == 0
    with pytest.raises(UserError, match="without a label"):
        train(
            load_recipe("dvt_tiny_demo", [*SHORT, "train.batch_size=1"]),
            tmp_path / "set",
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
