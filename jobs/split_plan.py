"""Decide what a run adds to a split's plan: all of it, appended videos, or failed ones again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute

from gopstream.jobs.console import say
from gopstream.jobs.plan import PartKind, PlanPart, VideoId, make_part, order_videos, video_id
from gopstream.jobs.plan_files import check_same_part
from gopstream.jobs.publish import is_published
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.annotations.record import VideoRecord
from gopstream.shards.dataset_files import DatasetFacts
from gopstream.shards.edit_shard import REMOVAL_FILE
from gopstream.shards.errors import SettingsError
from gopstream.shards.layout import FAILURES_FILE
from gopstream.shards.removed_sources import removed_sources
from gopstream.shards.storage import Storage

Sizing = Callable[[pa.Table], int]
"""Tells from ordered videos how many make a shard."""


class SplitPlan(NamedTuple):
    """The parts of a split's plan."""

    held: list[PlanPart]
    """Those that are frozen already."""
    new: PlanPart | None = None
    """One more."""

    @property
    def parts(self) -> list[PlanPart]:
        """All of them."""
        return [*self.held, *([] if self.new is None else [self.new])]


def plan_first(
    where: str,
    records: Sequence[VideoRecord],
    held: list[PlanPart],
    facts: DatasetFacts,
    *,
    choice: PlanChoice,
    sizing: Sizing,
) -> SplitPlan:
    """Plan a split, or see that it was planned just so.

    Args:
        where: The split, for messages.
        records: Its videos.
        held: Parts that are frozen already.
        facts: Of the dataset.
        choice: What the user chose of the plan.
        sizing: Asked only if nothing is planned and the user did not say.

    Raises:
        SettingsError: If the frozen plan is another one.
    """
    table = order_videos(records, classes=facts.classes, seed=choice.seed, limit=choice.limit)
    per_shard = choice.videos_per_shard
    if per_shard is None:
        per_shard = held[0].videos_per_shard if held else sizing(table)
    part = make_part(
        table,
        kind="first",
        seed=choice.seed,
        limit=choice.limit,
        videos_per_shard=per_shard,
    )
    if held:
        check_same_part(where, held[0], part)
        # Where videos are may have changed since, or some may have come.
        return SplitPlan([replace(held[0], table=part.table), *held[1:]])
    return SplitPlan([], part)


def plan_append(
    storage: Storage,
    split: str,
    records: Sequence[VideoRecord],
    held: list[PlanPart],
    facts: DatasetFacts,
    *,
    choice: PlanChoice,
    sizing: Sizing,
) -> SplitPlan:
    """Plan those videos of a list that the split does not have yet.

    The list may be the new videos alone, or old and new together.

    Raises:
        SettingsError: If an old video has another label now, or an earlier part is unfinished.
    """
    where = f"{storage.url}/{split}"
    unfinished = _unfinished(storage, split, held, kind="append")
    done = held if unfinished is None else held[:-1]
    known, gone = _labels_by_id(done), removed_sources(storage, split)
    new, num_removed = [], 0
    for record in records:
        if record.name in gone:
            num_removed += 1
        elif video_id(record) not in known:
            new.append(record)
        elif known[video_id(record)] != record.label:
            raise SettingsError(
                f"{where}: {record.name} has the label {known[video_id(record)]!r}, now it is "
                f"{record.label!r}; 'gopstream relabel' changes labels"
            )
    said = f"{split}: {len(new)} of {len(records)} listed videos are new"
    if num_removed:
        said += f"; {num_removed} were taken out with 'gopstream remove' and stay out"
    say(said)
    if not new:
        return SplitPlan(held)
    first_index = sum(part.num_videos for part in done if part.kind != "retry")
    table = order_videos(
        new, classes=facts.classes, seed=choice.seed, limit=choice.limit, first_index=first_index
    )
    part = _further_part(table, done, kind="append", choice=choice, held=unfinished, sizing=sizing)
    if unfinished is not None:
        check_same_part(where, unfinished, part)
        return SplitPlan([*held[:-1], replace(unfinished, table=part.table)])
    return SplitPlan(held, part)


def plan_retry(
    storage: Storage,
    split: str,
    held: list[PlanPart],
    *,
    choice: PlanChoice,
    find: Callable[[pa.Table, Sequence[PlanPart]], pa.Table],
) -> SplitPlan:
    """Plan the failed videos of a finished split once more.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        held: Parts that are frozen already.
        choice: What the user chose of the plan.
        find: Looks up where videos of a plan are now.

    Raises:
        SettingsError: If the split is not finished, or an unfinished retry has other shards.
    """
    where = f"{storage.url}/{split}"
    if not held:
        raise SettingsError(f"{where}: nothing is planned; run without --retry-failed first")
    unfinished = _unfinished(storage, split, held, kind="retry")
    if unfinished is not None:
        if choice.videos_per_shard not in (None, unfinished.videos_per_shard):
            raise SettingsError(
                f"{where}: the retry that was begun has --videos-per-shard "
                f"{unfinished.videos_per_shard}; use the same, or leave it out"
            )
        return SplitPlan(held)
    gone = removed_sources(storage, split)
    rows = map(json.loads, storage.read(f"{split}/{FAILURES_FILE}").splitlines())
    again = {row["video"] for row in rows if row["source"] not in gone}
    failed = pa.array(sorted(again), pa.int64())
    if not len(failed):
        return SplitPlan(held)
    tables = [part.table for part in held if part.kind != "retry"]
    videos = pa.concat_tables(tables)
    table = find(videos.filter(pyarrow.compute.is_in(videos.column("index"), failed)), held)
    part = _further_part(
        table,
        held,
        kind="retry",
        choice=choice,
        held=None,
        sizing=lambda _: held[0].videos_per_shard,
    )
    return SplitPlan(held, part)


def _further_part(
    table: pa.Table,
    done: Sequence[PlanPart],
    *,
    kind: PartKind,
    choice: PlanChoice,
    held: PlanPart | None,
    sizing: Sizing,
) -> PlanPart:
    per_shard = choice.videos_per_shard
    if per_shard is None:
        per_shard = sizing(table) if held is None else held.videos_per_shard
    return make_part(
        table,
        kind=kind,
        seed=choice.seed,
        limit=choice.limit,
        videos_per_shard=per_shard,
        first_shard=sum(part.num_shards for part in done),
    )


def _unfinished(
    storage: Storage, split: str, held: Sequence[PlanPart], *, kind: PartKind
) -> PlanPart | None:
    """Return the last part if it is unfinished and of this kind; None if all are finished.

    Raises:
        SettingsError: If an unfinished part is of another kind, or a removal is unfinished.
    """
    if storage.exists(f"{split}/{REMOVAL_FILE}"):
        raise SettingsError(
            f"{storage.url}/{split}: a removal was interrupted; complete it with 'gopstream remove "
            f"{storage.url}' first"
        )
    if is_published(storage, split, held):
        return None
    if held[-1].kind == kind:
        return held[-1]
    raise SettingsError(
        f"{storage.url}/{split} is not finished; run the command that made it again, and then this"
    )


def _labels_by_id(parts: Sequence[PlanPart]) -> dict[VideoId, str | None]:
    labels: dict[VideoId, str | None] = {}
    for part in parts:
        columns = ("name", "start_seconds", "end_seconds", "class")
        values = (part.table.column(name).to_pylist() for name in columns)
        for name, start, end, label in zip(*values, strict=True):
            labels[name, start, end] = label
    return labels
