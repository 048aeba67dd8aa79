import pytest

from gopstream.pipeline.errors import AnnotationError

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
OFFICIAL = HEADER + (
    '"air drumming",_dbcJuKJQNs,40,50,train,0\n'
    "abseiling,-3B32lodo2M,59,69,train,1\n"
    '"massaging person\'s head",0--uT2BEzTA,5,15,train,0\n'
)


def names(found):
    return [r.name for r in found.records]


def places(found):
    return [r.path or r.name for r in found.records]


def refuse(mini, text, reason, **options):
    with pytest.raises(AnnotationError, match=rf"train\.csv:{reason}"):
        mini.read(mini.write("train.csv", text), "kinetics400", **options)


@pytest.mark.parametrize(
    "layout",
    [
        "{clip}.mp4",
        "train/{clip}.mkv",
        "{label}/{clip}.webm",
        "train/{under}/{clip}.MP4",
    ],
)
def test_clips_are_found_in_any_layout(mini, layout):
    clips = {
        "air drumming": "_dbcJuKJQNs_000040_000050",
        "abseiling": "-3B32lodo2M_000059_000069",
    }
    files = [
        layout.format(clip=clip, label=label, under=label.replace(" ", "_"))
        for label, clip in clips.items()
    ]
    mini.touch(*files, "other/zzzzzzzzzzz_000000_000010.mp4")
    found = mini.read(mini.write("train.csv", OFFICIAL), "kinetics400")
    expected = [f"{clip}.mp4" for clip in clips.values()]
    assert names(found) == [*expected, "0--uT2BEzTA_000005_000015.mp4"]
    assert places(found) == [*files, "0--uT2BEzTA_000005_000015.mp4"]
    assert found.missing == ("0--uT2BEzTA_000005_000015.mp4",)
    assert found.classes == ("abseiling", "air drumming", "massaging person's head")
    assert [r.label for r in found.records] == [
        "air drumming",
        "abseiling",
        "massaging person's head",
    ]
    assert {(r.split, r.start_seconds, r.picture_rate) for r in found.records} == {
        ("train", None, None)
    }


def test_a_file_that_arrives_changes_the_path_alone(mini):
    path = mini.write("train.csv", OFFICIAL)
    file = "train/abseiling/-3B32lodo2M_000059_000069.mkv"
    found = mini.read_before_and_after(file, annotations=path, dataset="kinetics400")
    assert found == [None, file, None]


def test_a_clip_of_a_toolbox_list_that_arrives_changes_the_path_alone(mini):
    clip = "-3B32lodo2M_000059_000069"
    path = mini.write("list.txt", f"abseiling/{clip}.mp4 1\na/1.mp4 0\n")
    file = f"train/{clip}.webm"
    found = mini.read_before_and_after(file, annotations=path, dataset="kinetics400")
    assert found == [file, None]


def test_byte_order_mark_crlf_and_blank_lines(mini):
    text = OFFICIAL.replace("\n", "\r\n").replace("abseiling", "\r\nabseiling")
    found = mini.read(mini.write("train.csv", b"\xef\xbb\xbf" + text.encode()), "kinetics600")
    assert len(found.records) == 3


def test_the_splits_of_the_file_win_and_get_one_name(mini):
    text = HEADER + "a,AAAAAAAAAAA,0,10,validate,0\na,AAAAAAAAAAA,0,10,,0\n"
    found = mini.read(mini.write("val.csv", text), "kinetics600", split="mine")
    assert [r.split for r in found.records] == ["val", "mine"]


def test_test_list_has_no_labels(mini):
    text = "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n"
    found = mini.read(mini.write("test.csv", text), "kinetics600")
    assert [(r.name, r.label) for r in found.records] == [("--6bJUbfpnQ_000017_000027.mp4", None)]
    refuse(mini, text.replace("test", "train"), "2: expected a column label")


def test_of_two_files_the_one_in_the_splits_folder_is_taken(mini):
    clip = "-3B32lodo2M_000059_000069.mp4"
    mini.touch(f"train/{clip}", f"val/{clip}", f"train/{clip[:-4]}.json")
    path = mini.write("train.csv", HEADER + "abseiling,-3B32lodo2M,59,69,train,1\n")
    assert places(mini.read(path, "kinetics400")) == [f"train/{clip}"]
    mini.touch(f"train/abseiling/{clip}")
    assert places(mini.read(path, "kinetics400")) == [f"train/abseiling/{clip}"]
    mini.touch(f"train/abseiling/copy/{clip}")
    with pytest.raises(AnnotationError, match=rf"train/abseiling/{clip} and .*/copy/{clip}"):
        mini.read(path, "kinetics400")


def test_two_files_without_any_preference_are_refused(mini):
    clip = "-3B32lodo2M_000059_000069"
    mini.touch(f"a/{clip}.mp4", f"b/{clip}.webm")
    path = mini.write("train.csv", HEADER + "abseiling,-3B32lodo2M,59,69,train,1\n")
    with pytest.raises(AnnotationError, match=rf"a/{clip}\.mp4 and b/{clip}\.webm"):
        mini.read(path, "kinetics400")


def test_errors_name_the_line(mini):
    row = "abseiling,-3B32lodo2M,59,69,train,0\n"
    refuse(mini, HEADER + row + row, r"3: .*000059_000069\.mp4 is listed twice \(first at .*:2\)")
    refuse(mini, HEADER + "abseiling,-3B32lodo2M,59,69\n", "2: expected 6 columns .* got 4")
    refuse(mini, HEADER + row.replace("69", "soon"), "2: expected seconds, got 'soon'")
    refuse(mini, HEADER + row.replace("69", "69.5"), "2: expected whole seconds")
    refuse(mini, HEADER + row.replace("69", "59"), "2: expected time_start < time_end")
    refuse(mini, HEADER + row.replace("train", "a/b"), "2: a split's name")
    refuse(mini, "label,youtube_id,time_end\n", "1: expected a header with the columns youtube_id")
    classes = mini.write("classes.txt", "archery\n")
    refuse(mini, HEADER + row, "2: unknown label 'abseiling': not in", classes_file=classes)


def test_toolbox_list_with_numbers(mini):
    mini.touch("a b/1, 2.mp4", "x.mp4")
    text = '"a b/1, 2.mp4" 10\nx.mp4,0\n\na b/1 3.mp4\t2\r\n"q ""u"", z.mp4",2\n'
    found = mini.read(mini.write("train.csv", text), "kinetics400")
    assert [(r.name, r.label) for r in found.records] == [
        ("a b/1, 2.mp4", "10"),
        ("x.mp4", "0"),
        ("a b/1 3.mp4", "2"),
        ('q "u", z.mp4', "2"),
    ]
    assert found.classes == tuple(map(str, range(11)))
    assert found.missing == ("a b/1 3.mp4", 'q "u", z.mp4')


def test_toolbox_list_with_a_classes_file(mini):
    classes = mini.write("label_map_k400.txt", "abseiling\nair drumming\nplaying harp\n")
    text = "a b.mp4 1\nc.mp4,playing harp\nd.mp4 abseiling\n"
    found = mini.read(mini.write("list.txt", text), "kinetics400", classes_file=classes)
    assert [r.label for r in found.records] == ["air drumming", "playing harp", "abseiling"]
    assert found.classes == ("abseiling", "air drumming", "playing harp")
    refuse(mini, "a.mp4 3\n", "1: unknown label 3: .* has the classes 0 to 2", classes_file=classes)
    refuse(mini, "a.mp4 x\n", "1: expected a path and a label that is in", classes_file=classes)


def test_toolbox_list_finds_a_moved_clip_but_never_another_video(mini):
    mini.touch("train/air_drumming/_dbcJuKJQNs_000040_000050.mkv", "b/1.mp4")
    text = f"air drumming/_dbcJuKJQNs_000040_000050.mp4 1\na/1.mp4 0\n{mini.videos}/b/1.mp4 0\n"
    found = mini.read(mini.write("list.txt", text), "kinetics400")
    assert [(r.name, r.path) for r in found.records] == [
        (
            "air drumming/_dbcJuKJQNs_000040_000050.mp4",
            "train/air_drumming/_dbcJuKJQNs_000040_000050.mkv",
        ),
        ("a/1.mp4", None),
        ("b/1.mp4", None),
    ]
    assert found.missing == ("a/1.mp4",)


def test_toolbox_errors_name_the_line(mini):
    refuse(mini, "a.mp4 1\nb.mp4\n", "2: expected a path and a label that is a number")
    refuse(mini, "a.mp4 -1\n", "1: expected a path and a label that is a number")
    refuse(mini, "a.mp4 1\n./a.mp4 1\n", "2: a.mp4 is listed twice")
    refuse(mini, "../a.mp4 1\n", "1: expected a path below")
    with pytest.raises(AnnotationError, match=r"train\.csv: the largest label is 999999999"):
        mini.read(mini.write("train.csv", "a.mp4 999999999\n"), "kinetics400")
    with pytest.raises(AnnotationError, match=r"train\.csv: no videos"):
        mini.read(mini.write("train.csv", "\n"), "kinetics400")
