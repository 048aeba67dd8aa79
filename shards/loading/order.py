"""Which sample comes next: a pure function of seed, epoch and position.

Built on one integer hash rather than on a library's shuffle, so that the order of a seed never
changes with a library's version. Nothing is drawn from floating-point sums, whose last bits
differ between machines.

Dimensions: S shards, N samples, M positions of an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from gopstream.shards.value_checks import check_fields

Mode = Literal["global", "windows", "none"]
Numbers = npt.NDArray[np.unsignedinteger[Any]]
"""uint32 where it is enough."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_AT_ONCE: Final = 1 << 18
_LONGEST: Final = (1 << 32) - 1
_MAX_SAMPLES: Final = 1 << 30
"""With weights, so that sums of 32-bit lengths stay within 64 bits."""

# Which of a run's draws: the order itself has none, as it was there first.
_SHARDS: Final = 1
_LINE: Final = 2
_OFFSET: Final = 3
_SEEDS: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How the samples of an epoch are mixed."""

    mode: Mode = "global"
    """``global``: all samples. ``windows``: the shards, and the samples within each window of
    shards that follow each other, so that a shard is read in one part of the epoch only.
    ``none``: as stored."""
    window_shards: int = 16
    """Shards in a window."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: Naming the field.
        """
        check_fields(self)
        if self.window_shards < 1:
            raise ValueError(f"window_shards must be at least 1, got {self.window_shards}")


def epoch_order(
    samples: int | npt.NDArray[np.integer[Any]],
    *,
    seed: int,
    epoch: int,
    shuffle: Shuffle | None = None,
    weights: npt.NDArray[np.floating[Any]] | None = None,
) -> Numbers:
    """Return the samples of an epoch in their order: each once, or as often as its weight says.

    Args:
        samples: Their number N, or (S + 1,) where the samples of each shard begin and end, which
            windows need.
        seed: Of the run, not negative.
        epoch: Counted from 0.
        shuffle: How they are mixed; None takes ``Shuffle()``.
        weights: (N,) not negative. A sample of weight w comes N * w / sum(weights) times in an
            epoch, rounded down or up, at random where it is not whole; an epoch has N positions.

    Returns:
        (N,) positions in the dataset.

    Raises:
        ValueError: If the weights are not N numbers, none negative and not all 0, or if windows
            are asked for without the shards.
    """
    shuffle = shuffle or Shuffle()
    if isinstance(samples, (int, np.integer)):
        if shuffle.mode == "windows":
            raise ValueError("windows need to know where the samples of each shard begin")
        samples = np.array([0, samples])
    stream = _stream(seed, epoch)
    num_samples = int(samples[-1])
    if weights is None:
        return _mixed_order(samples, stream, shuffle)
    drawn = _weighted(weights, num_samples, stream)
    order = _mixed_order(np.searchsorted(drawn, samples), stream, shuffle)
    return np.take(drawn, order)


def draw_generator(*, seed: int, epoch: int, position: int) -> np.random.Generator:
    """Return the random numbers of one position of an epoch, whoever reads it."""
    key = np.array([_stream(seed, epoch), position], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def derived_seed(seed: int, number: int) -> int:
    """Return the seed of the ``number``-th of several orders, so that no two go in step."""
    return int(_derived(_stream(seed, 0), _SEEDS + number) >> np.uint64(1))


def _mixed_order(
    starts: npt.NDArray[np.integer[Any]], stream: np.uint64, shuffle: Shuffle
) -> Numbers:
    """Return a permutation of 0 .. starts[-1] - 1."""
    num_samples = int(starts[-1])
    if shuffle.mode == "global":
        return _hash_order(num_samples, stream)
    order = np.arange(num_samples, dtype=_dtype_for(num_samples))
    if shuffle.mode == "none":
        return order
    end = 0
    for window in _windows(starts, stream, shuffle.window_shards):
        order[end : end + len(window)] = _sorted_by_hash(window, stream)
        end += len(window)
    return order


def _windows(
    starts: npt.NDArray[np.integer[Any]], stream: np.uint64, window_shards: int
) -> Iterator[Numbers]:
    """Yield the samples of each window, rising."""
    dtype = _dtype_for(int(starts[-1]))
    shards = _hash_order(len(starts) - 1, _derived(stream, _SHARDS)).astype(np.int64)
    for first in range(0, len(shards), window_shards):
        window = np.sort(shards[first : first + window_shards])
        begins, ends = starts[window].tolist(), starts[window + 1].tolist()
        yield np.concatenate(
            [np.arange(b, e, dtype=dtype) for b, e in zip(begins, ends, strict=True)]
        )


def _sorted_by_hash(numbers: Numbers, stream: np.uint64) -> Numbers:
    """Sort a few rising numbers by their hash."""
    keys = _mixed(numbers.astype(np.uint64) + stream)
    return numbers[np.argsort(keys, kind="stable")]


def _hash_order(count: int, stream: np.uint64) -> Numbers:
    """Sort 0 .. count - 1 by their hash, as a stable ``argsort`` of all hashes would.

    With one sort of plain integers in place: the leading bits of each hash are followed by its
    number. The few numbers whose leading bits are equal are then put into the order of their
    whole hashes.
    """
    bits = np.uint64(max(1, (count - 1).bit_length()))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    packed = np.arange(count, dtype=np.uint64)
    for first in range(0, count, _AT_ONCE):  # the hash makes several arrays on its way
        part = packed[first : first + _AT_ONCE]
        part |= _mixed(part + stream) & ~mask
    packed.sort()
    order = np.empty(count, _dtype_for(count))
    tied = [np.zeros(0, np.int64)]
    for first in range(0, count, _AT_ONCE):
        part = packed[first : first + _AT_ONCE + 1]
        order[first : first + _AT_ONCE] = part[:_AT_ONCE] & mask
        equal = np.flatnonzero(part[1:] >> bits == part[:-1] >> bits) + first
        tied += [equal, equal + 1]
    among = np.unique(np.concatenate(tied))
    order[among] = _sorted_by_hash(np.sort(order[among]), stream)
    return order


def _weighted(
    weights: npt.NDArray[np.floating[Any]], num_samples: int, stream: np.uint64
) -> Numbers:
    """Draw as many samples as there are, by systematic sampling; returns (N,), rising.

    The samples lie on a line in an order of the epoch's own, each as long as its weight; every
    point of a grid over the line, which begins at a random place, draws the sample it falls on
    (Madow, Annals of Mathematical Statistics 20, 1949). Lengths are integers: the weights are
    rounded to 32 bits, and all sums are exact.
    """
    lengths = _lengths(weights, num_samples)
    total = int(lengths.sum(dtype=np.uint64))
    order = _hash_order(num_samples, _derived(stream, _LINE))
    offset = int(_derived(stream, _OFFSET)) % total
    step, rest = divmod(total, num_samples)
    drawn = np.empty_like(order)
    line = done = 0
    for first in range(0, num_samples, _AT_ONCE):
        part = order[first : first + _AT_ONCE]
        ends = np.cumsum(lengths[part], dtype=np.int64) + line
        # The point of number k lies at (k * total + offset) / num_samples.
        until = -((offset - int(ends[-1]) * num_samples) // total)
        points = np.arange(done, until, dtype=np.int64)
        points = points * step + (points * rest + offset) // num_samples
        drawn[done:until] = part[np.searchsorted(ends, points, side="right")]
        line, done = int(ends[-1]), until
    assert done == num_samples
    drawn.sort()
    return drawn


def check_weights(weights: npt.NDArray[np.floating[Any]], num_samples: int) -> float:
    """Return the largest of the weights of some samples.

    Raises:
        ValueError: If they are no such weights.
    """
    if weights.shape != (num_samples,):
        raise ValueError(f"weights has the shape {weights.shape}, expected ({num_samples},)")
    if num_samples >= _MAX_SAMPLES:
        raise ValueError(f"weights are for fewer than {_MAX_SAMPLES} samples, got {num_samples}")
    largest = float(weights.max(initial=0.0))
    if not (np.isfinite(largest) and largest > 0 and float(weights.min()) >= 0):
        raise ValueError("weights must be finite, not negative, and not all 0")
    return largest


def _lengths(weights: npt.NDArray[np.floating[Any]], num_samples: int) -> npt.NDArray[np.uint32]:
    """Return weights as integers up to ``_LONGEST``; one that is not 0 stays so.

    Raises:
        ValueError: If they are no such weights.
    """
    largest = check_weights(weights, num_samples)
    lengths = np.empty(num_samples, np.uint32)
    for first in range(0, num_samples, _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        shares = weights[part].astype(np.float64) / largest
        lengths[part] = np.ceil(shares * _LONGEST)
    return lengths


def _dtype_for(count: int) -> np.dtype[np.unsignedinteger[Any]]:
    return np.dtype(np.uint32 if count <= 1 << 32 else np.uint64)


def _derived(stream: np.uint64, purpose: int) -> np.uint64:
    """Return the stream of another draw of the same epoch."""
    return np.uint64(_mixed(_mixed(np.array([stream])) + np.uint64(purpose))[0])


def _stream(seed: int, epoch: int) -> np.uint64:
    """Return a number that differs between all (seed, epoch) in practice."""
    return np.uint64(_mixed(_mixed(np.array([seed], np.uint64)) + np.uint64(epoch))[0])


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash 64-bit integers (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
