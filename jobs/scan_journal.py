"""The rows of a scan that is not finished: one JSON line per video, in the order of their ends.

Several processes append to one file, each line under a lock and in front of a line's end. What a
killed process leaves torn is one line, which is dropped when the journal is read; its video is
scanned once more.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from gopstream.jobs.errors import UserError
from gopstream.shards.layout import dump_json

JOURNAL_VERSION: Final = 1


class VideoKey(NamedTuple):
    """A video as it was when its row was made."""

    name: str
    bytes: int
    """-1 if the file is not there."""
    mtime_ns: int


def journal_path(out: Path) -> Path:
    """Return the journal's name beside the file that it becomes."""
    return out.with_name(out.name + ".partial.jsonl")


def open_journal(path: Path, options: Mapping[str, Any]) -> dict[VideoKey, int]:
    """Begin a journal, or go on with one.

    Args:
        path: The journal.
        options: What decides the rows.

    Returns:
        The offset in bytes of the last row of each video.

    Raises:
        UserError: If the journal was made with other options.
    """
    header = {"version": JOURNAL_VERSION, "options": dict(options)}
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        first = _parse(file.readline())
        if first is not None and first != header:
            raise UserError(
                f"{path}: begun with other options ({_differences(first, header)}); give the same "
                "ones to continue, or remove the file to begin anew"
            )
        if first is not None:
            return read_offsets(path)
    path.write_bytes(dump_json(header) + b"\n")
    return {}


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    if found.get("version") != wanted["version"] or not isinstance(found.get("options"), dict):
        return "or by another version of gopstream"
    old, new = found["options"], wanted["options"]
    return ", ".join(
        f"{name}: {old.get(name)} there, {new.get(name)} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def read_offsets(path: Path) -> dict[VideoKey, int]:
    """Return the offset in bytes of the last row of each video."""
    offsets = {}
    with path.open("rb") as file:
        position = len(file.readline())
        for line in file:
            if (entry := _parse(line)) is not None:
                offsets[VideoKey(*entry["key"])] = position
            position += len(line)
    return offsets


def read_rows(path: Path, offsets: Iterator[int]) -> Iterator[dict[str, Any]]:
    """Yield the rows at these offsets."""
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            row: dict[str, Any] = json.loads(file.readline())["row"]
            yield row


def append_row(path: Path, key: VideoKey, row: Mapping[str, Any]) -> None:
    """Add a row; several processes may do so at a time."""
    line = dump_json({"key": list(key), "row": dict(row)}) + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # after a line that is torn
        while line:
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Have the disk keep what was appended so far."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a whole line's content; None if it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
