"""How much of each dataset a mixture's epochs take.

Dimensions: D datasets, L positions of an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gopstream.shards.value_checks import check_fields


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
        check_fields(self)
        if not self.sizes or len(self.sizes) != len(self.weights):
            raise ValueError(
                f"a mixture needs a weight for each dataset, got {len(self.sizes)} datasets and "
                f"{len(self.weights)} weights"
            )
        if min(self.sizes) < 1:
            raise ValueError(f"dataset {self.sizes.index(min(self.sizes))} has no samples")
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"weights must be positive and finite, got {self.weights}")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {self.num_samples}")
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
