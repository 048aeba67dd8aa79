"""What can be wrong with a dataset on disk.

Each class is also the builtin error that a caller would expect.
"""


class ShardError(Exception):
    """A dataset that cannot be used; the message says why and what to do."""


class FormatError(ShardError, ValueError):
    """A file that is not what the format says, or of a newer version."""


class DamageError(ShardError, ValueError):
    """Bytes that differ from their checksum; the message names shard, key and member."""


class SettingsError(ShardError, ValueError):
    """A dataset that holds other settings, classes or videos than those now asked for."""
