import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from gopstream.jobs.bench.training_kill_runs import wrong_parts
from gopstream.jobs.checkpoint import load_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.train import Watching, train
from gopstream.jobs.training.run_logs import LOG_NAME, read_log
from gopstream.shards.errors import ShardError

SHORT = (
    "train.steps=12",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=4",
    "train.ema=0.9",
    "schedule.warmup_steps=2",
    "model.options.head_dropout=0.2",
)

# Trains until step 10 begins, then dies as if power had failed: the last checkpoint is of step 8.
DIE_IN_STEP_10 = """
import os, signal, sys
from gopstream.jobs.cli import main
from gopstream.jobs.training.schedules import Schedule
true_share = Schedule.share
def share(schedule, step):
    if step == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return true_share(schedule, step)
Schedule.share = share
main(sys.argv[1:])
"""


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    """On a GPU two runs need not have the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


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


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def rows_of(out):
    return read_log(out / LOG_NAME)


def test_log_and_checkpoint(run):
    rows = rows_of(run)
    assert {row["kind"] for row in rows} == {"train"}
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["epoch"] for row in rows] == [step / 2 for step in range(1, 13)]
    assert all(math.isfinite(row["loss"]) and row["learning_rate"] > 0 for row in rows)
    assert all(row["gradient_norm"] > 0 and row["clips_per_second"] > 0 for row in rows)
    assert all(0 <= row["data_wait"] <= 1 for row in rows)
    names = ["checkpoint-00000004.pt", "checkpoint-00000008.pt", "checkpoint.pt"]
    assert sorted(contents(run)) == [*names, "log.jsonl", "recipe.json"]
    assert list((run / "tensorboard").iterdir())


def test_a_checkpoint_says_all_of_its_run(run, root):
    content = load_checkpoint(run)
    assert (content["step"], content["steps"], content["split"]) == (12, 12, "train")
    [[name, classes]] = content["sets"]
    assert (name, len(classes)) == ("", 8)
    assert content["settings"]["short_side"] == 64
    assert content["recipe"]["train"]["steps"] == 12
    assert content["dataset"] == str(root)
    assert content["ema"].keys() == content["model"].keys()
    assert not torch.equal(content["ema"]["head.weight"], content["model"]["head.weight"])
    # The end of the sixth epoch: the next one begins when its first batch is asked for.
    assert (content["loader"]["epoch"], content["loader"]["position"]) == (5, 8)


def test_resumed_run_is_bit_identical(run, root, tmp_path):
    out = tmp_path / "killed"
    words = ["train", "dvt_tiny_demo", *SHORT, "--data", str(root), "--out", str(out)]
    command = ["env", "CUDA_VISIBLE_DEVICES=", sys.executable, "-c", DIE_IN_STEP_10, *words]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert load_checkpoint(out)["step"] == 8
    assert rows_of(out)[-1]["step"] == 10
    train(load_recipe("dvt_tiny_demo", SHORT), root, out=out, resume=True)
    assert wrong_parts(run, out) == []
    losses = [[(row["step"], row["loss"]) for row in rows_of(each)] for each in (run, out)]
    assert losses[0] == losses[1]


def test_a_run_that_has_ended_has_no_loss_to_report(run, root, tmp_path, capsys):
    path = tmp_path / "result.json"
    words = ["train", "dvt_tiny_demo", *SHORT, "--data", str(root), "--out", str(run)]
    assert main([*words, "--resume", "--no-tensorboard", "--json", str(path)]) == 0
    checkpoint = str(run / "checkpoint.pt")
    assert capsys.readouterr().out == f"nothing was left to do; checkpoint: {checkpoint}\n"
    content = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is none of JSON's
    assert content == {"checkpoint": checkpoint, "loss": None, "skipped": 0}


def test_a_run_goes_on_when_the_weights_that_it_began_with_are_gone(run, root, tmp_path):
    weights, out = tmp_path / "weights.pt", tmp_path / "run"
    torch.save(load_checkpoint(run)["model"], weights)
    recipe = load_recipe("dvt_tiny_demo", [*SHORT, "train.steps=4", f"model.weights={weights}"])
    quietly = Watching(tensorboard=False)
    train(recipe, root, out=tmp_path / "whole", watching=quietly)
    begun = replace(recipe, train=replace(recipe.train, checkpoint_every=3))
    train(begun, root, out=out, watching=quietly)
    (out / "checkpoint-00000003.pt").replace(out / "checkpoint.pt")
    weights.unlink()
    train(recipe, root, out=out, resume=True, watching=quietly)
    assert wrong_parts(tmp_path / "whole", out) == []
    missing = r"model\.weights: expected a file of weights, there is no .*weights\.pt"
    with pytest.raises(UserError, match=missing):
        train(recipe, root, out=tmp_path / "anew", watching=quietly)


def test_other_workers_and_other_logging_change_nothing(run, root, tmp_path):
    """These may be changed on the way, as may the number of parts where nothing is drawn."""
    out = tmp_path / "other"
    words = [*SHORT, "train.workers=2", "train.log_every=5", "train.checkpoint_every=100"]
    train(load_recipe("dvt_tiny_demo", words), root, out=out, watching=Watching(tensorboard=False))
    one, other = load_checkpoint(run), load_checkpoint(out)
    for name, value in one["model"].items():
        assert torch.equal(other["model"][name], value), name
    assert [row["step"] for row in rows_of(out)] == [5, 10, 12]
    mean = sum(row["loss"] for row in rows_of(run)[5:10]) / 5
    assert rows_of(out)[1]["loss"] == pytest.approx(mean, rel=1e-12)


def test_other_labels_are_trained_and_evaluated_on(root, tmp_path):
    """Two classes of eight, without a new shard."""
    (tmp_path / "labels.csv").write_text("class,label\nzoom_in,near\nzoom_out,far\n")
    view = ["relabel", str(root), "--name", "zoom", "--labels", str(tmp_path / "labels.csv")]
    assert main([*view, "--only"]) == 0
    few = (*SHORT, "train.steps=3", "train.batch_size=2", "train.labels=zoom")
    train(load_recipe("dvt_tiny_demo", few), root, out=tmp_path / "run")
    [[_, classes]] = load_checkpoint(tmp_path / "run")["sets"]
    assert sorted(classes) == ["far", "near"]
    result = evaluate(tmp_path / "run", root, split="train", views="1x1")
    assert (result["samples"], result["chance"]) == (2, 0.5)


def test_other_runs_folder_is_refused(run, root):
    before = contents(run)
    with pytest.raises(UserError, match="is not empty; use --resume"):
        train(load_recipe("dvt_tiny_demo", SHORT), root, out=run)
    with pytest.raises(UserError, match="holds a run of another recipe"):
        train(load_recipe("dvt_tiny_demo", [*SHORT, "train.steps=13"]), root, out=run, resume=True)
    assert contents(run) == before


def test_nothing_to_resume(root, tmp_path):
    with pytest.raises(UserError, match="there is no run to resume"):
        train(load_recipe("dvt_tiny_demo", SHORT), root, out=tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_each_head_has_a_loss_of_its_own(root, tmp_path):
    """SIFA-Net's authors add the losses of both heads, the one of their mean is another."""
    short = ("train.steps=1", "train.batch_size=4", "schedule.warmup_steps=0")
    short = (*short, "train.learning_rate=0.0", "model.name=sifa_net_tiny")
    losses = {}
    for dual in ("true", "false"):
        words = (*short, "model.options.style=released", f"model.options.dual_branch={dual}")
        losses[dual] = train(load_recipe("dvt_tiny_demo", words), root, out=tmp_path / dual).loss
    assert losses["false"] == pytest.approx(math.log(8), rel=0.2)
    assert losses["true"] == pytest.approx(2 * math.log(8), rel=0.2)


def test_loss_that_is_no_number_is_named(root, tmp_path):
    wild = ("train.learning_rate=1e30", "schedule.warmup_steps=0", "train.clip_norm=0")
    with pytest.raises(UserError, match=r"the loss is \S+ at step \d+ \(clips train-0000"):
        train(load_recipe("dvt_tiny_demo", [*SHORT, *wild]), root, out=tmp_path / "wild")
    assert not (tmp_path / "wild" / "checkpoint.pt").exists()


def test_a_step_that_does_not_divide_into_parts_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="batch_size = 4 does not divide into accumulate = 3"):
        load_recipe("dvt_tiny_demo", [*SHORT, "train.accumulate=3"])
    with pytest.raises(ShardError, match="has 8 samples, fewer than a batch of 16"):
        train(
            load_recipe("dvt_tiny_demo", [*SHORT, "train.batch_size=16"]),
            root,
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


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
