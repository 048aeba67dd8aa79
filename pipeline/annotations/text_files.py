"""Text, CSV and JSON files, with the line of everything that is wrong with them.

A byte-order mark is skipped, line ends may be CRLF, empty lines do not count.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast

from gopstream.pipeline.errors import AnnotationError

Kind = TypeVar("Kind")
Form = Literal["JSON", "CSV or text"]

_MOST_QUOTED = 80
_HEAD_BYTES = 4096
# More than a bracket: a path may begin with one.
_JSON_BEGINS = re.compile(rb"(\[\s*)?\{\s*\"")


def cut(text: str) -> str:
    """Return text of a list as a message quotes it: a line may be a file of megabytes."""
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}..."


def check_form(path: Path, *, form: Form, expected: str) -> None:
    """Refuse a list that plainly has the form of another dataset's.

    Args:
        path: The list.
        form: Which it should have.
        expected: Names of the dataset's own files, for the message.

    Raises:
        AnnotationError: If it begins as JSON does and should not, or the reverse.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head or b"\0" in head:  # neither: left to the reader, which says what it misses
        return
    if form == "JSON":
        found = None if head.startswith((b"{", b"[")) else "CSV or text"
    else:
        found = "JSON" if _JSON_BEGINS.match(head) else None
    if found:
        raise AnnotationError(
            f"{path}: expected {expected}, but this looks like {found}; is it the list of another "
            f"dataset? --dataset says which"
        )


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text, without blanks around it, of each line that has any.

    Raises:
        AnnotationError: At a line that is not UTF-8.
    """
    for number, line in enumerate(_decoded_lines(path), start=1):
        if line.strip():
            yield number, line.strip()


def read_table(
    path: Path, *, columns: Sequence[str], hint: str = ""
) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield line number and cells, by column, of each row of a CSV with a header.

    Args:
        path: The file.
        columns: Those that must be there; others may.
        hint: What else the file could be, for the message.

    Raises:
        AnnotationError: At a header without a column or with one twice, a row with another number
            of cells, broken quotes, bytes that are not UTF-8.
    """
    header: list[str] = []
    for line, row in _read_rows(path):
        if not header:
            header = [name.strip() for name in row]
            _check_header(header, columns, where=f"{path}:{line}", hint=hint)
        elif len(row) != len(header):
            raise AnnotationError(
                f"{path}:{line}: expected {len(header)} columns ({cut(','.join(header))}), "
                f"got {len(row)}"
            )
        else:
            yield line, dict(zip(header, row, strict=True))
    if not header:
        _check_header(header, columns, where=f"{path}:1", hint=hint)


def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises:
        AnnotationError: If it is not UTF-8, no JSON, or has an object with a key twice.
    """

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise AnnotationError(f"{path}: the key {cut(twice)!r} is twice in one object")
        return content

    def refuse(constant: str) -> NoReturn:
        raise AnnotationError(f"{path}: expected numbers, got {constant}")

    try:
        content: object = json.loads(
            "".join(_decoded_lines(path)), object_pairs_hook=without_repeats, parse_constant=refuse
        )
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}:{error.lineno}: expected JSON ({error.msg})") from error
    return content


def json_field(entry: object, key: str, kind: type[Kind], *, where: str) -> Kind:
    """Return a field of a JSON object.

    Args:
        entry: What should be the object.
        key: Of the field.
        kind: ``str``, ``int``, ``float`` (whole numbers too), ``list`` or ``dict``.
        where: Place in the file, for the message.

    Raises:
        AnnotationError: If it is absent or of another type.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise AnnotationError(
            f"{where}: expected an object with {key!r}, of type {kind.__name__}, "
            f"got {cut(repr(entry))}"
        )
    return cast(Kind, value)


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_decoded_lines(path), strict=True)
    try:
        for row in reader:
            if len(row) > 1 or any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise AnnotationError(f"{path}:{reader.line_num}: expected UTF-8 CSV ({error})") from error


def _check_header(header: list[str], columns: Sequence[str], *, where: str, hint: str) -> None:
    if set(columns) - set(header) or len(set(header)) != len(header):
        raise AnnotationError(
            f"{where}: expected a header with the columns {','.join(columns)}, each once; "
            f"got {cut(','.join(header)) or 'nothing'}{hint and '. ' + hint}"
        )


def _decoded_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise AnnotationError(f"{path}:{number}: expected UTF-8 ({error})") from error
