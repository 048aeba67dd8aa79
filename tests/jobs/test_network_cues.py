"""A model's cue decides what a clip must hold, and what the model is fed."""

from dataclasses import replace

import pytest
import torch

from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.evaluate import _without_motion, evaluate
from gopstream.jobs.network import (
    build_network,
    check_dataset,
    clip_spec,
    in_units_of_frames,
    run_network,
)
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.train import train
from gopstream.models.catalogue import find_model
from gopstream.shards import MotionSpec, RgbResidualSpec, ShardDataset, View, view_batches
from gopstream.shards.edit_planes import drop_plane
from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch_ops import normalise
from gopstream.shards.local_storage import LocalStorage

CONTRACT = find_model("dvt_tiny").contract


def recipe_of(cue, *more):
    overrides = ("train.steps=2", "train.batch_size=4", f"model.options.cue={cue}", *more)
    return load_recipe("dvt_tiny_demo", overrides)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos of 64x64, one of each motion, with all planes."""
    folder = tmp_path_factory.mktemp("cues")
    write_demo_videos(folder, split="train", videos_per_class=1, seed=1, num_frames=20, size=64)
    words = ["shard", str(folder / "train"), "--out", str(folder / "set"), "--short-side", "64"]
    assert main([*words, "--workers", "1"]) == 0
    return folder / "set"


@pytest.fixture(scope="module")
def residual_batch(root):
    recipe = recipe_of("residual")
    spec = clip_spec(recipe, build_network(recipe, 8))
    views = [View(0, 1, 0, 1)]
    (batch,) = view_batches(ShardDataset(root, "train"), spec, batch_size=8, views=views)
    return batch


@pytest.mark.parametrize(
    ("cue", "motion", "rgb_residual"),
    [
        ("motion", MotionSpec(query_stride=2, subclip_frames=4, grid=8), None),
        ("residual", None, RgbResidualSpec(query_stride=2, subclip_frames=4)),
        ("difference", None, None),
        ("average", None, None),
        ("none", None, None),
    ],
)
def test_a_clip_holds_what_the_cue_is_made_of(cue, motion, rgb_residual):
    recipe = recipe_of(cue)
    spec = clip_spec(recipe, build_network(recipe, 8))
    assert (spec.motion, spec.rgb_residual) == (motion, rgb_residual)


@pytest.mark.parametrize("cue", ["motion", "residual"])
def test_a_control_without_motion_reads_none(cue):
    recipe = recipe_of(cue, "model.use_motion=false")
    spec = clip_spec(recipe, build_network(recipe, 8))
    assert spec.motion is None and spec.rgb_residual is None


def test_differences_have_the_unit_of_normalised_frames():
    """The difference of two normalised pictures is the scaled difference of their levels."""
    levels = torch.randint(0, 256, (2, 3, 2, 4, 4), dtype=torch.uint8)
    scale = {"mean": (0.4, 0.5, 0.45), "std": (0.2, 0.25, 0.3)}
    one, other = normalise(levels, **scale).unbind(2)
    difference = (levels[:, :, 0].float() - levels[:, :, 1].float())[:, None, :, None]
    scaled = in_units_of_frames(difference.half(), std=scale["std"])
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled[:, 0, :, 0], one - other, atol=2e-3, rtol=1e-3)


def test_the_model_is_fed_the_residual_and_where_it_is_known(residual_batch):
    torch.manual_seed(0)
    network = build_network(recipe_of("residual"), 8).eval()
    frames = normalise(residual_batch.frames, mean=CONTRACT.mean, std=CONTRACT.std)
    cue = in_units_of_frames(residual_batch.rgb_residual, std=CONTRACT.std)
    with torch.inference_mode():
        expected = network(frames, motion=cue, valid=residual_batch.rgb_valid)
        found = run_network(network, residual_batch, contract=CONTRACT)
        everywhere = network(frames, motion=cue)
    assert torch.equal(found, expected)
    assert not torch.equal(everywhere, expected), "validity counts in the means of larger cells"
    assert residual_batch.rgb_residual.any()


def test_a_zeroed_residual_is_another_input(residual_batch):
    torch.manual_seed(0)
    network = build_network(recipe_of("residual"), 8).eval()
    still = _without_motion(network, residual_batch)
    assert not still.rgb_residual.any() and still.rgb_valid.all()
    assert torch.equal(still.frames, residual_batch.frames)
    with torch.inference_mode():
        logits = [
            run_network(network, batch, contract=CONTRACT) for batch in (residual_batch, still)
        ]
    assert not torch.equal(*logits)


def test_a_batch_without_a_cue_feeds_frames_alone(residual_batch):
    network = build_network(recipe_of("difference"), 8).eval()
    alone = replace(residual_batch, rgb_residual=None, rgb_valid=None)
    with torch.inference_mode():
        frames = normalise(alone.frames, mean=CONTRACT.mean, std=CONTRACT.std)
        assert torch.equal(run_network(network, alone, contract=CONTRACT), network(frames))


@pytest.mark.parametrize("cue", ["residual", "average"])
def test_a_cue_is_trained_and_evaluated(root, tmp_path, cue):
    train(recipe_of(cue), root, out=tmp_path / "run")
    result = evaluate(tmp_path / "run", root, split="train", views="1x1")
    zeroed = evaluate(tmp_path / "run", root, split="train", views="1x1", zero_motion=True)
    assert result["samples"] == zeroed["samples"] == 8


def test_a_dataset_without_the_residual_is_refused(root, tmp_path):
    storage = LocalStorage(tmp_path / "set")
    (tmp_path / "set").mkdir()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            storage.write(str(path.relative_to(root)), path.read_bytes())
    drop_plane(storage, "residual", ["train"])
    dataset = ShardDataset(tmp_path / "set", "train")
    recipe = recipe_of("residual")
    spec = clip_spec(recipe, build_network(recipe, 8))
    with pytest.raises(ShardError, match="has no residual plane"):
        check_dataset(dataset, spec)
    motion = recipe_of("motion")
    check_dataset(dataset, clip_spec(motion, build_network(motion, 8)))
