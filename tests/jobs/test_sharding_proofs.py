"""A small share of the proofs about sharding: kills, a full disk, scale, many videos.

What is protected: a job that was stopped, by whatever, is finished by the same command with the
same bytes; memory and time of what is not extraction stay small for millions of videos.
"""

import json
import os
import random
import signal
import sys

import pyarrow.parquet
import pytest

from gopstream.jobs.bench import (
    sharding_kills,
    sharding_many,
    sharding_runs,
    sharding_scale,
    sharding_videos,
)
from gopstream.jobs.bench.sharding_disk import LimitedDisk, NoNamespaceError, disk_bytes
from gopstream.jobs.bench.sharding_kills import Moment
from gopstream.jobs.plan import PlannedVideo


@pytest.fixture(scope="module")
def peace(tmp_path_factory):
    """Twelve videos, two of them broken, two of them cut, as they are sharded in peace."""
    folder = tmp_path_factory.mktemp("kills")
    assert sharding_videos.write_small_videos(folder / "videos", count=12) == 2
    return sharding_kills.make_in_peace(folder / "videos", folder)


def test_killed_job_is_continued_with_the_same_bytes(peace, tmp_path):
    shown = sharding_kills.prove_stops("SIGKILL", count=3, seed=0, peace=peace, folder=tmp_path)
    assert shown["failures"] == []
    planning, sharding, publishing = shown["stops"]
    assert (planning["phase"], sharding["phase"]) == ("planning", "sharding")
    assert planning["exit_code"] == sharding["exit_code"] == 137
    assert publishing["reports"] == peace.num_shards


def test_sigterm_stops_cleanly_and_is_continued(peace, tmp_path):
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    moment = Moment(peace.num_shards // 3, 0.5)
    row = sharding_kills.stop_and_check(
        "SIGTERM", moment, out=out, peace=peace, temporary=temporary
    )
    assert row["failures"] == []
    assert (row["phase"], row["exit_code"]) == ("sharding", 143)
    assert sharding_kills.finish_and_check(out, peace=peace, temporary=temporary) == []


def test_full_disk_is_said_and_the_job_is_continued(peace, tmp_path):
    try:
        shown = sharding_kills.prove_full_disk(peace=peace, folder=tmp_path)
    except NoNamespaceError as error:
        pytest.skip(str(error))
    assert shown["failures"] == []
    assert 0 < shown["reports"] < peace.num_shards
    assert "/disk/shards/train" in shown["said"]


def test_what_is_not_whole_is_found(peace, tmp_path):
    """The proof can fail: torn, foreign and missing files, and processes, are seen."""
    split = tmp_path / "train"
    split.mkdir()
    for name in peace.hashes:
        (tmp_path / name).write_bytes((peace.out / name).read_bytes())
    assert sharding_runs.half_written(tmp_path, peace.hashes) == []
    (split / ".000001.tar.0123.partial").touch()
    assert sharding_runs.half_written(tmp_path, peace.hashes) == []
    with (split / "000001.tar").open("ab") as file:
        file.truncate(1000)
    (split / "000002.index.npz").unlink()
    (split / "more").touch()
    assert sorted(sharding_runs.half_written(tmp_path, peace.hashes)) == [
        "train/000001.tar is visible and not whole",
        "train/000002.report.jsonl is there, train/000002.index.npz is not",
        "train/more is visible and not whole",
    ]


def test_processes_are_found_in_whatever_session(tmp_path):
    words = ["--version"]
    sleep = "import subprocess, time; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    within = [sys.executable, "-c", f"{sleep}; time.sleep(1000)"]
    command = sharding_runs.Command(words, temporary=tmp_path / "temporary", within=within)
    while len(command.processes()) < 2:
        assert not command.has_ended
    (tmp_path / "temporary" / "file").touch()
    (tmp_path / ".a.tar.0.partial").touch()
    assert os.getpid() not in command.processes()
    command.send(signal.SIGTERM)
    assert command.wait() == 143
    assert sharding_runs.leftovers(command, tmp_path) == [
        "file is left in the temporary folder",
        ".a.tar.0.partial is left",
    ]


def test_kill_reaches_every_process(tmp_path):
    sleep = "import subprocess, time; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    within = [sys.executable, "-c", f"{sleep}; time.sleep(1000)"]
    command = sharding_runs.Command([], temporary=tmp_path / "temporary", within=within)
    while len(command.processes()) < 2:
        assert not command.has_ended
    command.kill()
    assert command.processes() == []
    assert command.wait() == 137


def test_moments_are_spread_over_the_whole_job():
    moments = sharding_kills.draw_moments(random.Random(0), 30, num_shards=16)
    reports = [moment.num_reports for moment in moments]
    assert reports == sorted(reports)
    assert (reports.count(0) >= 5, reports.count(16)) == (True, 5)
    assert len(set(reports)) > 10
    assert len({moment.share for moment in moments}) == 30


def test_missed_phase_is_not_proven():
    part = {"failures": [], "phases": {"planning": 1, "sharding": 1}}
    shown = {"SIGKILL": part, "SIGTERM": part, "full_disk": {"failures": ["x"]}}
    assert sharding_kills.failures(shown) == [
        "x",
        "no SIGKILL came while it was publishing",
        "no SIGTERM came while it was publishing",
    ]


def test_disk_of_limited_size_is_full_and_grows(tmp_path):
    try:
        disk = LimitedDisk(tmp_path, num_bytes=8 * 4096)
    except NoNamespaceError as error:
        pytest.skip(str(error))
    with disk:
        (disk.content / "a").write_bytes(bytes(20_000))
        with pytest.raises(OSError, match="No space left"):
            (disk.content / "b").write_bytes(bytes(20_000))
        disk.resize(16 * 4096)
        (disk.content / "b").write_bytes(bytes(20_000))
        assert disk_bytes(disk.content) == 10 * 4096
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    return folder, sharding_scale.prove_count(20_000, folder)


def test_long_list_is_planned_published_and_found_done(scaled):
    folder, row = scaled
    assert sharding_scale.failures([row]) == []
    assert (row["samples"], row["failed"], row["shards"]) == (19_900, 100, 20)
    assert list(row["steps"]) == [
        "read the list",
        "order and freeze the plan",
        "write shards without samples",
        "publish",
        "find everything done",
    ]
    assert all(step["peak_mib"] >= step["after_mib"] > 50 for step in row["steps"].values())
    table = pyarrow.parquet.read_table(folder / "shards-20000" / "train" / "samples.parquet")
    assert table.num_rows == 19_900
    assert {"duration", "uploader"} < set(table.column_names)


def test_reports_of_the_long_list_are_like_real_ones(peace):
    """Else the proof would show the scale of something else."""
    rows = [
        json.loads(line)
        for path in peace.out.glob("train/*.report.jsonl")
        for line in path.read_text().splitlines()
    ]
    real = {row["status"]: row for row in rows}
    for status, index in (("done", 0), ("failed", sharding_scale.FAILED_EVERY - 1)):
        made = sharding_scale.report_row(PlannedVideo(index, "a/b.mp4", 3, "three"))
        assert made["status"] == status
        assert made.keys() == real[status].keys()
    done = sharding_scale.report_row(PlannedVideo(0, "a/b.mp4", 3, "three"))
    assert done["samples"][0].keys() == real["done"]["samples"][0].keys()


def test_growth_of_a_task_and_lost_videos_are_found(scaled):
    row = scaled[1] | {"task_bytes": [10, 100]}
    assert sharding_scale.failures([row, row | {"task_bytes": [10, 110]}]) == []
    assert sharding_scale.failures([row, row | {"task_bytes": [10, 111]}]) == [
        "a worker's task grows from 100 to 111 bytes"
    ]
    assert sharding_scale.failures([row | {"samples": 19_899}]) == [
        "20000 videos: 19899 samples, 100 failed"
    ]
    assert len(sharding_scale.failures([row | {"resume_is_same": False}])) == 1


def test_memory_of_each_step_is_its_own():
    steps = sharding_scale.Steps()
    block = bytearray(b"1") * (64 << 20)
    steps.end("large")
    del block
    steps.end("small")
    large, small = steps.rows["large"], steps.rows["small"]
    assert large["peak_mib"] > small["after_mib"] + 60
    assert large["peak_mib"] <= small["peak_mib"] + 1  # it began with the block
    steps.end("next")
    assert steps.rows["next"]["peak_mib"] < large["peak_mib"] - 60


def test_many_videos_are_watched(tmp_path):
    shown = sharding_many.prove(tmp_path, count=60, parts=1, share=4)
    assert sharding_many.failures(shown) == []
    seen = shown["all"]
    assert len(seen["workers"]) == 2
    assert all(row["peak_mib"] >= row["end_mib"] > 50 for row in seen["workers"])
    assert 0 < seen["temporary_peak_mib"] < shown["source_mib"]
    (part,) = shown["two_workers_against_one"]["parts"]
    assert part["videos"] == 15
    assert part["cpu_seconds_1"] > 0.5


def test_growth_of_a_worker_and_a_busy_resume_are_found():
    worker = {"start_mib": 100.0, "end_mib": 126.0}
    seen = {"workers": [worker, worker], "resume_changed": False}
    assert sharding_many.failures({"all": seen}) == []
    assert len(sharding_many.failures({"all": seen | {"resume_changed": True}})) == 1
    assert sharding_many.failures({"all": seen | {"workers": [worker]}}) == [
        "1 workers were seen instead of 2"
    ]
    grown = [worker, {"start_mib": 100.0, "end_mib": 126.1}]
    assert sharding_many.failures({"all": seen | {"workers": grown}}) == [
        "a worker grew from 100.0 to 126.1 MiB"
    ]


def test_every_video_is_in_one_part(tmp_path):
    sharding_videos.write_small_videos(tmp_path / "videos", count=7, with_broken=False)
    *parts, whole = sharding_many.write_lists(tmp_path / "videos", tmp_path, parts=3, share=3)
    rows = [path.read_text().split()[1:] for path in parts]
    assert [len(part) for part in rows] == [3, 2, 2]
    assert sorted(row for part in rows for row in part) == whole.read_text().split()[1:]
    assert "class-1/000005.mp4,class-1" in rows[0] + rows[1] + rows[2]


def test_small_videos_are_the_same_each_time_and_different_from_each_other(tmp_path):
    for name in ("first", "second"):
        assert sharding_videos.write_small_videos(tmp_path / name, count=20) == 3
    first, second = (sharding_runs.file_hashes(tmp_path / n) for n in ("first", "second"))
    assert first == second
    assert len(set(first.values())) == 20
