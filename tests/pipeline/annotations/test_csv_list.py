import re

import pytest

from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.errors import AnnotationError


def read(tmp_path, text, *, split="train", encoding="utf-8"):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    return read_annotations(tmp_path / "videos", annotations=path, dataset=None, split=split)


def refuse(tmp_path, text, reason, *, encoding="utf-8"):
    """Expect an error that begins with the file, its line and the reason."""
    with pytest.raises(AnnotationError, match=re.escape(f"{tmp_path / 'list.csv'}:") + reason):
        read(tmp_path, text, encoding=encoding)


def test_rows(tmp_path):
    found = read(
        tmp_path, "label,path,camera,split\nrun,x/1.mp4,left,val\nwalk, y.mp4 ,,\n,z.mp4,top,test\n"
    )
    assert [(r.name, r.label, r.split, r.attributes) for r in found.records] == [
        ("x/1.mp4", "run", "val", {"camera": "left"}),
        ("y.mp4", "walk", "train", {"camera": ""}),
        ("z.mp4", None, "test", {"camera": "top"}),
    ]
    assert found.classes == ("run", "walk")
    assert found.records[0].path == tmp_path / "videos/x/1.mp4"


def test_empty_label_is_none(tmp_path):
    assert read(tmp_path, "path,label\na.mp4,\nb.mp4, \n").classes == ()


def test_byte_order_mark_crlf_and_quotes(tmp_path):
    found = read(tmp_path, 'path,label\r\n"a, b.mp4",run\r\n', encoding="utf-8-sig")
    assert [(r.name, r.label) for r in found.records] == [("a, b.mp4", "run")]


def test_blank_lines_do_not_count_as_rows(tmp_path):
    assert len(read(tmp_path, "path,label\n\na.mp4,x\n\n").records) == 1


@pytest.mark.parametrize("header", ["path", "label", "path,label,path", "Path,label", ""])
def test_header_must_have_each_column_once(tmp_path, header):
    refuse(tmp_path, f"{header}\na.mp4\n", "1: expected a header")


@pytest.mark.parametrize(("row", "cells"), [("b.mp4", 1), ("b.mp4,x,y", 3)])
def test_wrong_number_of_cells_names_the_line(tmp_path, row, cells):
    reason = rf"3: expected 2 columns \(path,label\), got {cells}"
    refuse(tmp_path, f"path,label\na.mp4,x\n{row}\n", reason)


@pytest.mark.parametrize("again", ["a.mp4", "./a.mp4", " a.mp4"])
def test_duplicate_names_both_lines(tmp_path, again):
    reason = r"4: a\.mp4 is listed twice \(first in line 2\)"
    refuse(tmp_path, f"path,label\na.mp4,x\nb.mp4,x\n{again},y\n", reason)


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.mp4", "a/../../b.mp4", "", "."])
def test_path_must_stay_below_the_folder(tmp_path, path):
    refuse(tmp_path, f"path,label\n{path},x\n", "2: expected a path below")


def test_other_encodings_and_broken_quotes_name_a_line(tmp_path):
    refuse(tmp_path, "path,label\n\u00e9.mp4,x\n", r"\d+: expected UTF-8 CSV", encoding="latin-1")
    refuse(tmp_path, 'path,label\n"a.mp4,x\n', r"\d+: expected UTF-8 CSV")


def test_no_rows_no_file_no_annotations(tmp_path):
    with pytest.raises(AnnotationError, match="no row below the header"):
        read(tmp_path, "path,label\n")
    with pytest.raises(AnnotationError, match="no such file"):
        read_annotations(tmp_path, annotations=tmp_path / "gone.csv", dataset=None, split="a")
    with pytest.raises(AnnotationError, match="needs --annotations"):
        read_annotations(tmp_path, annotations=None, dataset="csv", split="a")
