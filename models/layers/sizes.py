"""Options that count something, and so are at least 1."""

from collections.abc import Mapping, Sequence


def require_positive(options: Mapping[str, int | Sequence[int]]) -> None:
    """Refuse numbers below 1.

    Args:
        options: A number, or several, by the option's name.

    Raises:
        ValueError: Naming the first option of which a number is below 1, and its value.
    """
    for option, value in options.items():
        numbers = (value,) if isinstance(value, int) else tuple(value)
        if not numbers or min(numbers) < 1:
            raise ValueError(f"{option} must be at least 1, got {value}")


def require_hidden_width(mlp_ratio: float, *, width: int) -> None:
    """Refuse a ratio that leaves an MLP no channel.

    Args:
        mlp_ratio: Hidden width over `width`.
        width: Of the narrowest tokens.

    Raises:
        ValueError: Naming mlp_ratio and its value.
    """
    if int(width * mlp_ratio) < 1:
        raise ValueError(
            f"mlp_ratio must give the MLP of {width} channels a hidden one, got {mlp_ratio}"
        )
