"""What identifies a source: its content, not its name."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from gopstream.pipeline.picture_folder import list_pictures

_BLOCK_BYTES: Final = 1 << 22


class SourceDigest(NamedTuple):
    """The content of a source."""

    sha256: str
    """64 hexadecimal digits."""
    num_bytes: int


def source_digest(path: Path, *, on_progress: Callable[[], None]) -> SourceDigest:
    """Hash a file, or a folder of numbered pictures, in little memory.

    Of a folder, the hash is that of one line per picture, in the order of their numbers: the
    file's name, a space, the SHA-256 of its content, a line feed (UTF-8). Other files in it do not
    count.

    Args:
        path: A local file or folder.
        on_progress: Called every 4 MiB and after each file; may raise to stop.

    Raises:
        FileNotFoundError: If there is no such file.
        NotAVideoError: If a folder holds no numbered pictures.
    """
    if not path.is_dir():
        return _file_digest(path, on_progress)
    lines = hashlib.sha256()
    num_bytes = 0
    for picture in list_pictures(path).paths:
        content = _file_digest(picture, on_progress)
        lines.update(f"{picture.name} {content.sha256}\n".encode("utf-8", "surrogateescape"))
        num_bytes += content.num_bytes
    return SourceDigest(lines.hexdigest(), num_bytes)


def _file_digest(path: Path, on_progress: Callable[[], None]) -> SourceDigest:
    digest = hashlib.sha256()
    num_bytes = 0
    block = bytearray(_BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(memoryview(block)[:size])
            num_bytes += size
            on_progress()
    return SourceDigest(digest.hexdigest(), num_bytes)
