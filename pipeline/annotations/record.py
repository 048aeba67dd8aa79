"""What every annotation reader yields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One video to be sharded."""

    path: Path
    name: str
    """Path below the videos' folder, with forward slashes: unique, stored as its source."""
    label: str | None
    """Name of its class, None without one."""
    split: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Further columns of the list, kept in the sample's json."""


@dataclass(frozen=True, slots=True)
class VideoList:
    """All videos of a list and the names of their classes."""

    records: tuple[VideoRecord, ...]
    classes: tuple[str, ...]
    """Sorted; a label is an index into them. Empty when no video has a label."""


def make_list(records: list[VideoRecord]) -> VideoList:
    """Gather records; the classes are the labels that occur, sorted."""
    labels = {record.label for record in records if record.label is not None}
    return VideoList(tuple(records), tuple(sorted(labels)))
