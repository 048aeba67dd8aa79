"""Bytes of a dataset's files, many spans at a time, from wherever the dataset lies.

A reader is a plain value until it is used: it can be pickled, and a process that was forked opens
files, threads and connections of its own. No client of object storage is imported here.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.errors import DamageError, ShardError
from gopstream.shards.index import PIECE_PLANES
from gopstream.shards.local_storage import check_name
from gopstream.shards.open_files import OpenFile, OpenFiles, PerProcess
from gopstream.shards.value_checks import check_fields


class Span(NamedTuple):
    """Bytes of a file of the dataset."""

    name: str
    """Below the dataset's root, such as ``train/000000.tar``."""
    offset: int
    length: int
    """May be 0: then nothing is read or asked, whatever the file."""


@dataclass(slots=True)
class ReadCounters:
    """What this process has read so far."""

    requests: int = 0
    """Reads of a file, or requests to a server that were answered; tries that failed are apart."""
    retries: int = 0
    """Tries that failed and were made again by us."""
    bytes_wanted: int = 0
    """Sum of the lengths of the spans that were asked for."""
    bytes_read: int = 0
    """Bytes that came by those requests, gaps between spans included."""
    bytes_cached: int = 0
    """Of the bytes wanted, those read from the cache's files; not among ``bytes_read``."""
    shards_downloaded: int = 0
    """Whole files brought into the cache by this process."""
    bytes_downloaded: int = 0
    """Their bytes; neither in ``bytes_read`` nor in ``requests``."""
    cached_files_dropped: int = 0
    """Cached files that were found damaged."""
    cache_is_full: int = 0
    """1 once the disk took no more and the cache stopped to grow."""


class Pending(Protocol):
    """Spans that were asked for."""

    def result(self) -> list[bytes | memoryview]:
        """Return their bytes, in the order in which they were asked for; to be called once.

        Raises:
            FileNotFoundError: If a file is not there; names it.
            DamageError: If a file ends before a span does; names both.
            StoreError: If a file cannot be read, or a store refuses or does not answer in time.
        """
        ...


class ByteRanges(Protocol):
    """Reads spans of the files of a dataset. Travels to other processes, also by fork."""

    @property
    def counters(self) -> ReadCounters:
        """What this process has read through this reader."""
        ...

    def start(self, spans: Sequence[Span]) -> Pending:
        """Ask for spans, in any order; they may overlap, repeat and be empty.

        From a store they are on their way at once; from a disk they are read when the result is
        asked for. Errors come with the result. What is dropped without a result is harmless.
        """
        ...

    def expect(self, names: Sequence[str]) -> None:
        """Say which files will be read soon, in this order; returns at once.

        Where whole files are fetched these are fetched now, in the background.
        """
        ...

    def forget(self, name: str) -> bool:
        """Drop the cached copy of a file whose bytes do not match their checksum.

        Returns:
            Whether there was one, so that reading again asks the store and may help.
        """
        ...

    def close(self) -> None:
        """Close the files and connections of this process; the next :meth:`start` opens new."""
        ...


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder for whole files of remote datasets, shared by all processes of a machine."""

    folder: Path | str | None = None
    """None is ``~/.cache/gopstream``."""
    max_bytes: int | None = None
    """Of all datasets in the folder together, with what is only half there. None is half of the
    disk space that is free."""
    transient_bytes: int | None = None
    """Of these, room for files that come and go when ``fetch`` is ``shards`` and not all files
    fit: at least those of the shards that are read at the same time. None is a quarter."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: Naming the field.
        """
        check_fields(self)
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise ValueError(f"max_bytes must be positive, got {self.max_bytes}")
        most = math.inf if self.max_bytes is None else self.max_bytes
        if self.transient_bytes is not None and not 0 <= self.transient_bytes <= most:
            raise ValueError(
                f"transient_bytes must be 0 to max_bytes ({self.max_bytes}), "
                f"got {self.transient_bytes}"
            )


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How bytes are read. Plain values; of no effect for a dataset on a local disk."""

    merge_gap_bytes: int = 1 << 20
    """Two spans of a file become one request if the gap between them has at most so many bytes.

    What a request costs, in bytes: in one region about 1 MB, across regions about 20 kB.
    """
    in_flight: int = 16
    """Requests at the same time, per process."""
    cache: Cache | Literal["auto"] | None = "auto"
    """``auto``: below ``~/.cache/gopstream``, up to half of the disk space that is free."""
    planes: tuple[str, ...] = ("frames", "motion", "coverage")
    """What will be read most: a cache keeps the files of these planes, others come by ranges."""
    fetch: Literal["ranges", "shards"] = "ranges"
    """``shards`` fetches whole files when they are first read and reads them locally: for an
    order that visits shards in windows. ``ranges`` answers at once, and fills the cache with a
    fixed subset of the files in the background."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: Naming the field.
        """
        check_fields(self)
        unknown = sorted({*self.planes} - {*PIECE_PLANES})
        if unknown:
            raise ValueError(
                f"planes must be of {', '.join(PIECE_PLANES)}, got {unknown[0]!r}"
                f"{did_you_mean(unknown[0], PIECE_PLANES)}"
            )
        if self.merge_gap_bytes < 0:
            raise ValueError(f"merge_gap_bytes must not be negative, got {self.merge_gap_bytes}")
        if self.in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {self.in_flight}")
        if self.fetch == "shards" and self.cache is None:
            raise ValueError("fetch='shards' needs a cache: leave it at 'auto', or name a Cache")


# Linux has it, macOS does not.
_CAN_ADVISE: Final = hasattr(os, "posix_fadvise")
_LARGEST_ADVICE: Final = 16 << 20
"""A damaged index may name any length; and what is long, the system reads ahead by itself."""


class LocalRanges:
    """Reads files in a folder with ``pread``."""

    def __init__(self, root: Path) -> None:
        """Name the folder; nothing is opened."""
        self._root = root
        self._files = OpenFiles()
        self._counters: PerProcess[ReadCounters] = PerProcess()

    @property
    def counters(self) -> ReadCounters:
        """What this process has read."""
        return self._counters.get(ReadCounters)

    def start(self, spans: Sequence[Span]) -> "_LocalPending":
        """Remember the spans; they are read when the result is asked for.

        The system is asked for them now, all at once: what is not in memory yet is then on its
        way from the disk while other clips are decoded, not fetched piece by piece.
        """
        pending = _LocalPending(self, list(spans))
        if _CAN_ADVISE:
            # A file that is not there, and a name that is none, are said when it is read.
            with suppress(OSError, ShardError):
                for (_, offset, length), file in self._opened(spans):
                    if length <= _LARGEST_ADVICE:
                        os.posix_fadvise(file.descriptor, offset, length, os.POSIX_FADV_WILLNEED)
        return pending

    def expect(self, names: Sequence[str]) -> None:
        """Do nothing: the files are here."""

    def forget(self, name: str) -> bool:
        """Tell that there is no copy of a file but itself."""
        del name
        return False

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def read(self, spans: Sequence[Span]) -> list[bytes | memoryview]:
        """Read spans; see :meth:`Pending.result`."""
        contents: list[bytes | memoryview] = [b""] * len(spans)
        places = [place for place, span in enumerate(spans) if span.length]
        for place, (span, file) in zip(places, self._opened(spans), strict=True):
            contents[place] = read_span(file, span, where=str(self._root))
        counters = self.counters
        counters.requests += len(places)
        num_bytes = sum(map(len, contents))
        counters.bytes_wanted += num_bytes
        counters.bytes_read += num_bytes
        return contents

    def _opened(self, spans: Sequence[Span]) -> Iterator[tuple[Span, OpenFile]]:
        """Yield the spans that have bytes, with their files; mostly all are of one."""
        name, file = "", None
        for span in spans:
            if span.length == 0:
                continue
            if file is None or span.name != name:
                name, file = span.name, self._files.get(span.name, self._open)
            yield span, file

    def _open(self, name: str) -> int:
        path = self._root / check_name(name)
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: not there") from None
        except OSError as error:
            raise StoreError(error.errno, error.strerror, str(path)) from error


class _LocalPending:
    def __init__(self, ranges: LocalRanges, spans: Sequence[Span]) -> None:
        self._ranges = ranges
        self._spans = spans

    def result(self) -> list[bytes | memoryview]:
        """Read the spans."""
        return self._ranges.read(self._spans)


def read_span(file: OpenFile, span: Span, *, where: str) -> bytes:
    """Read a span of an open file.

    Args:
        file: The file.
        span: What to read.
        where: The dataset's place, for messages.

    Raises:
        DamageError: If the file ends before the span does.
        StoreError: If the disk cannot read it.
    """
    try:
        # Before anything is allocated: a damaged index may name any length.
        check_end(span, num_bytes=os.fstat(file.descriptor).st_size, where=where)
        content = os.pread(file.descriptor, span.length, span.offset)
        while len(content) < span.length:
            start = span.offset + len(content)
            more = os.pread(file.descriptor, span.length - len(content), start)
            if not more:
                break
            content += more
        if len(content) < span.length:
            check_end(span, num_bytes=os.fstat(file.descriptor).st_size, where=where)
            raise StoreError(f"{where}/{span.name}: it changed while it was read")
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(error.errno, error.strerror, f"{where}/{span.name}") from error
    return content


def check_end(span: Span, *, num_bytes: int, where: str) -> None:
    """Refuse a span that ends behind the end of its file.

    Args:
        span: The span.
        num_bytes: Size of the file.
        where: The dataset's place, for the message.

    Raises:
        DamageError: Naming file and span.
    """
    if span.offset + span.length > num_bytes:
        raise DamageError(
            f"{where}/{span.name}: the file ends at byte {num_bytes}, before bytes {span.offset} "
            f"to {span.offset + span.length}, which its index names; it was cut, or it is "
            "another file; run 'gopstream verify' to see all faults"
        )
