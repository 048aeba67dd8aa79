"""Take samples out of a finished dataset, every byte of them (takedown).

What is to be removed is written down first, in ``SPLIT/removal.json``, and this file is deleted
last. Everything between depends on it alone and can be done again: a removal that was killed is
completed by the next one, with the same bytes in the end. The names of removed videos stay in
``SPLIT/removed.json``.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from gopstream.jobs.console import progress
from gopstream.jobs.plan import PlanPart
from gopstream.jobs.plan_files import load_parts
from gopstream.jobs.publish import is_published, publish_split
from gopstream.shards.dataset_files import (
    DatasetFacts,
    check_format,
    load_dataset,
    load_json,
    load_manifest,
    planned_splits,
)
from gopstream.shards.edit_files import check_changeable
from gopstream.shards.edit_shard import REMOVAL_FILE, read_report, remove_from_shard
from gopstream.shards.errors import FormatError, SettingsError
from gopstream.shards.layout import FORMAT_VERSION, check_shard_name, dump_json
from gopstream.shards.removed_sources import add_removed_sources, removed_sources
from gopstream.shards.sample_table import read_samples
from gopstream.shards.storage import Storage

_SHOWN: Final = 5


class Removal(NamedTuple):
    """What was removed."""

    keys: tuple[str, ...]
    sources: Mapping[str, tuple[str, ...]]
    """Names of videos, by split."""
    shards: Mapping[str, tuple[str, ...]]
    """Those written again, by split."""
    completed: bool
    """Whether an earlier removal had been interrupted."""


@dataclass(slots=True)
class _Wanted:
    """What is to be removed from a split."""

    shards: dict[str, set[str]] = field(default_factory=dict)
    """Keys of samples by the name of their shard; none where videos have only failed."""
    sources: set[str] = field(default_factory=set)
    """Names of videos."""

    @property
    def keys(self) -> set[str]:
        return set().union(*self.shards.values())

    def add(self, other: "_Wanted") -> None:
        for shard, keys in other.shards.items():
            self.shards.setdefault(shard, set()).update(keys)
        self.sources |= other.sources


def remove_samples(
    storage: Storage, *, keys: Collection[str] = (), sources: Collection[str] = ()
) -> Removal:
    """Remove samples from the shards, their indexes and reports, the tables and the manifest.

    Other shards are not touched. A video that is removed by its name is gone for good: it no
    longer counts as failed, and ``--append`` and ``--retry-failed`` leave out all of its segments.
    A removal that was interrupted is completed at once.

    Args:
        storage: Of the dataset.
        keys: Of the samples.
        sources: Names of planned videos, all of whose samples are removed.

    Raises:
        SettingsError: If there is no such sample or video, nothing to do, the split is not
            finished, or the dataset cannot be changed; nothing is changed then.
        DamageError: If an object that must be written again is damaged.
    """
    facts = load_dataset(storage)
    splits = planned_splits(storage)
    check_changeable(storage, splits)
    pending = {split: held for split in splits if (held := _load_pending(storage, split))}
    if not keys and not sources and not pending:
        raise SettingsError("nothing to remove: give --key or --source")
    todo = _find(storage, splits, set(keys), set(sources), pending)
    for split, unfinished in pending.items():
        todo.setdefault(split, _Wanted()).add(unfinished)
    parts = {split: _check_ready(storage, split) for split in sorted(todo)}
    shards = {
        split: _remove(storage, split, todo[split], facts, parts=parts[split]) for split in parts
    }
    return Removal(
        keys=tuple(sorted(key for wanted in todo.values() for key in wanted.keys)),
        sources={split: tuple(sorted(todo[split].sources)) for split in parts},
        shards=shards,
        completed=bool(pending),
    )


def _remove(
    storage: Storage,
    split: str,
    wanted: _Wanted,
    facts: DatasetFacts,
    *,
    parts: Sequence[PlanPart],
) -> tuple[str, ...]:
    """Remove from one split; returns the shards that had some of the samples."""
    content = {
        "format": FORMAT_VERSION,
        "shards": {shard: sorted(keys) for shard, keys in wanted.shards.items()},
        "sources": sorted(wanted.sources),
    }
    storage.write(f"{split}/{REMOVAL_FILE}", dump_json(content))
    add_removed_sources(storage, split, wanted.sources)
    written = []
    with progress(f"removing from {split}", total=len(wanted.shards), unit="shards") as advance:
        for shard, keys in sorted(wanted.shards.items()):
            if remove_from_shard(storage, split, shard, keys, sources=wanted.sources):
                written.append(shard)
            advance()
    publish_split(storage, split, parts, facts)
    storage.delete(f"{split}/{REMOVAL_FILE}")
    return tuple(written)


def _load_pending(storage: Storage, split: str) -> _Wanted | None:
    """Return what an interrupted removal was about; None if there was none."""
    name = f"{split}/{REMOVAL_FILE}"
    where = f"{storage.url}/{name}"
    try:
        content = load_json(storage, name)
    except FileNotFoundError:
        return None
    check_format(content, where)
    try:
        shards = {check_shard_name(name): set(keys) for name, keys in content["shards"].items()}
        return _Wanted(shards, set(content.get("sources", [])))
    except (KeyError, AttributeError, TypeError) as error:
        raise FormatError(f"{where}: not a list of samples to remove ({error!r})") from error


def _check_ready(storage: Storage, split: str) -> list[PlanPart]:
    """Refuse a split that other commands have not finished; returns its plan."""
    parts = load_parts(storage, split)
    if not is_published(storage, split, parts):
        raise SettingsError(
            f"{storage.url}/{split} is not finished; run the command that made it again, and then "
            "this"
        )
    # Side tars that nothing lists yet could hold the samples too.
    listed = {name for shard in load_manifest(storage, split).shards for name in shard.files}
    stray = [
        name for name in storage.list_names(split) if name.endswith(".tar") and name not in listed
    ]
    if stray:
        raise SettingsError(
            f"{storage.url}/{split}/{stray[0]} is left from an interrupted 'gopstream planes'; run "
            "that again first, or drop the plane"
        )
    return parts


def _find(
    storage: Storage,
    splits: Sequence[str],
    keys: set[str],
    sources: set[str],
    pending: Mapping[str, _Wanted],
) -> dict[str, _Wanted]:
    """Return what is where; what is gone already is not among it."""
    found: dict[str, _Wanted] = defaultdict(_Wanted)
    unknown = keys | sources
    for split in splits:
        for key, source, shard in _samples(storage, split):
            if key in keys or source in sources:
                found[split].shards.setdefault(shard, set()).add(key)
                unknown.discard(key)
        if sources:
            planned = _find_planned(storage, split, sources)
            unknown -= planned.sources
            is_new = not planned.sources <= removed_sources(storage, split)
            if is_new or split in found:
                found[split].add(planned)
    unknown -= {key for held in pending.values() for key in held.keys}
    if unknown:
        unknown -= _removed_before(storage, splits)
    if unknown:
        listed = ", ".join(sorted(unknown)[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        raise SettingsError(
            f"{storage.url}: there is no sample or video {listed}; nothing was removed"
        )
    return found


def _find_planned(storage: Storage, split: str, sources: set[str]) -> _Wanted:
    """Return which of the videos a split's plan has, and their shards, without any keys."""
    planned = _Wanted()
    names = pa.array(sorted(sources), pa.string())
    for part in load_parts(storage, split):
        column = part.table.column("name")
        rows = np.flatnonzero(pyarrow.compute.is_in(column, names).to_numpy())
        ends = [part.bounds(number)[1] for number in range(part.num_shards)]
        numbers = np.unique(np.searchsorted(ends, rows, side="right")).tolist()
        shard_names = part.shard_names if numbers else []
        shards: dict[str, set[str]] = {shard_names[number]: set() for number in numbers}
        planned.add(_Wanted(shards, set(column.take(rows).to_pylist())))
    return planned


def _samples(storage: Storage, split: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, source and shard of each sample."""
    for batch in read_samples(storage, split, columns=["key", "source", "shard"]):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _removed_before(storage: Storage, splits: Sequence[str]) -> set[str]:
    """Return the keys of samples that earlier removals have taken out."""
    reports: Iterator[list[dict[str, Any]]] = (
        read_report(storage, split, shard.name)
        for split in splits
        for shard in load_manifest(storage, split).shards
    )
    return {key for rows in reports for row in rows for key in row.get("removed", [])}
