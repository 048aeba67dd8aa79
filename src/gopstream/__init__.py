"""Compressed video as training data: extract, shard, stream, train, inspect."""

__version__ = "0.1.0"
