"""Small ``.npz`` files of plain arrays, without pickle; the same arrays give the same bytes."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gopstream.shards.errors import FormatError
from gopstream.shards.layout import FORMAT_VERSION


def array_file_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return arrays as a file, with the format's version."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, format_version=np.array(FORMAT_VERSION), **arrays)
    return buffer.getvalue()


def parse_array_file(
    content: bytes, *, names: Sequence[str], where: str
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file.

    Args:
        content: The file.
        names: Arrays that it must have.
        where: Its place, for messages.

    Raises:
        FormatError: If it is damaged, lacks an array, or is of a newer version.
    """
    try:
        _check_sizes(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError) as error:
        # RuntimeError: a damaged zip header can claim encryption or a newer zip version.
        raise FormatError(f"{where}: not a whole file of arrays ({error})") from error
    missing = sorted({"format_version", *names} - set(arrays))
    if missing:
        raise FormatError(f"{where}: lacks {', '.join(missing)}")
    version = arrays["format_version"].tolist()
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{where}: format version {version}; this gopstream reads version {FORMAT_VERSION}"
        )
    return arrays


def _check_sizes(content: bytes) -> None:
    """Refuse arrays whose header claims more than there is, before NumPy allocates them."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} is compressed")
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                if version != (1, 0):
                    raise ValueError(f"{entry.filename} has .npy version {version}")
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                size = dtype.itemsize
                for length in shape:  # a product in NumPy would wrap around
                    size *= length
                if size != entry.file_size - member.tell():
                    raise ValueError(f"{entry.filename} claims {size} bytes")
