"""Processes that train together, as torchrun starts them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from torch import distributed

from gopstream.jobs.errors import UserError

# What gloo and NCCL say when a process at the other end is gone.
_LOST: Final = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


class Ranks(NamedTuple):
    """Where a process stands among those of its run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun has started; alone without it.

    They speak by NCCL on GPUs, each of which has one process, and by gloo on CPUs.

    Raises:
        UserError: If there are fewer GPUs than processes, or another process has ended.
    """
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        yield Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    device = _own_device()
    if not distributed.is_initialized():
        kind = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(kind)
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    try:
        yield ranks
    except RuntimeError as error:
        # The group is left as it is: to take leave of a process that is gone takes minutes.
        if any(words in str(error) for words in _LOST):
            raise UserError(
                "another process of the run has ended, which says why; the last checkpoint is kept"
            ) from error
        raise
    # Commands in one process follow each other in the same group; it ends with the process.


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = distributed.get_node_local_rank(fallback_rank=0)
    if local >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started more processes than there are GPUs ({torch.cuda.device_count()}); "
            "give --nproc-per-node as many at most"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def gathered(value: object, ranks: Ranks) -> list[object]:
    """Return the values of all processes, by rank, on each of them."""
    if ranks.world_size == 1:
        return [value]
    values: list[object] = [None] * ranks.world_size
    distributed.all_gather_object(values, value)
    return values


def agreed(flag: int, ranks: Ranks) -> int:
    """Return the greatest number that a process says; all of them must ask."""
    if ranks.world_size == 1:
        return flag
    said = torch.tensor(flag)  # on the CPU, so that no GPU is waited for
    distributed.all_reduce(said, op=distributed.ReduceOp.MAX)
    return int(said)


def take_from_first(tensors: Iterable[torch.Tensor], ranks: Ranks) -> None:
    """Give tensors, in place, the values that they have on the first process."""
    if ranks.world_size > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def mean_over(value: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Return the mean of a tensor over all processes."""
    if ranks.world_size == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / ranks.world_size
