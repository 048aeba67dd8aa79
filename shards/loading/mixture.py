"""Several datasets in one epoch, mixed by weight: a pure function of (seed, epoch, position).

Each dataset goes through epochs of its own, every sample once before any comes again, however
often the mixture's epochs begin; a small dataset with a large weight goes around many times while a
large one has not come to its end.

Dimensions: D datasets, L positions of an epoch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gopstream.shards.loading.order import Numbers, derived_seed, epoch_order
from gopstream.shards.mixture_shares import Mixture


class MixedEpoch:
    """Which dataset stands at each position of one epoch of a mixture."""

    def __init__(self, mixture: Mixture, *, seed: int, epoch: int) -> None:
        """Mix an epoch.

        Args:
            mixture: The datasets.
            seed: Of the run, not negative.
            epoch: Counted from 0.
        """
        self._sizes, self._counts = mixture.sizes, mixture.counts
        self._before = tuple(epoch * count for count in self._counts)
        ends = np.cumsum(self._counts)
        # Slots stand for datasets in blocks; shuffled, a dataset's slots come in random places.
        slots = epoch_order(mixture.num_samples, seed=seed, epoch=epoch)
        self.datasets: Numbers = np.empty(len(slots), np.uint8 if len(ends) <= 256 else np.uint32)
        """(L,) number of the dataset at each position."""
        for number, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            self.datasets[(slots >= begin) & (slots < end)] = number

    def __len__(self) -> int:
        """Return L."""
        return len(self.datasets)

    def epochs_of(self, dataset: int) -> range:
        """Return the epochs of a dataset that this one draws from."""
        first = self._before[dataset]
        size = self._sizes[dataset]
        return range(first // size, (first + self._counts[dataset] - 1) // size + 1)


def dataset_seed(seed: int, dataset: int) -> int:
    """Return the seed of a dataset's own order, so that no two go in step.

    Args:
        seed: Of the run, not negative.
        dataset: Its number in the mixture.
    """
    return derived_seed(seed, dataset)


def mixed_order(
    mixture: Mixture,
    order_of: Callable[[int, int], npt.NDArray[np.integer[Any]]],
    *,
    seed: int,
    epoch: int,
) -> npt.NDArray[np.int64]:
    """Return the samples of an epoch in their order, as if the datasets were one after another.

    Args:
        mixture: The datasets.
        order_of: Gives, from a dataset's number and an epoch of its own, the samples of that
            epoch: as many as the mixture says, in ``0 .. its samples - 1``.
        seed: Of the run, not negative.
        epoch: Of the mixture, counted from 0.

    Returns:
        (L,) sample i of dataset d is ``sum(mixture.sizes[:d]) + i``.
    """
    mixed = MixedEpoch(mixture, seed=seed, epoch=epoch)
    samples = np.empty(len(mixed), np.int64)
    offset = 0
    for number, size in enumerate(mixture.sizes):
        places = np.flatnonzero(mixed.datasets == number)
        first = epoch * mixture.counts[number]  # each epoch of the mixture draws as many
        begin = 0
        for own_epoch in mixed.epochs_of(number):
            end = min(len(places), (own_epoch + 1) * size - first)
            start = first + begin - own_epoch * size
            own = order_of(number, own_epoch)
            assert len(own) == size
            samples[places[begin:end]] = offset + own[start : start + end - begin].astype(np.int64)
            begin = end
        offset += size
    return samples
