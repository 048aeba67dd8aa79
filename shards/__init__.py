"""Clips at rest: WebDataset tar shards with an index, and the road from them to the GPU.

The names below are imported on first use: reading shards does not need torch, and loading
them for training does not need a video library.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gopstream.shards.loading.loader import StreamingLoader
    from gopstream.shards.reader import ShardDataset

__all__ = ["ShardDataset", "StreamingLoader"]

_HOME = {
    "ShardDataset": "gopstream.shards.reader",
    "StreamingLoader": "gopstream.shards.loading.loader",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
