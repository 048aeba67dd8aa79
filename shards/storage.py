"""Where a dataset lies: a local folder, or object storage.

Names are POSIX paths below the dataset's root, such as ``train/000000.tar``. Nothing is visible
under its name before it is whole. Object storage is imported only when an address is opened:
loading a local dataset needs no client of it.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.object_store import (
    StoreOptions,
    is_address,
    is_web_address,
    local_path,
)
from gopstream.shards.local_storage import LocalStorage


class ObjectWriter(Protocol):
    """An object that is being written; leaving the context drops what was not published."""

    def __enter__(self) -> Self:
        """Return the writer."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what was not published."""
        ...

    def write(self, content: bytes, /) -> int:
        """Append all of it; returns its length.

        Raises:
            OSError: If the disk is full.
            StoreError: If object storage does not take it.
        """
        ...

    def mark(self) -> int:
        """Keep what was written so far; :meth:`rewind` goes back to here.

        Only to the last mark: object storage may have been sent everything before it.
        """
        ...

    def rewind(self, mark: int) -> None:
        """Drop everything that was written since the last mark."""
        ...

    def publish(self) -> None:
        """Make the object durable and visible, at once and whole."""
        ...

    def discard(self) -> None:
        """Drop what was not published; does nothing after :meth:`publish`."""
        ...


class Storage(Protocol):
    """The objects of a dataset. Plain values, so that it travels to other processes."""

    @property
    def url(self) -> str:
        """The folder or address, for messages."""
        ...

    @property
    def local_root(self) -> Path | None:
        """The folder, None for object storage."""
        ...

    def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name."""
        ...

    def size(self, name: str) -> int:
        """Return an object's size in bytes.

        Raises:
            FileNotFoundError: If it is not there.
        """
        ...

    def read(self, name: str) -> bytes:
        """Read a small object.

        Raises:
            FileNotFoundError: If it is not there.
            FormatError: If it is too large to be a file of this kind.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write an object so that it is either whole or absent."""
        ...

    def create(self, name: str) -> ObjectWriter:
        """Start an object."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; it may be absent."""
        ...

    def list_names(self, folder: str) -> list[str]:
        """Return the names of the objects directly in a folder, sorted, without the folder."""
        ...

    def list_folders(self) -> list[str]:
        """Return the names of the folders directly below the root, sorted."""
        ...

    def local_copy(self, name: str) -> AbstractContextManager[Path]:
        """Give an object as a local file: itself, or a temporary download.

        Raises:
            FileNotFoundError: If it is not there.
        """
        ...

    def put_file(self, path: Path, name: str) -> None:
        """Publish a copy of a local file under a name, atomically."""
        ...


def open_storage(
    url: str | Path, options: StoreOptions | None = None, *, for_writing: bool = False
) -> Storage:
    """Open the place of a dataset, which need not exist yet.

    Args:
        url: A folder, or an address such as ``s3://bucket/folder``. A web server's
            (``https://host/folder``) is for reading by name: nothing there can be written or
            listed.
        options: How object storage is reached; None takes the defaults.
        for_writing: Whether it will be written to. Otherwise object storage that cannot be
            reached at all is given up after some 10 seconds, until it has answered once.

    Raises:
        StoreError: If the address is of an unknown kind, or is to be written to and cannot be.
    """
    if isinstance(url, Path) or not is_address(url):
        return LocalStorage(local_path(str(url)))
    if for_writing and is_web_address(url):
        raise StoreError(
            f"{url}: a dataset on a web server can only be read; to write give a folder or an "
            "address of object storage, such as s3://BUCKET/FOLDER"
        )
    from gopstream.shards.object_storage import ObjectStorage

    return ObjectStorage(url, options or StoreOptions(), for_writing=for_writing)


def as_storage(place: Storage | Path | str) -> Storage:
    """Return a storage itself, or the one of a folder or address, with the default options."""
    return open_storage(place) if isinstance(place, (Path, str)) else place
