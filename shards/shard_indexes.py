"""The indexes of a split's shards, opened when a sample of theirs is asked for.

A split may have tens of thousands of shards; the latest used indexes stay open, within bounds.
Each is compared with what the manifest says of it: where the shards of a split were replaced, their
new indexes would lead a reader of the old manifest to samples that it does not know.

Dimensions: S shards, N samples of the split.
"""

import hashlib
import mmap
import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.shards.array_views import view_arrays
from gopstream.shards.byte_ranges import ByteRanges, Pending, Span
from gopstream.shards.errors import DamageError, FormatError
from gopstream.shards.index import PIECE_PLANES, PieceTable, ShardIndex, parse_index
from gopstream.shards.layout import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    MAX_READ_BYTES,
    check_size,
    index_name,
)
from gopstream.shards.open_files import PerProcess
from gopstream.shards.shard_table import FileColumn, ShardTable
from gopstream.shards.storage import Storage

INDEX_KIND: Final = "index.npz"
"""Among the files of a shard table."""
MAX_OPEN: Final = 64
MAX_LOCAL_BYTES: Final = 16 << 20
"""Of indexes mapped by one process: to open one again costs half a millisecond."""
MAX_REMOTE_BYTES: Final = 64 << 20
"""Of indexes held by one process: to open one again costs a request."""

_VERIFY: Final = "run 'gopstream verify' to see all faults"
_NEVER: Final = np.iinfo(np.int64).min

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


class _Coming:
    """Indexes on their way from a store to this process."""

    def __init__(self) -> None:
        self.pending: dict[int, Pending] = {}
        self.num_bytes = 0
        self.later: deque[int] = deque()
        """Those that are asked for when there is room, in the order of their use."""


class ShardIndexes:
    """The indexes of a split's shards; each is opened when it is asked for.

    From a local disk they are mapped, so that only the pages that are used are read. The latest
    stay open. Forked and pickled copies open their own; not for several threads at once.
    """

    def __init__(
        self,
        storage: Storage,
        table: ShardTable,
        *,
        ranges: ByteRanges,
        max_open: int = MAX_OPEN,
        max_bytes: int | None = None,
    ) -> None:
        """Name the shards; nothing is opened.

        Args:
            storage: Of the dataset.
            table: The shards, with the files of the kind ``INDEX_KIND``.
            ranges: Reads the dataset's bytes, where it is not on this machine.
            max_open: Indexes that stay open or are on their way, at most.
            max_bytes: Sum of their sizes, at most; the latest one always stays. None takes
                ``MAX_LOCAL_BYTES`` or ``MAX_REMOTE_BYTES``.

        Raises:
            FormatError: If the manifest lists a shard without an index.
        """
        assert max_open > 0
        self.names = table.names
        """(S,) of the shards, such as ``000012``."""
        self.starts = table.starts
        """(S + 1,) the samples of shard i are starts[i] to starts[i + 1]."""
        self.storage = storage
        self.split = table.split
        self._files: FileColumn = table.files[INDEX_KIND]
        self._ranges = ranges
        self._max_open = max_open
        self._is_local = storage.local_root is not None
        self._max_bytes = max_bytes or (MAX_LOCAL_BYTES if self._is_local else MAX_REMOTE_BYTES)
        self._open: OrderedDict[int, tuple[ShardIndex, int]] = OrderedDict()
        self._open_bytes = 0
        self._coming: PerProcess[_Coming] = PerProcess()
        self._checked_at = np.full(len(table.names), _NEVER)
        """(S,) when a local file was last changed whose content is known to be right; ns."""
        self._check_records()

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open indexes behind: a worker process opens its own."""
        never = np.full(len(self), _NEVER)
        return self.__dict__ | {"_open": OrderedDict(), "_open_bytes": 0, "_checked_at": never}

    def name(self, shard: int) -> str:
        """Return the name of a shard, such as ``000012``."""
        return str(self.names[shard].decode())

    def shard_of(self, position: int) -> int:
        """Return the number of the shard that holds a sample, which begins at ``starts[...]``."""
        return int(self.shards_of(np.array(position)))

    def shards_of(self, positions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Return the numbers of the shards that hold samples, in the same order."""
        return self.starts.searchsorted(positions, side="right") - 1

    def __getitem__(self, shard: int) -> ShardIndex:
        """Return the index of a shard.

        Raises:
            DamageError: If it is not there, is not the file that the manifest names, or has other
                samples than the manifest says.
            FormatError: If it is damaged, not an index, or of a newer version.
            StoreError: If object storage does not give it.
        """
        held = self._open.get(shard)
        if held is not None:
            self._open.move_to_end(shard)
            return held[0]
        index, num_bytes = self._load(shard)
        self._open[shard] = index, num_bytes
        self._open_bytes += num_bytes
        coming = self._coming.get(_Coming)
        self._send(coming)
        while len(self._open) > 1 and (
            len(self._open) + len(coming.pending) > self._max_open
            or self._open_bytes + coming.num_bytes > self._max_bytes
        ):
            _, (_, released) = self._open.popitem(last=False)
            self._open_bytes -= released
        return index

    def prefetch(self, shards: Iterable[int]) -> None:
        """Say which indexes will be asked for next, in this order; returns at once.

        Those that are not here are asked for at the same time, up to half of the bounds;
        the others follow as these are used. Errors come with the index, when it is asked for. What
        was said before and is not said again is taken back. From a local disk nothing is read.
        """
        if self._is_local:
            return
        coming = self._coming.get(_Coming)
        coming.later = deque(shards)
        for shard in coming.pending.keys() - set(coming.later):
            del coming.pending[shard]
            coming.num_bytes -= self._size(shard)
        self._send(coming)

    def labels(self) -> npt.NDArray[np.int64]:
        """Read all labels: (N,), -1 without one. Opens each index; none stays open.

        From a local disk an index may be another of the same size than the manifest's: that is
        refused when a sample is read.
        """
        labels = np.empty(int(self.starts[-1]), np.int64)
        for shard, index in enumerate(self._each("labels")):
            start, end = self.starts[shard : shard + 2].tolist()
            labels[start:end] = index.labels
        return labels

    def keys(self) -> Iterator[str]:
        """Yield the keys of all samples. Opens each index; none stays open."""
        for index in self._each("keys"):
            for key in index.keys.tolist():
                yield key.decode()

    def _each(self, array: str) -> Iterator[ShardIndex]:
        """Yield all indexes, of which one array alone is looked at."""
        shards = range(len(self))
        self.prefetch(shards)
        for shard in shards:
            index, _ = self._load(shard, only=array)
            self._send(self._coming.get(_Coming))
            yield index

    def _send(self, coming: _Coming) -> None:
        """Ask for indexes ahead of their use while there is room."""
        while coming.later:
            shard = coming.later[0]
            if shard in self._open:
                # More stay open than are on their way: this one will be, when its turn comes.
                self._open.move_to_end(shard)
            elif shard not in coming.pending:
                num_bytes = self._size(shard)
                if coming.pending and (
                    2 * (len(coming.pending) + 1) >= self._max_open
                    or 2 * (coming.num_bytes + num_bytes) > self._max_bytes
                ):
                    return
                coming.pending[shard] = self._ranges.start([self._span(shard)])
                coming.num_bytes += num_bytes
            coming.later.popleft()

    def _load(self, shard: int, *, only: str | None = None) -> tuple[ShardIndex, int]:
        """Return an index and its size in bytes; with ``only`` one of its arrays is checked."""

        def is_checked(name: str) -> bool:
            return name not in _PROVEN_BY_USE if only is None else name == only

        where = f"{self.storage.url}/{self._span(shard).name}"
        content: bytes | memoryview | mmap.mmap
        try:
            if self._is_local:
                content = self._mapped(shard, where, is_whole=only is None)
            else:
                content = self._fetched(shard, where)
        except FileNotFoundError as error:
            raise DamageError(f"{where}: the shard's index is missing; {_VERIFY}") from error
        try:
            arrays = view_arrays(content, is_checked=is_checked)
            if arrays is None or not _is_as_written(arrays):
                index = parse_index(bytes(content), where=where)
            else:
                index = _shard_index(arrays)
            _check_shapes(index, where)
        except FormatError as error:
            raise FormatError(f"{error}; {_VERIFY}") from error
        start, end = self.starts[shard : shard + 2].tolist()
        if len(index.keys) != end - start:
            raise DamageError(
                f"{where}: lists {len(index.keys)} samples, {MANIFEST_FILE} says {end - start}; "
                f"{_VERIFY}"
            )
        return index, len(content)

    def _fetched(self, shard: int, where: str) -> bytes | memoryview:
        """Return an index from a store, asked for now or before."""
        coming = self._coming.get(_Coming)
        pending = coming.pending.pop(shard, None)
        if pending is None:
            pending = self._ranges.start([self._span(shard)])
        else:
            coming.num_bytes -= self._size(shard)
        (content,) = pending.result()
        if hashlib.sha256(content).hexdigest().encode() != self._files.sha256[shard]:
            raise _other_file(where)
        return content

    def _mapped(self, shard: int, where: str, *, is_whole: bool) -> mmap.mmap:
        """Return an index from a local disk; its content is compared where it is new to us.

        Not for one array of it, which has a checksum: to hash all files of a large split reads
        many gigabytes.
        """
        assert self.storage.local_root is not None
        with Path(self.storage.local_root, self._span(shard).name).open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size != self._size(shard):
                raise _other_file(where)
            if is_whole and status.st_mtime_ns != self._checked_at[shard]:
                # Not by the map: pages that are read through it are this process's memory.
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest.encode() != self._files.sha256[shard]:
                    raise _other_file(where)
                self._checked_at[shard] = status.st_mtime_ns
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _span(self, shard: int) -> Span:
        return Span(f"{self.split}/{index_name(self.name(shard))}", 0, self._size(shard))

    def _size(self, shard: int) -> int:
        return int(self._files.num_bytes[shard])

    def _check_records(self) -> None:
        """Refuse a manifest whose indexes cannot be.

        Raises:
            FormatError: Naming the first one.
        """
        for shard in np.flatnonzero(self._files.num_bytes <= 0).tolist():
            raise FormatError(
                f"{self.storage.url}/{self.split}/{MANIFEST_FILE}: lists no "
                f"{index_name(self.name(shard))}; {_VERIFY}"
            )
        for shard in np.flatnonzero(self._files.num_bytes > MAX_READ_BYTES).tolist():
            check_size(self._size(shard), f"{self.storage.url}/{self._span(shard).name}")


def _other_file(where: str) -> DamageError:
    return DamageError(
        f"{where}: it is not the file that {MANIFEST_FILE} names: it is damaged, or the shard was "
        f"replaced; if the dataset was changed, open it anew; {_VERIFY}"
    )


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
