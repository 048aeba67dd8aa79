"""Which process reads what, when: the batches of an epoch as a stream of places.

A place is a position of an epoch with the sample that stands there. Everything random about it
is a function of (seed, epoch, position), so that it does not matter who reads it. Positions count
over all ranks: rank r takes the r-th part of each step's positions, and cuts it into its batches.
Which positions make a step therefore depends on their number alone, and not on how many ranks and
batches they are divided among.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from gopstream.shards.loading.epoch_orders import CONTENT, EpochOrders
from gopstream.shards.value_checks import check_fields, check_value

LastBatch = Literal["drop", "fill"]
LAST_BATCHES: Final[tuple[LastBatch, ...]] = get_args(LastBatch)


class Place(NamedTuple):
    """One clip to be read."""

    epoch: int
    position: int
    sample: int
    is_repeat: bool = False
    """Whether it was shown before in this epoch and only fills the last batch."""


class BatchPlaces(NamedTuple):
    """The clips of one batch."""

    places: tuple[Place, ...]
    ahead: tuple[Place, ...] = ()
    """Of the batch that the same worker is asked for next: its bytes may be fetched already."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of each step a process takes."""

    batch_size: int
    """Clips of one rank's batch."""
    rank: int = 0
    world_size: int = 1
    last: LastBatch = "drop"
    """What becomes of positions that do not fill a step of all ranks: ``drop`` leaves them out of
    the epoch, ``fill`` completes the step with the epoch's first positions, marked as repeated."""
    batches_per_step: int = 1
    """Batches of each rank that one step of the optimiser adds up."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_fields(self)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in 0 .. {self.world_size - 1}, got {self.rank}")
        if self.batches_per_step < 1:
            raise ValueError(f"batches_per_step must be at least 1, got {self.batches_per_step}")

    @property
    def step_size(self) -> int:
        """Positions that all ranks take together in all batches of a step."""
        return self.batch_size * self.world_size * self.batches_per_step

    def num_batches(self, num_positions: int) -> int:
        """Return the batches that a number of positions makes, the same on each rank."""
        if self.last == "drop":
            num_steps = num_positions // self.step_size
        else:
            num_steps = -(-num_positions // self.step_size)
        return num_steps * self.batches_per_step


def epoch_batches(
    order: npt.NDArray[np.integer], share: Share, *, epoch: int, first: int, num_taken: int = 0
) -> Iterator[tuple[Place, ...]]:
    """Yield a rank's batches of the rest of an epoch.

    Args:
        order: (N,) the sample at each position.
        share: Of the process.
        epoch: Its number, counted from 0.
        first: Position of the next step; any, whatever other ranks and batches it was made with.
        num_taken: Batches of that step that are left out.
    """
    for number in range(num_taken, share.num_batches(len(order) - first)):
        step, part = divmod(number, share.batches_per_step)
        batch_of_step = share.rank * share.batches_per_step + part
        begin = first + step * share.step_size + batch_of_step * share.batch_size
        places = []
        for position in range(begin, begin + share.batch_size):
            # Fewer samples than a step are gone round several times.
            wrapped = position % len(order)
            is_repeat = position >= len(order)
            places.append(Place(epoch, wrapped, int(order[wrapped]), is_repeat))
        yield tuple(places)


class EpochBatches:
    """A sampler for torch's ``DataLoader`` and torchdata's ``StatefulDataLoader``.

    Iterating yields the rest of the present epoch and then steps to the next. The order of an
    epoch is asked for when it begins.
    """

    def __init__(
        self,
        orders: EpochOrders,
        share: Share,
        *,
        num_workers: int | None = None,
    ) -> None:
        """Begin with epoch 0.

        Args:
            orders: Of the run.
            share: Of the process.
            num_workers: Of the ``DataLoader``, so that each worker asks a remote dataset for its
                next batch while it decodes one; None reads nothing ahead.
        """
        self._orders = orders
        self._num_samples = orders.num_samples
        self._share = share
        self._num_workers = num_workers
        self._epoch = self._position = 0
        self._num_taken = 0  # batches of the step that begins at the position

    def __len__(self) -> int:
        """Return the batches of the whole present epoch."""
        return self._share.num_batches(self._num_samples)

    def __iter__(self) -> "_Batches":
        """Begin at the present position."""
        return _Batches(self)

    def num_left(self) -> int:
        """Return the batches that are left of the present epoch."""
        # The step that was filled up may have ended behind the last sample.
        num_batches = self._share.num_batches(self._num_samples - self._position)
        return max(0, num_batches - self._num_taken)

    def endless(self) -> Iterator[tuple[Place, ...]]:
        """Yield the rest of the present epoch and then one epoch after the other.

        Nothing of the state changes.
        """
        epoch, first, num_samples = self._epoch, self._position, self._num_samples
        num_taken = self._num_taken
        # Each batch of a step announces as many of its positions as all ranks take at a time.
        spread = self._share.step_size // self._share.batches_per_step
        while True:
            order = self._orders.order(epoch, num_samples)
            batches = epoch_batches(
                order, self._share, epoch=epoch, first=first, num_taken=num_taken
            )
            for number, batch in enumerate(batches, start=num_taken):
                self._orders.announce(order, first + number * spread, spread)
                yield batch
            epoch, first, num_samples = epoch + 1, 0, self._orders.num_samples
            num_taken = 0

    def rest(self) -> Iterator[BatchPlaces]:
        """Yield the rest of the present epoch; nothing of the state changes."""
        order = self._orders.order(self._epoch, self._num_samples)
        batches = epoch_batches(
            order,
            self._share,
            epoch=self._epoch,
            first=self._position,
            num_taken=self._num_taken,
        )
        if self._num_workers is None:
            return (BatchPlaces(batch) for batch in batches)
        return with_ahead(batches, max(1, self._num_workers))

    def advance(self) -> None:
        """Step over a batch; the position moves with the last one of a step."""
        self._num_taken += 1
        if self._num_taken == self._share.batches_per_step:
            self._position, self._num_taken = self._position + self._share.step_size, 0

    def next_epoch(self) -> None:
        """Begin the next epoch, over all samples that the dataset has now."""
        self._epoch, self._position, self._num_taken = self._epoch + 1, 0, 0
        self._num_samples = self._orders.num_samples

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch anew, over all samples that the dataset has; the next pass shows it.

        Args:
            epoch: Its number, counted from 0.

        Raises:
            ValueError: If it is no such number.
        """
        check_value("epoch", epoch, int, at_least=0)
        self._epoch, self._position, self._num_taken = int(epoch), 0, 0
        self._num_samples = self._orders.num_samples

    def state_dict(self) -> dict[str, Any]:
        """Return seed, epoch and the position of the next step, and what makes the order.

        In the middle of a step it is the position where that step begins: its batches count
        together, so a run that continues takes all of them again. A ``StatefulDataLoader`` that
        keeps few snapshots must keep them at whole steps.
        """
        return {
            "seed": self._orders.seed,
            "epoch": self._epoch,
            # The step that was filled up ends behind the last sample.
            "position": min(self._position, self._num_samples),
            "num_samples": self._num_samples,
        } | self._orders.facts(self._num_samples)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a state was taken, with any ranks, workers, batches and clips a batch.

        Samples that were appended to the dataset since come with the next epoch: the present one
        goes on over those that it began with, which are the first ones. At the beginning of an
        epoch the dataset may have lost samples as well. States of earlier versions do not know the
        samples' content (``content``): they are taken without it.

        Raises:
            ValueError: If it is no state; a :class:`SettingsError` if it is of a run with another
                seed or order, or of other samples.
        """
        for name in ("epoch", "position", "num_samples"):
            if name not in state:
                raise ValueError(f"not the state of a loader: it has no {name}")
            check_value(f"the state's {name}", state[name], int, at_least=0)
        position = int(state["position"])
        if position > state["num_samples"]:
            if CONTENT in state:
                raise ValueError(
                    f"the state's position {position} is behind its {state['num_samples']} samples"
                )
            position = state["num_samples"]  # of before, when a step that was filled up ended there
        num_samples = self._orders.num_samples_of(state)
        self._epoch, self._position, self._num_taken = int(state["epoch"]), position, 0
        self._num_samples = num_samples


class _Batches:
    """One pass of :class:`EpochBatches`; its state is that after the last batch it gave."""

    def __init__(self, sampler: EpochBatches) -> None:
        self._sampler = sampler
        self._rest = sampler.rest()
        self._is_over = False

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> BatchPlaces:
        batch = next(self._rest, None)
        if batch is not None:
            self._sampler.advance()
            return batch
        # A DataLoader with workers asks again for each batch that they have under way.
        if not self._is_over:
            self._is_over = True
            self._sampler.next_epoch()
        raise StopIteration

    def state_dict(self) -> dict[str, Any]:
        return self._sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sampler.load_state_dict(state)
        self._rest = self._sampler.rest()
        self._is_over = False


def with_ahead(batches: Iterator[tuple[Place, ...]], num_workers: int) -> Iterator[BatchPlaces]:
    """Tell each batch which one its worker reads next: workers take batches in turn."""
    waiting: list[tuple[Place, ...]] = []
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > num_workers:
            yield BatchPlaces(waiting.pop(0), batch)
    for batch in waiting:
        yield BatchPlaces(batch)
