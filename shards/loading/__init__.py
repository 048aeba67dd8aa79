"""The road from shards to batches: order, sampling, geometry, collation.

What works on whole batches has its names here, imported on first use; the rest has its names in
:mod:`gopstream.shards`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gopstream.shards.loading.batch_ops import (
        Mix,
        MixSpec,
        draw_mix,
        mix_clips,
        mix_generator,
        normalise,
        soft_labels,
    )

__all__ = [
    "Mix",
    "MixSpec",
    "draw_mix",
    "mix_clips",
    "mix_generator",
    "normalise",
    "soft_labels",
]


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gopstream.shards.loading import batch_ops

    return getattr(batch_ops, name)
