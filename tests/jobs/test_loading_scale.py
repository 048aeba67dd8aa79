"""A small share of the proof that millions of samples open in little memory."""

import subprocess
import sys

import numpy as np
import pytest

from gopstream.jobs.bench import loading_scale
from gopstream.shards.reader import ShardDataset

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale") / "set"
    facts = loading_scale.make_split(folder, samples=1000, shards=12, index_files=3)
    return folder, facts


def test_the_split_is_one_that_the_reader_reads(split):
    folder, facts = split
    dataset = ShardDataset(folder, "train")
    assert len(dataset) == facts["samples"] == 84 * 12
    assert (facts["shards"], facts["frames_per_sample"]) == (12, 252)
    first = dataset.read_jpegs(0, np.arange(0, 252, 50))
    for sample in (1, 83, 84, 500, 1007):
        assert dataset.sample(sample).num_frames == 252
        assert dataset.read_jpegs(sample, np.arange(0, 252, 50)) == first
        assert dataset.read_motion(sample, 20, 30).motion.any()
    assert len(set(dataset.keys)) == 3 * 84
    inodes = {path.stat().st_ino for path in (folder / "train").glob("*.index.npz")}
    assert len(inodes) == 3
    assert not list((folder / "train").glob("*held*"))


def test_the_loader_of_the_proof_opens_it(split):
    code = "import sys; from gopstream.jobs.bench import loading_scale_runs as runs; "
    code += "runs.BATCHES = 1; runs.WORKERS = 1; runs.open_split(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(split[0])], input="end\n", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert '"open_seconds"' in done.stdout


def test_memory_is_that_of_a_process_and_its_children():
    waits = "print('{}', flush=True); sys.stdin.readline()"
    fork = "import os; pid = os.fork(); block = b'x' * (40 << 20); "
    alone = loading_scale.measure(waits)["settled_mib"]
    forked = loading_scale.measure(
        fork + "time = __import__('time'); pid or (time.sleep(60) or os._exit(0)); "
        "time.sleep(0.5); " + waits.replace("readline()", "readline(); os.kill(pid, 9)")
    )
    grown = forked["settled_mib"]["Pss_Anon"] - alone["Pss_Anon"]
    assert 79 < grown < 100
    assert forked["peak_mib"]["Pss"] >= forked["settled_mib"]["Pss"]


def test_a_process_that_fails_is_no_measurement():
    with pytest.raises(RuntimeError, match="ended without a result"):
        loading_scale.measure("sys.exit(3)")


def test_limits_are_kept_by_name():
    row = {"seconds_to_the_first_batch": 10.0, "grown_mib": {"peak_mib": 300.0}}
    assert loading_scale.failures(row) == []
    row = {"seconds_to_the_first_batch": 10.1, "grown_mib": {"peak_mib": 300.1}}
    assert loading_scale.failures(row) == [
        "the first batch came after 10.1 seconds",
        "the processes take 300.1 MiB more",
    ]
