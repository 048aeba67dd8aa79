"""Several processes measure the same as one, to the last bit."""

import json
import subprocess
import sys

import pytest

from gopstream.jobs.cli import main


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, tmp_path_factory):
    """Calls of two samples, in two views: three of them for five samples."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    make_checkpoint(path, "dvt_tiny_demo", ("train.batch_size=4", "test.views=2x1"))
    return path


def words(checkpoint, root, out):
    report = ["--json", str(out / "result.json"), "--predictions", "jsonl"]
    return ["evaluate", str(checkpoint), "--data", str(root), "--out", str(out / "set"), *report]


def contents(out):
    return {
        path.name: path.read_bytes() for path in [out / "result.json", *(out / "set").iterdir()]
    }


def test_two_processes_measure_the_same_as_one(checkpoint, root, tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert main(words(checkpoint, root, tmp_path / "one")) == 0
    said = capsys.readouterr().out
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    command += ["--nproc-per-node", "2", sys.executable, "-m", "gopstream"]
    done = subprocess.run(
        [*command, *words(checkpoint, root, tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == said, "one process speaks"
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert set(one) == {"result.json", "predictions.jsonl", "confusion.csv", "summary.json"}
    result = json.loads(one["result.json"])
    assert (result["samples"], result["skipped"]) == (5, 0)
    keys = [json.loads(line)["key"] for line in one["predictions.jsonl"].splitlines()]
    assert len(set(keys)) == 5
