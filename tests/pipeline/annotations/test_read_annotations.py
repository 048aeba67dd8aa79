"""What is common to all readers: the table, the guess by name, and files of classes."""

import pytest

from gopstream.pipeline.annotations import READERS, read_annotations
from gopstream.pipeline.annotations.record import VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList
from gopstream.pipeline.annotations.vocabulary import read_classes
from gopstream.pipeline.errors import AnnotationError


def test_table_has_the_promised_names():
    assert set(READERS) == {
        "kinetics400", "kinetics600", "ssv1", "ssv2", "diving48", "activitynet",
        "epic_kitchens100", "ucf101", "hmdb51", "folder", "csv", "parquet",
    }  # fmt: skip


def test_unknown_forms_are_refused(mini):
    with pytest.raises(AnnotationError, match="unknown dataset 'kinetics'; known are kinetics400"):
        mini.read(dataset="kinetics")
    with pytest.raises(AnnotationError, match=r"list\.tsv: cannot tell .* --dataset"):
        mini.read("list.tsv")
    with pytest.raises(AnnotationError, match=r"train\.json: cannot tell"):
        mini.read("train.json")


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("something-something-v1-validation.csv", "something-something-v1-train"),
        ("something-something-v2-test.json", "something-something-v2-train"),
        ("Diving48_V2_test.json", "Diving48_V2"),
        ("activity_net.v1-3.min.json", "activity_net"),
        ("EPIC_100_validation.csv", "EPIC_100"),
        ("testlist03.txt", "trainlist01"),
        ("train.csv", r"FILE\.csv"),
        ("MY.CSV", r"FILE\.csv"),
        ("my.parquet", r"FILE\.parquet"),
    ],
)
def test_form_is_guessed_by_official_names(mini, name, sign):
    with pytest.raises(AnnotationError, match=f"no such file; --annotations expects .*{sign}"):
        mini.read(mini.root / "gone" / name)


@pytest.mark.parametrize("dataset", sorted(set(READERS) - {"folder", "ucf101", "hmdb51"}))
def test_missing_list_names_the_option(mini, dataset):
    with pytest.raises(AnnotationError, match="needs --annotations"):
        mini.read(None, dataset)


def test_files_are_listed_by_the_pipelines_own_lister(mini):
    mini.touch("a/1.mp4")
    found = read_annotations(mini.videos, annotations=None, dataset=None, split="val")
    assert [(r.name, r.label) for r in found.records] == [("a/1.mp4", "a")]


def test_split_of_the_command_line_is_checked(mini):
    mini.touch("a.mp4")
    with pytest.raises(AnnotationError, match="--split: a split's name"):
        mini.read(split="a/b")


def test_classes_may_be_lines_or_json(mini):
    lines = mini.write("a.txt", b'\xef\xbb\xbfplaying harp\r\n\r\n"air" drumming, loud\r\n')
    assert read_classes(lines).names == ("playing harp", '"air" drumming, loud')
    as_list = mini.write("a.json", '["b", "a"]')
    assert read_classes(as_list).names == ("b", "a")
    # As SlowFast's kinetics_classnames.json is written.
    numbered = mini.write("b.json", '{"\\"sharpening knives\\"": 1, "archery": "0"}')
    assert read_classes(numbered).names == ("archery", "sharpening knives")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "\n", "got an empty file"),
        ("a.txt", "a\nb\na\n", "the class 'a' is there twice"),
        ("a.json", '{"a": 0, "b": 2}', "expected the numbers 0 to 1"),
        ("a.json", '{"a": 0, "b": 0}', "expected the numbers 0 to 1"),
        ("a.json", '{"a": "x"}', "expected a number for each class"),
        ("a.json", "[1]", "expected a list of names"),
        ("a.json", "3", "expected a list of names"),
        ("a.json", "[]", "got an empty file"),
    ],
)
def test_broken_classes_are_refused(mini, name, text, reason):
    with pytest.raises(AnnotationError, match=rf"{name}: .*{reason}"):
        read_classes(mini.write(name, text))


def test_absent_classes_file_names_its_option(mini):
    mini.touch("a/1.mp4")
    with pytest.raises(AnnotationError, match=r"gone\.txt: no such file; --classes"):
        mini.read(classes_file=mini.root / "gone.txt")


class SameHash(str):
    """A name that collides with all others, which 64-bit hashes never do in a test."""

    __slots__ = ()

    def __hash__(self):
        return 7


def test_names_whose_hashes_agree_are_not_taken_for_repeats():
    records = RecordList("list", lambda place: f"list:{place}")
    for place, name in enumerate("abc"):
        records.add(VideoRecord(SameHash(name), None, "train"), place=place)
    assert len(records.finish(()).records) == 3
    records.add(VideoRecord(SameHash("b"), None, "train"), place=9)
    with pytest.raises(AnnotationError, match=r"list:9: b is listed twice \(first at list:1\)"):
        records.finish(())
