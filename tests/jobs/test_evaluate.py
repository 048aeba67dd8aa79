import pickle

import pytest
import torch

from gopstream.jobs import evaluate as job
from gopstream.jobs.checkpoint import CHECKPOINT_VERSION, save_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.evaluation import run_views as core
from gopstream.jobs.network import build_network
from gopstream.jobs.recipe import load_recipe, recipe_content
from gopstream.shards import ShardDataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, dataset): a network as it was drawn, for eight videos."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_demo_videos(folder, split="val", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "val"), "--out", str(folder / "set"), "--split", "val"]
    assert main([*words, "--short-side", "64", "--workers", "1"]) == 0
    recipe = load_recipe("dvt_tiny_demo", ("train.batch_size=4", "train.workers=1"))
    dataset = ShardDataset(folder / "set", "val")
    torch.manual_seed(0)
    content = {
        "model": build_network(recipe, len(dataset.classes)).state_dict(),
        "ema": None,
        "step": 6,
        "steps": 6,
        "recipe": recipe_content(recipe),
        "sets": [["", list(dataset.classes)]],
        "settings": dict(dataset.facts.settings),
        "split": "train",
    }
    (folder / "run").mkdir()
    save_checkpoint(folder / "run" / "checkpoint.pt", content)
    return folder / "run", folder / "set"


def test_views_are_averaged(trained):
    run, root = trained
    result = evaluate(run, root, views="2x3")
    assert result["samples"] == 8
    assert result["views"] == "2x3"
    assert 0 <= result["top1"] <= result["top5"] <= 1
    assert evaluate(run / "checkpoint.pt", root, views="2x3") == result


def test_the_recipe_says_split_views_and_workers_unless_they_are_given(trained, monkeypatch):
    lookings = []
    true_run = job.run_views

    def spy(*arguments, looking, **options):
        lookings.append(looking)
        return true_run(*arguments, looking=looking, **options)

    monkeypatch.setattr(job, "run_views", spy)
    result = evaluate(*trained)
    assert (result["split"], result["views"], result["average"]) == ("val", "1x1", "probabilities")
    evaluate(*trained, workers=0, views="3x1")
    assert [(each.workers, len(each.views)) for each in lookings] == [(1, 1), (0, 3)]


@pytest.mark.parametrize("views", ["3", "0x1", "4 x 3", ""])
def test_malformed_views_are_refused(trained, capsys, views):
    run, root = trained
    assert main(["evaluate", str(run), "--data", str(root), "--views", views]) == 1
    assert "expected views as clips x crops, such as 4x3" in capsys.readouterr().err


def test_an_unknown_split_is_refused(trained, capsys):
    run, root = trained
    assert main(["evaluate", str(run), "--data", str(root), "--split", "test"]) == 1
    assert "test" in capsys.readouterr().err


def test_zero_motion_changes_the_logits(trained, monkeypatch):
    seen = []
    true_inputs = core.network_inputs

    def spy(network, batch, *, contract):
        frames, inputs = true_inputs(network, batch, contract=contract)
        seen.append((batch, network(frames, **inputs)))
        return frames, inputs

    monkeypatch.setattr(core, "network_inputs", spy)
    evaluate(*trained)
    half = len(seen)
    evaluate(*trained, zero_motion=True)
    assert half == 2
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
    torch.save({"version": CHECKPOINT_VERSION, "model": _Harmful()}, tmp_path / "object.pt")
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
