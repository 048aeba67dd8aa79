"""Trials, appended videos, failed ones tried again, and datasets made in several shares."""

import json
import shutil
import subprocess
import sys

import pyarrow.parquet
import pytest

from file_hashes import hashes
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.shards.dataset_files import load_manifest
from gopstream.shards.reader import ShardDataset


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Sixteen videos of eight classes."""
    folder = tmp_path_factory.mktemp("videos")
    write_demo_videos(folder, split="train", videos_per_class=2, seed=1, num_frames=12, size=64)
    return folder / "train"


def shard(videos, out, *words):
    given = ["shard", str(videos), "--out", str(out), "--short-side", "64", "--workers", "1"]
    return main([*given, "--videos-per-shard", "4", *words])


def sources_of(root):
    dataset = ShardDataset(root, "train")
    return [dataset.read_json(i)["source"]["name"] for i in range(len(dataset))]


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "set"
    assert shard(videos, root) == 0
    return root


@pytest.fixture(scope="module")
def few(videos, tmp_path_factory):
    """A folder with all classes, but one video of each."""
    folder = tmp_path_factory.mktemp("few") / "videos"
    for kind in sorted(videos.iterdir()):
        (folder / kind.name).mkdir(parents=True)
        shutil.copy(kind / "0000.mp4", folder / kind.name)
    return folder


@pytest.fixture(scope="module")
def sharded_few(few, tmp_path_factory):
    root = tmp_path_factory.mktemp("sharded_few") / "set"
    assert shard(few, root) == 0
    return root


@pytest.fixture
def root(sharded_few, tmp_path):
    """A copy of the dataset of few videos, to be changed."""
    return shutil.copytree(sharded_few, tmp_path / "set")


def test_a_trial_is_the_beginning_of_the_whole(videos, whole, tmp_path):
    assert shard(videos, tmp_path / "trial", "--limit", "4") == 0
    want, found = hashes(whole), hashes(tmp_path / "trial")
    assert found["train/000000.tar"] == want["train/000000.tar"]
    assert "train/000001.tar" not in found


def test_a_trial_is_not_continued_by_accident(videos, tmp_path, capsys):
    shard(videos, tmp_path / "trial", "--limit", "4")
    before = hashes(tmp_path / "trial")
    assert shard(videos, tmp_path / "trial") == 1
    assert "--limit was 4, now it is not given" in capsys.readouterr().err
    assert hashes(tmp_path / "trial") == before


def test_appended_videos_leave_old_shards_untouched(videos, root):
    before, old_sources = hashes(root), sources_of(root)
    manifest = load_manifest(root, "train")
    assert shard(videos, root, "--append") == 0
    after = hashes(root)
    rewritten = {name for name in before if before[name] != after[name]}
    assert rewritten == {"train/manifest.json", "train/samples.parquet"}
    assert sources_of(root)[:8] == old_sources
    assert len(sources_of(root)) == len(set(sources_of(root))) == 16
    grown = load_manifest(root, "train")
    assert grown.shards[: len(manifest.shards)] == manifest.shards
    assert (grown.num_videos, grown.num_samples, grown.num_plans) == (16, 16, 2)
    assert main(["verify", str(root)]) == 0


def test_appending_nothing_and_appending_again_change_nothing(videos, few, root):
    shard(videos, root, "--append")
    before = hashes(root)
    for folder in (videos, few):
        assert shard(folder, root, "--append") == 0
        assert hashes(root) == before


def test_append_needs_a_finished_dataset(videos, root, tmp_path, capsys):
    assert shard(videos, tmp_path / "none", "--append") == 1
    assert "there is no dataset to append to" in capsys.readouterr().err
    (root / "train" / "manifest.json").unlink()
    assert shard(videos, root, "--append") == 1
    assert "is not finished" in capsys.readouterr().err


def test_an_interrupted_append_continues_and_the_dataset_stays_readable(videos, root):
    before = {name: (root / name).read_bytes() for name in hashes(root)}
    shard(videos, root, "--append")
    whole = hashes(root)
    # As if it had been killed after its first shard: what came later is not there yet.
    for name in ("000003.tar", "000003.index.npz", "000003.report.jsonl", "000003.files.json"):
        (root / "train" / name).unlink()
    for name in ("train/manifest.json", "train/samples.parquet"):
        (root / name).write_bytes(before[name])
    assert len(ShardDataset(root, "train")) == 8
    assert shard(videos, root, "--append") == 0
    assert hashes(root) == whole


def test_another_label_of_an_old_video_is_refused(few, tmp_path, capsys):
    root = tmp_path / "set"
    names = sorted(path.relative_to(few).as_posix() for path in few.rglob("*.mp4"))
    rows = [f"{name},{name.split('/')[0]}" for name in names]
    (tmp_path / "old.csv").write_text("\n".join(["path,label", *rows]))
    shard(few, root, "--annotations", str(tmp_path / "old.csv"))
    other = [rows[0].rsplit(",", 1)[0] + "," + rows[1].rsplit(",", 1)[1], *rows[1:]]
    (tmp_path / "new.csv").write_text("\n".join(["path,label", *other]))
    before = hashes(root)
    assert shard(few, root, "--annotations", str(tmp_path / "new.csv"), "--append") == 1
    assert "'gopstream relabel' changes labels" in capsys.readouterr().err
    assert hashes(root) == before


def test_failed_videos_alone_are_tried_again(few, tmp_path):
    root, folder = tmp_path / "set", tmp_path / "videos"
    shutil.copytree(few, folder)
    good = {}
    for name in ("zoom_in/0000.mp4", "zoom_out/0000.mp4", "move_up/0000.mp4"):
        good[name] = (folder / name).read_bytes()
        (folder / name).write_text("not yet downloaded")
    shard(folder, root)
    before = hashes(root)
    assert load_manifest(root, "train").num_failures == 3
    for name in ("zoom_in/0000.mp4", "zoom_out/0000.mp4"):
        (folder / name).write_bytes(good[name])
    assert shard(folder, root, "--retry-failed") == 0
    assert len(sources_of(root)) == 7
    after = hashes(root)
    assert all(after[name] == before[name] for name in before if name.endswith(".tar"))
    failures = (root / "train" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(row)["source"] for row in failures] == ["move_up/0000.mp4"]
    manifest = load_manifest(root, "train")
    assert (manifest.num_videos, manifest.num_failures, manifest.num_samples) == (8, 1, 7)
    assert main(["verify", str(root)]) == 0
    rows = pyarrow.parquet.read_table(root / "train" / "samples.parquet").to_pylist()
    keys = {row["source"]: row["key"] for row in rows}
    assert len(set(keys.values())) == 7
    # Tried again without success, and once more with it; then nothing is left to try.
    assert shard(folder, root, "--retry-failed") == 0
    (folder / "move_up/0000.mp4").write_bytes(good["move_up/0000.mp4"])
    assert shard(folder, root, "--retry-failed") == 0
    assert load_manifest(root, "train").num_failures == 0
    done = hashes(root)
    assert shard(folder, root, "--retry-failed") == 0
    assert hashes(root) == done
    assert main(["verify", str(root)]) == 0


def test_keys_do_not_depend_on_when_a_video_succeeded(few, sharded_few, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(few, folder)
    content = (folder / "zoom_in/0000.mp4").read_bytes()
    (folder / "zoom_in/0000.mp4").unlink()
    (folder / "zoom_in/0000.mp4").write_text("broken")
    second = tmp_path / "second"
    shard(folder, second)
    (folder / "zoom_in/0000.mp4").write_bytes(content)
    shard(folder, second, "--retry-failed")

    def keys(root):
        rows = pyarrow.parquet.read_table(root / "train" / "samples.parquet").to_pylist()
        return {row["source"]: row["key"] for row in rows}

    assert keys(sharded_few) == keys(second)


def test_shares_of_a_job_array_make_the_same_dataset(videos, whole, tmp_path, capsys):
    root = tmp_path / "set"
    for number in (2, 3, 1):
        assert main(["merge", str(root)]) == 1  # nothing, or not all, is there
        said = capsys.readouterr().err
        assert "not a dataset" in said or "shards are not finished" in said
        assert shard(videos, root, "--part", f"{number}/3") == 0
        assert "gopstream merge" in capsys.readouterr().out
        assert not (root / "train" / "manifest.json").exists()
    assert main(["merge", str(root)]) == 0
    assert hashes(root) == hashes(whole)
    assert main(["merge", str(root)]) == 0


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/3/5"])
def test_a_share_that_cannot_be_is_refused(videos, tmp_path, capsys, part):
    assert shard(videos, tmp_path / "set", "--part", part) == 1
    assert "--part" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_plan_writes_nothing_and_shows_other_choices(videos, tmp_path, capsys):
    out = tmp_path / "set"
    assert shard(videos, out, "--plan", "--json", str(tmp_path / "plan.json")) == 0
    assert not out.exists()
    said = capsys.readouterr().out
    for word in (
        "--quality 75",
        "--fps 10",
        "--frame-stride 2",
        "without residual",
        "time",
        "of the source",
    ):
        assert word in said
    content = json.loads((tmp_path / "plan.json").read_text())["splits"]["train"]
    assert content["videos"] == 16
    choices = {choice["choice"]: choice for choice in content["choices"]}
    chosen = choices["as chosen"]
    assert choices["without residual"]["bytes"] == pytest.approx(
        chosen["bytes"] - chosen["plane_bytes"]["residual"], abs=1
    )
    assert choices["--quality 75"]["bytes"] < chosen["bytes"] < choices["--quality 95"]["bytes"]


def test_the_estimate_is_close_to_what_the_dataset_becomes(videos, whole, tmp_path):
    shard(videos, tmp_path / "set", "--plan", "--json", str(tmp_path / "plan.json"))
    content = json.loads((tmp_path / "plan.json").read_text())["splits"]["train"]
    tars = [path for path in (whole / "train").glob("*.tar")]
    stored = sum(path.stat().st_size for path in tars)
    overhead = 16 * 7 * 1024  # headers and padding of small members
    assert content["choices"][0]["bytes"] == pytest.approx(stored - overhead, rel=0.25)
    source = sum(path.stat().st_size for path in videos.rglob("*.mp4"))
    assert content["source_bytes"] == pytest.approx(source, rel=0.25)


def test_only_one_kind_of_run(videos, tmp_path, capsys):
    assert shard(videos, tmp_path / "set", "--append", "--plan") == 1
    assert "only one of --plan, --append and --retry-failed" in capsys.readouterr().err


def test_appending_says_how_many_are_new(videos, few, root, capsys):
    assert shard(videos, root, "--append") == 0
    assert "train: 8 of 16 listed videos are new" in capsys.readouterr().err
    assert shard(few, root, "--append") == 0
    assert "train: 0 of 8 listed videos are new" in capsys.readouterr().err


def test_a_new_split_may_come_with_appended_videos(few, tmp_path):
    root = tmp_path / "set"
    names = sorted(path.relative_to(few).as_posix() for path in few.rglob("*.mp4"))
    rows = [f"{name},{name.split('/')[0]},train" for name in names[:4]]
    (tmp_path / "old.csv").write_text("\n".join(["path,label,split", *rows]))
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(sorted({name.split("/")[0] for name in names})))
    words = ["--classes", str(labels), "--annotations"]
    assert shard(few, root, *words, str(tmp_path / "old.csv")) == 0
    rows += [
        f"{names[4]},{names[4].split('/')[0]},train",
        f"{names[5]},{names[5].split('/')[0]},val",
    ]
    (tmp_path / "new.csv").write_text("\n".join(["path,label,split", *rows]))
    assert shard(few, root, *words, str(tmp_path / "new.csv"), "--append") == 0
    assert len(ShardDataset(root, "train")) == 5
    assert len(ShardDataset(root, "val")) == 1
    assert main(["verify", str(root)]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--retry-failed", "--limit", "1"),
        ("--retry-failed", "--annotations", "list.csv"),
        ("--retry-failed", "--seed", "3"),
        ("--retry-failed", "--part", "1/2"),
        ("--plan", "--part", "1/2"),
        ("--ray-address", "127.0.0.1:1"),
    ],
)
def test_options_that_would_do_nothing_are_refused(few, tmp_path, capsys, words):
    assert shard(few, tmp_path / "set", *words) == 1
    assert words[-2] in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_dataset_below_its_videos_is_not_listed_as_videos(few, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(few, folder)
    assert shard(folder, folder / "shards") == 0
    before = hashes(folder / "shards")
    assert shard(folder, folder / "shards") == 0
    assert hashes(folder / "shards") == before
    assert load_manifest(folder / "shards", "train").num_videos == 8


def test_a_place_that_takes_no_more_is_no_fault_of_the_videos(few, tmp_path):
    """A limit on the size of files stands for whatever a disk may answer besides being full."""
    out = tmp_path / "set"
    words = f"{few} --out {out} --short-side 64 --workers 1 --videos-per-shard 8"
    command = f"ulimit -f 100; exec {sys.executable} -m gopstream shard {words}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "000000" in done.stderr
    assert "File too large" in done.stderr
    assert not (out / "train" / "manifest.json").exists()
    assert (
        subprocess.run(
            [sys.executable, "-m", "gopstream", "shard", *words.split()], check=False
        ).returncode
        == 0
    )
    assert load_manifest(out, "train").num_failures == 0


@pytest.fixture
def kinetics(few, tmp_path):
    """Eight videos as Kinetics names them, one of which is not there yet, and their list."""
    folder, rows = tmp_path / "k400", ["label,youtube_id,time_start,time_end,split"]
    sources = sorted(few.rglob("*.mp4"))
    for number, source in enumerate(sources):
        label = source.parent.name
        rows.append(f"{label},id{number:09d},{number},{number + 10},train")
        (folder / label).mkdir(parents=True)
        name = f"id{number:09d}_{number:06d}_{number + 10:06d}.mp4"
        shutil.copy(source, folder / label / name)
    late = folder / sources[0].parent.name / "id000000000_000000_000010.mp4"
    content = late.read_bytes()
    late.unlink()
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    words = ["--annotations", str(tmp_path / "train.csv"), "--dataset", "kinetics400"]
    return folder, words, late, content


def test_a_video_that_comes_late_is_found_by_a_job_that_is_continued(kinetics, tmp_path, capsys):
    folder, words, late, content = kinetics
    root = tmp_path / "set"
    assert shard(folder, root, *words, "--part", "1/2") == 0
    assert "1 of 8 listed videos were not found (id000000000" in capsys.readouterr().err
    late.write_bytes(content)
    assert shard(folder, root, *words) == 0
    manifest = load_manifest(root, "train")
    assert manifest.num_videos == 8
    # Its shard may have been one of the first share, where it has failed.
    if manifest.num_failures:
        assert shard(folder, root, "--retry-failed") == 0
    assert load_manifest(root, "train").num_failures == 0
    assert main(["verify", str(root)]) == 0


def test_a_video_that_comes_late_is_found_by_a_retry_in_any_folder(kinetics, tmp_path):
    folder, words, late, content = kinetics
    root = tmp_path / "set"
    assert shard(folder, root, *words) == 0
    (failure,) = (root / "train" / "failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["stage"] == "open"
    (folder / "later" / "still").mkdir(parents=True)
    (folder / "later" / "still" / f"{late.stem}.mkv").write_bytes(content)
    assert shard(folder, root, *words, "--append") == 0  # it is no new video
    assert load_manifest(root, "train").num_videos == 8
    assert shard(folder, root, "--retry-failed") == 0
    manifest = load_manifest(root, "train")
    assert (manifest.num_videos, manifest.num_failures, manifest.num_samples) == (8, 0, 8)
    assert main(["verify", str(root)]) == 0


def test_a_wrong_folder_of_videos_writes_nothing(kinetics, tmp_path, capsys):
    _, words, _, _ = kinetics
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.mp4").write_bytes(b"")
    for more in ((), ("--plan",)):
        assert shard(tmp_path / "other", tmp_path / "set", *words, *more) == 1
        assert "none of the 8 listed videos is there" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_list_of_paths_never_takes_another_file_of_the_same_stem(few, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(few, folder)
    sources = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4"))
    (folder / "unlisted").mkdir()
    (folder / "unlisted" / "only.mp4").write_bytes((folder / sources[0]).read_bytes())
    rows = [f"{sources[1]},x", "gone/only.mp4,x"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    root = tmp_path / "set"
    assert shard(folder, root, "--annotations", str(tmp_path / "list.csv")) == 0
    assert shard(folder, root, "--retry-failed") == 0
    assert sources_of(root) == [sources[1]]
