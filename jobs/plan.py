"""Which video goes to which shard: made before any work, frozen in ``plan.json``.

The plan depends on nothing but the list of videos and the options, so that any number of workers
and machines makes the same shards. A plan has parts: the first run, and one for each time that
videos were appended or failed ones tried again. Parts are never changed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gopstream.pipeline.annotations.record import VideoRecord
from gopstream.shards.layout import dump_json, shard_name

PartKind = Literal["first", "append", "retry"]

VIDEO_COLUMNS: Final = pa.schema(
    [
        ("index", pa.int64()),
        ("name", pa.string()),
        ("label", pa.int64()),
        ("class", pa.string()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("picture_rate", pa.float64()),
        ("attributes", pa.string()),
        ("path", pa.string()),
    ]
)
"""One row per planned video; ``attributes`` is a JSON object, ``path`` where the video was found if
elsewhere than its name says: a fact of the disk that is no part of the plan's identity."""

VideoId = tuple[str, float | None, float | None]
"""What tells videos of a list apart: name, start and end."""


@dataclass(frozen=True, slots=True)
class PlannedVideo:
    """One video of the plan, or one segment of a longer one."""

    index: int
    """Position in the plan; the sample's key is made from it."""
    name: str
    """What the list calls it: a path below the videos' folder, or an address."""
    label: int
    class_name: str | None
    start_seconds: float | None = None
    end_seconds: float | None = None
    picture_rate: float | None = None
    """Pictures per second of a folder of pictures; None for a video file."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    """Where it is below the videos' folder, if elsewhere than its name says."""


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """The videos of one shard."""

    name: str
    videos: tuple[PlannedVideo, ...]


@dataclass(frozen=True, slots=True)
class PlanPart:
    """Videos in the order of their shards; millions of them fit into memory as a table."""

    kind: PartKind
    seed: int
    limit: int | None
    """Of a trial: how many videos were taken of the list."""
    videos_per_shard: int
    """Upper limit."""
    first_shard: int
    table: pa.Table
    """Of ``VIDEO_COLUMNS``, in plan order."""
    list_sha256: str
    """Of the rows of the table."""
    attribute_types: Mapping[str, str]
    """What holds all values of each attribute that occurs; see :func:`arrow_type`."""
    is_by_stem: bool = False
    """Whether the list knows its videos by the stems of their files, in whatever folder."""

    @property
    def num_videos(self) -> int:
        """Rows of the table."""
        return int(self.table.num_rows)

    @property
    def num_shards(self) -> int:
        """Shards of about equal numbers of videos."""
        return -(-self.num_videos // self.videos_per_shard)

    @property
    def shard_names(self) -> list[str]:
        """Names of the part's shards."""
        return [shard_name(self.first_shard + number) for number in range(self.num_shards)]

    def shard(self, number: int) -> PlannedShard:
        """Return the ``number``-th shard of the part, with its videos."""
        start, end = self.bounds(number)
        return PlannedShard(shard_name(self.first_shard + number), self.videos(start, end))

    def bounds(self, number: int) -> tuple[int, int]:
        """Return a shard's rows of the table, as for ``range``."""
        start, end = (self.num_videos * n // self.num_shards for n in (number, number + 1))
        return start, end

    def videos(self, start: int, end: int) -> tuple[PlannedVideo, ...]:
        """Return the videos of some rows of the table."""
        return planned_videos(self.table.slice(start, end - start))

    def shards(self) -> Iterator[PlannedShard]:
        """Yield the shards one by one."""
        return (self.shard(number) for number in range(self.num_shards))


def planned_videos(table: pa.Table) -> tuple[PlannedVideo, ...]:
    """Return the videos of a table of ``VIDEO_COLUMNS``."""
    return tuple(_planned_video(row) for row in table.to_pylist())


def _planned_video(row: Mapping[str, Any]) -> PlannedVideo:
    return PlannedVideo(
        index=row["index"],
        name=row["name"],
        label=row["label"],
        class_name=row["class"],
        start_seconds=row["start_seconds"],
        end_seconds=row["end_seconds"],
        picture_rate=row["picture_rate"],
        attributes=json.loads(row["attributes"]) if row["attributes"] else {},
        path=row["path"],
    )


def order_videos(
    records: Sequence[VideoRecord],
    *,
    classes: Sequence[str],
    seed: int,
    limit: int | None = None,
    first_index: int = 0,
) -> pa.Table:
    """Shuffle the videos of a split into the order of the plan.

    The shuffle sorts by a hash of seed, name and times: each shard, and the beginning of the
    list, is a fair sample; and the order does not depend on any library's random numbers.

    Args:
        records: Videos of one split.
        classes: Names of the classes; a label is an index into them.
        seed: Of the shuffle.
        limit: Take only so many, after the shuffle.
        first_index: Index of the first video.

    Returns:
        A table of ``VIDEO_COLUMNS``.
    """
    order = _shuffled([video_id(record) for record in records], seed)[:limit]
    chosen = [records[position] for position in order.tolist()]
    numbers = {name: number for number, name in enumerate(classes)}
    columns = [
        pa.array(range(first_index, first_index + len(chosen)), pa.int64()),
        pa.array((record.name for record in chosen), pa.string(), size=len(chosen)),
        pa.array([-1 if r.label is None else numbers[r.label] for r in chosen], pa.int64()),
        pa.array([record.label for record in chosen], pa.string()),
        pa.array([record.start_seconds for record in chosen], pa.float64()),
        pa.array([record.end_seconds for record in chosen], pa.float64()),
        pa.array([record.picture_rate for record in chosen], pa.float64()),
        pa.array([_attribute_text(record.attributes) for record in chosen], pa.string()),
        pa.array([record.path for record in chosen], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=VIDEO_COLUMNS)


def make_part(
    table: pa.Table,
    *,
    kind: PartKind,
    seed: int,
    limit: int | None,
    videos_per_shard: int,
    first_shard: int = 0,
) -> PlanPart:
    """Divide ordered videos into shards.

    Args:
        table: From :func:`order_videos`, or rows of earlier parts.
        kind: Why the part was made.
        seed: Of the shuffle.
        limit: How many videos were taken of the list; None for all.
        videos_per_shard: Upper limit.
        first_shard: Number of the first shard.
    """
    return PlanPart(
        kind=kind,
        seed=seed,
        limit=limit,
        videos_per_shard=videos_per_shard,
        first_shard=first_shard,
        table=table,
        list_sha256=_table_hash(table),
        attribute_types=_attribute_types(table),
    )


def video_id(record: VideoRecord) -> VideoId:
    """Return what tells a video of a list from the others."""
    return record.name, record.start_seconds, record.end_seconds


def table_ids(table: pa.Table) -> Iterator[VideoId]:
    """Yield the ids of planned videos."""
    names = ("name", "start_seconds", "end_seconds")
    return zip(*(table.column(name).to_pylist() for name in names), strict=True)


def _shuffled(ids: Sequence[VideoId], seed: int) -> npt.NDArray[np.int64]:
    """Return the positions of the videos in hashed order."""
    halves = np.empty((len(ids), 2), np.uint64)
    for position, (name, start, end) in enumerate(ids):
        text = f"{seed}\0{name}"
        if start is not None or end is not None:
            text += f"\0{start}\0{end}"
        digest = hashlib.sha256(text.encode()).digest()
        halves[position] = np.frombuffer(digest[:16], ">u8")
    return np.lexsort((halves[:, 1], halves[:, 0])).astype(np.int64)


def _attribute_text(attributes: Mapping[str, Any]) -> str | None:
    return dump_json(attributes).decode() if attributes else None


def _table_hash(table: pa.Table) -> str:
    """Return a hash of the rows but for where videos were found; Arrow's layout plays no part."""
    digest = hashlib.sha256()
    for batch in table.drop_columns(["path"]).to_batches(max_chunksize=10_000):
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            digest.update(json.dumps(row, separators=(",", ":"), allow_nan=False).encode())
    return digest.hexdigest()


_NULL: Final = "null"
_LARGE: Final = "large int64"
_TYPE_NAMES: Final = {bool: "bool", float: "double", str: "string", type(None): _NULL}
_LARGEST_EXACT_FLOAT: Final = 2**53


def _attribute_types(table: pa.Table) -> dict[str, str]:
    """Return the type that holds all values of each attribute."""
    types: dict[str, str] = {}
    for chunk in table.column("attributes").chunks:
        for text in chunk.dictionary_encode().dictionary.to_pylist():
            for name, value in json.loads(text).items() if text else ():
                merge_attribute_type(types, name, _type_name(value))
    return dict(sorted(types.items()))


def _type_name(value: bool | int | float | str | None) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        return _TYPE_NAMES[type(value)]
    if abs(value) <= _LARGEST_EXACT_FLOAT:
        return "int64"
    return _LARGE if -(2**63) <= value < 2**63 else "string"


_COMMON_TYPES: Final = {
    frozenset({"int64", "double"}): "double",
    frozenset({"int64", _LARGE}): _LARGE,
}


def merge_attribute_type(types: dict[str, str], name: str, found: str) -> None:
    """Widen the type of an attribute so that it holds another value exactly."""
    both = frozenset({types.get(name, _NULL), found}) - {_NULL}
    if len(both) == 2:
        types[name] = _COMMON_TYPES.get(both, "string")
    else:
        types[name] = next(iter(both), _NULL)


def arrow_type(name: str) -> pa.DataType:
    """Return the type of a column of ``samples.parquet``."""
    return pa.int64() if name == _LARGE else pa.type_for_alias(name)
