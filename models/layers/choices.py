"""Options that have one of a few names."""

from collections.abc import Sequence


def require_choice(option: str, value: str, *, choices: Sequence[str]) -> None:
    """Refuse a value that is not among the choices.

    Args:
        option: Its name, as the caller writes it.
        value: What was given.
        choices: What there is, in the order that the message should have; for a Literal,
            ``get_args`` of it.

    Raises:
        ValueError: Naming the option, the choices and the value.
    """
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{option} must be one of {listed}, got {value!r}")
