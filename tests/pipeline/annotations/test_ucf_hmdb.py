import pytest

from gopstream.pipeline.errors import AnnotationError

CLASSES = "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n3 YoYo\r\n"
TRAIN = (
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
    "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n"
)
TEST = "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n\r\nYoYo/v_YoYo_g01_c01.avi\r\n"


def write_ucf(mini, *, train=TRAIN, test=TEST, number="01"):
    mini.write("classInd.txt", CLASSES)
    mini.write(f"trainlist{number}.txt", train)
    return mini.write(f"testlist{number}.txt", test).parent


def rows(found):
    return [(r.name, r.label, r.split) for r in found.records]


def places(found):
    return [(r.path or r.name, r.label, r.split) for r in found.records]


def test_ucf_list(mini):
    mini.touch("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi")
    found = mini.read(write_ucf(mini) / "trainlist01.txt")
    assert places(found) == [
        ("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup", "train"),
        ("HandstandPushups/v_HandStandPushups_g08_c01.avi", "HandstandPushups", "train"),
    ]
    assert found.missing == ("HandstandPushups/v_HandStandPushups_g08_c01.avi",)
    assert found.classes == ("ApplyEyeMakeup", "HandstandPushups", "YoYo")


def test_ucf_file_that_arrives_changes_the_path_alone(mini):
    path = write_ucf(mini) / "trainlist01.txt"
    file = "UCF-101/HandstandPushups/v_HandStandPushups_g08_c01.mp4"
    assert mini.read_before_and_after(file, annotations=path) == [None, file]


def test_ucf_test_list_has_no_numbers_and_the_same_classes(mini):
    found = mini.read(write_ucf(mini) / "testlist01.txt", "ucf101", split="val")
    assert [(r.label, r.split) for r in found.records] == [
        ("ApplyEyeMakeup", "val"),
        ("YoYo", "val"),
    ]
    assert found.classes == ("ApplyEyeMakeup", "HandstandPushups", "YoYo")


def test_ucf_folder_gives_both_splits_of_a_division(mini):
    folder = write_ucf(mini)
    write_ucf(mini, test="YoYo/v_YoYo_g02_c01.avi\n", number="02")
    assert [r.split for r in mini.read(folder, "ucf101").records] == ["train"] * 2 + ["test"] * 2
    second = mini.read(f"{folder}#2", "ucf101")
    assert rows(second)[2:] == [("YoYo/v_YoYo_g02_c01.avi", "YoYo", "test")]
    with pytest.raises(AnnotationError, match=r"trainlist03\.txt: no such file"):
        mini.read(f"{folder}#3", "ucf101")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("YoYo/v_YoYo_g01_c01.avi 1", "YoYo is not the class 1"),
        ("YoYo/v_YoYo_g01_c01.avi 9", "unknown label 8"),
        ("Yoyo/v_YoYo_g01_c01.avi 3", "unknown label 'Yoyo'"),
        ("v_YoYo_g01_c01.avi 3", r"expected Class/video\.avi 1"),
        ("YoYo/v_YoYo_g01_c01.avi x", r"expected Class/video\.avi 1"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "ApplyEyeMakeup/.* is listed twice"),
    ],
)
def test_ucf_errors_name_the_line(mini, line, reason):
    folder = write_ucf(mini, train=f"{TRAIN}{line}\r\n")
    with pytest.raises(AnnotationError, match=rf"trainlist01\.txt:3: {reason}"):
        mini.read(folder / "trainlist01.txt")


def test_ucf_needs_its_class_index(mini):
    path = mini.write("trainlist01.txt", TRAIN)
    with pytest.raises(AnnotationError, match=r"classInd\.txt beside it.* --classes"):
        mini.read(path)
    mini.write("classInd.txt", "1 ApplyEyeMakeup\n3 YoYo\n")
    with pytest.raises(AnnotationError, match=r"classInd\.txt:2: expected 2 and the name"):
        mini.read(path)


ODD = (
    "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi",
    "(Rad)Schlag_die_Bank!_clap_f_cm_np1_le_med_0.avi",
    "show your smile_-)_clap_h_nm_np1_fr_med_0.avi",
)


def write_hmdb(mini):
    lines = "".join(f"{name} {mark} \r\n" for name, mark in zip(ODD, "120", strict=True))
    mini.write("splits/clap_test_split1.txt", lines)
    mini.write("splits/clap_test_split2.txt", f"{ODD[2]} 1 \n")
    mini.write("splits/brush_hair_test_split1.txt", "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 2\n")
    return mini.write("splits/brush_hair_test_split2.txt", "\n").parent


def test_hmdb_folder_gives_train_and_test_of_a_division(mini):
    folder = write_hmdb(mini)
    mini.touch(*(f"hmdb51_org/clap/{name}" for name in ODD))
    found = mini.read(folder, "hmdb51")
    assert places(found) == [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "test"),
        (f"hmdb51_org/clap/{ODD[0]}", "clap", "train"),
        (f"hmdb51_org/clap/{ODD[1]}", "clap", "test"),
    ]
    assert found.missing == ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",)
    assert found.classes == ("brush_hair", "clap")
    second = mini.read(f"{folder}#2", "hmdb51")
    assert places(second) == [(f"hmdb51_org/clap/{ODD[2]}", "clap", "train")]
    assert second.classes == found.classes


def test_hmdb_file_that_arrives_changes_the_path_alone(mini):
    file = f"hmdb51_org/clap/{ODD[1].removesuffix('.avi')}.mp4"
    found = mini.read_before_and_after(file, annotations=write_hmdb(mini), dataset="hmdb51")
    assert found == [None, None, file]


def test_hmdb_file_in_its_class_folder_is_preferred(mini):
    folder = write_hmdb(mini)
    for further, expected in (
        ((f"org/clap/{ODD[0]}", f"org/wave/{ODD[0]}"), f"org/clap/{ODD[0]}"),
        ((f"clap/{ODD[0]}",), f"clap/{ODD[0]}"),
    ):
        mini.touch(*further)
        found = mini.read(folder, "hmdb51")
        assert [path for path, _, split in places(found) if split == "train"] == [expected]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x.avi 3", r"expected name\.avi and 0, 1 or 2"),
        ("x.avi", r"expected name\.avi and 0, 1 or 2"),
        ("../x.avi 1", "expected a path below"),
        (f"{ODD[2]} 2", "clap/show your smile.* is listed twice .*:1"),
    ],
)
def test_hmdb_errors_name_file_and_line(mini, line, reason):
    folder = write_hmdb(mini)
    text = f"{ODD[2]} 2\n{line}\n"
    mini.write("splits/clap_test_split1.txt", text)
    with pytest.raises(AnnotationError, match=rf"clap_test_split1\.txt:2: {reason}"):
        mini.read(folder, "hmdb51")


def test_hmdb_needs_the_folder_of_its_lists(mini):
    with pytest.raises(AnnotationError, match="this dataset: --annotations expects the folder"):
        mini.read(None, "hmdb51")
    with pytest.raises(AnnotationError, match=r"lists#3: --annotations .*_test_split3\.txt"):
        mini.read(f"{write_hmdb(mini).parent}#3", "hmdb51")
