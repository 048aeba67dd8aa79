"""Re-read everything of a split and name each fault.

Nothing is believed: the tar is walked by its own headers and compared with the index, every
member's checksum is recomputed, every JPEG and chunk is decoded. With ``rebuild`` each frame is
rebuilt from motion and residual and compared with the hash of what the decoder had made.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gopstream.shards.dataset_files import ShardRecord, load_dataset, load_manifest
from gopstream.shards.errors import ShardError
from gopstream.shards.index import MAIN_TAR, RESIDUAL_TAR, ShardIndex, load_index
from gopstream.shards.layout import (
    index_name,
    tar_name,
)
from gopstream.shards.reader import ShardDataset
from gopstream.shards.verify_content import check_sample
from gopstream.shards.verify_plan import check_plan


class Fault(NamedTuple):
    """One thing that is wrong."""

    shard: str
    """File name, or the split when no single file is at fault."""
    key: str
    """The sample, empty when the fault is not one sample's."""
    what: str


def verify_split(
    root: Path,
    split: str,
    *,
    rebuild: bool = False,
    on_shard: Callable[[], None] = lambda: None,
) -> Iterator[Fault]:
    """Yield every fault of a split.

    Args:
        root: Folder of the dataset.
        split: Name of the split.
        rebuild: Also rebuild all frames; needs the residual.
        on_shard: Called after each shard.
    """
    try:
        facts = load_dataset(root)
        manifest = load_manifest(root, split)
    except ShardError as error:
        yield Fault(split, "", str(error))
        return
    if rebuild and "residual" not in facts.planes:
        yield Fault(split, "", "cannot be rebuilt: the dataset has no residual plane")
        rebuild = False
    for name, what in check_plan(root / split, manifest, facts):
        yield Fault(name, "", what)
    for shard in manifest.shards:
        faults = list(_check_shard(root / split, shard))
        yield from faults
        # A shard with damaged files would only repeat its faults here.
        if not faults:
            yield from _check_content(root, split, shard, rebuild=rebuild)
        on_shard()


def _check_shard(folder: Path, shard: ShardRecord) -> Iterator[Fault]:
    """Compare the shard's files with the manifest and the tars with the index."""
    names = {MAIN_TAR: tar_name(shard.name), RESIDUAL_TAR: tar_name(shard.name, "residual")}
    try:
        index = load_index(folder / index_name(shard.name))
    except FileNotFoundError:
        yield Fault(index_name(shard.name), "", "is missing")
        return
    except ShardError as error:
        yield Fault(index_name(shard.name), "", str(error))
        return
    if len(index.keys) != shard.num_samples:
        yield Fault(
            index_name(shard.name),
            "",
            f"lists {len(index.keys)} samples, the manifest says {shard.num_samples}",
        )
    for name in sorted({*names.values(), index_name(shard.name)}):
        record = shard.files.get(name)
        tar = next((tar for tar, tar_file in names.items() if tar_file == name), None)
        if record is None:
            if (folder / name).exists():
                yield Fault(name, "", "is there, but the manifest does not list it")
            elif tar is not None and np.any(index.member_tar == tar):
                yield Fault(name, "", "is missing, from the manifest too")
            continue
        path = folder / name
        if not path.is_file():
            yield Fault(name, "", "is missing")
            continue
        faults = [] if tar is None else list(_check_tar(path, tar, index))
        yield from faults
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not faults and (path.stat().st_size, digest) != (record.num_bytes, record.sha256):
            yield Fault(name, "", "its size or sha256 differs from the manifest's")


def _check_tar(path: Path, tar: int, index: ShardIndex) -> Iterator[Fault]:
    """Walk the tar by its headers, and compare names, places and checksums with the index."""
    rows = np.flatnonzero(index.member_tar == tar)
    kinds = [name.decode() for name in index.member_names.tolist()]
    expected = []
    for row in rows.tolist():
        key = index.keys[index.member_sample[row]].decode()
        expected.append((key, f"{key}.{kinds[index.member_kind[row]]}", row))
    size = path.stat().st_size
    seen = 0
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for (key, name, row), info in zip(expected, archive, strict=False):
                seen += 1
                place = (int(index.member_offset[row]), int(index.member_length[row]))
                if (info.name, info.offset_data, info.size) != (name, *place):
                    yield Fault(path.name, key, f"expected {name} at {place}, found {info.name}")
                    return
                if place[0] + place[1] > size:
                    yield Fault(path.name, key, f"{name} is cut off")
                    return
                file.seek(place[0])
                if zlib.crc32(file.read(place[1])) != index.member_crc32[row]:
                    yield Fault(path.name, key, f"{name}: bytes differ from their checksum")
    except (tarfile.TarError, OSError) as error:
        key = expected[seen][0] if seen < len(expected) else ""
        yield Fault(path.name, key, f"is cut off or damaged after {seen} members ({error})")
        return
    if seen < len(expected):
        key, name, _ = expected[seen]
        yield Fault(
            path.name, key, f"ends before {name}: {len(expected) - seen} members are missing"
        )


def _check_content(root: Path, split: str, shard: ShardRecord, *, rebuild: bool) -> Iterator[Fault]:
    """Decode everything of one shard whose bytes are right."""
    dataset = ShardDataset(root, split, shards=[shard.name])
    for position, key in enumerate(dataset.keys):
        try:
            for what in check_sample(dataset, position, rebuild=rebuild):
                yield Fault(tar_name(shard.name), key, what)
        except (ShardError, OSError, ValueError, KeyError, TypeError) as error:
            yield Fault(tar_name(shard.name), key, str(error))
