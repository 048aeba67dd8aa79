import re
import unicodedata

import pytest

from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.errors import AnnotationError


def read(mini, text, *, encoding="utf-8", **options):
    return mini.read(mini.write("list.csv", text.encode(encoding)), **options)


def refuse(mini, text, reason, *, encoding="utf-8", **options):
    """Expect an error that begins with the file, its line and the reason."""
    place = re.escape(str(mini.root / "lists" / "list.csv"))
    with pytest.raises(AnnotationError, match=f"^{place}:{reason}"):
        read(mini, text, encoding=encoding, **options)


def test_rows(mini):
    found = read(
        mini, "label,path,camera,split\nrun,x/1.mp4,left,val\nwalk, y.mp4 ,,\n,z.mp4,top,test\n"
    )
    assert [(r.name, r.label, r.split, r.attributes) for r in found.records] == [
        ("x/1.mp4", "run", "val", {"camera": "left"}),
        ("y.mp4", "walk", "train", {"camera": ""}),
        ("z.mp4", None, "test", {"camera": "top"}),
    ]
    assert found.classes == ("run", "walk")


def test_files_that_are_not_there_stay_and_are_named_once(mini):
    mini.touch("a.mp4")
    found = read(mini, "path,label,start,end\na.mp4,x,,\nb.mp4,x,0,1\nb.mp4,y,1,2\n")
    assert [r.name for r in found.records] == ["a.mp4", "b.mp4", "b.mp4"]
    assert found.missing == ("b.mp4",)


def test_a_web_server_is_not_listed(mini):
    def refuse_to_list(root):
        raise AssertionError(root)

    found = read_annotations(
        "https://example.org/v",
        annotations=mini.write("list.csv", "path,label\na.mp4,x\n"),
        dataset=None,
        split="train",
        list_files=refuse_to_list,
    )
    assert [r.name for r in found.records] == ["a.mp4"]
    assert found.missing == ()


def test_segments(mini):
    found = read(
        mini,
        "path,label,start,end\na.mp4,x,1.5,2\na.mp4,x,1.5,3\na.mp4,x,,1.5\na.mp4,x,2,\na.mp4,x,,\n",
    )
    times = [(r.start_seconds, r.end_seconds) for r in found.records]
    assert times == [(1.5, 2), (1.5, 3), (0, 1.5), (2, None), (None, None)]


@pytest.mark.parametrize("times", ["2,2", "2,1", "-1,1", "nan,1", "0,inf", ",0"])
def test_times_that_hold_no_frame_are_refused(mini, times):
    refuse(mini, f"path,label,start,end\na.mp4,x,{times}\n", "2: expected 0 <= start < end")


def test_times_must_be_numbers(mini):
    refuse(mini, "path,label,start,end\na.mp4,x,0:01,2\n", "2: expected seconds, got '0:01'")


def test_empty_label_is_none(mini):
    assert read(mini, "path,label\na.mp4,\nb.mp4, \n").classes == ()


def test_byte_order_mark_crlf_and_quotes(mini):
    text = 'path,label\r\n"a, b.mp4","say ""hi"", loud"\r\n'
    found = read(mini, text, encoding="utf-8-sig")
    assert [(r.name, r.label) for r in found.records] == [("a, b.mp4", 'say "hi", loud')]


def test_name_is_found_in_either_unicode_form(mini):
    stored = unicodedata.normalize("NFD", "caf\u00e9 \u4e2d/vid\u00e9o 1.mp4")
    mini.touch(stored)
    listed = unicodedata.normalize("NFC", stored)
    found = read(mini, f"path,label\n{listed},x\n")
    assert [(r.name, r.path) for r in found.records] == [(listed, stored)]
    assert found.missing == ()


def test_characters_that_only_look_alike_are_two_names(mini):
    mini.touch("1.mp4", "\u2460.mp4")
    found = read(mini, "path,label\n\u2460.mp4,x\n1.mp4,x\n")
    assert [r.name for r in found.records] == ["\u2460.mp4", "1.mp4"]


def test_a_file_elsewhere_is_another_video(mini):
    mini.touch("a/1.mp4", "2.mp4")
    found = read(mini, "path,label\n1.mp4,x\n2.mp4,x\n")
    assert [(r.name, r.path) for r in found.records] == [("1.mp4", None), ("2.mp4", None)]
    assert found.missing == ("1.mp4",)


def test_absolute_path_below_the_videos_is_taken(mini):
    mini.touch("a/1.mp4")
    found = read(mini, f"path,label\n{mini.videos}/a/1.mp4,x\n")
    assert [r.name for r in found.records] == ["a/1.mp4"]
    assert found.missing == ()


def test_blank_lines_do_not_count_as_rows(mini):
    assert len(read(mini, "\npath,label\n\na.mp4,x\n  \n\n").records) == 1


def test_classes_file_sets_the_order(mini):
    names = mini.write("classes.txt", "walk\nrun\n")
    assert read(mini, "path,label\na.mp4,run\n", classes_file=names).classes == ("walk", "run")
    refuse(mini, "path,label\na.mp4,rum\n", "2: unknown label 'rum'", classes_file=names)


@pytest.mark.parametrize("header", ["path", "label", "path,label,path", "Path,label", ""])
def test_header_must_have_each_column_once(mini, header):
    refuse(mini, f"{header}\na.mp4\n", r"[12]: expected a header with the columns path,label")


def test_other_datasets_files_are_pointed_to_their_option(mini):
    refuse(mini, "label,youtube_id\n", "1: .* --dataset kinetics400")


@pytest.mark.parametrize(("row", "cells"), [("b.mp4", 1), ("b.mp4,x,y", 3)])
def test_wrong_number_of_cells_names_the_line(mini, row, cells):
    reason = rf"3: expected 2 columns \(path,label\), got {cells}"
    refuse(mini, f"path,label\na.mp4,x\n{row}\n", reason)


@pytest.mark.parametrize("again", ["a.mp4", "./a.mp4", " a.mp4"])
def test_duplicate_names_both_lines(mini, again):
    reason = r"4: a\.mp4 is listed twice \(first at .*list\.csv:2\)"
    refuse(mini, f"path,label\na.mp4,x\nb.mp4,x\n{again},y\n", reason)


def test_a_video_may_be_in_two_splits(mini):
    assert len(read(mini, "path,label,split\na.mp4,x,train\na.mp4,x,val\n").records) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../a.mp4",
        "a/../../b.mp4",
        "",
        ".",
        "s3://bucket/a.mp4",
        "file:///a.mp4",
        "a\0.mp4",
    ],
)
def test_path_must_stay_below_the_folder(mini, path):
    refuse(mini, f"path,label\n{path},x\n", "2: expected a (path below|name)")


@pytest.mark.parametrize("split", ["a/b", "..", "val 1", "v" * 65])
def test_split_must_be_able_to_be_a_folder(mini, split):
    refuse(mini, f"path,label,split\na.mp4,x,{split}\n", "2: a split's name must be")


def test_other_encodings_and_broken_quotes_name_their_line(mini):
    refuse(mini, "path,label\na.mp4,x\n\u00e9.mp4,x\n", "3: expected UTF-8", encoding="latin-1")
    refuse(mini, "path,label\na.mp4,x\n", "1: expected UTF-8", encoding="utf-16")
    refuse(mini, 'path,label\na.mp4,x\n"b.mp4,x\n', "3: expected UTF-8 CSV")


def test_no_rows_no_file_no_annotations(mini):
    with pytest.raises(AnnotationError, match=r"list\.csv: no videos"):
        read(mini, "path,label\n")
    with pytest.raises(AnnotationError, match="no such file; --annotations expects"):
        mini.read(mini.root / "gone.csv")
    with pytest.raises(AnnotationError, match="needs --annotations"):
        mini.read(None, "csv")
