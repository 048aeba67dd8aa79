"""Which samples of a split are loaded, and how often: nothing is written again for it.

Chosen by a condition on the columns of ``samples.parquet``, by classes, and by labels of
``gopstream relabel``, together. Rows of the table stand for samples by their order; this is checked
shard by shard, and by key for some shards.

Dimensions: N samples of the split, M chosen ones.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.label_view import LEFT_OUT, LabelView, load_label_view
from gopstream.shards.layout import MANIFEST_FILE, NO_LABEL, SAMPLES_FILE
from gopstream.shards.shard_indexes import ShardIndexes
from gopstream.shards.where import (
    LABEL_COLUMN,
    WhereError,
    column_kind,
    compile_where,
)

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE: Final = 1 << 16
_SHARDS_BY_KEY: Final = 4
_KEEP: Final = "keep"
_SHARD: Final = "shard"
_UNKNOWN_FIELD: Final = re.compile(r"FieldRef\.Name\((.*?)\)")


class Selection(NamedTuple):
    """The samples that are loaded."""

    positions: npt.NDArray[np.int64]
    """(M,) positions in the split, rising."""
    labels: npt.NDArray[np.int64] | None
    """(M,) class index, -1 without one; None for those that the shards have."""
    classes: tuple[str, ...] | None
    """Names that ``labels`` count; None for those of the dataset."""


def select(
    indexes: ShardIndexes,
    *,
    dataset_classes: Sequence[str],
    where: "str | pa.compute.Expression | None" = None,
    classes: Sequence[str] | None = None,
    labels: str | None = None,
) -> Selection | None:
    """Choose samples of a split.

    Args:
        indexes: Of all shards of the split.
        dataset_classes: Names of the dataset's classes.
        where: Condition on the columns of ``samples.parquet``: text, as
            :func:`gopstream.shards.where.compile_where` reads it, or a pyarrow expression.
        classes: Only the samples of these are chosen; their labels become 0, 1, ... in this
            order.
        labels: Name of other labels, from ``gopstream relabel``; samples that they leave out are
            not chosen, and ``classes`` are theirs.

    Returns:
        The samples; None for all, as they are.

    Raises:
        WhereError: If the condition or a class is not one of this split, or if no sample is left.
        ShardError: If ``samples.parquet`` or the labels are not there or are those of other
            samples, or if pyarrow is not installed.
    """
    if where is None and classes is None and labels is None:
        return None
    view = None if labels is None else load_label_view(indexes.storage, indexes.split, labels)
    known = tuple(dataset_classes) if view is None else view.classes
    numbers = None if classes is None else _renumbering(classes, known)
    keep = np.ones(int(indexes.starts[-1]), np.bool_)
    stored: npt.NDArray[np.int64] | None = None if view is None else view.labels
    if where is not None or stored is None:
        wants_labels = stored is None and numbers is not None
        keep, stored_now = _scan(
            indexes, where, dataset_classes, view=view, wants_labels=wants_labels
        )
        stored = stored_now if wants_labels else stored
    if stored is not None:
        if numbers is not None:
            stored = numbers[stored]
        keep &= stored != LEFT_OUT
    positions = np.flatnonzero(keep)
    if not len(positions):
        asked = f"where={where!s}, classes={classes}, labels={labels}"
        raise WhereError(f"{_place(indexes)}: no sample is left of {len(keep)} by {asked}")
    if stored is None:
        return Selection(positions, None, None)
    return Selection(positions, stored[positions], known if classes is None else tuple(classes))


def stored_labels(indexes: ShardIndexes, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the labels that ``samples.parquet`` has, -1 without one: (N,).

    Args:
        indexes: Of all shards of the split.
        classes: Names of the dataset's classes.

    Raises:
        ShardError: If ``samples.parquet`` is not there or is of other samples, or if pyarrow is
            not installed.
    """
    return _scan(indexes, None, classes, view=None, wants_labels=True)[1]


def class_weights(
    labels: npt.NDArray[np.integer[Any]], classes: Sequence[str], *, weights: Mapping[str, float]
) -> npt.NDArray[np.float64]:
    """Return the weight of each sample by its class.

    Args:
        labels: (M,) class indices, -1 without one.
        classes: Their names.
        weights: By name; the empty name is for samples without a class. 1 for those not named.

    Raises:
        WhereError: If there is no such class.
    """
    names = [*classes, ""]
    unknown = [name for name in weights if name not in names]
    if unknown:
        hint = did_you_mean(unknown[0], names, cutoff=0.0)
        raise WhereError(f"weights: there is no class {unknown[0]!r}{hint}")
    by_number = np.array([float(weights.get(name, 1.0)) for name in names])
    return np.take(by_number, labels)  # -1 is the last


def column_weights(
    indexes: ShardIndexes, column: str, *, selection: Selection | None = None
) -> npt.NDArray[np.float64]:
    """Return the weight of each sample from a column of ``samples.parquet``: (M,).

    Args:
        indexes: Of all shards of the split.
        column: Of numbers, none missing or negative.
        selection: The samples; None for all.

    Raises:
        WhereError: If there is no such column, or a weight is missing, negative or not finite.
        ShardError: If ``samples.parquet`` is not there or is of other samples, or if pyarrow is
            not installed.
    """
    import_pyarrow("weights")
    import pyarrow.compute as pc

    weights = np.empty(int(indexes.starts[-1]), np.float64)
    with _table(indexes) as table:
        if column not in table.schema.names:
            hint = did_you_mean(column, table.schema.names, cutoff=0.0)
            raise WhereError(f"weights: there is no column {column!r}{hint}")
        if column_kind(table.schema.field(column).type) != "number":
            raise WhereError(f"weights: the column {column!r} does not hold numbers")
        for start, batch in _batches(indexes, table, {_KEEP: pc.field(column)}):
            values = batch.column(_KEEP).to_numpy(zero_copy_only=False)  # a missing one is NaN
            weights[start : start + len(values)] = values
    if selection is not None:
        weights = weights[selection.positions]
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise WhereError(
            f"weights: the column {column!r} has weights that are missing, negative or not finite; "
            "leave such samples out with where="
        )
    return weights


def import_pyarrow(option: str) -> None:
    """Fail with a clear message where pyarrow is not installed.

    Raises:
        ShardError: Saying what needs it.
    """
    try:
        import pyarrow.dataset  # noqa: F401
    except ImportError as error:
        raise ShardError(
            f"{option} reads {SAMPLES_FILE}, which needs pyarrow: pip install pyarrow"
        ) from error


def _renumbering(classes: Sequence[str], known: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the new label by the old one; LEFT_OUT and -1, the last two, stay out.

    Raises:
        WhereError: Naming the class that there is not, or that is named twice.
    """
    numbers = np.full(len(known) + 2, LEFT_OUT, np.int64)
    for number, name in enumerate(classes):
        if name not in known:
            hint = did_you_mean(name, known, cutoff=0.0)
            raise WhereError(f"classes: there is no class {name!r}{hint}")
        if numbers[known.index(name)] != LEFT_OUT:
            raise WhereError(f"classes: {name!r} is named twice")
        numbers[known.index(name)] = number
    return numbers


def _scan(
    indexes: ShardIndexes,
    where: "str | pa.compute.Expression | None",
    dataset_classes: Sequence[str],
    *,
    view: LabelView | None,
    wants_labels: bool,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return which rows fulfil a condition, (N,), and their labels, (N,) or (0,)."""
    import_pyarrow("where=" if where is not None else "classes=")
    import pyarrow.compute as pc

    num_samples = int(indexes.starts[-1])
    keep = np.ones(num_samples, np.bool_)
    labels = np.empty(num_samples if wants_labels else 0, np.int64)
    with _table(indexes) as table:
        columns = {LABEL_COLUMN: pc.field(LABEL_COLUMN)} if wants_labels else {}
        if isinstance(where, str):
            own = view is None
            condition = compile_where(
                where, table.schema, classes=dataset_classes, has_own_labels=own
            )
            columns[_KEEP] = condition.expression
        elif where is not None:
            columns[_KEEP] = _checked(where, table)
        for start, batch in _batches(indexes, table, columns):
            rows = slice(start, start + batch.num_rows)
            if where is not None:
                keep[rows] = batch.column(_KEEP).fill_null(False).to_numpy(zero_copy_only=False)
            if wants_labels:
                labels[rows] = batch.column(LABEL_COLUMN).fill_null(NO_LABEL).to_numpy()
    if len(labels) and not np.all((labels >= NO_LABEL) & (labels < len(dataset_classes))):
        raise FormatError(f"{_place(indexes)}/{SAMPLES_FILE}: has labels of no class")
    return keep, labels


def _checked(
    where: "pa.compute.Expression", table: "pa.dataset.Dataset"
) -> "pa.compute.Expression":
    """Return a condition that was given as an expression.

    Raises:
        WhereError: If it does not fit the table.
    """
    import pyarrow as pa

    try:
        kind = table.scanner(columns={_KEEP: where}).projected_schema.field(_KEEP).type
    except (pa.ArrowException, TypeError) as error:
        unknown = _UNKNOWN_FIELD.search(str(error))
        hint = did_you_mean(unknown[1], table.schema.names, cutoff=0.0) if unknown else ""
        problem = str(error).partition("\n")[0]
        raise WhereError(
            f"where={where!s}: does not fit {SAMPLES_FILE} ({problem}){hint}"
        ) from error
    if not pa.types.is_boolean(kind):
        raise WhereError(f"where={where!s}: gives {kind}, not true or false")
    return where


@contextmanager
def _table(indexes: ShardIndexes) -> "Iterator[pa.dataset.Dataset]":
    """Open ``samples.parquet``; some shards' keys are compared with their indexes.

    Raises:
        ShardError: If it is not there, damaged, or of other samples.
    """
    import pyarrow as pa
    import pyarrow.dataset
    import pyarrow.parquet

    where = f"{_place(indexes)}/{SAMPLES_FILE}"
    try:
        with indexes.storage.local_copy(f"{indexes.split}/{SAMPLES_FILE}") as path:
            _check_keys(indexes, path, where)
            yield pyarrow.dataset.dataset(path, format="parquet")
    except FileNotFoundError as error:
        raise ShardError(f"{where}: is missing; is the split finished?") from error
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{where}: cannot be read so ({error})") from error


def _check_keys(indexes: ShardIndexes, path: Path, where: str) -> None:
    """Compare the keys of a few shards, spread over the split, with those of the table."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        if file.metadata.num_rows != indexes.starts[-1]:
            raise _other_samples(where)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum(groups)
        chosen = np.unique(np.linspace(0, len(indexes) - 1, _SHARDS_BY_KEY).astype(np.int64))
        for shard in chosen.tolist() if len(indexes) else []:
            start, end = indexes.starts[shard : shard + 2].tolist()
            if start == end:
                continue
            first, last = np.searchsorted(ends, [start, end - 1], side="right").tolist()
            keys = file.read_row_groups(list(range(first, last + 1)), columns=["key"]).column(0)
            skipped = start - (int(ends[first]) - groups[first])
            listed = keys.slice(skipped, end - start).to_pylist()
            if listed != [key.decode() for key in indexes[shard].keys.tolist()]:
                raise _other_samples(where)


def _batches(
    indexes: ShardIndexes, table: "pa.dataset.Dataset", columns: "Mapping[str, Any]"
) -> "Iterator[tuple[int, pa.RecordBatch]]":
    """Yield the place of the first row and the columns of batch after batch.

    Raises:
        FormatError: If the rows are not those of the manifest's shards, in their order.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    where = f"{_place(indexes)}/{SAMPLES_FILE}"
    shards = np.array([int(name) for name in indexes.names.tolist()], np.int32)
    wanted = {**columns, _SHARD: pc.field(_SHARD).cast(pa.int32())}
    start = 0
    for batch in table.to_batches(
        columns=wanted, batch_size=_ROWS_AT_ONCE, batch_readahead=2, fragment_readahead=1
    ):
        rows = np.arange(start, start + batch.num_rows)
        expected = shards[indexes.shards_of(rows)]
        found = batch.column(_SHARD)
        if found.null_count or not np.array_equal(found.to_numpy(), expected):
            raise _other_samples(where)
        yield start, batch
        start += batch.num_rows


def _other_samples(where: str) -> FormatError:
    return FormatError(
        f"{where}: lists other samples than {MANIFEST_FILE}, or in another order; run 'gopstream "
        "verify' to see all faults"
    )


def _place(indexes: ShardIndexes) -> str:
    return f"{indexes.storage.url}/{indexes.split}"
