"""Search the failures of a split: the rows of ``failures.jsonl``, line by line."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from gopstream.jobs.inspection.app_files import RangeFile
from gopstream.shards.errors import FormatError
from gopstream.shards.layout import FAILURES_FILE
from gopstream.shards.storage import Storage

_BUFFER_BYTES: Final = 1 << 20
_MAX_REASONS: Final = 200
_SHOWN_CHARACTERS: Final = 2000
_COLUMNS: Final = ("key", "source", "stage", "error", "message")


class FailureQuery(NamedTuple):
    """Which failures, and which page of them."""

    text: str = ""
    """In source, key or message; upper and lower case are the same."""
    reason: str | None = None
    """As `failure_reason` gives it."""
    offset: int = 0
    limit: int = 60


class FailurePage(NamedTuple):
    """What was found."""

    total: int
    """Rows that match."""
    num_failures: int
    """All rows of the split."""
    rows: list[dict[str, str]]
    """Of the page: key, source, stage, error and message."""
    reasons: list[tuple[str, int]]
    """Of all rows that match the text, most frequent first."""


def search_failures(storage: Storage, split: str, query: FailureQuery) -> FailurePage:
    """Go through a split's failures once; one line is in memory at a time.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        query: What is looked for.

    Raises:
        FileNotFoundError: If the split has no such file: it is not finished.
        FormatError: If a line is no row; says which.
    """
    total = num_failures = 0
    rows: list[dict[str, str]] = []
    reasons: Counter[str] = Counter()
    wanted = query.text.casefold()
    for row in _read_rows(storage, split):
        num_failures += 1
        searched = "\n".join((row["key"], row["source"], row["message"])).casefold()
        if wanted not in searched:
            continue
        reason = failure_reason(row)
        # Messages of our own kinds are few; a file from elsewhere may have any number.
        if reason in reasons or len(reasons) < _MAX_REASONS:
            reasons[reason] += 1
        if query.reason is not None and reason != query.reason:
            continue
        if query.offset <= total < query.offset + query.limit:
            rows.append(row)
        total += 1
    return FailurePage(total, num_failures, rows, reasons.most_common())


def failure_reason(row: dict[str, str]) -> str:
    """Return what failures are grouped by: the stage, and the kind of the error."""
    return f"{row['stage']}: {row['error']}"


def _read_rows(storage: Storage, split: str) -> Iterator[dict[str, str]]:
    name = f"{split}/{FAILURES_FILE}"
    with RangeFile(storage, name) as raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        for number, line in enumerate(file, start=1):
            try:
                content: dict[str, Any] = json.loads(line)
                row = {key: str(content.get(key) or "") for key in _COLUMNS}
            except (ValueError, AttributeError) as error:
                raise FormatError(
                    f"{storage.url}/{name}: line {number} is not the row of a failure ({error}); "
                    "run 'gopstream verify' to see all faults"
                ) from error
            yield row | {"message": row["message"][:_SHOWN_CHARACTERS]}
