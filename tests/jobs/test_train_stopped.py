"""Runs that are told to stop, and runs that have nothing to go on from or nothing left to do."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from gopstream.jobs.bench.sharding_runs import processes_of
from gopstream.jobs.bench.training_kill_runs import wrong_parts
from gopstream.jobs.checkpoint import CHECKPOINT_FILE, load_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.training.run_logs import LOG_NAME, read_log
from gopstream.jobs.training.steps import Stepper

STEPS = 30
OVERRIDES = (
    f"train.steps={STEPS}",
    "train.batch_size=4",
    "train.workers=2",
    "train.ema=0.9",
    "train.log_every=1",
    "train.checkpoint_every=1000",
    "schedule.warmup_steps=2",
    "model.options.head_dropout=0.2",
)
# Dies as if power had failed, before there is a checkpoint.
DIE_IN_STEP_3 = """
import os, signal, sys
from gopstream.jobs.cli import main
from gopstream.jobs.training.schedules import Schedule
true_share = Schedule.share
def share(schedule, step):
    if step == 3:
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
    folder = tmp_path_factory.mktemp("stopped")
    write_demo_videos(folder, split="train", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "train"), "--out", str(folder / "set"), "--short-side", "64"]
    assert main([*words, "--workers", "1"]) == 0
    return folder / "set"


def words_of(root, out):
    return ["train", "dvt_tiny_demo", *OVERRIDES, "--data", str(root), "--out", str(out)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, root):
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*words_of(root, out), "--no-tensorboard"]) == 0
    return out


def same(one, other):
    """Compare two runs to the last bit: their steps and their last checkpoints."""
    names = ("step", "loss", "gradient_norm", "learning_rate")
    rows = [[[row[n] for n in names] for row in read_log(out / LOG_NAME)] for out in (one, other)]
    assert rows[0] == rows[1]
    assert wrong_parts(one, other) == []


def wait_for_step(out, step, process):
    while process.poll() is None:
        if (out / LOG_NAME).exists() and len(read_log(out / LOG_NAME)) >= step:
            return
        time.sleep(0.005)
    raise AssertionError(process.stderr.read())


def test_sigterm_saves_and_the_run_goes_on_to_the_same_end(root, whole, tmp_path):
    """A scheduler sends it to all processes: the loader's workers have it too."""
    out, temporary = tmp_path / "run", tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "gopstream", *words_of(root, out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary), "CUDA_VISIBLE_DEVICES": ""},
    )
    wait_for_step(out, 3, process)
    num_processes = len(processes_of(temporary))
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 143, said
    assert "stopped by SIGTERM" in said
    assert "with --resume continues" in said
    assert num_processes >= 3  # the command and two workers
    assert processes_of(temporary) == []
    step = load_checkpoint(out)["step"]
    assert 3 <= step < STEPS
    assert read_log(out / LOG_NAME)[-1]["step"] == step
    assert main([*words_of(root, out), "--resume"]) == 0
    same(whole, out)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(root, whole, tmp_path):
    out = tmp_path / "run"
    command = ["env", "CUDA_VISIBLE_DEVICES=", sys.executable, "-c", DIE_IN_STEP_3]
    command += words_of(root, out)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / CHECKPOINT_FILE).exists()
    assert len(read_log(out / LOG_NAME)) == 3
    assert main([*words_of(root, out), "--resume", "--no-tensorboard"]) == 0
    same(whole, out)


def test_a_run_that_has_ended_says_so(root, whole, capsys):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert main([*words_of(root, whole), "--resume", "--no-tensorboard"]) == 0
    assert f"this run has taken all its {STEPS} steps" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


@pytest.fixture
def usual_handlers():
    """Put signals back that a library of another test handles in this process, as Ray does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_a_step_ends_it_first(number, root, tmp_path, monkeypatch):
    true_take = Stepper.take

    def take(stepper, batches, *, step, rate):
        if step == 2:
            signal.raise_signal(number)
        return true_take(stepper, batches, step=step, rate=rate)

    monkeypatch.setattr(Stepper, "take", take)
    words = words_of(root, tmp_path / "run")
    assert main([*words, "train.workers=0", "--no-tensorboard"]) == 128 + number
    assert load_checkpoint(tmp_path / "run")["step"] == 3
    assert read_log(tmp_path / "run" / LOG_NAME)[-1]["step"] == 3
