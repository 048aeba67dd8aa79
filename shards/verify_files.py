"""Compare the files of one shard with each other and with the manifest."""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gopstream.shards.dataset_files import FileRecord, ShardRecord
from gopstream.shards.edit_index import member_name
from gopstream.shards.errors import ShardError
from gopstream.shards.index import MAIN_TAR, RESIDUAL_TAR, ShardIndex, load_index
from gopstream.shards.layout import index_name, tar_name
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.user_plane import PlaneIndex, parse_plane_index, plane_index_name, user_planes


class Fault(NamedTuple):
    """One thing that is wrong."""

    shard: str
    """File name, or the split when no single file is at fault."""
    key: str
    """The sample, empty when the fault is not one sample's."""
    what: str


class ExpectedMember(NamedTuple):
    """What an index says of a tar's member."""

    key: str
    name: str
    offset: int
    length: int
    crc32: int


OnProgress = Callable[[], None]


def check_files(
    folder: Path, shard: ShardRecord, *, on_progress: OnProgress = lambda: None
) -> Iterator[Fault]:
    """Yield what is wrong with the files of a shard.

    Args:
        folder: That has the files of the shard, each complete.
        shard: What the manifest says.
        on_progress: Called after each member.
    """
    name = index_name(shard.name)
    try:
        index = load_index(LocalStorage(folder), name)
    except FileNotFoundError:
        yield Fault(name, "", "is missing")
        return
    except ShardError as error:
        yield Fault(name, "", _own(error, folder))
        return
    if len(index.keys) != shard.num_samples:
        what = f"lists {len(index.keys)} samples, the manifest says {shard.num_samples}"
        yield Fault(name, "", what)
    for tar, tar_file in ((MAIN_TAR, tar_name(shard.name)), _residual_tar(shard)):
        members = _index_members(index, tar)
        if tar_file in shard.files:
            yield from _check_tar(folder / tar_file, members, shard.files, on_progress=on_progress)
        elif members:
            yield Fault(tar_file, "", "is missing, from the manifest too")
    yield from _check_record(folder / name, shard.files)
    keys = [key.decode() for key in index.keys.tolist()]
    for plane in user_planes(shard.files):
        yield from _check_plane(folder, shard, plane, keys, on_progress=on_progress)


def _residual_tar(shard: ShardRecord) -> tuple[int, str]:
    return RESIDUAL_TAR, tar_name(shard.name, "residual")


def _index_members(index: ShardIndex, tar: int) -> list[ExpectedMember]:
    return [
        ExpectedMember(
            index.keys[index.member_sample[row]].decode(),
            member_name(index, row),
            int(index.member_offset[row]),
            int(index.member_length[row]),
            int(index.member_crc32[row]),
        )
        for row in np.flatnonzero(index.member_tar == tar).tolist()
    ]


def _check_plane(
    folder: Path, shard: ShardRecord, plane: str, keys: list[str], *, on_progress: OnProgress
) -> Iterator[Fault]:
    """Check a user's plane: its index, its order, each member."""
    name = plane_index_name(shard.name, plane)
    try:
        index = parse_plane_index((folder / name).read_bytes(), name)
    except FileNotFoundError:
        yield Fault(name, "", "is missing")
        return
    except ShardError as error:
        yield Fault(name, "", str(error))
        return
    yield from _check_record(folder / name, shard.files)
    members = _plane_members(index, plane)
    order = {key: number for number, key in enumerate(keys)}
    places = [order.get(member.key, -1) for member in members]
    if -1 in places:
        key = members[places.index(-1)].key
        yield Fault(name, key, "lists a sample that the shard does not have")
    elif places != sorted(places):
        yield Fault(name, "", "lists samples in another order than the shard has them")
    tar = folder / tar_name(shard.name, plane)
    yield from _check_tar(tar, members, shard.files, on_progress=on_progress)


def _plane_members(index: PlaneIndex, plane: str) -> list[ExpectedMember]:
    keys = [key.decode() for key in index.keys.tolist()]
    columns = (index.offset.tolist(), index.length.tolist(), index.crc32.tolist())
    rows = zip(keys, index.member_names(plane), *columns, strict=True)
    return [ExpectedMember(*row) for row in rows]


def _check_record(path: Path, files: Mapping[str, FileRecord]) -> Iterator[Fault]:
    record = files.get(path.name)
    if record is None:
        yield Fault(path.name, "", "is there, but the manifest does not list it")
    elif _record(path) != record:
        yield Fault(path.name, "", "its size or sha256 differs from the manifest's")


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _check_tar(
    path: Path,
    expected: list[ExpectedMember],
    files: Mapping[str, FileRecord],
    *,
    on_progress: OnProgress,
) -> Iterator[Fault]:
    if not path.is_file():
        yield Fault(path.name, "", "is missing")
        return
    faults = list(_walk_tar(path, expected, on_progress=on_progress))
    yield from faults or _check_record(path, files)


def _walk_tar(
    path: Path, expected: list[ExpectedMember], *, on_progress: OnProgress
) -> Iterator[Fault]:
    """Walk the tar by its headers, and compare names, places and checksums with an index."""
    size = path.stat().st_size
    seen = 0
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member, info in zip(expected, archive, strict=False):
                seen += 1
                place = (member.offset, member.length)
                if (info.name, info.offset_data, info.size) != (member.name, *place):
                    what = f"expected {member.name} at {place}, found {info.name}"
                    yield Fault(path.name, member.key, what)
                    return
                if sum(place) > size:
                    yield Fault(path.name, member.key, f"{member.name} is cut off")
                    return
                file.seek(member.offset)
                if zlib.crc32(file.read(member.length)) != member.crc32:
                    what = f"{member.name}: bytes differ from their checksum"
                    yield Fault(path.name, member.key, what)
                on_progress()
    except (tarfile.TarError, OSError) as error:
        key = expected[seen].key if seen < len(expected) else ""
        yield Fault(path.name, key, f"is cut off or damaged after {seen} members ({error})")
        return
    if seen < len(expected):
        what = f"ends before {expected[seen].name}: {len(expected) - seen} members are missing"
        yield Fault(path.name, expected[seen].key, what)


def _own(error: Exception, folder: Path) -> str:
    """Return what an error says, without the folder where the files were looked at."""
    return str(error).replace(f"{folder}/", "")
