"""Diving48 v2."""

from pathlib import Path

from gopstream.pipeline.annotations.checks import check_name, check_split
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList
from gopstream.pipeline.annotations.request import ListRequest, annotation_file, neighbour
from gopstream.pipeline.annotations.text_files import json_field, read_json
from gopstream.pipeline.annotations.video_files import elsewhere, index_files, split_folders
from gopstream.pipeline.annotations.vocabulary import Vocabulary, given_classes
from gopstream.pipeline.errors import AnnotationError

_NUM_CLASSES = 48
_VOCABULARY = "Diving48_vocab.json"


def read_diving48(request: ListRequest) -> VideoList:
    """Read a list of Diving48 v2.

    The list is JSON: objects with ``vid_name`` and ``label``, the number of a class; the frame
    numbers become attributes. A class is named by its parts in ``Diving48_vocab.json`` beside the
    list ("Back 15som 05Twis FREE"), or by ``--classes``; without both by its number.

    Raises:
        AnnotationError: Naming the entry: a missing field, an unknown label, a video twice.
    """
    path = annotation_file(request, "Diving48_V2_train.json or Diving48_V2_test.json", form="JSON")
    entries = read_json(path)
    if not isinstance(entries, list):
        raise AnnotationError(f"{path}: expected a list of objects with 'vid_name' and 'label'")
    vocabulary = neighbour(path, (_VOCABULARY,))
    notes: tuple[str, ...] = ()
    classes = given_classes(request.classes_file)
    if classes is None and vocabulary is not None:
        classes = _read_vocabulary(vocabulary)
    elif classes is None:
        classes = Vocabulary(tuple(map(str, range(_NUM_CLASSES))), "Diving48")
        notes = (f"{_VOCABULARY} is not beside {path.name}: the classes are named by number",)
    files = index_files(request)
    split = check_split(request.split, "--split")
    records = RecordList(str(path), lambda index: f"{path}: [{index}]")
    for index, entry in enumerate(entries):
        where = f"{path}: [{index}]"
        stem = json_field(entry, "vid_name", str, where=where)
        name = check_name(f"{stem}.mp4", videos=request.videos, where=where)
        found = files.find(stem, folders=(split_folders(split),))
        label = classes.numbered(json_field(entry, "label", int, where=where), where)
        record = VideoRecord(
            name,
            label,
            split,
            path=elsewhere(found, name),
            attributes=_frames(entry, where),
        )
        records.add(record, place=index, is_there=found is not None)
    return records.finish(classes.names, notes=notes)


def _frames(entry: object, where: str) -> dict[str, int]:
    keys = ("start_frame", "end_frame")
    return {key: json_field(entry, key, int, where=where) for key in keys}


def _read_vocabulary(path: Path) -> Vocabulary:
    content = read_json(path)
    if not isinstance(content, list) or not all(
        isinstance(parts, list) and parts and all(isinstance(part, str) for part in parts)
        for parts in content
    ):
        raise AnnotationError(f"{path}: expected a list of classes, each a list of its parts")
    return Vocabulary(tuple(" ".join(parts) for parts in content), str(path))
