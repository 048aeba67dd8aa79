"""Drop planes of a finished dataset. The main tars are never written again.

What refers to a side tar goes first and the tar last, so that a reader never finds a reference
to nothing. Dropping again what was interrupted completes it.
"""

from collections.abc import Sequence
from dataclasses import replace

from gopstream.shards.dataset_files import (
    FileRecord,
    load_dataset,
    load_manifest,
    save_dataset,
    save_manifest,
    save_shard_files,
)
from gopstream.shards.edit_files import check_changeable, read_files
from gopstream.shards.edit_index import drop_residual
from gopstream.shards.errors import SettingsError
from gopstream.shards.index import index_bytes, load_index
from gopstream.shards.layout import index_name, tar_name
from gopstream.shards.plane_names import check_plane_name
from gopstream.shards.storage import Storage
from gopstream.shards.user_plane import plane_index_name


def refresh_manifest(storage: Storage, split: str) -> None:
    """Make a split's manifest list the files that its shards say they have."""
    manifest = load_manifest(storage, split)
    files = read_files(storage, split, [shard.name for shard in manifest.shards])
    pairs = zip(manifest.shards, files, strict=True)
    shards = tuple(replace(shard, files=now) for shard, now in pairs)
    if shards != manifest.shards:
        save_manifest(storage, replace(manifest, shards=shards))


def drop_plane(storage: Storage, plane: str, splits: Sequence[str]) -> int:
    """Drop the residual, or a user's own plane.

    Args:
        storage: Of the dataset.
        plane: ``residual``, or the name of the user's plane.
        splits: All finished splits of the dataset.

    Returns:
        How many side tars were deleted; 0 if there is no such plane (any more).

    Raises:
        SettingsError: If it cannot be dropped, or the dataset cannot be changed.
    """
    if plane in ("frames", "motion", "coverage"):
        raise SettingsError(
            f"{plane} cannot be dropped: it is in the main tars, with what a sample cannot be "
            "without, and these are never written again; make the dataset anew with 'gopstream "
            "shard --planes' to leave out frames"
        )
    if plane != "residual":
        check_plane_name(plane)
    check_changeable(storage, splits)
    tars = [(split, name) for split in splits for name in _forget(storage, split, plane)]
    facts = load_dataset(storage)
    if not tars and plane not in facts.planes:
        return 0
    for split in splits:
        refresh_manifest(storage, split)
    if plane in facts.planes:
        left = tuple(name for name in facts.planes if name != plane)
        save_dataset(storage, replace(facts, planes=left))
    for split, shard in tars:
        storage.delete(f"{split}/{tar_name(shard, plane)}")
        if plane != "residual":
            storage.delete(f"{split}/{plane_index_name(shard, plane)}")
    return len(tars)


def _forget(storage: Storage, split: str, plane: str) -> list[str]:
    """Take a plane out of the indexes and records of a split's shards; returns which had it."""
    there = set(storage.list_names(split))
    names = [shard.name for shard in load_manifest(storage, split).shards]
    shards = []
    for shard, files in zip(names, read_files(storage, split, names), strict=True):
        tar, side_index = tar_name(shard, plane), plane_index_name(shard, plane)
        # Also what an interrupted command has left, which no file lists yet or any more.
        if not {tar, side_index} & (there | files.keys()):
            continue
        shards.append(shard)
        left = {name: file for name, file in files.items() if name not in (tar, side_index)}
        if plane == "residual":
            name = index_name(shard)
            content = index_bytes(drop_residual(load_index(storage, f"{split}/{name}")))
            storage.write(f"{split}/{name}", content)
            left[name] = FileRecord.of(content)
        if left != files:
            save_shard_files(storage, split, shard, left)
    return shards
