"""Shared memory that worker processes fill in turn, used again and again.

Fresh shared memory costs more than decoding half of a clip's frames, since the system clears
every page at its first touch. So each worker has a few slots, one more than the batches it may
have under way, and the training process copies a batch out as soon as it is handed over.

A ``DataLoader`` asks a worker for its next batch when it hands over one of it, and has at most
``prefetch`` batches of a worker under way. While batch k is copied the worker may at most write
batch k + prefetch: with ``prefetch + 1`` slots that is another one. The memory has no name in the
file system: nothing is left of it when the processes are gone, however they end.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch import BatchFacts, ClipBatch, make_batch

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the system's own, looked at only


class Filled(NamedTuple):
    """What a worker hands over: the place of a batch's arrays, and the rest of it."""

    worker: int
    slot: int
    facts: BatchFacts


class SharedSlots:
    """The slots of all workers."""

    def __init__(
        self,
        arrays: Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]],
        *,
        batch_size: int,
        workers: int,
        prefetch: int,
    ) -> None:
        """Allocate them.

        Args:
            arrays: Shape and type of each array of a clip.
            batch_size: Clips in a batch, at most.
            workers: Their number.
            prefetch: Batches of a worker that may be under way.

        Raises:
            ShardError: If the machine has not so much shared memory.
        """
        self._num_slots = prefetch + 1
        lead = (workers, self._num_slots, batch_size)
        empty = {
            name: torch.empty((*lead, *shape), dtype=_torch_type(dtype))
            for name, (shape, dtype) in arrays.items()
        }
        _check_room(sum(tensor.numel() * tensor.element_size() for tensor in empty.values()))
        self._tensors: dict[str, Tensor] = {
            name: tensor.share_memory_()  # type: ignore[no-untyped-call]
            for name, tensor in empty.items()
        }

    def arrays(self, worker: int, number: int) -> tuple[int, dict[str, npt.NDArray[Any]]]:
        """Return the slot for a worker's ``number``-th batch, and its arrays to fill."""
        slot = number % self._num_slots
        return slot, {name: whole[worker, slot].numpy() for name, whole in self._tensors.items()}

    def take(self, filled: Filled, *, pin_memory: bool) -> ClipBatch:
        """Copy a batch out of its slot."""
        tensors: dict[str, Tensor] = {}
        for name, whole in self._tensors.items():
            part = whole[filled.worker, filled.slot, : len(filled.facts.keys)]
            own = torch.empty(part.shape, dtype=part.dtype, pin_memory=pin_memory)
            tensors[name] = own.copy_(part)
        windows = filled.facts.windows
        if windows is not None and pin_memory:
            windows = windows.pin_memory()
        return make_batch(filled.facts._replace(windows=windows), tensors)


def _torch_type(dtype: npt.DTypeLike) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _check_room(num_bytes: int) -> None:
    """Refuse more shared memory than there is: writing to it would kill the process.

    Raises:
        ShardError: Saying how much is needed.
    """
    if not _SHARED_MEMORY.is_dir():
        return
    status = os.statvfs(_SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if num_bytes > free:
        raise ShardError(
            f"the workers need {num_bytes / 1e6:.0f} MB of shared memory, {_SHARED_MEMORY} has "
            f"{free / 1e6:.0f} MB left; start the container with a larger --shm-size, or use "
            "fewer workers, a smaller batch or a smaller prefetch"
        )
