"""Files of a dataset as Python's file objects, read by ranges wherever the dataset lies."""

import io
import os
from typing import Any, Final, NamedTuple

from gopstream.shards.byte_ranges import ReadOptions, Span
from gopstream.shards.dataset_ranges import open_ranges
from gopstream.shards.storage import Storage

_AT_ONCE: Final = 4 << 20
"""A server that is asked for more at a time is heard late."""


class ReadCount(NamedTuple):
    """What was read of one file."""

    requests: int
    num_bytes: int


class RangeFile(io.RawIOBase):
    """A file of a dataset, of which only the bytes that are asked for are read.

    Not for several threads at once. Nothing is kept: readers on top of it have buffers.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        """Look how long the file is.

        Args:
            storage: Of the dataset.
            name: Of the file, below the dataset's root.

        Raises:
            FileNotFoundError: If it is not there.
            StoreError: If the store refuses or does not answer.
        """
        super().__init__()
        self._name = name
        self._size = storage.size(name)
        self._ranges = open_ranges(storage, files={}, options=ReadOptions(cache=None))
        self._place = 0

    @property
    def count(self) -> ReadCount:
        """What was read so far."""
        return ReadCount(self._ranges.counters.requests, self._ranges.counters.bytes_read)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place; returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        """Read into a buffer; returns how many bytes.

        Raises:
            DamageError: If the file has become shorter.
            StoreError: If it cannot be read.
        """
        length = max(0, min(len(buffer), _AT_ONCE, self._size - self._place))
        (content,) = self._ranges.start([Span(self._name, self._place, length)]).result()
        buffer[:length] = content
        self._place += length
        return length

    def close(self) -> None:
        """Close files and connections."""
        if not self.closed:
            self._ranges.close()
        super().close()
