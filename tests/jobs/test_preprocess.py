import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import pyarrow.parquet
import pytest

from file_hashes import hashes
from gopstream.jobs import build_shard as builder
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.plan import make_part, order_videos
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.jobs.source_videos import VideoSource
from gopstream.jobs.worker_process import ItemFault, Reporter
from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg
from gopstream.shards.dataset_files import load_manifest
from gopstream.shards.errors import SettingsError
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import open_storage

OPTIONS = ExtractionOptions(canonical=CanonicalFormat(short_side=64))


def make(videos, root, *, options=OPTIONS, seed=0, limit=None, videos_per_shard=None, **others):
    choice = PlanChoice(seed, limit, videos_per_shard)
    return shard_folder(videos, root, options=options, choice=choice, **others)


def failures_of(root, split="train"):
    lines = (root / split / "failures.jsonl").read_text().splitlines()
    return {row["source"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for split in ("train", "val"):
        write_demo_videos(folder, split=split, videos_per_class=1, seed=1, num_frames=24, size=64)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory, videos):
    """A dataset with both splits, made by one worker."""
    root = tmp_path_factory.mktemp("dataset") / "set"
    for split in ("train", "val"):
        make(videos / split, root, split=split)
    return root


def test_two_splits_in_one_dataset(root):
    for split in ("train", "val"):
        dataset = ShardDataset(root, split)
        assert len(dataset) == 8
        assert sorted(dataset.labels.tolist()) == list(range(8))
        assert all(key.startswith(f"{split}-") for key in dataset.keys)
    assert not list(root.rglob("*.partial"))


def test_samples_table_matches(root):
    rows = pyarrow.parquet.read_table(root / "train" / "samples.parquet").to_pylist()
    dataset = ShardDataset(root, "train")
    assert [row["key"] for row in rows] == dataset.keys
    assert [row["label"] for row in rows] == dataset.labels.tolist()
    for position, row in enumerate(rows):
        content = dataset.read_json(position)
        assert row["source"] == content["source"]["name"]
        assert (row["frames"], row["stored_frames"]) == (24, 24)
        assert (row["width"], row["height"], row["codec"]) == (64, 64, "h264")
        assert row["fps"] == content["fps"] == 25.0
        assert row["exactness"] == "exact"
        assert row["zero_residual_share"] == content["zero_residual_share"]
    assert load_manifest(root, "train").num_samples == len(rows)


def test_two_workers_make_the_same_bytes_and_a_rerun_none(videos, root, tmp_path):
    again = tmp_path / "set"
    make(videos / "train", again, workers=2)
    want = {name: digest for name, digest in hashes(root).items() if not name.startswith("val/")}
    assert hashes(again) == want
    times = {path: path.stat().st_mtime_ns for path in again.rglob("*")}
    outcomes = make(videos / "train", again)
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*")} == times
    assert outcomes[0].manifest == load_manifest(root, "train")


def test_each_file_has_one_outcome(videos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(videos / "train" / "zoom_in" / "0000.mp4", flat / "good.mp4")
    (flat / "text.mp4").write_text("no video at all\n" * 100)
    with wave.open(str(flat / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    source = (videos / "train" / "zoom_in" / "0000.mp4").read_bytes()
    (flat / "cut.mp4").write_bytes(source[: len(source) // 2])
    root = tmp_path / "set"
    words = ["shard", str(flat), "--out", str(root), "--short-side", "64", "--workers", "1"]
    assert main(words) == 0
    failures = failures_of(root)
    assert failures.keys() == {"text.mp4", "sound.wav", "cut.mp4"}
    assert all(row["stage"] == "probe" and row["message"] for row in failures.values())
    assert all(str(tmp_path) not in row["message"] for row in failures.values())
    dataset = ShardDataset(root, "train")
    assert [dataset.read_json(i)["source"]["name"] for i in range(len(dataset))] == ["good.mp4"]
    assert dataset.labels.tolist() == [-1]
    reports = b"".join(path.read_bytes() for path in (root / "train").glob("*.report.jsonl"))
    rows = [json.loads(line) for line in reports.splitlines()]
    assert sorted(row["source"] for row in rows) == sorted([*failures, "good.mp4"])


def test_killed_job_continues(videos, root, tmp_path):
    again = tmp_path / "set"
    words = ["shard", str(videos / "train"), "--out", str(again), "--short-side", "64"]
    command = [sys.executable, "-m", "gopstream", *words, "--workers", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while process.poll() is None and not list(again.glob("train/*.report.jsonl")):
            time.sleep(0.005)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (again / "train" / "manifest.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    want = {name: digest for name, digest in hashes(root).items() if not name.startswith("val/")}
    assert hashes(again) == want


def test_interrupted_job_stops_and_says_so(videos, tmp_path):
    out = tmp_path / "set"
    words = ["shard", str(videos / "train"), "--out", str(out), "--short-side", "64"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gopstream", *words, "--workers", "2", "--videos-per-shard", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not list(out.glob("train/*.report.jsonl")):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does
        _, said = process.communicate(timeout=120)  # only so that a failure is not a hang
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert b"stopped; what was finished is kept" in said
    assert b"Traceback" not in said
    assert not (out / "train" / "manifest.json").exists()
    assert not list(out.rglob("*.partial"))  # the workers left; they were not killed


def alive(pids):
    """Return those processes that still run; one that only waits to be reaped does not."""
    running = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            running |= {pid} if state != "Z" else set()
    return running


def test_workers_die_with_their_parent(videos, tmp_path):
    out = tmp_path / "set"
    words = ["shard", str(videos / "train"), "--out", str(out), "--short-side", "64"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gopstream", *words, "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not list(out.glob("train/*.report.jsonl")):
            time.sleep(0.005)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        process.kill()
        process.wait()
        for _ in range(600):  # no limit on speed: only so that a failure is not a hang
            if not alive(children):
                break
            time.sleep(0.1)
        assert not alive(children)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


# Goes between us and FFmpeg; what it does to its parent, a worker, depends on the video's name.
TREACHEROUS_FFMPEG = """#!/bin/sh
case "$*" in
*/segv*) kill -SEGV $PPID ;;
*/hang.mp4*) echo $$ > {folder}/pid; exec sleep 1000 ;;
*/oom.mp4*) if mkdir {folder}/killed 2> /dev/null; then kill -KILL $PPID; fi ;;
esac
exec {ffmpeg} "$@"
"""


@pytest.fixture
def treacherous_ffmpeg(tmp_path):
    folder = tmp_path / "between"
    folder.mkdir()
    script = folder / "ffmpeg"
    script.write_text(TREACHEROUS_FFMPEG.format(folder=folder, ffmpeg=default_ffmpeg()))
    script.chmod(0o755)
    return str(script)


def copy_videos(videos, folder, *names):
    folder.mkdir()
    for name, kind in zip(names, sorted((videos / "train").iterdir()), strict=False):
        shutil.copy(kind / "0000.mp4", folder / name)
    return folder


def test_video_that_kills_its_worker_stops_nothing(videos, tmp_path, treacherous_ffmpeg):
    names = ("a.mp4", "b.mp4", "segv.mp4", "c.mp4", "segv2.mp4")
    flat = copy_videos(videos, tmp_path / "flat", *names)
    one, two = tmp_path / "one", tmp_path / "two"
    others = {"ffmpeg_binary": treacherous_ffmpeg, "videos_per_shard": 3}
    make(flat, one, workers=1, **others)
    failures = failures_of(one)
    assert failures.keys() == {"segv.mp4", "segv2.mp4"}
    for row in failures.values():
        assert (row["status"], row["stage"], row["error"]) == ("failed", "extract", "CrashedError")
        assert row["message"] == "this video killed the worker process: SIGSEGV"
    dataset = ShardDataset(one, "train")
    sources = [dataset.read_json(i)["source"]["name"] for i in range(len(dataset))]
    assert sorted(sources) == ["a.mp4", "b.mp4", "c.mp4"]
    make(flat, two, workers=2, **others)
    assert hashes(two) == hashes(one)


def test_video_that_hangs_is_stopped(videos, tmp_path, treacherous_ffmpeg):
    flat = copy_videos(videos, tmp_path / "flat", "a.mp4", "hang.mp4", "b.mp4")
    root = tmp_path / "set"
    others = {"ffmpeg_binary": treacherous_ffmpeg, "videos_per_shard": 3}
    make(flat, root, stall_seconds=5.0, **others)
    (row,) = failures_of(root).values()
    assert (row["source"], row["stage"], row["error"]) == ("hang.mp4", "extract", "StalledError")
    assert row["message"] == "no progress for 5 s; the decoder was stopped"
    assert len(ShardDataset(root, "train")) == 2
    assert not alive([int((tmp_path / "between" / "pid").read_text())])


def test_worker_killed_once_changes_no_byte(videos, tmp_path, treacherous_ffmpeg):
    """As when memory ran out because of its neighbours."""
    flat = copy_videos(videos, tmp_path / "flat", "a.mp4", "oom.mp4", "b.mp4")
    make(flat, tmp_path / "plain")
    make(flat, tmp_path / "killed", ffmpeg_binary=treacherous_ffmpeg)
    assert (tmp_path / "between" / "killed").exists()
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "plain")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"options": replace(OPTIONS, quality=50)}, "quality = 90, now it is 50"),
        ({"options": ExtractionOptions(canonical=CanonicalFormat(gop=6))}, "gop = 12, now it is 6"),
        ({"options": replace(OPTIONS, planes=("frames", "motion"))}, "holds the planes"),
        ({"seed": 1}, "--seed was 0, now it is 1"),
        ({"limit": 5}, "--limit was not given, now it is 5"),
        ({"videos_per_shard": 4}, "--videos-per-shard was 1, now it is 4"),
    ],
)
def test_other_settings_are_refused(videos, root, changes, reason):
    before = hashes(root)
    with pytest.raises(SettingsError, match=reason):
        make(videos / "train", root, **changes)
    assert hashes(root) == before


def test_foreign_folder_is_refused(videos, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="is not empty and holds no dataset"):
        make(videos / "train", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_csv_with_split_and_more_columns(videos, tmp_path):
    table = tmp_path / "list.csv"
    table.write_text(
        "path,label,split,camera\n"
        "zoom_in/0000.mp4,zoom,train,left\n"
        "move_up/0000.mp4,up,test,\n"
        "gone.mp4,up,train,top\n"
    )
    root = tmp_path / "set"
    make(videos / "train", root, annotations=table)
    assert sorted(path.name for path in root.iterdir()) == ["dataset.json", "test", "train"]
    train, test = ShardDataset(root, "train"), ShardDataset(root, "test")
    assert train.facts.classes == ("up", "zoom")
    assert (train.labels.tolist(), test.labels.tolist()) == ([1], [0])
    assert train.read_json(0)["attributes"] == {"camera": "left"}
    assert train.read_json(0)["class"] == "zoom"
    assert failures_of(root)["gone.mp4"]["stage"] == "open"
    assert failures_of(root, "test") == {}


def one_shard(videos, out, options=OPTIONS):
    """Return the task of one shard with the eight videos."""
    folder = str(videos / "train")
    found = read_annotations(folder, annotations=None, dataset=None, split="train")
    table = order_videos(found.records, classes=found.classes, seed=0)
    part = make_part(table, kind="first", seed=0, limit=None, videos_per_shard=8)
    return builder.ShardTask(
        shard=part.shard(0),
        source=VideoSource(folder),
        storage=open_storage(out),
        split="train",
        options=options,
        settings=builder.settings_of(options),
        ffmpeg_binary=None,
    )


def said_while_building(task, faults):
    """Build a shard; return what its reporter said."""
    near, far = Pipe()
    builder.build_shard(task, Reporter(near, beat_seconds=0.0), faults)
    near.close()
    said = []
    with contextlib.suppress(EOFError):
        while True:
            said.append(far.recv())
    return said


def test_video_that_breaks_midway_leaves_nothing(videos, tmp_path, monkeypatch):
    """Its first segment is already written when the second one fails."""
    true_extract = builder.extract_segments

    def extract(path, **settings):
        for number, clip in enumerate(true_extract(path, **settings)):
            if path.parent.name == "zoom_in" and number == 1:
                raise BitstreamError("broken here")
            yield clip

    monkeypatch.setattr(builder, "extract_segments", extract)
    task = one_shard(videos, tmp_path, replace(OPTIONS, segment_frames=12))
    said = said_while_building(task, {})
    assert sorted(value[1] for kind, value in said if kind == "finished") == [False] + [True] * 7
    rows = [json.loads(line) for line in (tmp_path / "train" / "000000.report.jsonl").open()]
    (broken,) = [row for row in rows if row["status"] == "failed"]
    assert (broken["source"], broken["stage"]) == ("zoom_in/0000.mp4", "decode")
    assert sum(len(row.get("samples", [])) for row in rows) == 14
    assert b"zoom_in" not in (tmp_path / "train" / "000000.tar").read_bytes()


def test_excluded_video_is_not_touched(videos, tmp_path):
    task = one_shard(videos, tmp_path)
    said = said_while_building(task, {1: ItemFault("StalledError", "no progress")})
    assert [value for kind, value in said if kind == "started"] == [0, 2, 3, 4, 5, 6, 7]
    finished = [value for kind, value in said if kind == "finished"]
    assert finished == [(position, position != 1) for position in range(8)]
    # A long video must be heard of at least at each sample.
    assert [kind for kind, _ in said].count("beat") >= 7
    rows = [json.loads(line) for line in (tmp_path / "train" / "000000.report.jsonl").open()]
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed == {
        "video": 1,
        "key": "train-00000001",
        "source": task.shard.videos[1].name,
        "label": task.shard.videos[1].label,
        "status": "failed",
        "stage": "extract",
        "error": "StalledError",
        "message": "no progress",
    }
