"""The order of a run's epochs, over one dataset or several, and what a state says of it."""

import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.shards.errors import SettingsError
from gopstream.shards.loading.mixture import dataset_seed, mixed_order
from gopstream.shards.loading.order import Shuffle, check_weights, epoch_order
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset
from gopstream.shards.value_checks import check_value

_SEEDS: Final = 1 << 64
_PROGRESS: Final = ("epoch", "position", "num_samples")
CONTENT: Final = "content"
"""Of a state: it tells the first samples from others. States of before have none."""
# What a user does not know as numbers; it follows from which samples there are.
_BY_SAMPLES: Final = {
    "selection": "another where=, classes= or labels=",
    "sample_weights": "other weights=",
    "shards": "other samples, or some were removed since",
    CONTENT: "samples of other content: of other videos, or stored with other settings",
}


class EpochOrders:
    """Gives the samples of each epoch: a function of the run's seed and the epoch's number."""

    def __init__(
        self,
        dataset: ShardDataset | MixedDataset,
        *,
        seed: int,
        shuffle: Shuffle,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Choose an order.

        Args:
            dataset: What is loaded.
            seed: Of the run.
            shuffle: How samples are mixed.
            weights: (N,) of the samples, see :func:`epoch_order`; not of a mixture, which has its
                own.

        Raises:
            ValueError: If there are not as many weights as samples, they are no weights, a mixture
                has some, or the seed or the shuffle is none.
        """
        check_value("dataset", dataset, ShardDataset | MixedDataset)
        check_value("seed", seed, int)
        check_value("shuffle", shuffle, Shuffle)
        if not 0 <= seed < _SEEDS:
            raise ValueError(f"seed must be from 0 to {_SEEDS - 1}, got {seed}")
        self._dataset = dataset
        self.seed = int(seed)
        """Of the run."""
        self._shuffle = shuffle
        self.num_samples = len(dataset)
        """Positions of an epoch."""
        if isinstance(dataset, MixedDataset):
            self.num_samples = dataset.mixture.num_samples
        self._weights = None if weights is None else _numbers(weights, dataset)
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
            parts = [(dataset, len(dataset)) for dataset in self._dataset.datasets]
            facts["sizes"] = list(self._dataset.sizes)
            facts["weights"] = [float(weight) for weight in self._dataset.mixture.weights]
            facts["num_samples"] = self.num_samples
            facts["selection"] = [dataset.selection_hash(size) for dataset, size in parts]
            facts["shards"] = [_shards_hash(dataset, size) for dataset, size in parts]
            facts[CONTENT] = [dataset.content_hash(size) for dataset, size in parts]
        else:
            facts["selection"] = self._dataset.selection_hash(num_samples)
            facts["shards"] = _shards_hash(self._dataset, num_samples)
            facts[CONTENT] = self._dataset.content_hash(num_samples)
        if self._weights is not None:
            content = self._weights[:num_samples].astype("<f8").tobytes()
            facts["sample_weights"] = zlib.crc32(content)
        return facts

    def num_samples_of(self, state: Mapping[str, Any]) -> int:
        """Return over how many samples the epoch of a state goes on.

        Those that it began with: samples that were appended since come with the next epoch. An
        epoch of which nothing was shown begins over those that there are now, where their number
        has changed otherwise; not in a mixture, whose epochs follow from those before.

        Args:
            state: With whole numbers for its progress.

        Raises:
            SettingsError: If the state is of a run with another order, or of other samples; says
                what differs.
        """
        is_mixture = isinstance(self._dataset, MixedDataset)
        if ("sizes" in state) != is_mixture:
            kinds = ("one dataset", "a mixture") if is_mixture else ("a mixture", "one dataset")
            raise SettingsError(f"the state is of {kinds[0]}, this loader reads {kinds[1]}")
        num_samples, own_samples = int(state["num_samples"]), self.num_samples
        is_changed = num_samples != own_samples and not is_mixture
        own = self.facts(min(num_samples, own_samples))
        differing = [name for name in dict.fromkeys([*own, *state]) if _differs(name, state, own)]
        for name in differing:
            # Follows from the number, which is looked at below.
            follows = name in _BY_SAMPLES and bool(state.get(name)) == bool(own.get(name))
            if not (follows and is_changed and _may_change(name, state, own_samples)):
                raise SettingsError(_refusal(name, state, own))
        if not differing and num_samples <= own_samples:
            return num_samples
        if state["position"] == 0:
            return own_samples
        raise SettingsError(
            f"the state is of an epoch over {num_samples} samples, there are {own_samples} now: "
            "some were removed, or where=, classes= or labels= are others, so that the epoch "
            f"cannot be continued; to begin it anew call start_epoch({state['epoch']})"
        )

    def _mixed(self, dataset: MixedDataset, epoch: int) -> npt.NDArray[np.int64]:
        def order_of(number: int, own_epoch: int) -> npt.NDArray[np.integer[Any]]:
            return epoch_order(
                dataset.datasets[number].shard_starts,
                seed=dataset_seed(self.seed, number),
                epoch=own_epoch,
                shuffle=self._shuffle,
            )

        return mixed_order(dataset.mixture, order_of, seed=self.seed, epoch=epoch)


def _shards_hash(dataset: ShardDataset, num_samples: int) -> int:
    """Return what tells the shards of the first samples from others.

    Samples that were removed while others were appended show here; what was appended alone does
    not.
    """
    starts = dataset.shard_starts
    starts = np.append(starts[starts < num_samples], num_samples)
    return zlib.crc32(starts.astype("<i8").tobytes())


def _differs(name: str, state: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    if name == CONTENT and name not in state:
        return False
    # What only the state has was decided by something that this loader was not given.
    return state.get(name) != own.get(name) and (name in own or name not in _PROGRESS)


def _may_change(name: str, state: Mapping[str, Any], own_samples: int) -> bool:
    """Tell whether a fact may differ for there being another number of samples."""
    if state["num_samples"] > own_samples:
        return True
    return state["position"] == 0 and name != "selection"


def _refusal(name: str, state: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    if name not in _BY_SAMPLES:
        return (
            f"the state has {name} {state.get(name)!r}, this loader {own.get(name)!r}: it would "
            "show other samples; continue with the dataset, selection and order of before"
        )
    return (
        f"the state was made with {_BY_SAMPLES[name]}: it would show other samples; continue with "
        f"the dataset, selection and order of before, or call start_epoch({state['epoch']}) to "
        "begin an epoch anew"
    )


def _numbers(
    weights: npt.ArrayLike, dataset: ShardDataset | MixedDataset
) -> npt.NDArray[np.floating[Any]]:
    """Return the weights of a dataset's samples as an array.

    Raises:
        ValueError: If they are none.
    """
    if isinstance(dataset, MixedDataset):
        raise ValueError("weights are those of one dataset's samples; a mixture has its own")
    try:
        numbers = np.asarray(weights, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"weights must be numbers, one for each sample ({error})") from error
    if len(np.atleast_1d(numbers)) != len(dataset):
        raise ValueError(f"there are {numbers.size} weights for {len(dataset)} samples")
    check_weights(numbers, len(dataset))
    return numbers
