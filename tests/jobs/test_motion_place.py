"""The comparison of worker and device runs, and says so when the two part."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.jobs.bench import motion_place  # noqa: E402


@pytest.fixture
def few_repeats(monkeypatch):
    monkeypatch.setattr(motion_place, "REPEATS", 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(monkeypatch, folder):
    result = folder.parent / "result.json"
    monkeypatch.setattr("sys.argv", ["motion_place", str(folder), "--json", str(result)])
    return motion_place.main(), json.loads(result.read_text())


def test_both_roads_are_compared_and_timed(few_repeats, monkeypatch, tmp_path, write_video):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "long.mp4", 70)
    write_video(folder / "short.mp4", 20)
    code, report = run(monkeypatch, folder)
    assert code == 0
    assert report["holds"]
    [row] = report["batches"]
    assert (row["size"], row["clips"]) == ("96x64", motion_place.CLIPS_PER_VIDEO)
    assert row["bytes_of_fields"] == 8 * 8 * 56 * 56 * (2 * 4 + 1)
    assert 0 < row["window_bytes_over_field_bytes"] < 0.2
    assert row["worker_makes_fields"] > row["worker_sends_windows"] > 0


def test_motion_that_differs_is_a_failure(few_repeats, monkeypatch, tmp_path, write_video):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "long.mp4", 70)
    right = motion_place.accumulated_motion

    def wrong(batch, *, query_stride):
        motion, valid = right(batch, query_stride=query_stride)
        motion[-1, -1, 0, 0, 0, 0] += np.float32(0.125)
        return motion, valid

    monkeypatch.setattr(motion_place, "accumulated_motion", wrong)
    code, report = run(monkeypatch, folder)
    assert code == 1
    assert report["failures"] == ["96x64: clip 3 on cpu: worker and device differ"]


def test_a_folder_without_long_videos_is_no_proof(monkeypatch, tmp_path, write_video):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "short.mp4", 20)
    code, report = run(monkeypatch, folder)
    assert code == 1
    assert report["failures"] == ["no video has 61 frames: nothing was compared"]
