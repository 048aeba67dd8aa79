"""Videos wherever they are: on this machine, in object storage, or behind a web server.

What is not here is brought to a temporary file, a piece at a time. A download that breaks goes on
where it ended, if the server lets it and the object is still the same.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final
from urllib.parse import quote, unquote, urlsplit

from gopstream.pipeline.errors import SourceError, StoreError
from gopstream.pipeline.object_store import (
    Patience,
    Place,
    StoreOptions,
    is_address,
    is_web_address,
    local_path,
    open_place,
    patiently,
)
from gopstream.pipeline.store_errors import describe

_BLOCK_BYTES: Final = 1 << 20
_DEFAULT_OPTIONS: Final = StoreOptions()


def list_files(root: str, options: StoreOptions = _DEFAULT_OPTIONS) -> list[str]:
    """Return the files below a local folder or address.

    Links are followed, except to a folder that they lie in.

    Args:
        root: The folder or address.
        options: How object storage is reached.

    Returns:
        Names relative to ``root`` with forward slashes, sorted.

    Raises:
        FileNotFoundError: If there is no such local folder.
        StoreError: If the store cannot be listed; a web server never can.
    """
    if not is_address(root):
        return sorted(_walk(local_path(root)))
    if is_web_address(root):
        raise StoreError(
            f"{root.partition('?')[0]}: a web server cannot be listed; name the videos in a list, "
            "such as a CSV or Parquet file"
        )
    import obstore

    place = open_place(root, options)

    def action() -> list[str]:
        blocks = obstore.list(place.store, place.path or None, chunk_size=1000)
        return [entry["path"] for block in blocks for entry in block]

    paths = patiently(action, place=place, what="listing", options=options)
    skipped = len(place.path) + 1 if place.path else 0
    return sorted(path[skipped:] for path in paths)


@contextmanager
def local_video(
    root: str,
    name: str,
    *,
    options: StoreOptions = _DEFAULT_OPTIONS,
    on_progress: Callable[[], None] | None = None,
) -> Iterator[Path]:
    """Give a video as a local file: itself, or a temporary download that is removed afterwards.

    Args:
        root: A local folder or an address.
        name: Path of the video below it, or an address of its own.
        options: How object storage is reached.
        on_progress: Called as bytes arrive.

    Raises:
        FileNotFoundError: If it is not there.
        SourceError: If its name leads out of ``root``, or it changed while it was read; or if
            it is on a web server that does not give it.
        StoreError: If the store refuses, or does not answer in time.
    """
    if not is_address(name) and not is_address(root):
        path = local_path(root) / _checked(name)
        if not path.is_file():
            raise FileNotFoundError(f"{name}: no such file in {root}")
        yield path
        return
    address = video_address(root, name)
    with tempfile.TemporaryDirectory(prefix="gopstream-") as folder:
        path = Path(folder) / _base_name(address)
        download(address, path, options=options, on_progress=on_progress)
        yield path


@contextmanager
def local_pictures(
    root: str,
    name: str,
    *,
    options: StoreOptions = _DEFAULT_OPTIONS,
    on_progress: Callable[[], None] | None = None,
) -> Iterator[Path]:
    """Give a folder of pictures as a local folder: itself, or a temporary download of its files.

    Args:
        root: A local folder or an address.
        name: Path of the folder below it, or an address of its own.
        options: How object storage is reached.
        on_progress: Called as bytes arrive.

    Raises:
        FileNotFoundError: If it is not there, or empty.
        SourceError: If its name leads out of ``root``, or a picture changed while it was read.
        StoreError: If the store refuses, or does not answer in time.
    """
    if not is_address(name) and not is_address(root):
        path = local_path(root) / _checked(name)
        if not path.is_dir():
            raise FileNotFoundError(f"{name}: no such folder in {root}")
        yield path
        return
    address = video_address(root, name)
    pictures = list_files(address, options)
    if not pictures:
        raise FileNotFoundError(f"{address}: no such folder")
    with tempfile.TemporaryDirectory(prefix="gopstream-") as folder:
        path = Path(folder) / _base_name(address)
        for picture in pictures:
            target = path / _checked(picture)
            target.parent.mkdir(parents=True, exist_ok=True)
            download(f"{address}/{picture}", target, options=options, on_progress=on_progress)
        yield path


def video_address(root: str, name: str) -> str:
    """Return the whole address of a video.

    Args:
        root: An address, or a local folder if ``name`` is an address.
        name: Path below the root, or an address of its own.

    Raises:
        SourceError: If the name leads out of the root.
    """
    if is_address(name):
        return name
    path = _checked(name).as_posix()
    return f"{root.rstrip('/')}/{quote(path) if is_web_address(root) else path}"


def download(
    address: str,
    path: Path,
    *,
    options: StoreOptions,
    on_progress: Callable[[], None] | None = None,
) -> None:
    """Write an object to a local file, in bounded memory.

    Args:
        address: Of the object.
        path: The file to write.
        options: How object storage is reached; patience begins anew as bytes arrive.
        on_progress: Called as bytes arrive.

    Raises:
        FileNotFoundError: If it is not there.
        SourceError: If it changed meanwhile, or a web server does not give it.
        StoreError: If the store refuses, or does not answer in time.
        OSError: If the disk is full.
    """
    place = open_place(address, options)
    try:
        with path.open("wb") as file:
            _Download(place, file, on_progress).run(options)
    except StoreError as error:
        if is_web_address(address):
            # One of many servers; the others may be well.
            raise SourceError(str(error)) from error
        raise


class _Download:
    """An object on its way into a file."""

    def __init__(
        self, place: Place, file: IO[bytes], on_progress: Callable[[], None] | None
    ) -> None:
        self._place = place
        self._file = file
        self._on_progress = on_progress
        self._position = 0
        self._e_tag: str | None = None
        self._size: int | None = None

    def run(self, options: StoreOptions) -> None:
        """Fetch all of it."""
        from obstore.exceptions import BaseError, PreconditionError

        patience = Patience(self._place, "downloading", options=options)
        while True:
            before = self._position
            try:
                return self._fetch()
            except PreconditionError as error:
                raise self._changed() from error
            except (BaseError, FileNotFoundError) as error:
                if self._position == self._size:
                    return None  # cut after the last byte
                if self._position > before:
                    patience.refresh()
                self._prepare_resume(error)
                patience.wait_or_raise(error)
                if self._on_progress is not None:
                    self._on_progress()  # whoever listens must not take patience for a stall

    def _fetch(self) -> None:
        """Fetch what is missing, in one request if it goes well."""
        import obstore

        if self._position == 0:
            result = obstore.get(self._place.store, self._place.path)
            self._e_tag, self._size = result.meta["e_tag"], result.meta["size"]
        else:
            result = obstore.get(
                self._place.store,
                self._place.path,
                options={"range": {"offset": self._position}, "if_match": self._e_tag},
            )
        if result.meta["e_tag"] != self._e_tag:
            raise self._changed()
        for block in result.stream(min_chunk_size=_BLOCK_BYTES):
            self._file.write(block)
            self._position += len(block)
            if self._on_progress is not None:
                self._on_progress()
        if self._position != self._size:
            raise SourceError(f"{self._place.address}: {self._position} bytes of {self._size} came")

    def _prepare_resume(self, error: Exception) -> None:
        """Begin anew where the server cannot go on; a weak tag does not vouch for bytes."""
        is_weak = self._e_tag is None or self._e_tag.startswith("W/")
        if is_weak or "Range request not supported" in describe(error):
            self._file.seek(0)
            self._file.truncate()
            self._position = 0

    def _changed(self) -> SourceError:
        return SourceError(
            f"{self._place.address}: the object changed while it was read; try it again when it "
            "stays as it is"
        )


def _checked(name: str) -> PurePosixPath:
    """Return a name as a path that stays where it belongs; links there may lead elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise SourceError(f"{name!r} leads out of the videos' folder; names are paths below it")
    return path


def _base_name(address: str) -> str:
    """Return the last part of an address, for the name of a local file."""
    path = urlsplit(address).path if is_web_address(address) else address
    name = PurePosixPath(unquote(path) if is_web_address(address) else path).name
    # A file system takes 255 bytes, and the end of a name says what it is.
    return os.fsdecode(os.fsencode(name.replace("\0", "_"))[-200:]) or "video"


def _walk(root: Path) -> Iterator[str]:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    for path in _files_below(root, frozenset()):
        yield path.relative_to(root).as_posix()


def _files_below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return  # a link to a folder that it lies in
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path, above | {here})
        elif path.is_file():
            yield path
