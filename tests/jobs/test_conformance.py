import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gopstream.jobs.bench.skip_proof import count_stream
from gopstream.jobs.conformance import make_streams
from gopstream.jobs.conformance.adapters import (
    EXTRACTOR_NAMES,
    Extractor,
    dumps_extractor,
    extractor,
    one_thread_vectors,
    read_gopstream,
)
from gopstream.jobs.conformance.check import (
    SUITE,
    check_stream,
    conformance,
    load_suite,
    run_conformance,
)
from gopstream.jobs.conformance.hashing import hash_vectors
from gopstream.jobs.errors import UserError
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.motion import rasterise_vectors
from gopstream.pipeline.mvextractor_dump import dump_video
from gopstream.pipeline.transcode import default_ffmpeg

STREAMS = {stream.path.name: stream for stream in load_suite()}
DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"


def results_of(*extractors, repeats=1, names=None):
    suite = [STREAMS[name] for name in names or STREAMS]
    return run_conformance(extractors, repeats=repeats, suite=suite)


def changed(change):
    """Our own extractor, with its frames changed by ``change(list of (kind, table))``."""

    def read(path):
        return iter(change([(kind, table.copy()) for kind, table in read_gopstream(path)]))

    return Extractor("changed", "", read)


# The suite itself


def test_suite_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in (SUITE / "streams").iterdir()}
    assert files.keys() == STREAMS.keys()
    assert [recipe.file_name for recipe in make_streams.RECIPES] == list(STREAMS)
    assert max(files.values()) <= 40_000
    assert sum(files.values()) <= 300_000


def test_entries_describe_what_is_in_them():
    kinds = {name: set(stream.kinds) for name, stream in STREAMS.items()}
    assert kinds["b_pyramid.mp4"] == kinds["open_gop.mp4"] == {"I", "P", "B"}
    assert kinds["p_only.mp4"] == kinds["baseline_cavlc.mp4"] == {"I", "P"}
    entries = json.loads((SUITE / "hashes.json").read_text())["streams"]
    for entry in entries:
        assert len(entry["sha256"]) == len(entry["kinds"]) == entry["frames"]
        empty = [
            index
            for index, digest in enumerate(entry["sha256"])
            if digest == hash_vectors(np.zeros((0, 10), np.int32))
        ]
        # Next to the I-frames one picture may be all intra, such as the first dark one.
        assert len(empty) <= entry["kinds"].count("I") + 1
        assert entry["vectors"] > 1000
    assert [entry["file"] for entry in entries if not entry["counted"]] == [
        "mpeg4_b.avi",
        "interlaced.mp4",
    ]


def test_exchanged_stream_is_noticed(tmp_path):
    shutil.copytree(SUITE / "streams", tmp_path / "streams")
    shutil.copy(SUITE / "hashes.json", tmp_path)
    assert len(load_suite(tmp_path)) == len(STREAMS)
    shutil.copy(tmp_path / "streams" / "p_only.mp4", tmp_path / "streams" / "slices.mp4")
    with pytest.raises(UserError, match=r"slices\.mp4: missing, or not the file"):
        load_suite(tmp_path)


def test_other_version_is_refused(tmp_path):
    (tmp_path / "hashes.json").write_text('{"version": 2, "streams": []}')
    with pytest.raises(UserError, match="must be version 1, got 2"):
        load_suite(tmp_path)


def test_recipe_gives_the_same_stream_twice(tmp_path):
    recipe = next(r for r in make_streams.RECIPES if r.file_name == "baseline_cavlc.mp4")
    contents = []
    for name in "ab":
        (tmp_path / name).mkdir()
        path = make_streams.encode(recipe, tmp_path / name, rng=np.random.default_rng(1))
        contents.append(path.read_bytes())
        entry = make_streams.describe(recipe, path)
    assert contents[0] == contents[1]
    assert entry["frames"] == recipe.num_frames
    assert entry["kinds"] == "I" + 19 * "P"
    assert entry["sha256"] == [hash_vectors(table) for _, table in one_thread_vectors(path)]


# What is right


def test_our_vectors_are_right_in_each_run():
    (result,) = results_of(extractor("gopstream"), repeats=5)
    assert result.is_right
    assert [stream.expected.path.name for stream in result.streams if not stream.is_right] == []
    assert all(stream.runs_agree for stream in result.streams)


def test_slice_threads_are_right():
    (result,) = results_of(extractor("pyav-slice"), repeats=3)
    assert result.is_right


def test_other_release_of_the_decoder_agrees_where_nothing_races():
    pytest.importorskip("mvextractor.videocap", reason="mvextractor is not installed")
    names = ["p_only.mp4", "multi_reference.mp4", "baseline_cavlc.mp4", "mpeg4_half.avi"]
    (result,) = results_of(extractor("mvextractor"), names=[*names, "mpeg2_b.ts"])
    assert result.is_right


def test_mvextractor_loses_frames_behind_audio():
    pytest.importorskip("mvextractor.videocap", reason="mvextractor is not installed")
    (result,) = results_of(extractor("mvextractor"), names=["audio_first.mp4"])
    (run,) = result.streams[0].runs
    assert run.num_frames < 20
    assert run.wrong == tuple(range(run.num_frames, 20))
    assert not result.is_right


def test_skipped_macroblocks_prove_the_p_frames(tmp_path):
    # The proof reads the form of canonical streams: NUT, start codes.
    path = tmp_path / "p_only.nut"
    command = [default_ffmpeg(), "-v", "error", "-i", SUITE / "streams" / "p_only.mp4"]
    subprocess.run([*command, "-c", "copy", "-bsf:v", "h264_mp4toannexb", path], check=True)
    counts = count_stream(path)
    assert counts["skipped_fractional"] > 1000
    assert counts["exact_y"] == counts["exact_cb_cr"] == counts["skipped"]
    assert counts["inter_without_vector"] == counts["intra_with_vector"] == 0
    assert counts["exact_shifted"] < counts["skipped"] / 2


def exact_share_of_b_blocks(path, *, sign):
    """Share of 16x16 blocks of B-frames whose prediction is the decoded luma, sample for sample."""
    frames = []
    with open_coded(path) as stream:
        for frame in stream.frames:
            planes = Planes(*(plane.copy() for plane in frame.planes))
            vectors = None if frame.vectors is None else frame.vectors.copy()
            frames.append((frame.kind, planes, vectors))
    exact = []
    for (_, past, _), (kind, planes, vectors), (_, future, _) in zip(
        frames, frames[1:], frames[2:], strict=False
    ):
        if kind != "B":
            continue
        height, width = planes.y.shape
        field = rasterise_vectors(vectors, coded_height=height, coded_width=width, num_lists=2)
        first, second = (
            predict_planes(reference, sign * field.motion[index], field.coverage[index]).y
            for index, reference in enumerate((past, future))
        )
        mean = ((first.astype(int) + second + 1) >> 1).astype(np.uint8)
        from_past, from_future = (
            field.coverage[index].repeat(8, axis=0).repeat(8, axis=1) == 1 for index in (0, 1)
        )
        predicted = np.where(from_past & from_future, mean, np.where(from_past, first, second))
        equal = (predicted == planes.y).reshape(height // 16, 16, width // 16, 16).all(axis=(1, 3))
        exact.append(equal[(from_past | from_future)[::16, ::16]])
    return np.concatenate(exact).mean()


def test_blocks_without_coefficients_prove_the_b_frames():
    path = SUITE / "streams" / "b_exact.mp4"
    assert exact_share_of_b_blocks(path, sign=1) > 0.7
    assert exact_share_of_b_blocks(path, sign=-1) < 0.02


def test_no_motion_of_mpeg_4_b_frames_is_exported():
    # If this fails, the decoder has been mended: count the stream, and say so in the document.
    frames = list(one_thread_vectors(SUITE / "streams" / "mpeg4_b.avi"))
    motion = {kind: np.concatenate([t[:, 7:9] for k, t in frames if k == kind]) for kind in "PB"}
    assert len(motion["B"]) > 500
    assert not motion["B"].any()
    assert (motion["P"] != 0).any(axis=1).mean() > 0.9


# What is wrong is found


def flip_sign(frames):
    frames[3][1][5, 7] *= -1
    return frames


def one_quarter_off(frames):
    frames[3][1][5, 8] += 1
    return frames


def lose_vector(frames):
    return [
        (kind, table[1:] if index == 3 else table) for index, (kind, table) in enumerate(frames)
    ]


def double_vector(frames):
    return [
        (kind, np.concatenate([table, table[:1]]) if index == 3 else table)
        for index, (kind, table) in enumerate(frames)
    ]


def other_kind(frames):
    return [("B" if index == 3 else kind, table) for index, (kind, table) in enumerate(frames)]


def other_list(frames):
    frames[3][1][5, 0] = 1
    return frames


def other_place(frames):
    frames[3][1][5, 5] += 8
    return frames


@pytest.mark.parametrize(
    "change",
    [
        flip_sign,
        one_quarter_off,
        lose_vector,
        double_vector,
        other_kind,
        other_list,
        other_place,
    ],
)
def test_one_wrong_vector_is_one_wrong_frame(change):
    (result,) = results_of(changed(change), names=["p_only.mp4"])
    (run,) = result.streams[0].runs
    assert run.wrong == (3,)
    assert result.streams[0].num_right(run) == 23
    assert not result.is_right


def test_order_of_vectors_does_not_matter():
    def turned(frames):
        return [(kind, table[::-1]) for kind, table in frames]

    (result,) = results_of(changed(turned))
    assert result.is_right


@pytest.mark.parametrize(
    ("change", "wrong", "num_right"),
    [
        (lambda frames: frames[:-3], (21, 22, 23), 21),
        (lambda frames: [*frames, frames[0]], (24,), 24),
        (lambda frames: [], tuple(range(24)), 0),
    ],
)
def test_lost_and_added_frames_are_wrong(change, wrong, num_right):
    (result,) = results_of(changed(change), names=["p_only.mp4"])
    (run,) = result.streams[0].runs
    assert run.wrong == wrong
    assert result.streams[0].num_right(run) == num_right
    assert not result.is_right


def test_extractor_that_fails_is_a_row_with_its_error():
    def read(path):
        yield from list(read_gopstream(path))[:2]
        raise RuntimeError("no more")

    run = check_stream(STREAMS["p_only.mp4"], Extractor("failing", "", read))
    assert run.error == "RuntimeError: no more"
    assert run.wrong == tuple(range(2, 24))


def test_runs_that_differ_are_said_to_differ():
    calls = []

    def read(path):
        calls.append(path)
        frames = [(kind, table.copy()) for kind, table in read_gopstream(path)]
        return iter(flip_sign(frames) if len(calls) == 2 else frames)

    (result,) = results_of(Extractor("racing", "", read), names=["p_only.mp4"], repeats=3)
    assert [run.wrong for run in result.streams[0].runs] == [(), (3,), ()]
    assert not result.streams[0].runs_agree
    assert not result.is_right


def test_streams_that_are_not_counted_do_not_decide():
    (result,) = results_of(changed(lambda frames: []), names=["interlaced.mp4"])
    assert result.is_right
    assert not result.streams[0].is_right


# Dumps of any extractor


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dumps")
    for stream in STREAMS.values():
        dump_video(stream.path, folder / stream.path.stem, with_pictures=False)
    return folder


def test_dumps_of_right_vectors_are_right(dumps):
    (result,) = results_of(dumps_extractor(dumps))
    assert result.is_right


def test_changed_dump_is_found(dumps, tmp_path):
    copied = tmp_path / "dumps"
    shutil.copytree(dumps, copied)
    path = copied / "open_gop" / "motion_vectors" / "mvs-7.npy"
    table = np.load(path)
    table[0, 7] -= 1
    np.save(path, table)
    shutil.rmtree(copied / "slices")
    report = conformance(("gopstream",), repeats=1, dumps=copied)
    ours, theirs = report.content["extractors"]
    by_name = {stream["stream"]: stream["runs"][0] for stream in theirs["streams"]}
    assert by_name["open_gop.mp4"]["wrong"] == [7]
    assert "FileNotFoundError" in by_name["slices.mp4"]["error"]
    assert (ours["right"], theirs["right"], report.ok) == (True, False, True)
    with pytest.raises(UserError, match="no such folder; --dumps"):
        dumps_extractor(tmp_path / "nowhere")


# The command's function


def test_report_says_it_in_both_forms():
    report = conformance(repeats=1)
    assert report.ok
    assert [row["name"] for row in report.content["extractors"]] == list(EXTRACTOR_NAMES)
    assert json.loads(json.dumps(report.content)) == report.content
    assert "gopstream's vectors are right in every frame" in report.text
    for name in STREAMS:
        assert name in report.text


def test_we_are_checked_even_when_not_asked_for():
    report = conformance(("pyav-slice", "pyav-slice"), repeats=1)
    assert [row["name"] for row in report.content["extractors"]] == ["gopstream", "pyav-slice"]


def test_our_own_fault_decides(monkeypatch):
    def wrong(path):
        return iter(flip_sign([(kind, table.copy()) for kind, table in read_gopstream(path)]))

    monkeypatch.setattr(
        "gopstream.jobs.conformance.check.extractor", lambda name: Extractor(name, "", wrong)
    )
    report = conformance(("gopstream",), repeats=1)
    assert not report.ok
    assert not report.content["ok"]
    assert report.text.endswith("gopstream's vectors are WRONG")


def test_peer_that_is_not_installed_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "mvextractor", None)
    monkeypatch.setitem(sys.modules, "mvextractor.videocap", None)
    report = conformance(("mvextractor",), repeats=1)
    row = report.content["extractors"][1]
    assert row["streams"] == []
    assert not row["right"]
    assert "mvextractor: not checked: mvextractor cannot be imported" in report.text
    assert "pip install 'gopstream[mvextractor]'" in report.text
    assert report.ok


@pytest.mark.parametrize("repeats", [0, 1001])
def test_number_of_repeats_is_checked(repeats):
    with pytest.raises(UserError, match="--repeats must be between 1 and 1000"):
        conformance(repeats=repeats)


def test_unknown_extractor_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="no extractor 'other'; there are gopstream, pyav-auto"):
        conformance(("other",))


# The hash, as documented


def test_documented_hash_is_the_hash():
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    scope = {}
    exec(snippet, scope)
    stream = STREAMS["b_temporal.mp4"]
    for (_, table), digest in zip(one_thread_vectors(stream.path), stream.hashes, strict=True):
        assert scope["hash_vectors"](table[::-1]) == digest
        assert scope["hash_vectors"](table.astype(np.int64)) == digest


def test_hash_refuses_another_shape():
    with pytest.raises(ValueError, match=r"\(N, 10\) table, got \(3, 9\)"):
        hash_vectors(np.zeros((3, 9), np.int32))


def test_document_lists_every_stream():
    text = DOCUMENT.read_text()
    assert [name for name in STREAMS if f"`{name}`" not in text] == []
