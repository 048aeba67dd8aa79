"""What a run logs is there once, whatever happened to it."""

import json
import math
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="TensorBoard's writer is torch's")

from gopstream.jobs.errors import UserError  # noqa: E402
from gopstream.jobs.training.run_logs import open_logs, read_log, tag_of  # noqa: E402

ROWS = [
    {"kind": "train", "step": 10, "loss": 2.5, "clips_per_second": 40.0},
    {"kind": "validation", "step": 10, "top1": 0.25},
    {"kind": "train", "step": 20, "loss": 2.25, "clips_per_second": 41.0},
    {"kind": "train", "step": 30, "loss": 2.0, "clips_per_second": 42.0},
]


def make_logs(out, **options):
    defaults = {"tensorboard": False, "wandb": None, "resumed_step": None, "settings": {"rate": 1}}
    return open_logs(out, name="a run", **(defaults | options))


def write_rows(out, rows=ROWS, **options):
    with make_logs(out, **options) as logs:
        for row in rows:
            logs.write(row)


def rows_of(out):
    return read_log(out / "log.jsonl")


def shown_scalars(out):
    """Return what TensorBoard shows: by tag (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_rows_are_lines_of_json_and_there_as_soon_as_written(tmp_path):
    with make_logs(tmp_path) as logs:
        for number, row in enumerate(ROWS, start=1):
            logs.write(row)
            lines = (tmp_path / "log.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in lines] == ROWS[:number]
    assert rows_of(tmp_path) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize("resumed_step", [0, 10, 15, 20, 30])
def test_a_run_that_continues_has_each_step_once(tmp_path, resumed_step):
    write_rows(tmp_path)
    rest = [row for row in ROWS if row["step"] > resumed_step]
    write_rows(tmp_path, rest, resumed_step=resumed_step)
    assert rows_of(tmp_path) == ROWS


def test_a_run_that_begins_anew_has_its_own_rows_alone(tmp_path):
    write_rows(tmp_path)
    write_rows(tmp_path, ROWS[:1])
    assert rows_of(tmp_path) == ROWS[:1]


@pytest.mark.parametrize("torn", ['{"kind": "train", "st', '{"kind": "train", "step": 40}'])
def test_a_line_that_was_not_written_whole_is_cut(tmp_path, torn):
    write_rows(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write(torn)
    assert rows_of(tmp_path) == ROWS
    more = {"kind": "train", "step": 50, "loss": 1.0}
    write_rows(tmp_path, [more], resumed_step=45)
    assert rows_of(tmp_path) == [*ROWS, more]


def test_rows_of_before_an_error_are_there(tmp_path):
    with pytest.raises(RuntimeError, match="the run broke"), make_logs(tmp_path) as logs:
        logs.write(ROWS[0])
        raise RuntimeError("the run broke")
    assert rows_of(tmp_path) == ROWS[:1]


def test_all_ranks_know_what_was_validated_and_the_first_alone_writes(tmp_path):
    write_rows(tmp_path)
    for active in (False, True):
        with make_logs(tmp_path, resumed_step=20, active=active, tensorboard=True) as logs:
            assert [logs.has_validation(step) for step in (10, 20)] == [True, False]
            if not active:
                logs.write(ROWS[3])
                assert rows_of(tmp_path) == ROWS
                assert not (tmp_path / "tensorboard").exists()
    assert rows_of(tmp_path) == ROWS[:3]
    with make_logs(tmp_path, resumed_step=5) as logs:
        assert not logs.has_validation(10)


@pytest.mark.parametrize("active", [True, False])
def test_the_best_validation_is_that_of_all_since_the_run_began(tmp_path, active):
    write_rows(tmp_path)
    with make_logs(tmp_path, resumed_step=30, active=active) as logs:
        assert (logs.best("top1"), logs.best("top5")) == (0.25, -math.inf)
        logs.write({"kind": "validation", "step": 40, "top1": 0.5})
        logs.write({"kind": "validation", "step": 50, "top1": 0.375})
        assert (logs.best("top1"), logs.has_validation(50)) == (0.5, True)
    with make_logs(tmp_path, active=active) as logs:
        assert logs.best("top1") == -math.inf


@pytest.mark.parametrize(
    "row",
    [{"kind": "test", "step": 1}, {"step": 1}, {"kind": "train"}, {"kind": "train", "step": "1"}],
)
def test_rows_without_a_place_are_refused(tmp_path, row):
    for active in (True, False):
        logs = make_logs(tmp_path, active=active)
        with logs, pytest.raises(ValueError, match="needs a step and a kind, one of train, valid"):
            logs.write(row)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("no JSON\n", "line 1 is not JSON"), ('{"loss": 1}\n', "line 1 is no row"), (None, "no such")],
)
def test_what_is_no_log_is_said(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(UserError, match=f"log.jsonl: .*{problem}"):
        rows_of(tmp_path)


def test_numbers_are_grouped():
    assert tag_of("loss", kind="train") == "train/loss"
    assert tag_of("top1", kind="validation") == "validation/top1"
    assert tag_of("clips_per_second", kind="train") == "speed/clips_per_second"
    assert tag_of("learning_rate", kind="train") == "optimiser/learning_rate"


def test_tensorboard_shows_the_same_numbers_once(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    write_rows(tmp_path, tensorboard=True)
    assert shown_scalars(tmp_path) == {
        "train/loss": [(10, 2.5), (20, 2.25), (30, 2.0)],
        "speed/clips_per_second": [(10, 40.0), (20, 41.0), (30, 42.0)],
        "validation/top1": [(10, 0.25)],
    }
    again = [{"kind": "train", "step": step, "loss": 1.5} for step in (20, 30)]
    write_rows(tmp_path, again, tensorboard=True, resumed_step=10)
    shown = shown_scalars(tmp_path)
    assert shown["train/loss"] == [(10, 2.5), (20, 1.5), (30, 1.5)]
    assert shown["validation/top1"] == [(10, 0.25)]


def test_tensorboard_needs_no_tensorflow(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    code = (
        "import sys; sys.modules['tensorflow'] = None; from pathlib import Path\n"
        "from gopstream.jobs.training.run_logs import open_logs\n"
        "with open_logs(Path(sys.argv[1]), tensorboard=True, wandb=None, name='', "
        "resumed_step=None, settings={}) as logs:\n"
        "    logs.write({'kind': 'train', 'step': 1, 'loss': 1.0})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shown_scalars(tmp_path) == {"train/loss": [(1, 1.0)]}


@pytest.mark.parametrize(
    ("package", "options", "extra"),
    [
        ("wandb", {"wandb": "a project"}, "wandb"),
        ("torch.utils.tensorboard.writer", {"tensorboard": True}, "train"),
    ],
)
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, package, options, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'gopstream\[{extra}\]'"):
        make_logs(tmp_path, **options)


def test_wandb_without_a_network_keeps_the_run_and_continues_it(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write_rows(tmp_path, ROWS[:2], wandb="a-project")
    known = json.loads((tmp_path / "wandb.json").read_text())
    assert known["project"] == "a-project"
    seen = []
    monkeypatch.setattr(wandb.Run, "log", lambda self, row: seen.append((self.id, row)))
    write_rows(tmp_path, ROWS[2:3], wandb="a-project", resumed_step=10)
    write_rows(tmp_path, ROWS[:1], wandb="a-project")
    (first, row), (other, _) = seen
    assert first == known["id"] != other
    assert row == {"train/loss": 2.25, "speed/clips_per_second": 41.0, "step": 20}
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 3
