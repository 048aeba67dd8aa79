"""Options that would be taken in silence although nothing uses them."""

import inspect
from collections.abc import Callable, Mapping


def refuse_unused(
    constructor: Callable[..., object], *, given: Mapping[str, object], reason: str
) -> None:
    """Refuse options that were changed where they have no effect.

    Args:
        constructor: Whose defaults count as not given.
        given: Values of options that nothing uses, by name.
        reason: Why nothing does, as the end of a sentence.

    Raises:
        ValueError: Naming the first option that is not its default.
    """
    parameters = inspect.signature(constructor).parameters
    for option, value in given.items():
        if value != parameters[option].default:
            raise ValueError(f"{option} has no effect, as {reason}; leave it out, got {value!r}")
