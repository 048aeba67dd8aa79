"""Write reproducible tar files: fixed times and owners, members where we know their offsets."""

import hashlib
import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from gopstream.shards.layout import partial_path, publish

_END: Final = bytes(2 * tarfile.BLOCKSIZE)


class FileFacts(NamedTuple):
    """A finished file, as the manifest records it."""

    num_bytes: int
    sha256: str


class TarMark(NamedTuple):
    """A place in a tar that is being written."""

    num_bytes: int
    digest: "hashlib._Hash"


class TarWriter:
    """A tar under a temporary name until :meth:`publish`; leaving the context drops the rest."""

    def __init__(self, path: Path) -> None:
        """Start the file ``path`` will become."""
        self._path = path
        self._partial = partial_path(path)
        self._file = self._partial.open("wb")
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
        """Remove what was not published."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def add(self, name: str, content: bytes) -> int:
        """Append a member; returns the offset of its content in the file."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self._num_bytes
        self._write(content)
        self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        return offset

    def mark(self) -> "TarMark":
        """Return the present end, to which :meth:`rewind` can go back."""
        return TarMark(self._num_bytes, self._digest.copy())

    def rewind(self, mark: "TarMark") -> None:
        """Drop everything that was added since ``mark``."""
        self._file.flush()
        self._file.truncate(mark.num_bytes)
        self._file.seek(mark.num_bytes)
        self._num_bytes, self._digest = mark.num_bytes, mark.digest.copy()

    def publish(self) -> FileFacts:
        """End the tar, make it durable and give it its name."""
        self._write(_END)
        self._write(bytes(-self._num_bytes % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        publish(self._partial, self._path)
        return FileFacts(self._num_bytes, self._digest.hexdigest())

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._num_bytes += len(content)
