"""Which sample comes next: a pure function of seed, epoch and position.

Built on one integer hash rather than on a library's shuffle, so that the order of a seed never
changes with a library's version.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return a permutation of 0 .. num_samples - 1: samples sorted by a hash.

    Args:
        num_samples: In the split.
        seed: Of the run, not negative.
        epoch: Counted from 0.
    """
    keys = _mixed(np.arange(num_samples, dtype=np.uint64) + _stream(seed, epoch))
    return np.argsort(keys, kind="stable")


def draw_generator(*, seed: int, epoch: int, position: int) -> np.random.Generator:
    """Return the random numbers of one position of an epoch, whoever reads it."""
    key = np.array([_stream(seed, epoch), position], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _stream(seed: int, epoch: int) -> np.uint64:
    """Return a number that differs between all (seed, epoch) in practice."""
    return np.uint64(_mixed(_mixed(np.array([seed], np.uint64)) + np.uint64(epoch))[0])


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash 64-bit integers (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
