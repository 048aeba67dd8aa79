"""Frames rebuilt from a shard are those that the codec decoded, on either prediction."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from gopstream.pipeline.plain.compensation import predict_planes as predict_plainly
from gopstream.shards import ShardDataset, rebuilding
from gopstream.shards.rebuilding import rebuild_frames

# Rebuilds every frame of a sample where Numba and the video libraries cannot be imported.
WITHOUT_NUMBA = """
import hashlib, sys
class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numba", "av"):
            raise ModuleNotFoundError(f"fenced off: {name}", name=name)
sys.meta_path.insert(0, Fence())
import numpy as np
from gopstream.shards import ShardDataset
from gopstream.shards.rebuilding import rebuild_frames
dataset = ShardDataset(sys.argv[1], "train")
facts = dataset.sample(0)
last = facts.num_frames - 1
planes = rebuild_frames(
    dataset.read_residual(0, 0, last),
    dataset.read_motion(0, 0, last),
    first_frame=0,
    frames=np.arange(last + 1),
    coded_size=facts.coded_size,
)
print(hashlib.sha256(b"".join(plane.tobytes() for plane in planes)).hexdigest())
"""


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return ShardDataset(dataset_root, "train")


def rebuilt(dataset, sample, frames, first=0):
    facts = dataset.sample(sample)
    last = facts.num_frames - 1
    return rebuild_frames(
        dataset.read_residual(sample, first, last),
        dataset.read_motion(sample, first, last),
        first_frame=first,
        frames=np.asarray(frames),
        coded_size=facts.coded_size,
    )


def digest(planes):
    return hashlib.sha256(b"".join(plane.tobytes() for plane in planes)).hexdigest()


def test_every_frame_is_the_one_whose_hash_was_recorded(dataset):
    for sample in range(len(dataset)):
        content = dataset.read_json(sample)
        kinds = content["frame_types"]
        starts = [frame for frame, kind in enumerate(kinds) if kind == "I"]
        planes = rebuilt(dataset, sample, np.arange(len(kinds)))
        ends = [*starts[1:], len(kinds)]
        for start, end, expected in zip(starts, ends, content["decoded_sha256"], strict=True):
            found = hashlib.sha256()
            for frame in range(start, end):
                for plane in planes:
                    found.update(plane[frame].tobytes())
            assert found.hexdigest() == expected


def test_some_frames_in_any_order_with_repeats_are_those_of_all(dataset):
    every = rebuilt(dataset, 0, np.arange(20))
    frames = [17, 3, 3, 12, 0, 19]
    for some, whole in zip(rebuilt(dataset, 0, frames), every, strict=True):
        np.testing.assert_array_equal(some, whole[frames])


def test_a_gop_without_wanted_frames_costs_nothing(dataset, monkeypatch):
    """The sample's GOPs are of ten frames: for frame 13 three predictions are needed."""
    calls = []
    predict = rebuilding.load_prediction()

    def counted(*arguments):
        calls.append(1)
        return predict(*arguments)

    monkeypatch.setattr(rebuilding, "load_prediction", lambda: counted)
    rebuilt(dataset, 0, [13])
    assert len(calls) == 3


def test_a_later_gop_is_rebuilt_without_the_first(dataset):
    every = rebuilt(dataset, 0, np.arange(20))
    for part, whole in zip(rebuilt(dataset, 0, [11, 15], first=10), every, strict=True):
        np.testing.assert_array_equal(part, whole[[11, 15]])


def test_motion_may_begin_before_the_residual(dataset):
    every = rebuilt(dataset, 0, np.arange(20))
    later = rebuild_frames(
        dataset.read_residual(0, 10, 19),
        dataset.read_motion(0, 0, 19),
        first_frame=10,
        frames=np.array([11, 15]),
        coded_size=dataset.sample(0).coded_size,
    )
    for part, whole in zip(later, every, strict=True):
        np.testing.assert_array_equal(part, whole[[11, 15]])


def test_the_plain_prediction_gives_the_same_bits(dataset, monkeypatch):
    compiled = digest(rebuilt(dataset, 3, np.arange(13)))
    monkeypatch.setattr(rebuilding, "load_prediction", lambda: predict_plainly)
    assert digest(rebuilt(dataset, 3, np.arange(13))) == compiled


def test_a_machine_without_numba_rebuilds_the_same_bits(dataset, dataset_root):
    command = [sys.executable, "-c", WITHOUT_NUMBA, str(dataset_root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(rebuilt(dataset, 0, np.arange(20)))


def test_what_does_not_begin_with_an_i_frame_is_refused(dataset):
    with pytest.raises(ValueError, match="frame 11 is none"):
        rebuilt(dataset, 0, [12], first=11)


@pytest.mark.parametrize("frames", [[9, 12], [10, 20]])
def test_frames_outside_of_the_residual_are_refused(dataset, frames):
    with pytest.raises(ValueError, match=r"must lie in 10\.\.19"):
        rebuilt(dataset, 0, frames, first=10)
