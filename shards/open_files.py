"""Files that a process keeps open, and what else each process makes for itself."""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

_Value = TypeVar("_Value")

OPEN_FILES: Final = 64
"""How many files a reader keeps open."""
# What a parent made is not taken down in its child: its threads and locks are not there.
_INHERITED: Final[list[Any]] = []


class OpenFile:
    """A descriptor that is closed when nobody holds it any more, and in children after a fork.

    So a file can be dropped from :class:`OpenFiles` while another thread reads it, and a lock on
    it ends with the process that took it, not with its last child.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor."""
        self.descriptor = descriptor
        _OPEN.add(self)

    def __del__(self) -> None:
        """Close it."""
        self.close()

    def close(self, *, close: Callable[[int], None] = os.close) -> None:
        """Close it now; ``close`` is bound here since modules are empty when Python ends."""
        if self.descriptor >= 0:
            close(self.descriptor)
            self.descriptor = -1


_OPEN: Final[weakref.WeakSet[OpenFile]] = weakref.WeakSet()


def _close_inherited() -> None:
    for file in list(_OPEN):
        file.close()


os.register_at_fork(after_in_child=_close_inherited)


class OpenFiles:
    """The files that this process keeps open, the least recently used one closed for the next."""

    def __init__(self, *, limit: int = OPEN_FILES) -> None:
        """Begin without any.

        Args:
            limit: How many stay open.
        """
        self._limit = limit
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, OpenFile] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: another process opens its own."""
        return {"_limit": self._limit}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Begin without any."""
        self.__dict__.update(state)
        self._start()

    def get(self, name: str, open_file: Callable[[str], int]) -> OpenFile:
        """Return a file, opened if need be.

        Args:
            name: Its name.
            open_file: Returns a descriptor for a name.
        """
        if self._process != os.getpid():
            # After a fork: the lock may have been taken for ever.
            self._start()
        with self._lock:
            file = self._held.get(name)
            if file is None:
                file = OpenFile(open_file(name))
                self._held[name] = file
                if len(self._held) > self._limit:
                    self._held.popitem(last=False)
            else:
                self._held.move_to_end(name)
            return file

    def drop(self, name: str) -> None:
        """Open a file anew when it is next asked for."""
        if self._process != os.getpid():
            self._start()
        with self._lock:
            self._held.pop(name, None)

    def close(self) -> None:
        """Close all that nobody holds."""
        self._start()


class PerProcess(Generic[_Value]):
    """A value that each process makes for itself when it first asks for it."""

    def __init__(self) -> None:
        """Begin without it."""
        self._held: tuple[int, _Value] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the value behind."""
        return {"_held": None}

    def get(self, make: Callable[[], _Value]) -> _Value:
        """Return this process's value; ``make`` makes it."""
        held = self._held
        if held is None or held[0] != os.getpid():
            if held is not None:
                _INHERITED.append(held)
            held = self._held = (os.getpid(), make())
        return held[1]

    def take(self) -> _Value | None:
        """Return this process's value, if it was made, and make another next time."""
        held, self._held = self._held, None
        if held is None or held[0] == os.getpid():
            return None if held is None else held[1]
        _INHERITED.append(held)
        return None
