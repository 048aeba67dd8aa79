"""A CSV with a header: ``path,label`` and, where wanted, ``split,start,end`` and your columns."""

from collections.abc import Mapping
from dataclasses import replace
from sys import intern

from gopstream.pipeline.annotations.checks import (
    check_name,
    check_split,
    check_window,
    parse_seconds,
)
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList
from gopstream.pipeline.annotations.request import ListRequest, annotation_file
from gopstream.pipeline.annotations.text_files import read_table
from gopstream.pipeline.annotations.video_files import elsewhere, index_files_if_listable
from gopstream.pipeline.annotations.vocabulary import given_classes, sorted_classes

_OWN_COLUMNS = ("path", "label", "split", "start", "end")
_HINT = "The datasets' own files need --dataset, such as --dataset kinetics400"


def read_csv(request: ListRequest) -> VideoList:
    """Read a CSV list of videos.

    Paths are relative to the videos' root, or absolute and below it. An empty label means none,
    an empty split that of ``--split``; start and end are seconds, empty for the whole video.
    Further columns become attributes, as text. The classes are the labels that occur, sorted, or
    those of ``--classes``.

    Raises:
        AnnotationError: Naming the file and the line of what cannot be read: a missing column,
            a row of another length, a segment twice, a path out of the folder, bad times, a
            label that ``--classes`` does not have.
    """
    path = annotation_file(request, "FILE.csv with a header path,label", form="CSV or text")
    given = given_classes(request.classes_file)
    files = index_files_if_listable(request)
    records = RecordList(str(path), lambda line: f"{path}:{line}")
    labels = set()
    for line, cells in read_table(path, columns=("path", "label"), hint=_HINT):
        where = f"{path}:{line}"
        name = check_name(cells["path"], videos=request.videos, where=where)
        found = files.find_exactly(name) if files else name
        label = intern(cells["label"].strip()) or None
        if label is not None and given is not None:
            given.check(label, where)
        labels.add(label)
        record = _record(cells, name, label=label, split=request.split, where=where)
        # The same path in another Unicode form, as a Mac stores it, opens only by that form.
        record = replace(record, path=elsewhere(found, name))
        records.add(record, place=line, is_there=found is not None)
    return records.finish((given or sorted_classes(labels, str(path))).names)


def _record(
    cells: Mapping[str, str], name: str, *, label: str | None, split: str, where: str
) -> VideoRecord:
    start, end = (parse_seconds(cells.get(key, ""), where) for key in ("start", "end"))
    start, end = check_window(start, end, where=where)
    record = VideoRecord(
        name=name,
        label=label,
        split=intern(check_split(cells.get("split", "").strip() or split, where)),
        start_seconds=start,
        end_seconds=end,
    )
    further = {key: value for key, value in cells.items() if key not in _OWN_COLUMNS}
    return replace(record, attributes=further) if further else record
