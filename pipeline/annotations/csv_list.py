"""A CSV with a header: ``path,label`` and, where wanted, ``split`` and columns of your own."""

import csv
from collections.abc import Mapping
from pathlib import Path

from gopstream.pipeline.annotations.record import VideoList, VideoRecord, make_list
from gopstream.pipeline.errors import AnnotationError

_OWN_COLUMNS = ("path", "label", "split")


def read_csv(videos: Path, annotations: Path | None, split: str) -> VideoList:
    """Read a CSV list of videos.

    Args:
        videos: Folder that the paths are relative to.
        annotations: The CSV file, UTF-8. An empty label means none.
        split: Split of the rows without one.

    Raises:
        AnnotationError: Naming the file and the line of what cannot be read: a missing column,
            a row of another length, a path twice or out of the folder.
    """
    if annotations is None:
        raise AnnotationError("--dataset csv needs --annotations FILE.csv")
    if not annotations.is_file():
        raise AnnotationError(f"{annotations}: no such file")
    records: list[VideoRecord] = []
    first_lines: dict[str, int] = {}
    try:
        with annotations.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, annotations)
            for row in reader:
                if not row:
                    continue
                where = f"{annotations}:{reader.line_num}"
                if len(row) != len(header):
                    raise AnnotationError(
                        f"{where}: expected {len(header)} columns ({','.join(header)}), "
                        f"got {len(row)}"
                    )
                cells = dict(zip(header, row, strict=True))
                record = _record(cells, videos, split, where)
                if record.name in first_lines:
                    raise AnnotationError(
                        f"{where}: {record.name} is listed twice (first in line "
                        f"{first_lines[record.name]})"
                    )
                first_lines[record.name] = reader.line_num
                records.append(record)
    except (csv.Error, UnicodeDecodeError) as error:
        raise AnnotationError(
            f"{annotations}:{len(first_lines) + 2}: expected UTF-8 CSV ({error})"
        ) from error
    if not records:
        raise AnnotationError(f"{annotations}: no videos: there is no row below the header")
    return make_list(records)


def _check_header(header: list[str], annotations: Path) -> None:
    missing = [name for name in ("path", "label") if name not in header]
    if missing or len(set(header)) != len(header):
        raise AnnotationError(
            f"{annotations}:1: expected a header with the columns path and label (and perhaps "
            f"split), each once; got {','.join(header) or 'nothing'}"
        )


def _record(cells: Mapping[str, str], videos: Path, split: str, where: str) -> VideoRecord:
    name = Path(cells["path"].strip())
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise AnnotationError(f"{where}: expected a path below {videos}, got {cells['path']!r}")
    return VideoRecord(
        path=videos / name,
        name=name.as_posix(),
        label=cells["label"].strip() or None,
        split=cells.get("split", "").strip() or split,
        attributes={key: value for key, value in cells.items() if key not in _OWN_COLUMNS},
    )
