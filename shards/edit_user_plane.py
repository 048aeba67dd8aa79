"""Add a user's own plane to a finished dataset: side tars made from a folder of files."""

import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from gopstream.shards.dataset_files import (
    FileRecord,
    load_manifest,
    load_shard_files,
    save_shard_files,
)
from gopstream.shards.edit_files import check_changeable, read_files
from gopstream.shards.edit_planes import refresh_manifest
from gopstream.shards.errors import SettingsError
from gopstream.shards.index import load_index
from gopstream.shards.layout import index_name, tar_name
from gopstream.shards.plane_names import check_plane_name
from gopstream.shards.storage import Storage
from gopstream.shards.tar import TarWriter
from gopstream.shards.user_plane import PlaneIndex, plane_index_bytes, plane_index_name

_EXTENSION: Final = re.compile(r"[A-Za-z0-9_.-]+")
_MAX_MEMBER_NAME: Final = 100  # of a tar header without extensions
_SHOWN: Final = 5

_Place = tuple[str, str]
"""A split and a shard of it."""


class PlaneFile(NamedTuple):
    """A file that becomes a member."""

    extension: str
    path: Path


class AddedPlane(NamedTuple):
    """What has been made of a folder, in the shards that lacked the plane."""

    num_members: int
    num_samples: int
    """With at least one member."""
    missing: int
    """Samples without any."""
    num_shards: int
    unused: tuple[str, ...]
    """Names in the folder that belong to no sample of the splits."""


def add_user_plane(
    storage: Storage,
    plane: str,
    splits: Sequence[str],
    *,
    folder: Path,
    partial: bool = False,
    on_shard: Callable[[], None] = lambda: None,
) -> AddedPlane:
    """Make side tars of a folder that has ``KEY.EXT`` files, or ``KEY/EXT``.

    Shards that have the plane already are passed over: after videos were appended, only those
    of the new samples are made. Nothing is written before every sample of the others is known to
    have a file. Running it again completes what was interrupted.

    Args:
        storage: Of the dataset.
        plane: Name of the plane.
        splits: Finished splits whose samples get it.
        folder: Of the files.
        partial: Allow samples without a file.
        on_shard: Called after each shard, also one that is passed over.

    Raises:
        SettingsError: If the name cannot be used, all shards have the plane, samples lack files,
            a file's name cannot be a member's, or the dataset cannot be changed.
    """
    check_plane_name(plane)
    check_changeable(storage, splits)
    keys, lacking = _open_shards(storage, splits, plane)
    if keys and not lacking:
        raise SettingsError(f"{storage.url}: there is a plane {plane!r} already; drop it first")
    found = _scan(folder, plane, {key for shard_keys in keys.values() for key in shard_keys})
    wanted = [key for place in keys if place in lacking for key in keys[place]]
    missing = [key for key in wanted if key not in found.files]
    if missing and (not partial or not found.files):
        listed = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise SettingsError(
            f"{folder}: {len(missing)} of {len(wanted)} samples have no file ({listed}); "
            "a file's name must be KEY.EXT, or KEY/EXT" + ("" if partial else ", or give --partial")
        )
    for place, shard_keys in keys.items():
        if place in lacking:
            _write_shard(storage, *place, plane, shard_keys, files=found.files)
        on_shard()
    for split in splits:
        refresh_manifest(storage, split)
    return AddedPlane(
        num_members=sum(len(found.files.get(key, ())) for key in wanted),
        num_samples=len(wanted) - len(missing),
        missing=len(missing),
        num_shards=len(lacking),
        unused=found.unused,
    )


def _open_shards(
    storage: Storage, splits: Sequence[str], plane: str
) -> tuple[dict[_Place, list[str]], set[_Place]]:
    """Return the keys of each shard, and which shards lack the plane."""
    keys: dict[_Place, list[str]] = {}
    lacking = set()
    for split in splits:
        shards = load_manifest(storage, split).shards
        records = read_files(storage, split, [shard.name for shard in shards])
        for shard, files in zip(shards, records, strict=True):
            index = load_index(storage, f"{split}/{index_name(shard.name)}")
            keys[split, shard.name] = [key.decode() for key in index.keys.tolist()]
            # One that only the shard, or only the manifest lists is left from an interruption.
            if tar_name(shard.name, plane) not in shard.files.keys() & files.keys():
                lacking.add((split, shard.name))
    return keys, lacking


class _Found(NamedTuple):
    files: Mapping[str, Sequence[PlaneFile]]
    unused: tuple[str, ...]


def _scan(folder: Path, plane: str, keys: set[str]) -> _Found:
    """Return the files of each key, sorted by name."""
    if not folder.is_dir():
        raise SettingsError(f"{folder}: not a folder")
    files: dict[str, list[PlaneFile]] = {}
    unused = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            key, _, extension = entry.name.partition(".")
            if key not in keys or (entry.is_file() and not extension):
                unused.append(entry.name)
            elif entry.is_dir():
                for child in sorted(Path(entry.path).iterdir()):
                    if not child.is_file():
                        raise SettingsError(f"{child}: a sample's folder must hold files alone")
                    files.setdefault(key, []).append(PlaneFile(child.name, child))
            else:
                files.setdefault(key, []).append(PlaneFile(extension, Path(entry.path)))
    for key, members in files.items():
        _check_members(key, plane, members)
    return _Found(files, tuple(unused))


def _check_members(key: str, plane: str, members: Sequence[PlaneFile]) -> None:
    seen = set()
    for extension, path in members:
        name = f"{key}.{plane}.{extension}"
        if not _EXTENSION.fullmatch(extension) or len(name) > _MAX_MEMBER_NAME:
            raise SettingsError(
                f"{path}: cannot become the member {name}: use letters, digits, '_', '-', '.', "
                f"and {_MAX_MEMBER_NAME} in all"
            )
        if extension in seen:
            raise SettingsError(f"{path}: there is another file for the member {name}")
        seen.add(extension)


def _write_shard(
    storage: Storage,
    split: str,
    shard: str,
    plane: str,
    keys: Sequence[str],
    *,
    files: Mapping[str, Sequence[PlaneFile]],
) -> None:
    """Publish a shard's side tar and its index, then note them in the record of its files."""
    rows: list[tuple[bytes, bytes, int, int, int]] = []
    tar, side_index = tar_name(shard, plane), plane_index_name(shard, plane)
    with TarWriter(storage, f"{split}/{tar}") as writer:
        for key in keys:
            for extension, path in files.get(key, ()):
                content = path.read_bytes()
                offset = writer.add(f"{key}.{plane}.{extension}", content)
                writer.mark()  # nothing goes back before here: a store may be sent it
                crc32 = zlib.crc32(content)
                rows.append((key.encode(), extension.encode(), offset, len(content), crc32))
        record = writer.publish()
    content = plane_index_bytes(_index(rows))
    storage.write(f"{split}/{side_index}", content)
    records = load_shard_files(storage, split, shard)
    records |= {tar: record, side_index: FileRecord.of(content)}
    save_shard_files(storage, split, shard, records)


def _index(rows: Sequence[tuple[bytes, bytes, int, int, int]]) -> PlaneIndex:
    columns: tuple[Sequence[Any], ...] = tuple(zip(*rows, strict=True)) or ((),) * 5
    return PlaneIndex(
        keys=np.array(columns[0], np.bytes_),
        extensions=np.array(columns[1], np.bytes_),
        offset=np.array(columns[2], np.int64),
        length=np.array(columns[3], np.int64),
        crc32=np.array(columns[4], np.uint32),
    )
