"""A state goes on over the samples that it was made with, and over no others."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.jobs.preprocess import shard_folder  # noqa: E402
from gopstream.jobs.sharding_job import PlanChoice  # noqa: E402
from gopstream.shards import (  # noqa: E402
    ClipSpec,
    MixedDataset,
    ShardDataset,
    StreamingLoader,
    TransformSpec,
)
from gopstream.shards.edit_planes import drop_plane  # noqa: E402
from gopstream.shards.local_storage import LocalStorage  # noqa: E402

SPEC = ClipSpec(num_frames=2, transform=TransformSpec(size=16))


def make(dataset, **options):
    return StreamingLoader(dataset, SPEC, batch_size=1, seed=1, **options)


def state_after(dataset, steps=1, **options):
    """The state after some batches, and the keys of those that follow in the epoch."""
    loader = make(dataset, **options)
    batches = iter(loader)
    for _ in range(steps):
        next(batches)
    return loader.state_dict(), [batch.keys[0] for batch in batches]


def keys_of(loader):
    return [batch.keys[0] for batch in loader]


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return ShardDataset(dataset_root, "train")


@pytest.fixture(scope="module")
def fewer(dataset, dataset_root):
    """The dataset before its second shard was appended, or after that was removed."""
    first = dataset.manifest.shards[0].name
    return ShardDataset(dataset_root, "train", shards=[first])


@pytest.fixture(scope="module")
def remade(tmp_path_factory, videos, options):
    """The same videos in as many shards, with another quality."""
    root = tmp_path_factory.mktemp("remade") / "set"
    other = dataclasses.replace(options, quality=50)
    shard_folder(videos, root, options=other, choice=PlanChoice(videos_per_shard=3))
    return ShardDataset(root, "train")


def test_samples_of_other_content_are_refused(dataset, remade):
    assert remade.shard_starts.tolist() == dataset.shard_starts.tolist()
    state, _ = state_after(dataset)
    with pytest.raises(ValueError, match=r"other content: of other videos.*start_epoch\(0\)"):
        make(remade).load_state_dict(state)
    mixed, _ = state_after(MixedDataset([dataset, dataset]))
    with pytest.raises(ValueError, match="other content"):
        make(MixedDataset([dataset, remade])).load_state_dict(mixed)


def test_a_state_that_knows_no_content_is_taken(dataset, remade):
    """As states of earlier versions are."""
    state, rest = state_after(dataset)
    del state["content"]
    loader = make(remade)
    loader.load_state_dict(state)
    assert keys_of(loader) == rest


def test_a_copy_without_the_residual_is_the_same_data(dataset, own_root):
    state, rest = state_after(dataset)
    assert drop_plane(LocalStorage(own_root), "residual", ["train"]) > 0
    loader = make(ShardDataset(own_root, "train"))
    loader.load_state_dict(state)
    assert keys_of(loader) == rest


def test_what_was_appended_changes_nothing_of_what_was_there(dataset, fewer):
    size = len(fewer)
    assert dataset.content_hash(size) == fewer.content_hash(size) != dataset.content_hash(size + 1)


def test_a_selection_knows_the_content_of_its_last_shard_too(dataset, dataset_root, remade):
    where = f"key == '{dataset.keys[-1]}'"
    one = ShardDataset(dataset_root, "train", where=where)
    assert one.content_hash(1) == dataset.content_hash(len(dataset)) != dataset.content_hash(1)
    state, _ = state_after(one, steps=0)
    with pytest.raises(ValueError, match="other content"):
        make(ShardDataset(remade.root, "train", where=where)).load_state_dict(state)


def test_an_epoch_in_its_middle_needs_all_samples_that_it_began_with(dataset, fewer):
    state, _ = state_after(dataset)
    with pytest.raises(ValueError, match=r"over 7 samples, there are 3 now.*start_epoch\(0\)"):
        make(fewer).load_state_dict(state)


def test_an_epoch_that_has_not_begun_takes_the_samples_there_are(dataset, fewer):
    loader = make(dataset)
    keys_of(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)
    smaller = make(fewer)
    smaller.load_state_dict(state)
    assert smaller.state_dict()["num_samples"] == len(fewer) == len(smaller)
    assert sorted(keys_of(smaller)) == sorted(fewer.keys)
    with pytest.raises(ValueError, match="seed 1, this loader 2"):
        StreamingLoader(fewer, SPEC, batch_size=1, seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match="other weights="):
        make(fewer, weights=[1] * len(fewer)).load_state_dict(state)


def test_another_selection_is_said_before_its_length(dataset, dataset_root):
    left = ShardDataset(dataset_root, "train", classes=["left"])
    keys = dataset.keys
    pair, others = (
        ShardDataset(dataset_root, "train", where=f"key in {chosen!r}")
        for chosen in (keys[:2], keys[3:6])
    )
    for steps in (0, 1):
        for before, after in ((dataset, left), (left, dataset), (pair, others)):
            state, _ = state_after(before, steps)
            with pytest.raises(ValueError, match="another where=, classes= or labels="):
                make(after).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_is_begun_anew_whenever_asked_for(dataset, workers):
    loader = make(dataset, workers=workers)
    epochs = [keys_of(loader) for _ in range(3)]
    loader.start_epoch(1)
    assert keys_of(loader) == epochs[1]
    assert keys_of(loader) == epochs[2]
    loader.start_epoch(0)
    shown = []
    for batch in loader:
        shown += batch.keys
        if len(shown) == 2:
            loader.start_epoch(2)
    assert shown == epochs[0][:2] + epochs[2]


def test_a_dataset_that_lost_samples_is_gone_on_with_by_start_epoch(dataset, fewer):
    state, _ = state_after(dataset)
    loader = make(fewer)
    loader.start_epoch(state["epoch"])
    assert sorted(keys_of(loader)) == sorted(fewer.keys)


@pytest.mark.parametrize("epoch", [-1, 1.0, "1", None, True])
def test_an_epoch_is_a_number(dataset, epoch):
    with pytest.raises(ValueError, match="epoch must be"):
        make(dataset).start_epoch(epoch)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"position": -1}, "position must be at least 0"),
        ({"position": 8}, "position 8 is behind its 7 samples"),
        ({"position": 1.5}, "position must be a whole number"),
        ({"epoch": "1"}, "epoch must be a whole number, got '1'"),
        ({"epoch": -1}, "epoch must be at least 0"),
        ({"num_samples": None}, "num_samples must be a whole number"),
        ({"seed": 5}, "seed 5, this loader 1"),
        ({"more": 5}, "more 5, this loader None"),
    ],
)
def test_a_state_that_cannot_be_is_refused_and_nothing_changes(dataset, change, problem):
    state, rest = state_after(dataset)
    loader = make(dataset)
    loader.load_state_dict(state)
    with pytest.raises(ValueError, match=problem):
        loader.load_state_dict(state | change)
    assert loader.state_dict() == state
    assert keys_of(loader) == rest


def test_what_is_no_state_is_said(dataset):
    with pytest.raises(ValueError, match="not the state of a loader: it has no epoch"):
        make(dataset).load_state_dict({})


def test_weights_may_be_any_sequence_of_numbers(dataset):
    numbers = [1, 0, 0, 0, 0, 0, 2]
    want = keys_of(make(dataset, weights=np.array(numbers, np.float64)))
    for weights in (numbers, tuple(numbers), torch.tensor(numbers), np.array(numbers, np.float32)):
        assert keys_of(make(dataset, weights=weights)) == want
    for weights, problem in (
        ([1] * 6, "6 weights for 7 samples"),
        (["a"] * 7, "weights must be numbers"),
        (3, "1 weights for 7 samples"),
        ([[1]] * 7, "shape"),
        ([-1] * 7, "not negative"),
        ([0] * 7, "not all 0"),
    ):
        with pytest.raises(ValueError, match=problem):
            make(dataset, weights=weights)
