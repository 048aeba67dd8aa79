"""What a message about an unknown name proposes instead."""

from collections.abc import Iterable
from difflib import SequenceMatcher


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return how a message goes on that says a name is unknown, such as `` (did you mean 'fps'?)``.

    Args:
        name: The unknown one.
        known: Those that there are.
        cutoff: How similar the nearest must be to be named, 0 to 1; case does not count. 0 always
            names one, if there is one.

    Returns:
        The words in brackets, after a space; empty where nothing is similar.
    """
    lower = name.lower()
    likeness = {other: SequenceMatcher(None, other.lower(), lower).ratio() for other in known}
    best = max(likeness, key=likeness.__getitem__, default=None)
    if best is None or likeness[best] < cutoff:
        return ""
    return f" (did you mean {best!r}?)"
