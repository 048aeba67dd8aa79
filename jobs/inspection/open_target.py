"""Find out what a user points at, and open it as a clip or a dataset."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gopstream.jobs.errors import UserError
from gopstream.jobs.extract_files import CLIP_FILE
from gopstream.jobs.inspection.dump_clip import DumpClip
from gopstream.jobs.inspection.folder_clip import FolderClip
from gopstream.jobs.inspection.inspected import InspectedClip
from gopstream.jobs.inspection.sample_clip import SampleClip
from gopstream.jobs.inspection.video_clip import VideoClip
from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.pipeline.object_store import StoreOptions, is_address, local_path
from gopstream.shards.byte_ranges import ReadOptions
from gopstream.shards.dataset_files import is_finished, planned_splits
from gopstream.shards.layout import DATASET_FILE, MANIFEST_FILE
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage, open_storage

TargetKind = Literal["video", "folder", "dump", "dataset", "shard"]

_ACCEPTED: Final = (
    "a video file, a folder of 'gopstream extract', a dump of mvextractor, a dataset (its folder "
    "or address), or one of its shards (SPLIT/NUMBER.tar)"
)
_SHARD_FILE: Final = re.compile(
    r"(?:(?P<root>.*?)/+)?(?P<split>[^/]+)/+(?P<shard>[0-9]{6})(\.[A-Za-z0-9_-]+)?\.tar"
)
_DUMP_PARTS: Final = ("frame_types.txt", "motion_vectors")


def target_kind(target: str) -> TargetKind:
    """Tell what a path or an address is, by what lies there; an address is not looked at.

    Raises:
        UserError: If it is nothing that can be inspected; names what can.
        StoreError: If it looks like an address and is none.
    """
    if is_address(target):
        return "shard" if target.endswith(".tar") else "dataset"
    path = local_path(target)
    if not path.exists():
        raise UserError(f"{target}: no such file or folder; expected {_ACCEPTED}")
    if path.is_file():
        return "shard" if path.suffix == ".tar" else "video"
    if (path / DATASET_FILE).is_file():
        return "dataset"
    if (path / CLIP_FILE).is_file():
        return "folder"
    if any((path / name).exists() for name in _DUMP_PARTS):
        return "dump"
    raise UserError(f"{target}: {_why_no_target(path)}")


def open_clip(
    target: str,
    *,
    split: str | None = None,
    key: str | None = None,
    storage_options: StoreOptions | None = None,
    reading: ReadOptions | None = None,
    on_frames: Callable[[int], None] | None = None,
) -> InspectedClip:
    """Open a video, a sample, a folder of ``gopstream extract`` or a dump of mvextractor.

    Args:
        target: A path or an address; see :func:`target_kind`.
        split: Of a dataset; by default its first.
        key: Of a sample of a dataset or shard; by default the first.
        storage_options: How object storage is reached; None takes the defaults.
        reading: How samples are read from it; None takes the defaults.
        on_frames: Called now and then with the number of frames read, while all of a video or a
            dump is read once; may raise to stop.

    Raises:
        UserError: If there is no such target, split or sample, or a choice is not for it.
        FileNotFoundError, PipelineError, ShardError: If it cannot be read.
    """
    kind = target_kind(target)
    if kind in ("dataset", "shard"):
        dataset = open_dataset(target, split, storage_options=storage_options, reading=reading)
        return open_sample(dataset, key, storage_options=storage_options)
    for option, value in (("--split", split), ("--key", key)):
        if value is not None:
            raise UserError(
                f"{option} is for a dataset or a shard, but {target} is a {_NAMES[kind]}"
            )
    path = local_path(target)
    if kind == "folder":
        return FolderClip(path)
    return (DumpClip if kind == "dump" else VideoClip)(path, on_frames=on_frames)


_NAMES: Final = {"video": "video", "folder": "folder of one video", "dump": "dump of one video"}


def open_dataset(
    target: str,
    split: str | None,
    *,
    storage_options: StoreOptions | None = None,
    reading: ReadOptions | None = None,
) -> ShardDataset:
    """Open a split of a dataset, or the one shard that a target names.

    Args:
        target: Folder or address of a dataset, or of a ``.tar`` of it.
        split: Name of the split; None for the first finished one, or for the shard's own.
        storage_options: How object storage is reached; None takes the defaults.
        reading: How samples are read from it; None takes the defaults.

    Raises:
        UserError: If the target is no dataset, or has no finished split.
        ShardError: If it cannot be read.
    """
    kind = target_kind(target)
    if kind == "shard":
        place = _shard_place(target)
        if split not in (None, place.split):
            raise UserError(f"{target} is of the split {place.split}, got --split {split}")
        storage = open_storage(place.root, storage_options)
        if not storage.exists(DATASET_FILE):
            raise UserError(
                f"{target}: a shard is read with its dataset, but there is no {DATASET_FILE} in "
                f"{storage.url}"
            )
        return ShardDataset(storage, place.split, shards=[place.shard], reading=reading)
    if kind != "dataset":
        raise UserError(f"{target}: a {_NAMES[kind]}, not a dataset with {DATASET_FILE}")
    storage = open_storage(target, storage_options)
    return ShardDataset(storage, split or first_split(storage), reading=reading)


def shard_of(target: str) -> str | None:
    """Return the name of the shard that a target is; None for any other target.

    Raises:
        UserError: If it is nothing that can be inspected, or a ``.tar`` that is no shard.
    """
    return _shard_place(target).shard if target_kind(target) == "shard" else None


def first_split(storage: Storage) -> str:
    """Return the first finished split of a dataset, by name.

    Raises:
        UserError: If there is none, or the place cannot be listed.
    """
    try:
        splits = planned_splits(storage)
    except StoreError as error:
        raise UserError(
            f"{storage.url}: its splits cannot be listed there; name one with --split"
        ) from error
    finished = [name for name in splits if is_finished(storage, name)]
    if not finished:
        started = f"; begun, but not finished: {', '.join(splits)}" if splits else ""
        raise UserError(f"{storage.url}: no finished split{started}")
    return finished[0]


def open_sample(
    dataset: ShardDataset, key: str | None, *, storage_options: StoreOptions | None = None
) -> SampleClip:
    """Open a sample by its key.

    Args:
        dataset: An opened split, or one shard of it.
        key: None for the first sample.
        storage_options: How object storage is reached; None takes the defaults.

    Raises:
        UserError: If there is no such sample; names the nearest. If there is none at all.
        ShardError: If it cannot be read.
    """
    if len(dataset) == 0:
        raise UserError(f"{dataset.root}/{dataset.split}: no sample in it")
    if key is None:
        return SampleClip(dataset, 0)
    keys = _all_keys(dataset, storage_options)
    if key not in keys:
        hint = did_you_mean(key, keys)
        raise UserError(f"{dataset.root}/{dataset.split} has no sample {key!r}{hint}")
    return SampleClip(dataset, keys.index(key))


def samples_of(storage: Storage, split: str, video: Path) -> list[str]:
    """Return the keys of the samples that were made of a video, as far as paths tell.

    A sample keeps the path below the folder that was sharded. Where none fits, the file's name
    has to be the same.

    Raises:
        ShardError: If the table of samples cannot be read.
    """
    from gopstream.shards.sample_table import read_samples

    place = video.absolute().as_posix()
    by_path, by_name = [], []
    for batch in read_samples(storage, split, columns=["key", "source"]):
        rows = batch.to_pydict()
        for key, source in zip(rows["key"], rows["source"], strict=True):
            if place.endswith(f"/{source.lstrip('/')}"):
                by_path.append(key)
            elif source.rpartition("/")[2] == video.name:
                by_name.append(key)
    return by_path or by_name


def _all_keys(dataset: ShardDataset, storage_options: StoreOptions | None) -> list[str]:
    """Return all keys in order; of a remote split from one small table, not from all indexes."""
    is_whole = sum(dataset.class_counts.values()) == len(dataset)
    if not (dataset.is_remote and is_whole and find_spec("pyarrow")):
        return dataset.keys
    from gopstream.shards.sample_table import read_samples

    storage = open_storage(dataset.root, storage_options)
    batches = read_samples(storage, dataset.split, columns=["key"])
    return [key for batch in batches for key in batch.column("key").to_pylist()]


class _ShardPlace(NamedTuple):
    root: str
    split: str
    shard: str


def _shard_place(target: str) -> _ShardPlace:
    whole = target if is_address(target) else local_path(target).absolute().as_posix()
    found = _SHARD_FILE.fullmatch(whole)
    if found is None:
        raise UserError(
            f"{target}: a shard lies in a dataset as SPLIT/NUMBER.tar, such as train/000000.tar"
        )
    return _ShardPlace(found["root"] or "/", found["split"], found["shard"])


def _why_no_target(path: Path) -> str:
    if (path / MANIFEST_FILE).is_file() and (path.absolute().parent / DATASET_FILE).is_file():
        parent, split = path.absolute().parent, path.absolute().name
        return f"the folder of a split; give its dataset, {parent} --split {split}"
    if (path / "motion.npy").is_file():
        return f"an extraction that was not finished (no {CLIP_FILE}); extract the video again"
    return f"a folder that is none of what is expected: {_ACCEPTED}"
