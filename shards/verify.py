"""Re-read everything of a split and name each fault.

Nothing is believed: the tar is walked by its own headers and compared with the index, every
member's checksum is recomputed, every JPEG and chunk is decoded. With ``rebuild`` each frame is
rebuilt from motion and residual and compared with the hash of what the decoder had made.

A shard is looked at through a folder of links to its files, or of downloads where the dataset is
in object storage: one shard at a time has to fit on the local disk.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gopstream.shards.dataset_files import (
    DatasetFacts,
    Manifest,
    ShardRecord,
    load_dataset,
    load_manifest,
    load_shard_files,
    save_dataset,
    save_manifest,
)
from gopstream.shards.edit_shard import read_report
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.index import load_index
from gopstream.shards.layout import files_name, index_name, report_name, tar_name
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage, as_storage
from gopstream.shards.verify_content import check_sample
from gopstream.shards.verify_files import Fault, OnProgress, check_files
from gopstream.shards.verify_plan import check_plan

__all__ = ["Fault", "SplitToVerify", "open_split", "verify_shard", "verify_split"]


@dataclass(frozen=True, slots=True)
class SplitToVerify:
    """What is known of a split before its shards are looked at. Travels to other processes."""

    storage: Storage
    facts: DatasetFacts
    split: str
    rebuild: bool
    """Whether all frames are to be rebuilt."""


def verify_split(
    place: Storage | Path | str,
    split: str,
    *,
    rebuild: bool = False,
    on_shard: Callable[[], None] = lambda: None,
) -> Iterator[Fault]:
    """Yield every fault of a split, shard after shard.

    Args:
        place: The dataset.
        split: Name of the split.
        rebuild: Also rebuild all frames; needs the residual.
        on_shard: Called after each shard.
    """
    faults: list[Fault] = []
    opened = open_split(as_storage(place), split, rebuild=rebuild, faults=faults)
    yield from faults
    if opened is None:
        return
    context, manifest = opened
    for shard in manifest.shards:
        yield from verify_shard(context, shard)
        on_shard()


def open_split(
    storage: Storage, split: str, *, rebuild: bool, faults: list[Fault]
) -> tuple[SplitToVerify, Manifest] | None:
    """Check a split but for its shards.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        rebuild: Whether all frames are to be rebuilt.
        faults: Takes what is wrong.

    Returns:
        What the check of its shards needs; None if they cannot be known.
    """
    try:
        facts = load_dataset(storage)
        manifest = load_manifest(storage, split)
    except ShardError as error:
        faults.append(Fault(split, "", str(error)))
        return None
    if rebuild and "residual" not in facts.planes:
        faults.append(Fault(split, "", "cannot be rebuilt: the dataset has no residual plane"))
        rebuild = False
    faults += [
        Fault(name, "", what) for name, what in check_plan(storage, manifest, facts, split=split)
    ]
    return SplitToVerify(storage, facts, split, rebuild), manifest


def verify_shard(
    context: SplitToVerify, shard: ShardRecord, *, on_progress: OnProgress = lambda: None
) -> list[Fault]:
    """Return every fault of one shard.

    Args:
        context: Of the split.
        shard: What the manifest says of it.
        on_progress: Called after each member and each sample.

    Raises:
        StoreError: If object storage does not answer.
    """
    storage, split = context.storage, context.split
    with tempfile.TemporaryDirectory(prefix="gopstream-") as name, ExitStack() as copies:
        root = Path(name)
        (root / split).mkdir()
        foreign = [file for file in shard.files if not file.startswith(f"{shard.name}.")]
        if foreign:
            return [Fault(file, "", "is not a file of this shard") for file in sorted(foreign)]
        for file in sorted({*shard.files, index_name(shard.name)}):
            try:
                copy = copies.enter_context(storage.local_copy(f"{split}/{file}"))
            except (FileNotFoundError, FormatError):
                continue  # the checks name it
            (root / split / file).symlink_to(copy.absolute())
        faults = list(check_files(root / split, shard, on_progress=on_progress))
        # A shard with damaged files would only repeat its faults here.
        if not faults:
            faults += _check_content(context, shard, root, on_progress=on_progress)
            faults += _check_report(context, shard, root / split)
    return [*faults, *_check_files_record(context, shard)]


def _check_content(
    context: SplitToVerify, shard: ShardRecord, root: Path, *, on_progress: OnProgress
) -> Iterator[Fault]:
    """Decode everything of one shard whose bytes are right."""
    save_dataset(root, context.facts)
    save_manifest(root, Manifest(context.split, (shard,), {}, 0, 0))
    dataset = ShardDataset(root, context.split)
    for position, key in enumerate(dataset.keys):
        try:
            for what in check_sample(dataset, position, rebuild=context.rebuild):
                yield Fault(tar_name(shard.name), key, what)
        except (ShardError, OSError, ValueError, LookupError, TypeError) as error:
            what = str(error).replace(str(root), context.storage.url)
            yield Fault(tar_name(shard.name), key, what)
        on_progress()


def _check_report(context: SplitToVerify, shard: ShardRecord, folder: Path) -> Iterator[Fault]:
    """Compare the samples of the index with those that the report names."""
    try:
        rows = read_report(context.storage, context.split, shard.name)
    except FormatError:
        return  # a fault of the split, named there
    reported = [sample["key"] for row in rows for sample in row.get("samples", [])]
    keys = [
        key.decode()
        for key in load_index(LocalStorage(folder), index_name(shard.name)).keys.tolist()
    ]
    if len(reported) == len(keys) and reported != keys:
        key = next(key for key, other in zip(keys, reported, strict=True) if key != other)
        yield Fault(report_name(shard.name), key, "names other samples than the index")


def _check_files_record(context: SplitToVerify, shard: ShardRecord) -> Iterator[Fault]:
    name = files_name(shard.name)
    try:
        files = load_shard_files(context.storage, context.split, shard.name)
    except FileNotFoundError:
        return  # a fault of the split, if it is one
    except FormatError as error:
        yield Fault(name, "", str(error))
        return
    if files != dict(shard.files):
        different = sorted(
            file for file in {*files, *shard.files} if files.get(file) != shard.files.get(file)
        )
        yield Fault(
            name,
            "",
            f"differs from the manifest in {', '.join(different)}; an interrupted 'gopstream "
            "planes' or 'remove' leaves this: run it again",
        )
