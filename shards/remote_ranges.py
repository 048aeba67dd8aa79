"""Bytes of a dataset in object storage or on a web server.

The cost model: a request costs as much as ``merge_gap_bytes`` bytes do, wherever it is and however
many bytes it brings; a byte costs the same in a gap as in a span. The requests of one call are
the cheapest by this model. In one region a request is worth about 1 MB (some 10 ms until the first
byte, at 100 MB/s), across regions with their price per byte about 20 kB.

Beside the ranges there may be a cache of whole files, see :mod:`gopstream.shards.shard_cache`.
"""

import concurrent.futures
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from gopstream.pipeline.errors import StoreError
from gopstream.shards.byte_ranges import (
    ByteRanges,
    ReadCounters,
    ReadOptions,
    Span,
    read_span,
)
from gopstream.shards.dataset_files import FileRecord
from gopstream.shards.errors import DamageError
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.open_files import OpenFile, PerProcess
from gopstream.shards.range_requests import RangeRequest, RangeRequests
from gopstream.shards.shard_cache import OpenCache, ShardCache, usable_cache
from gopstream.shards.storage import Storage

_Value = TypeVar("_Value")


def open_remote_ranges(
    storage: Storage, *, files: Mapping[str, FileRecord], options: ReadOptions
) -> ByteRanges:
    """Return the reader for a dataset that is not on this machine; nothing is asked yet.

    Args:
        storage: Of the dataset.
        files: Those that may be read, by name below the root.
        options: How to read.

    Raises:
        StoreError: If the folder of a cache that was named cannot be used.
    """
    assert isinstance(storage, ObjectStorage)
    cache = usable_cache(options.cache)
    held = None
    if cache is not None:
        held = ShardCache(storage, cache, files=files, fetches_shards=options.fetch == "shards")
    return RemoteRanges(storage, options, cache=held)


def merge_spans(spans: Sequence[Span], *, gap_bytes: int) -> list[RangeRequest]:
    """Return the requests that bring some spans at the lowest cost; see the module's docstring.

    Sorted by offset, each gap is paid for either by its bytes or by another request, whichever is
    cheaper, and no gap's choice changes another's: so the sum is the lowest there is.

    Args:
        spans: Of any files, in any order; empty ones need no request.
        gap_bytes: What a request costs, in bytes.
    """
    requests: list[RangeRequest] = []
    group: list[Span] = []
    name, start, end = "", 0, 0
    for span in sorted({span for span in spans if span.length > 0}):
        if group and (span.name != name or span.offset - end > gap_bytes):
            requests.append(RangeRequest(name, start, end, tuple(group)))
            group = []
        if not group:
            name, start, end = span.name, span.offset, span.offset
        end = max(end, span.offset + span.length)
        group.append(span)
    if group:
        requests.append(RangeRequest(name, start, end, tuple(group)))
    return requests


class _ProcessState(NamedTuple):
    """What each process opens for itself."""

    requests: RangeRequests
    cache: OpenCache | None
    counters: ReadCounters


class RemoteRanges:
    """Reads objects by ranges, and from a cache of whole ones."""

    def __init__(
        self, storage: ObjectStorage, options: ReadOptions, *, cache: ShardCache | None
    ) -> None:
        """Remember where and how; nothing is opened.

        Args:
            storage: Of the dataset.
            options: How to read.
            cache: Of whole files.
        """
        self._storage = storage
        self._options = options
        self._cache = cache
        self._counters: PerProcess[ReadCounters] = PerProcess()
        self._state: PerProcess[_ProcessState] = PerProcess()

    @property
    def counters(self) -> ReadCounters:
        """What this process has read."""
        return self._counters.get(ReadCounters)

    def start(self, spans: Sequence[Span]) -> "_RemotePending":
        """Send the requests; those of files that are being fetched whole wait for them."""
        state = self._state.get(self._open)
        spans = list(spans)
        state.counters.bytes_wanted += sum(span.length for span in spans)
        files: dict[str, OpenFile] = {}
        coming: dict[str, concurrent.futures.Future[bool]] = {}
        if state.cache is not None:
            for name in dict.fromkeys(span.name for span in spans if span.length > 0):
                found = state.cache.use(name)
                if isinstance(found, OpenFile):
                    files[name] = found
                elif found is not None:
                    coming[name] = found
        rest = [span for span in spans if span.name not in files and span.name not in coming]
        return _RemotePending(self, spans, files=files, coming=coming, sent=self.send(rest))

    def expect(self, names: Sequence[str]) -> None:
        """Fetch files that will be read soon, if they are to be fetched whole."""
        state = self._state.get(self._open)
        if state.cache is not None:
            state.cache.expect(names)

    def forget(self, name: str) -> bool:
        """Drop the cached copy of a file; returns whether there was one."""
        state = self._state.get(self._open)
        return state.cache is not None and state.cache.forget(name)

    def close(self) -> None:
        """End this process's requests and downloads."""
        state = self._state.take()
        if state is not None:
            if state.cache is not None:
                state.cache.close()
            state.requests.close()

    def __del__(self) -> None:
        """End this process's requests and downloads."""
        if "_state" in self.__dict__:
            self.close()

    def send(self, spans: Sequence[Span]) -> "_Sent":
        """Send the requests for spans."""
        requests = merge_spans(spans, gap_bytes=self._options.merge_gap_bytes)
        return _Sent(
            requests, self._state.get(self._open).requests.start(requests) if requests else None
        )

    def cached_file(self, name: str, coming: "concurrent.futures.Future[bool]") -> OpenFile | None:
        """Return a file once it has been fetched, None if it is to be read by ranges."""
        cache = self._state.get(self._open).cache
        assert cache is not None
        return cache.file(name) if _outcome(coming, self._storage.url) else None

    def read_cached(self, file: OpenFile, span: Span) -> bytes | None:
        """Read a span of a cached file, None if the copy is no good and was dropped."""
        counters = self.counters
        try:
            content = read_span(file, span, where=self._storage.url)
        except (DamageError, StoreError):
            self.forget(span.name)
            return None
        counters.bytes_cached += span.length
        return content

    def outcome(self, sent: "_Sent") -> Iterator[tuple[Span, memoryview]]:
        """Wait for requests and return the bytes of their spans."""
        if sent.contents is None:
            return
        contents = _outcome(sent.contents, self._storage.url)
        for request, content in zip(sent.requests, contents, strict=True):
            for span in request.spans:
                begin = span.offset - request.start
                yield span, content[begin : begin + span.length]

    def _open(self) -> _ProcessState:
        counters = self.counters
        requests = RangeRequests(
            self._storage, in_flight=self._options.in_flight, counters=counters
        )
        cache = None if self._cache is None else self._cache.open(requests, counters)
        return _ProcessState(requests, cache, counters)


class _Sent(NamedTuple):
    """Requests that were sent, and what they bring."""

    requests: Sequence[RangeRequest]
    contents: "concurrent.futures.Future[list[memoryview]] | None"


class _RemotePending:
    def __init__(
        self,
        ranges: RemoteRanges,
        spans: Sequence[Span],
        *,
        files: dict[str, OpenFile],
        coming: "dict[str, concurrent.futures.Future[bool]]",
        sent: _Sent,
    ) -> None:
        self._ranges = ranges
        self._spans = spans
        self._files = files
        self._coming = coming
        self._sent = sent

    def __del__(self) -> None:
        """Take back what nobody waits for."""
        if self._sent.contents is not None:
            self._sent.contents.cancel()

    def result(self) -> list[bytes | memoryview]:
        """Return the bytes; see :meth:`Pending.result`."""
        for name, coming in self._coming.items():
            file = self._ranges.cached_file(name, coming)
            if file is not None:
                self._files[name] = file
        contents: dict[Span, bytes | memoryview] = {}
        for span in self._spans:
            file = self._files.get(span.name)
            if file is not None and span.length > 0 and span not in contents:
                content = self._ranges.read_cached(file, span)
                if content is None:
                    del self._files[span.name]
                else:
                    contents[span] = content
        self._files.clear()
        contents.update(self._ranges.outcome(self._sent))
        missing = [span for span in self._spans if span.length > 0 and span not in contents]
        contents.update(self._ranges.outcome(self._ranges.send(missing)))
        return [contents[span] if span.length > 0 else b"" for span in self._spans]


def _outcome(future: "concurrent.futures.Future[_Value]", url: str) -> _Value:
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        raise StoreError(f"{url}: the reader was closed while bytes were on their way") from None
