import itertools
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.shards import ShardDataset, StreamingLoader  # noqa: E402
from gopstream.shards.errors import DamageError, ShardError  # noqa: E402
from gopstream.shards.index import load_index  # noqa: E402
from gopstream.shards.loading.clip_spec import ClipSpec, MotionSpec, View  # noqa: E402
from gopstream.shards.loading.loader import view_batches  # noqa: E402
from gopstream.shards.loading.transform_spec import TransformSpec  # noqa: E402
from gopstream.shards.local_storage import LocalStorage  # noqa: E402

SPEC = ClipSpec(
    num_frames=4,
    stride=2,
    transform=TransformSpec(size=32, flip=0.5),
    motion=MotionSpec(query_stride=2, subclip_frames=2, grid=4),
)


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return ShardDataset(dataset_root, "train")


def make_loader(dataset, *, workers=0, seed=1, batch_size=2):
    return StreamingLoader(dataset, SPEC, batch_size=batch_size, seed=seed, workers=workers)


def assert_same_batches(first, second):
    assert [batch.keys for batch in first] == [batch.keys for batch in second]
    for one, other in zip(first, second, strict=True):
        for name in ("frames", "motion", "valid", "labels"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_batch_has_the_stated_shapes_and_types(dataset):
    batch = next(iter(make_loader(dataset)))
    assert (batch.frames.shape, batch.frames.dtype) == ((2, 3, 4, 32, 32), torch.uint8)
    assert (batch.motion.shape, batch.motion.dtype) == ((2, 2, 2, 2, 4, 4), torch.float32)
    assert (batch.valid.shape, batch.valid.dtype) == ((2, 2, 2, 4, 4), torch.bool)
    assert batch.labels.dtype == torch.int64
    assert not batch.motion[~batch.valid[:, :, None].expand_as(batch.motion)].any()


def test_labels_belong_to_keys(dataset):
    known = dict(zip(dataset.keys, dataset.labels.tolist(), strict=True))
    for batch in make_loader(dataset):
        assert [known[key] for key in batch.keys] == batch.labels.tolist()


def test_an_epoch_shows_each_sample_at_most_once_and_leaves_out_the_rest(dataset):
    loader = make_loader(dataset)
    assert len(loader) == 3
    shown = [key for batch in loader for key in batch.keys]
    assert len(shown) == len(set(shown)) == 6


def test_the_next_epoch_has_another_order(dataset):
    loader = make_loader(dataset)
    first, second = list(loader), list(loader)
    assert [batch.keys for batch in first] != [batch.keys for batch in second]
    state = loader.state_dict()
    assert state.pop("shards") > 0
    assert state.pop("content") > 0
    assert state == {
        "seed": 1,
        "epoch": 2,
        "position": 0,
        "num_samples": 7,
        "shuffle": "global",
        "selection": 0,
    }


def test_two_workers_give_the_same_batches_as_none(dataset):
    alone, together = make_loader(dataset), make_loader(dataset, workers=2)
    for _ in range(2):
        assert_same_batches(list(alone), list(together))


def test_global_random_numbers_play_no_part(dataset):
    first = list(make_loader(dataset))
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002
    assert_same_batches(list(make_loader(dataset)), first)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumes_after_any_batch_with_the_same_rest(dataset, workers):
    whole = make_loader(dataset)
    batches = [batch for _ in range(2) for batch in whole]
    loader = make_loader(dataset)
    states = [loader.state_dict()]
    for _ in range(2):
        states += [loader.state_dict() for _ in loader]
    for number, state in enumerate(states[:-1]):
        resumed = make_loader(dataset, workers=workers)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        rest = []
        while len(rest) < len(batches) - number:
            rest += list(resumed)
        assert_same_batches(rest, batches[number:])
        if workers:
            break


def test_a_state_of_another_seed_is_refused(dataset):
    with pytest.raises(ValueError, match="seed 2"):
        make_loader(dataset).load_state_dict(make_loader(dataset, seed=2).state_dict())


def test_appended_samples_come_with_the_next_epoch(dataset, dataset_root):
    """The first shard alone stands for the dataset before the second one was appended."""
    (first_shard, _) = dataset.manifest.shards
    before = ShardDataset(dataset_root, "train", shards=[first_shard.name])
    whole = make_loader(before, batch_size=1)
    begun = make_loader(before, batch_size=1)
    iterator = iter(begun)
    next(iterator)
    state = begun.state_dict()
    resumed = make_loader(dataset, batch_size=1)
    resumed.load_state_dict(state)
    assert_same_batches(list(resumed), list(whole)[1:])
    assert len(resumed) == len(dataset)
    assert {key for batch in resumed for key in batch.keys} == set(dataset.keys)


def test_a_state_over_more_samples_than_there_are_is_refused(dataset, dataset_root):
    (first_shard, _) = dataset.manifest.shards
    fewer = ShardDataset(dataset_root, "train", shards=[first_shard.name])
    begun = make_loader(dataset)
    next(iter(begun))
    with pytest.raises(ValueError, match="over 7 samples.*some were removed"):
        make_loader(fewer).load_state_dict(begun.state_dict())


def test_fewer_samples_than_a_batch_are_refused(dataset):
    with pytest.raises(ShardError, match="fewer than a batch"):
        make_loader(dataset, batch_size=8)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"batches_per_step": 4}, "7 samples, fewer than 4 batches of 2$"),
        (
            {"batches_per_step": 2, "rank": 0, "world_size": 2},
            "7 samples, fewer than 2 batches of 2 on each of 2 ranks$",
        ),
        ({"rank": 1, "world_size": 4}, "7 samples, fewer than a batch of 2 on each of 4 ranks$"),
    ],
)
def test_fewer_samples_than_a_step_are_refused(dataset, options, problem):
    with pytest.raises(ShardError, match=problem):
        StreamingLoader(dataset, SPEC, batch_size=2, seed=1, **options)
    filled = StreamingLoader(dataset, SPEC, batch_size=2, seed=1, last="fill", **options)
    assert len(filled) == options.get("batches_per_step", 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumes_within_a_step_at_its_beginning(dataset, workers):
    """And a loop that breaks there is gone on with in the same loader."""

    def make():
        return StreamingLoader(
            dataset, SPEC, batch_size=1, batches_per_step=2, seed=1, workers=workers
        )

    whole = list(make_loader(dataset, batch_size=1))[:6]
    loader = make()
    assert len(loader) == 6
    begun = list(itertools.islice(loader, 3))
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["position"] == 2
    assert_same_batches(begun + list(loader), whole)
    resumed = make()
    resumed.load_state_dict(state)
    assert_same_batches(list(resumed), whole[2:])
    assert (resumed.state_dict()["epoch"], resumed.state_dict()["position"]) == (1, 0)


def test_views_come_in_order_and_the_last_batch_is_smaller(dataset):
    views = [View(clip, 2, 0, 1) for clip in range(2)]
    batches = list(view_batches(dataset, SPEC, batch_size=4, views=views))
    assert [len(batch.keys) for batch in batches] == [4, 4, 4, 2]
    assert [key for batch in batches for key in batch.keys] == [
        key for key in dataset.keys for _ in views
    ]


def test_views_are_the_same_with_workers(dataset):
    views = [View(0, 1, crop, 3) for crop in range(3)]
    alone = list(view_batches(dataset, SPEC, batch_size=5, views=views))
    together = list(view_batches(dataset, SPEC, batch_size=5, views=views, workers=2))
    assert_same_batches(alone, together)


def central_views(dataset):
    """Motion and validity of each sample's central view."""
    [batch] = view_batches(dataset, SPEC, batch_size=len(dataset), views=[View(0, 1, 0, 1)])
    return list(zip(batch.motion, batch.valid, strict=True))


def test_the_motion_of_a_query_to_itself_is_zero_and_valid(dataset):
    clip = central_views(dataset)[0]
    # Queries are frames 0 and 2, which are the first of their sub-clips of 2.
    assert not clip[0][:, :, 0].any()
    assert clip[1][:, 0].all()


def test_motion_points_along_the_class(dataset):
    """Content moves 3 pixels a frame to its class's side; a clip's step is 4 frames."""
    clips = central_views(dataset)
    for sample, label in enumerate(dataset.labels.tolist()):
        if dataset.sample(sample).num_frames < 20:
            continue
        motion, valid = (plane.numpy() for plane in clips[sample])
        across = motion[0, 0, 1][valid[0, 1]]
        side = min(dataset.sample(sample).frame_size)
        expected = (-1 if label == 0 else 1) * 3 * 4 * 32 / side
        assert np.median(across) == pytest.approx(expected, rel=0.15)


def test_a_damaged_jpeg_is_an_error_that_names_shard_and_key(own_root):
    index = load_index(LocalStorage(own_root), "train/000001.index.npz")
    path = own_root / "train" / "000001.tar"
    content = bytearray(path.read_bytes())
    key = index.keys[0].decode()
    for piece in range(int(index.frames.start[1])):  # all JPEGs of the sample
        content[int(index.frames.offset[piece]) + 200] ^= 1
    path.write_bytes(content)
    dataset = ShardDataset(own_root, "train")
    with pytest.raises(DamageError, match=rf"sample {key}: frames.*000001\.tar"):
        list(make_loader(dataset, batch_size=7))
    with pytest.raises(DamageError, match=rf"{key}.*000001\.tar"):
        list(make_loader(dataset, batch_size=7, workers=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "at least 1"),
        ({"num_frames": 4, "stride": 0}, "at least 1"),
        ({"num_frames": 4, "sampling": "sparse"}, "sampling must be one of dense"),
        ({"num_frames": 4, "motion": MotionSpec(1, 3, 4)}, "do not divide"),
    ],
)
def test_specs_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClipSpec(**options)
