"""A wrong type or value is said where it is given, by the name that the user wrote."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("torch", reason="loading needs torch")

from gopstream.shards import (  # noqa: E402
    Cache,
    ClipSpec,
    EpochOrders,
    MixedDataset,
    MotionSpec,
    ReadOptions,
    ShardDataset,
    Share,
    Shuffle,
    StreamingLoader,
    TransformSpec,
    VectorSpec,
    View,
    view_batches,
)
from gopstream.shards.errors import ShardError  # noqa: E402
from gopstream.shards.value_checks import check_fields, check_value  # noqa: E402

SPEC = ClipSpec(num_frames=2, transform=TransformSpec(size=16))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, int),
        (np.int64(3), int),
        (3, float),
        (np.float32(0.5), float),
        (True, bool),
        (np.bool_(True), bool),
        ("a", Literal["a", "b"]),
        (None, int | None),
        ((1, 2.5), tuple[float, float]),
        ([1, 2], tuple[int, ...]),
        ((), tuple[str, ...]),
        (Path("x"), Path | str),
    ],
)
def test_what_fits_is_taken(value, kind):
    check_value("it", value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (True, int, "it must be a whole number, got True"),
        (True, float, "it must be a number, got True"),
        (2.0, int, "it must be a whole number, got 2.0"),
        ("2", float, "it must be a number, got '2'"),
        (1, bool, "it must be True or False, got 1"),
        ("x", Literal["ab", "cd"], "it must be one of ab, cd, got 'x'"),
        ("abb", Literal["ab", "cd"], r"one of ab, cd, got 'abb' \(did you mean 'ab'"),
        ((1, 2, 3), tuple[float, float], r"it must be 2 numbers, got \(1, 2, 3\)"),
        ("ab", tuple[str, ...], "it must be a tuple of strings, got 'ab'"),
        ((1, "a"), tuple[int, ...], "it must be a tuple of whole numbers"),
        ("x", int | None, "it must be a whole number or None, got 'x'"),
        (1, Cache | Literal["auto"] | None, "it must be a Cache, 'auto' or None, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(value, kind, problem):
    with pytest.raises(ValueError, match=problem):
        check_value("it", value, kind)


def test_the_smallest_number_is_allowed():
    check_value("it", 1, int, at_least=1)
    with pytest.raises(ValueError, match="it must be at least 1, got 0"):
        check_value("it", 0, int, at_least=1)


def test_a_field_is_named_with_its_class():
    @dataclass(frozen=True)
    class Pair:
        first: int = 0
        second: str = ""

    check_fields(Pair())
    with pytest.raises(ValueError, match="Pair.second must be a string, got 3"):
        check_fields(Pair(second=3))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: ClipSpec(num_frames=8.0), "ClipSpec.num_frames must be a whole number, got 8.0"),
        (lambda: ClipSpec(num_frames=8, stride=2.5), "ClipSpec.stride must be a whole number"),
        (lambda: ClipSpec(8, motion=True), "ClipSpec.motion must be a MotionSpec or None"),
        (lambda: ClipSpec(8, residual="yes"), "ClipSpec.residual must be True or False"),
        (lambda: ClipSpec(8, transform={"size": 8}), "transform must be a TransformSpec, got {"),
        (lambda: ClipSpec(8, sampling="dens"), r"sampling must be one of .*did you mean 'dense'"),
        (lambda: MotionSpec(1, 4, 8, on="gpu"), "MotionSpec.on must be one of worker, device"),
        (lambda: VectorSpec(grid="8"), "VectorSpec.grid must be a whole number, got '8'"),
        (lambda: TransformSpec(size=(224, 224)), r"size must be a whole number, got \(224, 224\)"),
        (lambda: TransformSpec(flip="0.5"), "flip must be a number, got '0.5'"),
        (lambda: TransformSpec(crop_scale=0.5), "crop_scale must be 2 numbers, got 0.5"),
        (lambda: Shuffle("windows", "16"), "window_shards must be a whole number, got '16'"),
        (lambda: Share("8"), "Share.batch_size must be a whole number, got '8'"),
        (lambda: ReadOptions(planes=("audio",)), "planes must be of frames, .* got 'audio'"),
        (lambda: ReadOptions(planes="frames"), "planes must be a tuple of strings"),
        (lambda: ReadOptions(cache="on"), "cache must be a Cache, 'auto' or None, got 'on'"),
        (lambda: Cache(3), "Cache.folder must be a Path, a string or None, got 3"),
        (lambda: Cache("x", "1GB"), "Cache.max_bytes must be a whole number or None"),
    ],
)
def test_a_value_type_refuses_what_it_cannot_mean(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


def test_lists_are_as_good_as_tuples():
    assert TransformSpec(crop_scale=[0.5, 1]).crop_scale == [0.5, 1]


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return ShardDataset(dataset_root, "train")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"workers": "2"}, "workers must be a whole number, got '2'"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": 1.0}, "seed must be a whole number, got 1.0"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"prefetch": 0}, "prefetch must be at least 1, got 0"),
        ({"shuffle": "windows"}, "shuffle must be a Shuffle, got 'windows'"),
        ({"shuffle": False}, "shuffle must be a Shuffle, got False"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip, got 'ignore'"),
        ({"last": "keep"}, "last must be one of drop, fill, got 'keep'"),
        ({"pin_memory": "no"}, "pin_memory must be True or False or None"),
        ({"rank": "0", "world_size": 1}, "rank must be a whole number, got '0'"),
    ],
)
def test_the_loader_refuses_what_it_cannot_mean(dataset, options, problem):
    given = {"batch_size": 2, "seed": 0} | options
    with pytest.raises(ValueError, match=problem):
        StreamingLoader(dataset, SPEC, **given)


def test_other_things_than_datasets_and_specs_are_refused(dataset, dataset_root):
    with pytest.raises(ValueError, match="dataset must be a ShardDataset or a MixedDataset"):
        StreamingLoader(str(dataset_root), SPEC, batch_size=2, seed=0)
    with pytest.raises(ValueError, match="dataset must be a ShardDataset or a MixedDataset"):
        EpochOrders("shards", seed=0, shuffle=Shuffle())
    with pytest.raises(ValueError, match="spec must be a ClipSpec, got 8"):
        StreamingLoader(dataset, 8, batch_size=2, seed=0)
    with pytest.raises(ValueError, match=r"got 'shards'; give ShardDataset\(ROOT, SPLIT\)"):
        MixedDataset(["shards"])
    for nothing in (dataset, []):
        with pytest.raises(ShardError, match="a mixture needs a list of datasets"):
            MixedDataset(nothing)
    with pytest.raises(ShardError, match=r"000000\.tar: is a shard, not a dataset.*read_shards"):
        ShardDataset(dataset_root / "train" / "000000.tar", "train")
    with pytest.raises(ValueError, match="split must be a string, got 3"):
        ShardDataset(dataset_root, 3)
    with pytest.raises(ValueError, match="classes must be a list of names, got 'left'"):
        ShardDataset(dataset_root, "train", classes="left")
    with pytest.raises(ValueError, match="reading must be a ReadOptions or None, got 'shards'"):
        ShardDataset(dataset_root, "train", reading="shards")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"weights": [1]}, "a weight for each dataset, got 2 datasets and 1 weights"),
        ({"weights": [1, -1]}, "weights must be positive and finite"),
        ({"weights": ["a", "b"]}, "weights must be a tuple of numbers"),
        ({"weights": 1.0}, "got 2 datasets and 1 weights"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_samples": 5.0}, "num_samples must be a whole number, got 5.0"),
        ({"weights": [1, 1000], "num_samples": 10}, "dataset 0 .* has no place in an epoch of 10"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_when_it_is_made(dataset, options, problem):
    with pytest.raises(ValueError, match=problem):
        MixedDataset([dataset, dataset], **options)


def test_a_mixture_s_weights_may_be_any_sequence(dataset):
    for weights in ([3, 1], (3, 1), np.array([3, 1]), np.array([3.0, 1.0])):
        mixed = MixedDataset([dataset, dataset], weights=weights, num_samples=8)
        assert mixed.mixture.counts == (6, 2)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"views": []}, "views must be a list with at least one View"),
        ({"views": View(0, 1, 0, 1)}, "views must be a list"),
        ({"views": [(0, 1, 0, 1)]}, "a view must be a View, got"),
        ({"views": [View(0, 1, 0, 1), View(2, 2, 0, 1)]}, "clip .* less than num_clips = 2, got 2"),
        ({"views": [View(0, 1, -1, 1)]}, "crop of a view must be at least 0, got -1"),
        ({"views": [View(0, 0, 0, 1)]}, "num_clips of a view must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": None}, "workers must be a whole number, got None"),
    ],
)
def test_views_are_checked_before_the_first_batch(dataset, options, problem):
    given = {"batch_size": 2, "views": [View(0, 1, 0, 1)]} | options
    with pytest.raises(ValueError, match=problem):
        view_batches(dataset, SPEC, **given)
