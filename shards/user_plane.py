"""A user's own plane: captions, flow, features beside the samples, in side tars of their own.

``NNNNNN.NAME.tar`` has members ``KEY.NAME.EXT`` in the order of the shard's keys; a key may have
several, or none. ``NNNNNN.NAME.index.npz`` says where they are. Dimension: M members of a shard.
"""

import re
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from gopstream.shards.array_file import array_file_bytes, parse_array_file
from gopstream.shards.dataset_files import load_manifest
from gopstream.shards.errors import DamageError, FormatError, ShardError
from gopstream.shards.layout import tar_name
from gopstream.shards.plane_names import BUILT_IN_PLANES, check_plane_name
from gopstream.shards.storage import Storage, as_storage

_SIDE_TAR: Final = re.compile(r"[0-9]{6}\.([a-z0-9_]{1,32})\.tar")


@dataclass(frozen=True, slots=True)
class PlaneIndex:
    """Where the members of a plane are in a shard's side tar."""

    keys: npt.NDArray[np.bytes_]
    """(M,) of the sample, ASCII."""
    extensions: npt.NDArray[np.bytes_]
    """(M,) what follows ``KEY.NAME.``, ASCII."""
    offset: npt.NDArray[np.int64]
    """(M,) of the content, from the start of the tar."""
    length: npt.NDArray[np.int64]
    """(M,)"""
    crc32: npt.NDArray[np.uint32]
    """(M,)"""

    def member_names(self, plane: str) -> list[str]:
        """Return the members' names in the tar."""
        pairs = zip(self.keys.tolist(), self.extensions.tolist(), strict=True)
        return [f"{key.decode()}.{plane}.{extension.decode()}" for key, extension in pairs]

    def moved(self, offset: npt.NDArray[np.int64]) -> "PlaneIndex":
        """Return the index with the members at other places."""
        return replace(self, offset=offset)


def plane_index_name(shard: str, plane: str) -> str:
    """Return the name of the index of a shard's side tar."""
    return f"{shard}.{plane}.index.npz"


def plane_index_bytes(index: PlaneIndex) -> bytes:
    """Return an index as a file; the same index gives the same bytes."""
    return array_file_bytes({field.name: getattr(index, field.name) for field in fields(index)})


def parse_plane_index(content: bytes, where: str) -> PlaneIndex:
    """Return the index that a file holds.

    Raises:
        FormatError: If it is damaged or of a newer version.
    """
    names = [field.name for field in fields(PlaneIndex)]
    arrays = parse_array_file(content, names=names, where=where)
    index = PlaneIndex(**{name: arrays[name] for name in names})
    if len({getattr(index, name).shape for name in names}) != 1 or index.keys.ndim != 1:
        raise FormatError(f"{where}: its columns differ in length")
    return index


def user_planes(file_names: Iterable[str]) -> list[str]:
    """Return the names of the users' planes that a shard's files have, sorted."""
    found = (_SIDE_TAR.fullmatch(name) for name in file_names)
    return sorted({match[1] for match in found if match} - set(BUILT_IN_PLANES))


def select_rows(index: PlaneIndex, keep: npt.NDArray[np.bool_]) -> PlaneIndex:
    """Return some rows of an index, as of a tar that never had more."""
    columns: dict[str, Any] = {
        field.name: getattr(index, field.name)[keep] for field in fields(PlaneIndex)
    }
    for name in ("keys", "extensions"):
        columns[name] = np.array(columns[name].tolist(), np.bytes_)
    return PlaneIndex(**columns)


class UserPlane:
    """The members of a user's plane in a finished split, by key.

    A local tar is read in place. Of one in object storage the first read makes a temporary copy,
    which is kept until :meth:`close`.
    """

    def __init__(self, place: Storage | Path | str, split: str, name: str) -> None:
        """Open a plane.

        Args:
            place: The dataset.
            split: Name of the split.
            name: Of the plane.

        Raises:
            ShardError: If the split has no such plane.
            FormatError: If an index is damaged.
        """
        self.name = check_plane_name(name)
        self._storage = as_storage(place)
        self._split = split
        self._stack = ExitStack()
        self._paths: dict[str, Path] = {}
        self._indexes: dict[str, PlaneIndex] = {}
        self._places: dict[str, tuple[str, list[int]]] = {}
        for shard in load_manifest(self._storage, split).shards:
            if tar_name(shard.name, name) in shard.files:
                self._open_shard(shard.name)
        if not self._indexes:
            raise ShardError(f"{self._storage.url}/{split}: there is no plane {name!r}")

    def __enter__(self) -> Self:
        """Return the plane."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Remove temporary copies; the plane can be read again after that."""
        self._paths.clear()
        self._stack.close()

    def extensions(self, key: str) -> list[str]:
        """Return what a sample has of the plane: the names' ends; none if it has nothing."""
        if key not in self._places:
            return []
        shard, rows = self._places[key]
        return [self._indexes[shard].extensions[row].decode() for row in rows]

    def read(self, key: str, extension: str | None = None) -> bytes:
        """Return a sample's member.

        Args:
            key: Of the sample.
            extension: Which of several; None if there is one.

        Raises:
            ShardError: If there is no such member, or several and none was named.
            DamageError: If its bytes differ from their checksum.
        """
        there = self.extensions(key)
        if extension is None and len(there) == 1:
            extension = there[0]
        if extension is None or extension not in there:
            wanted = "one of several members" if extension is None else repr(extension)
            raise ShardError(
                f"{self._storage.url}/{self._split}, sample {key}: asked for {wanted} of the plane "
                f"{self.name}; there is {', '.join(there) or 'nothing'}"
            )
        shard, rows = self._places[key]
        return self._read_row(shard, rows[there.index(extension)])

    def _open_shard(self, shard: str) -> None:
        name = f"{self._split}/{plane_index_name(shard, self.name)}"
        index = parse_plane_index(self._storage.read(name), f"{self._storage.url}/{name}")
        self._indexes[shard] = index
        for row, key in enumerate(index.keys.tolist()):
            self._places.setdefault(key.decode(), (shard, []))[1].append(row)

    def _read_row(self, shard: str, row: int) -> bytes:
        index = self._indexes[shard]
        name = f"{self._split}/{tar_name(shard, self.name)}"
        if shard not in self._paths:
            self._paths[shard] = self._stack.enter_context(self._storage.local_copy(name))
        with self._paths[shard].open("rb") as file:
            file.seek(int(index.offset[row]))
            content = file.read(int(index.length[row]))
        if len(content) != index.length[row] or zlib.crc32(content) != index.crc32[row]:
            raise DamageError(
                f"{self._storage.url}/{name}: {index.member_names(self.name)[row]} is damaged (it "
                "does not match its checksum); run 'gopstream verify' to see all faults"
            )
        return content
