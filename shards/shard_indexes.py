"""The indexes of a split's shards, opened when a sample of theirs is asked for.

A split may have tens of thousands of shards; the latest used indexes stay open, within bounds.

Dimensions: S shards, N samples of the split.
"""

import mmap
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.shards.array_views import view_arrays
from gopstream.shards.errors import DamageError, FormatError
from gopstream.shards.index import PIECE_PLANES, PieceTable, ShardIndex, load_index
from gopstream.shards.layout import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    check_size,
    index_name,
)
from gopstream.shards.storage import Storage

MAX_OPEN: Final = 64
MAX_LOCAL_BYTES: Final = 16 << 20
"""Of indexes mapped by one process: to open one again costs half a millisecond."""
MAX_REMOTE_BYTES: Final = 64 << 20
"""Of indexes held by one process: to open one again costs a request."""


_PIECE_COLUMNS: Final = tuple(column.name for column in fields(PieceTable))
_ARRAYS: Final = tuple(f.name for f in fields(ShardIndex) if f.name not in PIECE_PLANES)
_DTYPES: Final[Mapping[str, str]] = {
    "labels": "<i8",
    **dict.fromkeys(("num_frames", "num_lists", "coded_size", "display_rect"), "<i4"),
    **{"frame_size": "<i4", "frame_flags": "|u1", "member_sample": "<i4", "member_kind": "|u1"},
    **{"member_tar": "|u1", "member_offset": "<i8", "member_length": "<i8"},
    **{"member_crc32": "<u4", "start": "<i8", "first_frame": "<i4", "offset": "<i8"},
    **{"length": "<i8", "crc32": "<u4"},
}
# The bytes that these lead to prove them: each is read with its length and checked by its crc32.
_PROVEN_BY_USE: Final = frozenset(
    [f"{plane}.{column}" for plane in PIECE_PLANES for column in ("offset", "length", "crc32")]
    + ["member_offset", "member_length", "member_crc32"]
)


class ShardIndexes:
    """The indexes of a split's shards; each is opened when it is asked for.

    From a local disk they are mapped, so that only the pages that are used are read. The latest
    stay open. Forked and pickled copies open their own; not for several threads at once.
    """

    def __init__(
        self,
        storage: Storage,
        split: str,
        *,
        names: npt.NDArray[np.bytes_],
        counts: npt.NDArray[np.int64],
        max_open: int = MAX_OPEN,
        max_bytes: int | None = None,
    ) -> None:
        """Name the shards; nothing is opened.

        Args:
            storage: Of the dataset.
            split: Name of the split.
            names: (S,) of the shards, such as ``000012``, as the shard table has them.
            counts: (S,) samples in each, as the manifest says.
            max_open: Indexes that stay open, at most.
            max_bytes: Sum of their sizes, at most; the latest one always stays. None takes
                ``MAX_LOCAL_BYTES`` or ``MAX_REMOTE_BYTES``.
        """
        assert len(names) == len(counts)
        assert max_open > 0
        self.names = names
        """(S,)"""
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """(S + 1,) the samples of shard i are starts[i] to starts[i + 1]."""
        self.storage = storage
        self.split = split
        self._max_open = max_open
        local = storage.local_root is not None
        self._max_bytes = max_bytes or (MAX_LOCAL_BYTES if local else MAX_REMOTE_BYTES)
        self._open: OrderedDict[int, tuple[ShardIndex, int]] = OrderedDict()
        self._open_bytes = 0

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open indexes behind: a worker process opens its own."""
        return self.__dict__ | {"_open": OrderedDict(), "_open_bytes": 0}

    def name(self, shard: int) -> str:
        """Return the name of a shard, such as ``000012``."""
        return str(self.names[shard].decode())

    def shard_of(self, position: int) -> int:
        """Return the number of the shard that holds a sample, which begins at ``starts[...]``."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def __getitem__(self, shard: int) -> ShardIndex:
        """Return the index of a shard.

        Raises:
            DamageError: If it is not there, or has other samples than the manifest says.
            FormatError: If it is damaged, not an index, or of a newer version.
        """
        held = self._open.get(shard)
        if held is not None:
            self._open.move_to_end(shard)
            return held[0]
        index, num_bytes = self._load(shard)
        self._open[shard] = index, num_bytes
        self._open_bytes += num_bytes
        while len(self._open) > 1 and (
            len(self._open) > self._max_open or self._open_bytes > self._max_bytes
        ):
            _, (_, released) = self._open.popitem(last=False)
            self._open_bytes -= released
        return index

    def labels(self) -> npt.NDArray[np.int64]:
        """Read all labels: (N,), -1 without one. Opens each index; none stays open."""
        labels = np.empty(int(self.starts[-1]), np.int64)
        for shard in range(len(self)):
            start, end = self.starts[shard : shard + 2].tolist()
            labels[start:end] = self._load(shard, only="labels")[0].labels
        return labels

    def keys(self) -> Iterator[str]:
        """Yield the keys of all samples. Opens each index; none stays open."""
        for shard in range(len(self)):
            for key in self._load(shard, only="keys")[0].keys.tolist():
                yield key.decode()

    def _load(self, shard: int, *, only: str | None = None) -> tuple[ShardIndex, int]:
        """Return an index and its size in bytes; with ``only`` one of its arrays is checked."""

        def is_checked(name: str) -> bool:
            return name not in _PROVEN_BY_USE if only is None else name == only

        name = f"{self.split}/{index_name(self.name(shard))}"
        where = f"{self.storage.url}/{name}"
        try:
            content = _content(self.storage, name)
            arrays = view_arrays(content, is_checked=is_checked)
            if arrays is None or not _is_as_written(arrays):
                index = load_index(self.storage, name)
            else:
                index = _shard_index(arrays)
        except FileNotFoundError as error:
            raise DamageError(
                f"{where}: the shard's index is missing; run 'gopstream verify' to see all faults"
            ) from error
        _check_shapes(index, where)
        start, end = self.starts[shard : shard + 2].tolist()
        if len(index.keys) != end - start:
            raise DamageError(
                f"{where}: lists {len(index.keys)} samples, {MANIFEST_FILE} says {end - start}; "
                "run 'gopstream verify' to see all faults"
            )
        return index, len(content)


def _content(storage: Storage, name: str) -> bytes | mmap.mmap:
    """Return a file: mapped from a local disk, otherwise read.

    Raises:
        FileNotFoundError: If it is not there.
        FormatError: If it is too large to be an index.
    """
    if storage.local_root is None:
        return storage.read(name)
    path = Path(storage.local_root, name)
    with path.open("rb") as file:
        size = path.stat().st_size
        check_size(size, str(path))
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""


def _is_as_written(arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Tell whether all arrays are there in the types that are written now."""
    names = [f"{plane}.{column}" for plane in PIECE_PLANES for column in _PIECE_COLUMNS]
    if not {"format_version", *_ARRAYS, *names} <= arrays.keys():
        return False
    if arrays["format_version"].tolist() != FORMAT_VERSION:
        return False
    for name, array in arrays.items():
        wanted = _DTYPES.get(name.rpartition(".")[2])
        if wanted is not None and array.dtype.str != wanted:
            return False
    return arrays["keys"].dtype.kind == arrays["member_names"].dtype.kind == "S"


def _shard_index(arrays: Mapping[str, npt.NDArray[Any]]) -> ShardIndex:
    content: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
    for plane in PIECE_PLANES:
        columns = (arrays[f"{plane}.{column}"] for column in _PIECE_COLUMNS)
        content[plane] = PieceTable(*columns)
    return ShardIndex(**content)


def _check_shapes(index: ShardIndex, where: str) -> None:
    """Refuse an index whose arrays do not fit together.

    Raises:
        FormatError: Naming it and the array.
    """
    num_samples, num_members = len(index.keys), len(index.member_sample)
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("keys", "labels", "num_frames", "num_lists"), (num_samples,)),
        **{"coded_size": (num_samples, 2), "display_rect": (num_samples, 4)},
        **{"frame_size": (num_samples, 2), "frame_flags": (int(index.num_frames.sum()),)},
        **dict.fromkeys([name for name in _ARRAYS if name.startswith("member_")], (num_members,)),
        "member_names": (len(index.member_names),),
    }
    for name, shape in shapes.items():
        found = getattr(index, name).shape
        if found != shape:
            raise FormatError(f"{where}: {name} has the shape {found}, expected {shape}")
    for plane in PIECE_PLANES:
        table = index.table(plane)
        lengths = {len(getattr(table, column)) for column in _PIECE_COLUMNS if column != "start"}
        begins = table.start
        if (
            begins.shape != (num_samples + 1,)
            or lengths != {int(begins[-1])}
            or begins[0] != 0
            or np.any(begins[1:] < begins[:-1])
        ):
            raise FormatError(f"{where}: the table of {plane} does not fit together")
