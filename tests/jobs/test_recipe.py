import math
import re

import pytest

from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import list_recipes, load_recipe, recipe_content, recipe_from
from gopstream.jobs.recipe_sections import DataRecipe, GroupRecipe

MINIMAL = """
[model]
name = "dvt_tiny"
[clip]
num_frames = 8
[train]
steps = 10
batch_size = 2
learning_rate = 1
"""


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return str(path)


def refuse(recipe, reason, *overrides):
    with pytest.raises(UserError, match=re.escape(reason)):
        load_recipe(recipe, overrides)


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_load(name):
    recipe = load_recipe(name)
    assert (recipe.train.steps > 0) != (recipe.train.epochs > 0)
    assert recipe_from(recipe_content(recipe), where="again") == recipe


def test_there_is_a_packaged_recipe():
    assert "dvt_tiny_demo" in list_recipes()


def test_file_with_defaults(minimal):
    recipe = load_recipe(minimal)
    assert recipe.model.use_motion
    assert recipe.clip.sampling == "dense"
    assert recipe.transform.crop_scale == (0.08, 1.0)
    assert recipe.data == DataRecipe()
    assert type(recipe.train.learning_rate) is float
    assert math.isclose(recipe.train.learning_rate, 1.0)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.steps=7", "train", "steps", 7),
        ("train.learning_rate=1e-3", "train", "learning_rate", 1e-3),
        ("train.learning_rate=2", "train", "learning_rate", 2.0),
        ("train.split=val", "train", "split", "val"),
        ('train.split="val"', "train", "split", "val"),
        ("clip.sampling=still", "clip", "sampling", "still"),
        ("transform.crop_scale=[0.5, 1]", "transform", "crop_scale", (0.5, 1.0)),
        ("transform.keep_direction=[86, 87]", "transform", "keep_direction", (86, 87)),
        ("data.fps=15", "data", "fps", 15.0),
        ("data.short_side=256", "data", "short_side", 256),
        ('data.planes=["frames", "residual"]', "data", "planes", ("frames", "residual")),
        ("data.planes=[]", "data", "planes", ()),
        ("data.mode=native", "data", "mode", "native"),
        ("model.use_motion=false", "model", "use_motion", False),
        ("model.options.mlp_ratio=3", "model", "options", {"mlp_ratio": 3}),
        ('optimiser.groups=[{match = "head.*"}]', "optimiser", "groups", (GroupRecipe("head.*"),)),
        ("mix.mixup=0.8", "mix", "mixup", 0.8),
        ("test.views=4x3", "test", "views", "4x3"),
        ("schedule.kind=cosine", "schedule", "kind", "cosine"),
    ],
)
def test_overrides(minimal, override, section, key, value):
    got = getattr(getattr(load_recipe(minimal, [override]), section), key)
    assert got == value
    assert type(got) is type(value)


def test_an_override_takes_the_place_of_what_says_the_same_otherwise(minimal):
    longer = load_recipe(minimal, ["train.epochs=2", "schedule.warmup_epochs=0.5"])
    assert (longer.train.steps, longer.train.epochs) == (0, 2.0)
    again = load_recipe(minimal, ["train.epochs=2", "train.steps=3", "schedule.warmup_steps=1"])
    assert (again.train.steps, again.train.epochs, again.schedule.warmup_steps) == (3, 0.0, 1)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ["model.name=dvt_tinny"],
            "model: no model is called 'dvt_tinny'",
        ),
        (["model.options.dept=3"], "model: dvt_tiny has no option 'dept'"),
        (["model.mean=[0, 0, 0]"], "mean and std are for a network of your own"),
        (["clip.sampling=dens"], "clip: ClipSpec.sampling must be one of"),
        (["train.accumulate=3"], "batch_size = 2 does not divide into accumulate = 3 parts"),
        (["train.batch_size=0"], "batch_size must be at least 1, got 0"),
        (["train.trainable=head"], "give model.weights"),
        (["train.labels=a", 'train.label_sets=["b"]'], "two ways to say what is learnt"),
        (["train.ema=1.0"], "ema must be from 0 to below 1"),
        (["optimiser.nesterov=true"], "nesterov is for sgd with momentum"),
        (["optimiser.layer_decay=0.0"], "layer_decay must be above 0"),
        (["optimiser.groups=[{match = 3}]"], "match: expected str, got 3"),
        (['optimiser.groups=[{match = "a", rat = 3}]'], "unknown key 'rat' (did you mean 'rate'?)"),
        (["schedule.milestones=[1]"], 'milestones are for kind = "steps"'),
        (["schedule.kind=steps", "schedule.milestones=[1]"], "milestones count epochs"),
        (["schedule.final_rate=2.0"], "final_rate must be from 0 to 1"),
        (["mix.mixup=-1.0"], "mixup must not be negative"),
        (["test.views=3x"], "views must be clips x crops, such as 4x3, got '3x'"),
        (["test.average=mean"], "average: got 'mean'"),
        (["paper.source=x"], "paper: dataset is missing"),
    ],
)
def test_what_cannot_be_meant_is_named(minimal, overrides, reason):
    refuse(minimal, reason, *overrides)


def test_last_override_counts(minimal):
    assert load_recipe(minimal, ["train.steps=7", "train.steps=8"]).train.steps == 8


@pytest.mark.parametrize("override", ["train.steps", "steps=3", "=3"])
def test_malformed_overrides(minimal, override):
    refuse(
        minimal, f"expected section.key=value, such as train.steps=100, got {override!r}", override
    )


def test_override_below_a_value(minimal):
    refuse(minimal, "steps is not a section", "train.steps.more=3")


def test_unknown_keys_name_the_nearest(minimal):
    refuse(
        minimal,
        "unknown key 'learning_rat' (did you mean 'learning_rate'?)",
        "train.learning_rat=1",
    )
    refuse(minimal, "unknown key 'trian' (did you mean 'train'?)", "trian.steps=1")
    refuse(minimal, "unknown key 'qqq'; there is num_frames, stride,", "clip.qqq=1")
    refuse(
        minimal, "data: unknown key 'shortside' (did you mean 'short_side'?)", "data.shortside=1"
    )


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.steps=many", "train: steps: expected int, got 'many'"),
        ("train.steps=true", "train: steps: expected int, got True"),
        ("train.steps=1.5", "train: steps: expected int, got 1.5"),
        ("train.learning_rate=true", "learning_rate: expected float, got True"),
        ("model.use_motion=1", "use_motion: expected bool, got 1"),
        ("train.split=3", "split: expected str, got 3"),
        ("transform.crop_scale=0.5", "crop_scale: expected 2 values in brackets, got 0.5"),
        ("transform.crop_scale=[1]", "crop_scale: expected 2 values in brackets, got [1]"),
        ("transform.crop=arae", "crop: got 'arae' (did you mean 'area'"),
        ("data.fps=fast", "data: fps: expected float, got 'fast'"),
        ("data.fps=0", "data: fps must be above 0, got 0"),
        ("data.short_side=-1", "data: short_side must be above 0, got -1"),
        ("data.short_side=2.5", "data: short_side: expected int, got 2.5"),
        ("data.planes=frames", "data: planes: expected values in brackets, got 'frames'"),
        ("data.planes=[1]", "data: planes: expected str, got 1"),
        ("data.mode=fast", "data: mode must be canonical or native, got 'fast'"),
        ("model.options=1", "options: expected dict, got 1"),
    ],
)
def test_wrong_types(minimal, override, reason):
    refuse(minimal, reason, override)


def test_frames_are_stored_by_time_or_by_number(minimal):
    overrides = ("data.fps=15", "data.frame_stride=2")
    refuse(minimal, "data: frames are stored either by fps or by a frame_stride", *overrides)
    assert load_recipe(minimal, ["data.fps=15", "data.frame_stride=1"]).data.fps == 15


def test_section_must_be_a_section():
    with pytest.raises(UserError, match="x: train: expected a section, got 3"):
        recipe_from(
            {"model": {"name": "dvt_tiny"}, "clip": {"num_frames": 8}, "train": 3}, where="x"
        )


def test_missing_keys(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(MINIMAL.replace("batch_size = 2\n", ""))
    refuse(str(path), "batch_size is missing")
    path.write_text(MINIMAL.replace("steps = 10\n", ""))
    refuse(str(path), "train: give steps or epochs, one of the two")
    with pytest.raises(UserError, match="x: model is missing"):
        recipe_from({}, where="x")


def test_unknown_recipe_names_the_nearest():
    refuse(
        "dvt_tiny_dmo", "no recipe 'dvt_tiny_dmo' (did you mean 'dvt_tiny_demo'?); or give a file"
    )


def test_broken_toml(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("[model\n")
    refuse(str(path), "broken.toml: not valid TOML")
