"""The proofs that run extraction in processes of its own: same vectors, flat memory."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gopstream.jobs.bench import flat_memory, same_vectors
from gopstream.pipeline.audit import audit_stream
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import default_ffmpeg


def test_right_frames_are_counted_and_missing_ones_are_not_right():
    runs = [["a", "b", "c"], ["a", "x", "c"], ["a", "b"], None, ["a", "b", "c"]]
    assert same_vectors.compare_runs(runs, ["a", "b", "c"]) == {
        "runs": 5,
        "died": 1,
        "different_results": 3,
        "frames": 3,
        "least_right": 2,
        "most_right": 3,
    }
    assert same_vectors.compare_runs([None], ["a"])["most_right"] is None


def test_more_than_one_hash_fails():
    row = {"video": "a.mp4", "runs": 20, "hashes": ["1" * 64]}
    assert same_vectors.failures([row]) == []
    assert same_vectors.failures([]) == ["no H.264 video with B-frames: nothing was proven"]
    (found,) = same_vectors.failures([row | {"hashes": ["1" * 64, "died"]}])
    assert found == "a.mp4: 2 different results in 20 runs: 11111111, died"
    assert same_vectors.failures([row | {"hashes": ["died"]}])


def test_each_run_is_proven_with_twenty_processes():
    assert sum(round_.processes for round_ in same_vectors.ROUNDS) == 20
    assert {round_.processes for round_ in same_vectors.ROUNDS} == {1, 2, 4}
    assert {round_.threads for round_ in same_vectors.ROUNDS} == {1, 8}


def test_fresh_processes_give_the_hash_of_this_one(small_video, tmp_path):
    rounds = [same_vectors.Round(2, 8)]
    shown = list(same_vectors.run_many("hash_native(path)", small_video, rounds=rounds))
    assert [json.loads(text) for text in shown] == [same_vectors.hash_native(small_video)] * 2
    broken = tmp_path / "no.mp4"
    broken.write_bytes(b"no video")
    rounds = [same_vectors.Round(1, 1)]
    assert list(same_vectors.run_many("hash_native(path)", broken, rounds=rounds)) == [None]


def test_only_videos_with_b_frames_are_taken(small_video, odd_video, tmp_path):
    for path in (small_video, odd_video):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert same_vectors.videos_with_b_frames(tmp_path) == [tmp_path / small_video.name]


def test_memory_of_a_process_is_read():
    text = "Name:\tVmHWM: 7 kB\nVmPeak:\t 99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1536 kB\n"
    assert flat_memory.parse_memory(text) == {"VmHWM": 2.0, "VmRSS": 1.5}
    before = flat_memory.take_sample()
    block = np.ones(64 << 20, np.uint8)
    after = flat_memory.take_sample()
    assert after.resident > before.resident + 60
    assert after.peak >= after.resident
    del block
    assert flat_memory.read_memory(2**22 + 1) == {}


@pytest.mark.parametrize(
    ("name", "phase"), [("a) 1 (b", "extract"), (Path(default_ffmpeg()).name, "transcode")]
)
def test_children_are_found_while_they_run_and_ffmpeg_by_its_name(tmp_path, name, phase):
    program = tmp_path / name
    shutil.copy(shutil.which("cat"), program)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as child:
        assert child.pid in flat_memory.child_processes(os.getpid())
        sample = flat_memory.take_sample()
        assert sample.phase == phase
        assert (sample.ffmpeg_peak > 0) == (phase == "transcode")
        child.stdin.close()
    assert child.pid not in flat_memory.child_processes(os.getpid())


def _samples(phase, peaks, ffmpeg=0.0):
    return [flat_memory.Sample(phase, 1.0, peak, ffmpeg) for peak in peaks]


def test_growth_after_the_first_tenth_fails():
    flat = _samples("transcode", [50.0] * 20, 300.0)
    flat += _samples("extract", [100.0, 200.0, *[236.0] * 18])
    rows = flat_memory.judge(flat)
    assert [(row["phase"], row["process"]) for row in rows] == [
        ("transcode", "gopstream"),
        ("transcode", "ffmpeg"),
        ("extract", "gopstream"),
    ]
    assert flat_memory.failures([{"case": "a", "phases": rows}]) == []
    grown = _samples("extract", [100.0, 200.0, 200.0, *[237.0] * 17])
    (row,) = flat_memory.judge(grown)
    assert (row["first_tenth_mib"], row["end_mib"], row["limit_mib"]) == (200.0, 237.0, 236.0)
    (found,) = flat_memory.failures([{"case": "a", "phases": [row]}])
    assert found.startswith("a: gopstream grew from 200.0 MiB")
    assert flat_memory.failures([{"case": "a", "phases": []}]) == ["a: no sample was taken"]


def test_repeated_video_is_whole_and_its_cases_are_what_they_say(tmp_path):
    for options, is_exact in ((flat_memory.CASES[0], False), (flat_memory.CASES[2], True)):
        path = tmp_path / "long.mp4"
        encoder_options = options.encoder_options
        flat_memory.make_video(path, minutes=1 / 3, size="64x48", encoder_options=encoder_options)
        audit = audit_stream(path)
        assert (audit.is_exact, audit.has_b_frames) == (is_exact, not is_exact)
        with open_coded(path) as stream:
            assert sum(1 for _ in stream.frames) == 600
            assert stream.faults == []


def test_extraction_into_a_shard_is_watched(small_video, tmp_path):
    options = ExtractionOptions(segment_frames=12)
    num_frames, samples = flat_memory.watch_extraction(small_video, tmp_path, options=options)
    assert num_frames == 30
    # One look for 25 transcoded frames, one for each of three clips.
    assert [sample.phase for sample in samples] == ["transcode", *["extract"] * 3]
    assert (tmp_path / "bench" / "000000.tar").exists()
    no_residual = ExtractionOptions(mode="native")
    with pytest.raises(RuntimeError, match="no residual: B-frames"):
        flat_memory.watch_extraction(small_video, tmp_path / "x", options=no_residual)


@pytest.mark.parametrize(("minutes", "lengths"), [(10, (300, 300, 60)), (2, (84, 84, 12))])
def test_first_tenth_holds_four_segments(minutes, lengths):
    found = tuple(flat_memory.segment_length(case, minutes) for case in flat_memory.CASES)
    assert found == lengths
    for case, length in zip(flat_memory.CASES, found, strict=True):
        assert 4 * length <= minutes * case.part * 60 * 30 / 10
