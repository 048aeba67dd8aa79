"""What 'gopstream evaluate --out' leaves on disk."""

import csv
import json

import pyarrow.parquet
import pytest

from gopstream.jobs.cli import main
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.evaluation import results_folder
from gopstream.jobs.evaluation.results_folder import check_results_folder
from gopstream.shards import ShardDataset


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    make_checkpoint(path, "dvt_tiny_demo", ("train.batch_size=4",))
    return path


@pytest.fixture(scope="module")
def evaluated(checkpoint, root, tmp_path_factory):
    """(folder, result), with Parquet, into a folder whose parent is new too."""
    out = tmp_path_factory.mktemp("out") / "new" / "set"
    return out, evaluate(checkpoint, root, out=out)


def test_predictions_name_video_label_and_guesses(evaluated, root):
    out, result = evaluated
    rows = pyarrow.parquet.read_table(out / "predictions.parquet").to_pylist()
    dataset = ShardDataset(root, "val")
    assert [row["key"] for row in rows] == dataset.keys
    # The splits' videos are in an order of their own: a label is the folder of its source.
    assert sorted(row["source"] for row in rows) == [
        "circle/0.mp4",
        "circle/3.mp4",
        "left/1.mp4",
        "left/4.mp4",
        "right/2.mp4",
    ]
    for row in rows:
        assert row["source"].startswith(row["label"] + "/")
        assert sorted(row["top5"]) == ["circle", "left", "right"]
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
        assert sum(row["probabilities"]) == pytest.approx(1.0)
    hits = sum(row["top5"][0] == row["label"] for row in rows)
    assert result["top1"] == hits / 5


def test_confusion_is_a_table_with_names(evaluated):
    out, result = evaluated
    rows = list(csv.reader((out / "confusion.csv").open()))
    assert rows[0] == ["label", "circle", "left", "right"]
    assert [row[0] for row in rows[1:]] == ["circle", "left", "right"]
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == result["confusion"]


def test_the_summary_has_the_scores_and_what_they_are_of(evaluated, root):
    out, result = evaluated
    summary = json.loads((out / "summary.json").read_text())
    assert summary.items() >= result.items()
    assert summary["complete"] is True
    assert summary["model"] == "dvt_tiny"
    assert summary["dataset"] == str(root)
    assert summary["checkpoint_step"] == 1


def test_an_earlier_evaluation_is_replaced_whole(checkpoint, root, tmp_path):
    evaluate(checkpoint, root, out=tmp_path / "set")
    evaluate(checkpoint, root, out=tmp_path / "set", predictions="jsonl", views="2x1")
    names = sorted(path.name for path in (tmp_path / "set").iterdir())
    assert names == ["confusion.csv", "predictions.jsonl", "summary.json"]
    assert json.loads((tmp_path / "set" / "summary.json").read_text())["views"] == "2x1"


def test_an_interrupted_evaluation_says_so_and_can_be_replaced(
    checkpoint, root, tmp_path, monkeypatch
):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(results_folder, "_write_confusion", interrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluate(checkpoint, root, out=tmp_path / "set")
    assert json.loads((tmp_path / "set" / "summary.json").read_text())["complete"] is False
    evaluate(checkpoint, root, out=tmp_path / "set")
    assert json.loads((tmp_path / "set" / "summary.json").read_text())["complete"] is True


@pytest.mark.parametrize(
    "content",
    [{"notes.txt": "mine"}, {"summary.json": '{"format": "mine"}'}, {"summary.json": "["}],
)
def test_a_folder_with_other_things_is_refused_before_anything_is_read(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="holds no evaluation of gopstream; choose another"):
        evaluate(tmp_path / "no.pt", tmp_path / "no", out=tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == content


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is not empty and holds no evaluation"):
        check_results_folder(tmp_path / "file")


def test_a_form_without_a_folder_is_refused(tmp_path, capsys):
    words = ["evaluate", str(tmp_path), "--data", str(tmp_path), "--predictions", "jsonl"]
    assert main(words) == 1
    assert "give --out DIR" in capsys.readouterr().err


def test_without_pyarrow_predictions_are_json_lines(monkeypatch, tmp_path):
    """They can be written without it; asked for, Parquet is refused."""
    monkeypatch.setattr(results_folder, "find_spec", lambda name: None)
    assert results_folder.predictions_form(tmp_path, None) == "jsonl"
    with pytest.raises(UserError, match="needs pyarrow"):
        results_folder.predictions_form(tmp_path, "parquet")


def test_a_missing_table_of_samples_is_said(checkpoint, root, tmp_path, capsys):
    """The samples are read from the tars; their sources are in the table alone."""
    copied = tmp_path / "set"
    for path in root.rglob("*"):
        if path.is_file() and path.name != "samples.parquet":
            target = copied / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    evaluate(checkpoint, copied, out=tmp_path / "out", predictions="jsonl")
    assert "the predictions name no source videos" in capsys.readouterr().err
    rows = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert {json.loads(row)["source"] for row in rows} == {None}
