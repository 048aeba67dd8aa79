"""Verify all splits of a dataset in worker processes, and gather the faults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from gopstream.jobs.console import progress
from gopstream.jobs.verify_journal import append_result, read_clean, shard_digest
from gopstream.jobs.worker_pool import DEFAULT_STALL_SECONDS, WorkerError, run_tasks
from gopstream.jobs.worker_process import ItemFault, Reporter
from gopstream.shards.dataset_files import (
    Manifest,
    ShardRecord,
    is_finished,
    load_dataset,
    planned_splits,
)
from gopstream.shards.errors import ShardError
from gopstream.shards.layout import SAMPLES_FILE
from gopstream.shards.source_overlap import shared_sources
from gopstream.shards.storage import Storage, as_storage
from gopstream.shards.verify import Fault, SplitToVerify, open_split, verify_shard

_SHOWN_SOURCES: Final = 20


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """What a worker process needs to verify one shard."""

    context: SplitToVerify
    shard: ShardRecord
    journal: Path | None


def verify_dataset(
    place: Storage | Path | str,
    *,
    split: str | None = None,
    rebuild: bool = False,
    workers: int = 1,
    journal: Path | None = None,
    allow_shared_sources: bool = False,
    stall_seconds: float = DEFAULT_STALL_SECONDS,
) -> dict[str, Any]:
    """Verify one split, or all.

    Args:
        place: The dataset.
        split: Name of the split; None for all.
        rebuild: Also rebuild all frames; needs the residual.
        workers: Processes; each looks at one shard at a time.
        journal: File that keeps what was found. A shard that was whole when it was read last is
            not read again, unless its record in the manifest has changed.
        allow_shared_sources: Do not compare the splits' source videos.
        stall_seconds: A shard without any progress for so long is a fault.

    Returns:
        ``splits``, ``shards``, ``samples`` that the manifests list, ``known`` as the number of
        shards that were not read again, ``faults`` as a list of objects with split, shard, key
        and what.

    Raises:
        ShardError: If there is no dataset or no such split, or workers died without reason.
        StoreError: If object storage does not answer.
    """
    storage = as_storage(place)
    load_dataset(storage)
    splits = planned_splits(storage)
    if split is not None and split not in splits:
        raise ShardError(
            f"{storage.url}: no split {split!r}; there is {', '.join(splits) or 'none'}"
        )
    chosen = splits if split is None else [split]
    result: dict[str, Any] = {"splits": len(chosen), "shards": 0, "samples": 0, "known": 0}
    found: dict[str, list[Fault]] = {name: [] for name in chosen}
    checks: list[ShardCheck] = []
    for name in chosen:
        opened = open_split(storage, name, rebuild=rebuild, faults=found[name])
        if opened is not None:
            context, manifest = opened
            known = set() if journal is None else read_clean(journal, rebuild=context.rebuild)
            todo = _unknown_shards(context, manifest, known)
            checks += [ShardCheck(context, shard, journal) for shard in todo]
            result["shards"] += len(manifest.shards)
            result["samples"] += manifest.num_samples
            result["known"] += len(manifest.shards) - len(todo)
    for check, faults in zip(checks, _run(checks, workers, stall_seconds), strict=True):
        found[check.context.split] += faults
    entries = [_entry(name, fault) for name, faults in found.items() for fault in faults]
    if not chosen:
        entries.append(_entry("", Fault("", "", f"{storage.url} has no split")))
    if not allow_shared_sources:
        entries += _overlaps(storage, splits, chosen)
    return result | {"faults": entries}


def _unknown_shards(
    context: SplitToVerify, manifest: Manifest, known: set[str]
) -> list[ShardRecord]:
    """Return the shards that must be read: not known to be whole, or not there any more."""
    if not known:
        return list(manifest.shards)
    names = set(context.storage.list_names(context.split))
    return [
        shard
        for shard in manifest.shards
        if not shard.files.keys() <= names or _digest(context, shard) not in known
    ]


def _digest(context: SplitToVerify, shard: ShardRecord) -> str:
    return shard_digest(context.storage.url, context.split, shard, context.facts)


def _run(checks: Sequence[ShardCheck], workers: int, stall_seconds: float) -> list[list[Fault]]:
    """Return the faults of each shard."""
    if not checks:
        return []
    with progress("verifying", total=len(checks), unit="shards") as advance:
        try:
            return run_tasks(
                checks,
                check_shard,
                workers=min(workers, len(checks)),
                stall_seconds=stall_seconds,
                on_item=lambda _: advance(),
            )
        except WorkerError as error:
            raise ShardError(f"{error} (out of memory?); try fewer --workers") from error


def check_shard(
    check: ShardCheck, reporter: Reporter, faults: Mapping[int, ItemFault]
) -> list[Fault]:
    """Verify one shard: the work of a process.

    Args:
        check: The shard.
        reporter: Hears of each member.
        faults: Under 0, why an earlier worker did not survive the shard: that is a fault then.
    """
    context, shard = check.context, check.shard
    if (lost := faults.get(0)) is not None:
        message = lost.message.replace("this video killed", "it killed").split(";")[0]
        found = [Fault(shard.name, "", f"could not be verified ({lost.error}: {message})")]
    else:
        reporter.started(0)
        found = verify_shard(context, shard, on_progress=reporter.beat)
    if check.journal is not None:
        append_result(
            check.journal,
            _digest(context, shard),
            found,
            shard=shard,
            split=context.split,
            rebuild=context.rebuild,
        )
    reporter.finished(0, succeeded=not found)
    return found


def _overlaps(
    storage: Storage, splits: Sequence[str], chosen: Sequence[str]
) -> list[dict[str, str]]:
    """Return a fault for each video that two splits share; of pairs that have a chosen split."""
    faults = []
    finished = [name for name in splits if is_finished(storage, name)]
    for first, second in combinations(finished, 2):
        if first not in chosen and second not in chosen:
            continue
        try:
            shared = list(shared_sources(storage, first, second).values())
        except ShardError as error:
            what = f"cannot be compared with {second}: {error}"
            faults.append(_entry(first, Fault(SAMPLES_FILE, "", what)))
            continue
        whats = [f"{a} is also in {second}, as {b} (the same file)" for a, b in shared]
        if len(whats) > _SHOWN_SOURCES:
            rest = len(whats) - _SHOWN_SOURCES
            whats[_SHOWN_SOURCES:] = [f"{rest} more videos are also in {second}"]
        faults += [_entry(first, Fault(SAMPLES_FILE, "", what)) for what in whats]
    return faults


def _entry(split: str, fault: Fault) -> dict[str, str]:
    return {"split": split, **fault._asdict()}
