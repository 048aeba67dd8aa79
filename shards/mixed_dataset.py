"""Several datasets as one: their samples one after another, their classes by name."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gopstream.shards.errors import ShardError
from gopstream.shards.mixture_shares import Mixture
from gopstream.shards.reader import ShardDataset
from gopstream.shards.sample_parts import SampleFacts
from gopstream.shards.sample_reading import PendingSample, Wanted


class MixedDataset:
    """Splits that are trained on together; how much of each, their weights say."""

    def __init__(
        self,
        datasets: Sequence[ShardDataset],
        *,
        weights: Sequence[float] | None = None,
        num_samples: int | None = None,
    ) -> None:
        """Put datasets together.

        Classes of the same name are one class; the others follow in the order of the datasets.

        Args:
            datasets: The splits.
            weights: Parts of an epoch that come from each, in proportion to each other; None
                takes their sizes.
            num_samples: Clips of an epoch; None takes the sum of the sizes. A dataset that gives
                more than it has is gone round, each time in another order.

        Raises:
            ShardError: If there is none, or one is empty.
            ValueError: If something else is given than datasets, or the weights or the length of
                an epoch cannot be meant.
        """
        if isinstance(datasets, ShardDataset) or not datasets:
            raise ShardError("a mixture needs a list of datasets")
        for dataset in datasets:
            if not isinstance(dataset, ShardDataset):
                raise ValueError(
                    f"a mixture is made of opened splits, got {dataset!r}; give ShardDataset(ROOT, "
                    "SPLIT)"
                )
            if not len(dataset):
                raise ShardError(f"{dataset.root}/{dataset.split} has no samples")
        self.datasets = tuple(datasets)
        """The splits."""
        self.sizes = tuple(len(dataset) for dataset in datasets)
        """Samples of each."""
        self.mixture = Mixture(
            sizes=self.sizes,
            weights=self.sizes if weights is None else tuple(np.atleast_1d(weights).tolist()),
            num_samples=sum(self.sizes) if num_samples is None else num_samples,
        )
        """How much of each an epoch takes."""
        self.root = " + ".join(dataset.root for dataset in datasets)
        """For messages."""
        self.split = datasets[0].split
        """For messages."""
        self.classes = tuple(dict.fromkeys(name for d in datasets for name in d.classes))
        """Names of the classes that labels count."""
        self._labels = [_renumbered(dataset.classes, self.classes) for dataset in datasets]
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def __repr__(self) -> str:
        """Say which splits, and how much of each an epoch takes."""
        parts = zip(self.datasets, self.mixture.counts, strict=True)
        listed = ", ".join(f"{count} of {dataset!r}" for dataset, count in parts)
        return f"MixedDataset([{listed}])"

    def __len__(self) -> int:
        """Return the samples of all datasets together."""
        return int(self._starts[-1])

    @property
    def is_remote(self) -> bool:
        """Whether samples of one of the datasets come from object storage or a web server."""
        return any(dataset.is_remote for dataset in self.datasets)

    def label(self, position: int) -> int:
        """Return the class index of a sample, -1 without one."""
        number, own = self._place(position)
        label = self.datasets[number].label(own)
        return label if label < 0 else int(self._labels[number][label])

    def key(self, position: int) -> str:
        """Return the key of a sample, which another dataset may have as well."""
        number, own = self._place(position)
        return self.datasets[number].key(own)

    def known_key(self, position: int) -> str:
        """Return a sample's key if anything says it, as :meth:`ShardDataset.known_key`."""
        number, own = self._place(position)
        return self.datasets[number].known_key(own)

    def sample(self, position: int) -> SampleFacts:
        """Return the sizes of a sample."""
        number, own = self._place(position)
        return self.datasets[number].sample(own)

    def name_of(self, position: int) -> str:
        """Return a sample's shard and key, for messages."""
        number, own = self._place(position)
        return self.datasets[number].name_of(own)

    def prefetch(self, samples: Sequence[int]) -> None:
        """Say whose sizes will be asked for next, as :meth:`ShardDataset.prefetch`."""
        if not self.is_remote:
            return
        places = [self._place(sample) for sample in samples]
        for number, dataset in enumerate(self.datasets):
            dataset.prefetch([own for of, own in places if of == number])

    def start(self, wanted: Wanted) -> PendingSample:
        """Ask for parts of a sample, as :meth:`ShardDataset.start`."""
        number, own = self._place(wanted.sample)
        return self.datasets[number].start(wanted._replace(sample=own))

    def _place(self, position: int) -> tuple[int, int]:
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        number = int(self._starts.searchsorted(position, side="right")) - 1
        return number, position - int(self._starts[number])


def _renumbered(own: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[name] for name in own], np.int64)
