"""The temporary folders of worker processes, and what is left of them.

A worker that is killed removes nothing. Its parent does, unless that is killed as well, as by a
machine that takes the whole job away. So each folder is locked as long as the worker or its
parent lives, and a later job removes those that nobody locks. The kernel ends a lock with its
process, whoever kills it; unlike a process id it says the same in every container that sees the
folder, and is never given to another process.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

# Such leftovers are few: one for each worker of a killed job.
_MAX_REMOVED: Final = 1000
_PREFIX: Final = "gopstream-worker-"
_NAME: Final = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")  # as tempfile makes names


class WorkerFolder:
    """A temporary folder that is nobody's leftover while this object lives."""

    def __init__(self) -> None:
        """Make the folder and lock it."""
        while True:
            self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
            self.path = Path(self._folder.name)
            try:
                self._lock = hold_folder(self.path)
            except (FileNotFoundError, BlockingIOError):
                self._folder.cleanup()  # another job took it for a leftover before it was locked
            else:
                return

    def remove(self) -> None:
        """Remove the folder with what is in it; again is fine."""
        self._folder.cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def hold_folder(path: Path) -> int | None:
    """Lock a worker's folder for as long as this process lives or the result is open.

    Returns:
        A file descriptor; None on a file system without locks, where nobody removes leftovers.

    Raises:
        FileNotFoundError: If the folder has just been removed.
        BlockingIOError: If it is just being removed.
    """
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
        raise FileNotFoundError(path)
    except (FileNotFoundError, BlockingIOError):
        os.close(lock)
        raise
    except OSError:
        os.close(lock)
        return None


def remove_leftovers() -> None:
    """Remove the folders of workers that died together with their parents.

    Only folders of this user that no process holds. What cannot be removed stays, silently: it
    harms nothing but the disk.
    """
    parent = Path(tempfile.gettempdir())
    mode = parent.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        return  # others could give any folder of ours such a name
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
    for name in sorted(names)[:_MAX_REMOVED]:
        with contextlib.suppress(OSError):
            _remove_unheld(parent / name)


def _remove_unheld(path: Path) -> None:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
