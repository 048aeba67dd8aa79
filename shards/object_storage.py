"""A dataset in object storage: objects appear whole, at once, under their final names.

An object that is being written is a multipart upload: its parts leave this machine as they are
made, and only what may still be dropped, the samples of one video, is held back. An upload that
is not finished is invisible; it is aborted when its writer is left. A job that is killed cannot
do that: the bucket needs a lifecycle rule that removes incomplete multipart uploads.

A dataset on a web server can be read, by the names that its own files hold.

obstore is imported where it is used: a process that was forked needs another copy of it than the
one that its parent's modules hold (:mod:`gopstream.pipeline.forked_client`).
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.object_store import (
    Place,
    StoreOptions,
    is_web_address,
    open_place,
    patiently,
)
from gopstream.pipeline.store_errors import explain, is_refused
from gopstream.pipeline.video_source import download
from gopstream.shards.layout import check_size
from gopstream.shards.local_storage import check_name

if TYPE_CHECKING:
    from obstore import ListResult, ObjectMeta

_Result = TypeVar("_Result")

PART_BYTES: Final = 8 << 20
"""S3 takes 10,000 parts, so that an object can have 80 GB."""
_PARTS_IN_FLIGHT: Final = 2
_BLOCK_BYTES: Final = 1 << 20
_HELD_IN_MEMORY: Final = 4 << 20
# How long the server is given to abort an upload before we leave without its answer.
_ABORT_SECONDS: Final = 30.0


class ObjectStorage:
    """The objects of a dataset below an address. Holds plain values: it travels to workers."""

    def __init__(self, url: str, options: StoreOptions, *, for_writing: bool = True) -> None:
        """Name the address; nothing is asked of the server.

        Args:
            url: The address.
            options: How it is reached.
            for_writing: Whether it will be written to. What is only read is soon given up if it
                cannot be reached at all; see :attr:`StoreOptions.patience_seconds`.

        Raises:
            StoreError: If a dataset cannot be there.
        """
        self._is_web = is_web_address(url)
        if self._is_web and "?" in url:
            raise StoreError(
                f"{url.partition('?')[0]}: the address of a dataset cannot have a query: its files "
                "lie below it"
            )
        self._url = url.rstrip("/")
        self._options = options
        self._for_writing = for_writing
        # A job that writes may begin while its store is away.
        self._was_reached = for_writing
        self._place(for_upload=False)

    @property
    def url(self) -> str:
        """The address, for messages."""
        return self._url

    @property
    def local_root(self) -> Path | None:
        """None: it is not on this machine."""
        return None

    @property
    def options(self) -> StoreOptions:
        """How it is reached."""
        return self._options

    def place(self, name: str) -> Place:
        """Return where an object is; its store is this process's own.

        Raises:
            FormatError: If the name leads out of the dataset.
        """
        return self._place(name, for_upload=False)

    def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name."""
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return an object's size in bytes.

        Raises:
            FileNotFoundError: If it is not there.
        """

        def action(place: Place) -> int:
            import obstore

            return obstore.head(place.store, place.path)["size"]

        return self._do("looking", name, action)

    def read(self, name: str) -> bytes:
        """Read a small object.

        Raises:
            FileNotFoundError: If it is not there.
            FormatError: If it is too large to be a file of this kind.
        """

        def action(place: Place) -> bytes:
            import obstore

            result = obstore.get(place.store, place.path)
            check_size(result.meta["size"], place.address)
            return bytes(result.bytes())

        return self._do("reading", name, action)

    def write(self, name: str, content: bytes) -> None:
        """Write an object at once."""
        self._do("writing", name, lambda place: _put(place, content), for_upload=True)

    def create(self, name: str) -> "UploadWriter":
        """Start an object."""
        return UploadWriter(self._place(name, for_upload=True), self._options)

    def delete(self, name: str) -> None:
        """Remove an object; it may be absent."""

        def action(place: Place) -> None:
            import obstore

            obstore.delete(place.store, place.path)

        self._check_writable()
        with contextlib.suppress(FileNotFoundError):
            self._do("deleting", name, action)

    def list_names(self, folder: str) -> list[str]:
        """Return the names of the objects directly in a folder, sorted."""
        listed = self._list(folder)["objects"]
        return sorted(PurePosixPath(entry["path"]).name for entry in listed)

    def list_folders(self) -> list[str]:
        """Return the names of the folders directly below the root, sorted."""
        listed = self._list("")["common_prefixes"]
        return sorted(PurePosixPath(prefix).name for prefix in listed)

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Give a temporary download of an object.

        Raises:
            FileNotFoundError: If it is not there.
        """
        address = f"{self._url}/{check_name(name)}"
        with tempfile.TemporaryDirectory(prefix="gopstream-") as folder:
            path = Path(folder) / PurePosixPath(name).name
            download(address, path, options=self._options)
            yield path

    def put_file(self, path: Path, name: str) -> None:
        """Publish a copy of a local file under a name, at once."""
        self._do("uploading", name, lambda place: _put(place, path), for_upload=True)

    def _list(self, folder: str) -> "ListResult[Sequence[ObjectMeta]]":
        def action(place: Place) -> "ListResult[Sequence[ObjectMeta]]":
            import obstore

            return obstore.list_with_delimiter(place.store, place.path or None)

        if self._is_web:
            raise StoreError(
                f"{self._url}/{folder}: a web server cannot be listed; what is asked needs a local "
                "folder or object storage"
            )
        return self._do("listing", folder or None, action)

    def _check_writable(self) -> None:
        if self._is_web:
            raise StoreError(
                f"{self._url}: a dataset on a web server can only be read; to write give a folder "
                "or an address of object storage, such as s3://BUCKET/FOLDER"
            )

    def _do(
        self,
        what: str,
        name: str | None,
        action: Callable[[Place], _Result],
        *,
        for_upload: bool = False,
    ) -> _Result:
        place = self._place(name, for_upload=for_upload)
        try:
            result = patiently(
                lambda: action(place),
                place=place,
                what=what,
                options=self._options,
                was_reached=self._was_reached,
            )
        except FileNotFoundError:  # it says so itself
            self._was_reached = True
            raise
        self._was_reached = True
        return result

    def _place(self, name: str | None = None, *, for_upload: bool) -> Place:
        if for_upload:
            self._check_writable()
        root = open_place(self._url, self._options, for_upload=for_upload)
        root = root._replace(is_for_reading=not self._for_writing and not for_upload)
        if name is None:
            return root
        path = (PurePosixPath(root.path) / check_name(name)).as_posix()
        return root._replace(path=path, address=f"{self._url}/{name}", is_link=False)


class UploadWriter:
    """An object on its way to the store; leaving the context aborts what was not published."""

    def __init__(self, place: Place, options: StoreOptions) -> None:
        """Start the object ``place`` names."""
        import obstore

        self._place = place
        self._options = options
        self._upload = obstore.open_writer(
            place.store, place.path, buffer_size=PART_BYTES, max_concurrency=_PARTS_IN_FLIGHT
        )
        self._held = tempfile.SpooledTemporaryFile(_HELD_IN_MEMORY)  # noqa: SIM115
        self._num_kept = 0
        self._num_held = 0
        self._is_open = True
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abort what was not published."""
        self.discard()

    def write(self, content: bytes) -> int:
        """Append all of it; returns its length.

        Raises:
            StoreError: If an earlier part of the object could not be sent.
            OSError: If the temporary folder is full.
        """
        self._check()
        self._held.write(content)
        self._num_held += len(content)
        return len(content)

    def mark(self) -> int:
        """Send what was written so far; :meth:`rewind` goes back to here.

        Raises:
            StoreError: If the store refuses, or does not answer in time.
        """
        self._check()
        self._held.seek(0)
        while block := self._held.read(_BLOCK_BYTES):
            self._send(partial(self._upload.write, block))
        self._num_kept += self._num_held
        self._drop_held()
        return self._num_kept

    def rewind(self, mark: int) -> None:
        """Drop everything that was written since the last mark."""
        assert mark == self._num_kept, "only the last mark can be gone back to"
        self._drop_held()

    def publish(self) -> None:
        """Send the rest and make the object visible.

        Raises:
            StoreError: If the store refuses, or does not answer in time.
        """
        self.mark()
        self._send(self._upload.close)
        self._close()

    def discard(self) -> None:
        """Abort the upload; does nothing after :meth:`publish`."""
        if not self._is_open:
            return
        self._close()
        # A store that is away must not keep us from leaving; see the module's docstring.
        abort = threading.Thread(target=self._abort, daemon=True)
        abort.start()
        abort.join(_ABORT_SECONDS)

    def _abort(self) -> None:
        from obstore.exceptions import BaseError

        # What went wrong before is what matters; an abort that fails leaves parts, no object.
        with contextlib.suppress(BaseError, OSError):
            error = InterruptedError("dropped")
            self._upload.__exit__(type(error), error, None)

    def _send(self, action: Callable[[], object]) -> None:
        from obstore.exceptions import BaseError

        started = time.monotonic()
        try:
            action()
        except (BaseError, OSError) as error:
            if self._place.credentials is not None and is_refused(error):
                self._place.credentials.forget()
            # Parts are sent in the background: this one may have been tried for long already.
            seconds = max(time.monotonic() - started, self._options.patience_seconds)
            self._error = explain(error, place=self._place, what="uploading", seconds=seconds)
            raise self._error from error

    def _check(self) -> None:
        """Refuse to go on after an error: what was sent has a hole."""
        if self._error is not None:
            raise self._error

    def _drop_held(self) -> None:
        self._held.seek(0)
        self._held.truncate()
        self._num_held = 0

    def _close(self) -> None:
        self._is_open = False
        self._held.close()


def _put(place: Place, content: bytes | Path) -> None:
    import obstore

    obstore.put(
        place.store,
        place.path,
        content,
        chunk_size=PART_BYTES,
        max_concurrency=_PARTS_IN_FLIGHT,
    )
