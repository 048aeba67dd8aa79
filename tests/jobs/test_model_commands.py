"""'gopstream train' and 'evaluate': datasets that do not fit, at an address, and damaged ones."""

import json
import shutil
import tarfile
import warnings

import pytest

from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from web_server import running_web_server

NUM_SHARDS = 8
STEPS = ("train.steps=2", "train.batch_size=4", "schedule.warmup_steps=0", "train.log_every=1")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder of the test's own: the cache is there, unless a command says otherwise."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos of 64 pixels, as dvt_tiny_demo asks."""
    folder = tmp_path_factory.mktemp("commands")
    write_demo_videos(folder, split="train", videos_per_class=1, seed=1, num_frames=24, size=64)
    words = ["shard", str(folder / "train"), "--out", str(folder / "set"), "--short-side", "64"]
    assert main([*words, "--planes", "frames,motion", "--workers", "1"]) == 0
    return folder / "set"


def train(data, out, *words):
    return main(["train", "dvt_tiny_demo", *STEPS, "--data", str(data), "--out", str(out), *words])


def evaluate(run, data, report, *words):
    """Evaluate on the training split; returns the exit code."""
    command = ["evaluate", str(run), "--data", str(data), "--split", "train"]
    return main([*command, "--json", str(report), *words])


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    assert train(root, out) == 0
    return out


def test_a_dataset_that_does_not_fit_is_refused_before_anything_is_written(root, tmp_path, capsys):
    assert train(root, tmp_path / "run", "data.short_side=128", "data.fps=15") == 1
    err = capsys.readouterr().err
    assert f"{root} does not fit the recipe:" in err
    assert "a short side of at most 64 pixels, the recipe needs 128" in err
    assert "gopstream shard VIDEOS --out OTHER --short-side 128 --fps 15" in err
    assert not (tmp_path / "run").exists()


def test_a_missing_plane_is_named_with_the_command_that_adds_it(root, tmp_path, capsys):
    assert train(root, tmp_path / "run", 'data.planes=["residual"]') == 1
    assert f"planes add {root} residual --videos VIDEOS" in capsys.readouterr().err


def test_force_trains_on_it_all_the_same(run, root, tmp_path, capsys):
    assert train(root, tmp_path / "run", "data.short_side=128", "--force") == 0
    assert "warning: " in capsys.readouterr().err
    assert losses(tmp_path / "run") == losses(run)


def test_evaluate_asks_the_checkpoints_recipe(root, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(root, out, "data.fps=15", "--force") == 0
    words = ["evaluate", str(out), "--data", str(root), "--split", "train"]
    assert main(words) == 1
    assert "it stores every frame, the recipe needs 15 frames per second" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_a_bucket_trains_the_same_as_a_disk(run, root, tmp_path, s3):
    for path in root.rglob("*"):
        if path.is_file():
            s3.put(f"set/{path.relative_to(root)}", path.read_bytes())
    words = ["--endpoint", s3.proxy.url, "--region", "us-east-1", "--patience", "20"]
    data = f"{s3.url}/set"
    assert train(data, tmp_path / "run", *words) == 0
    assert losses(tmp_path / "run") == losses(run)
    reports = []
    for place, options in ((root, []), (data, words)):
        reports.append(tmp_path / f"{len(reports)}.json")
        assert evaluate(run, place, reports[-1], *options) == 0
    assert reports[0].read_text() == reports[1].read_text()
    assert json.loads(reports[0].read_text())["samples"] == 8


def test_an_address_of_an_unknown_kind_is_one_line(tmp_path, capsys):
    assert train("ftp://host/set", tmp_path / "run") == 1
    err = capsys.readouterr().err
    assert "ftp://host/set" in err
    assert err.count("\n") == 1


@pytest.fixture
def web(root):
    """The dataset on a web server; a function counts the requests for its shards."""
    with running_web_server(root.parent) as proxy:
        proxy.shard_requests = lambda: proxy.count(lambda seen: seen.target.endswith(".tar"))
        yield proxy


def test_what_the_first_run_fetched_the_second_reads_from_the_cache(run, web, tmp_path, home):
    kept = tmp_path / "kept"
    words = ["--cache", str(kept), "--cache-gb", "1", "--fetch", "shards"]
    assert train(f"{web.url}/set", tmp_path / "first", *words) == 0
    assert web.shard_requests() == NUM_SHARDS, "one for each whole shard"
    assert train(f"{web.url}/set", tmp_path / "second", *words) == 0
    assert evaluate(run, f"{web.url}/set", tmp_path / "report", *words) == 0
    assert web.shard_requests() == NUM_SHARDS, "none was added"
    assert losses(tmp_path / "first") == losses(tmp_path / "second") == losses(run)
    assert len(list((kept / "files").iterdir())) == NUM_SHARDS
    assert not home.exists()


def test_the_cache_of_auto_is_in_the_home_folder(web, tmp_path, home):
    assert train(f"{web.url}/set", tmp_path / "run", "--fetch", "shards") == 0
    assert len(list((home / ".cache" / "gopstream" / "files").iterdir())) == NUM_SHARDS


def test_without_a_cache_nothing_is_kept(run, web, tmp_path, home):
    for number in (1, 2):
        web.reset()
        assert train(f"{web.url}/set", tmp_path / str(number), "--cache", "off") == 0
        assert web.shard_requests() > 0
        assert losses(tmp_path / str(number)) == losses(run)
    web.reset()
    assert evaluate(run, f"{web.url}/set", tmp_path / "report", "--cache", "off") == 0
    assert web.shard_requests() > 0
    assert not home.exists()


def test_no_more_is_kept_than_the_bound_of_the_command(run, root, web, tmp_path):
    """There is room for the largest shard, not for two of the smallest."""
    sizes = sorted(path.stat().st_size for path in root.rglob("*.tar"))
    assert sizes[-1] < 2 * sizes[0]
    kept = tmp_path / "kept"
    words = ["--cache", str(kept), "--cache-gb", str(sizes[-1] / 1e9), "--fetch", "shards"]
    assert train(f"{web.url}/set", tmp_path / "run", *words) == 0
    assert losses(tmp_path / "run") == losses(run)
    assert len(list((kept / "files").iterdir())) <= 1


@pytest.mark.parametrize("command", [["train", "dvt_tiny_demo"], ["evaluate", "runs"]])
@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--cache-gb", "-1"], 1, "--cache-gb must be a size above 0, got -1"),
        (["--cache", "none"], 1, "--cache must be auto, off or a folder such as ./cache"),
        (["--fetch", "shard"], 2, "shards"),
        (["--on-error", "ignore"], 2, "skip"),
    ],
)
def test_options_that_cannot_be_meant_end_both_commands(
    root, tmp_path, capsys, command, words, code, reason, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--data", str(root), *words]) == code
    err = capsys.readouterr().err
    assert reason in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def damage(root, copy, *, share):
    """Copy a dataset and overwrite the end of a sample's pictures; returns its key and class."""
    shutil.copytree(root, copy)
    path = copy / "train" / "000005.tar"  # its three views lie in two batches of four
    with tarfile.open(path) as tar:
        member = next(member for member in tar if member.name.endswith(".frames.mjpeg"))
        key = member.name.partition(".")[0]
        label = json.load(tar.extractfile(f"{key}.json"))["class"]
    num_bytes = int(share * member.size)
    with path.open("r+b") as file:
        file.seek(member.offset_data + member.size - num_bytes)
        file.write(bytes(num_bytes))
    return key, label


@pytest.fixture(scope="module")
def damaged(root, tmp_path_factory):
    """The dataset with a sample that has no picture left, and that sample's key."""
    copy = tmp_path_factory.mktemp("damaged") / "set"
    return copy, damage(root, copy, share=1)[0]


def test_a_damaged_clip_stops_both_commands(run, damaged, tmp_path, capsys):
    copy, key = damaged
    assert train(copy, tmp_path / "run", "train.on_error=skip", "--on-error", "raise") == 1
    assert key in capsys.readouterr().err
    assert evaluate(run, copy, tmp_path / "report") == 1
    assert key in capsys.readouterr().err


def test_training_that_skips_tells_how_many(damaged, tmp_path, capsys):
    """Two steps of four clips are one epoch of the eight samples."""
    report = tmp_path / "report"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        words = ["--on-error", "skip", "--json", str(report)]
        assert train(damaged[0], tmp_path / "run", *words) == 0
    assert any(damaged[1] in str(warning.message) for warning in caught)
    assert "; 1 damaged clip left out;" in capsys.readouterr().out
    assert json.loads(report.read_text())["skipped"] == 1


@pytest.mark.parametrize(("share", "views"), [(1, "1x3"), (0.1, "3x1")])
def test_evaluation_that_skips_measures_the_others(run, root, tmp_path, capsys, share, views):
    """Of a sample of which the last of three views is damaged no view counts."""
    key, label = damage(root, tmp_path / "set", share=share)
    words = ["--views", views, "--on-error", "skip"]
    assert evaluate(run, root, tmp_path / "whole", *words) == 0
    assert "left out" not in capsys.readouterr().out
    assert evaluate(run, tmp_path / "set", tmp_path / "rest", *words) == 0
    said = capsys.readouterr()
    assert "; 1 damaged sample left out" in said.out
    assert said.err.count(key) == 1
    whole, rest = (json.loads((tmp_path / name).read_text()) for name in ("whole", "rest"))
    assert (whole["samples"], whole["skipped"]) == (8, 0)
    assert (rest["samples"], rest["skipped"]) == (7, 1)
    del whole["per_class"][label]
    assert rest["per_class"] == whole["per_class"]


@pytest.fixture
def without_half(root, tmp_path):
    """The dataset without the first four of its eight samples: a whole batch."""
    shutil.copytree(root, tmp_path / "half")
    for number in range(4):
        (tmp_path / "half" / "train" / f"{number:06d}.tar").unlink()
    return tmp_path / "half"


@pytest.mark.parametrize("more", [[], ["--workers", "1"]])
def test_evaluation_goes_on_behind_a_batch_that_cannot_be_read(run, without_half, tmp_path, more):
    report = tmp_path / "report"
    assert evaluate(run, without_half, report, "--on-error", "skip", *more) == 0
    content = json.loads(report.read_text())
    assert (content["samples"], content["skipped"]) == (4, 4)


def test_evaluation_of_nothing_is_an_error(run, without_half, tmp_path, capsys):
    for number in range(4, 8):
        (without_half / "train" / f"{number:06d}.tar").unlink()
    assert evaluate(run, without_half, tmp_path / "report", "--on-error", "skip") == 1
    err = capsys.readouterr().err
    assert "no sample can be read in all of its views; run 'gopstream verify'" in err
    assert "Traceback" not in err


def test_numbers_that_cannot_be_meant_are_one_line(run, root, tmp_path, capsys):
    assert evaluate(run, root, tmp_path / "report", "--workers", "-1") == 1
    err = capsys.readouterr().err
    assert "workers must be at least 0, got -1" in err
    assert "Traceback" not in err


def test_a_run_that_is_resumed_on_other_data_says_so_in_one_line(root, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(root, out, "train.batch_size=2") == 0
    other = tmp_path / "other"
    words = ["shard", str(root.parent / "train"), "--out", str(other), "--short-side", "64"]
    assert main([*words, "--planes", "frames,motion", "--workers", "1", "--quality", "50"]) == 0
    capsys.readouterr()
    assert train(other, out, "train.batch_size=2", "--resume") == 1
    err = capsys.readouterr().err
    assert "samples of other content" in err
    assert "Traceback" not in err


def test_a_run_that_damage_stopped_goes_on_without_the_clip(damaged, tmp_path, capsys):
    """As if it had skipped from the beginning. The rest of the recipe must stay the run's."""
    out, straight = tmp_path / "run", tmp_path / "straight"
    words = ["train.steps=4", "train.checkpoint_every=1", "train.seed=2"]
    assert train(damaged[0], out, *words) == 1
    assert len(losses(out)) == 1, "the clip must be in the second batch; take another train.seed"
    more = ["--resume", "--on-error", "skip"]
    capsys.readouterr()
    assert train(damaged[0], out, *words, "train.learning_rate=1e-5", *more) == 1
    assert "holds a run of another recipe" in capsys.readouterr().err
    assert train(damaged[0], out, *words, *more) == 0
    assert train(damaged[0], straight, *words, "--on-error", "skip") == 0
    assert losses(out) == losses(straight)
