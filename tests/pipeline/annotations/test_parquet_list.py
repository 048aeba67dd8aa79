import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.errors import AnnotationError


def refuse_to_list(root):
    raise AssertionError(f"listed {root}")


def read(mini, columns, *, row_group_size=2, **options):
    path = mini.root / "list.parquet"
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, row_group_size=row_group_size)
    chosen = {"dataset": None, "split": "train", "list_files": refuse_to_list} | options
    return read_annotations("s3://bucket/videos", annotations=path, **chosen)


def test_rows_of_several_row_groups(mini):
    found = read(
        mini,
        {
            "uri": ["a, b/\u00e9 1.mp4", "s3://other/c.mp4", "s3://bucket/videos/d.mp4"],
            "label": ["run", None, "walk"],
            "split": ["val", None, ""],
            "start": pa.array([0.5, None, 3], pa.float32()),
            "end": pa.array([2, None, None], pa.int32()),
            "stars": pa.array([1, None, 3], pa.int8()),
            "score": [0.25, float("nan"), None],
            "is_cc": [True, False, None],
            "who": ["me", "", None],
        },
    )
    assert [(r.name, r.label, r.split, r.start_seconds, r.end_seconds) for r in found.records] == [
        ("a, b/\u00e9 1.mp4", "run", "val", 0.5, 2),
        ("s3://other/c.mp4", None, "train", None, None),
        ("s3://bucket/videos/d.mp4", "walk", "train", 3, None),
    ]
    assert [dict(r.attributes) for r in found.records] == [
        {"stars": 1, "score": 0.25, "is_cc": True, "who": "me"},
        {"stars": None, "score": None, "is_cc": False, "who": ""},
        {"stars": 3, "score": None, "is_cc": None, "who": None},
    ]
    assert found.classes == ("run", "walk")
    assert found.missing == ()


def test_path_alone_is_enough(mini):
    found = read(mini, {"path": ["a.mp4", "./b.mp4"]})
    assert [(r.name, r.label) for r in found.records] == [("a.mp4", None), ("b.mp4", None)]
    assert found.classes == ()


def test_dictionary_columns_are_text(mini):
    column = pa.array(["x", "y", "x"]).dictionary_encode()
    found = read(mini, {"uri": ["1", "2", "3"], "label": column, "kind": column})
    assert [r.label for r in found.records] == ["x", "y", "x"]
    assert found.records[2].attributes == {"kind": "x"}


def test_number_labels_keep_their_number(mini):
    found = read(mini, {"uri": ["a", "b", "c"], "label": [3, 0, None]})
    assert found.classes == ("0", "1", "2", "3")
    assert [r.label for r in found.records] == ["3", "0", None]
    names = mini.write("classes.txt", "zero\none\n")
    found = read(mini, {"uri": ["a"], "label": [1]}, classes_file=names)
    assert (found.records[0].label, found.classes) == ("one", ("zero", "one"))
    with pytest.raises(AnnotationError, match="row 0: unknown label 2"):
        read(mini, {"uri": ["a"], "label": [2]}, classes_file=names)


def test_repeated_strings_are_kept_once(mini):
    found = read(mini, {"uri": ["a", "b"], "label": ["long label"] * 2, "split": ["val"] * 2})
    first, second = found.records
    assert first.label is second.label and first.split is second.split
    assert first.attributes is second.attributes


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"url": ["a"]}, "expected columns with uri"),
        ({"uri": ["a"], "path": ["a"]}, "expected columns with uri"),
        ({"uri": [1]}, "column uri: expected text, got int64"),
        ({"uri": ["a"], "tags": [["x"]]}, "column tags: .* got list<.*string>; convert it"),
        ({"uri": ["a"], "raw": [b"x"]}, "column raw: .* got binary"),
        ({"uri": ["a"], "start": ["1"]}, "column start: .* got string"),
        ({"uri": ["a"], "label": [1.5]}, "column label: .* got double"),
        ({"uri": ["a", None]}, "row 1: expected a path below"),
        ({"uri": ["a", "../b"]}, "row 1: expected a path below"),
        ({"uri": ["a", "/b"]}, "row 1: expected a path below"),
        ({"uri": ["a", "b"], "start": [1.0, 2.0], "end": [2, 2]}, "row 1: expected 0 <= start"),
        ({"uri": ["a", "b"], "split": ["x", "y/z"]}, "row 1: a split's name"),
        ({"uri": ["a", "b"], "x": [1.0, float("inf")]}, "row 1, x: expected a finite"),
        ({"uri": ["a", "b", "b"]}, r"row 2: b is listed twice \(first at .* row 1\)"),
        ({"uri": pa.array([], pa.string())}, "no videos"),
    ],
)
def test_errors_name_column_or_row(mini, columns, reason):
    with pytest.raises(AnnotationError, match=rf"list\.parquet: {reason}"):
        read(mini, columns)


def test_segments_of_one_video_are_no_repeats(mini):
    found = read(mini, {"uri": ["a"] * 3, "start": [0.0, 1.0, None], "end": [1.0, 2.0, None]})
    assert len(found.records) == 3


def test_other_files_are_refused(mini):
    path = mini.write("list.parquet", "path,label\n")
    with pytest.raises(AnnotationError, match=r"list\.parquet: expected a Parquet file"):
        mini.read(path)


def test_many_rows_are_unique_by_value_and_small(mini):
    names = pa.array(np.char.mod("v/%07d.mp4", np.arange(50_000)))
    found = read(mini, {"uri": names, "label": ["x"] * 50_000}, row_group_size=10_000)
    record = found.records[-1]
    assert record.name == "v/0049999.mp4"
    # A slotted record and its name are all that a row costs: no dict of its own.
    assert sys.getsizeof(record) + sys.getsizeof(record.name) < 200
    assert not hasattr(record, "__dict__")
