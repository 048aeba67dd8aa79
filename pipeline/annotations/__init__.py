"""Lists of labelled videos: one reader per form, in one table."""

from collections.abc import Callable
from pathlib import Path

from gopstream.pipeline.annotations.csv_list import read_csv
from gopstream.pipeline.annotations.folder import read_folder
from gopstream.pipeline.annotations.record import VideoList
from gopstream.pipeline.errors import AnnotationError

Reader = Callable[[Path, Path | None, str], VideoList]

READERS: dict[str, Reader] = {"folder": read_folder, "csv": read_csv}


def read_annotations(
    videos: Path, *, annotations: Path | None, dataset: str | None, split: str
) -> VideoList:
    """Read a list of videos.

    Args:
        videos: Folder that holds the videos.
        annotations: The list; None for a folder that speaks for itself.
        dataset: A name in :data:`READERS`; None chooses by ``annotations``.
        split: Split of those videos whose list does not name one.

    Raises:
        AnnotationError: If the form is unknown, or the list cannot be read.
    """
    if dataset is None:
        if annotations is None:
            dataset = "folder"
        elif annotations.suffix.lower() == ".csv":
            dataset = "csv"
        else:
            raise AnnotationError(
                f"{annotations}: cannot tell what this is by its name; say it with --dataset "
                f"({', '.join(READERS)})"
            )
    if dataset not in READERS:
        raise AnnotationError(f"unknown dataset {dataset!r}; known are {', '.join(READERS)}")
    return READERS[dataset](videos, annotations, split)
