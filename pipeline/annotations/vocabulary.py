"""The classes of a dataset in their order: a label is an index into them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gopstream.pipeline.annotations.text_files import cut, read_json, read_lines
from gopstream.pipeline.errors import AnnotationError

_MOST_CLASSES = 100_000
"""A label above it is taken for a mistake: each number up to the largest becomes a class."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names of classes that a label must be among."""

    names: tuple[str, ...]
    source: str
    """Where they come from, for messages."""
    _known: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse two classes of one name."""
        object.__setattr__(self, "_known", frozenset(self.names))
        if len(self._known) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise AnnotationError(f"{self.source}: the class {cut(twice)!r} is there twice")

    def __contains__(self, label: str) -> bool:
        """Return whether there is a class of this name."""
        return label in self._known

    def check(self, label: str, where: str) -> str:
        """Return a label.

        Raises:
            AnnotationError: If there is no class of this name.
        """
        if label not in self._known:
            raise AnnotationError(f"{where}: unknown label {cut(label)!r}: not in {self.source}")
        return label

    def numbered(self, number: int, where: str) -> str:
        """Return the name of the class with a number, counted from 0.

        Raises:
            AnnotationError: If there are fewer classes.
        """
        if not 0 <= number < len(self.names):
            raise AnnotationError(
                f"{where}: unknown label {number}: {self.source} has the classes 0 to "
                f"{len(self.names) - 1}"
            )
        return self.names[number]


def read_classes(path: Path) -> Vocabulary:
    """Read the names of classes.

    Args:
        path: One name a line; or JSON (``.json``): a list of names, or an object from name to
            number, as Something-Something v2 and some toolboxes have it.

    Raises:
        AnnotationError: If it cannot be read, is empty, has a name twice, or numbers that are not
            0, 1, 2, ...
    """
    if not path.is_file():
        raise AnnotationError(f"{path}: no such file; --classes expects names of classes")
    is_json = path.suffix.lower() == ".json"
    names = _names_in_json(path) if is_json else [line for _, line in read_lines(path)]
    if not names:
        raise AnnotationError(f"{path}: expected the names of the classes, got an empty file")
    return Vocabulary(tuple(names), str(path))


def given_classes(path: Path | None) -> Vocabulary | None:
    """Read the file of ``--classes``; None without one."""
    return None if path is None else read_classes(path)


def numbered_classes(labels: Iterable[int], source: str) -> Vocabulary:
    """Return classes for numbers without names: "0", "1", ... up to the largest.

    The gaps are filled, so that a label stays the number that the list has.
    """
    largest = max(labels, default=-1)
    if largest >= _MOST_CLASSES:
        raise AnnotationError(
            f"{source}: the largest label is {largest}; expected less than {_MOST_CLASSES}. "
            f"Name the classes with --classes"
        )
    return Vocabulary(tuple(map(str, range(largest + 1))), source)


def sorted_classes(labels: Iterable[str | None], source: str) -> Vocabulary:
    """Return the labels that occur as classes, sorted."""
    return Vocabulary(tuple(sorted({label for label in labels if label is not None})), source)


def _names_in_json(path: Path) -> list[str]:
    content = read_json(path)
    if isinstance(content, dict):
        return _in_order(content, path)
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    raise AnnotationError(f"{path}: expected a list of names, or an object name: number")


def _in_order(numbers: Mapping[str, object], path: Path) -> list[str]:
    try:
        # SlowFast's file has the quotes of a CSV around its names.
        order = {int(str(number)): name.strip('"') for name, number in numbers.items()}
    except ValueError as error:
        raise AnnotationError(f"{path}: expected a number for each class ({error})") from error
    if sorted(order) != list(range(len(numbers))):
        raise AnnotationError(f"{path}: expected the numbers 0 to {len(numbers) - 1}, each once")
    return [order[number] for number in range(len(order))]
