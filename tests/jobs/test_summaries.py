from gopstream.jobs.preprocess import SplitOutcome
from gopstream.jobs.summaries import fact_table, megabytes, render, shard_summary
from gopstream.shards.dataset_files import FileRecord, Manifest, ShardRecord


def test_shard_summary_counts_and_names_failures():
    files = {"000000.tar": FileRecord(1_500_000, "")}
    manifest = Manifest("train", (ShardRecord("000000", 3, files),), {"a": 3}, 4, 1)
    failure = {"source": "x [1].mp4", "stage": "probe", "message": "no video [here]"}
    text, content = shard_summary([SplitOutcome(manifest, (failure,))])
    assert "train: 3 of 4 videos became 3 samples in 1 shards, 1.5 MB" in text
    assert "failed: x [1].mp4: probe: no video [here]" in text
    assert content["samples"] == 3
    assert content["splits"]["train"] == {
        "videos": 4,
        "failures": [failure],
        "samples": 3,
        "shards": 1,
        "bytes": 1_500_000,
    }


def test_long_lines_are_not_cut():
    assert render("x" * 500) == "x" * 500
    assert render("[bold]as it is[/bold]") == "[bold]as it is[/bold]"


def test_facts_and_sizes():
    assert render(fact_table({"name": 3})).split() == ["name", "3"]
    assert megabytes(1_234_567_890) == "1,234.6 MB"
