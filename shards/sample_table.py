"""Read columns of ``samples.parquet`` batch by batch: a split can have millions of samples."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet

from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.layout import SAMPLES_FILE
from gopstream.shards.storage import Storage

_ROWS_AT_ONCE: Final = 50_000


def read_samples(
    storage: Storage, split: str, *, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a split's samples, in the order of its shards and their indexes.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        columns: Names of the columns, in the order wanted.

    Raises:
        ShardError: If the table is not there.
        FormatError: If it is damaged or lacks a column.
    """
    name = f"{split}/{SAMPLES_FILE}"
    where = f"{storage.url}/{name}"
    try:
        with storage.local_copy(name) as path:
            yield from _read_batches(path, list(columns), where)
    except FileNotFoundError as error:
        raise ShardError(f"{where}: is missing; is the split finished?") from error


def _read_batches(path: Path, columns: list[str], where: str) -> Iterator[pa.RecordBatch]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = sorted(set(columns) - set(file.schema_arrow.names))
            if missing:
                raise FormatError(f"{where}: there is no column {', '.join(missing)}")
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                yield batch.select(columns)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{where}: not a whole table ({error})") from error


def key_at(storage: Storage, split: str, position: int) -> str:
    """Return the key in one row, without reading the table as a whole.

    Raises:
        ShardError: If the table is not there.
        FormatError: If it is damaged, or has no such row.
    """
    name = f"{split}/{SAMPLES_FILE}"
    where = f"{storage.url}/{name}"
    try:
        with storage.local_copy(name) as path, pyarrow.parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                num_rows = file.metadata.row_group(group).num_rows
                if position < num_rows:
                    # Without threads: a worker process may have been forked from one that has some.
                    table = file.read_row_group(group, columns=["key"], use_threads=False)
                    return str(table.column("key")[position].as_py())
                position -= num_rows
    except FileNotFoundError as error:
        raise ShardError(f"{where}: is missing; is the split finished?") from error
    except (pa.ArrowException, OSError, KeyError) as error:
        raise FormatError(f"{where}: not a whole table ({error})") from error
    raise FormatError(f"{where}: has no such row")
