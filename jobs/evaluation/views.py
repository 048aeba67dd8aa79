"""Which views are looked at, how many in one call of the network, and by which process.

Calls are the same however many processes share them: in another batch a network rounds otherwise.
"""

from typing import Final

from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe_sections import VIEWS
from gopstream.shards.loading.clip_spec import View

CENTRE: Final = View(0, 1, 0, 1)
"""The middle of a video."""

_MOST_VIEWS: Final = 64
"""Of one call of the network: more would take memory and give no speed."""


def parse_views(text: str) -> list[View]:
    """Turn ``4x3`` (clips x crops) into views, the crops of a clip after each other.

    Raises:
        UserError: If it is not two positive numbers.
    """
    match = VIEWS.fullmatch(text)
    if not match:
        raise UserError(f"expected views as clips x crops, such as 4x3, got {text!r}")
    clips, crops = int(match.group(1)), int(match.group(2))
    return [View(c, clips, k, crops) for c in range(clips) for k in range(crops)]


def views_per_call(batch_size: int, *, num_views: int) -> int:
    """Return how many views one call of the network takes.

    They are all views of some samples, or an even part of those of one.

    Args:
        batch_size: How many there may be.
        num_views: Of each sample.
    """
    most = max(1, min(batch_size, _MOST_VIEWS))
    if num_views <= most:
        return most - most % num_views
    return max(part for part in range(1, most + 1) if num_views % part == 0)


def own_samples(num_samples: int, *, at_once: int, rank: int, world_size: int) -> range:
    """Return the samples that one of several processes looks at: together all of them, once.

    Args:
        num_samples: Of the split.
        at_once: Samples of one call, which stay together.
        rank: Of the process.
        world_size: Number of processes.
    """
    num_calls = -(-num_samples // at_once)
    first, last = (num_calls * place // world_size * at_once for place in (rank, rank + 1))
    return range(min(first, num_samples), min(last, num_samples))
