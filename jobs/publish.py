"""Make a split visible: from the reports of its shards to its manifest.

Everything here is made from what the shards have published, never from what a process remembers,
so that it does not matter how often, where and by how many machines the shards were made. Reports
are read in order, a few at a time: a split of millions of videos needs no more memory than one of
thousands.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet

from gopstream.jobs.plan import PlannedVideo, PlanPart, arrow_type
from gopstream.jobs.plan_files import merged_attribute_types
from gopstream.jobs.worker_folder import WorkerFolder
from gopstream.shards.dataset_files import (
    DatasetFacts,
    Manifest,
    ShardRecord,
    is_finished,
    load_manifest,
    load_shard_files,
    save_manifest,
)
from gopstream.shards.errors import ShardError
from gopstream.shards.layout import (
    FAILURES_FILE,
    SAMPLES_FILE,
    dump_json,
    report_name,
)
from gopstream.shards.storage import Storage

_READ_AT_ONCE: Final = 32
_ROWS_AT_ONCE: Final = 20_000
_SHOWN_ROWS: Final = 1000

SAMPLE_COLUMNS: Final = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        ("segment", pa.int32()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("label", pa.int64()),
        ("shard", pa.string()),
        ("frames", pa.int32()),
        ("stored_frames", pa.int32()),
        ("fps", pa.float64()),
        ("duration_seconds", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("mean_motion_pixels", pa.float64()),
        ("predicted_share", pa.float64()),
        ("zero_residual_share", pa.float64()),
        ("exactness", pa.string()),
        ("damaged_frames", pa.int32()),
        ("scene_cuts", pa.int32()),
    ]
)
"""The columns of ``samples.parquet`` before those of the list's own attributes."""


@dataclass(frozen=True, slots=True)
class SplitOutcome:
    """What has become of a split."""

    manifest: Manifest
    failures: tuple[Mapping[str, Any], ...]
    """Rows of ``failures.jsonl``, the first thousand."""
    warned: tuple[Mapping[str, Any], ...] = ()
    """Rows of the videos that became samples, with warnings; the first thousand."""


def is_published(storage: Storage, split: str, parts: Sequence[PlanPart]) -> bool:
    """Tell whether the manifest is there and knows all parts of the plan."""
    if not is_finished(storage, split):
        return False
    return load_manifest(storage, split).num_plans == len(parts)


def publish_split(
    storage: Storage, split: str, parts: Sequence[PlanPart], facts: DatasetFacts
) -> SplitOutcome:
    """Write samples, failures and, last, the manifest.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        parts: All parts of its plan; each of their shards must be published.
        facts: Of the dataset.

    Raises:
        ShardError: If a shard is not finished; says how many.
    """
    unfinished = unfinished_shards(storage, split, parts)
    if unfinished:
        raise ShardError(
            f"{storage.url}/{split}: {len(unfinished)} shards are not finished ({unfinished[0]} "
            "is the first); run the same 'gopstream shard' command again to make them"
        )
    types = _own_columns(parts)
    gathered = _Gathered(names=(*facts.classes, ""), types=types)
    folder = WorkerFolder()  # of the kind that a later job removes if this one is killed
    with ExitStack() as stack:
        stack.callback(folder.remove)
        samples, failures = folder.path / SAMPLES_FILE, folder.path / FAILURES_FILE
        schema = _sample_schema(types)
        with (
            failures.open("wb") as failure_file,
            pyarrow.parquet.ParquetWriter(samples, schema) as table,
        ):
            buffer: list[dict[str, Any]] = []
            for shard in _read_shards(storage, split, parts):
                buffer += gathered.take(shard, failure_file)
                if len(buffer) >= _ROWS_AT_ONCE:
                    table.write_table(pa.Table.from_pylist(buffer, schema))
                    buffer = []
            table.write_table(pa.Table.from_pylist(buffer, schema))
        storage.put_file(failures, f"{split}/{FAILURES_FILE}")
        storage.put_file(samples, f"{split}/{SAMPLES_FILE}")
    manifest = Manifest(
        split=split,
        shards=tuple(gathered.shards),
        class_counts=dict(sorted(gathered.class_counts.items())),
        num_videos=sum(part.num_videos for part in parts if part.kind != "retry"),
        num_failures=gathered.num_failures,
        num_plans=len(parts),
    )
    save_manifest(storage, manifest)
    return SplitOutcome(manifest, tuple(gathered.failures), tuple(gathered.warned))


def unfinished_shards(storage: Storage, split: str, parts: Sequence[PlanPart]) -> list[str]:
    """Return the names of planned shards that are not published."""
    published = set(storage.list_names(split))
    return [
        name for part in parts for name in part.shard_names if report_name(name) not in published
    ]


def read_outcome(storage: Storage, split: str) -> SplitOutcome:
    """Return the outcome of a split that has been published."""
    lines = storage.read(f"{split}/{FAILURES_FILE}").splitlines()
    failures = tuple(json.loads(line) for line in lines[:_SHOWN_ROWS])
    return SplitOutcome(load_manifest(storage, split), failures)


@dataclass(frozen=True, slots=True)
class _PublishedShard:
    """What one shard says of itself, and what was planned for it."""

    record: ShardRecord
    rows: list[dict[str, Any]]
    """Of its report."""
    videos: Mapping[int, PlannedVideo]
    superseded: frozenset[int]
    """Indices of videos that a later part tries again."""


def _read_shards(
    storage: Storage, split: str, parts: Sequence[PlanPart]
) -> Iterator[_PublishedShard]:
    """Yield all shards in order; many reports are on their way at a time."""

    def read(name: str) -> tuple[ShardRecord, list[dict[str, Any]]]:
        report = storage.read(f"{split}/{report_name(name)}").splitlines()
        rows = [json.loads(line) for line in report]
        num_samples = sum(len(row.get("samples", [])) for row in rows)
        return ShardRecord(name, num_samples, load_shard_files(storage, split, name)), rows

    retried = [
        frozenset(part.table.column("index").to_pylist()) if part.kind == "retry" else frozenset()
        for part in parts
    ]
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        for number, part in enumerate(parts):
            later = frozenset().union(*retried[number + 1 :])
            planned = part.shards()
            while shards := list(islice(planned, _READ_AT_ONCE)):
                published = pool.map(read, [shard.name for shard in shards])
                for shard, (record, rows) in zip(shards, published, strict=True):
                    videos = {video.index: video for video in shard.videos}
                    yield _PublishedShard(record, rows, videos, later)


@dataclass(slots=True)
class _Gathered:
    """What the shards so far say together."""

    names: tuple[str, ...]
    """Of the classes, then the empty one of no label."""
    types: Mapping[str, str]
    """Arrow types of the list's own columns."""
    shards: list[ShardRecord] = field(default_factory=list)
    class_counts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    warned: list[dict[str, Any]] = field(default_factory=list)
    num_failures: int = 0

    def take(self, shard: _PublishedShard, failure_file: IO[bytes]) -> list[dict[str, Any]]:
        """Take a shard; returns its rows of ``samples.parquet``."""
        self.shards.append(shard.record)
        samples = []
        for row in shard.rows:
            video = shard.videos[row["video"]]
            if row["status"] == "failed" and row["video"] not in shard.superseded:
                self._fail(row, failure_file)
            if row.get("warnings") and len(self.warned) < _SHOWN_ROWS:
                self.warned.append(row)
            for sample in row.get("samples", []):
                self.class_counts[self.names[row["label"]]] += 1
                own = {
                    name: _typed(video.attributes.get(name), t) for name, t in self.types.items()
                }
                samples.append(own | _sample_row(sample, row, video, shard.record.name))
        return samples

    def _fail(self, row: dict[str, Any], failure_file: IO[bytes]) -> None:
        self.num_failures += 1
        failure_file.write(dump_json(row) + b"\n")
        if len(self.failures) < _SHOWN_ROWS:
            self.failures.append(row)


def _sample_row(
    sample: Mapping[str, Any], row: Mapping[str, Any], video: PlannedVideo, shard: str
) -> dict[str, Any]:
    return {
        "label": row["label"],
        "source": row["source"],
        "source_sha256": row["source_sha256"],
        "start_seconds": video.start_seconds,
        "end_seconds": video.end_seconds,
        "shard": shard,
        **sample,
    }


def _typed(value: object, kind: str) -> object:
    """Return a value of the list in the type that its column has."""
    return str(value) if kind == "string" and value is not None else value


def _own_columns(parts: Sequence[PlanPart]) -> dict[str, str]:
    """Return the types of the list's own columns.

    One that has the name of a column of ours stays in the sample's json alone.
    """
    return {
        name: kind
        for name, kind in merged_attribute_types(parts).items()
        if name not in SAMPLE_COLUMNS.names
    }


def _sample_schema(own: Mapping[str, str]) -> pa.Schema:
    fields = [pa.field(name, arrow_type(kind)) for name, kind in own.items()]
    return pa.schema([*SAMPLE_COLUMNS, *fields])
