"""Read what `torch.save` wrote without running anything that the file asks for.

A pickle is a program: it names functions and calls them. Two locks stand here. First the
opcodes are walked without being run (``pickletools``), and the file is refused if it names
anything that is not on the list below. Then ``torch.load(weights_only=True)`` interprets it
with a list of its own. Objects that training code leaves beside the weights (settings, NumPy
numbers, paths) are given to inert stand-ins of this module; the real classes are never imported.
"""

import _compat_pickle
import io
import pickle
import pickletools
import re
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import torch

_ZIP_START: Final = b"PK\x03\x04"
_MAX_PICKLE_BYTES: Final = 32 * 2**20  # an optimiser's state of a thousand tensors is 0.5 MB
_LEGACY_PICKLES: Final = 5  # magic number, protocol, system facts, the object, storage keys

_TENSOR_GLOBALS: Final = re.compile(
    r"collections\.(OrderedDict|Counter)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.nn\.parameter\.Parameter"
    r"|torch\.(Size|device)"
    r"|torch\.(bool|u?int(8|16|32|64)|b?float16|float(32|64))"
    r"|torch\.(Bool|Byte|Char|Short|Int|Long|Half|BFloat16|Float|Double)Storage"
    r"|torch\.storage\.(Untyped|Typed)Storage"
    r"|_codecs\.encode"  # how protocol 2 writes bytes
    r"|builtins\.set"
)
# struct's letter for the kind and size that NumPy writes for a number.
_NUMBER_LETTERS: Final = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}
# What a file that is broken, or made to hurt, can make the readers of zip and opcodes raise.
_BROKEN: Final = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    struct.error,
)
_READING: Final = threading.Lock()  # torch's list of allowed names is the whole process's


class SavedNamespace:
    """Stands in for ``argparse.Namespace``: keeps the attributes and does nothing."""

    def __init__(self) -> None:
        """Make one without attributes."""
        self.attributes: object = {}

    def __setstate__(self, state: object) -> None:
        """Keep what the pickle has for the attributes."""
        self.attributes = state


class SavedName:
    """Stands in for a builtin type that is only named, such as a ``defaultdict``'s factory."""


class SavedNumberKind:
    """Stands in for ``numpy.dtype``: the kind and size of a number, and its byte order."""

    def __init__(self, code: str, *flags: object) -> None:
        """Keep `code`, such as "f8"; NumPy's `flags` say how it copies."""
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        """Take the byte order, the second of NumPy's eight values."""
        self.order = ">" if state[1] == ">" else "<"


def read_number(kind: SavedNumberKind, data: bytes) -> int | float | bool:
    """Stand in for NumPy's scalar: return the Python number.

    Raises:
        ValueError: If it is no number of at most 8 bytes.
    """
    if not isinstance(kind, SavedNumberKind) or kind.code not in _NUMBER_LETTERS:
        raise ValueError("a NumPy value in the file is not a plain number")
    number: int | float | bool = struct.unpack(kind.order + _NUMBER_LETTERS[kind.code], data)[0]
    return number


def read_path_parts(*parts: str) -> str:
    """Stand in for ``pathlib.Path``: return the words of the path, joined by slashes."""
    return "/".join(map(str, parts)).replace("//", "/")


def read_default_mapping(*factory: object) -> dict[object, object]:
    """Stand in for ``collections.defaultdict``: return a plain dict, which makes nothing up."""
    return {}


# torch sets items of plain mappings only, so a yacs node, a dict with attributes, becomes one.
_STAND_INS: Final[dict[str, Callable[..., object]]] = {
    "yacs.config.CfgNode": OrderedDict,
    "fvcore.common.config.CfgNode": OrderedDict,
    "argparse.Namespace": SavedNamespace,
    "numpy.core.multiarray.scalar": read_number,
    "numpy._core.multiarray.scalar": read_number,
    "numpy.dtype": SavedNumberKind,
    "collections.defaultdict": read_default_mapping,
    "builtins.dict": SavedName,
    "builtins.list": SavedName,
    "builtins.int": SavedName,
    "builtins.float": SavedName,
    "pathlib.PosixPath": read_path_parts,
    "pathlib.WindowsPath": read_path_parts,
    "pathlib._local.PosixPath": read_path_parts,
    "pathlib._local.WindowsPath": read_path_parts,
}


def load_saved(path: Path) -> Any:  # noqa: ANN401  a pickle holds anything
    """Return the object that ``torch.save`` wrote, with stand-ins for what is not weights.

    Tensors are on the CPU; those of a zip archive (torch 1.6 and later) stay on disk until
    they are read.

    Raises:
        ValueError: If the file is broken, compressed, TorchScript, of a pickle protocol other
            than 2, or names something that is not on the list.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == _ZIP_START
    try:
        names = set(_names_in_zip(path) if is_zip else _names_in_legacy_file(path))
    except (*_BROKEN, OSError) as error:  # a directory of the archive can point anywhere
        raise ValueError(f"{path} is not a checkpoint that can be read: {error}") from error
    _refuse_unknown(path, names)
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (stand_in, name) for name, stand_in in _STAND_INS.items()
    ]
    with _READING, torch.serialization.safe_globals(allowed):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except _BROKEN as error:
            # torch's words on a pickle advise to read the file unsafely, which is not ours to say.
            quoted = "" if isinstance(error, pickle.UnpicklingError) else str(error)
            reason = quoted.split("\n")[0] or "torch refuses its pickle"
            raise ValueError(f"{path} is not a checkpoint that can be read: {reason}") from error


def _names_in_zip(path: Path) -> Iterator[str]:
    """Name the globals of the archive's pickle; refuse an archive that is larger inside."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename.lower() for entry in entries]  # torch's reader folds case
        if len(set(names)) < len(names):
            raise ValueError("it has two entries of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which torch.save does not do")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries overlap")
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError("it is a TorchScript program; save its state_dict() instead")
        pickles = [entry for entry in entries if entry.filename.lower().endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} entries called data.pkl, not 1")
        with archive.open(pickles[0]) as file:
            yield from _names_in_pickle(_beginning(file))


def _names_in_legacy_file(path: Path) -> Iterator[str]:
    """Name the globals of the pickles at the beginning of a file of torch before 1.6."""
    with path.open("rb") as file:
        beginning = _beginning(file)
    for _ in range(_LEGACY_PICKLES):
        yield from _names_in_pickle(beginning)


def _beginning(file: IO[bytes]) -> io.BytesIO:
    """Return the part in which a pickle must end; asked for more, it gives less at no cost."""
    return io.BytesIO(file.read(_MAX_PICKLE_BYTES))


def _names_in_pickle(file: io.BytesIO) -> Iterator[str]:
    """Walk the opcodes of one pickle, running none, and name its globals."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "PROTO" and argument != 2:
            raise ValueError(f"pickle protocol {argument}; only 2, torch.save's own, is read")
        if opcode.name in ("INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"its pickle has the opcode {opcode.name}, not one of torch.save's")
        if opcode.name == "GLOBAL":
            yield _modern_name(*str(argument).split(" ", 1))


def _modern_name(module: str, name: str) -> str:
    """Return the dotted name that Python 3 has for a name of Python 2."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[(module, name)]
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _refuse_unknown(path: Path, names: set[str]) -> None:
    unknown = sorted(
        name for name in names if name not in _STAND_INS and not _TENSOR_GLOBALS.fullmatch(name)
    )
    if unknown:
        listed = ", ".join(map(ascii, unknown))
        raise ValueError(
            f"{path} is refused: its pickle asks for {listed}, which weights do not need; nothing "
            "of it was run. If you trust its source, read it there and save the state dict "
            "alone, best as .safetensors"
        )
