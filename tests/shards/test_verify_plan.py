"""Plan, reports, tables, records and manifest tell one story; each contradiction is a fault."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from gopstream.shards.layout import dump_json
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.verify import verify_split


def faults_of(root):
    return list(verify_split(root, "train"))


def edit_json(path, **changes):
    path.write_bytes(dump_json(json.loads(path.read_bytes()) | changes))


def test_an_early_plan_without_records_of_files_is_read(own_root):
    """The first form listed each video, and shards had no files.json."""
    folder = own_root / "train"
    videos = {
        name: [json.loads(line) for line in (folder / f"{name}.report.jsonl").open()]
        for name in ("000000", "000001")
    }
    shards = [
        {"name": name, "videos": [{"index": 0} for _ in rows]} for name, rows in videos.items()
    ]
    (folder / "plan.json").write_bytes(dump_json({"format": 1, "shards": shards}))
    (folder / "plan.parquet").unlink()
    for name in videos:
        (folder / f"{name}.files.json").unlink()
    assert faults_of(own_root) == []
    shards[1]["videos"].pop()
    edit_json(folder / "plan.json", shards=shards)
    assert "000001.report.jsonl" in {fault.shard for fault in faults_of(own_root)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"videos": 6}, "000000.report.jsonl"),
        ({"shards": 3}, "000002"),
        ({"first_shard": 1}, "000002"),
        ({"videos": "many"}, "plan.json"),
        ({"format": 2}, "plan.json"),
    ],
)
def test_a_plan_that_says_otherwise_is_a_fault(own_root, change, named):
    edit_json(own_root / "train" / "plan.json", **change)
    assert named in {fault.shard for fault in faults_of(own_root)}


def test_a_report_of_other_videos_than_planned_is_a_fault(own_root):
    """Two shards whose reports and samples changed places agree with all counts but not this."""
    path = own_root / "train" / "000001.report.jsonl"
    rows = [json.loads(line) for line in path.open()]
    rows[0]["video"] += 1
    path.write_bytes(b"".join(dump_json(row) + b"\n" for row in rows))
    [fault] = faults_of(own_root)
    assert fault.what == "reports other videos than were planned for it"


def test_a_report_of_other_samples_than_the_index_is_a_fault(own_root):
    path = own_root / "train" / "000000.report.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    key = json.loads(lines[0])["samples"][0]["key"]
    path.write_text("".join(lines).replace(key, f"{key[:-1]}8"))
    named = {fault.shard: fault.what for fault in faults_of(own_root)}
    assert named["000000.report.jsonl"] == "names other samples than the index"
    assert "000000" in named["samples.parquet"]


def test_a_part_of_the_plan_that_the_manifest_does_not_know_is_a_fault(own_root):
    """As left by --append that was interrupted."""
    plan = json.loads((own_root / "train" / "plan.json").read_bytes())
    later = plan | {"kind": "append", "videos": 2, "shards": 1, "first_shard": 2}
    (own_root / "train" / "plan-0001.json").write_bytes(dump_json(later))
    named = {fault.shard: fault.what for fault in faults_of(own_root)}
    assert "is planned" in named["000002"]
    assert named["manifest.json"].startswith("num_plans is 1")


def test_a_missing_part_of_the_plan_is_a_fault(own_root):
    plan = json.loads((own_root / "train" / "plan.json").read_bytes())
    (own_root / "train" / "plan-0002.json").write_bytes(dump_json(plan))
    [fault] = faults_of(own_root)
    assert fault.shard == "plan.json"
    assert "plan-0001.json" in fault.what


def test_an_interrupted_removal_is_a_fault_that_says_what_to_do(own_root):
    (own_root / "train" / "removal.json").write_bytes(dump_json({"format": 1, "shards": {}}))
    [fault] = faults_of(own_root)
    assert fault.shard == "removal.json"
    assert "gopstream remove" in fault.what


def test_an_object_that_nothing_lists_is_a_fault(own_root):
    (own_root / "train" / "000001.flow.tar").write_bytes(b"")
    [fault] = faults_of(own_root)
    assert (fault.shard, fault.what) == (
        "000001.flow.tar",
        "is there, but the manifest does not list it",
    )


@pytest.mark.parametrize("name", ["../../etc/passwd", "000001.tar", "/etc/passwd"])
def test_a_manifest_that_leads_elsewhere_is_a_fault(own_root, name):
    path = own_root / "train" / "manifest.json"
    shards = json.loads(path.read_bytes())["shards"]
    shards[0]["files"][name] = {"num_bytes": 1, "sha256": ""}
    edit_json(path, shards=shards)
    assert (name, "is not a file of this shard") in [
        (fault.shard, fault.what) for fault in faults_of(own_root)
    ]


def test_a_missing_record_of_files_is_a_fault(own_root):
    (own_root / "train" / "000001.files.json").unlink()
    [fault] = faults_of(own_root)
    assert (fault.shard, fault.what) == ("000001.files.json", "is missing")


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"files": {"000001.tar": 3}}'])
def test_a_damaged_record_of_files_is_a_fault(own_root, content):
    (own_root / "train" / "000001.files.json").write_bytes(content)
    [fault] = faults_of(own_root)
    assert fault.shard == "000001.files.json"


def test_a_table_of_failures_with_more_rows_is_a_fault(own_root):
    (own_root / "train" / "failures.jsonl").write_bytes(b"{}\n")
    [fault] = faults_of(own_root)
    assert (fault.shard, fault.what) == ("failures.jsonl", "has 1 rows, the reports say 0")


@pytest.mark.parametrize("change", ["order", "fewer", "more", "cut"])
def test_a_table_of_other_samples_is_a_fault(own_root, change):
    path = own_root / "train" / "samples.parquet"
    table = pyarrow.parquet.read_table(path)
    if change == "order":
        table = table.take(list(range(table.num_rows))[::-1])
    elif change == "fewer":
        table = table.slice(0, table.num_rows - 1)
    elif change == "more":
        table = pyarrow.concat_tables([table, table.slice(0, 1)])
    pyarrow.parquet.write_table(table, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    assert {fault.shard for fault in faults_of(own_root)} == {"samples.parquet"}


def test_the_manifest_is_read_once_however_many_shards_there_are(own_root):
    """Reading it for each shard would take hours at ten thousand shards."""

    class CountingStorage(LocalStorage):
        reads = 0

        def read(self, name):
            CountingStorage.reads += name.endswith("manifest.json")
            return super().read(name)

    assert list(verify_split(CountingStorage(own_root), "train")) == []
    assert CountingStorage.reads == 1
