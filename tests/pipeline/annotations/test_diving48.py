import json

import pytest

from gopstream.pipeline.errors import AnnotationError

VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]
TRAIN = [
    {"vid_name": "-mmq0PT-u8k_00155", "label": 1, "start_frame": 0, "end_frame": 48},
    {"vid_name": "_8Vy3dlHg2w_00000", "label": 0, "start_frame": 0, "end_frame": 70},
]


def write(mini, entries=TRAIN, *, vocabulary=VOCABULARY):
    if vocabulary is not None:
        mini.write("Diving48_vocab.json", json.dumps(vocabulary))
    return mini.write("Diving48_V2_train.json", json.dumps(entries))


def read(mini, entries=TRAIN, *, vocabulary=VOCABULARY):
    return mini.read(write(mini, entries, vocabulary=vocabulary))


def test_rows(mini):
    mini.touch("rgb/-mmq0PT-u8k_00155.mp4")
    found = read(mini)
    assert [(r.name, r.path, r.label) for r in found.records] == [
        ("-mmq0PT-u8k_00155.mp4", "rgb/-mmq0PT-u8k_00155.mp4", "Back 15som 15Twis FREE"),
        ("_8Vy3dlHg2w_00000.mp4", None, "Back 15som 05Twis FREE"),
    ]
    assert found.records[0].attributes == {"start_frame": 0, "end_frame": 48}
    assert found.classes == ("Back 15som 05Twis FREE", "Back 15som 15Twis FREE")
    assert found.missing == ("_8Vy3dlHg2w_00000.mp4",)
    assert found.notes == ()


def test_a_file_that_arrives_changes_the_path_alone(mini):
    file = "rgb/_8Vy3dlHg2w_00000.avi"
    assert mini.read_before_and_after(file, annotations=write(mini)) == [None, file]


def test_without_vocabulary_the_classes_are_numbers_and_this_is_said(mini):
    found = read(mini, vocabulary=None)
    assert found.classes == tuple(map(str, range(48)))
    assert [r.label for r in found.records] == ["1", "0"]
    assert "named by number" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": 2}, "unknown label 2: .* has the classes 0 to 1"),
        ({"label": -1}, "unknown label -1"),
        ({"label": "1"}, "expected an object with 'label', of type int"),
        ({"label": True}, "expected an object with 'label', of type int"),
        ({"end_frame": None}, "expected an object with 'end_frame'"),
        ({"vid_name": TRAIN[0]["vid_name"]}, r".*00155\.mp4 is listed twice"),
    ],
)
def test_errors_name_the_entry(mini, change, reason):
    with pytest.raises(AnnotationError, match=rf"V2_train\.json: \[1\]: {reason}"):
        read(mini, [TRAIN[0], TRAIN[1] | change])


def test_broken_vocabularies_are_refused(mini):
    with pytest.raises(AnnotationError, match=r"vocab\.json: the class 'a b' is there twice"):
        read(mini, vocabulary=[["a", "b"], ["a", "b"]])
    with pytest.raises(AnnotationError, match=r"vocab\.json: expected a list of classes"):
        read(mini, vocabulary=["a"])
