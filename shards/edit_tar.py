"""Write a tar of a shard again without some samples.

Every step here gives the same result if it has been done already: a removal that was killed is
simply begun again.
"""

import hashlib
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from gopstream.shards.dataset_files import FileRecord
from gopstream.shards.errors import DamageError
from gopstream.shards.storage import Storage
from gopstream.shards.tar import TarWriter


class TarContent(NamedTuple):
    """A tar as it lies in the storage."""

    record: FileRecord
    offsets: Mapping[str, int]
    """Of each member's content, by member name."""


class _Member(NamedTuple):
    name: str
    offset: int
    length: int

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]


def drop_from_tar(storage: Storage, name: str, keys: Collection[str]) -> TarContent:
    """Make a tar hold no member of some samples; untouched if it holds none.

    Args:
        storage: Of the dataset.
        name: Of the tar, with its split.
        keys: Of the samples.

    Returns:
        The tar as it is then.

    Raises:
        DamageError: If it is missing or cannot be read to its end.
    """
    try:
        with storage.local_copy(name) as path:
            members = _list_members(path, f"{storage.url}/{name}")
            if any(member.key in keys for member in members):
                kept = [member for member in members if member.key not in keys]
                return _copy_members(path, kept, storage=storage, name=name)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            offsets = {member.name: member.offset for member in members}
            return TarContent(FileRecord(path.stat().st_size, digest), offsets)
    except FileNotFoundError as error:
        raise DamageError(f"{storage.url}/{name}: is missing; run 'gopstream verify'") from error


def _list_members(path: Path, where: str) -> list[_Member]:
    size = path.stat().st_size
    members = []
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                members.append(_Member(info.name, info.offset_data, info.size))
    except (tarfile.TarError, OSError) as error:
        raise DamageError(f"{where}: cut off or damaged ({error})") from error
    end = max((member.offset + member.length for member in members), default=0)
    if end + 2 * tarfile.BLOCKSIZE > size:
        raise DamageError(f"{where}: cut off or damaged; run 'gopstream verify'")
    return members


def _copy_members(path: Path, members: list[_Member], *, storage: Storage, name: str) -> TarContent:
    offsets = {}
    with path.open("rb") as file, TarWriter(storage, name) as tar:
        for member in members:
            file.seek(member.offset)
            offsets[member.name] = tar.add(member.name, file.read(member.length))
            tar.mark()  # nothing goes back before here: a store may be sent it
        return TarContent(tar.publish(), offsets)
