"""Keep tables that depend on sizes alone: made once, shared, never beyond a bound of memory."""

import threading
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar, cast

import torch
from torch import Tensor

Table = TypeVar("Table")


class KeptTables:
    """Tables by key; safe to share between threads."""

    def __init__(self, *, most_bytes: int) -> None:
        """Begin empty.

        Args:
            most_bytes: Of all tensors together, on all devices. The tables that were made first
                go first; one that is larger by itself is not kept.
        """
        self._most_bytes = most_bytes
        self._kept: dict[Hashable, tuple[object, int]] = {}
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Memory of what is kept."""
        return sum(size for _, size in list(self._kept.values()))

    def get(self, key: Hashable, *, make: Callable[[], Table]) -> Table:
        """Return the table of a key, made now if there is none.

        Args:
            key: Of all that the table depends on, the device too.
            make: Makes a tensor, or a tuple of tensors and anything else, nested at will.
        """
        found = self._kept.get(key)
        if found is not None:
            return cast(Table, found[0])
        # Tables made in inference mode could not be saved for a later backward pass.
        with torch.inference_mode(mode=False):
            table = make()
        tensors = list(_tensors_of(table))
        # A tracer's own kind of tensor must not outlive the trace.
        if all(type(tensor) is Tensor for tensor in tensors):
            self._keep(key, table, num_bytes=sum(tensor.nbytes for tensor in tensors))
        return table

    def _keep(self, key: Hashable, table: object, *, num_bytes: int) -> None:
        if num_bytes > self._most_bytes:
            return
        with self._lock:
            self._kept[key] = (table, num_bytes)
            while self.num_bytes > self._most_bytes:
                self._kept.pop(next(iter(self._kept)))


def _tensors_of(table: object) -> Iterator[Tensor]:
    if isinstance(table, Tensor):
        yield table
    elif isinstance(table, tuple):
        for part in table:
            yield from _tensors_of(part)
