"""The comparison of worker and device runs, and says so when the two part."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.jobs.bench import frame_place, motion_place  # noqa: E402
from gopstream.jobs.bench.frame_place import Levels, breach, levels_between  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


@pytest.fixture
def few_repeats(monkeypatch):
    monkeypatch.setattr(motion_place, "REPEATS", 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(monkeypatch, folder):
    result = folder.parent / "result.json"
    monkeypatch.setattr("sys.argv", ["frame_place", str(folder), "--json", str(result)])
    return frame_place.main(), json.loads(result.read_text())


def test_both_roads_are_compared_and_timed(few_repeats, monkeypatch, tmp_path, write_video):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "long.mp4", 70)
    write_video(folder / "short.mp4", 20)
    code, report = run(monkeypatch, folder)
    assert code == 0
    assert report["holds"]
    [row] = report["batches"]
    assert (row["size"], row["clips"]) == ("96x64", frame_place.CLIPS_PER_VIDEO)
    assert row["bytes of pixels"] == 16 * 224 * 224 * 3
    assert 0 < row["bytes of JPEGs"] < 16 * 96 * 64 * 3
    assert row["cpu to worker: most"] == 0
    assert row["cpu to repeated colours: most"] > 0
    assert row["worker collates JPEGs, clips/s"] > row["worker decodes, clips/s"] > 0
    if not torch.cuda.is_available():
        assert report["device"] == "none"
        assert not any("cuda" in name for name in row)


def test_frames_that_differ_are_a_failure(few_repeats, monkeypatch, tmp_path, write_video):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "long.mp4", 70)
    right = frame_place.decode_frames

    def wrong(batch, device):
        frames = right(batch, device).clone()
        frames[-1, -1, 0] ^= 128
        return frames

    monkeypatch.setattr(frame_place, "decode_frames", wrong)
    code, report = run(monkeypatch, folder)
    assert code == 1
    assert not report["holds"]
    assert "96x64: cpu: 0.6667 levels from worker in the mean, 0 allowed" in report["failures"]


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


def test_a_folder_without_long_videos_is_no_proof(monkeypatch, tmp_path, write_video):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "short.mp4", 20)
    code, report = run(monkeypatch, folder)
    assert code == 1
    assert report["failures"] == ["no video has 61 frames: nothing was compared"]
