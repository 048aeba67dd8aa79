"""Clips at rest: WebDataset tar shards with an index, and the road from them to the GPU.

The names below are imported on first use: reading shards does not need torch, and loading
them for training does not need a video library.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gopstream.pipeline.object_store import StoreOptions
    from gopstream.shards.byte_ranges import Cache, ReadOptions
    from gopstream.shards.loading.batch import ClipBatch
    from gopstream.shards.loading.clip_spec import (
        ClipSpec,
        MotionSpec,
        RgbResidualSpec,
        VectorSpec,
        View,
    )
    from gopstream.shards.loading.clips import ClipDataset
    from gopstream.shards.loading.epoch_orders import EpochOrders
    from gopstream.shards.loading.loader import StreamingLoader, view_batches
    from gopstream.shards.loading.order import Shuffle
    from gopstream.shards.loading.places import EpochBatches, Share
    from gopstream.shards.loading.transform_spec import TransformSpec
    from gopstream.shards.mixed_dataset import MixedDataset
    from gopstream.shards.reader import ShardDataset
    from gopstream.shards.sequential import read_shards
    from gopstream.shards.storage import open_storage

__all__ = [
    "Cache",
    "ClipBatch",
    "ClipDataset",
    "ClipSpec",
    "EpochBatches",
    "EpochOrders",
    "MixedDataset",
    "MotionSpec",
    "ReadOptions",
    "RgbResidualSpec",
    "ShardDataset",
    "Share",
    "Shuffle",
    "StoreOptions",
    "StreamingLoader",
    "TransformSpec",
    "VectorSpec",
    "View",
    "open_storage",
    "read_shards",
    "view_batches",
]

_HOME = {
    "Cache": "gopstream.shards.byte_ranges",
    "ClipBatch": "gopstream.shards.loading.batch",
    "ClipDataset": "gopstream.shards.loading.clips",
    "ClipSpec": "gopstream.shards.loading.clip_spec",
    "EpochBatches": "gopstream.shards.loading.places",
    "EpochOrders": "gopstream.shards.loading.epoch_orders",
    "MixedDataset": "gopstream.shards.mixed_dataset",
    "MotionSpec": "gopstream.shards.loading.clip_spec",
    "ReadOptions": "gopstream.shards.byte_ranges",
    "RgbResidualSpec": "gopstream.shards.loading.clip_spec",
    "ShardDataset": "gopstream.shards.reader",
    "Share": "gopstream.shards.loading.places",
    "Shuffle": "gopstream.shards.loading.order",
    "StoreOptions": "gopstream.pipeline.object_store",
    "StreamingLoader": "gopstream.shards.loading.loader",
    "TransformSpec": "gopstream.shards.loading.transform_spec",
    "VectorSpec": "gopstream.shards.loading.clip_spec",
    "View": "gopstream.shards.loading.clip_spec",
    "open_storage": "gopstream.shards.storage",
    "read_shards": "gopstream.shards.sequential",
    "view_batches": "gopstream.shards.loading.loader",
}


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
