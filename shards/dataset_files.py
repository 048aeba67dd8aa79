"""The small JSON files of a dataset: what it is, what was planned, what is finished."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gopstream.shards.errors import FormatError, SettingsError, ShardError
from gopstream.shards.layout import (
    DATASET_FILE,
    FORMAT_VERSION,
    MANIFEST_FILE,
    check_shard_name,
    check_split_name,
    content_hash,
    dump_json,
    load_json,
    write_atomic,
)


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """``dataset.json``: written once, checked by every later command."""

    classes: tuple[str, ...]
    """Names of the classes; a label is an index into them. Empty for unlabelled videos."""
    planes: tuple[str, ...]
    settings: Mapping[str, Any]
    """Every option that decides bytes."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One published object of a shard."""

    num_bytes: int
    sha256: str


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

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files of all shards."""
        return sum(file.num_bytes for shard in self.shards for file in shard.files.values())


def save_dataset(root: Path, facts: DatasetFacts) -> None:
    """Write ``dataset.json``."""
    content = {
        "format": FORMAT_VERSION,
        "classes": list(facts.classes),
        "planes": list(facts.planes),
        "settings": dict(facts.settings),
        "settings_sha256": content_hash(facts.settings),
    }
    write_atomic(root / DATASET_FILE, dump_json(content))


def load_dataset(root: Path) -> DatasetFacts:
    """Read ``dataset.json``.

    Raises:
        ShardError: If the folder holds no dataset, or one of a newer version.
    """
    path = root / DATASET_FILE
    if not path.is_file():
        raise ShardError(f"{root}: not a dataset (there is no {DATASET_FILE})")
    content = load_json(path)
    check_format(content, path)
    try:
        facts = DatasetFacts(
            tuple(content["classes"]), tuple(content["planes"]), content["settings"]
        )
        recorded = content["settings_sha256"]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a dataset.json (lacks {error})") from error
    if content_hash(facts.settings) != recorded:
        raise FormatError(f"{path}: the settings do not match their hash; the file was changed")
    return facts


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of another format version.

    Raises:
        FormatError: Naming the version and what to do.
    """
    version = content.get("format")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{path}: format version {version!r}; this gopstream reads version {FORMAT_VERSION}"
            + ("; install a newer one" if isinstance(version, int) and version > 1 else "")
        )


def check_same_dataset(root: Path, wanted: DatasetFacts) -> None:
    """Refuse to continue a dataset with other settings or classes.

    Raises:
        SettingsError: Naming what differs.
    """
    held = load_dataset(root)
    # The mode comes first: most other differences follow from it.
    for name in sorted({*held.settings, *wanted.settings}, key=lambda name: (name != "mode", name)):
        old, new = held.settings.get(name), wanted.settings.get(name)
        if old != new:
            raise SettingsError(
                f"{root} was made with {name} = {old!r}, now it is {new!r}; use the same settings "
                "or another output folder"
            )
    if held.planes != wanted.planes:
        raise SettingsError(
            f"{root} holds the planes {', '.join(held.planes)}, not {', '.join(wanted.planes)}"
        )
    unknown = sorted(set(wanted.classes) - set(held.classes))
    if unknown:
        raise SettingsError(
            f"{root} has no class {', '.join(map(repr, unknown[:5]))}; classes are fixed by the "
            "first split that is written"
        )


def save_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` of a split."""
    content = asdict(manifest) | {"format": FORMAT_VERSION}
    write_atomic(root / manifest.split / MANIFEST_FILE, dump_json(content))


def load_manifest(root: Path, split: str) -> Manifest:
    """Read ``manifest.json`` of a split.

    Raises:
        ShardError: If there is no such split, it is not finished, or the file is damaged.
    """
    folder = root / check_split_name(split)
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        splits = sorted(child.name for child in root.iterdir() if child.is_dir())
        raise ShardError(f"{root}: no split {split!r}; there is {', '.join(splits) or 'none'}")
    if not path.is_file():
        raise ShardError(
            f"{folder}: not finished (there is no {MANIFEST_FILE}); run the same 'gopstream shard' "
            "command again to complete it"
        )
    content = load_json(path)
    check_format(content, path)
    try:
        return Manifest(
            split=content["split"],
            shards=tuple(_shard_record(shard) for shard in content["shards"]),
            class_counts=content["class_counts"],
            num_videos=content["num_videos"],
            num_failures=content["num_failures"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{path}: not a manifest ({error})") from error


def _shard_record(content: Mapping[str, Any]) -> ShardRecord:
    files = {
        name: FileRecord(int(file["num_bytes"]), str(file["sha256"]))
        for name, file in content["files"].items()
    }
    return ShardRecord(check_shard_name(content["name"]), int(content["num_samples"]), files)
