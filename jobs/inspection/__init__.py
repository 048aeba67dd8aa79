"""Pictures of what shards hold."""
