"""What a run saves, keeps and measures on its way."""

import pytest
import torch

from gopstream.jobs.bench.training_kill_runs import wrong_parts
from gopstream.jobs.checkpoint import BEST_FILE, CHECKPOINT_FILE, load_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.train import Watching, train
from gopstream.jobs.training.run_logs import LOG_NAME, RunLogs, read_log

# Two steps are an epoch.
SHORT = (
    "train.steps=7",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "train.ema=0.9",
    "schedule.warmup_steps=0",
    "model.name=pst_tiny",
    "model.options.head_dropout=0.2",
)
VALIDATED = (*SHORT, "train.validate_epochs=1", 'test.split="train"')


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    """On a GPU two runs need not have the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos."""
    folder = tmp_path_factory.mktemp("loop")
    write_demo_videos(folder, split="train", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "train"), "--out", str(folder / "set"), "--short-side", "64"]
    assert main([*words, "--workers", "1"]) == 0
    return folder / "set"


def run(root, out, words, *, resume=False):
    recipe = load_recipe("dvt_tiny_demo", words)
    return train(recipe, root, out=out, resume=resume, watching=Watching(tensorboard=False))


@pytest.fixture(scope="module")
def plain(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    run(root, out, SHORT)
    return out


@pytest.fixture(scope="module")
def validated(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("validated") / "run"
    run(root, out, VALIDATED)
    return out


def rows_of(out, kind):
    return [row for row in read_log(out / LOG_NAME) if row["kind"] == kind]


def steps_of(out):
    """Return the step of each checkpoint, by file name."""
    return {path.name: load_checkpoint(path)["step"] for path in sorted(out.glob("*.pt"))}


def test_checkpoints_are_kept_under_their_steps(plain):
    names = {"checkpoint-00000003.pt": 3, "checkpoint-00000006.pt": 6, "checkpoint.pt": 7}
    assert steps_of(plain) == names


@pytest.mark.parametrize(("keep", "kept"), [(1, [7]), (2, [6, 7])])
def test_only_so_many_are_kept(root, tmp_path, keep, kept):
    run(root, tmp_path / "run", [*SHORT, "train.checkpoint_every=2", f"train.keep={keep}"])
    assert sorted(steps_of(tmp_path / "run").values()) == kept


def test_an_older_checkpoint_is_one_to_go_on_from(root, plain, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in ("recipe.json", LOG_NAME):
        (out / name).write_bytes((plain / name).read_bytes())
    (out / CHECKPOINT_FILE).write_bytes((plain / "checkpoint-00000003.pt").read_bytes())
    run(root, out, SHORT, resume=True)
    assert wrong_parts(plain, out) == []
    losses = [[row["loss"] for row in rows_of(each, "train")] for each in (plain, out)]
    assert losses[0] == losses[1]


def test_a_run_is_measured_each_epoch_and_at_its_end(validated):
    rows = rows_of(validated, "validation")
    assert [row["step"] for row in rows] == [2, 4, 6, 7]
    assert [row["epoch"] for row in rows] == [1.0, 2.0, 3.0, 3.5]
    assert all(0 <= row["top1"] <= row["top5"] <= 1 for row in rows)
    assert all(row["loss"] > 0 for row in rows)


def test_each_measurement_has_its_checkpoint_and_the_best_is_kept(validated):
    rows = rows_of(validated, "validation")
    best = max(rows, key=lambda row: (row["top1"], -row["step"]))
    assert steps_of(validated)[BEST_FILE] == best["step"]
    assert steps_of(validated)[CHECKPOINT_FILE] == 7


def test_measuring_changes_nothing_of_what_is_learnt(plain, validated):
    one, other = (load_checkpoint(out) for out in (plain, validated))
    for part in ("model", "ema"):
        for name, value in one[part].items():
            assert torch.equal(other[part][name], value), name
    losses = [[row["loss"] for row in rows_of(out, "train")] for out in (plain, validated)]
    assert losses[0] == losses[1]


def test_a_run_that_ended_while_it_was_measured_is_measured_again(root, validated, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in ("recipe.json", CHECKPOINT_FILE):
        (out / name).write_bytes((validated / name).read_bytes())
    lines = (validated / LOG_NAME).read_text().splitlines(keepends=True)
    (out / LOG_NAME).write_text("".join(lines[:-1]))
    assert rows_of(out, "validation")[-1]["step"] == 6
    run(root, out, VALIDATED, resume=True)
    assert rows_of(out, "validation") == rows_of(validated, "validation")


class Killed(BaseException):
    """Nothing in a run catches it."""


def test_a_run_that_is_killed_between_best_and_its_row_is_measured_again(
    root, validated, tmp_path, monkeypatch
):
    """Were the row there first, the checkpoint would never be named the best."""
    out, true_write = tmp_path / "run", RunLogs.write

    def write(logs, row):
        if row["kind"] == "validation":
            raise Killed
        true_write(logs, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunLogs, "write", write)
        with pytest.raises(Killed):
            run(root, out, VALIDATED)
    assert steps_of(out) == {BEST_FILE: 2, CHECKPOINT_FILE: 2}
    assert rows_of(out, "validation") == []
    run(root, out, VALIDATED, resume=True)
    assert rows_of(out, "validation") == rows_of(validated, "validation")
    assert steps_of(out)[BEST_FILE] == steps_of(validated)[BEST_FILE]
    assert list(out.glob(".*")) == []


def test_the_average_is_what_is_measured(root, tmp_path):
    """An average that never leaves the first weights is measured the same after each step."""
    still = [*VALIDATED, "train.ema=0.9999999999", "train.learning_rate=0.05"]
    run(root, tmp_path / "run", still)
    losses = [row["loss"] for row in rows_of(tmp_path / "run", "validation")]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    trained = [row["loss"] for row in rows_of(tmp_path / "run", "train")]
    assert max(trained) - min(trained) > 0.1


def test_a_split_of_other_classes_or_none_is_refused(root, tmp_path):
    words = [*SHORT, "train.validate_epochs=1", 'test.split="other"']
    with pytest.raises(Exception, match="other"):
        run(root, tmp_path / "run", words)
    assert not (tmp_path / "run").exists()


def test_a_run_on_a_dataset_that_has_grown_is_refused(root, plain, tmp_path):
    """Its length in epochs would be another."""
    out = tmp_path / "run"
    out.mkdir()
    for name in ("recipe.json", LOG_NAME):
        (out / name).write_bytes((plain / name).read_bytes())
    content = load_checkpoint(plain) | {"steps": 14}
    torch.save(content, out / CHECKPOINT_FILE)
    with pytest.raises(UserError, match="is a run of 14 steps, the dataset as it is now gives 7"):
        run(root, out, SHORT, resume=True)
