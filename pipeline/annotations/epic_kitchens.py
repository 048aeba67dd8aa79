"""EPIC-KITCHENS-100: narrated segments of long videos, with a verb, a noun and their pair."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gopstream.pipeline.annotations.checks import check_name, check_split, check_window
from gopstream.pipeline.annotations.record import Attribute, VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList, note, say_segment
from gopstream.pipeline.annotations.request import ListRequest, annotation_file, neighbour
from gopstream.pipeline.annotations.text_files import cut, read_table
from gopstream.pipeline.annotations.video_files import elsewhere, index_files, split_folders
from gopstream.pipeline.annotations.vocabulary import Vocabulary, given_classes
from gopstream.pipeline.errors import AnnotationError

_NUM_VERBS = 97
_NUM_NOUNS = 300
_TIMES = ("narration_id", "video_id", "start_timestamp", "stop_timestamp")
_LABELS = ("narration", "verb_class", "noun_class")
_LABELLED = ("EPIC_100_train.csv", "EPIC_100_validation.csv")
_VERB_FILES = ("EPIC_100_verb_classes.csv",)
_NOUN_FILES = ("EPIC_100_noun_classes.csv", "EPIC_100_noun_classes_v2.csv")
_TIMESTAMP = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class _Words:
    """Keys of verb and noun classes."""

    verbs: Vocabulary
    nouns: Vocabulary

    def action(self, verb: int, noun: int, where: str) -> str:
        return f"{self.verbs.numbered(verb, where)} {self.nouns.numbered(noun, where)}"


def read_epic_kitchens(request: ListRequest) -> VideoList:
    """Read ``EPIC_100_train.csv``, ``_validation.csv`` or ``_test_timestamps.csv``.

    A record is a narrated segment. Its label is the action, "verb noun" by the keys of
    ``EPIC_100_verb_classes.csv`` and ``EPIC_100_noun_classes.csv`` (or ``_v2``) beside the list,
    without them by number. Attributes: ``narration_id`` and, with labels, ``verb_class`` and
    ``noun_class`` (indices into the label sets of these names) and ``narration``. The video
    ``P01_101`` is a file of that stem in any folder, expected at ``P01/videos/P01_101.MP4``.

    The classes are the pairs that occur in the train and validation files, ordered by verb and
    noun number: both files must lie side by side for the classes not to depend on the split. When
    one is absent the notes say so. ``--classes`` overrides. Narrations of one video with the
    very same times are one record; the later ones are in the notes.

    Raises:
        AnnotationError: Naming the line: a missing column, a timestamp that is not H:M:S, a stop
            not after its start, an unknown class, a narration twice.
    """
    path = annotation_file(
        request, "EPIC_100_train.csv, EPIC_100_validation.csv, ...", form="CSV or text"
    )
    words = _Words(
        _read_keys(path, _VERB_FILES, count=_NUM_VERBS),
        _read_keys(path, _NOUN_FILES, count=_NUM_NOUNS),
    )
    classes, notes = _actions(request, path, words)
    files = index_files(request)
    split = check_split(request.split, "--split")
    records = RecordList(str(path), lambda line: f"{path}:{line}")
    lines: dict[str, int] = {}
    spans = set()
    repeated = []
    for line, cells in read_table(path, columns=_columns(path)):
        where = f"{path}:{line}"
        first = lines.setdefault(cells["narration_id"], line)
        if first != line:
            raise AnnotationError(
                f"{where}: {cut(cells['narration_id'])} is listed twice (first at {path}:{first})"
            )
        video = cells["video_id"].strip()
        found = files.find(video, folders=(split_folders(split),))
        name = check_name(
            f"{video.partition('_')[0]}/videos/{video}.MP4", videos=request.videos, where=where
        )
        record = _record(cells, name, words=words, split=split, where=where)
        record = replace(record, path=elsewhere(found, name))
        if record.label is not None:
            classes.check(record.label, where)
        span = (video, record.start_seconds, record.end_seconds)
        if span in spans:
            repeated.append(f"{cells['narration_id']}: {say_segment(record)}")
            continue
        spans.add(span)
        records.add(record, place=line, is_there=found is not None)
    again = note("narrations have the times of one before and were left out", repeated)
    label_sets = {"verb_class": words.verbs.names, "noun_class": words.nouns.names}
    return records.finish(classes.names, label_sets=label_sets, notes=(*notes, *again))


def _record(
    cells: Mapping[str, str], name: str, *, words: _Words, split: str, where: str
) -> VideoRecord:
    start, end = check_window(
        _seconds(cells["start_timestamp"], where),
        _seconds(cells["stop_timestamp"], where),
        where=where,
    )
    label = None
    attributes: dict[str, Attribute] = {"narration_id": cells["narration_id"].strip()}
    if "verb_class" in cells:
        verb, noun = _pair(cells, where)
        label = words.action(verb, noun, where)
        attributes |= {"verb_class": verb, "noun_class": noun, "narration": cells["narration"]}
    return VideoRecord(name, label, split, start, end, attributes=attributes)


def _actions(request: ListRequest, path: Path, words: _Words) -> tuple[Vocabulary, tuple[str, ...]]:
    given = given_classes(request.classes_file)
    if given is not None:
        return given, ()
    expected = [path.with_name(name) for name in _LABELLED]
    absent = [file.name for file in expected if not file.is_file()]
    pairs: dict[tuple[int, int], str] = {}
    for file in sorted({*(it for it in expected if it.is_file()), path}):
        for line, cells in read_table(file, columns=_columns(file)):
            if "verb_class" in cells:
                pair = _pair(cells, f"{file}:{line}")
                pairs[pair] = words.action(*pair, f"{file}:{line}")
    notes = (
        (
            f"{' and '.join(absent)} not beside {path.name}: the classes are the actions of the "
            f"other files alone, and differ from those with all files",
        )
        if absent
        else ()
    )
    return Vocabulary(tuple(pairs[pair] for pair in sorted(pairs)), str(path)), notes


def _read_keys(path: Path, names: tuple[str, ...], *, count: int) -> Vocabulary:
    file = neighbour(path, names)
    if file is None:
        return Vocabulary(tuple(map(str, range(count))), "EPIC-KITCHENS-100")
    keys: dict[int, str] = {}
    for line, cells in read_table(file, columns=("id", "key")):
        keys[_number(cells["id"], f"{file}:{line}")] = cells["key"].strip()
    if sorted(keys) != list(range(len(keys))):
        raise AnnotationError(
            f"{file}: expected the ids 0, 1, 2, ..., got {cut(str(sorted(keys)))}"
        )
    return Vocabulary(tuple(keys[number] for number in range(len(keys))), str(file))


def _columns(path: Path) -> tuple[str, ...]:
    # The labels of EPIC_100_test_timestamps.csv are kept back for the challenge.
    return _TIMES if "timestamps" in path.name else (*_TIMES, *_LABELS)


def _pair(cells: Mapping[str, str], where: str) -> tuple[int, int]:
    return _number(cells["verb_class"], where), _number(cells["noun_class"], where)


def _number(text: str, where: str) -> int:
    if not text.strip().isdecimal():
        raise AnnotationError(f"{where}: expected the number of a class, got {cut(text)!r}")
    return int(text)


def _seconds(text: str, where: str) -> float:
    match = _TIMESTAMP.fullmatch(text.strip())
    if match is None:
        raise AnnotationError(f"{where}: expected a time such as 00:01:02.34, got {cut(text)!r}")
    hours, minutes, seconds = match.groups()
    # Hundredths stay exact to the last bit of a float: 60 and 3600 are added as integers.
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
