"""What a reader is asked for, and the files that it finds beside the annotations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gopstream.pipeline.annotations.text_files import Form, check_form
from gopstream.pipeline.errors import AnnotationError


@dataclass(frozen=True, slots=True)
class ListRequest:
    """The arguments of a reader."""

    videos: str
    """Folder or address that holds the videos."""
    annotations: str | None
    split: str
    """Split of the videos whose list does not name one."""
    classes_file: Path | None
    list_files: Callable[[str], list[str]]
    """Names of all files below ``videos``, sorted, with forward slashes."""


def annotation_file(request: ListRequest, expected: str, *, form: Form | None) -> Path:
    """Return the annotation file.

    Args:
        request: Of which reader.
        expected: Names of the dataset's own files, for the message.
        form: What it must look like; None for any.

    Raises:
        AnnotationError: If none was given, it is not there, or plainly has another form.
    """
    if request.annotations is None:
        raise AnnotationError(f"this dataset needs --annotations: {expected}")
    path = Path(request.annotations)
    if not path.is_file():
        raise AnnotationError(f"{path}: no such file; --annotations expects {expected}")
    if form is not None:
        check_form(path, form=form, expected=expected)
    return path


def neighbour(path: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some files that lies beside ``path``, None without any."""
    beside = (path.with_name(name) for name in names)
    return next((file for file in beside if file.is_file()), None)
