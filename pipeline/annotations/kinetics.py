"""Kinetics-400 and Kinetics-600: the official CSV, or the path-label lists of toolboxes."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from sys import intern
from typing import NamedTuple

from gopstream.pipeline.annotations.checks import check_name, check_split, parse_seconds
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList
from gopstream.pipeline.annotations.request import ListRequest, annotation_file
from gopstream.pipeline.annotations.text_files import cut, read_lines, read_table
from gopstream.pipeline.annotations.video_files import (
    VideoFiles,
    elsewhere,
    index_files,
    index_files_if_listable,
    split_folders,
)
from gopstream.pipeline.annotations.vocabulary import (
    Vocabulary,
    given_classes,
    numbered_classes,
    sorted_classes,
)
from gopstream.pipeline.errors import AnnotationError

_EXPECTED = "train.csv or val.csv of the dataset, or a toolbox's list of path and label"
_OFFICIAL_COLUMNS = ("youtube_id", "time_start", "time_end")
# Its clips are 10 seconds of videos whose identifiers have 11 characters.
_CLIP_STEM = re.compile(r"[A-Za-z0-9_-]{11}_\d{6}_\d{6}")
# The official files say validate, val or nothing at all, depending on the release.
_SPLITS = {"validate": "val", "validation": "val"}


class _Row(NamedTuple):
    line: int
    path: str
    label: str


def is_clip_name(name: str) -> bool:
    """Tell whether a name says by its stem which clip of Kinetics it is."""
    return _CLIP_STEM.fullmatch(PurePosixPath(name).stem) is not None


def read_kinetics(request: ListRequest) -> VideoList:
    """Read a list of Kinetics.

    Official: columns ``label,youtube_id,time_start,time_end`` and perhaps ``split,is_cc``; the
    test list of some releases has no label. The clip of a row is the file
    ``{youtube_id}_{time_start:06d}_{time_end:06d}`` in any folder, with any suffix; its expected
    name is that with ``.mp4``. A row's split is the list's ("validate" becomes "val").

    Toolbox: ``path label`` or ``path,label``; the label is the number of a class from 0, or the
    name of one in ``--classes``. A clip that is elsewhere is found by its stem.

    The classes are, in this order of choice: ``--classes``; the labels that occur, sorted;
    the numbers from 0 to the largest label.

    Raises:
        AnnotationError: Naming the line: another number of fields, times that are no whole
            seconds, an unknown label, a clip twice, two files for one clip.
    """
    path = annotation_file(request, _EXPECTED, form="CSV or text")
    _, first = next(read_lines(path), (0, ""))
    if "youtube_id" in first:
        return _read_official(request, path)
    return _read_toolbox_list(request, path)


def _read_official(request: ListRequest, path: Path) -> VideoList:
    given = given_classes(request.classes_file)
    files = index_files(request)
    records = RecordList(str(path), lambda line: f"{path}:{line}")
    labels: set[str | None] = set()
    for line, cells in read_table(path, columns=_OFFICIAL_COLUMNS):
        where = f"{path}:{line}"
        start, end = (_whole_seconds(cells[key], where) for key in _OFFICIAL_COLUMNS[1:])
        if end <= start:
            raise AnnotationError(f"{where}: expected time_start < time_end, got {start}, {end}")
        split = cells.get("split", "").strip()
        split = intern(check_split(_SPLITS.get(split, split) or request.split, where))
        if "label" not in cells and split != "test":
            raise AnnotationError(f"{where}: expected a column label: only test lists have none")
        label = intern(cells.get("label", "").strip()) or None
        if label is not None and given is not None:
            given.check(label, where)
        labels.add(label)
        stem = f"{cells['youtube_id'].strip()}_{start:06d}_{end:06d}"
        name = check_name(f"{stem}.mp4", videos=request.videos, where=where)
        found = _find_clip(files, stem, split=split, label=label)
        record = VideoRecord(name, label, split, path=elsewhere(found, name))
        records.add(record, place=line, is_there=found is not None)
    return records.finish((given or sorted_classes(labels, str(path))).names)


def _read_toolbox_list(request: ListRequest, path: Path) -> VideoList:
    given = given_classes(request.classes_file)
    rows = list(_toolbox_rows(path, given))
    classes = given or numbered_classes((int(row.label) for row in rows), str(path))
    files = index_files_if_listable(request)
    split = check_split(request.split, "--split")
    records = RecordList(str(path), lambda line: f"{path}:{line}")
    for line, listed, label in rows:
        where = f"{path}:{line}"
        if label not in classes:
            label = classes.numbered(int(label), where)
        name = check_name(listed, videos=request.videos, where=where)
        found: str | None = name
        if files is not None:
            stem = Path(name).stem
            moved = _CLIP_STEM.fullmatch(stem)
            exact = files.find_exactly(name)
            found = exact or (moved and _find_clip(files, stem, split=split, label=label)) or None
        record = VideoRecord(name, label, split, path=elsewhere(found, name))
        records.add(record, place=line, is_there=found is not None)
    return records.finish(classes.names)


def _toolbox_rows(path: Path, classes: Vocabulary | None) -> Iterator[_Row]:
    for line, text in read_lines(path):
        for parts in (text.rpartition(","), text.rpartition(" "), text.rpartition("\t")):
            listed, label = parts[0].strip(), parts[2].strip()
            if listed and (label.isdecimal() or (classes is not None and label in classes)):
                break
        else:
            raise AnnotationError(
                f"{path}:{line}: expected a path and a label"
                f"{f' that is in {classes.source}' if classes else ' that is a number'}, "
                f"got {cut(text)!r}"
                f"{'' if classes else '; name the classes with --classes'}"
            )
        if listed.startswith('"') and listed.endswith('"') and len(listed) > 1:
            listed = listed[1:-1].replace('""', '"')
        yield _Row(line, listed, label)


def _find_clip(files: VideoFiles, stem: str, *, split: str, label: str | None) -> str | None:
    folders = () if label is None else (label, label.replace(" ", "_"))
    return files.find(stem, folders=(split_folders(split), folders))


def _whole_seconds(text: str, where: str) -> int:
    seconds = parse_seconds(text, where)
    if seconds is None or not 0 <= seconds < 1_000_000 or seconds != int(seconds):
        raise AnnotationError(f"{where}: expected whole seconds, got {cut(text)!r}")
    return int(seconds)
