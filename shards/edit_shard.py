"""Take samples out of one published shard.

Each object is written again at once and whole: tars first, then the indexes, the record of the
files, and the report last. Until the report says so the shard is not done; doing it again from
the beginning gives the same bytes, wherever it was interrupted.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np

from gopstream.shards.dataset_files import FileRecord, load_shard_files, save_shard_files
from gopstream.shards.edit_index import move_members, select_samples
from gopstream.shards.edit_tar import drop_from_tar
from gopstream.shards.errors import DamageError, FormatError
from gopstream.shards.index import MAIN_TAR, RESIDUAL_TAR, index_bytes, load_index
from gopstream.shards.layout import dump_json, index_name, report_name, tar_name
from gopstream.shards.storage import Storage
from gopstream.shards.user_plane import (
    parse_plane_index,
    plane_index_bytes,
    plane_index_name,
    select_rows,
    user_planes,
)

REMOVAL_FILE: Final = "removal.json"
"""Which samples are being removed from a split; its presence means that this is not finished."""


def remove_from_shard(
    storage: Storage,
    split: str,
    shard: str,
    keys: Collection[str],
    *,
    sources: Collection[str] = (),
) -> bool:
    """Make a shard hold no byte of some samples.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        shard: Name of the shard.
        keys: Of the samples; those that the shard does not have are passed over.
        sources: Names of videos that count as removed, no longer as failed, where they failed.

    Returns:
        Whether the shard had such samples.

    Raises:
        DamageError: If an object of the shard is missing or damaged; those before it may be
            written already.
    """
    report = read_report(storage, split, shard)
    rows = [_row_without(row, keys, sources) for row in report]
    if rows == report:
        return False
    has_samples = any(sample["key"] in keys for row in report for sample in row.get("samples", []))
    if has_samples:
        try:
            files = load_shard_files(storage, split, shard)
            _rewrite(storage, split, shard, files, keys=keys)
        except FileNotFoundError as error:
            raise DamageError(f"{storage.url}/{split}: {error}; run 'gopstream verify'") from error
        save_shard_files(storage, split, shard, files)
    content = b"".join(dump_json(row) + b"\n" for row in rows)
    storage.write(f"{split}/{report_name(shard)}", content)
    return has_samples


def read_report(storage: Storage, split: str, shard: str) -> list[dict[str, Any]]:
    """Return the rows of a shard's report, one for each planned video.

    Raises:
        FormatError: If it is missing or damaged.
    """
    name = f"{split}/{report_name(shard)}"
    try:
        rows = [json.loads(line) for line in storage.read(name).splitlines()]
    except (ValueError, FileNotFoundError) as error:
        raise FormatError(f"{storage.url}/{name}: cannot be read ({error})") from error
    for number, row in enumerate(rows, start=1):
        samples = row.get("samples", []) if isinstance(row, dict) else None
        if not isinstance(samples, list) or not all(
            isinstance(sample, dict) and isinstance(sample.get("key"), str) for sample in samples
        ):
            raise FormatError(f"{storage.url}/{name}: line {number} is not a report of a video")
    return rows


def _rewrite(
    storage: Storage,
    split: str,
    shard: str,
    files: dict[str, FileRecord],
    *,
    keys: Collection[str],
) -> None:
    """Write tars and indexes without the samples, and note them in ``files``."""
    index = load_index(storage, f"{split}/{index_name(shard)}")
    keep = np.array([key.decode() not in keys for key in index.keys.tolist()], np.bool_)
    index = select_samples(index, keep)
    for tar, name in ((MAIN_TAR, tar_name(shard)), (RESIDUAL_TAR, tar_name(shard, "residual"))):
        if name in files:
            content = drop_from_tar(storage, f"{split}/{name}", keys)
            index = move_members(index, tar, content.offsets)
            files[name] = content.record
    for plane in user_planes(files):
        _rewrite_plane(storage, split, shard, files, plane=plane, keys=keys)
    files[index_name(shard)] = _write(storage, split, index_name(shard), index_bytes(index))


def _rewrite_plane(
    storage: Storage,
    split: str,
    shard: str,
    files: dict[str, FileRecord],
    *,
    plane: str,
    keys: Collection[str],
) -> None:
    name = plane_index_name(shard, plane)
    where = f"{storage.url}/{split}/{name}"
    index = parse_plane_index(storage.read(f"{split}/{name}"), where)
    keep = np.array([key.decode() not in keys for key in index.keys.tolist()], np.bool_)
    index = select_rows(index, keep)
    content = drop_from_tar(storage, f"{split}/{tar_name(shard, plane)}", keys)
    files[tar_name(shard, plane)] = content.record
    try:
        offsets = [content.offsets[member] for member in index.member_names(plane)]
    except KeyError as error:
        raise DamageError(f"{where}: the tar has no member {error}") from error
    moved = index.moved(np.array(offsets, np.int64))
    files[name] = _write(storage, split, name, plane_index_bytes(moved))


def _write(storage: Storage, split: str, name: str, content: bytes) -> FileRecord:
    storage.write(f"{split}/{name}", content)
    return FileRecord.of(content)


def _row_without(
    row: Mapping[str, Any], keys: Collection[str], sources: Collection[str]
) -> dict[str, Any]:
    """Return a row of the report that says which samples are gone.

    The source's name stays, as in the plan: a video that was taken down is not appended again.
    """
    if row.get("status") == "failed" and row.get("source") in sources:
        left_out = ("key", "stage", "error", "message")
        about = {name: value for name, value in row.items() if name not in left_out}
        return about | {"status": "removed", "samples": [], "warnings": []}
    samples = row.get("samples", [])
    gone = [sample["key"] for sample in samples if sample["key"] in keys]
    if not gone:
        return dict(row)
    left = [sample for sample in samples if sample["key"] not in keys]
    changed = dict(row) | {"samples": left, "removed": sorted([*row.get("removed", []), *gone])}
    if not left:
        changed["status"] = "removed"
        changed["warnings"] = []
        changed.pop("source_sha256", None)
    return changed
