"""The videos that were taken out of a split for good: ``SPLIT/removed.json``.

The plan keeps their names too, but another segment of the same video would be planned anew.
"""

from collections.abc import Set
from typing import Final

from gopstream.shards.dataset_files import check_format, load_json
from gopstream.shards.errors import FormatError
from gopstream.shards.layout import FORMAT_VERSION, dump_json
from gopstream.shards.storage import Storage

REMOVED_FILE: Final = "removed.json"
"""Absent as long as no video was removed."""


def removed_sources(storage: Storage, split: str) -> frozenset[str]:
    """Return the names of a split's removed videos, which must not be planned again.

    Raises:
        FormatError: If the file is damaged or of another version.
    """
    name = f"{split}/{REMOVED_FILE}"
    where = f"{storage.url}/{name}"
    try:
        content = load_json(storage, name)
    except FileNotFoundError:
        return frozenset()
    check_format(content, where)
    sources = content.get("sources")
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise FormatError(f"{where}: not a list of removed videos")
    return frozenset(sources)


def add_removed_sources(storage: Storage, split: str, sources: Set[str]) -> None:
    """Note further removed videos; the file is whole, before or after, at any moment."""
    held = removed_sources(storage, split)
    if not sources <= held:
        content = {"format": FORMAT_VERSION, "sources": sorted(held | sources)}
        storage.write(f"{split}/{REMOVED_FILE}", dump_json(content))
