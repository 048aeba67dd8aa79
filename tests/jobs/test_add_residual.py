"""A residual made later is the one that would have been made at first, or a clear error."""

import gc
import shutil
import threading

import pytest

from file_hashes import hashes
from gopstream.jobs import add_residual
from gopstream.jobs.add_residual import ResidualTask, add_residual_plane, build_residual
from gopstream.jobs.edit_commands import add, drop
from gopstream.jobs.errors import UserError
from gopstream.jobs.plan import PlannedVideo
from gopstream.jobs.plan_files import load_parts
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.remove_samples import remove_samples
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.jobs.source_videos import VideoSource
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.dataset_files import load_dataset
from gopstream.shards.edit_planes import drop_plane
from gopstream.shards.errors import SettingsError, ShardError
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.reader import ShardDataset
from gopstream.shards.verify import verify_split

OPTIONS = ExtractionOptions(canonical=CanonicalFormat(gop=10, crf=23), segment_frames=20)


def faults_of(root, *, rebuild=True):
    return list(verify_split(root, "train", rebuild=rebuild))


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Three videos; one becomes two samples, one cannot be used."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "0.mp4", 30, seed=0)
    write_video(folder / "1.mp4", 12, width=84, height=52, seed=1)
    (folder / "2.mp4").write_text("no video")
    return folder


def make(videos, root, options):
    shard_folder(videos, root, options=options, choice=PlanChoice(videos_per_shard=2))
    return root


@pytest.fixture(scope="module")
def full(videos, tmp_path_factory):
    return make(videos, tmp_path_factory.mktemp("full") / "set", OPTIONS)


@pytest.fixture
def root(full, tmp_path):
    return shutil.copytree(full, tmp_path / "set")


def add_to(root, videos, workers=1):
    return add_residual_plane(
        LocalStorage(root), VideoSource(str(videos)), ["train"], workers=workers
    )


def test_dropped_and_added_again_the_dataset_has_the_same_bytes(videos, full, root):
    assert drop(str(root), "residual") == 0
    assert "residual" not in load_dataset(root).planes
    assert not list(root.glob("*/*.residual.tar"))
    assert faults_of(root, rebuild=False) == []
    assert add(str(root), "residual", videos=str(videos), workers=2) == 0
    assert hashes(root) == hashes(full)


def test_the_main_tars_are_not_written_again(videos, root):
    before = {path: path.stat().st_ino for path in root.glob("*/*.tar") if "resid" not in path.name}
    drop_plane(LocalStorage(root), "residual", ["train"])
    add_to(root, videos)
    assert {path: path.stat().st_ino for path in before} == before


def test_a_dataset_made_without_has_the_same_residual(videos, full, tmp_path):
    options = ExtractionOptions(
        canonical=OPTIONS.canonical, segment_frames=20, planes=("frames", "motion")
    )
    root = make(videos, tmp_path / "set", options)
    add_to(root, videos)
    assert faults_of(root) == []
    dataset, other = ShardDataset(root, "train"), ShardDataset(full, "train")
    assert len(dataset) == len(other) == 3
    for position in range(3):
        member = dataset.read_member(position, "residual.zst")
        assert member == other.read_member(position, "residual.zst")
        # What the main tar does not know of the decoded frames is beside the residual.
        side = dataset.read_json(position, residual=True)
        assert side["decoded_sha256"] == other.read_json(position)["decoded_sha256"]
        assert "decoded_sha256" not in other.read_json(position, residual=True)


def test_removed_samples_get_none(videos, full, root):
    storage = LocalStorage(root)
    first = ShardDataset(full, "train")
    keys = [first.keys[0], next(key for key in first.keys if key.endswith("-0000"))]
    remove_samples(storage, keys=keys)
    before = hashes(root)
    drop_plane(storage, "residual", ["train"])
    add_to(root, videos)
    assert hashes(root) == before


def test_a_video_that_was_exchanged_is_refused_by_name(videos, root, tmp_path):
    drop_plane(LocalStorage(root), "residual", ["train"])
    other = shutil.copytree(videos, tmp_path / "videos")
    shutil.copy(videos / "1.mp4", other / "0.mp4")
    with pytest.raises(ShardError, match=r"0\.mp4 is not the video"):
        add_to(root, other)


def test_a_video_that_has_gone_is_named(videos, root, tmp_path):
    drop_plane(LocalStorage(root), "residual", ["train"])
    other = shutil.copytree(videos, tmp_path / "videos")
    (other / "1.mp4").unlink()
    with pytest.raises(ShardError, match=r"1\.mp4: cannot be extracted again"):
        add_to(root, other)


class Line:
    """The line to the parent, to which nobody listens."""

    def started(self, index): ...

    def beat(self): ...

    def finished(self, index, *, succeeded): ...


def task_of(root, videos, options):
    storage = LocalStorage(root)
    shard = load_parts(storage, "train")[0].shard(1)
    return ResidualTask(shard, VideoSource(str(videos)), storage, "train", options, None)


def test_motion_that_comes_out_otherwise_is_an_error_with_the_tools(videos, root, monkeypatch):
    """As with another version of the encoder: here, another quality."""
    drop_plane(LocalStorage(root), "residual", ["train"])
    before = hashes(root)
    versions = add_residual.tool_versions
    monkeypatch.setattr(
        add_residual, "tool_versions", lambda binary: versions(binary) | {"ffmpeg": "1.2.3"}
    )
    options = ExtractionOptions(
        canonical=CanonicalFormat(gop=10, crf=40), segment_frames=20, planes=("motion", "residual")
    )
    with pytest.raises(ShardError, match=r"sample train-0000000\d.*: ffmpeg .* then, 1\.2\.3 now"):
        build_residual(task_of(root, videos, options), Line(), {})
    assert hashes(root) == before


def test_coverage_counts_too(videos, root, monkeypatch):
    drop_plane(LocalStorage(root), "residual", ["train"])
    task = task_of(root, videos, add_residual.recorded_options(load_dataset(root).settings))
    extract = add_residual.extract_segments

    def otherwise_covered(*words, **named):
        for clip in extract(*words, **named):
            clip.coverage[0, 0, 0, 0] ^= 1
            yield clip

    monkeypatch.setattr(add_residual, "extract_segments", otherwise_covered)
    with pytest.raises(ShardError, match="coverage differs"):
        build_residual(task, Line(), {})


def test_an_interrupted_addition_goes_on_where_it_was(videos, full, root):
    storage = LocalStorage(root)
    drop_plane(storage, "residual", ["train"])
    options = add_residual.recorded_options(load_dataset(root).settings)
    build_residual(task_of(root, videos, options), Line(), {})
    named = {fault.shard for fault in faults_of(root, rebuild=False)}
    assert "000001.files.json" in named
    done = root / "train" / "000001.residual.tar"
    inode = done.stat().st_ino
    assert add_to(root, videos) == 1
    assert done.stat().st_ino == inode
    assert hashes(root) == hashes(full)


def test_an_interrupted_addition_can_be_dropped(videos, root):
    storage = LocalStorage(root)
    drop_plane(storage, "residual", ["train"])
    before = hashes(root)
    options = add_residual.recorded_options(load_dataset(root).settings)
    build_residual(task_of(root, videos, options), Line(), {})
    assert hashes(root) != before
    drop_plane(storage, "residual", ["train"])
    assert hashes(root) == before


def test_videos_are_taken_from_the_plan_when_their_shard_has_its_turn(
    videos, full, root, monkeypatch
):
    """Those of all shards at once would not fit into memory."""
    drop_plane(LocalStorage(root), "residual", ["train"])
    run_tasks, held = add_residual.run_tasks, []

    def count():
        gc.collect()
        return sum(type(thing) is PlannedVideo for thing in gc.get_objects())

    before = count()

    def watched(tasks, *words, **named):
        held.append(count() - before)
        return run_tasks(tasks, *words, **named)

    monkeypatch.setattr(add_residual, "run_tasks", watched)
    assert add_to(root, videos) == 2
    assert held == [0]
    assert hashes(root) == hashes(full)


def test_records_of_files_are_read_by_several_threads(videos, root, monkeypatch):
    """One after the other takes an hour for a hundred thousand shards in object storage."""
    drop_plane(LocalStorage(root), "residual", ["train"])
    readers, read = set(), LocalStorage.read

    def watched(self, name):
        if name.endswith(".files.json"):
            readers.add(threading.current_thread())
        return read(self, name)

    monkeypatch.setattr(LocalStorage, "read", watched)
    assert add_to(root, videos) == 2
    assert readers
    assert threading.main_thread() not in readers


def test_it_cannot_be_added_twice(videos, root):
    with pytest.raises(SettingsError, match="residual already"):
        add_to(root, videos)


def test_an_unfinished_split_is_refused(videos, root):
    drop_plane(LocalStorage(root), "residual", ["train"])
    (root / "train" / "manifest.json").unlink()
    with pytest.raises(SettingsError, match="not finished"):
        add_to(root, videos)


def test_settings_of_a_newer_version_are_refused():
    with pytest.raises(SettingsError, match="sharpness"):
        add_residual.recorded_options({"mode": "canonical", "crf": 20, "sharpness": 3})


def test_recorded_settings_are_the_options_again(root):
    options = add_residual.recorded_options(load_dataset(root).settings)
    assert options.canonical == OPTIONS.canonical
    assert options.segment_frames == OPTIONS.segment_frames


def test_the_residual_needs_the_videos_alone(root):
    with pytest.raises(UserError, match="--videos"):
        add(str(root), "residual")
