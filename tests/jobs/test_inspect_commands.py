"""'gopstream inspect' and 'gopstream view' as a user calls them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from gopstream.jobs import inspect_request, view_commands
from gopstream.jobs.checkpoint import save_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.inspection import video_clip
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.shards.reader import ShardDataset
from inspection_cases import encode_pictures, make_dump, make_pictures, make_video, shard_here
from untrained import write_checkpoint


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos of 64 pixels, one of each class."""
    folder = tmp_path_factory.mktemp("inspect")
    write_demo_videos(folder, split="val", videos_per_class=1, seed=1, num_frames=24, size=64)
    choice = PlanChoice(videos_per_shard=3)
    shard_here(folder / "val", folder / "set", split="val", choice=choice)
    return folder / "set"


@pytest.fixture(scope="module")
def checkpoint_of(root, tmp_path_factory):
    """Return a function: a checkpoint of a model with fresh weights, in the demo's recipe."""

    def make(name, *options):
        recipe = load_recipe("dvt_tiny_demo", (f"model.name={name}", *options))
        classes = list(ShardDataset(root, "val").classes)
        path = tmp_path_factory.mktemp(name) / "checkpoint.pt"
        write_checkpoint(path, recipe, {"": classes})
        return path

    return make


def run(root, checkpoint, out, *words):
    return main(["inspect", str(root), "--checkpoint", str(checkpoint), "--png", str(out), *words])


@pytest.mark.parametrize(
    ("name", "options", "files"),
    [
        ("dvt_tiny", [], {"grad_cam", "sampled_points"}),
        ("dvt_tiny", ["model.options.cue=residual"], {"grad_cam", "sampled_points"}),
        (
            "dvt_tiny",
            ["clip.frames_on=device", "clip.motion_on=device"],
            {"grad_cam", "sampled_points"},
        ),
        ("dvt_tiny", ["model.use_motion=false"], {"grad_cam", "sampled_points"}),
        ("video_focalnet_tiny", [], {"grad_cam", "modulators_in_space", "modulators_in_time"}),
        ("sifa_net_tiny", [], {"grad_cam", "motion_saliency", "attention_points"}),
        ("sifa_swin_tiny", [], {"grad_cam", "motion_saliency", "attention_points"}),
        ("pst_tiny", [], {"grad_cam"}),
    ],
)
def test_pictures_are_written_and_named(
    root, checkpoint_of, tmp_path, capsys, name, options, files
):
    assert run(root, checkpoint_of(name, *options), tmp_path / "looks") == 0
    written = {path.stem: path for path in (tmp_path / "looks").iterdir()}
    assert set(written) == files
    out = capsys.readouterr().out
    for path in written.values():
        assert f"{path}: " in out
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture).std() > 10


def test_the_report_says_what_the_network_takes_the_clip_for(root, checkpoint_of, tmp_path):
    """The same as 'gopstream evaluate' finds, of a key that is not the first."""
    checkpoint, report = checkpoint_of("dvt_tiny"), tmp_path / "report.json"
    dataset = ShardDataset(root, "val")
    assert run(root, checkpoint, tmp_path, "--key", dataset.keys[5], "--json", str(report)) == 0
    content = json.loads(report.read_text())
    assert content["key"] == dataset.keys[5]
    assert content["label"] == dataset.classes[int(dataset.labels[5])]
    assert [picture["shows"] for picture in content["pictures"]] == [
        "Grad-CAM",
        "sampled points over frames",
    ]
    weights = np.array(content["pictures"][1]["weights"])  # frames, heads, points
    np.testing.assert_allclose(weights.sum(axis=(0, 2)), 1, atol=1e-6)
    evaluate(checkpoint, root, out=tmp_path / "evaluated", predictions="jsonl")
    lines = (tmp_path / "evaluated" / "predictions.jsonl").read_text().splitlines()
    row = json.loads(lines[5])
    assert row["key"] == dataset.keys[5]
    assert content["predicted"] == row["top5"][0]
    assert content["probability"] == pytest.approx(row["probabilities"][0], abs=1e-5)


def test_the_motion_of_the_clip_decides_where_points_lie(root, checkpoint_of, tmp_path):
    places = []
    for options in ([], ["model.use_motion=false"]):
        checkpoint, report = checkpoint_of("dvt_tiny", *options), tmp_path / "report.json"
        assert run(root, checkpoint, tmp_path, "--json", str(report)) == 0
        places.append(json.loads(report.read_text())["pictures"][1]["places"])
    assert not np.allclose(*places, atol=1e-3)


def test_query_frame_and_block_are_those_of_the_command(root, checkpoint_of, tmp_path):
    report = tmp_path / "report.json"
    words = ["--query", "3,20.5", "--frame", "1", "--block", "0", "--json", str(report)]
    assert run(root, checkpoint_of("dvt_tiny"), tmp_path, *words) == 0
    points = json.loads(report.read_text())["pictures"][1]
    assert (points["query"], points["query_frame"], points["block"]) == ([2, 22], 0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--key", "val-0000001"], "has no sample 'val-0000001' (did you mean 'val-0000000"),
        (["--query", "3"], "--query must be X,Y in pixels, such as 16,20, got '3'"),
        (["--query", "40,3"], "--query must lie in the clip's frames of 32 x 32 pixels"),
        (["--block", "2"], "--block must be 0 to 1, got 2"),
        (["--frame", "8"], "--frame must be 0 to 7, got 8"),
        (["--split", "test"], "test"),
        (["--on-error", "skip"], "here there is one clip"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    root, checkpoint_of, tmp_path, capsys, words, message
):
    out = tmp_path / "looks"
    assert run(root, checkpoint_of("dvt_tiny"), out, *words) == 1
    err = capsys.readouterr().err
    assert message in err.replace("\n", " ")
    assert not out.exists()


def test_a_checkpoint_of_other_classes_is_refused(root, checkpoint_of, tmp_path, capsys):
    path = checkpoint_of("dvt_tiny")
    content = torch.load(path, weights_only=True)
    save_checkpoint(path, content | {"sets": [["", [f"walk {number}" for number in range(8)]]]})
    assert run(root, path, tmp_path / "looks") == 1
    assert "was trained on other classes" in capsys.readouterr().err


def test_a_checkpoint_needs_a_folder_for_its_pictures(root, checkpoint_of, capsys):
    assert main(["inspect", str(root), "--checkpoint", str(checkpoint_of("dvt_tiny"))]) == 1
    assert "name a folder with --png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--movie", "a.mp4"],
        ["--first", "1"],
        ["--diff", "other"],
        ["--layers", "arrows"],
        ["--html", "a.html"],
    ],
)
def test_options_of_a_clip_do_not_go_with_a_checkpoint(
    root, checkpoint_of, tmp_path, capsys, words
):
    assert run(root, checkpoint_of("dvt_tiny"), tmp_path / "looks", *words) == 1
    assert f"{words[0]} does not go with --checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "looks").exists()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A video with B-frames, one without, and a dump of the former in which a frame is altered."""
    folder = tmp_path_factory.mktemp("clips")
    video = make_video(folder, b_frames=True)
    make_video(folder, num_frames=6)
    make_dump(video, folder / "dump")
    shutil.copytree(folder / "dump", folder / "altered")
    path = folder / "altered" / "motion_vectors" / "mvs-4.npy"
    vectors = np.load(path)
    vectors[0, 7] += 4
    np.save(path, vectors)
    return folder


def look(capsys, *words):
    """Run the command; returns its exit code, and what it wrote to both outputs."""
    capsys.readouterr()
    code = main(["inspect", *map(str, words)])
    return code, *capsys.readouterr()


def test_a_video_is_told_in_the_terminal_and_as_json(clip_folder, tmp_path, capsys):
    video = clip_folder / "b_frames.mp4"
    code, out, _ = look(capsys, video, "--json", tmp_path / "clip.json")
    assert code == 0
    assert "b_frames.mp4: a video" in out
    content = json.loads((tmp_path / "clip.json").read_text())
    assert set(content["kinds"]) == {"I", "P", "B"}
    assert len(content["frames"]) == content["num_frames"] == 12
    code, out, err = look(capsys, video, "--first", 2, "--last", 4, "--json", "-")
    assert [row["index"] for row in json.loads(out)["frames"]] == [2, 3, 4]
    assert "reading: 3/3 frames" in err


def test_one_frame_is_told_with_its_longest_vectors(clip_folder, capsys):
    code, out, _ = look(capsys, clip_folder / "b_frames.mp4", "--frame", 4)
    assert code == 0
    assert "longest vectors" in out
    _, out, _ = look(capsys, clip_folder / "b_frames.mp4", "--frame", 4, "--json", "-")
    content = json.loads(out)
    assert content["index"] == 4
    assert sum(content["partitions"].values()) == content["num_vectors"]


def test_the_exit_code_tells_whether_two_sources_differ(clip_folder, capsys):
    video = clip_folder / "b_frames.mp4"
    code, out, _ = look(capsys, video, "--diff", clip_folder / "dump")
    assert (code, "no difference in 12 frames" in out) == (0, True)
    code, out, _ = look(capsys, video, "--diff", clip_folder / "altered")
    assert (code, "1 of 12 frames differ: 4" in out) == (1, True)
    code, out, _ = look(capsys, video, "--diff", clip_folder / "altered", "--json", "-")
    assert (code, json.loads(out)["differing_frames"]) == (1, [4])
    words = ["--diff", clip_folder / "altered", "--first", "5"]
    assert look(capsys, video, *words)[0] == 0


def test_a_source_that_ends_early_differs_unless_the_rest_is_left_out(clip_folder, capsys):
    words = [clip_folder / "dump", "--diff", clip_folder / "short"]
    make_dump(make_video(clip_folder, b_frames=True, num_frames=9, name="9"), words[-1])
    code, out, _ = look(capsys, *words, "--last", 0)
    assert (code, "in 1 frame\n" in out) == (0, True)
    code, out, _ = look(capsys, *words, "--first", 8, "--last", 8)
    assert "numbers of frames differ" not in out
    code, out, _ = look(capsys, *words)
    assert (code, "numbers of frames differ: 12 and 9" in out) == (1, True)


def test_a_sample_is_compared_with_an_extraction_of_its_video(root, tmp_path, capsys):
    table = pyarrow.parquet.read_table(root / "val" / "samples.parquet")
    keys = dict(zip(*(table.column(name).to_pylist() for name in ("key", "source")), strict=True))
    (own, source), (another, _), *_ = keys.items()
    video = root.parent / "val" / source
    words = ["extract", str(video), "--out", str(tmp_path / "one"), "--mode", "canonical"]
    assert main([*words, "--short-side", "64"]) == 0
    for key, expected in ((own, 0), (another, 1)):
        code, out, _ = look(capsys, root, "--key", key, "--diff", tmp_path / "one")
        assert code == expected, out
        assert "residual of 24 frames" in out


def test_a_dataset_is_told_as_a_whole_and_by_its_samples(root, capsys):
    code, out, _ = look(capsys, root)
    assert (code, "8 in " in out) == (0, True)
    _, out, _ = look(capsys, root, "--json", "-")
    content = json.loads(out)
    assert (content["samples"], content["split"]) == (8, "val")
    shard = root / "val" / "000000.tar"
    _, out, _ = look(capsys, shard, "--json", "-")
    assert json.loads(out)["shards"] == 1
    assert 0 < json.loads(out)["samples"] < 8
    key = ShardDataset(root, "val").keys[5]
    _, out, _ = look(capsys, root, "--key", key, "--json", "-")
    content = json.loads(out)
    assert (content["source"], content["mode"]) == ("sample", "canonical")
    assert content["name"].endswith(key)
    _, out, _ = look(capsys, root, "--frame", 3, "--json", "-")
    assert json.loads(out)["index"] == 3


def test_pictures_of_all_kinds_are_written_and_named(clip_folder, tmp_path, capsys):
    words = ["--png", tmp_path / "png", "--layers", "frame, arrows", "--first", 3, "--last", 5]
    video = clip_folder / "b_frames.mp4"
    code, out, _ = look(capsys, video, *words, "--movie", tmp_path / "a.gif", "--json", "-")
    written = json.loads(out)["written"]
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == [
        f"{index:06d}_{layer}.png" for index in (3, 4, 5) for layer in ("arrows", "frame")
    ]
    assert len(written) == 7
    with Image.open(tmp_path / "a.gif") as movie:
        assert movie.n_frames == 3
    code, out, _ = look(capsys, clip_folder / "p_only.mp4", "--sheet", tmp_path / "sheet.png")
    assert code == 0
    assert re.fullmatch(rf"p_only.mp4: {tmp_path / 'sheet.png'} \([\d.]+ kB\)\n", out)
    code, out, _ = look(capsys, video, "--png", tmp_path / "one", "--frame", 4)
    assert out.startswith(f"b_frames.mp4: 3 pictures in {tmp_path / 'one'} (")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.asarray(sheet).std() > 10


def test_layers_that_a_clip_does_not_have_are_named_with_what_to_do(tmp_path, capsys):
    video = encode_pictures(tmp_path / "no.mkv", make_pictures(2), codec="ffv1")
    code, _, err = look(capsys, video, "--movie", tmp_path / "a.mp4")
    assert code == 0
    assert "no.mkv: without arrows, colours: no motion: " in err
    assert "'gopstream extract FILE --mode canonical --out FOLDER'" in err
    assert "drawing a.mp4: 2/2 frames" in err


def test_all_layers_are_those_that_the_clip_has(clip_folder, tmp_path, capsys):
    words = ["--png", tmp_path, "--layers", "all", "--frame", 4]
    code, out, err = look(capsys, clip_folder / "b_frames.mp4", *words)
    assert (code, "6 pictures in" in out) == (0, True)
    assert "without residual_heat, residual_signed: there is no residual" in err
    assert "without accumulated: motion cannot be followed through B-frames" in err


def test_a_name_of_no_layer_is_refused_before_the_video_is_read(tmp_path, capsys):
    (tmp_path / "no_video.mp4").write_bytes(b"")
    words = ["--png", tmp_path / "png", "--layers", "arrow"]
    code, _, err = look(capsys, tmp_path / "no_video.mp4", *words)
    assert (code, "did you mean 'arrows'?" in err) == (1, True)


def test_of_a_dataset_the_sample_of_the_other_side_is_compared(root, tmp_path, capsys):
    table = pyarrow.parquet.read_table(root / "val" / "samples.parquet")
    source = table.column("source")[3].as_py()
    one = root.parent / "val" / source
    code, out, err = look(capsys, one, "--diff", root)
    assert f"{root}: the sample {table.column('key')[3].as_py()} was made of a" in err
    assert f"{one}: video" in out
    assert f"{root} (val/{table.column('key')[3].as_py()}): sample" in out
    other = make_video(tmp_path, name="other")
    code, _, err = look(capsys, root, "--diff", other)
    assert (code, f"{root} is a dataset: name its sample with --key" in err) == (1, True)


def test_the_span_of_the_accumulated_layer_is_the_option_s(clip_folder, tmp_path, capsys):
    video = clip_folder / "p_only.mp4"
    for span in (1, 4):
        words = ["--layers", "accumulated", "--frame", 5, "--span", span]
        assert look(capsys, video, "--png", tmp_path / str(span), *words)[0] == 0
    first, last = (
        np.asarray(Image.open(tmp_path / str(span) / "000005_accumulated.png")) for span in (1, 4)
    )
    assert not np.array_equal(first, last)


def test_a_page_has_the_frames_that_were_asked_for(clip_folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["--html", page, "--first", 1, "--last", 2]
    code, out, _ = look(capsys, clip_folder / "b_frames.mp4", *words)
    assert out.startswith(f"b_frames.mp4: {page} (")
    text = page.read_text()
    assert 'id="frame-1"' in text
    assert 'id="frame-2"' in text
    assert 'id="frame-3"' not in text


def test_a_page_of_a_dataset_is_written_where_no_sample_is_named(root, tmp_path, capsys):
    page = tmp_path / "page.html"
    code, out, _ = look(capsys, root, "--html", page)
    assert (code, str(page) in out) == (0, True)
    assert ShardDataset(root, "val").keys[7] in page.read_text()


def test_a_page_of_a_shard_has_its_own_samples_alone(root, tmp_path, capsys):
    page, shard = tmp_path / "page.html", root / "val" / "000001.tar"
    keys = ShardDataset(root, "val").keys
    own = ShardDataset(root, "val", shards=["000001"]).keys
    code, out, _ = look(capsys, shard, "--html", page)
    assert (code, f"val/000001 is shown by {page}" in out) == (0, True)
    text = page.read_text()
    assert {key for key in keys if key in text} == set(own) < set(keys)
    assert f"<dt>Samples</dt><dd>{len(own)}</dd>" in text
    assert "<dt>Shards</dt><dd>1</dd>" in text
    assert "<h1>set / val / 000001</h1>" in text
    assert "Failed" not in text  # failures are of no shard


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frame", "12"], "--frame must be 0 to 11 in b_frames.mp4, got 12"),
        (["--last", "12"], "--last must be 0 to 11"),
        (["--first", "-1"], "--first must be 0 to 11"),
        (["--first", "5", "--last", "4"], "--first must not be behind --last, got 5 and 4"),
        (["--frame", "1", "--last", "4"], "leave out --first and --last, or --frame"),
        (["--layers", "arrows"], "--layers is for --png, --movie and --sheet"),
        (["--layers", "all", "--html", "a.html"], "the layers of a page are chosen in it"),
        (["--span", "4", "--html", "a.html"], "--span is for --png"),
        (["--span", "0", "--png", "png"], "--span must be at least 1, got 0"),
        (["--sheet", "a.png", "--first", "1"], "--first cannot be used with --sheet"),
        (["--diff", "b", "--html", "a.html"], "--diff compares and draws nothing; leave out"),
        (["--query", "1,2"], "--query shows what a model looks at, and so needs --checkpoint"),
        (["--force"], "--force shows what a model"),
        (["--png", "png", "--layers", "arows"], "got 'arows' (did you mean 'arrows'?)"),
        (["--key", "train-00000000"], "--key is for a dataset or a shard"),
        (["--diff", "nothing"], "nothing: no such file or folder; expected a video file"),
        (["--on-error", "skip"], "here there is one clip"),
    ],
)
def test_what_does_not_go_together_is_refused(
    clip_folder, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    code, _, err = look(capsys, clip_folder / "b_frames.mp4", *words)
    assert code == 1
    assert message in err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_a_look_that_is_stopped_promises_nothing(clip_folder, tmp_path, monkeypatch, capsys):
    def stop(num_bytes):
        raise KeyboardInterrupt

    monkeypatch.setattr(video_clip, "open_video", stop)
    words = [clip_folder / "p_only.mp4", "--movie", tmp_path / "a.mp4"]
    code, _, err = look(capsys, *words)
    assert (code, err) == (130, "gopstream: stopped; files that were not finished are not kept\n")


def test_the_app_s_port_is_checked(clip_folder, capsys):
    assert main(["view", str(clip_folder / "p_only.mp4"), "--port", "70000"]) == 1
    assert "--port must be 0 to 65535, got 70000" in capsys.readouterr().err


def test_without_the_app_s_packages_it_says_what_to_install(clip_folder):
    """In an interpreter that does not find them."""
    fence = (
        "import sys\n"
        "class Fence:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('starlette', 'uvicorn'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Fence())\n"
        "from gopstream.jobs.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", fence, "view", str(clip_folder / "p_only.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'gopstream[view]'" in done.stderr.replace("\n", " ")


def test_the_app_is_shown_by_its_secret_and_ends_with_a_signal(clip_folder, tmp_path):
    """The browser's command does not return before it is closed."""
    browser, told, closed = (tmp_path / name for name in ("browser.sh", "told", "closed"))
    browser.write_text(
        f'#!/bin/sh\necho "$1" > {told}.new; mv {told}.new {told}\n'
        f"while [ ! -e {closed} ]; do sleep 0.1; done\n"
    )
    browser.chmod(0o755)
    words = ["-m", "gopstream", "view", str(clip_folder / "p_only.mp4"), "--token"]
    app = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": str(browser)},
    )
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S{32}", app.stdout.readline())[0]
        answer = httpx.get(address.partition("?")[0])
        assert (answer.status_code, "?token=..." in answer.text) == (403, True)
        with httpx.Client() as client:
            assert client.get(address).status_code == 200
            assert client.get(address.partition("?")[0] + "api/target").status_code == 200
        while not told.exists():
            time.sleep(0.05)
        assert told.read_text() == f"{address}\n"
    finally:
        closed.touch()
        app.send_signal(signal.SIGINT)
        app.communicate()
    assert app.returncode in (0, 130)


def test_the_app_tells_how_much_of_a_long_video_was_read(clip_folder, monkeypatch, capsys):
    """Before it is shown; the clock goes fast here."""

    class Enough(Exception):
        pass

    def stop(text):
        raise Enough

    monkeypatch.setattr(inspect_request, "_SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(video_clip, "FRAMES_PER_BEAT", 5)
    monkeypatch.setattr(view_commands, "_say", stop)
    with pytest.raises(Enough):
        view_commands.view(str(clip_folder / "b_frames.mp4"), browser=False)
    said = capsys.readouterr().err
    note = "; the first look after an installation also compiles code"
    assert f"b_frames.mp4: 5 frames looked through{note}\n" in said
    assert "b_frames.mp4: 10 frames looked through\n" in said
