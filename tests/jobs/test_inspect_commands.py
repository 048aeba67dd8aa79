"""'gopstream inspect' from a dataset and a checkpoint to pictures on the disk."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from gopstream.jobs.checkpoint import save_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.recipe import load_recipe
from gopstream.shards.reader import ShardDataset
from untrained import write_checkpoint


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos of 64 pixels, one of each class."""
    folder = tmp_path_factory.mktemp("inspect")
    write_demo_videos(folder, split="val", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "val"), "--out", str(folder / "set"), "--split", "val"]
    assert main([*words, "--short-side", "64", "--workers", "1"]) == 0
    return folder / "set"


@pytest.fixture(scope="module")
def checkpoint_of(root, tmp_path_factory):
    """Return a function: a checkpoint of a model with fresh weights, in the demo's recipe."""

    def make(name, *options):
        recipe = load_recipe("dvt_tiny_demo", (f"model.name={name}", *options))
        classes = list(ShardDataset(root, "val").classes)
        path = tmp_path_factory.mktemp(name) / "checkpoint.pt"
        write_checkpoint(path, recipe, {"": classes})
        return path

    return make


def run(root, checkpoint, out, *words):
    return main(["inspect", str(root), "--checkpoint", str(checkpoint), "--png", str(out), *words])


@pytest.mark.parametrize(
    ("name", "options", "files"),
    [
        ("dvt_tiny", [], {"grad_cam", "sampled_points"}),
        ("dvt_tiny", ["model.options.cue=residual"], {"grad_cam", "sampled_points"}),
        (
            "dvt_tiny",
            ["clip.frames_on=device", "clip.motion_on=device"],
            {"grad_cam", "sampled_points"},
        ),
        ("dvt_tiny", ["model.use_motion=false"], {"grad_cam", "sampled_points"}),
        ("video_focalnet_tiny", [], {"grad_cam", "modulators_in_space", "modulators_in_time"}),
        ("sifa_net_tiny", [], {"grad_cam", "motion_saliency", "attention_points"}),
        ("sifa_swin_tiny", [], {"grad_cam", "motion_saliency", "attention_points"}),
        ("pst_tiny", [], {"grad_cam"}),
    ],
)
def test_pictures_are_written_and_named(
    root, checkpoint_of, tmp_path, capsys, name, options, files
):
    assert run(root, checkpoint_of(name, *options), tmp_path / "looks") == 0
    written = {path.stem: path for path in (tmp_path / "looks").iterdir()}
    assert set(written) == files
    out = capsys.readouterr().out
    for path in written.values():
        assert f"{path}: " in out
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture).std() > 10


def test_the_report_says_what_the_network_takes_the_clip_for(root, checkpoint_of, tmp_path):
    """The same as 'gopstream evaluate' finds, of a key that is not the first."""
    checkpoint, report = checkpoint_of("dvt_tiny"), tmp_path / "report.json"
    dataset = ShardDataset(root, "val")
    assert run(root, checkpoint, tmp_path, "--key", dataset.keys[5], "--json", str(report)) == 0
    content = json.loads(report.read_text())
    assert content["key"] == dataset.keys[5]
    assert content["label"] == dataset.classes[int(dataset.labels[5])]
    assert [picture["shows"] for picture in content["pictures"]] == [
        "Grad-CAM",
        "sampled points over frames",
    ]
    weights = np.array(content["pictures"][1]["weights"])  # frames, heads, points
    np.testing.assert_allclose(weights.sum(axis=(0, 2)), 1, atol=1e-6)
    evaluate(checkpoint, root, out=tmp_path / "evaluated", predictions="jsonl")
    lines = (tmp_path / "evaluated" / "predictions.jsonl").read_text().splitlines()
    row = json.loads(lines[5])
    assert row["key"] == dataset.keys[5]
    assert content["predicted"] == row["top5"][0]
    assert content["probability"] == pytest.approx(row["probabilities"][0], abs=1e-5)


def test_the_motion_of_the_clip_decides_where_points_lie(root, checkpoint_of, tmp_path):
    places = []
    for options in ([], ["model.use_motion=false"]):
        checkpoint, report = checkpoint_of("dvt_tiny", *options), tmp_path / "report.json"
        assert run(root, checkpoint, tmp_path, "--json", str(report)) == 0
        places.append(json.loads(report.read_text())["pictures"][1]["places"])
    assert not np.allclose(*places, atol=1e-3)


def test_query_frame_and_block_are_those_of_the_command(root, checkpoint_of, tmp_path):
    report = tmp_path / "report.json"
    words = ["--query", "3,20.5", "--frame", "1", "--block", "0", "--json", str(report)]
    assert run(root, checkpoint_of("dvt_tiny"), tmp_path, *words) == 0
    points = json.loads(report.read_text())["pictures"][1]
    assert (points["query"], points["query_frame"], points["block"]) == ([2, 22], 0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--key", "val-0000001"], "has no sample 'val-0000001' (did you mean 'val-0000000"),
        (["--query", "3"], "--query must be X,Y in pixels, such as 16,20, got '3'"),
        (["--query", "40,3"], "--query must lie in the clip's frames of 32 x 32 pixels"),
        (["--block", "2"], "--block must be 0 to 1, got 2"),
        (["--frame", "8"], "--frame must be 0 to 7, got 8"),
        (["--split", "test"], "test"),
        (["--on-error", "skip"], "here there is one clip"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    root, checkpoint_of, tmp_path, capsys, words, message
):
    out = tmp_path / "looks"
    assert run(root, checkpoint_of("dvt_tiny"), out, *words) == 1
    err = capsys.readouterr().err
    assert message in err.replace("\n", " ")
    assert not out.exists()


def test_a_checkpoint_of_other_classes_is_refused(root, checkpoint_of, tmp_path, capsys):
    path = checkpoint_of("dvt_tiny")
    content = torch.load(path, weights_only=True)
    save_checkpoint(path, content | {"sets": [["", [f"walk {number}" for number in range(8)]]]})
    assert run(root, path, tmp_path / "looks") == 1
    assert "was trained on other classes" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["--checkpoint", "--png"])
def test_without_a_checkpoint_or_a_folder_it_is_a_wrong_usage(root, tmp_path, capsys, missing):
    given = {"--checkpoint": str(tmp_path), "--png": str(tmp_path / "looks")}
    words = [word for name, value in given.items() if name != missing for word in (name, value)]
    assert main(["inspect", str(root), *words]) == 2
    assert missing in capsys.readouterr().err
