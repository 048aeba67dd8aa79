"""'gopstream train' and 'evaluate': datasets that do not fit, and datasets at an address."""

import json

import pytest

from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos

STEPS = ("train.steps=2", "train.batch_size=4", "train.warmup_steps=0", "train.log_every=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos of 64 pixels, as dvt_tiny_demo asks."""
    folder = tmp_path_factory.mktemp("commands")
    write_demo_videos(folder, split="train", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "train"), "--out", str(folder / "set"), "--short-side", "64"]
    assert main([*words, "--planes", "frames,motion", "--workers", "1"]) == 0
    return folder / "set"


def train(data, out, *words):
    return main(["train", "dvt_tiny_demo", *STEPS, "--data", str(data), "--out", str(out), *words])


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    assert train(root, out) == 0
    return out


def test_a_dataset_that_does_not_fit_is_refused_before_anything_is_written(root, tmp_path, capsys):
    assert train(root, tmp_path / "run", "data.short_side=128", "data.fps=15") == 1
    err = capsys.readouterr().err
    assert f"{root} does not fit the recipe:" in err
    assert "a short side of at most 64 pixels, the recipe needs 128" in err
    assert "gopstream shard VIDEOS --out OTHER --short-side 128 --fps 15" in err
    assert not (tmp_path / "run").exists()


def test_a_missing_plane_is_named_with_the_command_that_adds_it(root, tmp_path, capsys):
    assert train(root, tmp_path / "run", 'data.planes=["residual"]') == 1
    assert f"planes add {root} residual --videos VIDEOS" in capsys.readouterr().err


def test_force_trains_on_it_all_the_same(run, root, tmp_path, capsys):
    assert train(root, tmp_path / "run", "data.short_side=128", "--force") == 0
    assert "warning: " in capsys.readouterr().err
    assert losses(tmp_path / "run") == losses(run)


def test_evaluate_asks_the_checkpoints_recipe(root, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(root, out, "data.fps=15", "--force") == 0
    words = ["evaluate", str(out), "--data", str(root), "--split", "train"]
    assert main(words) == 1
    assert "it stores every frame, the recipe needs 15 frames per second" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_a_bucket_trains_the_same_as_a_disk(run, root, tmp_path, s3):
    for path in root.rglob("*"):
        if path.is_file():
            s3.put(f"set/{path.relative_to(root)}", path.read_bytes())
    words = ["--endpoint", s3.proxy.url, "--region", "us-east-1", "--patience", "20"]
    data = f"{s3.url}/set"
    assert train(data, tmp_path / "run", *words) == 0
    assert losses(tmp_path / "run") == losses(run)
    reports = []
    for place, options in ((root, []), (data, words)):
        reports.append(tmp_path / f"{len(reports)}.json")
        command = ["evaluate", str(run), "--data", str(place), "--split", "train", *options]
        assert main([*command, "--json", str(reports[-1])]) == 0
    assert reports[0].read_text() == reports[1].read_text()
    assert json.loads(reports[0].read_text())["samples"] == 8


def test_an_address_of_an_unknown_kind_is_one_line(tmp_path, capsys):
    assert train("ftp://host/set", tmp_path / "run") == 1
    err = capsys.readouterr().err
    assert "ftp://host/set" in err
    assert err.count("\n") == 1
