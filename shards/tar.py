"""Write reproducible tar files: fixed times and owners, members where we know their offsets."""

import hashlib
import tarfile
from types import TracebackType
from typing import Final, NamedTuple, Self

from gopstream.shards.dataset_files import FileRecord
from gopstream.shards.storage import Storage

_END: Final = bytes(2 * tarfile.BLOCKSIZE)


class TarMark(NamedTuple):
    """A place in a tar that is being written."""

    num_bytes: int
    digest: "hashlib._Hash"
    place: int
    """Of the object that is being written."""


class TarWriter:
    """A tar that is invisible until :meth:`publish`; leaving the context drops what was not."""

    def __init__(self, storage: Storage, name: str) -> None:
        """Start the object ``name`` will become."""
        self._object = storage.create(name)
        self._digest = hashlib.sha256()
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
        self._object.discard()

    def add(self, name: str, content: bytes) -> int:
        """Append a member; returns the offset of its content in the file."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self._num_bytes
        self._write(content)
        self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        return offset

    def mark(self) -> TarMark:
        """Keep what was added so far; :meth:`rewind` goes back to the last mark alone."""
        return TarMark(self._num_bytes, self._digest.copy(), self._object.mark())

    def rewind(self, mark: TarMark) -> None:
        """Drop everything that was added since ``mark``."""
        self._object.rewind(mark.place)
        self._num_bytes, self._digest = mark.num_bytes, mark.digest.copy()

    def publish(self) -> FileRecord:
        """End the tar, make it durable and give it its name."""
        self._write(_END)
        self._write(bytes(-self._num_bytes % tarfile.RECORDSIZE))
        self._object.publish()
        return FileRecord(self._num_bytes, self._digest.hexdigest())

    def _write(self, content: bytes) -> None:
        self._object.write(content)
        self._digest.update(content)
        self._num_bytes += len(content)
