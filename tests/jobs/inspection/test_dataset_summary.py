"""What is told of a split, compared with its samples."""

import json
import re
import shutil

import numpy as np
import pytest

from gopstream.jobs.inspection.dataset_summary import (
    dataset_summary,
    distribution,
    even_edges,
    histogram,
)
from gopstream.shards.errors import ShardError
from gopstream.shards.reader import ShardDataset
from inspection_cases import HOSTILE_LABEL, make_dataset, make_failed_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("summary"))


@pytest.fixture(scope="module")
def failed_root(tmp_path_factory):
    return make_failed_dataset(tmp_path_factory.mktemp("failed"))


def told_lines(text):
    """Return what stands behind the words of each line that two spaces end."""
    lines = [line.rstrip() for line in text.splitlines() if line]
    return dict(re.split(" {2,}|$", line, maxsplit=1) for line in lines)


def test_counts_are_those_of_the_samples(root):
    dataset = ShardDataset(root, "train")
    text, content = dataset_summary(dataset)
    assert content["samples"] == len(dataset) == 4
    assert content["classes"] == {"move": 2, HOSTILE_LABEL: 2}
    assert content["unlabelled"] == 0
    lengths = [dataset.sample(number).num_frames for number in range(4)]
    assert content["frames"]["mean"] == np.mean(lengths)
    assert sum(content["frames"]["histogram"]["counts"]) == 4
    assert content["fps"] == {"25": 4}
    assert content["sizes"] == {"64x64": 4}
    assert content["codecs"] == {"h264": 4}
    assert content["exactness"] == {"exact": 4}
    assert content["failures"] == {"reasons": {}, "rows": []}
    assert HOSTILE_LABEL in text
    assert content == json.loads(json.dumps(content, allow_nan=False))


def test_motion_is_the_mean_of_the_samples_vectors(root):
    dataset = ShardDataset(root, "train")
    means = []
    for number in range(len(dataset)):
        window = dataset.read_motion(number, 0, dataset.sample(number).num_frames - 1)
        vectors = window.motion[window.coverage == 1]
        means.append(np.hypot(vectors[:, 0], vectors[:, 1]).mean() / 4)
    content = dataset_summary(dataset).content["mean_motion_pixels"]
    assert content["known"] == 4
    assert content["median"] == pytest.approx(np.median(means), abs=1e-5)
    edges = [*content["histogram"]["edges"], np.inf]
    assert content["histogram"]["counts"] == np.histogram(means, edges)[0].tolist()


def test_failures_are_counted_by_reason(failed_root):
    text, content = dataset_summary(ShardDataset(failed_root, "train"))
    assert (content["samples"], content["videos"], content["failed"]) == (1, 2, 1)
    (reason,) = content["failures"]["reasons"]
    assert content["failures"]["reasons"][reason] == 1
    (row,) = content["failures"]["rows"]
    assert reason == f"{row['stage']}: {row['error']}"
    assert row["source"].startswith("broken")
    assert f"failed: {row['source']}: {row['stage']}: {row['message']}" in text
    assert content["unlabelled"] == 1
    assert "without a label" in text


def test_of_a_shard_without_samples_the_failures_are_told(failed_root):
    text, content = dataset_summary(ShardDataset(failed_root, "train"), shards=["000009"])
    told = told_lines(text)
    assert told["shard"].endswith("train/000009")
    assert told["samples"] == "none"
    assert told["failed"] == "of the split train, 1 of 2 videos failed"
    assert "failed: broken" in text
    assert len(content["failures"]["rows"]) == 1


def test_one_of_something_has_no_plural_and_shares_are_percentages(failed_root):
    told = told_lines(dataset_summary(ShardDataset(failed_root, "train")).text)
    assert told["samples"].startswith("1 in 2 shards, of 2 videos; 1 failed")
    assert told["without a label"] == "1 sample"
    assert re.fullmatch(r"\d+\.\d% / .* \(least, median, most\)", told["blocks predicted"])


def test_what_a_failure_says_is_text(failed_root, tmp_path):
    root = shutil.copytree(failed_root, tmp_path / "shards")
    path = root / "train" / "failures.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({name: "\x1b[31m" for name in row}) + "\n")
    text = dataset_summary(ShardDataset(root, "train")).text
    assert "\x1b" not in text
    assert "failed: \\x1b[31m: \\x1b[31m: \\x1b[31m" in text


def test_of_some_shards_only_their_samples_count(root):
    dataset = ShardDataset(root, "train")
    record = dataset.manifest.shards[1]
    text, content = dataset_summary(dataset, shards=[record.name])
    assert told_lines(text)["shard"].endswith(f"train/{record.name}")
    own = ShardDataset(root, "train", shards=[record.name])
    assert content["samples"] == len(own) == record.num_samples < len(dataset)
    assert content["classes"] == dict(
        zip(own.classes, np.bincount(own.labels, minlength=2), strict=True)
    )
    assert content["bytes"] == sum(file.num_bytes for file in record.files.values())
    assert "failures" not in content
    assert "videos" not in content
    none = dataset_summary(dataset, shards=[])
    assert none.content["samples"] == none.content["bytes"] == 0
    assert none.content["frames"]["median"] is None
    assert told_lines(none.text)["samples"] == "none"


def test_a_missing_table_of_failures_is_named(failed_root, tmp_path):
    root = shutil.copytree(failed_root, tmp_path / "shards")
    (root / "train" / "failures.jsonl").unlink()
    with pytest.raises(ShardError, match=r"train: failures\.jsonl is missing"):
        dataset_summary(ShardDataset(root, "train"))


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([], [0]),
        ([0, 0], [0]),
        ([3, 9], list(range(10))),
        ([12], [0, 2, 4, 6, 8, 10, 12]),
        ([280], [0, 50, 100, 150, 200, 250]),
        ([999], list(range(0, 1000, 100))),
    ],
)
def test_bins_begin_at_round_numbers(values, edges):
    assert even_edges(np.array(values, float)) == edges


def test_a_histogram_s_last_bin_has_no_end():
    counts = histogram(np.array([0, 0.5, 1, 2, 99.0]), [0, 1, 2])["counts"]
    assert counts == [2, 1, 2]


def test_a_distribution_has_its_ends_and_middles():
    assert distribution(np.array([4.0, 1, 1])) == {
        "known": 3,
        "minimum": 1,
        "median": 1,
        "mean": 2,
        "maximum": 4,
    }
