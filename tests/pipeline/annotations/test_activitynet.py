import json

import pytest

from gopstream.pipeline.errors import AnnotationError

TAXONOMY = [
    {"parentName": None, "nodeName": "Root", "nodeId": 0, "parentId": None},
    {"parentName": "Root", "nodeName": "Household", "nodeId": 1, "parentId": 0},
    {"parentName": "Household", "nodeName": "Washing hands", "nodeId": 2, "parentId": 1},
    {"parentName": "Household", "nodeName": "Clean and jerk", "nodeId": 3, "parentId": 1},
    {"parentName": "Root", "nodeName": "Polishing shoes, twice", "nodeId": 4, "parentId": 0},
]


def video(subset, *annotations, duration=100.0):
    return {
        "duration": duration,
        "subset": subset,
        "resolution": "320x240",
        "url": "https://www.youtube.com/watch?v=x",
        "annotations": [
            {"segment": list(segment), "label": label} for *segment, label in annotations
        ],
    }


def write(mini, database):
    content = {"taxonomy": TAXONOMY, "version": "VERSION 1.3", "database": database}
    return mini.write("activity_net.v1-3.min.json", json.dumps(content))


def read(mini, database, **options):
    return mini.read(write(mini, database), **options)


def rows(found):
    return [(r.name, r.label, r.split, r.start_seconds, r.end_seconds) for r in found.records]


def test_each_segment_is_a_record_and_subsets_become_splits(mini):
    mini.touch("train/v_--0edUL8zmA.mkv", "_plain.webm", "v_-uJnucdW6DY.mp4")
    found = read(
        mini,
        {
            "--0edUL8zmA": video(
                "training", (5.5, 20.25, "Washing hands"), (15, 60, "Clean and jerk")
            ),
            "_plain": video("validation", (0.01, 100, "Washing hands")),
            "gone": video("validation", (1, 2, "Washing hands"), (3, 4, "Washing hands")),
            "-uJnucdW6DY": video("testing"),
        },
    )
    assert rows(found) == [
        ("v_--0edUL8zmA.mp4", "Washing hands", "train", 5.5, 20.25),
        ("v_--0edUL8zmA.mp4", "Clean and jerk", "train", 15, 60),
        ("v__plain.mp4", "Washing hands", "val", 0.01, 100),
        ("v_gone.mp4", "Washing hands", "val", 1, 2),
        ("v_gone.mp4", "Washing hands", "val", 3, 4),
        ("v_-uJnucdW6DY.mp4", None, "test", None, None),
    ]
    assert [r.path for r in found.records] == [
        "train/v_--0edUL8zmA.mkv",
        "train/v_--0edUL8zmA.mkv",
        "_plain.webm",
        None,
        None,
        None,
    ]
    assert found.missing == ("v_gone.mp4",)
    assert found.notes == ()


def test_a_file_that_arrives_changes_the_path_alone(mini):
    database = {
        "a": video("training", (1, 2, "Washing hands"), (3, 4, "Washing hands")),
        "b": video("testing"),
    }
    path = write(mini, database)
    paths = mini.read_before_and_after("x/v_a.mkv", "y/b.webm", annotations=path)
    assert paths == ["x/v_a.mkv", "x/v_a.mkv", "y/b.webm"]


def test_classes_are_the_leaves_of_the_taxonomy(mini):
    found = read(mini, {"a": video("training", (0, 1, "Washing hands"))})
    assert found.classes == ("Clean and jerk", "Polishing shoes, twice", "Washing hands")


def test_faults_of_the_official_file_are_counted_not_fatal(mini):
    hands = "Washing hands"
    found = read(
        mini,
        {
            "ZZVrH3Hv1fM": video("training", (0, 0, hands), (5, 2, hands), (1, 9, hands)),
            "late": video("training", (99, 100.4, hands), (100, 120, hands)),
            "twice": video("training", (1, 9, hands), (1, 9, hands), (1, 9, "Clean and jerk")),
            "bare": video("validation"),
        },
    )
    assert rows(found) == [
        ("v_ZZVrH3Hv1fM.mp4", hands, "train", 1, 9),
        ("v_late.mp4", hands, "train", 99, 100),
        ("v_twice.mp4", hands, "train", 1, 9),
    ]
    assert [note.split(":")[0] for note in found.notes] == [
        "2 segments are empty or end before they start and were left out",
        "1 segments begin after their video's end and were left out",
        "1 segments were cut at their video's duration",
        "2 segments repeat the times of one before and were left out",
        "1 videos have no segments and were left out",
    ]
    assert "v_ZZVrH3Hv1fM.mp4 [0, 0] s (Washing hands)" in found.notes[0]
    assert "(Clean and jerk)" in found.notes[3]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (video("training", (1, 2, "Eating")), "unknown label 'Eating': not in the taxonomy"),
        (video("training", (1, 2, "Household")), "unknown label 'Household'"),
        (video("holdout"), "expected the subset"),
        (
            video("training", (0, 1, "Washing hands"), (-1, 2, "Washing hands")),
            r"annotations\[1\]: expected a segment",
        ),
        (video("training", (1, "Washing hands")), r"annotations\[0\]: expected a segment"),
        (video("training", ("1", 2, "Washing hands")), r"annotations\[0\]: expected a segment"),
        (video("training", (1, 2, None)), r"annotations\[0\]: expected an object with 'label'"),
        (video("training", duration="long"), "expected an object with 'duration'"),
    ],
)
def test_errors_name_video_and_segment(mini, changed, reason):
    fine = video("training", (1, 2, "Washing hands"))
    with pytest.raises(AnnotationError, match=rf"min\.json: database\.bad[.:]\s?{reason}"):
        read(mini, {"fine": fine, "bad": changed})


def test_a_video_that_is_there_twice_is_refused(mini):
    text = '{"taxonomy": [], "database": {"a": {}, "b": {}, "a": {}}}'
    path = mini.write("activity_net.v1-3.min.json", text)
    with pytest.raises(AnnotationError, match=r"min\.json: the key 'a' is twice in one object"):
        mini.read(path)


def test_times_that_are_not_finite_are_refused(mini):
    with pytest.raises(AnnotationError, match="expected numbers, got NaN"):
        read(mini, {"a": video("training", (float("nan"), 2, "Washing hands"))})
