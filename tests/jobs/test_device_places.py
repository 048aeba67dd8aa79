"""The comparisons of worker and device run, and say so when the two part."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.jobs.bench import device_places, frame_place, motion_place  # noqa: E402
from gopstream.jobs.bench.frame_place import Levels, breach, levels_between  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

BOTH = pytest.mark.parametrize("place", [frame_place, motion_place], ids=lambda p: p.__name__)


@pytest.fixture
def run(monkeypatch, tmp_path, write_video):
    """A function that compares over videos of some lengths: exit code and report."""
    before = torch.get_num_threads()
    monkeypatch.setattr(device_places, "REPEATS", 1)

    def compare(place, *lengths):
        folder, result = tmp_path / "videos", tmp_path / "result.json"
        folder.mkdir()
        for length in lengths:
            write_video(folder / f"{length}.mp4", length)
        monkeypatch.setattr("sys.argv", ["place", str(folder), "--json", str(result)])
        return place.COMPARISON.run(), json.loads(result.read_text())

    yield compare
    torch.set_num_threads(before)


@BOTH
def test_both_roads_are_compared_and_timed(run, place):
    code, report = run(place, 70, 20)
    assert code == 0
    assert report["holds"]
    [row] = report["batches"]
    assert (row["size"], row["clips"]) == ("96x64", device_places.CLIPS_PER_VIDEO)
    assert {"claim", "clip", "times", "torch"} <= report.keys()
    if not torch.cuda.is_available():
        assert report["device"] == "none"
        assert not any("cuda" in name for name in row)
    if place is motion_place:
        assert row["bytes_of_fields"] == 8 * 8 * 56 * 56 * (2 * 4 + 1)
        assert 0 < row["window_bytes_over_field_bytes"] < 0.2
        assert row["worker_makes_fields"] > row["worker_sends_windows"] > 0
        return
    assert row["bytes of pixels"] == 16 * 224 * 224 * 3
    assert 0 < row["bytes of JPEGs"] < 16 * 96 * 64 * 3
    assert row["cpu to worker: most"] == 0
    assert row["cpu to repeated colours: most"] > 0
    assert row["worker collates JPEGs, clips/s"] > row["worker decodes, clips/s"] > 0


@BOTH
def test_a_folder_without_long_videos_is_no_proof(run, place):
    code, report = run(place, 20)
    assert code == 1
    assert report["failures"] == ["no video has 61 frames: nothing was compared"]


def test_frames_that_differ_are_a_failure(run, monkeypatch):
    right = frame_place.decode_frames

    def wrong(batch, device):
        frames = right(batch, device).clone()
        frames[-1, -1, 0] ^= 128
        return frames

    monkeypatch.setattr(frame_place, "decode_frames", wrong)
    code, report = run(frame_place, 70)
    assert code == 1
    assert not report["holds"]
    assert "96x64: cpu: 0.6667 levels from worker in the mean, 0 allowed" in report["failures"]


def test_motion_that_differs_is_a_failure(run, monkeypatch):
    right = motion_place.accumulated_motion

    def wrong(batch, *, query_stride):
        motion, valid = right(batch, query_stride=query_stride)
        motion[-1, -1, 0, 0, 0, 0] += np.float32(0.125)
        return motion, valid

    monkeypatch.setattr(motion_place, "accumulated_motion", wrong)
    code, report = run(motion_place, 70)
    assert code == 1
    assert not report["holds"]
    assert report["failures"] == ["96x64: clip 3 on cpu: worker and device differ"]


def test_cuda_is_held_to_repeated_colours_and_the_cpu_to_the_worker():
    same, near, far = Levels(0.0, 0, 0.0), Levels(0.9, 6, 0.1), Levels(1.1, 6, 0.2)
    assert breach({"worker": same, "repeated colours": far}, device="cpu") is None
    assert breach({"worker": near, "repeated colours": same}, device="cpu") is not None
    assert breach({"worker": far, "repeated colours": near}, device="cuda") is None
    assert breach({"worker": same, "repeated colours": far}, device="cuda") is not None


def test_levels_are_counted_without_wrapping():
    first = torch.tensor([0, 255, 10, 10], dtype=torch.uint8)
    second = torch.tensor([255, 0, 12, 13], dtype=torch.uint8)
    assert levels_between(first, second) == Levels(np.mean([255, 255, 2, 3]), 255, 0.75)
