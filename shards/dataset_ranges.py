"""The road to a dataset's bytes: from the disk it lies on, or from its store."""

from collections.abc import Mapping

from gopstream.shards.byte_ranges import ByteRanges, LocalRanges, ReadOptions
from gopstream.shards.dataset_files import FileRecord
from gopstream.shards.storage import Storage


def open_ranges(
    storage: Storage,
    *,
    files: Mapping[str, FileRecord],
    options: ReadOptions | None = None,
) -> ByteRanges:
    """Return the reader for a dataset; nothing is opened or asked yet.

    Args:
        storage: Of the dataset.
        files: Size and sha256 of the files that may be read, by name below the root
            (``train/000000.tar``): of these alone the cache holds copies. Name only those that
            the planes and samples in use need, or room is kept for others. Unused for a local
            folder.
        options: How to read; None takes the defaults.

    Raises:
        StoreError: If the folder of a cache that was named cannot be used.
    """
    if storage.local_root is not None:
        return LocalRanges(storage.local_root)
    # Here, since reading from a disk must not need what a store's client needs.
    from gopstream.shards.remote_ranges import open_remote_ranges

    return open_remote_ranges(storage, files=files, options=options or ReadOptions())
