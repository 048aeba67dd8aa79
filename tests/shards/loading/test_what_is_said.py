"""What a user reads: errors at the construction of a loader, keys of broken clips, reprs, dir()."""

import dataclasses
import pickle
import subprocess
import sys

import pyarrow.parquet
import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

import gopstream.shards  # noqa: E402
import gopstream.shards.loading  # noqa: E402
from gopstream.jobs.preprocess import shard_folder  # noqa: E402
from gopstream.shards import (  # noqa: E402
    ClipDataset,
    ClipSpec,
    MixedDataset,
    MotionSpec,
    ShardDataset,
    StreamingLoader,
    TransformSpec,
    View,
    view_batches,
)
from gopstream.shards.edit_planes import drop_plane  # noqa: E402
from gopstream.shards.errors import FormatError, ShardError  # noqa: E402
from gopstream.shards.loading.clips import ViewDataset  # noqa: E402
from gopstream.shards.local_storage import LocalStorage  # noqa: E402
from gopstream.shards.sample_table import key_at  # noqa: E402

SPEC = ClipSpec(num_frames=2, transform=TransformSpec(size=16))
ONE_VIEW = [View(0, 1, 0, 1)]


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return ShardDataset(dataset_root, "train")


@pytest.fixture(scope="module")
def blind(tmp_path_factory, videos, options):
    """A dataset without frames."""
    root = tmp_path_factory.mktemp("blind") / "set"
    shard_folder(videos, root, options=dataclasses.replace(options, planes=("motion",)))
    return ShardDataset(root, "train")


def make(dataset, spec=SPEC, **more):
    return StreamingLoader(dataset, spec, batch_size=1, seed=0, **more)


# Planes


def test_a_dataset_without_frames_is_refused_when_the_loader_is_made(blind):
    problem = f"{blind.root}/train: the dataset has no frames plane .it has motion., .*--planes"
    with pytest.raises(ShardError, match=problem):
        make(blind)
    with pytest.raises(ShardError, match=problem):
        view_batches(blind, SPEC, batch_size=1, views=ONE_VIEW)


def test_all_planes_that_are_not_there_are_named_at_once(blind):
    wanted = dataclasses.replace(SPEC, residual=True)
    problem = (
        f"{blind.root}/train: the dataset has no frames and no residual plane .it has motion., and "
        "clips have frames and the ClipSpec asks for the residual: gopstream shard VIDEOS --out "
        "OTHER --planes frames,motion,residual$"
    )
    with pytest.raises(ShardError, match=problem):
        make(blind, wanted)


def test_a_part_of_a_mixture_that_lacks_the_residual_is_named(dataset, own_root):
    drop_plane(LocalStorage(own_root), "residual", ["train"])
    bare = ShardDataset(own_root, "train")
    with_residual = dataclasses.replace(SPEC, residual=True)
    mixed = MixedDataset([dataset, bare])
    make(mixed)
    make(dataset, with_residual)
    problem = f"{own_root}/train: the dataset has no residual plane .*gopstream planes add"
    for refused in (mixed, bare):
        with pytest.raises(ShardError, match=problem):
            make(refused, with_residual)
        with pytest.raises(ShardError, match=problem):
            ClipDataset(refused, with_residual, seed=0)
        with pytest.raises(ShardError, match=problem):
            ViewDataset(refused, with_residual, ONE_VIEW)


# Damage


@pytest.mark.parametrize("workers", [0, 1])
def test_the_key_of_a_clip_whose_index_is_gone_is_that_of_the_table(own_root, dataset, workers):
    (own_root / "train" / "000001.index.npz").unlink()
    lost = set(dataset.keys[int(dataset.shard_starts[1]) :])
    whole = StreamingLoader(
        MixedDataset([ShardDataset(own_root, "train")]),
        SPEC,
        batch_size=7,
        seed=0,
        workers=workers,
        on_error="skip",
    )
    with pytest.warns(UserWarning, match="was left out: sample train-.*index is missing"):
        [batch] = whole
    assert {skipped.key for skipped in batch.skipped} == lost
    assert all(f"sample {one.key}: " in one.message for one in batch.skipped)
    assert {*batch.keys} == {*dataset.keys} - lost


def test_a_selection_s_key_of_a_missing_index_is_the_right_one(own_root, dataset):
    where = f"key in {[dataset.keys[1], dataset.keys[-1]]!r}"
    some = ShardDataset(own_root, "train", where=where)
    (own_root / "train" / "000001.index.npz").unlink()
    some = pickle.loads(pickle.dumps(some))  # it holds no index
    expected = [dataset.keys[1], dataset.keys[-1]]
    assert [some.known_key(number) for number in range(2)] == expected
    mixed = MixedDataset([dataset, some])
    assert [mixed.known_key(number) for number in range(9)] == dataset.keys + expected


@pytest.mark.parametrize("rows_in_a_group", [1, 2, 3, 100])
def test_a_key_is_read_from_its_row_of_the_table(own_root, dataset, rows_in_a_group):
    path = own_root / "train" / "samples.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table, path, row_group_size=rows_in_a_group)
    storage = LocalStorage(own_root)
    assert [key_at(storage, "train", number) for number in range(7)] == dataset.keys
    with pytest.raises(FormatError, match=r"samples\.parquet: has no such row"):
        key_at(storage, "train", 7)
    path.write_bytes(b"nothing")
    with pytest.raises(FormatError, match="not a whole table"):
        key_at(storage, "train", 0)
    path.unlink()
    with pytest.raises(ShardError, match="is missing"):
        key_at(storage, "train", 0)


def test_a_key_that_nothing_says_is_empty(own_root):
    for name in ("000001.index.npz", "samples.parquet"):
        (own_root / "train" / name).unlink()
    assert ShardDataset(own_root, "train").known_key(6) == ""


def test_a_missing_tar_is_an_error_with_shard_and_key(own_root):
    (own_root / "train" / "000000.tar").unlink()
    dataset = ShardDataset(own_root, "train")
    problem = rf"shard .*train/000000, sample {dataset.key(0)}: .*000000\.tar: not there"
    with pytest.raises(ShardError, match=problem):
        next(view_batches(dataset, SPEC, batch_size=1, views=ONE_VIEW))


def test_a_corrupt_index_tells_what_to_run(own_root):
    path = own_root / "train" / "000000.index.npz"
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"000000\.index\.npz: .*run 'gopstream verify'"):
        _ = ShardDataset(own_root, "train").labels


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("on", ["worker", "device"])
def test_a_batch_of_views_may_have_no_clip(own_root, on, workers):
    (own_root / "train" / "000000.tar").unlink()
    dataset = ShardDataset(own_root, "train")
    motion = MotionSpec(query_stride=2, subclip_frames=2, grid=4, on=on)
    spec = dataclasses.replace(SPEC, motion=motion, frames_on=on)
    batches = list(
        view_batches(dataset, spec, batch_size=1, views=ONE_VIEW, workers=workers, on_error="skip")
    )
    first = int(dataset.shard_starts[1])
    assert [batch.keys for batch in batches] == [[]] * first + [[k] for k in dataset.keys[first:]]
    assert [len(batch.skipped) for batch in batches] == [1] * first + [0] * (7 - first)
    assert batches[0].labels.shape == (0,)
    if on == "worker":
        assert batches[0].frames.shape == (0, 3, 2, 16, 16)


def test_a_batch_to_train_on_is_never_empty(own_root):
    for name in ("000000.tar", "000001.tar"):
        (own_root / "train" / name).unlink()
    with pytest.raises(ShardError, match="no clip of a batch of 1 can be read"):
        next(iter(make(ShardDataset(own_root, "train"), on_error="skip")))


# Names


def test_what_is_exported_is_listed():
    for package in (gopstream.shards, gopstream.shards.loading):
        assert {*package.__all__} <= {*dir(package)}
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = package.nothing


def test_reprs_say_what_it_is_and_not_all_that_it_holds(dataset, dataset_root):
    left = ShardDataset(dataset_root, "train", classes=["left"])
    assert repr(dataset) == f"ShardDataset('{dataset_root}', 'train': 7 samples)"
    assert repr(left) == f"ShardDataset('{dataset_root}', 'train': {len(left)} of 7 samples)"
    mixed = MixedDataset([dataset, left], weights=[3, 1], num_samples=8)
    assert repr(mixed) == f"MixedDataset([6 of {dataset!r}, 2 of {left!r}])"
    spec = dataclasses.replace(SPEC, motion=MotionSpec(2, 2, 4, on="device"), residual=True)
    [batch] = view_batches(dataset, spec, batch_size=7, views=ONE_VIEW)
    assert repr(batch) == (
        "ClipBatch(7 clips, labels (7,) int64, positions (7,) int64, is_repeat (7,) bool, residual "
        "(7, 3, 2, 16, 16) int16, frames (7, 3, 2, 16, 16) uint8, windows for the device)"
    )


# Processes

UNGUARDED = """
import multiprocessing, sys

multiprocessing.set_start_method("spawn", force=True)
from gopstream.shards import ClipSpec, ShardDataset, StreamingLoader, TransformSpec

spec = ClipSpec(num_frames=2, transform=TransformSpec(size=16))
dataset = ShardDataset(sys.argv[1], "train")
for batch in StreamingLoader(dataset, spec, batch_size=2, seed=0, workers=1):
    pass
"""


def test_a_script_that_spawns_without_a_guard_is_told_so(dataset_root, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, script, dataset_root], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "its loop must stand below: if __name__ == '__main__':" in done.stderr


KILLED = """
import multiprocessing, os, signal, sys
import torch
from gopstream.shards import ClipSpec, ShardDataset, StreamingLoader, TransformSpec

# Torch's workers look by themselves whether their parent lives, but seldom.
torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = 3600
spec = ClipSpec(num_frames=2, transform=TransformSpec(size=16))
loader = StreamingLoader(ShardDataset(sys.argv[1], "train"), spec, batch_size=2, seed=0, workers=2)
next(iter(loader))
batches = iter(loader)
next(batches)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_process_that_is_killed(dataset_root):
    """Their standard output is the script's: it is closed when the last of them is gone."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, dataset_root],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert len(done.stdout.split()) == 2, done.stderr
