"""Two processes take the steps that one takes, and know of each other."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gopstream.jobs.checkpoint import CHECKPOINT_FILE, load_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.training.ranks import Ranks, agreed, gathered, joined, mean_over
from gopstream.jobs.training.run_folder import RECIPE_FILE
from gopstream.jobs.training.run_logs import LOG_NAME, read_log
from two_processes import CASES, VALIDATED, train_case

SCRIPT = Path(__file__).parents[2] / "two_processes.py"
STEP = 3
ROUNDING = 1e-5


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    """On a GPU two runs need not have the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos."""
    folder = tmp_path_factory.mktemp("ranks")
    write_demo_videos(folder, split="train", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "train"), "--out", str(folder / "set"), "--short-side", "64"]
    assert main([*words, "--workers", "1"]) == 0
    return folder / "set"


def begin(whole, out):
    """Make a run that has ended after its third step."""
    out.mkdir(parents=True)
    shutil.copyfile(whole / RECIPE_FILE, out / RECIPE_FILE)
    shutil.copyfile(whole / f"checkpoint-{STEP:08d}.pt", out / CHECKPOINT_FILE)
    lines = (whole / LOG_NAME).read_text().splitlines(keepends=True)
    (out / LOG_NAME).write_text("".join(lines[:STEP]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, root):
    """All cases in this process."""
    out = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in CASES:
        train_case(name, root, out)
    torch.set_num_threads(threads)
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory, root, alone):
    """All cases on two processes, and one of this process that two go on with."""
    out = tmp_path_factory.mktemp("together")
    begin(alone / "dvt", out / "begun" / "dvt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(SCRIPT), str(root), str(out)]
    done = subprocess.run(
        ["env", "CUDA_VISIBLE_DEVICES=", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def said(together, rank):
    return json.loads((together / f"rank-{rank}.json").read_text())


def differences(one, other):
    """Compare the steps and the last checkpoints of two runs."""
    rows = [read_log(out / LOG_NAME) for out in (one, other)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    found = [
        (row["step"], name)
        for row, twin in zip(*rows, strict=True)
        for name in ("loss", "gradient_norm", "learning_rate", "epoch")
        if not math.isclose(row[name], twin[name], rel_tol=ROUNDING)
    ]
    contents = [load_checkpoint(out) for out in (one, other)]
    assert contents[0]["loader"] == contents[1]["loader"]
    for part in ("model", "ema"):
        assert contents[0][part].keys() == contents[1][part].keys()
        for name, value in contents[0][part].items():
            twin = contents[1][part][name]
            if not torch.allclose(value, twin, rtol=ROUNDING, atol=1e-6):
                found.append((part, name))
    return found


@pytest.mark.parametrize("name", CASES)
def test_two_processes_take_the_steps_of_one(alone, together, name):
    assert differences(alone / name, together / name) == []


def test_two_parts_of_a_step_are_one_step(alone):
    assert differences(alone / "dvt", alone / "dvt_accumulated") == []


def test_other_runs_are_not_the_same(alone):
    """The comparison can fail."""
    assert differences(alone / "dvt", alone / "dvt_without_motion") != []


def test_two_processes_go_on_with_a_run_of_one(alone, together):
    assert differences(alone / "dvt", together / "begun" / "dvt") == []
    assert len(load_checkpoint(together / "begun" / "dvt")["rng"]) == 2


def test_one_process_goes_on_with_a_run_of_two(alone, together, root, tmp_path):
    begin(together / "dvt", tmp_path / "dvt")
    assert len(load_checkpoint(tmp_path / "dvt")["rng"]) == 2
    train_case("dvt", root, tmp_path, resume=True)
    assert differences(alone / "dvt", tmp_path / "dvt") == []


@pytest.mark.parametrize("name", VALIDATED)
def test_what_two_processes_validate_is_the_network_that_they_save(together, root, name):
    out = together / name
    *_, row = (row for row in read_log(out / LOG_NAME) if row["kind"] == "validation")
    assert row["step"] == load_checkpoint(out)["step"] == 3
    result = evaluate(out, root, views="1x1")
    assert (row["top1"], row["top5"]) == (result["top1"], result["top5"])
    assert row["loss"] == pytest.approx(result["loss"], abs=1e-6)


def test_each_process_draws_numbers_of_its_own(together):
    one, other = load_checkpoint(together / "dvt")["rng"]
    assert not torch.equal(one, other)


def test_only_the_first_process_writes(together):
    rows = read_log(together / "dvt" / LOG_NAME)
    assert [row["step"] for row in rows] == list(range(1, 7))


def test_processes_know_of_each_other(together):
    for rank in (0, 1):
        seen = said(together, rank)
        assert (seen["rank"], seen["world_size"], seen["is_first"]) == (rank, 2, rank == 0)
        assert seen["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert seen["agreed"] == 15
        assert seen["mean"] == [1.5, 10.0]
        assert seen["own"] == [1.0 + rank, 10.0]


def test_a_step_that_does_not_divide_among_processes_is_refused(together):
    for rank in (0, 1):
        said_of_it = said(together, rank)["refused"]
        assert "2 clips do not divide into accumulate = 2 parts on each of 2" in said_of_it
    assert not (together / "refused").exists()


def test_a_process_that_is_gone_is_said(together):
    assert "another process of the run has ended" in said(together, 0)["lost"]


def test_without_torchrun_a_process_is_alone():
    with joined() as ranks:
        assert (ranks.rank, ranks.world_size, ranks.is_first) == (0, 1, True)
        assert gathered("a", ranks) == ["a"]
        assert agreed(15, ranks) == 15
        value = torch.ones(2)
        assert mean_over(value, ranks) is value
    assert not Ranks(1, 2, torch.device("cpu")).is_first
