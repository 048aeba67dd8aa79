"""Requests for bytes of objects, many at the same time, on one thread of their own.

They can be cancelled, which the blocking calls of obstore cannot: a process that ends while a
store is away does not wait for it.
"""

import asyncio
import atexit
import concurrent.futures
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.object_store import Patience, Place
from gopstream.pipeline.store_errors import describe, status_of
from gopstream.shards.byte_ranges import ReadCounters, Span, check_end

if TYPE_CHECKING:
    from gopstream.shards.object_storage import ObjectStorage

_Value = TypeVar("_Value")

_UNSATISFIABLE: Final = 416
_STOP_SECONDS: Final = 5.0
_STOP_POLL_SECONDS: Final = 0.001


class RangeRequest(NamedTuple):
    """One request, for bytes that hold some spans of a file."""

    name: str
    start: int
    end: int
    spans: tuple[Span, ...]
    """Those that it is for, none of them empty."""


class RangeRequests:
    """The requests of one process."""

    def __init__(self, storage: "ObjectStorage", *, in_flight: int, counters: ReadCounters) -> None:
        """Start the thread.

        Args:
            storage: Where the objects are.
            in_flight: How many of the requests of :meth:`start` run at the same time.
            counters: Count what came.
        """
        self._storage = storage
        self._counters = counters
        self._slots = asyncio.Semaphore(in_flight)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gopstream-ranges", daemon=True)
        self._process = os.getpid()
        self._thread.start()
        _RUNNING.add(self)

    def start(
        self, requests: Sequence[RangeRequest]
    ) -> "concurrent.futures.Future[list[memoryview]]":
        """Send requests, as many at a time as may be in flight; the rest follow.

        Returns:
            Their bytes, in the same order. The first error ends all of them.
        """
        return asyncio.run_coroutine_threadsafe(self._fetch_all(requests), self._loop)

    def start_part(
        self, name: str, start: int, end: int
    ) -> "concurrent.futures.Future[memoryview]":
        """Send a request beside the others, at once, and without counting it as one of them."""
        span = Span(name, start, end - start)
        request = RangeRequest(name, start, end, (span,))
        return asyncio.run_coroutine_threadsafe(self._fetch(request), self._loop)

    def close(self) -> None:
        """Cancel all requests and end the thread."""
        if self._loop.is_closed() or self._process != os.getpid():
            return
        self._loop.call_soon_threadsafe(self._cancel_all)
        if self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            # What was cancelled ends here.
            while tasks := asyncio.all_tasks(self._loop):
                self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            self._loop.close()

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.stop()

    async def _fetch_all(self, requests: Sequence[RangeRequest]) -> list[memoryview]:
        tasks = [asyncio.ensure_future(self._fetch_counted(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _fetch_counted(self, request: RangeRequest) -> memoryview:
        async with self._slots:
            content = await self._fetch(request)
        self._counters.requests += 1
        self._counters.bytes_read += len(content)
        return content

    async def _fetch(self, request: RangeRequest) -> memoryview:
        """Make a request until it succeeds or patience is at an end."""
        import obstore
        from obstore.exceptions import BaseError

        place = self._storage.place(request.name)
        patience = Patience(place, "reading", options=self._storage.options)
        while True:
            try:
                content = memoryview(
                    await _watched(
                        obstore.get_range_async(
                            place.store, place.path, start=request.start, end=request.end
                        )
                    )
                )
                break
            except (BaseError, FileNotFoundError) as error:
                await self._check_hopeless(request, place, error)
                pause = patience.pause_or_raise(error)
                self._counters.retries += 1
                await asyncio.sleep(pause)
        self._check_spans(request, request.start + len(content))
        return content

    async def _check_hopeless(self, request: RangeRequest, place: Place, error: Exception) -> None:
        """Raise what an error of a range means, if it is about ranges."""
        import obstore
        from obstore.exceptions import BaseError

        if "Range request not supported" in describe(error):
            raise StoreError(
                f"{place.address}: the web server does not send parts of files (range requests); "
                "use one that does, or copy the dataset"
            ) from error
        if status_of(error) != _UNSATISFIABLE:
            return
        try:
            meta = await _watched(obstore.head_async(place.store, place.path))
        except (BaseError, FileNotFoundError):
            return  # asked again with all patience, and then this is the error
        self._check_spans(request, meta["size"])

    def _check_spans(self, request: RangeRequest, num_bytes: int) -> None:
        for span in request.spans:
            check_end(span, num_bytes=num_bytes, where=self._storage.url)


_RUNNING: Final[weakref.WeakSet[RangeRequests]] = weakref.WeakSet()
# The futures of obstore. Its threads hold one until they have told it how the request ended, which
# they do after it was cancelled as well.
_HELD: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def _watched(future: Awaitable[_Value]) -> Awaitable[_Value]:
    _HELD.add(future)
    return future


def _close_all() -> None:
    """End the requests before the interpreter does: obstore's threads call back into it."""
    for requests in list(_RUNNING):
        requests.close()
    patient_until = time.monotonic() + _STOP_SECONDS
    while len(_HELD) and time.monotonic() < patient_until:
        time.sleep(_STOP_POLL_SECONDS)


atexit.register(_close_all)
# The threads of a parent are not there in its child.
os.register_at_fork(after_in_child=_HELD.clear)
