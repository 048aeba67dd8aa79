"""Take samples out of a finished dataset, every byte of them (takedown).

What is to be removed is written down first, in ``SPLIT/removal.json``, and this file is deleted
last. Everything between depends on it alone and can be done again: a removal that was killed is
completed by the next one, with the same bytes in the end.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gopstream.jobs.console import progress
from gopstream.jobs.plan import PlanPart
from gopstream.jobs.plan_files import load_parts
from gopstream.jobs.publish import is_published, publish_split
from gopstream.shards.dataset_files import (
    DatasetFacts,
    check_format,
    load_dataset,
    load_manifest,
    planned_splits,
)
from gopstream.shards.edit_shard import REMOVAL_FILE, read_report, remove_from_shard
from gopstream.shards.errors import FormatError, SettingsError
from gopstream.shards.layout import FORMAT_VERSION, check_shard_name, dump_json, load_json
from gopstream.shards.sample_table import read_samples
from gopstream.shards.storage import Storage

ByShard = dict[str, set[str]]
"""Keys of samples, by the name of their shard."""

_SHOWN: Final = 5


class Removal(NamedTuple):
    """What was removed."""

    keys: tuple[str, ...]
    shards: Mapping[str, tuple[str, ...]]
    """Those written again, by split."""
    completed: bool
    """Whether an earlier removal had been interrupted."""


def remove_samples(
    storage: Storage, *, keys: Collection[str] = (), sources: Collection[str] = ()
) -> Removal:
    """Remove samples from the shards, their indexes and reports, the tables and the manifest.

    Other shards are not touched. The plan keeps the videos' names, so that ``--append`` and
    ``--retry-failed`` do not bring them back. A removal that was interrupted is completed first
    or at once.

    Args:
        storage: Of the dataset.
        keys: Of the samples.
        sources: Names of videos, all of whose samples are removed.

    Raises:
        SettingsError: If there is no such sample or video, nothing to do, or the split is not
            finished; nothing is changed then.
        DamageError: If an object that must be written again is damaged.
    """
    facts = load_dataset(storage)
    splits = planned_splits(storage)
    pending = {split: held for split in splits if (held := _load_pending(storage, split))}
    if not keys and not sources and not pending:
        raise SettingsError("nothing to remove: give --key or --source")
    wanted = _find(storage, splits, set(keys), set(sources), pending)
    todo = {
        split: _merge(pending.get(split, {}), wanted.get(split, {}))
        for split in sorted({*pending, *wanted})
    }
    parts = {split: _check_ready(storage, split) for split in todo}
    for split, by_shard in todo.items():
        _remove(storage, split, by_shard, facts, parts=parts[split])
    return Removal(
        keys=tuple(
            sorted(key for split in todo.values() for held in split.values() for key in held)
        ),
        shards={split: tuple(sorted(by_shard)) for split, by_shard in todo.items()},
        completed=bool(pending),
    )


def _remove(
    storage: Storage,
    split: str,
    by_shard: ByShard,
    facts: DatasetFacts,
    *,
    parts: Sequence[PlanPart],
) -> None:
    content = {
        "format": FORMAT_VERSION,
        "shards": {shard: sorted(keys) for shard, keys in by_shard.items()},
    }
    storage.write(f"{split}/{REMOVAL_FILE}", dump_json(content))
    with progress(f"removing from {split}", total=len(by_shard), unit="shards") as advance:
        for shard, keys in sorted(by_shard.items()):
            remove_from_shard(storage, split, shard, keys)
            advance()
    publish_split(storage, split, parts, facts)
    storage.delete(f"{split}/{REMOVAL_FILE}")


def _load_pending(storage: Storage, split: str) -> ByShard:
    """Return what an interrupted removal was about."""
    name = f"{split}/{REMOVAL_FILE}"
    where = f"{storage.url}/{name}"
    try:
        content = load_json(storage, name)
    except FileNotFoundError:
        return {}
    check_format(content, where)
    try:
        return {check_shard_name(name): set(keys) for name, keys in content["shards"].items()}
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
    pending: Mapping[str, ByShard],
) -> dict[str, ByShard]:
    """Return where the samples are; those that are gone already are not among them."""
    found: dict[str, ByShard] = defaultdict(lambda: defaultdict(set))
    unknown = keys | sources
    for split in splits:
        for key, source, shard in _samples(storage, split):
            if key in keys or source in sources:
                found[split][shard].add(key)
                unknown -= {key, source}
    unknown -= {key for held in pending.values() for gone in held.values() for key in gone}
    if unknown:
        unknown -= _removed_before(storage, splits)
    if unknown:
        listed = ", ".join(sorted(unknown)[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        raise SettingsError(
            f"{storage.url}: there is no sample or video {listed}; nothing was removed"
        )
    return found


def _samples(storage: Storage, split: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, source and shard of each sample."""
    for batch in read_samples(storage, split, columns=["key", "source", "shard"]):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _removed_before(storage: Storage, splits: Sequence[str]) -> set[str]:
    """Return the keys and sources of samples that earlier removals have taken out."""
    rows: Iterator[dict[str, Any]] = (
        row
        for split in splits
        for shard in load_manifest(storage, split).shards
        for row in read_report(storage, split, shard.name)
        if row.get("removed")
    )
    return {name for row in rows for name in (*row["removed"], row["source"])}


def _merge(first: Mapping[str, set[str]], second: Mapping[str, set[str]]) -> ByShard:
    return {
        shard: first.get(shard, set()) | second.get(shard, set())
        for shard in sorted({*first, *second})
    }
