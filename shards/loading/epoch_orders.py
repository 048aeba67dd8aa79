"""The order of a run's epochs, over one dataset or several, and what a state says of it."""

import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.shards.loading.mixture import Mixture, dataset_seed, mixed_order
from gopstream.shards.loading.order import Shuffle, epoch_order
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset

_SEEDS: Final = 1 << 64
_PROGRESS: Final = ("epoch", "position", "num_samples")


class EpochOrders:
    """Gives the samples of each epoch: a function of the run's seed and the epoch's number."""

    def __init__(
        self,
        dataset: ShardDataset | MixedDataset,
        *,
        seed: int,
        shuffle: Shuffle,
        weights: npt.NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """Choose an order.

        Args:
            dataset: What is loaded.
            seed: Of the run.
            shuffle: How samples are mixed.
            weights: (N,) of the samples, see :func:`epoch_order`; not of a mixture, which has its
                own.

        Raises:
            ValueError: If there are not as many weights as samples, a mixture has some or cannot
                be meant, or the seed is negative.
        """
        if not 0 <= seed < _SEEDS:
            raise ValueError(f"seed must be from 0 to {_SEEDS - 1}, got {seed}")
        if weights is not None and isinstance(dataset, MixedDataset):
            raise ValueError("weights are those of one dataset's samples; a mixture has its own")
        if weights is not None and len(weights) != len(dataset):
            raise ValueError(f"there are {len(weights)} weights for {len(dataset)} samples")
        self._dataset = dataset
        self.seed = seed
        """Of the run."""
        self._shuffle, self._weights = shuffle, weights
        self.num_samples = len(dataset)
        """Positions of an epoch."""
        self._mixture: Mixture | None = None
        if isinstance(dataset, MixedDataset):
            self.num_samples = dataset.num_samples
            self._mixture = Mixture(
                sizes=dataset.sizes, weights=tuple(dataset.weights), num_samples=self.num_samples
            )
        self._known: tuple[int, dict[str, Any]] = (-1, {})

    def order(self, epoch: int, num_samples: int) -> npt.NDArray[np.integer[Any]]:
        """Return the sample at each position of an epoch.

        Args:
            epoch: Counted from 0.
            num_samples: Of the dataset's samples, the first so many take part.
        """
        if isinstance(self._dataset, MixedDataset):
            return self._mixed(self._dataset, epoch)
        starts = self._dataset.shard_starts
        starts = np.append(starts[starts < num_samples], num_samples)
        weights = None if self._weights is None else self._weights[:num_samples]
        return epoch_order(
            starts, seed=self.seed, epoch=epoch, shuffle=self._shuffle, weights=weights
        )

    def announce(self, order: npt.NDArray[np.integer[Any]], position: int, count: int) -> None:
        """Let a remote dataset know what stands a window of shards behind some positions.

        Args:
            order: Of the epoch.
            position: The first.
            count: Their number.
        """
        dataset = self._dataset
        if self._shuffle.mode != "windows" or isinstance(dataset, MixedDataset):
            return
        if dataset.is_remote:
            num_shards = max(1, len(dataset.shard_starts) - 1)
            window = len(dataset) * self._shuffle.window_shards // num_shards
            dataset.expect(order[position + window : position + window + count])

    def facts(self, num_samples: int) -> dict[str, Any]:
        """Return what must be the same where a run is continued."""
        # Hashes of millions of numbers, which a StatefulDataLoader asks for at every batch.
        if self._known[0] != num_samples:
            self._known = (num_samples, self._facts(num_samples))
        return dict(self._known[1])

    def _facts(self, num_samples: int) -> dict[str, Any]:
        facts: dict[str, Any] = {"seed": self.seed, "shuffle": self._shuffle.mode}
        if self._shuffle.mode == "windows":
            facts["window_shards"] = self._shuffle.window_shards
        if isinstance(self._dataset, MixedDataset):
            facts["sizes"] = list(self._dataset.sizes)
            facts["weights"] = [float(weight) for weight in self._dataset.weights]
            facts["num_samples"] = self.num_samples
            facts["selection"] = [
                dataset.selection_hash(len(dataset)) for dataset in self._dataset.datasets
            ]
            facts["shards"] = [_shards_hash(d, len(d)) for d in self._dataset.datasets]
        else:
            facts["selection"] = self._dataset.selection_hash(num_samples)
            facts["shards"] = _shards_hash(self._dataset, num_samples)
        if self._weights is not None:
            content = self._weights[:num_samples].astype("<f8").tobytes()
            facts["sample_weights"] = zlib.crc32(content)
        return facts

    def check(self, state: Mapping[str, Any], num_samples: int) -> None:
        """Refuse the state of a run with another order.

        Raises:
            ValueError: Naming what differs.
        """
        own = self.facts(num_samples)
        # What only the state has was decided by something that this loader was not given.
        for name in (*own, *(name for name in state if name not in {*own, *_PROGRESS})):
            if state.get(name) != own.get(name):
                raise ValueError(
                    f"the state has {name} {state.get(name)!r}, this loader {own.get(name)!r}: it "
                    "would show other samples; continue with the dataset, selection and order of "
                    "before"
                )

    def _mixed(self, dataset: MixedDataset, epoch: int) -> npt.NDArray[np.int64]:
        def order_of(number: int, own_epoch: int) -> npt.NDArray[np.integer[Any]]:
            return epoch_order(
                dataset.datasets[number].shard_starts,
                seed=dataset_seed(self.seed, number),
                epoch=own_epoch,
                shuffle=self._shuffle,
            )

        assert self._mixture is not None
        return mixed_order(self._mixture, order_of, seed=self.seed, epoch=epoch)


def _shards_hash(dataset: ShardDataset, num_samples: int) -> int:
    """Return what tells the shards of the first samples from others.

    Samples that were removed while others were appended show here; what was appended alone does
    not.
    """
    starts = dataset.shard_starts
    starts = np.append(starts[starts < num_samples], num_samples)
    return zlib.crc32(starts.astype("<i8").tobytes())
