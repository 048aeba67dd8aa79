"""What is chosen are the samples that the table's rows describe, never their neighbours."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest

from gopstream.jobs.remove_samples import remove_samples
from gopstream.shards.dataset_files import load_dataset
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.edit_labels import read_label_list, write_label_view
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.selection import class_weights, column_weights, select
from gopstream.shards.shard_indexes import INDEX_KIND, ShardIndexes
from gopstream.shards.shard_table import read_shard_table
from gopstream.shards.where import WhereError


def open_indexes(root):
    storage = LocalStorage(root)
    table = read_shard_table(storage, "train", files=[INDEX_KIND])
    return ShardIndexes(storage, table, ranges=open_ranges(storage, files={}))


def choose(root, **words):
    classes = load_dataset(root).classes
    return select(open_indexes(root), dataset_classes=classes, **words)


def rows_of(root):
    return pyarrow.parquet.read_table(root / "train" / "samples.parquet").to_pylist()


def rewrite(root, change):
    """Change the rows of ``samples.parquet``."""
    path = root / "train" / "samples.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(change(table), path)


def relabel(root, tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    storage = LocalStorage(root)
    write_label_view(storage, "verbs", read_label_list(path), splits=["train"])


def test_nothing_asked_is_no_selection(dataset_root):
    assert choose(dataset_root) is None


def test_a_condition_chooses_the_samples_of_its_rows(dataset_root):
    found = choose(dataset_root, where="frames > 12 and width != 84")
    rows = rows_of(dataset_root)
    wanted = [i for i, row in enumerate(rows) if row["frames"] > 12 and row["width"] != 84]
    assert 0 < len(wanted) < len(rows)
    assert found.positions.tolist() == wanted
    assert found.positions.dtype == np.int64
    assert found.labels is None and found.classes is None
    keys = list(open_indexes(dataset_root).keys())
    assert [keys[i] for i in wanted] == [rows[i]["key"] for i in wanted]


def test_an_expression_chooses_the_same(dataset_root):
    text = choose(dataset_root, where="frames > 12 and label == 'right'")
    given = choose(dataset_root, where=(pc.field("frames") > 12) & (pc.field("label") == 1))
    assert text.positions.tolist() == given.positions.tolist()
    assert len(text.positions)


def test_classes_renumber_labels_in_the_order_given(dataset_root):
    rows = rows_of(dataset_root)
    found = choose(dataset_root, classes=["right", "left"])
    assert found.classes == ("right", "left")
    assert found.labels.tolist() == [1 - row["label"] for row in rows]
    found = choose(dataset_root, classes=["right"])
    assert found.positions.tolist() == [i for i, row in enumerate(rows) if row["label"] == 1]
    assert set(found.labels.tolist()) == {0}


def test_classes_and_a_condition_are_both_fulfilled(dataset_root):
    rows = rows_of(dataset_root)
    found = choose(dataset_root, where="frames > 12", classes=["right"])
    wanted = [i for i, row in enumerate(rows) if row["label"] == 1 and row["frames"] > 12]
    assert found.positions.tolist() == wanted


def test_samples_without_a_label_are_of_no_class(own_root):
    def unlabelled(table):
        labels = [-1, *table.column("label").to_pylist()[1:]]
        return table.set_column(table.schema.names.index("label"), "label", pa.array(labels))

    rewrite(own_root, unlabelled)
    found = choose(own_root, classes=["left", "right"])
    assert found.positions.tolist() == list(range(1, len(rows_of(own_root))))


def test_classes_are_those_of_the_labels_in_use(own_root, tmp_path):
    relabel(own_root, tmp_path, "class,label\nleft,to the left\nright,\n")
    rows = rows_of(own_root)
    left = [i for i, row in enumerate(rows) if row["label"] == 0]
    whole = choose(own_root, labels="verbs")
    assert whole.positions.tolist() == left
    assert whole.classes == ("to the left",)
    part = choose(own_root, labels="verbs", classes=["to the left"], where="frames > 15")
    assert part.positions.tolist() == [i for i in left if rows[i]["frames"] > 15]
    with pytest.raises(WhereError, match=r"no class 'left' \(did you mean 'to the left'"):
        choose(own_root, labels="verbs", classes=["left"])
    with pytest.raises(WhereError, match="choose by class with classes="):
        choose(own_root, labels="verbs", where="label == 0")


def test_rows_stay_those_of_the_samples_after_removal(own_root):
    rows = rows_of(own_root)
    remove_samples(LocalStorage(own_root), keys=[rows[1]["key"]])
    kept = rows_of(own_root)
    assert len(kept) == len(rows) - 1
    found = choose(own_root, where="frames > 12")
    keys = list(open_indexes(own_root).keys())
    assert [keys[i] for i in found.positions] == [
        row["key"] for row in rows if row["frames"] > 12 and row != rows[1]
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.slice(1),
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        lambda table: table.take(list(range(table.num_rows))[::-1]),
        lambda table: table.take([1, 0, *range(2, table.num_rows)]),  # within a shard
        lambda table: table.set_column(
            table.schema.names.index("shard"),
            "shard",
            pa.array([None, *table.column("shard").to_pylist()[1:]], pa.string()),
        ),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda root: choose(root, where="frames > 0"),
        lambda root: choose(root, classes=["left"]),
        lambda root: column_weights(open_indexes(root), "frames"),
    ],
)
def test_a_table_of_other_samples_is_refused(own_root, change, use):
    rewrite(own_root, change)
    with pytest.raises(FormatError, match=r"samples\.parquet: lists other samples"):
        use(own_root)


def test_a_shard_number_in_the_wrong_row_is_refused(own_root):
    """Also where the keys that are compared are right."""

    def swap(table):
        shards = table.column("shard").to_pylist()
        shards[0], shards[-1] = shards[-1], shards[0]
        return table.set_column(table.schema.names.index("shard"), "shard", pa.array(shards))

    rewrite(own_root, swap)
    with pytest.raises(FormatError, match="lists other samples"):
        choose(own_root, where="frames > 0")


def test_a_missing_or_damaged_table_is_named(own_root):
    path = own_root / "train" / "samples.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match=r"samples\.parquet: cannot be read"):
        choose(own_root, where="frames > 0")
    path.unlink()
    with pytest.raises(ShardError, match=r"samples\.parquet: is missing"):
        choose(own_root, classes=["left"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"where": "frmes > 3"}, "where='frmes > 3': .*did you mean 'frames'"),
        ({"where": pc.field("frmes") > 3}, r"frmes > 3.*did you mean 'frames'"),
        ({"where": pc.field("codec") > 3}, r"codec > 3.*does not fit"),
        ({"where": pc.field("frames")}, "gives int32, not true or false"),
        ({"where": "frames > 1e9"}, "no sample is left of 7 by where=frames > 1e9"),
        ({"classes": []}, "no sample is left"),
        ({"classes": ["rigth"]}, r"no class 'rigth' \(did you mean 'right'"),
        ({"classes": ["left", "left"]}, "'left' is named twice"),
        ({"labels": "verb"}, "no labels 'verb'"),
    ],
)
def test_what_cannot_be_chosen_is_named(dataset_root, words, problem):
    with pytest.raises(ShardError, match=problem):
        choose(dataset_root, **words)


def test_weights_of_classes():
    weights = class_weights(np.array([0, 1, -1, 0]), ("a", "b"), weights={"b": 3, "": 0.5})
    assert weights.tolist() == [1.0, 3.0, 0.5, 1.0]
    with pytest.raises(WhereError, match="no class 'c'"):
        class_weights(np.array([0]), ("a",), weights={"c": 1})


def test_weights_of_a_column_are_those_of_the_chosen_samples(dataset_root):
    indexes = open_indexes(dataset_root)
    frames = [row["frames"] for row in rows_of(dataset_root)]
    assert column_weights(indexes, "frames").tolist() == frames
    found = choose(dataset_root, classes=["right"])
    assert column_weights(indexes, "frames", selection=found).tolist() == [
        frames[i] for i in found.positions
    ]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("frmes", r"no column 'frmes' \(did you mean 'frames'"),
        ("codec", "'codec' does not hold numbers"),
        ("sometimes", "'sometimes' has weights that are missing"),
        ("below", "missing, negative"),
    ],
)
def test_weights_that_are_none_are_refused(own_root, column, problem):
    def more(table):
        count = table.num_rows
        sometimes = pa.array([None] + [1.0] * (count - 1))
        return table.append_column("sometimes", sometimes).append_column(
            "below", pa.array([-1] * count)
        )

    rewrite(own_root, more)
    with pytest.raises(WhereError, match=problem):
        column_weights(open_indexes(own_root), column)


def test_without_pyarrow_the_message_says_so(dataset_root):
    code = """
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.errors import ShardError
from gopstream.shards.selection import column_weights, select
from gopstream.shards.shard_indexes import INDEX_KIND, ShardIndexes
from gopstream.shards.shard_table import read_shard_table
from gopstream.shards.storage import open_storage
storage = open_storage(Path(sys.argv[1]))
table = read_shard_table(storage, "train", files=[INDEX_KIND])
indexes = ShardIndexes(storage, table, ranges=open_ranges(storage, files={}))
assert select(indexes, dataset_classes=("left", "right")) is None
for words in ({"where": "frames > 3"}, {"classes": ["left"]}):
    try:
        select(indexes, dataset_classes=("left", "right"), **words)
    except ShardError as error:
        print(error)
try:
    column_weights(indexes, "frames")
except ShardError as error:
    print(error)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code, str(dataset_root)], capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines() == [
        f"{option} reads samples.parquet, which needs pyarrow: pip install pyarrow"
        for option in ("where=", "classes=", "weights")
    ]
