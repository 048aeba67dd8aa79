"""The road from shards to batches: order, sampling, geometry, collation."""
