"""Search the samples of a split by the columns of ``samples.parquet``, page by page.

The table is read by ranges, row group by row group, and of each only the columns that a question
needs: a split may have millions of samples and lie in object storage. What is kept of an answer
are the positions of the samples that match.

Dimensions: N samples of the catalogue, M that match.
"""

import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.app_files import RangeFile, ReadCount
from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.layout import MANIFEST_FILE, NO_LABEL, SAMPLES_FILE
from gopstream.shards.storage import Storage
from gopstream.shards.where import column_kind, compile_where

SHOWN_COLUMNS: Final = (
    "key",
    "source",
    "label",
    "shard",
    "frames",
    "fps",
    "duration_seconds",
    "width",
    "height",
    "codec",
    "mean_motion_pixels",
    "predicted_share",
    "zero_residual_share",
    "exactness",
    "damaged_frames",
    "scene_cuts",
)
"""Of a sample's row, what the app shows."""
MOTION_EDGES: Final = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Pixels where the bins of the motion histogram begin; the last one has no end."""

_MOTION: Final = "mean_motion_pixels"
_ROW: Final = "position in the catalogue"
_ORDER: Final = "value to sort by"
_BUFFER_BYTES: Final = 1 << 16
_ANSWERS_KEPT: Final = 8
_ANSWER_BYTES_KEPT: Final = 64 << 20


class SampleQuery(NamedTuple):
    """Which samples, and in which order."""

    text: str = ""
    """In key or source; upper and lower case are the same."""
    label: str | None = None
    """Name of a class; the empty name is for samples without one."""
    motion_min: float | None = None
    """Mean length of the sample's vectors in pixels, at least."""
    motion_max: float | None = None
    """The same, less than."""
    where: str = ""
    """A condition as `gopstream.shards.where` reads it."""
    order: str = ""
    """A column of numbers, ``-`` before it for the largest first; empty for the stored order."""

    @property
    def is_all(self) -> bool:
        """Whether it leaves nothing out and keeps the order."""
        return self == SampleQuery()


class SamplePage(NamedTuple):
    """What was found."""

    total: int
    """M."""
    rows: list[dict[str, Any]]
    """Of the page: ``position`` in the split, and `SHOWN_COLUMNS`."""


class Catalogue:
    """The table of a split's samples, or of one shard's. For several threads at once."""

    def __init__(
        self,
        storage: Storage,
        split: str,
        *,
        classes: Sequence[str],
        num_stored: int,
        rows: range | None = None,
    ) -> None:
        """Name the table; nothing is read.

        Args:
            storage: Of the dataset.
            split: Name of the split.
            classes: Names of the dataset's classes.
            num_stored: Samples of the whole split, as the manifest says.
            rows: Of the table: those of a shard, when it alone is looked at. None takes all.
        """
        self._storage = storage
        self._split = split
        self._classes = list(classes)
        self._num_stored = num_stored
        self._rows = range(num_stored) if rows is None else rows
        self._lock = Lock()
        self._raw: RangeFile | None = None
        self._table: pyarrow.parquet.ParquetFile | None = None
        self._answers: OrderedDict[SampleQuery, npt.NDArray[np.int64]] = OrderedDict()

    def __len__(self) -> int:
        """Return N."""
        return len(self._rows)

    @property
    def count(self) -> ReadCount:
        """What was read of the table so far."""
        return ReadCount(0, 0) if self._raw is None else self._raw.count

    def search(self, query: SampleQuery, *, offset: int = 0, limit: int = 60) -> SamplePage:
        """Return a page of the samples that match.

        Args:
            query: What is looked for.
            offset: How many that match come before the page.
            limit: How many the page has at most.

        Raises:
            UserError: If there is no such class or column, or the order is not by a number.
            WhereError: If the condition cannot be meant.
            ShardError: If the table is missing, damaged, or of other samples.
        """
        with self._lock, self._errors():
            if query.is_all:
                found = np.arange(*slice(offset, offset + limit).indices(len(self)), dtype=np.int64)
                return SamplePage(len(self), self._read_rows(found))
            positions = self._answer(query)
            return SamplePage(len(positions), self._read_rows(positions[offset : offset + limit]))

    def motion_histogram(self) -> list[int]:
        """Return how many samples have a mean motion in each bin of `MOTION_EDGES`.

        Raises:
            ShardError: If the table is missing, damaged, or of other samples.
        """
        edges = np.array([*MOTION_EDGES, np.inf])
        counts = np.zeros(len(MOTION_EDGES), np.int64)
        with self._lock, self._errors():
            for _, batch in self._batches([_MOTION]):
                values = batch.column(_MOTION).drop_null().to_numpy(zero_copy_only=False)
                counts += np.histogram(values, edges)[0]
        return [int(count) for count in counts]

    def close(self) -> None:
        """Close the file and its connections."""
        with self._lock:
            if self._table is not None:
                self._table.close()
            if self._raw is not None:
                self._raw.close()
            self._table = self._raw = None

    def _answer(self, query: SampleQuery) -> npt.NDArray[np.int64]:
        """Return the positions of the samples that match, (M,), in the order asked for."""
        kept = self._answers.get(query)
        if kept is None:
            kept = self._scan(query)
            self._answers[query] = kept
        self._answers.move_to_end(query)
        while len(self._answers) > 1 and (
            len(self._answers) > _ANSWERS_KEPT
            or sum(answer.nbytes for answer in self._answers.values()) > _ANSWER_BYTES_KEPT
        ):
            self._answers.popitem(last=False)
        return kept

    def _scan(self, query: SampleQuery) -> npt.NDArray[np.int64]:
        condition, columns = self._condition(query)
        order = query.order.removeprefix("-")
        wanted = sorted({*columns, *([order] if order else [])}) or ["label"]
        found, values = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
        for start, batch in self._batches(wanted):
            places = pa.array(np.arange(start, start + batch.num_rows))
            table = pa.table({**{name: batch.column(name) for name in wanted}, _ROW: places})
            if condition is not None:
                table = table.filter(condition)
            found.append(table.column(_ROW).to_numpy())
            if order:
                numbers = table.column(order).cast(pa.float64()).to_numpy()
                values.append(-numbers if query.order.startswith("-") else numbers)
        positions = np.concatenate(found)
        # What has no value comes last, whichever way: NaN sorts behind all numbers.
        return positions[np.argsort(np.concatenate(values), kind="stable")] if order else positions

    def _condition(self, query: SampleQuery) -> tuple[Any, set[str]]:
        """Return an Arrow expression, None if all match, and the columns that it reads."""
        parts: list[Any] = []
        columns: set[str] = set()
        if query.text:
            columns |= {"key", "source"}
            parts.append(_contains("key", query.text) | _contains("source", query.text))
        if query.label is not None:
            columns.add("label")
            number = self._class_number(query.label)
            parts.append(pc.coalesce(pc.field("label"), pc.scalar(NO_LABEL)) == number)
        if query.motion_min is not None:
            columns.add(_MOTION)
            parts.append(pc.field(_MOTION) >= query.motion_min)
        if query.motion_max is not None:
            columns.add(_MOTION)
            parts.append(pc.field(_MOTION) < query.motion_max)
        if query.where.strip():
            schema = self._opened().schema_arrow
            written = compile_where(query.where, schema, classes=self._classes)
            columns |= {*written.columns}
            parts.append(written.expression)
        if query.order:
            self._check_order(query.order.removeprefix("-"))
        condition = None
        for part in parts:
            condition = part if condition is None else condition & part
        return condition, columns

    def _class_number(self, label: str) -> int:
        if not label:
            return NO_LABEL
        if label not in self._classes:
            hint = did_you_mean(label, self._classes, cutoff=0.0)
            raise UserError(f"label: there is no class {label!r}{hint}")
        return self._classes.index(label)

    def _check_order(self, name: str) -> None:
        """Refuse to sort by what is no number.

        Raises:
            UserError: Naming the column.
        """
        schema = self._opened().schema_arrow
        if name not in schema.names:
            hint = did_you_mean(name, schema.names, cutoff=0.0)
            raise UserError(f"order: there is no column {name!r}{hint}")
        if column_kind(schema.field(name).type) != "number":
            raise UserError(f"order: the column {name!r} does not hold numbers")

    def _read_rows(self, positions: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """Read the rows of some positions, in their order; a row group is read once."""
        file = self._opened()
        columns = [name for name in SHOWN_COLUMNS if name in file.schema_arrow.names]
        starts = self._group_starts()
        rows = positions + self._rows.start
        groups = np.searchsorted(starts, rows, side="right") - 1
        found: dict[int, dict[str, Any]] = {}
        for group in np.unique(groups).tolist():
            chosen = np.flatnonzero(groups == group)
            table = file.read_row_group(group, columns=columns, use_threads=False)
            taken = table.take(pa.array(rows[chosen] - starts[group]))
            found.update(zip(chosen.tolist(), taken.to_pylist(), strict=True))
        return [
            {"position": position} | self._shown(found[place])
            for place, position in enumerate(positions.tolist())
        ]

    def _shown(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row for JSON, its class by name."""
        shown = {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in row.items()
        }
        number = shown.get("label")
        known = isinstance(number, int) and 0 <= number < len(self._classes)
        return shown | {"label": self._classes[number] if known and number is not None else None}

    def _batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the catalogue's rows group by group, with the position of the first of each."""
        file = self._opened()
        starts = self._group_starts()
        for group in range(file.num_row_groups):
            first, last = int(starts[group]), int(starts[group + 1])
            begin, end = max(first, self._rows.start), min(last, self._rows.stop)
            if begin < end:
                table = file.read_row_group(group, columns=list(columns), use_threads=False)
                own = table.slice(begin - first, end - begin).combine_chunks()
                for batch in own.to_batches():
                    yield begin - self._rows.start, batch
                    begin += batch.num_rows

    def _group_starts(self) -> npt.NDArray[np.int64]:
        """Return (G + 1,) the table's rows at which its G row groups begin, and its end."""
        metadata = self._opened().metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def _opened(self) -> pyarrow.parquet.ParquetFile:
        """Return the open table."""
        if self._table is None:
            raw = RangeFile(self._storage, f"{self._split}/{SAMPLES_FILE}")
            # Arrow takes a read that is cut short for the end of the file; a buffer reads on.
            file = pa.PythonFile(io.BufferedReader(raw, _BUFFER_BYTES), mode="r")
            # Columns of a row group that lie side by side come with one request.
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=True)
            if table.metadata.num_rows != self._num_stored:
                raise FormatError(
                    f"{self._where}: has {table.metadata.num_rows} rows, {MANIFEST_FILE} says "
                    f"{self._num_stored} samples; run 'gopstream verify' to see all faults"
                )
            self._raw, self._table = raw, table
        return self._table

    @property
    def _where(self) -> str:
        return f"{self._storage.url}/{self._split}/{SAMPLES_FILE}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Let errors name the table."""
        try:
            yield
        except FileNotFoundError as error:
            raise ShardError(f"{self._where}: is missing; is the split finished?") from error
        except StoreError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{self._where}: not a whole table ({error})") from error


def _contains(column: str, text: str) -> Any:  # noqa: ANN401 - pyarrow has no types
    return pc.match_substring(pc.field(column).cast(pa.string()), text, ignore_case=True)
