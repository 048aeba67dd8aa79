"""Names that users give: of their own planes, and of their label views."""

import re
from typing import Final

from gopstream.shards.errors import SettingsError

BUILT_IN_PLANES: Final = ("frames", "motion", "coverage", "residual")

# What follows a shard's or sample's name in names of objects and members of our own.
_TAKEN: Final = frozenset({*BUILT_IN_PLANES, "index", "report", "files", "json", "cls"})
_NAME: Final = re.compile(r"[a-z0-9_]{1,32}")


def check_plane_name(name: str) -> str:
    """Return the name of a user's own plane or of a label view.

    Raises:
        SettingsError: If it is not 1 to 32 of ``a-z``, ``0-9``, ``_``, or is one of ours.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(f"a name must be 1 to 32 of a-z, 0-9 and '_', got {name!r}")
    if name in _TAKEN:
        raise SettingsError(f"the name {name!r} is taken by the format; choose another")
    return name
