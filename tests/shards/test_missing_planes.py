"""What a dataset lacks is named, with the commands that would add it."""

from gopstream.shards.dataset_files import DatasetFacts
from gopstream.shards.missing_planes import commands_to_add, missing_planes


def facts(*planes):
    return DatasetFacts(("a", "b"), planes, {})


def test_missing_planes_keep_their_order_and_come_once():
    needed = ["residual", "frames", "coverage", "residual"]
    assert missing_planes(facts("motion"), needed) == ["residual", "frames"]


def test_coverage_comes_with_motion():
    assert missing_planes(facts("frames"), ["coverage", "frames", "motion"]) == ["motion"]
    assert missing_planes(facts("motion"), ["coverage"]) == []


def test_frames_and_motion_take_another_dataset_with_all_planes():
    commands = commands_to_add(["motion", "mine"], facts=facts("frames", "residual"), url="set")
    assert commands == [
        "gopstream shard VIDEOS --out OTHER --planes frames,motion,residual",
        "gopstream planes add OTHER mine --from FOLDER",
    ]


def test_a_residual_is_added_to_the_dataset_itself():
    commands = commands_to_add(["residual", "mine"], facts=facts("frames"), url="set")
    assert commands == [
        "gopstream planes add set residual --videos VIDEOS",
        "gopstream planes add set mine --from FOLDER",
    ]


def test_settings_take_another_dataset_and_planes_are_named_only_where_some_are_missing():
    held, settings = facts("frames", "motion"), ["--fps 15"]
    assert commands_to_add([], facts=held, url="set", settings=settings) == [
        "gopstream shard VIDEOS --out OTHER --fps 15"
    ]
    assert commands_to_add(["residual"], facts=held, url="set", settings=settings) == [
        "gopstream shard VIDEOS --out OTHER --fps 15 --planes frames,motion,residual"
    ]
