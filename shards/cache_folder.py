"""A folder of copies of remote files, bounded, shared by the processes of a machine.

::

    lock                   # held while files come, go or are counted
    files/KEY              # whole copies
    files/KEY.partial      # being fetched; its process holds a lock on it
    users/HASH             # names of files that are pinned; those who use them hold locks on it

All locks are ``flock``: they end with their process, so that a process that was killed blocks
nothing, and what it left is known by its being unlocked.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gopstream.shards.open_files import OpenFile

_PARTIAL: Final = ".partial"
# The lock is held for milliseconds; whoever was stopped while it had it must not stop the others.
_LOCK_SECONDS: Final = 10.0
_LOCK_PAUSE_SECONDS: Final = 0.005


class _Entry(NamedTuple):
    name: str
    num_bytes: int
    last_use: float


class CacheFolder:
    """The folder, and how much may be in it."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Name the folder; it is made.

        Raises:
            OSError: If it cannot be written, or its disk has no locks.
        """
        self._folder = folder
        self._files = folder / "files"
        self._users = folder / "users"
        self._max_bytes = max_bytes
        self._pins: dict[str, frozenset[str]] = {}
        self._files.mkdir(parents=True, exist_ok=True)
        self._users.mkdir(exist_ok=True)
        with self._locked():
            pass

    @property
    def num_bytes(self) -> int:
        """Bytes of all files, with those that are being fetched."""
        return sum(entry.num_bytes for entry in self._entries())

    def pin(self, keys: Sequence[str]) -> OpenFile | None:
        """Protect files from being removed to make room, until the result is closed.

        Also removes what killed processes left, and what is more than may be here.

        Returns:
            The lock; None if the folder's lock could not be taken.
        """
        content = "\n".join(sorted(keys)).encode()
        path = self._users / hashlib.sha256(content).hexdigest()
        with self._locked() as is_locked:
            if not is_locked:
                return None
            if not path.exists():
                partial = path.with_name(path.name + _PARTIAL)
                partial.write_bytes(content)
                partial.rename(path)
            user = OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            _try_lock(user, fcntl.LOCK_SH)
            self._make_room(0)
        return user

    def open(self, key: str, num_bytes: int, *, is_pinned: bool) -> OpenFile | None:
        """Open a copy for reading.

        Args:
            key: Its name.
            num_bytes: What it must have; a file of another size is removed.
            is_pinned: Whether it is protected; else it is locked while it is open, and known to
                be in use.

        Returns:
            The file, None if it is not there.
        """
        try:
            file = OpenFile(os.open(self._files / key, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return None
        if not is_pinned:
            if not _try_lock(file, fcntl.LOCK_SH):
                return None
            with contextlib.suppress(OSError):
                os.utime(file.descriptor)
        if os.fstat(file.descriptor).st_size != num_bytes:
            self.remove(key)
            return None
        return file

    def reserve(self, key: str, num_bytes: int) -> OpenFile | Literal["there", "taken", "no room"]:
        """Make room for a file and start it.

        Returns:
            The file to fill, of its full length already, then given to :meth:`publish` or
            :meth:`drop`; or that it is there, another process fetches it, or the room is taken
            by files that are protected or in use.

        Raises:
            OSError: If the disk is full or cannot be written.
        """
        path = self._files / f"{key}{_PARTIAL}"
        with self._locked() as is_locked:
            if not is_locked:
                return "taken"
            if (self._files / key).exists():
                return "there"
            partial = OpenFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
            if not _try_lock(partial, fcntl.LOCK_EX) or _is_removed(partial):
                return "taken"
            os.truncate(partial.descriptor, 0)
            if not self._make_room(num_bytes):
                path.unlink()
                return "no room"
            try:
                # Its length at once, so that it is counted.
                os.truncate(partial.descriptor, num_bytes)
            except OSError:
                path.unlink()
                raise
        try:
            os.posix_fallocate(partial.descriptor, 0, max(num_bytes, 1))
        except OSError:
            self.drop(key, partial)
            raise
        return partial

    def publish(self, key: str, partial: OpenFile) -> bool:
        """Give a file that was filled its name; returns whether it could be."""
        with self._locked() as is_locked:
            if not is_locked:
                self.drop(key, partial)
                return False
            # Not synced: after a power failure the checksums of its pieces tell.
            (self._files / f"{key}{_PARTIAL}").rename(self._files / key)
            # Before the folder's lock goes: whoever then finds it there can read it.
            partial.close()
        return True

    def drop(self, key: str, partial: OpenFile) -> None:
        """Remove a file that was not filled."""
        (self._files / f"{key}{_PARTIAL}").unlink(missing_ok=True)
        partial.close()

    def path(self, key: str) -> Path:
        """Return where a file's copy is, once it is there."""
        return self._files / key

    def last_progress(self, key: str) -> float | None:
        """Return when a file that another process fetches last grew, in seconds of its clock."""
        try:
            return (self._files / f"{key}{_PARTIAL}").stat().st_mtime
        except FileNotFoundError:
            return None

    def remove(self, key: str) -> None:
        """Remove a copy that is no good."""
        (self._files / key).unlink(missing_ok=True)

    def _entries(self) -> list[_Entry]:
        entries = []
        with os.scandir(self._files) as listing:
            for entry in listing:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    entries.append(_Entry(entry.name, status.st_size, status.st_mtime))
        return entries

    def _make_room(self, num_bytes: int) -> bool:
        """Remove what nobody needs until there is room for so many bytes; the lock is held."""
        entries = self._entries()
        for entry in entries:
            if entry.name.endswith(_PARTIAL):
                self._remove_unused(entry.name)
        entries = self._entries()
        excess = sum(entry.num_bytes for entry in entries) + num_bytes - self._max_bytes
        if excess <= 0:
            return True
        pinned = self._pinned()
        free = [
            entry
            for entry in sorted(entries, key=lambda entry: entry.last_use)
            if entry.name not in pinned and not entry.name.endswith(_PARTIAL)
        ]
        if sum(entry.num_bytes for entry in free) < excess:
            return False
        for entry in free:
            if self._remove_unused(entry.name):
                excess -= entry.num_bytes
            if excess <= 0:
                return True
        return False

    def _remove_unused(self, name: str) -> bool:
        """Remove a file unless a process has locked it."""
        return _remove_unlocked(self._files / name)

    def _pinned(self) -> frozenset[str]:
        """Return the names that living processes have pinned; forgets the others."""
        names: set[str] = set()
        for path in self._users.iterdir():
            if _remove_unlocked(path):
                self._pins.pop(path.name, None)
                continue
            if path.name not in self._pins:
                self._pins[path.name] = frozenset(path.read_text().split("\n"))
            names |= self._pins[path.name]
        return frozenset(names)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the folder's lock; gives False if another process does not let it go."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        file = OpenFile(os.open(self._folder / "lock", flags, 0o666))
        deadline = time.monotonic() + _LOCK_SECONDS
        while not (is_locked := _try_lock(file, fcntl.LOCK_EX)):
            if time.monotonic() > deadline:
                break
            time.sleep(_LOCK_PAUSE_SECONDS)
        try:
            yield is_locked
        finally:
            file.close()


def _remove_unlocked(path: Path) -> bool:
    try:
        file = OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return True
    if not _try_lock(file, fcntl.LOCK_EX):
        return False
    path.unlink(missing_ok=True)
    file.close()
    return True


def _is_removed(file: OpenFile) -> bool:
    """Tell whether a file lost its name between its opening and its lock."""
    return os.fstat(file.descriptor).st_nlink == 0


def _try_lock(file: OpenFile, kind: int) -> bool:
    """Lock a file until it is closed, unless another has."""
    try:
        fcntl.flock(file.descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
