"""Check that plan, reports, tables and manifest of a split tell the same story.

Reports are read in order, some at a time: a split of millions of videos needs little memory.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from gopstream.shards.dataset_files import (
    DatasetFacts,
    Manifest,
    ShardRecord,
    check_format,
    load_json,
)
from gopstream.shards.edit_shard import REMOVAL_FILE, read_report
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.layout import (
    FAILURES_FILE,
    MANIFEST_FILE,
    PLAN_FILE,
    SAMPLES_FILE,
    files_name,
    report_name,
    shard_name,
    tar_name,
)
from gopstream.shards.removed_sources import REMOVED_FILE, removed_sources
from gopstream.shards.sample_table import read_samples
from gopstream.shards.storage import Storage
from gopstream.shards.user_plane import user_planes

_PART_NAME: Final = re.compile(r"plan-([0-9]{4})\.json")
_SHARD_FILE: Final = re.compile(r"([0-9]{6})\..+")
_READ_AT_ONCE: Final = 32


class PlannedShard(NamedTuple):
    """How much was planned for a shard."""

    name: str
    num_videos: int
    part: int
    """Of the plan."""
    first_video: int | None
    """Index of its first video; the others follow. None if they need not be in a row."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """The shards of all parts of a split's plan."""

    shards: tuple[PlannedShard, ...]
    is_early: bool
    """Of the first form, which listed each video and knew no records of a shard's files."""
    num_parts: int


def check_plan(
    storage: Storage, manifest: Manifest, facts: DatasetFacts, *, split: str
) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong): each planned video must be done, failed or removed.

    Args:
        storage: Of the dataset.
        manifest: Of the split.
        facts: Of the dataset.
        split: Name of the split.
    """
    names = storage.list_names(split)
    if REMOVAL_FILE in names:
        yield (
            REMOVAL_FILE,
            "samples were being removed when it was interrupted; run 'gopstream remove' again to "
            "complete it",
        )
    try:
        plan = _load_plan(storage, split, names)
    except (OSError, ShardError) as error:
        yield PLAN_FILE, f"cannot be read ({error})"
        return
    yield from _check_lists(manifest, plan, names)
    yield from _check_planes(manifest)
    story = _Story((*facts.classes, ""))
    try:
        story.removed = removed_sources(storage, split)
    except ShardError as error:
        yield REMOVED_FILE, str(error)
    planned = {shard.name: shard for shard in plan.shards}
    for shard, rows in _read_reports(storage, split, manifest.shards):
        if isinstance(rows, str):
            yield report_name(shard.name), rows
            story.is_whole = False
            continue
        for what in story.take(shard, rows, planned.get(shard.name)):
            yield report_name(shard.name), what
    yield from _check_counts(manifest, plan, story, split=split)
    yield from _check_tables(storage, split, story, names)


def _load_plan(storage: Storage, split: str, names: Sequence[str]) -> SplitPlan:
    """Read the headers of all parts of the plan.

    Raises:
        FormatError: If one is damaged or missing between others.
        FileNotFoundError: If there is none.
    """
    first = _load_part(storage, split, PLAN_FILE)
    if "shards" in first and isinstance(first["shards"], list):
        return _early_plan(first)
    further = sorted(name for name in names if _PART_NAME.fullmatch(name))
    wanted = [f"plan-{number:04d}.json" for number in range(1, len(further) + 1)]
    if further != wanted:
        raise FormatError(f"expected the parts {', '.join(wanted)}, found {', '.join(further)}")
    parts = [first, *(_load_part(storage, split, name) for name in further)]
    shards: list[PlannedShard] = []
    first_video = 0
    for number, part in enumerate(parts):
        is_retry = part.get("kind") == "retry"
        shards += _part_shards(part, number, None if is_retry else first_video)
        first_video += 0 if is_retry else int(part["videos"])
    return SplitPlan(tuple(shards), False, len(parts))


def _load_part(storage: Storage, split: str, name: str) -> dict[str, Any]:
    part = load_json(storage, f"{split}/{name}")
    check_format(part, f"{storage.url}/{split}/{name}")
    return part


def _part_shards(
    part: Mapping[str, Any], number: int, first_video: int | None
) -> list[PlannedShard]:
    """Return the shards of a part: about equal numbers of its videos, one after another."""
    try:
        videos, count, first = (int(part[name]) for name in ("videos", "shards", "first_shard"))
        bounds = [videos * shard // count for shard in range(count + 1)] if count else [0]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"part {number} is not a plan ({error!r})") from error
    return [
        PlannedShard(
            shard_name(first + shard),
            bounds[shard + 1] - bounds[shard],
            number,
            None if first_video is None else first_video + bounds[shard],
        )
        for shard in range(count)
    ]


def _early_plan(plan: Mapping[str, Any]) -> SplitPlan:
    try:
        shards = [(str(shard["name"]), len(list(shard["videos"]))) for shard in plan["shards"]]
    except (KeyError, TypeError) as error:
        raise FormatError(f"not a plan ({error!r})") from error
    return SplitPlan(tuple(PlannedShard(*shard, 0, None) for shard in shards), True, 1)


def _check_lists(
    manifest: Manifest, plan: SplitPlan, names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Compare which shards are planned, listed and there."""
    listed = Counter(shard.name for shard in manifest.shards)
    planned = {shard.name for shard in plan.shards}
    for name in sorted(planned - set(listed)):
        yield name, "is planned, but the manifest does not list it"
    for name in sorted(set(listed) - planned):
        yield name, "is listed in the manifest, but not planned"
    for name, times in sorted(listed.items()):
        if times > 1:
            yield name, f"is listed {times} times in the manifest"
    expected = set()
    for shard in manifest.shards:
        expected |= {*shard.files, files_name(shard.name), report_name(shard.name)}
        if not plan.is_early and files_name(shard.name) not in names:
            yield files_name(shard.name), "is missing"
    for name in names:
        match = _SHARD_FILE.fullmatch(name)
        if match and match[1] in listed and name not in expected:
            yield name, "is there, but the manifest does not list it"


def _check_planes(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Name each shard that lacks a plane which others of the split have."""
    planes = {plane for shard in manifest.shards for plane in user_planes(shard.files)}
    if any(tar_name(shard.name, "residual") in shard.files for shard in manifest.shards):
        planes.add("residual")
    for plane in sorted(planes):
        for shard in manifest.shards:
            name = tar_name(shard.name, plane)
            if name not in shard.files:
                yield (
                    name,
                    f"is not there, but other shards have the plane {plane!r}; 'gopstream planes "
                    "add' makes it where it is missing, 'gopstream planes drop' drops all of it",
                )


class _ShardKeys(NamedTuple):
    """The keys of a shard's samples: millions of them would not fit into memory."""

    shard: str
    num_samples: int
    sha256: str


@dataclass(slots=True)
class _Story:
    """What the reports say together."""

    class_names: tuple[str, ...]
    """Those of the dataset, then the empty one of no label."""
    class_counts: Counter[str] = field(default_factory=Counter)
    num_videos: int = 0
    failed: dict[int, int] = field(default_factory=dict)
    """Part of the plan in which a video failed last."""
    keys: list[_ShardKeys] = field(default_factory=list)
    """Of all shards, in order."""
    is_whole: bool = True
    """Whether all reports could be read."""
    removed: frozenset[str] = frozenset()
    """Names of videos that must have left nothing."""

    def take(
        self, shard: ShardRecord, rows: Sequence[Mapping[str, Any]], planned: PlannedShard | None
    ) -> Iterator[str]:
        """Take a report; yields what is wrong with it."""
        part = 0 if planned is None else planned.part
        expected = 0 if planned is None else planned.num_videos
        if len(rows) != expected:
            yield f"reports {len(rows)} of {expected} planned videos"
        elif planned is not None and planned.first_video is not None:
            first = planned.first_video
            if [row.get("video") for row in rows] != list(range(first, first + expected)):
                yield "reports other videos than were planned for it"
        is_again = planned is not None and part > 0 and planned.first_video is None
        self.num_videos += 0 if is_again else len(rows)
        keys = []
        for row in rows:
            keys += [sample["key"] for sample in row.get("samples", [])]
            self._count(row, part)
            if row.get("source") in self.removed and row.get("status") != "removed":
                yield (
                    f"video {row['source']} is there, but {REMOVED_FILE} lists it as removed; run "
                    f"'gopstream remove --source' again"
                )
        if len(keys) != shard.num_samples:
            yield f"reports {len(keys)} samples of {shard.num_samples}"
        self.keys.append(_ShardKeys(shard.name, len(keys), _hash(keys)))

    def _count(self, row: Mapping[str, Any], part: int) -> None:
        video, status, label = row.get("video"), row.get("status"), row.get("label")
        if isinstance(video, int):
            # A later part tries failed videos again: what it says is what counts.
            if status == "failed":
                self.failed[video] = part
            elif part > 0:
                self.failed.pop(video, None)
        name = f"label {label}"
        if isinstance(label, int) and -1 <= label < len(self.class_names) - 1:
            name = self.class_names[label]
        if row.get("samples"):
            self.class_counts[name] += len(row["samples"])


def _read_reports(
    storage: Storage, split: str, shards: Sequence[ShardRecord]
) -> Iterator[tuple[ShardRecord, list[dict[str, Any]] | str]]:
    """Yield each shard with its report, or with the reason why there is none."""

    def read(shard: ShardRecord) -> list[dict[str, Any]] | str:
        try:
            return read_report(storage, split, shard.name)
        except FormatError as error:
            return str(error)

    rest = iter(shards)
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        while some := list(islice(rest, _READ_AT_ONCE)):
            yield from zip(some, pool.map(read, some), strict=True)


def _check_counts(
    manifest: Manifest, plan: SplitPlan, story: _Story, *, split: str
) -> Iterator[tuple[str, str]]:
    for what, stated, found, teller in (
        ("split", manifest.split, split, "folder is"),
        ("num_plans", manifest.num_plans, plan.num_parts, "plan has"),
        ("num_videos", manifest.num_videos, story.num_videos, "reports say"),
        ("num_failures", manifest.num_failures, len(story.failed), "reports say"),
        ("class_counts", dict(manifest.class_counts), dict(story.class_counts), "reports say"),
    ):
        if stated != found:
            yield MANIFEST_FILE, f"{what} is {stated!r}, the {teller} {found!r}"


def _check_tables(
    storage: Storage, split: str, story: _Story, names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Compare samples and failures with the reports."""
    for name in (SAMPLES_FILE, FAILURES_FILE):
        if name not in names:
            yield name, "is missing"
    if not story.is_whole:
        return
    if FAILURES_FILE in names:
        num_lines = len(storage.read(f"{split}/{FAILURES_FILE}").splitlines())
        if num_lines != len(story.failed):
            yield FAILURES_FILE, f"has {num_lines} rows, the reports say {len(story.failed)}"
    if SAMPLES_FILE in names:
        try:
            yield from _check_samples(storage, split, story.keys)
        except ShardError as error:
            yield SAMPLES_FILE, str(error)


def _check_samples(
    storage: Storage, split: str, shards: Sequence[_ShardKeys]
) -> Iterator[tuple[str, str]]:
    """Compare the keys of the table with those of the reports, shard by shard."""
    batches = read_samples(storage, split, columns=["key"])
    stored = (key for batch in batches for key in batch.column(0).to_pylist())
    for shard, count, sha256 in shards:
        if _hash(list(islice(stored, count))) != sha256:
            yield SAMPLES_FILE, f"lists other samples of shard {shard} than its report"
            return
    if next(stored, None) is not None:
        yield SAMPLES_FILE, "lists more samples than the reports"


def _hash(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()
