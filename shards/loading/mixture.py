"""Several datasets in one epoch, mixed by weight: a pure function of (seed, epoch, position).

Each dataset goes through epochs of its own, every sample once before any comes again, however
often the mixture's epochs begin; a small dataset with a large weight goes around many times while a
large one has not come to its end.

Dimensions: D datasets, L positions of an epoch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gopstream.shards.loading.order import Numbers, derived_seed, epoch_order


@dataclass(frozen=True, slots=True)
class Mixture:
    """Which datasets are mixed, and how much of each."""

    sizes: tuple[int, ...]
    """(D,) positions of an epoch of each dataset."""
    weights: tuple[float, ...]
    """(D,) parts of an epoch, in proportion to each other."""
    num_samples: int
    """L."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: Naming what cannot be meant.
        """
        if not self.sizes or len(self.sizes) != len(self.weights):
            raise ValueError(
                f"a mixture needs a weight for each dataset, got {len(self.sizes)} datasets and "
                f"{len(self.weights)} weights"
            )
        if min(self.sizes) < 1:
            raise ValueError(f"dataset {self.sizes.index(min(self.sizes))} has no samples")
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"weights must be positive and finite, got {self.weights}")
        for number, count in enumerate(self.counts):
            if count == 0:
                raise ValueError(
                    f"dataset {number} with weight {self.weights[number]:g} has no place in an "
                    f"epoch of {self.num_samples} samples; give it more weight, or longer epochs"
                )

    @property
    def counts(self) -> tuple[int, ...]:
        """(D,) positions of an epoch that each dataset takes, by the largest remainder."""
        return shares_of(self.num_samples, self.weights)


def shares_of(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Divide a number by weights into whole parts that sum up to it (Hamilton's method).

    Each is the quotient rounded down or up; the largest remainders are rounded up, of equal ones
    the first. Weights are taken as the exact fractions that they are.
    """
    ratios = [float(weight).as_integer_ratio() for weight in weights]
    common = max(denominator for _, denominator in ratios)  # all are powers of two
    whole = [numerator * (common // denominator) for numerator, denominator in ratios]
    divided = [divmod(total * part, sum(whole)) for part in whole]
    counts = [quotient for quotient, _ in divided]
    by_remainder = sorted(range(len(counts)), key=lambda number: -divided[number][1])
    for number in by_remainder[: total - sum(counts)]:
        counts[number] += 1
    return tuple(counts)


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
