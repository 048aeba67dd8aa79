"""A Parquet manifest: for lists of millions of videos, wherever they lie.

Nothing is listed: what the manifest names is taken to be there, and fails later if it is not.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

from gopstream.pipeline.annotations.checks import (
    check_name,
    check_split,
    check_text,
    check_window,
)
from gopstream.pipeline.annotations.record import Attribute, VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList
from gopstream.pipeline.annotations.request import ListRequest, annotation_file
from gopstream.pipeline.annotations.text_files import cut
from gopstream.pipeline.annotations.vocabulary import (
    Vocabulary,
    given_classes,
    numbered_classes,
    sorted_classes,
)
from gopstream.pipeline.errors import AnnotationError
from gopstream.pipeline.object_store import is_address

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS_AT_ONCE = 16_384


def read_parquet(request: ListRequest) -> VideoList:
    """Read a Parquet manifest.

    Columns: ``uri`` (or ``path``), a path below the videos' root or a whole address; and, each
    optional and with nulls where a row has none, ``label`` (text, or the number of a class),
    ``split``, ``start`` and ``end`` in seconds. Further columns of integers, floats, booleans and
    text become attributes of their type (NaN, which pandas writes for an absent number, as None).

    The classes are ``--classes``; or the labels that occur, sorted; or, for numbers, 0 to the
    largest. The file is read in pieces: memory is that of the records.

    Raises:
        AnnotationError: Naming the column, or the row (counted from 0): a missing column, one of
            a type that cannot be kept, a bad path or time, an unknown label, a segment twice.
    """
    import pyarrow as pa  # workers import the records of this package, and never need its 60 MB
    import pyarrow.parquet as pq

    path = annotation_file(request, "FILE.parquet with a column uri", form=None)
    given = given_classes(request.classes_file)
    try:
        with pq.ParquetFile(path) as file:
            kinds = _kinds(file.schema_arrow, path)
            key = "uri" if "uri" in kinds else "path"
            classes = given
            if kinds.get("label") == "number":
                classes = given or numbered_classes(_numbers(file), str(path))
            return _read(request, path, _rows(file), key=key, classes=classes)
    except pa.ArrowException as error:
        raise AnnotationError(f"{path}: expected a Parquet file ({error})") from error


def _read(
    request: ListRequest,
    path: Path,
    rows: Iterator[dict[str, Any]],
    *,
    key: str,
    classes: Vocabulary | None,
) -> VideoList:
    records = RecordList(str(path), lambda row: f"{path}: row {row}")
    labels: set[str | None] = set()
    for number, row in enumerate(rows):
        where = f"{path}: row {number}"
        name = _name(row.pop(key), videos=request.videos, where=where)
        label = _label(row.pop("label", None), classes, where)
        labels.add(label)
        start, end = check_window(row.pop("start", None), row.pop("end", None), where=where)
        split = intern(check_split(row.pop("split", None) or request.split, where))
        further = {column: _attribute(value, f"{where}, {column}") for column, value in row.items()}
        records.add(
            VideoRecord(name, label, split, start, end, attributes=further)
            if further
            else VideoRecord(name, label, split, start, end),
            place=number,
        )
    return records.finish((classes or sorted_classes(labels, str(path))).names)


def _rows(file: "pq.ParquetFile") -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
        names = batch.schema.names
        for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield dict(zip(names, cells, strict=True))


def _numbers(file: "pq.ParquetFile") -> Iterator[int]:
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=["label"]):
        yield from (value for value in batch.column(0).to_pylist() if value is not None)


def _kinds(schema: "pa.Schema", path: Path) -> dict[str, str]:
    """Return ``text``, ``number``, ``float`` or ``bool`` for each column."""
    names: Sequence[str] = schema.names
    if len(set(names)) < len(names) or ("uri" in names) == ("path" in names):
        raise AnnotationError(
            f"{path}: expected columns with uri (or path, not both), each once; got "
            f"{cut(', '.join(names))}"
        )
    kinds = {name: _kind(field.type) for name, field in zip(names, schema, strict=True)}
    wanted = {"uri": "text", "path": "text", "split": "text"}
    wanted |= {"label": "text number", "start": "float number", "end": "float number"}
    for name, kind in kinds.items():
        if kind not in (*wanted.get(name, "text number float bool").split(), "null"):
            raise AnnotationError(
                f"{path}: column {name}: expected {wanted.get(name, 'a number, a bool or text')}, "
                f"got {schema.field(name).type}; convert it or leave it out"
            )
    return kinds


def _kind(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    tests = {
        "text": lambda it: pa.types.is_string(it) or pa.types.is_large_string(it),
        "number": pa.types.is_integer,
        "float": pa.types.is_floating,
        "bool": pa.types.is_boolean,
        "null": pa.types.is_null,
    }
    return next((name for name, test in tests.items() if test(kind)), "other")


def _name(value: str | None, *, videos: str, where: str) -> str:
    if value is None or not is_address(value):
        return check_name(value or "", videos=videos, where=where)
    check_text(value, where)
    return value


def _label(value: str | int | None, classes: Vocabulary | None, where: str) -> str | None:
    if isinstance(value, int):
        assert classes is not None
        return classes.numbered(value, where)
    label = intern(value.strip()) if value else ""
    if label and classes is not None:
        classes.check(label, where)
    return label or None


def _attribute(value: Attribute, where: str) -> Attribute:
    if isinstance(value, float):
        if math.isinf(value):
            raise AnnotationError(f"{where}: expected a finite number, got {value}")
        return None if math.isnan(value) else value
    return value
