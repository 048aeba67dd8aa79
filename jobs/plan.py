"""Which video goes to which shard: made before any work, frozen in ``plan.json``.

The plan depends on nothing but the list of videos and the options, so that any number of
workers makes the same shards.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gopstream.pipeline.annotations.record import VideoRecord
from gopstream.shards.errors import SettingsError
from gopstream.shards.layout import (
    FORMAT_VERSION,
    PLAN_FILE,
    dump_json,
    load_json,
    shard_name,
    write_atomic,
)

_MOST_VIDEOS: Final = 64
_FEW_SHARDS: Final = 16


@dataclass(frozen=True, slots=True)
class PlannedVideo:
    """One video of the plan."""

    index: int
    """Position in the plan; the sample's key is made from it."""
    name: str
    """Path below the videos' folder."""
    label: int
    class_name: str | None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """The videos of one shard."""

    name: str
    videos: tuple[PlannedVideo, ...]


def make_plan(
    records: Sequence[VideoRecord],
    *,
    classes: Sequence[str],
    videos_per_shard: int | None,
    seed: int,
) -> tuple[PlannedShard, ...]:
    """Shuffle the videos and divide them into shards of about equal numbers.

    The shuffle sorts by a hash of seed and name: each shard is a fair sample of the list, and
    the order does not depend on any library's random numbers.

    Args:
        records: Videos of one split.
        classes: Names of the classes; a label is an index into them.
        videos_per_shard: Upper limit; None spreads short lists, so that several workers have
            something to do.
        seed: Of the shuffle.
    """
    ordered = sorted(
        records, key=lambda record: hashlib.sha256(f"{seed}\0{record.name}".encode()).digest()
    )
    numbers = {name: number for number, name in enumerate(classes)}
    videos = [
        PlannedVideo(
            index=index,
            name=record.name,
            label=-1 if record.label is None else numbers[record.label],
            class_name=record.label,
            attributes=dict(record.attributes),
        )
        for index, record in enumerate(ordered)
    ]
    if videos_per_shard is None:
        videos_per_shard = min(_MOST_VIDEOS, -(-len(videos) // _FEW_SHARDS))
    num_shards = -(-len(videos) // videos_per_shard)
    bounds = [len(videos) * number // num_shards for number in range(num_shards + 1)]
    return tuple(
        PlannedShard(shard_name(number), tuple(videos[bounds[number] : bounds[number + 1]]))
        for number in range(num_shards)
    )


def save_plan(folder: Path, plan: Sequence[PlannedShard]) -> None:
    """Write ``plan.json`` of a split."""
    write_atomic(folder / PLAN_FILE, dump_json(_plan_json(plan)))


def check_same_plan(folder: Path, plan: Sequence[PlannedShard]) -> bool:
    """Tell whether a split has been planned already, and refuse another plan.

    Returns:
        True if ``plan.json`` is there and says the same.

    Raises:
        SettingsError: Naming the first difference.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        return False
    held, wanted = load_json(path), _plan_json(plan)
    if held == wanted:
        return True
    old = [video["name"] for shard in held.get("shards", []) for video in shard["videos"]]
    new = [video.name for shard in plan for video in shard.videos]
    only_old, only_new = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    if only_old or only_new:
        example = f"{only_new[0]!r} is new" if only_new else f"{only_old[0]!r} is gone"
        difference = f"the list of videos differs ({len(old)} then, {len(new)} now: {example})"
    elif sorted(old) == sorted(new) and old != new:
        difference = "the order of the videos differs (another --seed)"
    else:
        difference = "labels, attributes or videos per shard differ"
    raise SettingsError(
        f"{folder} was planned with other videos or settings: {difference}; use the same command, "
        "or another output folder"
    )


def _plan_json(plan: Sequence[PlannedShard]) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "shards": [
            {
                "name": shard.name,
                "videos": [
                    {
                        "index": video.index,
                        "name": video.name,
                        "label": video.label,
                        "class": video.class_name,
                        "attributes": dict(video.attributes),
                    }
                    for video in shard.videos
                ],
            }
            for shard in plan
        ],
    }
