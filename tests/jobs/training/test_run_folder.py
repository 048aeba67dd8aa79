"""Whether a folder holds the run that is to go on."""

import json

import pytest

from gopstream.jobs.checkpoint import (
    BEST_FILE,
    CHECKPOINT_FILE,
    keep_best,
    keep_older,
    load_checkpoint,
    save_checkpoint,
)
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.training.run_folder import RECIPE_FILE, check_folder, write_recipe
from gopstream.shards.layout import partial_path

FREE = (
    "train.accumulate=2",
    "train.checkpoint_every=3",
    "train.keep=1",
    "train.log_every=1",
    "train.on_error=skip",
    "train.threads=2",
    "train.workers=3",
    "test.views=3x1",
)


def recipe(*overrides):
    return load_recipe("dvt_tiny_demo", overrides)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "run"
    write_recipe(folder, recipe())
    return folder


def test_a_new_or_an_empty_folder_is_taken(tmp_path):
    assert not check_folder(tmp_path / "new", recipe(), resume=False)
    (tmp_path / "empty").mkdir()
    assert not check_folder(tmp_path / "empty", recipe(), resume=False)


def test_a_folder_with_something_in_it_is_refused(out, tmp_path):
    with pytest.raises(UserError, match="is not empty; use --resume to continue"):
        check_folder(out, recipe(), resume=False)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is not empty"):
        check_folder(file, recipe(), resume=False)


def test_a_run_goes_on_from_its_checkpoint_or_begins_anew(out):
    assert not check_folder(out, recipe(), resume=True)
    save_checkpoint(out / CHECKPOINT_FILE, {"step": 1})
    assert check_folder(out, recipe(), resume=True)


@pytest.mark.parametrize("override", FREE)
def test_what_changes_no_clip_may_change(out, override):
    assert recipe(override) != recipe()
    assert not check_folder(out, recipe(override), resume=True)


@pytest.mark.parametrize(
    "override",
    [
        "train.batch_size=4",
        "train.learning_rate=0.1",
        "train.seed=1",
        "train.steps=601",
        "optimiser.weight_decay=0.1",
        "schedule.final_rate=0.5",
        "mix.mixup=0.1",
        "transform.flip=0.5",
        "clip.stride=3",
        "model.name=pst_tiny",
        "data.mode=canonical",
    ],
)
def test_what_else_differs_is_named(out, override):
    name = override.partition("=")[0]
    before = (out / RECIPE_FILE).read_bytes()
    with pytest.raises(UserError, match=f"holds a run of another recipe .* differs in {name};"):
        check_folder(out, recipe(override), resume=True)
    assert (out / RECIPE_FILE).read_bytes() == before


def test_all_that_differs_is_named(out):
    wanted = recipe("train.seed=1", "train.workers=3", "model.options.depth=3")
    with pytest.raises(UserError, match=r"differs in model\.options, train\.seed; nothing"):
        check_folder(out, wanted, resume=True)


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no run to resume"):
        check_folder(tmp_path / "new", recipe(), resume=True)


def test_the_recipe_is_kept_as_it_was_resolved(out):
    content = json.loads((out / RECIPE_FILE).read_text())
    assert content["train"]["batch_size"] == recipe().train.batch_size
    assert content["train"]["keep"] == 3  # a default
    assert [path.name for path in out.iterdir()] == [RECIPE_FILE]


def test_a_recipe_is_replaced_and_never_written_over(out):
    """Else a run that is killed while it goes on would have no recipe to go on with."""
    before = out.parent / "before"
    before.hardlink_to(out / RECIPE_FILE)
    content = before.read_bytes()
    write_recipe(out, recipe("train.workers=3"))
    assert before.read_bytes() == content
    assert json.loads((out / RECIPE_FILE).read_text())["train"]["workers"] == 3


def test_a_run_that_was_killed_in_its_first_moment_leaves_nothing_in_the_way(tmp_path):
    """It has a folder, and a recipe of which no one knows whether it is whole."""
    out = tmp_path / "run"
    out.mkdir()
    partial_path(out / RECIPE_FILE).write_text("{")
    assert not check_folder(out, recipe(), resume=False)


def test_what_a_killed_run_had_not_written_to_its_end_is_removed(out):
    partials = [partial_path(out / name) for name in (RECIPE_FILE, CHECKPOINT_FILE)]
    for partial in partials:
        partial.write_bytes(b"half")
    write_recipe(out, recipe())
    assert [path.name for path in out.iterdir()] == [RECIPE_FILE]


def test_a_checkpoint_that_has_its_other_name_already_leaves_nothing_beside_it(tmp_path):
    """A run that was killed names the same one again when it goes on."""
    save_checkpoint(tmp_path / CHECKPOINT_FILE, {"step": 3})
    for _ in range(2):
        keep_older(tmp_path, step=3, keep=3)
        keep_best(tmp_path)
    names = {BEST_FILE, CHECKPOINT_FILE, "checkpoint-00000003.pt"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all((tmp_path / name).samefile(tmp_path / BEST_FILE) for name in names)
    save_checkpoint(tmp_path / CHECKPOINT_FILE, {"step": 4})
    assert load_checkpoint(tmp_path / BEST_FILE)["step"] == 3
    keep_best(tmp_path)
    assert load_checkpoint(tmp_path / BEST_FILE)["step"] == 4
    assert {path.name for path in tmp_path.iterdir()} == names
