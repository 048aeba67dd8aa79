"""The small JSON files of a dataset: what it is, what was planned, what is finished."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from gopstream.pipeline.errors import StoreError
from gopstream.shards.errors import FormatError, SettingsError, ShardError
from gopstream.shards.layout import (
    DATASET_FILE,
    FORMAT_VERSION,
    MANIFEST_FILE,
    PLAN_FILE,
    check_shard_name,
    check_split_name,
    content_hash,
    dump_json,
    files_name,
)
from gopstream.shards.storage import Storage, as_storage


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """``dataset.json``: written once, checked by every later command."""

    classes: tuple[str, ...]
    """Names of the classes; a label is an index into them. Empty for unlabelled videos."""
    planes: tuple[str, ...]
    settings: Mapping[str, Any]
    """Every option that decides bytes."""
    label_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names behind further integer labels among the attributes, by attribute."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One published object of a shard."""

    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return that of an object's content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One shard of a finished split."""

    name: str
    num_samples: int
    files: Mapping[str, FileRecord]
    """By file name: tar, residual tar, index."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """``manifest.json``: written last; its presence means that the split is complete."""

    split: str
    shards: tuple[ShardRecord, ...]
    class_counts: Mapping[str, int]
    """Samples of each class; those without a label are under the empty name."""
    num_videos: int
    num_failures: int
    num_plans: int = 1
    """Parts of the plan that it covers; videos that were added later make another."""

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files of all shards."""
        return sum(file.num_bytes for shard in self.shards for file in shard.files.values())


def load_json(storage: Storage, name: str) -> dict[str, Any]:
    """Read one of the dataset's JSON files.

    Raises:
        FileNotFoundError: If it is not there.
        FormatError: If it is no JSON object, or too large to be one of ours.
    """
    where = f"{storage.url}/{name}"
    try:
        content = json.loads(storage.read(name))
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise FormatError(f"{where}: expected a JSON object, got {type(content).__name__}")
    return content


def save_dataset(root: Storage | Path | str, facts: DatasetFacts) -> None:
    """Write ``dataset.json``."""
    content = {
        "format": FORMAT_VERSION,
        "classes": list(facts.classes),
        "planes": list(facts.planes),
        "settings": dict(facts.settings),
        "settings_sha256": content_hash(facts.settings),
    }
    if facts.label_sets:
        content["label_sets"] = {name: list(names) for name, names in facts.label_sets.items()}
    as_storage(root).write(DATASET_FILE, dump_json(content))


def load_dataset(root: Storage | Path | str) -> DatasetFacts:
    """Read ``dataset.json``.

    Raises:
        ShardError: If the place holds no dataset, or one of a newer version.
    """
    storage = as_storage(root)
    path = f"{storage.url}/{DATASET_FILE}"
    try:
        content = load_json(storage, DATASET_FILE)
    except FileNotFoundError as error:
        raise ShardError(f"{storage.url}: not a dataset (there is no {DATASET_FILE})") from error
    check_format(content, path)
    try:
        facts = DatasetFacts(
            tuple(content["classes"]),
            tuple(content["planes"]),
            content["settings"],
            {name: tuple(names) for name, names in content.get("label_sets", {}).items()},
        )
        recorded = content["settings_sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: not a dataset.json (lacks {error})") from error
    if content_hash(facts.settings) != recorded:
        raise FormatError(f"{path}: the settings do not match their hash; the file was changed")
    return facts


def check_format(content: Mapping[str, Any], where: str) -> None:
    """Refuse a file of another format version.

    Args:
        content: Of the file.
        where: Its path, for the message.

    Raises:
        FormatError: Naming the version and what to do.
    """
    version = content.get("format")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{where}: format version {version!r}; this gopstream reads version {FORMAT_VERSION}"
            + ("; install a newer one" if isinstance(version, int) and version > 1 else "")
        )


def check_same_dataset(root: Storage | Path | str, wanted: DatasetFacts) -> DatasetFacts:
    """Return what a dataset says of itself; refuses to continue it with other settings or classes.

    Raises:
        SettingsError: Naming what differs.
    """
    storage = as_storage(root)
    held, url = load_dataset(storage), storage.url
    # The mode comes first: most other differences follow from it.
    for name in sorted({*held.settings, *wanted.settings}, key=lambda name: (name != "mode", name)):
        old, new = held.settings.get(name), wanted.settings.get(name)
        if old != new:
            raise SettingsError(
                f"{url} was made with {name} = {old!r}, now it is {new!r}; use the same settings "
                "or another output folder"
            )
    if held.planes != wanted.planes:
        raise SettingsError(
            f"{url} holds the planes {', '.join(held.planes)}, not {', '.join(wanted.planes)}; "
            f"give --planes {','.join(held.planes)}"
        )
    for name, names in wanted.label_sets.items():
        if held.label_sets.get(name) != names:
            raise SettingsError(
                f"{url} has other names behind the labels {name!r}; they are fixed by the first "
                "split that is written"
            )
    unknown = sorted(set(wanted.classes) - set(held.classes))
    if unknown:
        raise SettingsError(
            f"{url} has no class {', '.join(map(repr, unknown[:5]))}; classes are fixed by the "
            "first split that is written: name all of them with --classes, in a new dataset"
        )
    return held


def save_shard_files(
    root: Storage | Path | str, split: str, shard: str, files: Mapping[str, FileRecord]
) -> None:
    """Write the record of a shard's files, which stands in for reading them again."""
    content = {"files": {name: asdict(file) for name, file in files.items()}, "shard": shard}
    as_storage(root).write(f"{split}/{files_name(shard)}", dump_json(content))


def load_shard_files(root: Storage | Path | str, split: str, shard: str) -> dict[str, FileRecord]:
    """Read the record of a shard's files, by file name.

    Raises:
        FileNotFoundError: If it is not there: a shard that was made before there was such a file.
        FormatError: If it is damaged.
    """
    storage = as_storage(root)
    name = f"{split}/{files_name(shard)}"
    content = load_json(storage, name)
    try:
        return _file_records(content["files"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{storage.url}/{name}: not the files of a shard ({error})") from error


def planned_splits(root: Storage | Path | str) -> list[str]:
    """Return the names of a dataset's splits, finished or not."""
    storage = as_storage(root)
    return [name for name in storage.list_folders() if storage.exists(f"{name}/{PLAN_FILE}")]


def is_finished(storage: Storage, split: str) -> bool:
    """Tell whether a split has its manifest, which is written last."""
    return storage.exists(f"{split}/{MANIFEST_FILE}")


def save_manifest(root: Storage | Path | str, manifest: Manifest) -> None:
    """Write ``manifest.json`` of a split."""
    content = asdict(manifest) | {"format": FORMAT_VERSION}
    if manifest.num_plans == 1:
        del content["num_plans"]
    as_storage(root).write(f"{manifest.split}/{MANIFEST_FILE}", dump_json(content))


def load_manifest(root: Storage | Path | str, split: str) -> Manifest:
    """Read ``manifest.json`` of a split.

    Raises:
        ShardError: If there is no such split, it is not finished, or the file is damaged.
    """
    storage = as_storage(root)
    name = f"{check_split_name(split)}/{MANIFEST_FILE}"
    path = f"{storage.url}/{name}"
    try:
        content = load_json(storage, name)
    except FileNotFoundError as error:
        raise _no_manifest(storage, split) from error
    check_format(content, path)
    try:
        return Manifest(
            split=content["split"],
            shards=tuple(_shard_record(shard) for shard in content["shards"]),
            class_counts=content["class_counts"],
            num_videos=content["num_videos"],
            num_failures=content["num_failures"],
            num_plans=int(content.get("num_plans", 1)),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{path}: not a manifest ({error})") from error


def _no_manifest(storage: Storage, split: str) -> ShardError:
    """Return what it means that a split has no manifest."""
    try:
        splits = storage.list_folders()
    except StoreError:  # a web server does not say what it has
        return ShardError(
            f"{storage.url}: no finished split {split!r} (there is no {split}/{MANIFEST_FILE})"
        )
    if split not in splits:
        return ShardError(
            f"{storage.url}: no split {split!r}; there is {', '.join(splits) or 'none'}"
        )
    return ShardError(
        f"{storage.url}/{split}: not finished (there is no {MANIFEST_FILE}); run the same "
        "'gopstream shard' command again to complete it"
    )


def _shard_record(content: Mapping[str, Any]) -> ShardRecord:
    files = _file_records(content["files"])
    return ShardRecord(check_shard_name(content["name"]), int(content["num_samples"]), files)


def _file_records(content: Mapping[str, Any]) -> dict[str, FileRecord]:
    return {
        name: FileRecord(int(file["num_bytes"]), str(file["sha256"]))
        for name, file in content.items()
    }
