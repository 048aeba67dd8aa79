import json
import re
import shutil
import subprocess
import sys

import pytest

import gopstream
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos

COMMANDS = (
    "bench extract",
    "bench load",
    "conformance",
    "demo",
    "evaluate",
    "export",
    "extract",
    "info",
    "inspect",
    "merge",
    "models",
    "planes add",
    "planes drop",
    "predict",
    "relabel",
    "remove",
    "scan",
    "shard",
    "train",
    "verify",
    "view",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_demo_videos(folder, split="val", videos_per_class=1, seed=1, num_frames=24, size=64)
    return folder / "val"


def shard_words(videos, root):
    return ["shard", str(videos), "--out", str(root), "--short-side", "64", "--workers", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory, videos):
    root = tmp_path_factory.mktemp("dataset") / "set"
    assert main([*shard_words(videos, root), "--limit", "2"]) == 0
    return root


def run(capsys, *words):
    """Return (exit code, standard output, standard error)."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    return (code, *capsys.readouterr())


def test_help_lists_the_commands(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    listed = re.findall(r"^\W{0,3}([a-z]+) {2,}\S", out, re.MULTILINE)
    assert sorted(listed) == sorted({command.split()[0] for command in COMMANDS})


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example(capsys, command):
    code, out, _ = run(capsys, *command.split(), "--help")
    assert code == 0
    assert f"Example: gopstream {command}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shard", "v", "--out", "o", "--short-sied", "3"], "--short-side"),
        (["verfy", "x"], '"verify"'),
        (["models", "--jsn", "-"], "--json"),
        (["shard", "v", "--out", "o", "--quality", "high"], "quality"),
        (["shard", "v"], "--out"),
        (["shard", "v", "--out", "o", "--mode", "exact"], "--mode"),
        (["extract", "v.mp4"], "--out"),
        (["extract", "v.mp4", "--out", "o", "--format", "npz"], "--format"),
    ],
)
def test_wrong_usage(capsys, words, said):
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_failures_are_one_line(capsys, root, tmp_path):
    cases = {
        "no such folder": ["shard", tmp_path / "gone", "--out", tmp_path / "o"],
        "not a dataset": ["verify", tmp_path],
        "no split 'x'": ["verify", root, "--split", "x"],
        "no such file": ["info", tmp_path / "gone.mp4"],
        "no checkpoint": ["evaluate", tmp_path, "--data", root],
        "did you mean 'dvt_tiny_demo'": ["train", "dvt_tiny_dem", "--data", root],
        "no model is called": ["models", "resnet"],
        "ftp://": ["verify", "ftp://bucket/set"],
    }
    for said, words in cases.items():
        code, out, err = run(capsys, *words)
        assert (code, out) == (1, ""), words
        assert said in err
        assert err.startswith("gopstream: ")
        assert err.count("\n") == 1


def test_bucket_and_empty_folder_write_nothing(capsys, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, err = run(capsys, *shard_words(empty, tmp_path / "set"))
    assert code == 1
    assert "no videos" in err
    code, _, err = run(capsys, *shard_words(videos, "ftp://bucket/set"))
    assert code == 1
    assert "ftp://bucket/set" in err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("options", [["--quality", "0"], ["--limit", "0"], ["--planes", "sound"]])
def test_impossible_settings(capsys, videos, tmp_path, options):
    code, _, err = run(capsys, *shard_words(videos, tmp_path / "set"), *options)
    assert code == 1
    assert "Traceback" not in err
    assert "--debug" not in err
    assert not (tmp_path / "set").exists()


def test_json_on_standard_output_alone(capsys, videos, root, tmp_path):
    for words in (
        [*shard_words(videos, root), "--limit", "2"],
        ["verify", root],
        ["info", root],
        ["info", videos / "zoom_in" / "0000.mp4"],
        ["models"],
    ):
        code, out, _ = run(capsys, *words, "--json", "-")
        assert code == 0
        assert isinstance(json.loads(out), dict)
    code, out, _ = run(capsys, "info", root, "--json", tmp_path / "info.json")
    assert "train" in out
    assert json.loads((tmp_path / "info.json").read_text())["splits"]["train"]["samples"] == 2


def test_verify(capsys, root, tmp_path):
    code, out, _ = run(capsys, "verify", root, "--rebuild")
    assert (code, out.strip()) == (0, "1 split, 2 shards, 2 samples: no faults")
    damaged = shutil.copytree(root, tmp_path / "set")
    tar = damaged / "train" / "000001.tar"
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    code, out, err = run(capsys, "verify", damaged)
    assert code == 1
    assert ": 1 fault\n" in out
    assert "train/000001.tar train-00000001: train-00000001.frames.mjpeg: bytes differ" in err


def test_a_list_without_labels_is_told_so(capsys, videos, tmp_path):
    (one, *_) = sorted(videos.iterdir())
    words = shard_words(one, tmp_path / "set")
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out.endswith("\ntrain: no classes: labels are -1\n")
    code, out, _ = run(capsys, *words, "--json", "-")
    assert code == 0
    assert json.loads(out)["samples"] == 1
    code, out, _ = run(capsys, *shard_words(videos, tmp_path / "other"), "--limit", "1")
    assert code == 0
    assert "no classes" not in out


def test_shards_of_original_streams(capsys, videos, tmp_path):
    """Native mode stores frames and motion by default; residual on request, where it is exact."""
    words = ["--limit", "2", "--mode", "native"]
    code, _, _ = run(capsys, *shard_words(videos, tmp_path / "set"), *words)
    assert code == 0
    code, out, _ = run(capsys, "info", tmp_path / "set", "--json", "-")
    content = json.loads(out)
    assert content["planes"] == ["frames", "motion"]
    assert content["settings"]["mode"] == "native"
    assert "crf" not in content["settings"]
    code, out, _ = run(capsys, "verify", tmp_path / "set")
    assert (code, out.strip()) == (0, "1 split, 2 shards, 2 samples: no faults")


def test_a_dataset_of_one_mode_takes_no_shards_of_the_other(capsys, videos, root):
    words = ["--limit", "2", "--mode", "native", "--planes", "frames,motion,residual"]
    code, _, err = run(capsys, *shard_words(videos, root), *words)
    assert code == 1
    assert "was made with" in err
    assert run(capsys, "verify", root)[0] == 0


def test_traceback_only_with_debug(capsys, tmp_path):
    assert "Traceback" not in run(capsys, "verify", tmp_path)[2]
    assert "Traceback" in run(capsys, "verify", tmp_path, "--debug")[2]


def test_version_of_the_module():
    command = [sys.executable, "-m", "gopstream", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == gopstream.__version__
