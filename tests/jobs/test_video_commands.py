"""extract, conformance and info of a video, as a user types them."""

import json
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest

from gopstream.jobs.cli import main
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.mvextractor_dump import read_dump
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, transcode_frames

needs_mvextractor = pytest.mark.skipif(
    find_spec("mvextractor") is None, reason="needs the extra gopstream[mvextractor]"
)


def run(capsys, *words):
    """Return (exit code, standard output, standard error)."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    return (code, *capsys.readouterr())


def ffmpeg(source, path, *words):
    command = [default_ffmpeg(), "-v", "error", "-y", "-i", source, *words, path]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def p_only(tmp_path_factory, small_video):
    """A stream whose pictures come out at once: what mvextractor can be trusted with."""
    path = tmp_path_factory.mktemp("p") / "p.mp4"
    options = ["-profile:v", "baseline", "-bf", "0", "-g", "10", "-threads", "1"]
    return ffmpeg(small_video, path, "-c:v", "libx264", *options)


@pytest.fixture(scope="module")
def exact(tmp_path_factory, small_video):
    folder = tmp_path_factory.mktemp("exact")
    for _ in transcode_frames(
        open_video(small_video),
        folder / "a.nut",
        canonical=CanonicalFormat(),
        binary=default_ffmpeg(),
    ):
        pass
    return ffmpeg(folder / "a.nut", folder / "exact.mp4", "-c", "copy")


def test_extract_writes_the_original_streams_vectors(capsys, small_video, tmp_path):
    out = tmp_path / "out"
    code, said, err = run(capsys, "extract", small_video, "--out", out)
    assert code == 0
    assert said.startswith(f"30 frames in {out}; residual: B-frames")
    assert "warning: B-frames: which frame a vector leads to is not known" in err
    clip = extract_clip(small_video, options=ExtractionOptions(mode="native"))
    np.testing.assert_array_equal(np.load(out / "motion.npy"), clip.motion)
    np.testing.assert_array_equal(np.load(out / "coverage.npy"), clip.coverage)
    assert len(list((out / "frames").iterdir())) == 30


def test_extract_of_an_exact_stream_has_its_residual(capsys, exact, tmp_path):
    code, said, err = run(capsys, "extract", exact, "--out", tmp_path / "out")
    assert code == 0
    assert said.strip().endswith("residual: exact")
    assert "warning" not in err
    assert np.load(tmp_path / "out" / "residual_cr.npy").shape == (30, 32, 48)


def test_extract_in_canonical_mode(capsys, small_video, tmp_path):
    words = [
        "--mode",
        "canonical",
        "--short-side",
        48,
        "--quality",
        70,
        "--planes",
        "motion,frames",
    ]
    code, said, _ = run(capsys, "extract", small_video, "--out", tmp_path / "out", *words)
    assert code == 0
    assert "residual: exact" in said
    content = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert content["frame_size"] == [72, 48]
    assert content["mode"] == "canonical"
    assert not list((tmp_path / "out").glob("residual_*"))


def test_json_on_standard_output_is_clip_json(capsys, small_video, tmp_path):
    words = ["--planes", "motion", "--json", "-"]
    code, said, _ = run(capsys, "extract", small_video, "--out", tmp_path / "out", *words)
    assert code == 0
    assert json.loads(said) == json.loads((tmp_path / "out" / "clip.json").read_text())


@pytest.mark.parametrize("planes", ["frames,motion", "motion"])
def test_a_dump_in_mvextractors_format_is_read_back(capsys, small_video, tmp_path, planes):
    out = tmp_path / "dump"
    words = ["--format", "mvextractor", "--planes", planes]
    code, said, _ = run(capsys, "extract", small_video, "--out", out, *words)
    assert (code, said) == (0, f"30 frames in {out}\n")
    with open_coded(small_video) as stream:
        for dumped, frame in zip(read_dump(out), stream.frames, strict=True):
            assert dumped.kind == frame.kind
            assert (dumped.picture_path is not None) == ("frames" in planes)
            count = 0 if frame.vectors is None else len(frame.vectors)
            assert len(dumped.vectors) == count
            if count:
                np.testing.assert_array_equal(dumped.vectors[:, 7], frame.vectors["motion_x"])
                np.testing.assert_array_equal(dumped.vectors[:, 6], frame.vectors["dst_y"])


@needs_mvextractor
def test_the_mvextractor_backend_gives_the_same_on_a_stream_of_p_frames(capsys, p_only, tmp_path):
    for backend in ("pyav", "mvextractor"):
        words = ["--backend", backend, "--out", tmp_path / backend]
        code, said, err = run(capsys, "extract", p_only, *words)
        assert code == 0, err
        assert said.startswith("30 frames in ")
    for name in ("motion.npy", "coverage.npy", "pts.npy"):
        ours, theirs = (tmp_path / backend / name for backend in ("pyav", "mvextractor"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert np.load(tmp_path / "mvextractor" / "coverage.npy").any()
    content = json.loads((tmp_path / "mvextractor" / "clip.json").read_text())
    assert content["backend"] == "mvextractor"


@needs_mvextractor
def test_the_mvextractor_backend_is_refused_on_a_stream_with_b_frames(
    capsys, small_video, tmp_path
):
    words = ["--backend", "mvextractor", "--out", tmp_path / "out"]
    code, said, err = run(capsys, "extract", small_video, *words)
    assert (code, said) == (1, "")
    assert "small.mp4: not for the mvextractor backend: " in err
    assert "B-frames" in err
    assert not (tmp_path / "out" / "clip.json").exists()


def test_what_cannot_be_extracted_is_one_line(capsys, small_video, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "note").write_text("mine")
    text = tmp_path / "text.mp4"
    text.write_text("words " * 100)
    jpegs = ffmpeg(small_video, tmp_path / "jpegs.avi", "-c:v", "mjpeg")
    new = tmp_path / "new"
    cases = [
        (["extract", small_video, "--out", full], "is not empty; choose another folder"),
        (["extract", small_video, "--out", full, "--format", "mvextractor"], "exists; choose"),
        (["extract", tmp_path / "gone.mp4", "--out", new], "no such file"),
        (["extract", text, "--out", new], "text.mp4: not a video"),
        (["extract", jpegs, "--out", new], "mjpeg has no motion vectors"),
        (["extract", small_video, "--out", new, "--planes", "frames"], "planes must be motion"),
        (["extract", small_video, "--out", new, "--planes", "motion,flow"], "planes must be"),
        (["extract", small_video, "--out", new, "--quality", 0], "quality must be"),
        (["extract", small_video, "--out", new, "--short-side", 3], "short side must be"),
        (
            [
                "extract",
                small_video,
                "--out",
                new,
                "--format",
                "mvextractor",
                "--mode",
                "canonical",
            ],
            "dumps the original stream",
        ),
        (
            ["conformance", "--extractor", "opencv"],
            "unknown extractor 'opencv'; there is gopstream",
        ),
        (["conformance", "--repeats", 0], "--repeats must be at least 1"),
        (["info", small_video, "--clip", "16"], "--clip must be frames x stride"),
    ]
    for words, said in cases:
        code, out, err = run(capsys, *words)
        assert (code, out) == (1, ""), words
        assert said in err, words
        assert err.startswith("gopstream: ")
        assert err.count("\n") == 1
        assert "--debug" not in err
    assert [path.name for path in full.iterdir()] == ["note"]


@pytest.mark.parametrize(
    "words", [["--mode", "exact"], ["--format", "npz"], ["--backend", "opencv"]]
)
def test_choices_that_there_are_not_are_wrong_usage(capsys, small_video, tmp_path, words):
    code, out, err = run(capsys, "extract", small_video, "--out", tmp_path / "out", *words)
    assert (code, out) == (2, "")
    assert words[1] in err


def test_our_own_vectors_pass_conformance(capsys):
    code, out, _ = run(capsys, "conformance", "--extractor", "gopstream", "--repeats", 1)
    assert code == 0
    assert "gopstream" in out


def test_conformance_as_json(capsys):
    words = ["--extractor", "gopstream", "--repeats", 1, "--json", "-"]
    code, out, _ = run(capsys, "conformance", *words)
    assert code == 0
    assert isinstance(json.loads(out), dict)


def rows_of(text):
    """The table of ``info`` as name -> value; a continued value is joined."""
    rows, last = {}, ""
    for line in text.splitlines():
        name, _, value = line.partition("  ")
        if line.startswith(" "):
            rows[last] += "\n" + line.strip()
        elif name.strip():
            last = name.strip()
            rows[last] = value.strip()
    return rows


def test_info_of_a_stream_with_b_frames_says_what_is_missing_and_why(capsys, small_video):
    code, out, _ = run(capsys, "info", small_video)
    assert code == 0
    rows = rows_of(out)
    assert rows["video stream"] == "0 (h264)"
    assert rows["profile"].startswith("High, level")
    assert rows["pictures"].startswith("30: I 1 (IDR 1), P ")
    assert rows["shard --mode canonical"] == "motion and exact residual"
    assert rows["shard --mode native"] == "motion and coverage"
    reasons = rows["why no residual"].splitlines()
    assert reasons[0].startswith("B-frames (17)")
    assert any(reason.startswith("deblocking") for reason in reasons)


def test_info_of_an_exact_stream_says_exact(capsys, exact):
    code, out, _ = run(capsys, "info", exact)
    assert code == 0
    rows = rows_of(out)
    assert rows["shard --mode native"] == "motion and coverage, exact residual"
    assert "why no residual" not in rows
    assert rows["pictures per GOP"].startswith("12 / 12 / 12")
    code, out, _ = run(capsys, "info", exact, "--json", "-")
    content = json.loads(out)
    assert content["stream"]["exact"] is True
    assert content["stream"]["inexact_reasons"] == []


@pytest.mark.parametrize(
    ("name", "words", "native", "reason"),
    [
        ("a.avi", ["-c:v", "mpeg4"], "motion and coverage", "mpeg4: its interpolation"),
        ("m.avi", ["-c:v", "mjpeg"], "not possible: FFmpeg exports no motion", "mjpeg: FFmpeg's"),
        (
            "i.mp4",
            ["-c:v", "libx264", "-flags", "+ilme+ildct", "-x264-params", "tff=1"],
            "not possible: interlaced",
            "B-frames",
        ),
    ],
)
def test_info_says_what_native_mode_would_give(
    capsys, small_video, tmp_path, name, words, native, reason
):
    code, out, _ = run(capsys, "info", ffmpeg(small_video, tmp_path / name, *words))
    assert code == 0
    rows = rows_of(out)
    assert rows["shard --mode native"].startswith(native)
    assert reason in rows["why no residual"]


def test_info_says_how_far_motion_can_be_followed(capsys, small_video):
    words = ["info", small_video, "--clip", "16x1"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "16x1 clips" in out
    assert "blocks that can be followed" in out
    _, out, _ = run(capsys, *words, "--json", "-")
    pairs = json.loads(out)["pairs"]
    assert (pairs["frames"], pairs["stride"], pairs["subclip_frames"]) == (16, 1, 8)
    assert pairs["num_pairs"] > 0
    assert 0 <= pairs["valid"] <= 1


def test_info_as_json_has_the_file_and_the_stream(capsys, small_video):
    _, out, _ = run(capsys, "info", small_video, "--json", "-")
    content = json.loads(out)
    assert content["file"]["codec"] == "h264"
    assert (content["file"]["width"], content["file"]["height"]) == (96, 64)
    assert content["stream"]["coded_size"] == [96, 64]
    assert content["stream"]["num_b"] == 17
    assert content["stream"]["exact"] is False
