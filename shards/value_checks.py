"""Whether values are of the types that their fields and arguments are declared with.

A number in quotes or a number of frames with a fraction would otherwise fail in a worker process,
far from who gave it.
"""

import types
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin

import numpy as np

from gopstream.pipeline.nearest_name import did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NOUNS: Final = {int: "whole number", float: "number", str: "string", bool: "bool"}


def check_fields(value: "DataclassInstance") -> None:
    """Refuse a dataclass with a field of another type than it declares.

    Raises:
        ValueError: Naming class and field, what is expected and what was given.
    """
    for field in fields(value):
        name = f"{type(value).__name__}.{field.name}"
        check_value(name, getattr(value, field.name), field.type)


def check_value(name: str, value: object, kind: Any, *, at_least: int | None = None) -> None:  # noqa: ANN401 - a type
    """Refuse a value of another type than declared.

    Lists count as tuples, whole numbers as numbers; True and False are no numbers.

    Args:
        name: Of the value, for the message.
        value: What was given.
        kind: Its type: a class, ``Literal``, a union or a tuple of these.
        at_least: The smallest number allowed.

    Raises:
        ValueError: Naming what is expected and what was given.
    """
    if not _fits(value, kind):
        hint = ""
        if get_origin(kind) is Literal and isinstance(value, str):
            hint = did_you_mean(value, [str(word) for word in get_args(kind)])
        raise ValueError(f"{name} must be {_described(kind)}, got {value!r}{hint}")
    if at_least is not None and isinstance(value, Real) and value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(isinstance(value, type(word)) and value == word for word in parts)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        of_each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(of_each) and all(map(_fits, value, of_each))
    if kind in (int, float):
        is_number = isinstance(value, Integral if kind is int else Real)
        return is_number and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    return isinstance(value, kind)


def _described(kind: Any) -> str:  # noqa: ANN401 - a type
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        words = ", ".join(map(str, parts))
        return f"one of {words}" if len(parts) > 1 else repr(parts[0])
    if origin in (Union, types.UnionType):
        return _listed([_described(part) for part in parts])
    if origin is tuple:
        noun = _NOUNS.get(parts[0], "value")
        return f"a tuple of {noun}s" if parts[-1] is Ellipsis else f"{len(parts)} {noun}s"
    if kind is types.NoneType:
        return "None"
    if kind is bool:
        return "True or False"
    return f"a {_NOUNS.get(kind, kind.__name__)}"


def _listed(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]])
