"""ActivityNet 1.3: one JSON with the segments of untrimmed videos."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from gopstream.pipeline.annotations.checks import check_name
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList, note
from gopstream.pipeline.annotations.request import ListRequest, annotation_file
from gopstream.pipeline.annotations.text_files import cut, json_field, read_json
from gopstream.pipeline.annotations.video_files import elsewhere, index_files, split_folders
from gopstream.pipeline.annotations.vocabulary import Vocabulary, given_classes, sorted_classes
from gopstream.pipeline.errors import AnnotationError

_SPLITS = {"training": "train", "validation": "val", "testing": "test"}


@dataclass(frozen=True, slots=True)
class _Oddities:
    """Segments that the official file really has and that no clip can be made of as they are."""

    empty: list[str] = field(default_factory=list)
    past_the_end: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unannotated: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        return (
            *note("segments are empty or end before they start and were left out", self.empty),
            *note("segments begin after their video's end and were left out", self.past_the_end),
            *note("segments were cut at their video's duration", self.clipped),
            *note("segments repeat the times of one before and were left out", self.repeated),
            *note("videos have no segments and were left out", self.unannotated),
        )


def read_activitynet(request: ListRequest) -> VideoList:
    """Read ``activity_net.v1-3.min.json``.

    Its subsets training, validation and testing become the splits train, val and test. Each
    segment is a record; a video of testing, whose segments are not published, is one record
    without label and times. The video ``ID`` is the file ``v_ID`` (or ``ID``) in any folder, with
    any suffix; its expected name is ``v_ID.mp4``.

    The classes are the leaves of the taxonomy, sorted, or those of ``--classes``. The
    official file has some 0.3 % of segments without length (its authors in issue 56 of
    activitynet/ActivityNet), some that end after the duration and some that are there twice; these
    are left out or cut and counted in the notes.

    Raises:
        AnnotationError: Naming the video and the number of the segment: a missing field, times
            that are no numbers or negative, an unknown label or subset.
    """
    path = annotation_file(request, "activity_net.v1-3.min.json", form="JSON")
    content = read_json(path)
    database = json_field(content, "database", dict, where=str(path))
    classes = given_classes(request.classes_file) or _classes(content, path)
    files = index_files(request)
    oddities = _Oddities()
    places = list(database)
    records = RecordList(str(path), lambda place: f"{path}: database.{places[place]}")
    for place, (identifier, video) in enumerate(database.items()):
        where = f"{path}: database.{identifier}"
        subset = json_field(video, "subset", str, where=where)
        if subset not in _SPLITS:
            raise AnnotationError(
                f"{where}: expected the subset {list(_SPLITS)}, got {cut(subset)!r}"
            )
        split = _SPLITS[subset]
        name = check_name(f"v_{identifier}.mp4", videos=request.videos, where=where)
        folders = (split_folders(split),)
        found = files.find(f"v_{identifier}", folders=folders) or files.find(
            identifier, folders=folders
        )
        whole = VideoRecord(name, None, split, path=elsewhere(found, name))
        segments = (
            iter([whole])
            if subset == "testing"
            else _segments(video, whole, oddities=oddities, where=where)
        )
        for record in segments:
            if record.label is not None:
                classes.check(record.label, where)
            records.add(record, place=place, is_there=found is not None)
    return records.finish(classes.names, notes=oddities.notes())


def _segments(
    video: object, whole: VideoRecord, *, oddities: _Oddities, where: str
) -> Iterator[VideoRecord]:
    duration = json_field(video, "duration", float, where=where)
    annotations = json_field(video, "annotations", list, where=where)
    if not annotations:
        oddities.unannotated.append(whole.name)
    seen: set[tuple[float, float]] = set()
    for number, annotation in enumerate(annotations):
        place = f"{where}.annotations[{number}]"
        label = json_field(annotation, "label", str, where=place)
        start, end = _times(annotation, place)
        case = f"{whole.name} [{start:g}, {end:g}] s ({label})"
        if end <= start:
            oddities.empty.append(case)
            continue
        if start >= duration:
            oddities.past_the_end.append(case)
            continue
        if end > duration:
            oddities.clipped.append(case)
            end = duration
        if (start, end) in seen:
            oddities.repeated.append(case)
            continue
        seen.add((start, end))
        yield replace(whole, label=label, start_seconds=start, end_seconds=end)


def _times(annotation: object, where: str) -> tuple[float, float]:
    segment = json_field(annotation, "segment", list, where=where)
    is_pair = len(segment) == 2 and all(type(time) in (int, float) for time in segment)
    if not is_pair or min(segment) < 0:
        raise AnnotationError(
            f"{where}: expected a segment [start, end] in seconds, got {cut(str(segment))}"
        )
    return float(segment[0]), float(segment[1])


def _classes(content: object, path: Path) -> Vocabulary:
    nodes = json_field(content, "taxonomy", list, where=str(path))
    names = [json_field(node, "nodeName", str, where=f"{path}: taxonomy") for node in nodes]
    parents = {node.get("parentName") for node in nodes}
    return sorted_classes(set(names) - parents, f"the taxonomy of {path}")
