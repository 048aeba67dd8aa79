"""The plan of a split on disk: ``plan.json`` with its videos in ``plan.parquet``.

Further parts are ``plan-0001.json`` and so on. The table is written before the json, whose
presence means that the part is frozen.
"""

import io
import re
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet

from gopstream.jobs.plan import VIDEO_COLUMNS, PlanPart, merge_attribute_type, table_ids
from gopstream.shards.dataset_files import check_format, load_json
from gopstream.shards.errors import FormatError, SettingsError
from gopstream.shards.layout import FORMAT_VERSION, PLAN_FILE, dump_json
from gopstream.shards.storage import Storage

_PART_NAME: Final = re.compile(r"plan-([0-9]{4})\.json")


def part_name(number: int) -> str:
    """Return the name of a part's json: ``plan.json``, then ``plan-0001.json`` and so on."""
    return PLAN_FILE if number == 0 else f"plan-{number:04d}.json"


def table_name(number: int) -> str:
    """Return the name of a part's table of videos."""
    return part_name(number).replace(".json", ".parquet")


def save_part(storage: Storage, split: str, number: int, part: PlanPart) -> None:
    """Freeze a part of a split's plan."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(part.table, buffer, compression="zstd")
    storage.write(f"{split}/{table_name(number)}", buffer.getvalue())
    storage.write(f"{split}/{part_name(number)}", dump_json(_content(part)))


def load_parts(storage: Storage, split: str) -> list[PlanPart]:
    """Read all parts of a split's plan, in order; none if nothing is planned.

    Raises:
        FormatError: If a part is damaged or missing between others.
    """
    names = set(storage.list_names(split))
    count = 0
    while part_name(count) in names:
        count += 1
    stray = sorted(name for name in names if _PART_NAME.fullmatch(name))[
        count - 1 if count else 0 :
    ]
    if stray:
        raise FormatError(
            f"{storage.url}/{split}: {stray[0]} is there, but {part_name(count)} is missing"
        )
    return [_load_part(storage, split, number) for number in range(count)]


def check_same_part(where: str, held: PlanPart, wanted: PlanPart) -> None:
    """Refuse to continue a split with another list or other settings of the plan.

    Raises:
        SettingsError: Naming the first difference.
    """
    difference = _difference(held, wanted)
    if difference is not None:
        raise SettingsError(
            f"{where} was planned with other videos or settings: {difference}; use the same "
            "command, --append for further videos, or another output folder"
        )


def _difference(held: PlanPart, wanted: PlanPart) -> str | None:
    for name, old, new in (
        ("--seed", held.seed, wanted.seed),
        ("--limit", held.limit, wanted.limit),
        ("--videos-per-shard", held.videos_per_shard, wanted.videos_per_shard),
    ):
        if old != new:
            return f"{name} was {_shown(old)}, now it is {_shown(new)}"
    if held.list_sha256 == wanted.list_sha256:
        return None
    old_ids, new_ids = set(table_ids(held.table)), set(table_ids(wanted.table))
    added, gone = new_ids - old_ids, old_ids - new_ids
    if added or gone:
        example = f"{_first(added)} is new" if added else f"{_first(gone)} is gone"
        return f"the list of videos differs ({len(old_ids)} then, {len(new_ids)} now: {example})"
    tables = (part.table.drop_columns(["path"]) for part in (held, wanted))
    for old_row, new_row in zip(*(table.to_pylist() for table in tables), strict=True):
        if old_row != new_row:
            field = next(name for name in old_row if old_row[name] != new_row[name])
            return f"{old_row['name']} had {field} {old_row[field]!r}, now it is {new_row[field]!r}"
    return "the order of the videos differs"


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)


def _first(ids: set[tuple[str, float | None, float | None]]) -> str:
    name, start, end = min(ids, key=str)
    return repr(name) if start is None and end is None else f"{name!r} from {start} to {end} s"


def _content(part: PlanPart) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "kind": part.kind,
        "seed": part.seed,
        "limit": part.limit,
        "videos": part.num_videos,
        "videos_per_shard": part.videos_per_shard,
        "first_shard": part.first_shard,
        "shards": part.num_shards,
        "list_sha256": part.list_sha256,
        "is_by_stem": part.is_by_stem,
        "attributes": dict(part.attribute_types),
    }


def _load_part(storage: Storage, split: str, number: int) -> PlanPart:
    name = f"{split}/{part_name(number)}"
    where = f"{storage.url}/{name}"
    content = load_json(storage, name)
    check_format(content, where)
    if isinstance(content.get("shards"), list):
        raise FormatError(
            f"{where}: made by an earlier version of gopstream; the dataset can be read and "
            "verified, not continued or changed"
        )
    try:
        table = pyarrow.parquet.read_table(
            pa.BufferReader(storage.read(f"{split}/{table_name(number)}"))
        ).cast(VIDEO_COLUMNS)
        part = PlanPart(
            kind=content["kind"],
            seed=content["seed"],
            limit=content["limit"],
            videos_per_shard=content["videos_per_shard"],
            first_shard=content["first_shard"],
            table=table,
            list_sha256=content["list_sha256"],
            is_by_stem=content["is_by_stem"],
            attribute_types=content["attributes"],
        )
        stated = (content["videos"], content["shards"])
    except (KeyError, TypeError, ValueError, pa.ArrowException, FileNotFoundError) as error:
        raise FormatError(f"{where}: not a plan ({error!r})") from error
    if stated != (part.num_videos, part.num_shards):
        raise FormatError(f"{where}: says {stated[0]} videos, {table_name(number)} another number")
    return part


def merged_attribute_types(parts: Sequence[PlanPart]) -> dict[str, str]:
    """Return the types that hold the attributes of all parts."""
    types: dict[str, str] = {}
    for part in parts:
        for name, found in part.attribute_types.items():
            merge_attribute_type(types, name, found)
    return dict(sorted(types.items()))
