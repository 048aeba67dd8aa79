"""UCF101 and HMDB51: text files that say which video is in which of three splits."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gopstream.pipeline.annotations.checks import check_name, check_split
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList
from gopstream.pipeline.annotations.request import ListRequest, neighbour
from gopstream.pipeline.annotations.text_files import check_form, cut, read_lines
from gopstream.pipeline.annotations.video_files import elsewhere, index_files
from gopstream.pipeline.annotations.vocabulary import Vocabulary, given_classes
from gopstream.pipeline.errors import AnnotationError

_NUMBERED = re.compile(r"(.+)#([123])")
_UCF_EXPECTED = "trainlist01.txt, testlist01.txt or the folder of the lists"
_HMDB_FILE = re.compile(r"(.+)_test_split([123])\.txt")
_HMDB_SPLITS = {"1": "train", "2": "test"}  # 0 is a video that this split leaves out


class _Row(NamedTuple):
    file: Path
    line: int
    path: str
    label: str
    split: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def read_ucf101(request: ListRequest) -> VideoList:
    """Read the lists of UCF101.

    ``--annotations`` is one list (``trainlist01.txt``, ``testlist01.txt``), whose videos get the
    split of ``--split``; or the folder ``ucfTrainTestlist``, for the splits train and test of the
    first of its three divisions; ``ucfTrainTestlist#2`` means the second. The classes are those of
    ``classInd.txt`` beside the lists, or of ``--classes``.

    Raises:
        AnnotationError: Naming the line: an unknown class, a number that is not the class's, a
            video twice.
    """
    folder, number = _numbered_folder(request)
    if folder is not None:
        lists = [(folder / f"{kind}list{number:02d}.txt", kind) for kind in ("train", "test")]
    else:
        lists = [(Path(request.annotations or ""), check_split(request.split, "--split"))]
    for file, _ in lists:
        if not file.is_file():
            raise AnnotationError(f"{file}: no such file; --annotations expects {_UCF_EXPECTED}")
        check_form(file, form="CSV or text", expected=_UCF_EXPECTED)
    classes = given_classes(request.classes_file) or _read_class_index(lists[0][0])
    rows = [row for file, split in lists for row in _ucf_rows(file, split, classes)]
    return _gather(request, rows, classes)


def read_hmdb51(request: ListRequest) -> VideoList:
    """Read the split files of HMDB51.

    ``--annotations`` is the folder of ``{class}_test_split1.txt`` and so on
    (``testTrainMulti_7030_splits``), for the splits train and test of the first of its three
    divisions; ``testTrainMulti_7030_splits#2`` means the second. Lines are ``name.avi 1`` (train),
    ``2`` (test) or ``0`` (in neither). The classes are those that have a file, sorted, or those of
    ``--classes``.

    Raises:
        AnnotationError: Naming the file and line: another mark, a video twice; or the folder, if
            it holds no such file.
    """
    folder, number = _numbered_folder(request)
    matches = (
        sorted(
            (match[1], file)
            for file in folder.iterdir()
            if (match := _HMDB_FILE.fullmatch(file.name)) and match[2] == str(number)
        )
        if folder
        else []
    )
    if not matches:
        raise AnnotationError(
            f"{request.annotations or 'this dataset'}: --annotations expects the folder of "
            f"HMDB51's {{class}}_test_split{number}.txt files, such as testTrainMulti_7030_splits"
        )
    classes = given_classes(request.classes_file)
    classes = classes or Vocabulary(tuple(label for label, _ in matches), str(folder))
    rows = [row for label, file in matches for row in _hmdb_rows(file, label)]
    return _gather(request, rows, classes)


def _gather(request: ListRequest, rows: list[_Row], classes: Vocabulary) -> VideoList:
    files = index_files(request)
    records = RecordList(str(request.annotations), lambda place: rows[place].where)
    for place, row in enumerate(rows):
        label = classes.check(row.label, row.where)
        name = check_name(row.path, videos=request.videos, where=row.where)
        found = files.find_exactly(name) or files.find(Path(name).stem, folders=((label,),))
        record = VideoRecord(name, label, row.split, path=elsewhere(found, name))
        records.add(record, place=place, is_there=found is not None)
    return records.finish(classes.names)


def _ucf_rows(file: Path, split: str, classes: Vocabulary) -> Iterator[_Row]:
    for line, text in read_lines(file):
        match = re.fullmatch(r"([^/]+)/(.+\.\w+)(?:\s+(\d+))?", text)
        if match is None:
            raise AnnotationError(f"{file}:{line}: expected Class/video.avi 1, got {cut(text)!r}")
        label, number = match[1], match[3]
        where = f"{file}:{line}"
        classes.check(label, where)
        if number is not None and classes.numbered(int(number) - 1, where) != label:
            raise AnnotationError(
                f"{where}: {label} is not the class {number} of {classes.source} (from 1)"
            )
        yield _Row(file, line, f"{label}/{match[2]}", label, split)


def _hmdb_rows(file: Path, label: str) -> Iterator[_Row]:
    for line, text in read_lines(file):
        name, _, mark = text.rpartition(" ")
        if not name.strip() or mark not in ("0", "1", "2"):
            raise AnnotationError(
                f"{file}:{line}: expected name.avi and 0, 1 or 2, got {cut(text)!r}"
            )
        if mark in _HMDB_SPLITS:
            yield _Row(file, line, f"{label}/{name.strip()}", label, _HMDB_SPLITS[mark])


def _read_class_index(beside: Path) -> Vocabulary:
    path = neighbour(beside, ("classInd.txt",))
    if path is None:
        raise AnnotationError(
            f"{beside}: expected classInd.txt beside it, which names the classes; or give --classes"
        )
    names: list[str] = []
    for line, text in read_lines(path):
        number, _, name = text.partition(" ")
        if number != str(len(names) + 1) or not name.strip():
            raise AnnotationError(
                f"{path}:{line}: expected {len(names) + 1} and the name of a class, "
                f"got {cut(text)!r}"
            )
        names.append(name.strip())
    return Vocabulary(tuple(names), str(path))


def _numbered_folder(request: ListRequest) -> tuple[Path | None, int]:
    """Return the folder that ``--annotations`` names, if it does, and the number after ``#``."""
    text = request.annotations or ""
    match = _NUMBERED.fullmatch(text)
    if match and Path(match[1]).is_dir() and not Path(text).exists():
        return Path(match[1]), int(match[2])
    return (Path(text) if text and Path(text).is_dir() else None), 1
