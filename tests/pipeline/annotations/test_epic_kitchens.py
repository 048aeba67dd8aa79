import pytest

from gopstream.pipeline.errors import AnnotationError

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
TRAIN = HEADER + (
    "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,2,door,1,"
    "['door'],[1]\n"
    'P01_01_1,P01,P01_01,00:00:02.629,01:00:04.37,01:01:06.17,262,370,"put pan, lid on hob",'
    "put-on,0,pan,2,\"['pan', 'hob']\",\"[2, 0]\"\n"
)
VALIDATION = HEADER + (
    "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take hob,take,1,hob,0,"
    "['hob'],[0]\n"
)
TEST = (
    "uid,narration_id,participant_id,video_id,narration_timestamp,start_timestamp,"
    "stop_timestamp,start_frame,stop_frame\n"
    "1924,P01_101_0,P01,P01_101,00:00:02.851,00:00:02.86,00:00:03.87,143,193\n"
)
VERBS = "id,key,instances,category\n0,put,\"['put', 'put-on']\",leave\n1,take,\"['take']\",r\n"
VERBS += "2,open,['open'],access\n"
NOUNS = (
    '"id","key","instances","category"\n1,"door","[]","x"\n0,"hob","[]","x"\n2,"pan:dry","",""\n'
)


def write(mini, *, train=TRAIN, validation=VALIDATION, test=TEST, names=True):
    files = {
        "EPIC_100_train.csv": train,
        "EPIC_100_validation.csv": validation,
        "EPIC_100_test_timestamps.csv": test,
        "EPIC_100_verb_classes.csv": VERBS if names else None,
        "EPIC_100_noun_classes.csv": NOUNS if names else None,
    }
    for name, text in files.items():
        if text is not None:
            mini.write(name, text)
    return mini.root / "lists"


def test_rows(mini):
    mini.touch("P01/videos/P01_01.MP4")
    found = mini.read(write(mini) / "EPIC_100_train.csv")
    assert [(r.name, r.label, r.start_seconds, r.end_seconds) for r in found.records] == [
        ("P01/videos/P01_01.MP4", "open door", 0.14, 3.37),
        ("P01/videos/P01_01.MP4", "put pan:dry", 3604.37, 3666.17),
    ]
    assert found.records[1].attributes == {
        "narration_id": "P01_01_1",
        "verb_class": 0,
        "noun_class": 2,
        "narration": "put pan, lid on hob",
    }
    assert found.label_sets == {
        "verb_class": ("put", "take", "open"),
        "noun_class": ("hob", "door", "pan:dry"),
    }
    assert found.missing == found.notes == ()


def test_classes_are_the_actions_of_both_labelled_files_in_order_of_their_numbers(mini):
    folder = write(mini)
    for name in ("train", "validation", "test_timestamps"):
        found = mini.read(folder / f"EPIC_100_{name}.csv")
        assert found.classes == ("put pan:dry", "take hob", "open door")
        assert found.notes == ()


def test_an_absent_file_is_said_to_change_the_classes(mini):
    found = mini.read(write(mini, validation=None) / "EPIC_100_train.csv")
    assert found.classes == ("put pan:dry", "open door")
    assert found.notes[0].startswith("EPIC_100_validation.csv not beside EPIC_100_train.csv")


def test_test_timestamps_have_no_label_and_a_missing_file_its_official_name(mini):
    found = mini.read(write(mini) / "EPIC_100_test_timestamps.csv", split="test")
    assert [(r.name, r.label, r.attributes) for r in found.records] == [
        ("P01/videos/P01_101.MP4", None, {"narration_id": "P01_101_0"})
    ]
    assert found.missing == ("P01/videos/P01_101.MP4",)


def test_without_class_files_the_names_are_numbers(mini):
    found = mini.read(write(mini, names=False) / "EPIC_100_train.csv")
    assert [r.label for r in found.records] == ["2 1", "0 2"]
    assert {name: len(names) for name, names in found.label_sets.items()} == {
        "verb_class": 97,
        "noun_class": 300,
    }


def test_flat_folder_and_other_suffix(mini):
    mini.touch("P01_01.mp4", "P01_11.mp4")
    found = mini.read(write(mini) / "EPIC_100_validation.csv", split="val")
    assert [(r.name, r.path, r.split) for r in found.records] == [
        ("P01/videos/P01_11.MP4", "P01_11.mp4", "val")
    ]


def test_a_file_that_arrives_changes_the_path_alone(mini):
    path = write(mini) / "EPIC_100_train.csv"
    file = "half size/P01_01.mkv"
    assert mini.read_before_and_after(file, annotations=path) == [file, file]


def test_narrations_of_the_same_times_are_one_record_and_counted(mini):
    rows = TRAIN.splitlines(keepends=True)
    again = rows[1].replace("P01_01_0", "P01_01_2")
    found = mini.read(write(mini, train=TRAIN + again) / "EPIC_100_train.csv")
    assert len(found.records) == 2
    assert found.notes == (
        "1 narrations have the times of one before and were left out: "
        "P01_01_2: P01/videos/P01_01.MP4 [0.14, 3.37] s",
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("00:00:03.37", "3.37", "2: expected a time such as 00:01:02.34, got '3.37'"),
        ("00:00:03.37", "00:00:00.14", "2: expected 0 <= start < end"),
        (",open,2,", ",open,3,", "2: unknown label 3: .*verb_classes.csv has the classes 0 to 2"),
        (",door,1,", ",door,one,", "2: expected the number of a class, got 'one'"),
        ("P01_01_1,", "P01_01_0,", "3: P01_01_0 is listed twice .*:2"),
        (",verb_class,", ",verbs,", "1: expected a header with the columns .*verb_class"),
        (",open,2,", ",2,", "2: expected 15 columns"),
    ],
)
def test_errors_name_the_line(mini, old, new, reason):
    assert old in TRAIN
    folder = write(mini, train=TRAIN.replace(old, new))
    with pytest.raises(AnnotationError, match=rf"EPIC_100_train\.csv:{reason}"):
        mini.read(folder / "EPIC_100_train.csv")


def test_ids_of_classes_must_be_complete(mini):
    folder = write(mini)
    mini.write("EPIC_100_verb_classes.csv", "id,key\n0,take\n2,put\n")
    with pytest.raises(AnnotationError, match=r"verb_classes\.csv: expected the ids 0, 1, 2"):
        mini.read(folder / "EPIC_100_train.csv")
