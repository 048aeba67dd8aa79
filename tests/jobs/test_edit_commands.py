"""What the commands that change a dataset print, report and refuse."""

import json
import shutil

import pytest
from cyclopts import App

from gopstream.jobs.edit_commands import planes, relabel, remove
from gopstream.jobs.errors import UserError
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.errors import SettingsError
from gopstream.shards.reader import ShardDataset
from gopstream.shards.verify import verify_split


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_video):
    videos = tmp_path_factory.mktemp("videos")
    for number, label in enumerate(("left", "right")):
        (videos / label).mkdir()
        write_video(videos / label / f"{number}.mp4", 11, seed=number)
    root = tmp_path_factory.mktemp("made") / "set"
    options = ExtractionOptions(canonical=CanonicalFormat(gop=10), segment_frames=20)
    shard_folder(videos, root, options=options, choice=PlanChoice(videos_per_shard=1))
    return root


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


@pytest.fixture
def run(capsys):
    """Return a function that runs a command and returns its JSON."""
    app = App()
    for command in (remove, relabel, planes):
        app.command(command)

    def run(*words):
        capsys.readouterr()
        code = app(
            [*map(str, words), "--json", "-"], exit_on_error=False, result_action="return_value"
        )
        assert code == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_remove_takes_several_keys(root, run):
    keys = ShardDataset(root, "train").keys
    words = [word for key in keys for word in ("--key", key)]
    result = run("remove", root, *words)
    assert result["keys"] == sorted(keys)
    assert result["shards"] == {"train": ["000000", "000001"]}
    assert list(verify_split(root, "train")) == []
    assert run("remove", root, *words)["keys"] == []


def test_remove_takes_sources(root, run):
    result = run("remove", root, "--source", "left/0.mp4")
    assert len(result["keys"]) == 1
    assert result["sources"] == {"train": ["left/0.mp4"]}


def test_remove_says_what_was_done(root, capsys):
    assert remove(str(root), source=["left/0.mp4"]) == 0
    said = capsys.readouterr().out
    assert "1 samples removed, 1 shards written again\n" in said
    assert "1 videos will be left out by --append and --retry-failed\n" in said
    assert remove(str(root), source=["left/0.mp4"]) == 0
    assert capsys.readouterr().out == "they were removed before\n"


def test_planes_of_ones_own_come_and_go(root, run, tmp_path):
    (tmp_path / "captions").mkdir()
    for key in ShardDataset(root, "train").keys:
        (tmp_path / "captions" / f"{key}.txt").write_text(key)
    result = run("planes", "add", root, "captions", "--from", tmp_path / "captions")
    assert (result["members"], result["missing"], result["unused"]) == (2, 0, [])
    assert result["shards"] == 2
    assert run("planes", "drop", root, "captions")["deleted"] == 2
    assert run("planes", "drop", root, "captions")["deleted"] == 0
    assert list(verify_split(root, "train")) == []


def test_dropping_what_is_not_there_says_so(root, capsys):
    assert planes(["drop", str(root), "flow"], result_action="return_value") == 0
    assert capsys.readouterr().out == "there is no plane flow; nothing to drop\n"
    with pytest.raises(SettingsError, match="1 to 32"):
        planes(["drop", str(root), "Flow"], exit_on_error=False)


def test_what_cannot_be_meant_is_refused(root, tmp_path):
    for words, said in (
        (["add", "captions"], "needs --from"),
        (["add", "captions", "--videos", "x"], "needs --from"),
        (["add", "captions", "--from", str(tmp_path), "--split", "val"], "no split 'val'"),
        (["add", "residual", "--from", str(tmp_path)], "needs --videos"),
    ):
        command, plane, *more = words
        with pytest.raises(UserError, match=said):
            planes([command, str(root), plane, *more], exit_on_error=False)
    with pytest.raises(SettingsError, match="main tars"):
        planes(["drop", str(root), "frames"], exit_on_error=False)


def test_relabel_counts_classes(root, run, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("class,label\nleft,west\nright,\n")
    result = run("relabel", root, "--name", "compass", "--labels", path)
    assert result == {"train": {"kept": 1, "left_out": 1, "class_counts": {"west": 1}}}
    assert (root / "labels" / "compass.json").is_file()
