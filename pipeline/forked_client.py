"""The client of object storage in processes that were forked.

obstore makes its requests on threads of its own, which a process starts with its first request
and which a fork does not bring along: in a child of such a process a request would wait for ever.
There is no way to start them again. But another copy of the library has threads of its own still
to start, and so a forked child loads one when it next imports obstore (20 ms, 17 MB).

The system's loader knows a library by its file, and so the copy is another file, in memory.
Linux alone has those; there are no forked children elsewhere that get this far.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import Final

_LIBRARY: Final = "obstore._obstore"
# Nothing of it may be freed here: that could wait for threads that do not exist.
_INHERITED: Final[list[ModuleType]] = []


def leave_client_behind() -> None:
    """Let the next import of obstore load another copy; to be called in a child after a fork."""
    inherited = sys.modules.get(_LIBRARY)
    if inherited is None:
        return
    names = [name for name in sys.modules if name == "obstore" or name.startswith("obstore.")]
    _INHERITED.extend(sys.modules.pop(name) for name in names)
    if not any(isinstance(finder, _CopyFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CopyFinder())


class _CopyFinder:
    """Finds the library once, in a file that no other process has."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the library alone; everything else is found as ever."""
        del target
        if name != _LIBRARY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, path
        # Kept open: the name must not come to mean another file.
        copy = os.memfd_create("obstore")
        with open(spec.origin, "rb") as source:  # noqa: PTH123 - as os.sendfile wants it
            size = os.fstat(source.fileno()).st_size
            sent = 0
            while sent < size:
                sent += os.sendfile(copy, source.fileno(), sent, size - sent)
        place = f"/proc/{os.getpid()}/fd/{copy}"
        return importlib.util.spec_from_file_location(
            name, place, loader=ExtensionFileLoader(name, place)
        )
