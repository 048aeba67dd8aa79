"""What every annotation reader yields."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Attribute = str | int | float | bool | None

_NO_ATTRIBUTES: Mapping[str, Attribute] = {}


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One video, or one segment of a longer one, to be sharded.

    ``(name, start_seconds, end_seconds)`` is unique in a split.
    """

    name: str
    """Path below the videos' root, with forward slashes; or a whole address (``s3://...``).

    It follows from the list alone, never from the files that are there."""
    label: str | None
    """Name of its class, None without one."""
    split: str
    start_seconds: float | None = None
    """Frames with start <= t < end are wanted, t counted from the video's start; None: all."""
    end_seconds: float | None = None
    """None: to the video's end."""
    picture_rate: float | None = None
    """Pictures per second where ``name`` is a folder of JPEG pictures, None for a video file."""
    path: str | None = None
    """Where it was found below the videos' root, if elsewhere than its name says; no part of what
    the record is."""
    # One mapping for all: a list of five million videos would hold as many empty ones.
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: _NO_ATTRIBUTES)
    """Further columns of the list, kept in the sample's json and in ``samples.parquet``."""


@dataclass(frozen=True, slots=True)
class VideoList:
    """All videos of a list and the names of their classes."""

    records: tuple[VideoRecord, ...]
    classes: tuple[str, ...]
    """A label is an index into them. Empty when no video can have a label."""
    label_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names behind the further integer labels that ``attributes`` hold, by attribute."""
    missing: tuple[str, ...] = ()
    """Names of records without a file at the time of reading. The records stay in the list."""
    is_by_stem: bool = False
    """Whether a video is known by the stem of its file's name, in whatever folder it lies; else by
    its path."""
    notes: tuple[str, ...] = ()
    """What was left out or changed, with counts and the first names: to be shown to the user."""
