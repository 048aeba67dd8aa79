"""Whole files of a remote dataset on this machine, fetched once and read locally.

A fixed subset of the files is pinned: those that come first in the order of a hash of their names,
as many as there is room for. It is the same in every epoch, process and run, so that a dataset
larger than the cache is not fetched anew in a circle. The others are read by ranges; or, where
whole files are fetched, they come and go in what room is left, the least recently used one first.

Nothing waits for pinned files: they are fetched in the background once one of their bytes was
asked for. Each is fetched once on a machine, checked against its sha256, then given its name.
"""

import concurrent.futures
import hashlib
import os
import shutil
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gopstream.pipeline.errors import StoreError
from gopstream.shards.byte_ranges import Cache, ReadCounters
from gopstream.shards.cache_folder import CacheFolder
from gopstream.shards.dataset_files import FileRecord
from gopstream.shards.errors import DamageError
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.open_files import OpenFile, OpenFiles
from gopstream.shards.range_requests import RangeRequests

PART_BYTES: Final = 8 << 20
"""Files are fetched in requests of this length."""
_PARTS_IN_FLIGHT: Final = 3
# Where whole files are waited for, several come at the same time.
_FETCHERS: Final = 3
_PAUSE_SECONDS: Final = 0.05


class UsableCache(NamedTuple):
    """A cache whose folder is made."""

    folder: Path
    max_bytes: int
    transient_bytes: int | None = None
    """As :class:`Cache` has it."""


def usable_cache(wanted: Cache | Literal["auto"] | None) -> UsableCache | None:
    """Return the cache to use, once its folder is made; None for none.

    Args:
        wanted: A cache; ``auto`` for ``Cache()``, without which reading goes on where it cannot
            be; or None.

    Raises:
        StoreError: If the folder of a cache that was asked for cannot be used.
    """
    if wanted is None:
        return None
    asked = Cache() if wanted == "auto" else wanted
    folder = Path("~/.cache/gopstream" if asked.folder is None else asked.folder)
    try:
        folder = folder.expanduser()
        held = CacheFolder(folder, max_bytes=1).num_bytes
        # What the cache holds already was free before.
        half = max((shutil.disk_usage(folder).free + held) // 2, 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        reason = f"the cache folder {folder} cannot be used ({error})"
        if wanted != "auto":
            raise StoreError(f"{reason}; name another, or none") from error
        warnings.warn(f"{reason}; reading goes on without a cache", stacklevel=2)
        return None
    max_bytes = half if asked.max_bytes is None else asked.max_bytes
    transient = asked.transient_bytes
    return UsableCache(folder, max_bytes, None if transient is None else min(transient, max_bytes))


class ShardCache:
    """Which files are kept. Plain values: each process opens the cache for itself."""

    def __init__(
        self,
        storage: ObjectStorage,
        cache: UsableCache,
        *,
        files: Mapping[str, FileRecord],
        fetches_shards: bool,
    ) -> None:
        """Choose the files that are pinned.

        Args:
            storage: Of the dataset.
            cache: Where, and how much.
            files: Those that may be read, by name below the root.
            fetches_shards: Whether files that are not pinned are fetched whole as well.
        """
        self.storage = storage
        self.cache = cache
        self.files = files
        self.fetches_shards = fetches_shards
        self.pinned = _choose_pinned(files, _room_for_pinned(cache, files, fetches_shards))

    def key(self, name: str) -> str:
        """Return the name of a file's copy: another for other content, or from elsewhere."""
        text = f"{self.storage.url}\n{name}\n{self.files[name].sha256}"
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}-{name.rpartition('/')[2]}"

    def open(self, requests: RangeRequests, counters: ReadCounters) -> "OpenCache | None":
        """Open it in this process; None, with a warning, if that is impossible.

        Args:
            requests: Of this process.
            counters: Count what is fetched.
        """
        try:
            folder = CacheFolder(self.cache.folder, max_bytes=self.cache.max_bytes)
            pins = folder.pin([self.key(name) for name in self.pinned])
            reason: object = "another process holds its lock"
        except OSError as error:
            pins, reason = None, error
        if pins is None:
            warnings.warn(
                f"the cache folder {self.cache.folder} cannot be used ({reason}); reading goes on "
                "without it",
                stacklevel=2,
            )
            return None
        return OpenCache(self, folder, pins=pins, requests=requests, counters=counters)


class OpenCache:
    """The cache in one process: copies that are read, and threads that fetch."""

    def __init__(
        self,
        cache: ShardCache,
        folder: CacheFolder,
        *,
        pins: OpenFile,
        requests: RangeRequests,
        counters: ReadCounters,
    ) -> None:
        """Begin; threads are started when there is something to fetch.

        Args:
            cache: Which files are kept.
            folder: Where.
            pins: Protects those that are pinned.
            requests: Of this process.
            counters: Count what is fetched.
        """
        self._cache = cache
        self._folder = folder
        self._pins = pins
        self._requests = requests
        self._counters = counters
        self._open_files = OpenFiles()
        self._served: set[str] = set()
        self._dropped: set[str] = set()
        self._given_up: set[str] = set()
        self._changed = threading.Condition()
        self._queue: deque[str] = deque()
        self._coming: dict[str, concurrent.futures.Future[bool]] = {}
        self._threads: list[threading.Thread] = []
        self._is_closed = threading.Event()

    def use(self, name: str) -> "OpenFile | concurrent.futures.Future[bool] | None":
        """Return a file's copy; what will be True once it is there; or None: read it by ranges."""
        if name not in self._cache.files:
            return None
        if (file := self.file(name)) is not None:
            return file
        is_pinned = name in self._cache.pinned
        if not is_pinned and not self._cache.fetches_shards:
            return None
        coming = self._want(name, is_urgent=True)
        return coming if self._cache.fetches_shards else None

    def expect(self, names: Sequence[str]) -> None:
        """Fetch files in the background, after those that are asked for."""
        for name in names:
            if name in self._cache.files and (
                self._cache.fetches_shards or name in self._cache.pinned
            ):
                self._want(name, is_urgent=False)

    def file(self, name: str) -> OpenFile | None:
        """Return a file's copy if it is there."""
        try:
            if name in self._cache.pinned:
                file: OpenFile | None = self._open_files.get(name, self._open_pinned)
            else:
                num_bytes = self._cache.files[name].num_bytes
                file = self._folder.open(self._cache.key(name), num_bytes, is_pinned=False)
        except OSError:
            return None  # not there, or not readable: the dataset itself is
        if file is not None:
            self._served.add(name)
        return file

    def forget(self, name: str) -> bool:
        """Drop a copy that is no good; returns whether there was one that was read."""
        if name not in self._served:
            return False
        if name in self._dropped and self._is_good(name):
            return True  # another clip still held bytes of the copy that was dropped
        self._served.discard(name)
        self._open_files.drop(name)
        self._folder.remove(self._cache.key(name))
        self._counters.cached_files_dropped += 1
        if name in self._dropped:
            # Twice: this disk does not keep it.
            self._given_up.add(name)
        self._dropped.add(name)
        return True

    def _is_good(self, name: str) -> bool:
        """Tell whether the copy is the file that the manifest names."""
        path = self._folder.path(self._cache.key(name))
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return False
        return digest == self._cache.files[name].sha256

    def close(self) -> None:
        """End the threads; what is not whole is removed."""
        with self._changed:
            self._is_closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        for coming in self._coming.values():
            if not coming.done():
                coming.set_result(False)
        self._open_files.close()
        self._pins.close()

    def _open_pinned(self, name: str) -> int:
        num_bytes = self._cache.files[name].num_bytes
        file = self._folder.open(self._cache.key(name), num_bytes, is_pinned=True)
        if file is None:
            raise FileNotFoundError(name)
        return os.dup(file.descriptor)

    def _want(self, name: str, *, is_urgent: bool) -> "concurrent.futures.Future[bool] | None":
        with self._changed:
            if name in self._given_up or self._is_closed.is_set():
                return None
            if (coming := self._coming.get(name)) is not None:
                if is_urgent and name in self._queue:
                    self._queue.remove(name)
                    self._queue.appendleft(name)
                return coming
            coming = self._coming[name] = concurrent.futures.Future()
            (self._queue.appendleft if is_urgent else self._queue.append)(name)
            if len(self._threads) < (_FETCHERS if self._cache.fetches_shards else 1):
                thread = threading.Thread(target=self._run, name="gopstream-cache", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()
            return coming

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_closed.is_set())
                if self._is_closed.is_set():
                    return
                name = self._queue.popleft()
            is_there = False
            try:
                is_there = self._bring(name)
            finally:
                with self._changed:
                    coming = self._coming.pop(name)
                coming.set_result(is_there)

    def _bring(self, name: str) -> bool:
        """Fetch a file unless it is there; returns whether it is there then."""
        key, num_bytes = self._cache.key(name), self._cache.files[name].num_bytes
        started = time.time()
        try:
            while not self._counters.cache_is_full:
                place = self._folder.reserve(key, num_bytes)
                if isinstance(place, OpenFile):
                    return self._fill(name, place)
                if place == "taken" and self._cache.fetches_shards and self._may_wait(key, started):
                    continue
                if place == "no room" and not self._cache.fetches_shards:
                    self._given_up.add(name)
                return place == "there"
        except OSError as error:
            self._stop_growing(error)
        return False

    def _may_wait(self, key: str, started: float) -> bool:
        """Wait a little for another process; False if it has not made progress for too long."""
        progress = max(self._folder.last_progress(key) or started, started)
        if time.time() - progress > self._cache.storage.options.patience_seconds:
            return False
        return not self._is_closed.wait(_PAUSE_SECONDS)

    def _fill(self, name: str, partial: OpenFile) -> bool:
        key = self._cache.key(name)
        try:
            is_whole = self._fetch(name, partial)
        except BaseException as error:
            self._folder.drop(key, partial)
            if isinstance(error, DamageError):
                warnings.warn(f"{error}; it is not cached", stacklevel=2)
            elif not isinstance(error, (StoreError, FileNotFoundError)):
                raise
            # Whoever reads it hears what is wrong.
            self._given_up.add(name)
            return False
        if not is_whole:
            self._folder.drop(key, partial)
            return False
        self._counters.shards_downloaded += 1
        self._counters.bytes_downloaded += self._cache.files[name].num_bytes
        return self._folder.publish(key, partial)

    def _fetch(self, name: str, partial: OpenFile) -> bool:
        """Fetch a file into another, some requests ahead; False if the cache was closed."""
        record = self._cache.files[name]
        starts = range(0, record.num_bytes, PART_BYTES)
        ahead: deque[concurrent.futures.Future[memoryview]] = deque()
        digest = hashlib.sha256()
        for number, start in enumerate(starts):
            while len(ahead) < _PARTS_IN_FLIGHT and number + len(ahead) < len(starts):
                begin = starts[number + len(ahead)]
                end = min(begin + PART_BYTES, record.num_bytes)
                ahead.append(self._requests.start_part(name, begin, end))
            if (content := self._await(ahead.popleft())) is None:
                for coming in ahead:
                    coming.cancel()
                return False
            digest.update(content)
            written = 0
            while written < len(content):
                written += os.pwrite(partial.descriptor, content[written:], start + written)
        if digest.hexdigest() != record.sha256:
            raise DamageError(
                f"{self._cache.storage.url}/{name}: its bytes do not match the sha256 of the "
                "manifest; run 'gopstream verify' to see all faults"
            )
        return True

    def _await(self, coming: "concurrent.futures.Future[memoryview]") -> memoryview | None:
        while not self._is_closed.is_set():
            if concurrent.futures.wait([coming], _PAUSE_SECONDS).done:
                return None if coming.cancelled() else coming.result()
        coming.cancel()
        return None

    def _stop_growing(self, error: OSError) -> None:
        if not self._counters.cache_is_full:
            self._counters.cache_is_full = 1
            warnings.warn(
                f"the cache {self._cache.cache.folder} stops to grow ({error}); what it holds is "
                "used, the rest is read from the dataset",
                stacklevel=2,
            )


def _room_for_pinned(
    cache: UsableCache, files: Mapping[str, FileRecord], fetches_shards: bool
) -> int:
    total = sum(record.num_bytes for record in files.values())
    if not fetches_shards or total <= cache.max_bytes:
        return cache.max_bytes
    transient = cache.transient_bytes
    return cache.max_bytes - (cache.max_bytes // 4 if transient is None else transient)


def _choose_pinned(files: Mapping[str, FileRecord], max_bytes: int) -> frozenset[str]:
    """Return as many names as there is room for, in an order that any room is a prefix of."""
    pinned, left = [], max_bytes
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        left -= files[name].num_bytes
        if left < 0:
            break
        pinned.append(name)
    return frozenset(pinned)
