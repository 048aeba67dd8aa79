import json

import pytest

from gopstream.pipeline.errors import AnnotationError

V2_LABELS = {
    "Holding something next to something": "1",
    "Pretending to open something without actually opening it": "0",
    "Putting something similar to other things that are already on the table": "2",
}
V2_TRAIN = [
    {
        "id": "78687",
        "label": 'holding a "potato", peeled next to a jug',
        "template": "Holding [something] next to [something]",
        "placeholders": ['"potato", peeled', "jug"],
    },
    {
        "id": "42326",
        "label": "putting cup similar to other things that are already on the table",
        "template": "Putting [something similar to other things that are already on the table]",
        "placeholders": ["cup"],
    },
]
V1_LABELS = (
    "Holding something\nTurning something upside down\n"
    "Lifting up one end of something, then letting it drop down\n"
    'Trying to "fix" something; it doesn\'t work\n'
)


def write_v2(mini, entries=V2_TRAIN, prefix="something-something-v2-", split="train"):
    mini.write(f"{prefix}labels.json", json.dumps(V2_LABELS))
    return mini.write(f"{prefix}{split}.json", json.dumps(entries))


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_v2_class_is_the_template_without_brackets(mini, prefix):
    mini.touch("78687.webm")
    found = mini.read(write_v2(mini, prefix=prefix), "ssv2")
    assert [(r.name, r.label) for r in found.records] == [
        ("78687.webm", "Holding something next to something"),
        (
            "42326.webm",
            "Putting something similar to other things that are already on the table",
        ),
    ]
    assert found.records[0].attributes == {"caption": 'holding a "potato", peeled next to a jug'}
    assert found.classes == tuple(sorted(V2_LABELS, key=V2_LABELS.__getitem__))
    assert found.missing == ("42326.webm",)
    assert found.records[0].picture_rate is None


def test_v2_file_that_arrives_changes_the_path_alone(mini):
    path = write_v2(mini)
    assert mini.read_before_and_after("a/42326.mp4", annotations=path) == [None, "a/42326.mp4"]


def test_v2_test_list_has_ids_alone_and_the_same_classes(mini):
    train = mini.read(write_v2(mini), "ssv2")
    found = mini.read(write_v2(mini, [{"id": "1420"}], split="test"), "ssv2", split="test")
    assert [(r.name, r.label, r.attributes) for r in found.records] == [("1420.webm", None, {})]
    assert found.classes == train.classes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"template": "Eating [something]"}, r"\[1\]: unknown label 'Eating something'"),
        ({"id": 7}, r"\[1\]: expected an object with 'id', of type str"),
        ({"id": "../7"}, r"\[1\]: expected a path below"),
        ({"id": "78687"}, r"\[1\]: 78687\.webm is listed twice \(first at .*: \[0\]\)"),
        ({"template": None}, r"\[1\]: expected an object with 'template'"),
    ],
)
def test_v2_errors_name_the_entry(mini, change, reason):
    path = write_v2(mini, [V2_TRAIN[0], V2_TRAIN[1] | change])
    with pytest.raises(AnnotationError, match=rf"v2-train\.json: {reason}"):
        mini.read(path, "ssv2")


def test_v2_broken_files_are_refused(mini):
    path = write_v2(mini)
    path.write_text("[\n{")
    with pytest.raises(AnnotationError, match=r"v2-train\.json:2: expected JSON"):
        mini.read(path, "ssv2")
    path.write_text("{}")
    with pytest.raises(AnnotationError, match=r"v2-train\.json: expected a list"):
        mini.read(path, "ssv2")
    path.write_bytes(b'[\n{"id": "\xff"}]')
    with pytest.raises(AnnotationError, match=r"v2-train\.json:2: expected UTF-8"):
        mini.read(path, "ssv2")


def test_labels_must_lie_beside_or_be_given(mini):
    path = mini.write("train.json", json.dumps(V2_TRAIN))
    with pytest.raises(AnnotationError, match=r"labels\.json beside it.* --classes"):
        mini.read(path, "ssv2")
    labels = mini.write("elsewhere/names.json", json.dumps(V2_LABELS))
    assert len(mini.read(path, "ssv2", classes_file=labels).classes) == 3


def write_v1(mini, text, split="train"):
    mini.write("something-something-v1-labels.csv", V1_LABELS)
    return mini.write(f"something-something-v1-{split}.csv", text)


def test_v1_videos_are_folders_of_pictures(mini):
    mini.touch("20bn/100218/00001.jpg", "20bn/100218/00002.jpg", "20bn/7/readme.txt")
    text = (
        "100218;Lifting up one end of something, then letting it drop down\r\n\r\n"
        '7;Trying to "fix" something; it doesn\'t work\r\n'
    )
    found = mini.read(write_v1(mini, text), None)
    assert [(r.path or r.name, r.label, r.picture_rate) for r in found.records] == [
        ("20bn/100218", "Lifting up one end of something, then letting it drop down", 12.0),
        ("7", 'Trying to "fix" something; it doesn\'t work', 12.0),
    ]
    assert found.classes == tuple(V1_LABELS.splitlines())
    assert found.missing == ("7",)


def test_v1_folder_that_arrives_changes_the_path_alone(mini):
    path = write_v1(mini, "7;Holding something\n8;Holding something\n")
    found = mini.read_before_and_after("20bn/7/00001.jpg", annotations=path)
    assert found == ["20bn/7", None]


def test_v1_test_list_has_ids_alone(mini):
    mini.touch("5/00001.JPG")
    found = mini.read(write_v1(mini, "5\n", split="test"), "ssv1", split="test")
    assert [(r.name, r.label, r.split) for r in found.records] == [("5", None, "test")]
    assert len(found.classes) == 4 and found.missing == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1;Holding something\n2;Holding nothing\n", "2: unknown label 'Holding nothing'"),
        ("1;\n", "1: unknown label ''"),
        ("1;Holding something\n1;Holding something\n", "2: 1 is listed twice"),
        ("../1;Holding something\n", "1: expected a path below"),
        (";Holding something\n", "1: expected a path below"),
    ],
)
def test_v1_errors_name_the_line(mini, text, reason):
    with pytest.raises(AnnotationError, match=rf"v1-train\.csv:{reason}"):
        mini.read(write_v1(mini, text), "ssv1")
