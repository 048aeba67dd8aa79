"""A dataset that a recipe was not made for is refused, with the commands that would change it."""

import pytest

from gopstream.jobs.dataset_fit import check_fit
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import DataRecipe
from gopstream.shards.dataset_files import DatasetFacts

CANONICAL = {
    "mode": "canonical",
    "short_side": 256,
    "crf": 20,
    "gop": 12,
    "quality": 90,
    "frame_stride": 1,
    "fps": None,
    "segment_frames": 300,
}


def facts(*planes, **settings):
    return DatasetFacts(("a", "b"), planes or ("frames", "motion"), CANONICAL | settings)


def refusal(held, **wanted):
    with pytest.raises(UserError) as caught:
        check_fit(held, DataRecipe(**wanted), url="shards")
    return str(caught.value).splitlines()


def test_a_recipe_that_asks_nothing_takes_every_dataset():
    check_fit(facts("motion", fps=3.0, mode="native", short_side=1), DataRecipe(), url="shards")


@pytest.mark.parametrize(
    "wanted",
    [
        {"fps": 15.0, "short_side": 128, "mode": "canonical"},
        {"planes": ("residual", "frames", "coverage", "captions")},
    ],
)
def test_what_fits_is_taken(wanted):
    held = facts("frames", "motion", "residual", "captions", fps=15.0, short_side=128)
    check_fit(held, DataRecipe(**wanted), url="shards")


@pytest.mark.parametrize(
    ("held", "wanted", "difference", "option"),
    [
        (
            {"short_side": 128},
            {"short_side": 256},
            "- its frames have a short side of at most 128 pixels, the recipe needs 256",
            "--short-side 256",
        ),
        (
            {"mode": "native"},
            {"mode": "canonical"},
            "- its mode is native, the recipe needs canonical",
            "--mode canonical",
        ),
        (
            {},
            {"fps": 15.0},
            "- it stores every frame, the recipe needs 15 frames per second",
            "--fps 15",
        ),
        (
            {"fps": 12.5},
            {"frame_stride": 1},
            "- it stores 12.5 frames per second, the recipe needs every frame",
            "--frame-stride 1",
        ),
        (
            {"frame_stride": 3},
            {"frame_stride": 2},
            "- it stores one frame in 3, the recipe needs one frame in 2",
            "--frame-stride 2",
        ),
    ],
)
def test_each_difference_is_named_with_its_option(held, wanted, difference, option):
    lines = refusal(facts(**held), **wanted)
    assert lines == [
        "shards does not fit the recipe:",
        difference,
        "What would make it fit:",
        f"- gopstream shard VIDEOS --out OTHER {option}",
        "To use it as it is, give --force, or change [data] of the recipe.",
    ]


def test_all_differences_are_named_at_once():
    lines = refusal(
        facts("motion", short_side=128, fps=10.0),
        fps=15.0,
        short_side=256,
        mode="native",
        planes=("frames", "residual", "captions"),
    )
    assert lines[1:7] == [
        "- its mode is canonical, the recipe needs native",
        "- its frames have a short side of at most 128 pixels, the recipe needs 256",
        "- it stores 10 frames per second, the recipe needs 15 frames per second",
        "- the plane frames is missing",
        "- the plane residual is missing",
        "- the plane captions is missing",
    ]
    assert lines[8:10] == [
        "- gopstream shard VIDEOS --out OTHER --mode native --short-side 256 --fps 15 "
        "--planes frames,motion,residual",
        "- gopstream planes add OTHER captions --from FOLDER",
    ]


def test_a_rate_and_a_stride_of_one_are_one_wish():
    wanted = {"fps": 15.0, "frame_stride": 1}
    check_fit(facts(fps=15.0), DataRecipe(**wanted), url="shards")
    assert len(refusal(facts(), **wanted)) == 5


def test_a_plane_of_the_users_own_needs_nothing_else():
    lines = refusal(facts(), planes=("captions",))
    assert lines[2:-1] == [
        "What would make it fit:",
        "- gopstream planes add shards captions --from FOLDER",
    ]


def test_a_residual_alone_is_added_to_the_dataset_itself():
    lines = refusal(facts(), planes=("residual",))
    assert lines[3] == "- gopstream planes add shards residual --videos VIDEOS"


def test_a_dataset_of_an_older_version_that_does_not_say_fps_stores_every_frame():
    held = DatasetFacts((), ("frames", "motion"), {"mode": "canonical", "frame_stride": 1})
    check_fit(held, DataRecipe(frame_stride=1), url="shards")
    with pytest.raises(UserError, match="it stores every frame, the recipe needs 8 frames"):
        check_fit(held, DataRecipe(fps=8), url="shards")


def test_force_goes_on_and_warns(capsys):
    check_fit(facts(), DataRecipe(short_side=128), url="shards", force=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "warning: shards does not fit the recipe:" in captured.err
    assert "at most 256 pixels, the recipe needs 128" in captured.err
    assert "--force" in captured.err
