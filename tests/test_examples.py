"""The loops of docs/examples run, and resume where they stopped."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
LIBRARY = {"loop_plain": "torch", "loop_lightning": "lightning", "loop_huggingface": "transformers"}


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_video):
    """Seven videos of two classes: three batches of two in an epoch."""
    folder = tmp_path_factory.mktemp("examples")
    for number in range(7):
        name = ("left", "right")[number % 2]
        (folder / "videos" / name).mkdir(parents=True, exist_ok=True)
        velocity = (-3 if name == "left" else 3, 1)
        path = folder / "videos" / name / f"{number}.mp4"
        write_video(path, 20, width=96, height=64, velocity=velocity, seed=number)
    options = ExtractionOptions(canonical=CanonicalFormat(gop=10), planes=("frames", "motion"))
    shard_folder(
        folder / "videos", folder / "set", options=options, choice=PlanChoice(videos_per_shard=3)
    )
    return str(folder / "set")


def load(name):
    pytest.importorskip(
        LIBRARY[name], reason=f"{LIBRARY[name]} is not installed: pip install 'gopstream[test]'"
    )
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_example_is_known():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(LIBRARY)


def test_an_example_runs_as_a_program(root, tmp_path):
    load("loop_plain")
    words = [root, "--steps", "2", "--workers", "1", "--resume-at", "1"]
    command = [sys.executable, str(EXAMPLES / "loop_plain.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["step 1", "step 2"]


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_an_example_explains_its_arguments(name, monkeypatch, capsys):
    example = load(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit):
        example.read_arguments()
    told = capsys.readouterr().out
    assert f"python {name}.py demo/shards --steps" in told
    assert "folder or address" in told
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    with pytest.raises(SystemExit, match="2"):
        example.read_arguments()
    assert "dataset" in capsys.readouterr().err


@pytest.mark.parametrize("resume_at", [1, 3, 4])  # within an epoch, at its end, in the next
def test_the_plain_loop_resumes_exactly(root, resume_at):
    example = load("loop_plain")
    whole = example.main(root, 7)
    assert len(set(whole)) == 7
    assert example.main(root, 7, resume_at=resume_at) == whole
    assert example.main(root, 7, workers=2) == whole


@pytest.mark.parametrize("name", ["loop_lightning", "loop_huggingface"])
def test_a_library_resumes_exactly(name, root, tmp_path):
    example = load(name)
    stop_at = 4  # in the second epoch
    whole = example.main(root, 7, out=tmp_path / "whole")
    assert len(set(whole)) == 7
    first = example.main(root, stop_at, out=tmp_path / "part")
    held = {
        "loop_lightning": tmp_path / "part" / "last.ckpt",
        "loop_huggingface": tmp_path / "part" / f"checkpoint-{stop_at}",
    }
    rest = example.main(root, 7, out=tmp_path / "rest", resume=held[name])
    assert first == whole[:stop_at]
    assert rest == whole[stop_at:]


def test_the_trainer_counts_epochs_as_the_loader_does(root, tmp_path):
    example = load("loop_huggingface")

    def epochs(out):
        history = json.loads((out / "checkpoint-7" / "trainer_state.json").read_text())
        return [entry["epoch"] for entry in history["log_history"] if "loss" in entry]

    example.main(root, 7, out=tmp_path / "whole")
    example.main(root, 4, out=tmp_path / "part")
    example.main(root, 7, out=tmp_path / "rest", resume=tmp_path / "part" / "checkpoint-4")
    shown = [2, 4, 6, 7 + 2, 7 + 4, 7 + 6, 14 + 2]
    assert epochs(tmp_path / "whole") == pytest.approx([count / 7 for count in shown])
    assert epochs(tmp_path / "rest") == epochs(tmp_path / "whole")
