"""The contract on disk: names, types and the version of the shard format.

Version 1 stays readable for ever. The formats of the single files are described in
``docs/shards.md``; a script there reads a shard without this package.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gopstream.shards.errors import FormatError

if TYPE_CHECKING:
    pass

FORMAT_VERSION: Final = 1

DATASET_FILE: Final = "dataset.json"
PLAN_FILE: Final = "plan.json"
MANIFEST_FILE: Final = "manifest.json"
SAMPLES_FILE: Final = "samples.parquet"
FAILURES_FILE: Final = "failures.jsonl"

FRAMES_MEMBER: Final = "frames.mjpeg"
MOTION_MEMBER: Final = "motion.zst"
COVERAGE_MEMBER: Final = "coverage.zst"
LABEL_MEMBER: Final = "cls"
JSON_MEMBER: Final = "json"
RESIDUAL_MEMBER: Final = "residual.zst"
RESIDUAL_JSON_MEMBER: Final = "residual.json"

NO_LABEL: Final = -1
"""The label of a sample without one."""

CHUNKED_PLANES: Final = ("motion", "coverage", "residual")
"""Planes stored as one zstd frame per GOP."""

_SHARD_NAME: Final = re.compile(r"[0-9]{6}")
_SPLIT_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_READ_BYTES: Final = 1 << 30
"""A dataset's JSON files and indexes stay far below this; larger ones are not read into memory."""


def shard_name(index: int) -> str:
    """Return the name that a shard's files begin with, such as ``000012``."""
    return f"{index:06d}"


def tar_name(shard: str, plane: str | None = None) -> str:
    """Return the name of a shard's tar, or of the side tar of one plane."""
    return f"{shard}.tar" if plane is None else f"{shard}.{plane}.tar"


def files_name(shard: str) -> str:
    """Return the name of the record of a shard's files: their sizes and sha256."""
    return f"{shard}.files.json"


def index_name(shard: str) -> str:
    """Return the name of a shard's index."""
    return f"{shard}.index.npz"


def report_name(shard: str) -> str:
    """Return the name of a shard's report; its presence means that the shard is published."""
    return f"{shard}.report.jsonl"


def check_shard_name(name: str) -> str:
    """Return the name of a shard read from a file, so that it cannot lead out of its folder.

    Raises:
        FormatError: If it is not six digits.
    """
    if not _SHARD_NAME.fullmatch(name):
        raise FormatError(f"a shard's name must be six digits, got {name!r}")
    return name


def check_split_name(name: str) -> str:
    """Return the name of a split, which becomes a folder and the start of each key.

    Raises:
        FormatError: If it is not 1 to 64 ASCII letters, digits, ``_`` or ``-``.
    """
    if not _SPLIT_NAME.fullmatch(name):
        raise FormatError(
            f"a split's name must be 1 to 64 ASCII letters, digits, '_' or '-', got {name!r}"
        )
    return name


def sample_key(split: str, video_index: int, segment: int | None) -> str:
    """Return a sample's key: ASCII, without dots, unique in the dataset.

    Args:
        split: Name of the split.
        video_index: Position of the video in the plan.
        segment: Position of the segment in a video that was cut, None in one that was not.
    """
    key = f"{split}-{video_index:08d}"
    return key if segment is None else f"{key}-{segment:04d}"


def dump_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON with sorted keys: the same content gives the same bytes."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def check_size(num_bytes: int, where: str) -> None:
    """Refuse to read a file that is too large to be one of the dataset's small ones.

    Raises:
        FormatError: Naming it.
    """
    if num_bytes > MAX_READ_BYTES:
        raise FormatError(f"{where}: {num_bytes} bytes are too many for a file of this kind")


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the sha256 of a JSON object in the form of :func:`dump_json`."""
    return hashlib.sha256(dump_json(content)).hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent, also after a crash."""
    partial = partial_path(path)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    publish(partial, path)


def partial_path(path: Path) -> Path:
    """Return the temporary name, in the same folder, under which a file is written."""
    # Random, since machines that share a disk can have the same process numbers.
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")


def publish(partial: Path, path: Path) -> None:
    """Give a completely written file its name, and make the name survive a crash."""
    partial.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
