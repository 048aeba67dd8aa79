"""Lists of labelled videos: one reader per form, in one table."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gopstream.pipeline.annotations.activitynet import read_activitynet
from gopstream.pipeline.annotations.csv_list import read_csv
from gopstream.pipeline.annotations.diving48 import read_diving48
from gopstream.pipeline.annotations.epic_kitchens import read_epic_kitchens
from gopstream.pipeline.annotations.folder import read_folder
from gopstream.pipeline.annotations.kinetics import is_clip_name, read_kinetics
from gopstream.pipeline.annotations.parquet_list import read_parquet
from gopstream.pipeline.annotations.record import VideoList
from gopstream.pipeline.annotations.request import ListRequest
from gopstream.pipeline.annotations.something_something import read_ssv1, read_ssv2
from gopstream.pipeline.annotations.ucf_hmdb import read_hmdb51, read_ucf101
from gopstream.pipeline.errors import AnnotationError
from gopstream.pipeline.video_source import list_files

READERS: dict[str, Callable[[ListRequest], VideoList]] = {
    "kinetics400": read_kinetics,
    "kinetics600": read_kinetics,
    "ssv1": read_ssv1,
    "ssv2": read_ssv2,
    "diving48": read_diving48,
    "activitynet": read_activitynet,
    "epic_kitchens100": read_epic_kitchens,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "folder": read_folder,
    "csv": read_csv,
    "parquet": read_parquet,
}

_PATH_LISTS = ("folder", "csv", "parquet")

# The first pattern that fits a file's name. Kinetics' train.csv is a name that anything can have.
_OFFICIAL_NAMES = {
    r"something-something-v1-\w+\.csv": "ssv1",
    r"something-something-v2-\w+\.json": "ssv2",
    r"Diving48_V2_\w+\.json": "diving48",
    r"activity_net\.v1-3\.min\.json": "activitynet",
    r"EPIC_100_\w+\.csv": "epic_kitchens100",
    r"(train|test)list0[123]\.txt": "ucf101",
    r".+\.(?i:csv)": "csv",
    r".+\.(?i:parquet)": "parquet",
}


def read_annotations(
    videos: str | Path,
    *,
    annotations: str | Path | None,
    dataset: str | None,
    split: str,
    classes_file: str | Path | None = None,
    list_files: Callable[[str], list[str]] = list_files,
) -> VideoList:
    """Read a list of videos.

    Args:
        videos: Folder or address that holds the videos.
        annotations: The list, a local file; None for a folder that speaks for itself.
        dataset: A name in :data:`READERS`; None chooses by the name of ``annotations``.
        split: Split of those videos whose list does not name one.
        classes_file: Names of the classes in order, one a line or JSON; None takes those of the
            dataset.
        list_files: Lists all files below ``videos``, sorted, with forward slashes; called at most
            once, and never for Parquet.

    Raises:
        AnnotationError: If the form is unknown, or the list cannot be read.
    """
    request = ListRequest(
        videos=str(videos),
        annotations=None if annotations is None else str(annotations),
        split=split,
        classes_file=None if classes_file is None else Path(classes_file),
        list_files=list_files,
    )
    dataset = dataset or _guess(request.annotations)
    if dataset not in READERS:
        raise AnnotationError(f"unknown dataset {dataset!r}; known are {', '.join(READERS)}")
    listed = READERS[dataset](request)
    if dataset in _PATH_LISTS:
        return listed
    # Kinetics is also listed by paths, of which only those of clips say all in their stem.
    is_by_stem = not dataset.startswith("kinetics") or all(
        is_clip_name(record.name) for record in listed.records
    )
    return replace(listed, is_by_stem=is_by_stem)


def _guess(annotations: str | None) -> str:
    if annotations is None:
        return "folder"
    for pattern, dataset in _OFFICIAL_NAMES.items():
        if re.fullmatch(pattern, Path(annotations).name):
            return dataset
    raise AnnotationError(
        f"{annotations}: cannot tell what this is by its name; say it with --dataset "
        f"({', '.join(READERS)})"
    )
