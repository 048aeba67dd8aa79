import pickle

import pytest
import torch

from gopstream.jobs import evaluate as job
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluate import _scores, evaluate, parse_views
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, dataset): two steps on eight videos."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_demo_videos(folder, split="val", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "val"), "--out", str(folder / "set"), "--split", "val"]
    assert main([*words, "--short-side", "64", "--workers", "1"]) == 0
    overrides = ("train.steps=6", "train.batch_size=4", "train.split=val", "train.warmup_steps=0")
    recipe = load_recipe("dvt_tiny_demo", overrides)
    train(recipe, folder / "set", out=folder / "run")
    return folder / "run", folder / "set"


def test_scores_by_hand():
    ranks = torch.tensor(
        [
            [6.0, 5, 4, 3, 2, 1],  # label 0: first
            [6.0, 5, 4, 3, 2, 1],  # label 0: first
            [6.0, 5, 4, 3, 2, 1],  # label 1: second
            [6.0, 5, 4, 3, 2, 1],  # label 5: sixth, out of the top 5
        ]
    )
    result = _scores(ranks, torch.tensor([0, 0, 1, 5]), tuple("abcdef"))
    assert result["top1"] == pytest.approx(2 / 4)
    assert result["top5"] == pytest.approx(3 / 4)
    assert result["per_class"] == {"a": 1.0, "b": 0.0, "f": 0.0}
    assert result["mean_class_accuracy"] == pytest.approx(1 / 3)
    assert result["samples"] == 4
    assert result["chance"] == pytest.approx(1 / 6)


def test_views():
    views = parse_views("2x3")
    assert len(views) == len(set(views)) == 6


@pytest.mark.parametrize("text", ["", "3", "0x1", "1x0", "-1x1", "axb", "1x2x3", "1 x 2"])
def test_malformed_views(text):
    with pytest.raises(UserError, match="clips x crops, such as 4x3"):
        parse_views(text)


def test_views_are_averaged(trained):
    run, root = trained
    result = evaluate(run, root, views="2x3")
    assert result["samples"] == 8
    assert result["views"] == "2x3"
    assert 0 <= result["top1"] <= result["top5"] <= 1
    assert evaluate(run / "checkpoint.pt", root, views="2x3") == result


def test_zero_motion_changes_the_logits(trained, monkeypatch):
    seen = []
    true_run = job.run_network

    def spy(network, batch, *, contract):
        logits = true_run(network, batch, contract=contract)
        seen.append((batch, logits))
        return logits

    monkeypatch.setattr(job, "run_network", spy)
    evaluate(*trained)
    half = len(seen)
    evaluate(*trained, zero_motion=True)
    for (batch, logits), (still, other) in zip(seen[:half], seen[half:], strict=True):
        assert batch.keys == still.keys
        assert torch.equal(batch.frames, still.frames)
        assert batch.motion.abs().max() > 0
        assert still.motion.abs().max() == 0
        assert still.valid.all()
        assert not torch.equal(logits, other)


class _Harmful:
    def __reduce__(self):
        return (print, ("unpickled!",))


def test_pickled_objects_are_refused(trained, tmp_path, capsys):
    torch.save({"version": 1, "model": _Harmful()}, tmp_path / "object.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Harmful()))
    for name in ("object.pt", "plain.pt"):
        with pytest.raises(UserError, match=f"{name}: not a readable checkpoint"):
            evaluate(tmp_path / name, trained[1])
    assert "unpickled" not in capsys.readouterr().out


def test_other_files_are_refused(trained, tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt: not a checkpoint of this gopstream"):
        evaluate(tmp_path / "other.pt", trained[1])
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate(tmp_path, trained[1])
