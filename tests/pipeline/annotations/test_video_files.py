"""Videos that arrive after their list was read."""

import unicodedata

from gopstream.pipeline.annotations.video_files import find_again

CLIP = "-3B32lodo2M_000059_000069"


def test_a_video_is_found_in_any_folder_with_any_suffix():
    files = [f"train/abseiling/{CLIP}.mkv", "P01_01.mp4", "other.mp4"]
    assert find_again([f"{CLIP}.mp4", "P01/videos/P01_01.MP4", "gone.mp4"], files) == {
        f"{CLIP}.mp4": f"train/abseiling/{CLIP}.mkv",
        "P01/videos/P01_01.MP4": "P01_01.mp4",
    }


def test_a_video_that_is_where_its_name_says_is_not_looked_up():
    assert find_again(["a.mp4"], ["a.mp4"]) == {}
    assert find_again(["a.mp4"], ["a.mp4", "x/a.mkv"]) == {}


def test_of_two_files_none_is_taken():
    assert find_again(["a.mp4", "b.mp4"], ["x/a.mkv", "y/a.mkv", "x/b.mkv"]) == {"b.mp4": "x/b.mkv"}


def test_what_lies_beside_videos_is_no_video():
    assert find_again(["a.mp4"], ["x/a.json", "x/a.mp4.part"]) == {}
    assert find_again(["a.mp4"], ["x/a.json", "x/a.mkv"]) == {"a.mp4": "x/a.mkv"}


def test_names_that_share_a_stem_are_not_mixed_up():
    assert find_again(["a/1.mp4", "b/1.mp4"], ["b/1.mp4"]) == {}
    assert find_again(["a/1.mp4", "b/1.mp4"], ["c/1.mp4"]) == {}


def test_repeats_of_a_name_are_one():
    assert find_again(["a.mp4", "a.mp4"], ["x/a.mkv"]) == {"a.mp4": "x/a.mkv"}


def test_addresses_are_left_alone():
    assert find_again(["s3://bucket/a.mp4"], ["a.mp4"]) == {}


def test_folders_of_pictures():
    files = ["20bn/7/00001.jpg", "20bn/7/00002.jpg", "8.webm", "9/00001.JPG", "a/5/1.jpg"]
    files += ["b/5/1.jpg", "c/6.x/1.jpg", "d/4/1.png"]
    names = ["7", "8", "9", "5", "6.x", "6", "4"]
    assert find_again(names, files, picture_folders=True) == {"7": "20bn/7", "6.x": "c/6.x"}
    assert find_again(["8"], files) == {"8": "8.webm"}


def test_activitynet_may_be_stored_under_the_bare_identifier():
    names = ["v_--0edUL8zmA.mp4", "v_short.mp4"]
    assert find_again(names, ["x/--0edUL8zmA.mkv", "short.mp4"]) == {names[0]: "x/--0edUL8zmA.mkv"}
    both = ["x/--0edUL8zmA.mkv", "y/v_--0edUL8zmA.mkv"]
    assert find_again(names, both) == {names[0]: both[1]}
    assert find_again([names[0], "--0edUL8zmA.mp4"], ["--0edUL8zmA.mp4"]) == {}


def test_either_unicode_form():
    stored = unicodedata.normalize("NFD", "vid\u00e9o.mp4")
    listed = unicodedata.normalize("NFC", stored)
    assert find_again([listed], [stored]) == {listed: stored}
