"""A dataset in a local folder: every file is either whole or absent, also after a crash."""

import contextlib
import errno
import fcntl
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self

from gopstream.pipeline.errors import StoreError
from gopstream.shards.errors import FormatError
from gopstream.shards.layout import check_size, partial_path, publish, sync_folder

_PARTIAL_NAME: Final = re.compile(r"\..+\.[0-9a-f]+\.partial")


def check_name(name: str) -> PurePosixPath:
    """Return a name as a path that cannot lead out of the dataset.

    Raises:
        FormatError: If it is empty, absolute, or has a part that is empty, ``.`` or ``..``.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise FormatError(f"{name!r} is not the name of a file of a dataset")
    return PurePosixPath(*parts)


class LocalWriter:
    """A file under a temporary name until :meth:`publish`; leaving the context drops it.

    While it is written the file is locked, so that other processes can tell a killed writer's
    leftovers, which they remove, from a living one's work.
    """

    def __init__(self, path: Path) -> None:
        """Start the file ``path`` will become; its folder is made."""
        self._path = path
        _make_folder(path.parent)
        _remove_leftovers(path.parent.absolute())
        # Unbuffered: closing a file after a full disk must not try to write again.
        self._partial, self._file = _create_locked(path)
        self._num_bytes = 0

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what was not published."""
        self.discard()

    def write(self, content: bytes) -> int:
        """Append all of it; returns its length."""
        rest = memoryview(content)
        while rest:
            with self._named_errors():
                rest = rest[self._file.write(rest) :]
        self._num_bytes += len(content)
        return len(content)

    def mark(self) -> int:
        """Keep what was written so far; :meth:`rewind` goes back to here."""
        return self._num_bytes

    def rewind(self, mark: int) -> None:
        """Drop everything that was written since the mark."""
        with self._named_errors():
            self._file.truncate(mark)
            self._file.seek(mark)
        self._num_bytes = mark

    def publish(self) -> None:
        """Make the file durable and give it its name."""
        with self._named_errors():
            os.fsync(self._file.fileno())
            publish(self._partial, self._path)
        self._file.close()

    def discard(self) -> None:
        """Remove what was not published; does nothing after :meth:`publish`."""
        if not self._file.closed:
            self._partial.unlink(missing_ok=True)
            self._file.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Let errors say which file it is, and that no video is at fault."""
        try:
            yield
        except OSError as error:
            raise StoreError(error.errno, error.strerror, str(self._path)) from error


class LocalStorage:
    """The files of a dataset in a folder."""

    def __init__(self, root: Path) -> None:
        """Name the folder; it need not exist."""
        self._root = root

    @property
    def url(self) -> str:
        """The folder, for messages."""
        return str(self._root)

    @property
    def local_root(self) -> Path | None:
        """The folder."""
        return self._root

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        return self._path(name).is_file()

    def size(self, name: str) -> int:
        """Return a file's size in bytes.

        Raises:
            FileNotFoundError: If it is not there.
        """
        return self._path(name).stat().st_size

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            FileNotFoundError: If it is not there.
            FormatError: If it is too large to be a file of this kind.
        """
        path = self._path(name)
        check_size(path.stat().st_size, str(path))
        return path.read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that it is either whole or absent."""
        with self.create(name) as writer:
            writer.write(content)
            writer.publish()

    def create(self, name: str) -> LocalWriter:
        """Start a file; folders of its name are made."""
        return LocalWriter(self._path(name))

    def delete(self, name: str) -> None:
        """Remove a file; it may be absent."""
        self._path(name).unlink(missing_ok=True)

    def list_names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder, sorted, without unfinished ones."""
        path = self._path(folder) if folder else self._root
        if not path.is_dir():
            return []
        return sorted(
            entry.name
            for entry in os.scandir(path)
            if entry.is_file() and not _is_partial(entry.name)
        )

    def list_folders(self) -> list[str]:
        """Return the names of the folders, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir())

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Give the file itself.

        Raises:
            FileNotFoundError: If it is not there.
        """
        path = self._path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there")
        yield path

    def put_file(self, path: Path, name: str) -> None:
        """Publish a copy of a local file under a name, atomically."""
        with path.open("rb") as source, self.create(name) as writer:
            shutil.copyfileobj(source, writer, 1 << 20)
            writer.publish()

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(".partial")


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents so that they survive a crash."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _create_locked(path: Path) -> tuple[Path, io.FileIO]:
    """Create and lock a file for a temporary name of ``path``."""
    while True:
        partial = partial_path(path)
        file = io.FileIO(partial, "xb")
        _lock(file, wait=True)
        # Another writer may have taken it for a leftover before it was locked.
        if os.fstat(file.fileno()).st_nlink > 0:
            return partial, file
        file.close()


@cache
def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers; once in a process, as a folder may be large.

    A worker that was killed is replaced by a new process, and a killed job by a new job.
    """
    for name in os.listdir(folder):  # noqa: PTH208 - names alone are much faster
        if _PARTIAL_NAME.fullmatch(name):
            leftover = folder / name
            with contextlib.suppress(FileNotFoundError), io.FileIO(leftover, "r+b") as file:
                if _lock(file, wait=False):
                    leftover.unlink(missing_ok=True)


def _lock(file: io.FileIO, *, wait: bool) -> bool:
    """Lock a file until it is closed; returns whether another process holds it not."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network disks have no locks; then nothing can be known to be a leftover.
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            return False
        raise
    return True
