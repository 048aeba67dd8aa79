"""What holds for every record, whatever its list looks like."""

import math
import re

from gopstream.pipeline.annotations.text_files import cut
from gopstream.pipeline.errors import AnnotationError

_SPLIT = re.compile(r"[A-Za-z0-9_-]{1,64}")  # it becomes a folder and the start of each key


def check_name(text: str, *, videos: str, where: str) -> str:
    """Return the path of a video below the videos' root, with forward slashes.

    Args:
        text: As the list has it: relative, or absolute and below ``videos``.
        videos: Folder or address of the videos.
        where: Place in the list, for the message.

    Raises:
        AnnotationError: If it is empty, leads out of the root or is no UTF-8.
    """
    name = text.strip()
    root = videos.rstrip("/") + "/"
    if name.startswith(root):
        name = name[len(root) :]
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts or "://" in name:
        raise AnnotationError(f"{where}: expected a path below {videos}, got {cut(text)!r}")
    check_text(name, where)
    return "/".join(parts)


def check_text(text: str, where: str) -> None:
    """Refuse text that cannot be stored: broken UTF-8, or a zero byte."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise AnnotationError(f"{where}: expected a UTF-8 name, got {cut(text)!r}") from None
    if "\0" in text:
        raise AnnotationError(f"{where}: expected a name, got one with a zero byte: {cut(text)!r}")


def check_split(split: str, where: str) -> str:
    """Return a split's name.

    Raises:
        AnnotationError: If it cannot be a folder of a dataset.
    """
    if not _SPLIT.fullmatch(split):
        raise AnnotationError(
            f"{where}: a split's name must be 1 to 64 ASCII letters, digits, '_' or '-', "
            f"got {cut(split)!r}"
        )
    return split


def parse_seconds(text: str, where: str) -> float | None:
    """Return a time that a list has as text, None for an empty one.

    Raises:
        AnnotationError: If it is no number.
    """
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise AnnotationError(f"{where}: expected seconds, got {cut(text)!r}") from None


def check_window(
    start: float | None, end: float | None, *, where: str
) -> tuple[float | None, float | None]:
    """Return start and end of a segment in seconds: both None, or a start that is a number.

    Raises:
        AnnotationError: If a time is not finite or negative, or the end not after the start.
    """
    if start is None and end is None:
        return None, None
    start = 0.0 if start is None else start
    last = math.inf if end is None else end
    if not (0 <= start < last) or (end is not None and math.isinf(end)):
        raise AnnotationError(
            f"{where}: expected 0 <= start < end in seconds, got start {start} and end {end}"
        )
    return start, end
