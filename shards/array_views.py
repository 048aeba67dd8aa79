"""Arrays of a ``.npz`` file of ours where they lie, without copying or reading all of it.

``numpy.load`` reads a whole file and spends milliseconds on its headers; a loader that draws from
many shards opens an index for about every sample. Here the directory of the zip is walked once,
and each array becomes a view of the file's bytes, which may be mapped from a disk.

What is checked before a byte is used: that all sizes and offsets lie within the file, that each
array fills its entry, and the CRC-32 of the arrays that are asked for. A file that is damaged, or
written in another way than :func:`gopstream.shards.array_file.array_file_bytes` does, gives None:
the thorough reader then reads it or says what is wrong.
"""

import mmap
import re
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

# PKWARE APPNOTE 6.3.10: 4.3.16 end of central directory, 4.3.12 central file header, 4.3.7 local
# file header.
_END: Final = struct.Struct("<4s4H2LH")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_STORED: Final = 0
_ENCRYPTED_OR_STREAMED: Final = 0b1001
_NPY_MAGIC: Final = b"\x93NUMPY\x01\x00"
# The header that NumPy writes for plain arrays (numpy.lib.format, version 1.0).
_NPY_HEADER: Final = re.compile(
    rb"\{'descr': '([<|][a-zA-Z][0-9]{1,3})', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,18},? ?){0,4})\), \} *\n"
)
_KINDS: Final = "biufS"


class _Entry(NamedTuple):
    name: str
    start: int
    """Of its content in the file."""
    size: int
    crc32: int


def view_arrays(
    content: bytes | memoryview | mmap.mmap, *, is_checked: Callable[[str], bool]
) -> dict[str, npt.NDArray[Any]] | None:
    """Return the arrays of a file, which keep its bytes alive and cannot be written.

    Args:
        content: The file.
        is_checked: Tells by its name whether an array's bytes are compared with their CRC-32.

    Returns:
        The arrays by name; None for a file to be read by
        :func:`gopstream.shards.array_file.parse_array_file` instead.
    """
    view = memoryview(content)
    try:
        entries = _entries(view)
        arrays = {}
        for entry in entries:
            end = entry.start + entry.size
            if is_checked(entry.name) and zlib.crc32(view[entry.start : end]) != entry.crc32:
                return None
            arrays[entry.name] = _array(view, entry)
    except (struct.error, TypeError, ValueError):
        return None
    return arrays if len(arrays) == len(entries) else None


def _entries(view: memoryview) -> list[_Entry]:
    """Walk the zip's directory.

    Raises:
        ValueError: If it is not a plain one of stored entries, or leads out of the file.
        struct.error: If it is cut.
    """
    end = len(view) - _END.size
    magic, disk, first_disk, count, total, size, offset, comment = _end_record(view, end)
    plain = (magic, disk, first_disk, comment) == (b"PK\5\6", 0, 0, 0) and count == total
    if not plain or offset + size != end:
        raise ValueError("not a plain zip")
    entries = []
    directory = offset
    for _ in range(count):
        # made by, needed, flags, method, time, date, crc, packed, size, then lengths and place
        fields = _ENTRY.unpack_from(view, offset)
        magic, flags, method, crc32 = fields[0], fields[3], fields[4], fields[7]
        packed, size, name_length, extra_length, comment_length = fields[8:13]
        if magic != b"PK\1\2" or method != _STORED or packed != size:
            raise ValueError("not a stored entry")
        if flags & _ENCRYPTED_OR_STREAMED:
            raise ValueError("not a plain entry")
        begin = offset + _ENTRY.size
        name = bytes(view[begin : begin + name_length])
        offset = begin + name_length + extra_length + comment_length
        start = _content_start(view, fields[16], name)
        if offset > end or start + size > directory:
            raise ValueError("leads out of the file")
        entries.append(_Entry(_array_name(name), start, size, crc32))
    if offset != end:
        raise ValueError("the directory has another length")
    return entries


def _end_record(view: memoryview, end: int) -> tuple[Any, ...]:
    if end < 0:
        raise ValueError("too short")
    return _END.unpack_from(view, end)


def _content_start(view: memoryview, header: int, name: bytes) -> int:
    """Return where the content of an entry begins; its local header must have its name."""
    magic, *_, name_length, extra_length = _LOCAL.unpack_from(view, header)
    begin = header + _LOCAL.size
    if magic != b"PK\3\4" or bytes(view[begin : begin + name_length]) != name:
        raise ValueError("not a local header")
    return int(begin + name_length + extra_length)


@lru_cache(maxsize=256)
def _array_name(name: bytes) -> str:
    if not name.endswith(b".npy"):
        raise ValueError("not an array")
    return name[:-4].decode("ascii")


def _array(view: memoryview, entry: _Entry) -> npt.NDArray[Any]:
    """Return an entry's array; it must fill the entry.

    Raises:
        ValueError: If it does not, or its header is not as NumPy writes it.
        struct.error: If the header is cut.
    """
    if entry.size < 10 or bytes(view[entry.start : entry.start + 8]) != _NPY_MAGIC:
        raise ValueError("not a .npy file of version 1.0")
    (length,) = struct.unpack_from("<H", view, entry.start + 8)
    start = entry.start + 10 + length
    end = entry.start + entry.size
    if start > end:
        raise ValueError("the header is longer than the entry")
    dtype, shape = _parse_header(bytes(view[entry.start + 10 : start]))
    num_bytes = dtype.itemsize
    for count in shape:  # a product in NumPy would wrap around
        num_bytes *= count
    if num_bytes != end - start:
        raise ValueError("the array does not fill its entry")
    if num_bytes == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(view[start:end], dtype).reshape(shape)


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    match = _NPY_HEADER.fullmatch(header)
    if match is None:
        raise ValueError("not the header of a plain array")
    dtype = np.dtype(match[1].decode())
    if dtype.kind not in _KINDS:
        raise ValueError("not an array of plain values")
    return dtype, tuple(int(text) for text in match[2].replace(b",", b" ").split())
