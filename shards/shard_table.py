"""What a loader needs of ``manifest.json``, in compact arrays.

A split may have tens of thousands of shards: parsed as a whole, their manifest becomes 100 MB of
objects. Here it is read shard by shard.

Dimension: S shards.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from gopstream.shards.dataset_files import FileRecord, check_format, load_manifest
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.layout import MANIFEST_FILE, check_shard_name, check_split_name
from gopstream.shards.storage import Storage

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()
_SHA256_LENGTH: Final = 64


class FileColumn(NamedTuple):
    """The files of one kind, shard by shard."""

    num_bytes: npt.NDArray[np.int64]
    """(S,) -1 where the shard has no such file."""
    sha256: npt.NDArray[np.bytes_]
    """(S,) in hexadecimal; empty where the shard has no such file."""


@dataclass(frozen=True, slots=True)
class ShardTable:
    """What a loader needs of ``manifest.json``."""

    split: str
    names: npt.NDArray[np.bytes_]
    """(S,) such as ``000012``."""
    counts: npt.NDArray[np.int64]
    """(S,) samples."""
    files: Mapping[str, FileColumn]
    """By what follows the shard's name, such as ``tar`` or ``index.npz``: those asked for."""
    class_counts: Mapping[str, int]
    """Samples of each class; those without a label are under the empty name."""

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return int(self.counts.sum())

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """(S + 1,) the samples of shard i are starts[i] to starts[i + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    def only(self, names: Sequence[str]) -> Self:
        """Return that of some shards, in their order here; ``class_counts`` stay those of all.

        Raises:
            ShardError: If there is no such shard.
        """
        wanted = {name.encode() for name in names}
        unknown = sorted(wanted - set(self.names.tolist()))
        if unknown:
            raise ShardError(f"the split {self.split!r} has no shard {unknown[0].decode()}")
        kept = np.isin(self.names, list(wanted)) if wanted else np.zeros(len(self.names), bool)
        files = {
            kind: FileColumn(column.num_bytes[kept], column.sha256[kept])
            for kind, column in self.files.items()
        }
        return replace(self, names=self.names[kept], counts=self.counts[kept], files=files)

    def records(self, kinds: Sequence[str]) -> dict[str, FileRecord]:
        """Return sizes and hashes of files of some kinds, by name below the dataset's root."""
        names = [name.decode() for name in self.names.tolist()]
        return {
            f"{self.split}/{name}.{kind}": FileRecord(num_bytes, sha256.decode())
            for kind, column in self.files.items()
            if kind in kinds
            for name, num_bytes, sha256 in zip(
                names, column.num_bytes.tolist(), column.sha256.tolist(), strict=True
            )
            if num_bytes >= 0
        }


def read_shard_table(storage: Storage, split: str, *, files: Sequence[str] = ()) -> ShardTable:
    """Read ``manifest.json`` of a split.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        files: Kinds of files whose sizes and sha256 are kept, such as ``("tar", "index.npz")``.

    Raises:
        ShardError: If there is no such split, it is not finished, or the file is damaged.
    """
    name = f"{check_split_name(split)}/{MANIFEST_FILE}"
    where = f"{storage.url}/{name}"
    try:
        text = storage.read(name).decode()
        return _parse_manifest(text, split, files)
    except FileNotFoundError:
        load_manifest(storage, split)  # says what is missing
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        load_manifest(storage, split)  # says it as all commands do
        raise FormatError(f"{where}: not a manifest ({error!r})") from error


def _parse_manifest(text: str, split: str, kinds: Sequence[str]) -> ShardTable:
    names: list[str] = []
    counts: list[int] = []
    columns: dict[str, tuple[list[int], list[str]]] = {kind: ([], []) for kind in kinds}
    rest: dict[str, Any] = {}
    for key, value in _manifest_items(text):
        if key != "shards":
            rest[key] = value
            continue
        name, num_samples = check_shard_name(value["name"]), int(value["num_samples"])
        if num_samples < 0:
            raise ValueError(f"shard {name} has {num_samples} samples")
        names.append(name)
        counts.append(num_samples)
        for kind, (sizes, digests) in columns.items():
            file = value["files"].get(f"{name}.{kind}")
            sizes.append(-1 if file is None else int(file["num_bytes"]))
            digests.append("" if file is None else _digest(file["sha256"]))
    if len(set(names)) < len(names):
        raise ValueError("a shard stands there twice")
    check_format(rest, f"{split}/{MANIFEST_FILE}")
    return ShardTable(
        split=rest["split"],
        names=np.array(names, "S6"),
        counts=np.array(counts, np.int64),
        files={
            kind: FileColumn(np.array(sizes, np.int64), np.array(digests, f"S{_SHA256_LENGTH}"))
            for kind, (sizes, digests) in columns.items()
        },
        class_counts={str(label): int(count) for label, count in rest["class_counts"].items()},
    )


def _digest(text: str) -> str:
    if len(text) != _SHA256_LENGTH:
        raise ValueError(f"{text!r} is not a sha256")
    return text


def _manifest_items(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a JSON object; those of its list ``shards`` one by one.

    Raises:
        ValueError: If it is not such an object.
    """
    place = _after(text, 0, "{")
    while True:
        key, place = _value(text, place)
        if not isinstance(key, str):
            raise ValueError("expected a key")
        place = _after(text, place, ":")
        if key == "shards":
            place = _after(text, place, "[")
            while not _is_next(text, place, "]"):
                record, place = _value(text, place)
                yield key, record
                if not _is_next(text, place, "]"):
                    place = _after(text, place, ",")
            place = _after(text, place, "]")
        else:
            value, place = _value(text, place)
            yield key, value
        if _is_next(text, place, "}"):
            break
        place = _after(text, place, ",")
    if _skip(text, _after(text, place, "}")) != len(text):
        raise ValueError("text follows the object")


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None
    return match.end()


def _is_next(text: str, place: int, mark: str) -> bool:
    return text.startswith(mark, _skip(text, place))


def _after(text: str, place: int, mark: str) -> int:
    if not _is_next(text, place, mark):
        raise ValueError(f"expected {mark} at character {place}")
    return _skip(text, place) + 1


def _value(text: str, place: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, _skip(text, place))
