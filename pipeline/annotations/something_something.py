"""Something-Something v1 (folders of pictures) and v2 (WebM videos)."""

from dataclasses import replace
from pathlib import Path

from gopstream.pipeline.annotations.checks import check_name, check_split
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList
from gopstream.pipeline.annotations.request import ListRequest, annotation_file, neighbour
from gopstream.pipeline.annotations.text_files import json_field, read_json, read_lines
from gopstream.pipeline.annotations.video_files import (
    elsewhere,
    index_files,
    index_picture_folders,
    split_folders,
)
from gopstream.pipeline.annotations.vocabulary import Vocabulary, given_classes, read_classes
from gopstream.pipeline.errors import AnnotationError

_V1_PICTURE_RATE = 12.0
"""Pictures per second at which the dataset was taken out of its videos."""

_V1_LABELS = ("something-something-v1-labels.csv", "labels.csv")
_V2_LABELS = ("something-something-v2-labels.json", "labels.json")


def read_ssv1(request: ListRequest) -> VideoList:
    """Read a list of Something-Something v1.

    Lines are ``id;label``, of the test list ``id``. Videos are folders of JPEG pictures named by
    the id. The classes are the lines of ``something-something-v1-labels.csv`` (or ``labels.csv``)
    beside the list, in its order, or of ``--classes``.

    Raises:
        AnnotationError: Naming the line: an unknown label, an id twice.
    """
    path = annotation_file(
        request,
        "something-something-v1-train.csv, -validation.csv, -test.csv",
        form="CSV or text",
    )
    classes = _classes(request, path, _V1_LABELS)
    folders = index_picture_folders(request)
    split = check_split(request.split, "--split")
    records = RecordList(str(path), lambda line: f"{path}:{line}")
    for line, text in read_lines(path):
        # Labels have commas and quotation marks, and these mean nothing: this is no real CSV.
        identifier, separator, label = text.partition(";")
        where = f"{path}:{line}"
        name = check_name(identifier, videos=request.videos, where=where)
        found = folders.find(name, folders=(split_folders(split),))
        records.add(
            VideoRecord(
                name=name,
                label=classes.check(label.strip(), where) if separator else None,
                split=split,
                picture_rate=_V1_PICTURE_RATE,
                path=elsewhere(found, name),
            ),
            place=line,
            is_there=found is not None,
        )
    return records.finish(classes.names)


def read_ssv2(request: ListRequest) -> VideoList:
    """Read a list of Something-Something v2.

    The list is JSON: objects with ``id``, ``template`` and ``label``; those of the test list have
    an id alone. The class is the template without its brackets; the classes are in the order of
    ``something-something-v2-labels.json`` (or ``labels.json``) beside the list, or of
    ``--classes``. The written-out sentence becomes the attribute ``caption``.

    Raises:
        AnnotationError: Naming the entry: a missing field, an unknown label, an id twice.
    """
    path = annotation_file(
        request, "something-something-v2-train.json, -validation.json, ...", form="JSON"
    )
    classes = _classes(request, path, _V2_LABELS)
    entries = read_json(path)
    if not isinstance(entries, list):
        raise AnnotationError(f"{path}: expected a list of objects with 'id' and 'template'")
    files = index_files(request)
    split = check_split(request.split, "--split")
    records = RecordList(str(path), lambda index: f"{path}: [{index}]")
    for index, entry in enumerate(entries):
        where = f"{path}: [{index}]"
        identifier = json_field(entry, "id", str, where=where)
        name = check_name(f"{identifier}.webm", videos=request.videos, where=where)
        found = files.find(identifier, folders=(split_folders(split),))
        record = _v2_record(entry, name, classes=classes, split=split, where=where)
        record = replace(record, path=elsewhere(found, name))
        records.add(record, place=index, is_there=found is not None)
    return records.finish(classes.names)


def _v2_record(
    entry: object, name: str, *, classes: Vocabulary, split: str, where: str
) -> VideoRecord:
    if isinstance(entry, dict) and "template" not in entry and "label" not in entry:
        return VideoRecord(name, None, split)
    template = json_field(entry, "template", str, where=where)
    label = classes.check(template.replace("[", "").replace("]", ""), where)
    caption = json_field(entry, "label", str, where=where)
    return VideoRecord(name, label, split, attributes={"caption": caption})


def _classes(request: ListRequest, path: Path, names: tuple[str, ...]) -> Vocabulary:
    given = given_classes(request.classes_file)
    if given is not None:
        return given
    beside = neighbour(path, names)
    if beside is None:
        raise AnnotationError(
            f"{path}: expected {' or '.join(names)} beside it, which names the classes; or give "
            f"--classes"
        )
    return read_classes(beside)
