"""Version 1 stays readable for ever: a shard made once, and a reader that is not ours."""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gopstream.pipeline.jpeg import decode_frame
from gopstream.shards import ShardDataset
from gopstream.shards.verify import verify_split

GOLDEN = Path(__file__).parents[1] / "data" / "golden_shard"
READER = Path(__file__).parents[2] / "docs" / "read_shard.py"
KEYS = ["train-00000000", "train-00000001"]


@pytest.fixture(scope="module")
def hashes():
    return json.loads((GOLDEN / "hashes.json").read_text())


def test_the_files_are_those_that_were_committed(hashes):
    found = {
        path.relative_to(GOLDEN).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in GOLDEN.rglob("*")
        if path.is_file() and path.name != "hashes.json"
    }
    assert found == hashes["files"]


def test_all_of_it_is_smaller_than_200_kb():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*")) < 200_000


def test_verify_rebuilds_every_frame():
    assert list(verify_split(GOLDEN, "train", rebuild=True)) == []


@pytest.mark.parametrize("key", KEYS)
def test_the_reader_without_gopstream_decodes_the_same_planes(hashes, key):
    command = [sys.executable, READER, GOLDEN / "train" / "000000.tar", key]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == hashes["planes"][key]


def test_the_reader_begins_with_the_first_sample(hashes):
    command = [sys.executable, READER, GOLDEN / "train" / "000000.tar"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == hashes["planes"][KEYS[0]]


def test_the_reader_is_short_and_does_not_need_gopstream():
    source = READER.read_text()
    assert len(source.splitlines()) <= 60
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy", "zstandard", "PIL"}


def line(name, values):
    digest = hashlib.sha256(values.tobytes()).hexdigest()
    return f"{name} {values.shape} {values.dtype.str} {digest}"


@pytest.mark.parametrize("position", [0, 1])
def test_gopstream_reads_the_same_planes(hashes, position):
    dataset = ShardDataset(GOLDEN, "train")
    assert dataset.keys == KEYS
    window = dataset.read_motion(position, 0, 13)
    jpegs = dataset.read_jpegs(position, np.arange(5))
    exceptions = dataset.read_json(position, residual=True)["exceptions"]
    signed = dataset.read_residual(position, 0, 13).view(np.int8).astype("<i2")
    starts, widths = (0, 48 * 32, 48 * 32 * 5 // 4), (48, 24, 24)
    for frame, plane, y, x, value in exceptions:
        signed[frame, starts[plane] + y * widths[plane] + x] = value
    assert len(exceptions) > 0
    assert {
        line("frames", np.stack([decode_frame(jpeg) for jpeg in jpegs])),
        line("motion", window.motion),
        line("coverage", window.coverage),
        line("residual", signed),
        line("exceptions", np.array(exceptions, "<i4")),
    } == set(hashes["planes"][KEYS[position]])
