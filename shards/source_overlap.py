"""Find videos that two splits share: what is learned on one would be tested on itself.

Videos are the same if their files are, by sha256; names may differ.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute

from gopstream.shards.sample_table import read_samples
from gopstream.shards.storage import Storage

_PREFIX_DIGITS: Final = 16


class SharedSource(NamedTuple):
    """A video of two splits, by its name in each."""

    first: str
    second: str


def shared_sources(storage: Storage, split_a: str, split_b: str) -> dict[str, SharedSource]:
    """Return the videos that are sources of samples in both splits.

    Memory holds 8 bytes for each video, whatever their number: the beginnings of the hashes are
    compared first, and only where they agree the whole hashes.

    Args:
        storage: Of the dataset.
        split_a: Name of a finished split.
        split_b: Name of another.

    Returns:
        The names by sha256, sorted. Of several with one hash in a split, the first.

    Raises:
        ShardError: If ``samples.parquet`` of a split is missing, damaged or has no hashes.
    """
    candidates = np.intersect1d(_prefixes(storage, split_a), _prefixes(storage, split_b))
    if not len(candidates):
        return {}
    first, second = (_names(storage, split, candidates) for split in (split_a, split_b))
    return {
        digest: SharedSource(first[digest], second[digest])
        for digest in sorted(first.keys() & second.keys())
    }


def _prefixes(storage: Storage, split: str) -> npt.NDArray[np.uint64]:
    """Return the beginnings of a split's hashes: (M,) sorted, each once."""
    found = np.empty(0, np.uint64)
    for batch in read_samples(storage, split, columns=["source_sha256"]):
        digests = pyarrow.compute.unique(batch.column(0)).drop_null().to_pylist()
        found = np.union1d(found, np.array([_prefix(digest) for digest in digests], np.uint64))
    return found


def _names(storage: Storage, split: str, candidates: npt.NDArray[np.uint64]) -> dict[str, str]:
    """Return the sources whose hash begins as one of the candidates, by hash."""
    wanted = set(candidates.tolist())
    names: dict[str, str] = {}
    for digest, name in _sources(storage, split):
        if _prefix(digest) in wanted:
            names.setdefault(digest, name)
    return names


def _sources(storage: Storage, split: str) -> Iterator[tuple[str, str]]:
    for batch in read_samples(storage, split, columns=["source_sha256", "source"]):
        digests, names = (column.to_pylist() for column in batch.columns)
        for digest, name in zip(digests, names, strict=True):
            if digest is not None:
                yield digest, name


def _prefix(digest: str) -> int:
    return int(digest[:_PREFIX_DIGITS], 16)
