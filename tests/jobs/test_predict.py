"""A video gets the probabilities that evaluation gives it, and a bad one ends nothing."""

import json
import shutil
import sys
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from gopstream.jobs.build_shard import settings_of
from gopstream.jobs.deploy_commands import predict as predict_command
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.labels import LabelSet
from gopstream.jobs.network import clip_spec, run_network
from gopstream.jobs.predict import extraction_options, predict
from gopstream.jobs.predictions import (
    FailedVideo,
    PredictedVideo,
    Predictions,
    predictions_summary,
)
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.trained_run import load_trained
from gopstream.models.catalogue import find_model
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards import ShardDataset, View, view_batches
from untrained import recipe_of, write_checkpoint

OPTIONS = ExtractionOptions(
    canonical=CanonicalFormat(short_side=48, crf=24, gop=10), quality=80, segment_frames=20
)
NATIVE = ExtractionOptions(
    mode="native", canonical=CanonicalFormat(short_side=48), planes=("frames", "motion")
)
CLASSES = {"": ("left", "right")}
VERBS_AND_NOUNS = {"verb_class": ("open", "close"), "noun_class": ("door", "tap", "lid")}
INTERRUPTED = '''
import os
import tempfile
from torch import nn

class Interrupted(nn.Module):
    """A person presses Ctrl-C while it works."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, clip):
        raise KeyboardInterrupt(os.listdir(tempfile.gettempdir()))

def make(*, num_classes, num_frames):
    return Interrupted()
'''


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """A folder of two classes: three short videos, and one of three segments."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("left", "right"):
        (folder / name).mkdir()
    write_video(folder / "left" / "a.mp4", 18, width=80, height=64, velocity=(-3, 0), seed=1)
    write_video(folder / "left" / "long.mp4", 45, width=80, height=64, velocity=(-2, 1), seed=2)
    write_video(folder / "right" / "b.mp4", 20, width=64, height=80, velocity=(3, 0), seed=3)
    write_video(folder / "right" / "c.mp4", 12, width=64, height=64, velocity=(4, 0), seed=4)
    return folder


@pytest.fixture(scope="module")
def dataset(videos, tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    shard_folder(videos, root, options=OPTIONS, split="val")
    return root


@pytest.fixture(scope="module")
def checkpoint(dataset, tmp_path_factory):
    """A DVT that takes motion, tested by six views."""
    folder = tmp_path_factory.mktemp("run")
    recipe = recipe_of("dvt_tiny", test={"views": "2x3"}, transform={"flip": 0.5})
    settings = ShardDataset(dataset, "val").facts.settings
    write_checkpoint(folder / "checkpoint.pt", recipe, CLASSES, settings=settings)
    return folder


@pytest.fixture(scope="module")
def given(videos, tmp_path_factory):
    """Good and bad videos by what they are."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "link.mp4").symlink_to(videos / "left" / "a.mp4")
    (folder / "text.mp4").write_text("no video at all\n")
    return {
        "long": videos / "left" / "long.mp4",
        "missing": folder / "missing.mp4",
        "a": videos / "left" / "a.mp4",
        "text": folder / "text.mp4",
        "folder": folder,
        "b": videos / "right" / "b.mp4",
        "address": "https://host.invalid/video.mp4",
        "link": folder / "link.mp4",
        "again": videos / "left" / "a.mp4",
    }


@pytest.fixture(scope="module")
def found(checkpoint, given):
    """What is predicted of each."""
    result = predict(checkpoint, [str(path) for path in given.values()], workers=2)
    assert [video.video for video in result.videos] == [str(path) for path in given.values()]
    assert (result.mode, result.views, result.average) == ("canonical", "2x3", "probabilities")
    assert result.num_failed == 4
    return dict(zip(given, result.videos, strict=True))


def evaluated(checkpoint, dataset, out):
    """Return the probabilities that evaluation gives each sample of a video, in their order."""
    evaluate(checkpoint, dataset, split="val", out=out, predictions="jsonl")
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    by_source = {}
    for row in sorted(rows, key=lambda row: row["key"]):
        shares = dict(zip(row["top5"], row["probabilities"], strict=True))
        by_source.setdefault(row["source"], []).append([shares[name] for name in CLASSES[""]])
    return by_source


def test_a_video_gets_the_probabilities_that_evaluation_gives_it(
    found, checkpoint, dataset, tmp_path
):
    wanted = evaluated(checkpoint, dataset, tmp_path / "results")
    for name, source in (("a", "left/a.mp4"), ("b", "right/b.mp4")):
        assert (found[name].num_segments, found[name].num_views) == (1, 6)
        np.testing.assert_allclose(found[name].probabilities, wanted[source], rtol=0, atol=1e-6)
    assert abs(wanted["left/a.mp4"][0][0] - wanted["right/b.mp4"][0][0]) > 1e-5
    # Each segment is a sample of evaluation; a prediction is their mean.
    segments = np.array(wanted["left/long.mp4"])
    assert segments.shape == (3, 2)
    long = found["long"]
    assert (long.num_segments, long.num_views, long.num_frames) == (3, 18, 45)
    np.testing.assert_allclose(long.probabilities[0], segments.mean(axis=0), rtol=0, atol=1e-6)


def test_the_same_video_by_another_name_or_again_gets_the_same(found):
    for name in ("link", "again"):
        np.testing.assert_array_equal(found[name].probabilities, found["a"].probabilities)


def test_bad_videos_are_said_in_their_places(found):
    for name, stage, message in (
        ("missing", "open", "no such file"),
        ("text", "probe", "text.mp4"),
        ("folder", "open", "is a folder; give the files in it"),
        ("address", "open", "predict reads local files: download it first"),
    ):
        assert isinstance(found[name], FailedVideo)
        assert found[name].stage == stage
        assert message in found[name].message


@torch.no_grad()
def test_logits_of_label_sets_are_averaged_view_by_view(dataset, videos, tmp_path):
    """And a network that takes the residual between frames gets it."""
    recipe = recipe_of(
        "dvt_tiny",
        {"cue": "residual"},
        test={"views": "2x1", "average": "logits"},
        train={"label_sets": list(VERBS_AND_NOUNS)},
    )
    data = ShardDataset(dataset, "val")
    write_checkpoint(
        tmp_path / "checkpoint.pt", recipe, VERBS_AND_NOUNS, settings=data.facts.settings
    )
    (found,) = predict(tmp_path, [str(videos / "left" / "long.mp4")]).videos

    network = load_trained(tmp_path).network
    contract = find_model("dvt_tiny").contract
    rows = []
    for sample in range(len(data)):
        if data.read_json(sample)["source"]["name"] != "left/long.mp4":
            continue
        for view in (View(0, 2, 0, 1), View(1, 2, 0, 1)):
            batches = view_batches(data, clip_spec(recipe, network), batch_size=1, views=[view])
            batch = next(one for place, one in enumerate(batches) if place == sample)
            rows.append(run_network(network, batch, contract=contract)[0].double().cpu().numpy())
    assert len(rows) == found.num_views == 6
    mean = sum(rows) / 6
    for part, got in zip((mean[:2], mean[2:]), found.probabilities, strict=True):
        np.testing.assert_allclose(got, np.exp(part) / np.exp(part).sum(), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def native_checkpoint(tmp_path_factory):
    """A network of frames alone, trained on native videos."""
    folder = tmp_path_factory.mktemp("native")
    recipe = recipe_of("video_focalnet_tiny")
    write_checkpoint(folder / "checkpoint.pt", recipe, CLASSES, settings=settings_of(NATIVE))
    return folder


@pytest.fixture(scope="module")
def hevc(tmp_path_factory, write_video):
    path = tmp_path_factory.mktemp("hevc") / "hevc.mp4"
    return write_video(path, 12, width=96, height=64, codec="libx265")


def test_the_command_says_what_each_video_shows_and_which_is_bad(
    native_checkpoint, hevc, videos, tmp_path, monkeypatch, capsys
):
    (tmp_path / "work").mkdir()
    shutil.copy(videos / "left" / "a.mp4", tmp_path / "a: b.mp4")
    monkeypatch.chdir(tmp_path / "work")
    words = [str(hevc), "../a: b.mp4", "nowhere.mp4"]
    how = {"checkpoint": native_checkpoint, "top": 1, "json_file": "said.json"}
    assert predict_command(*words, **how) == 1
    said = capsys.readouterr()
    assert "warning" not in said.err
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{hevc}: not predicted (decode): hevc.mp4: hevc has no motion")
    assert lines[1] == "../a: b.mp4: 18 frames in 1 segment, 1 view"
    assert lines[2].split()[1] in CLASSES[""]
    assert lines[3].startswith("  warning: B-frames")
    assert lines[4:] == ["nowhere.mp4: not predicted (open): no such file"]
    content = json.loads((tmp_path / "work" / "said.json").read_text())
    assert (content["mode"], content["views"]) == ("native", "1x1")
    bad, good, missing = content["videos"]
    assert (bad["stage"], missing["error"]) == ("decode", "FileNotFoundError")
    assert [len(labels["top"]) for labels in good["label_sets"]] == [1]


def test_another_mode_is_used_with_a_warning(native_checkpoint, hevc, capsys):
    how = {"checkpoint": native_checkpoint, "mode": "canonical", "views": "2x1"}
    assert predict_command(str(hevc), **how) == 0
    said = capsys.readouterr()
    assert "trained on native videos and is given a canonical one: --mode canonical" in said.err
    assert said.out.startswith(f"{hevc}: 12 frames in 1 segment, 2 views")


def test_settings_are_those_of_the_training_data():
    options = replace(OPTIONS, planes=("frames", "motion"))
    settings = json.loads(json.dumps(settings_of(options)))
    how = {"mode": None, "with_residual": False, "where": "run"}
    assert extraction_options(settings, **how) == options
    with_residual = extraction_options(settings, **how | {"with_residual": True})
    assert with_residual == replace(options, planes=("frames", "motion", "residual"))
    native = extraction_options(settings, **how | {"mode": "native"})
    assert native == replace(options, mode="native")
    fast = replace(NATIVE, fps=5.0)
    assert extraction_options(settings_of(fast), **how) == fast


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, r"run: does not say how .* \(mode, short_side, quality, segment_frames missing\)"),
        ({"mode": "canonical", "short_side": 64}, r"\(quality, segment_frames, crf, gop missing\)"),
        (settings_of(OPTIONS) | {"sharpness": 3}, "run: settings .* made with sharpness"),
        (settings_of(OPTIONS) | {"mode": "novel"}, "run: settings .* mode must be canonical or"),
        (settings_of(OPTIONS) | {"quality": "high"}, "run: settings of its training data"),
    ],
)
def test_settings_that_cannot_be_used_are_said(settings, message):
    with pytest.raises(UserError, match=message):
        extraction_options(settings, mode=None, with_residual=False, where="run")


def test_nothing_is_left_after_an_interrupt(videos, tmp_path, monkeypatch):
    (tmp_path / "interrupted_network.py").write_text(INTERRUPTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "interrupted_network", raising=False)
    recipe = recipe_of("interrupted_network:make")
    write_checkpoint(tmp_path / "checkpoint.pt", recipe, CLASSES, settings=settings_of(NATIVE))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(KeyboardInterrupt) as stopped:
        predict(tmp_path, [str(videos / "right" / "c.mp4")])
    assert stopped.value.args[0]
    assert not list((tmp_path / "temporary").iterdir())


def test_the_command_refuses_what_cannot_be_meant(native_checkpoint, tmp_path):
    with pytest.raises(UserError, match="--top must be above 0, got 0"):
        predict_command("a.mp4", checkpoint=native_checkpoint, top=0)
    with pytest.raises(UserError, match="expected views as clips x crops"):
        predict_command("a.mp4", checkpoint=native_checkpoint, views="many")
    with pytest.raises(UserError, match="no checkpoint"):
        predict_command("a.mp4", checkpoint=tmp_path)


def predictions_of(*probabilities, sets):
    video = PredictedVideo(
        video="a.mp4",
        num_frames=40,
        num_segments=2,
        num_views=6,
        probabilities=tuple(map(np.array, probabilities)),
        warnings=("one damaged frame",),
    )
    label_sets = tuple(LabelSet(name, classes) for name, classes in sets.items())
    return Predictions(label_sets, "canonical", "3x1", "probabilities", (video,))


def test_the_likeliest_classes_come_first():
    shares = [0.1, 0.25, 0.4, 0.25]
    predictions = predictions_of(shares, sets={"": ("a", "b", "c", "d")})
    summary = predictions_summary(predictions, top=3)
    assert summary.text.splitlines() == [
        "a.mp4: 40 frames in 2 segments, 6 views",
        "   40.00%  c",
        "   25.00%  b",
        "   25.00%  d",
        "  warning: one damaged frame",
    ]
    (row,) = summary.content["videos"]
    assert row["label_sets"][0]["top"][0] == {"class": "c", "probability": 0.4}
    assert "actions" not in row
    assert (
        len(predictions_summary(predictions, top=99).content["videos"][0]["label_sets"][0]["top"])
        == 4
    )


def test_the_likeliest_actions_are_those_of_all_combinations():
    rng = np.random.default_rng(4)
    verbs, nouns = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(9))
    sets = {
        "verb_class": tuple(f"v{i}" for i in range(7)),
        "noun_class": tuple(f"n{i}" for i in range(9)),
    }
    summary = predictions_summary(predictions_of(verbs, nouns, sets=sets), top=5)
    (row,) = summary.content["videos"]
    table = {(f"v{i}", f"n{j}"): verbs[i] * nouns[j] for i in range(7) for j in range(9)}
    wanted = sorted(table.items(), key=lambda item: -item[1])[:5]
    assert [tuple(action["classes"]) for action in row["actions"]] == [pair for pair, _ in wanted]
    np.testing.assert_allclose(
        [action["probability"] for action in row["actions"]], [share for _, share in wanted]
    )
    best = " ".join(wanted[0][0])
    assert summary.text.splitlines()[13:15] == ["  action", f"  {wanted[0][1]:7.2%}  {best}"]
