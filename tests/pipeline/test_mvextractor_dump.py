import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from gopstream.jobs.conformance.check import SUITE
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.mvextractor_backend import table_from_records
from gopstream.pipeline.mvextractor_dump import DumpFrame, dump_video, read_dump, write_dump

VIDEO = SUITE / "streams" / "baseline_cavlc.mp4"


@pytest.fixture(scope="module")
def their_dump(tmp_path_factory):
    """A dump by mvextractor's own command."""
    pytest.importorskip("mvextractor.videocap", reason="mvextractor is not installed")
    folder = tmp_path_factory.mktemp("theirs") / "dump"
    command = [sys.executable, "-m", "mvextractor", str(VIDEO), "--dump", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def our_frames():
    with open_coded(VIDEO) as stream:
        return [(frame.kind, table_from_records(frame.vectors)) for frame in stream.frames]


def small_table(num_vectors, *, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-99, 99, (num_vectors, 10)).astype(np.int32)


@pytest.fixture
def dump(tmp_path):
    """A dump of three frames, without pictures."""
    frames = [DumpFrame(kind, small_table(count)) for kind, count in (("I", 0), ("P", 4), ("B", 7))]
    write_dump(tmp_path / "dump", frames)
    return tmp_path / "dump"


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Both directions


def test_their_dump_reads_as_our_vectors(their_dump):
    frames = list(read_dump(their_dump))
    ours = our_frames()
    assert len(frames) == len(ours) == 20
    for frame, (kind, vectors) in zip(frames, ours, strict=True):
        assert frame.kind == kind
        assert frame.vectors.dtype == np.int32
        np.testing.assert_array_equal(frame.vectors, vectors)
        assert frame.picture_path.parent == their_dump / "frames"
    assert sum(len(frame.vectors) for frame in frames) > 1000


def test_our_dump_is_theirs(their_dump, tmp_path):
    ours = tmp_path / "ours"
    assert dump_video(VIDEO, ours, with_pictures=True) == 20
    assert listing(ours) == listing(their_dump)
    assert (ours / "frame_types.txt").read_bytes() == (their_dump / "frame_types.txt").read_bytes()
    for path in (their_dump / "motion_vectors").iterdir():
        # Byte for byte: dtype, order and NumPy's header as well.
        assert (ours / "motion_vectors" / path.name).read_bytes() == path.read_bytes()


def test_our_pictures_are_theirs_but_for_the_arrows(their_dump, tmp_path):
    ours = tmp_path / "ours"
    dump_video(VIDEO, ours, with_pictures=True)
    for path in (their_dump / "frames").iterdir():
        drawn = simplejpeg.decode_jpeg(path.read_bytes()).astype(int)
        clean = simplejpeg.decode_jpeg((ours / "frames" / path.name).read_bytes()).astype(int)
        assert drawn.shape == clean.shape == (144, 176, 3)
        if path.name == "frame-0.jpg":  # an I-frame: nothing is drawn into it
            assert np.abs(drawn - clean).mean() < 2
            assert np.abs(drawn - clean[::-1]).mean() > 20


def test_their_reader_reads_ours(dump):
    for index in range(3):
        table = np.load(dump / "motion_vectors" / f"mvs-{index}.npy")
        assert table.dtype == np.int32
        assert table.shape == ((0, 4, 7)[index], 10)
    assert (dump / "frame_types.txt").read_text() == "I\nP\nB\n"


def test_cropped_picture_is_of_display_size(tmp_path):
    dump_video(SUITE / "streams" / "cropped_odd.mp4", tmp_path / "dump", with_pictures=True)
    jpeg = (tmp_path / "dump" / "frames" / "frame-3.jpg").read_bytes()
    assert simplejpeg.decode_jpeg(jpeg).shape == (131, 171, 3)


def test_dump_without_pictures_reads_back(dump):
    frames = list(read_dump(dump))
    assert [frame.kind for frame in frames] == ["I", "P", "B"]
    np.testing.assert_array_equal(frames[2].vectors, small_table(7))
    assert {frame.picture_path for frame in frames} == {None}


# Writing


def test_nothing_is_overwritten(dump):
    before = listing(dump)
    with pytest.raises(FileExistsError, match="exists already"):
        write_dump(dump, [])
    assert listing(dump) == before


def test_failed_dump_leaves_nothing(tmp_path):
    def frames():
        yield DumpFrame("I", small_table(0))
        raise RuntimeError("the decoder stops")

    with pytest.raises(RuntimeError, match="the decoder stops"):
        write_dump(tmp_path / "out" / "dump", frames())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (DumpFrame("X", small_table(1)), "frame 0: a kind must be of I, P, B"),
        (DumpFrame("P\nP", small_table(1)), "frame 0: a kind must be of I, P, B"),
        (DumpFrame("P", small_table(1)[:, :9]), "must be an .N, 10. table"),
        (DumpFrame("P", small_table(1) + 0.5), "table of integers"),
    ],
)
def test_frame_of_another_form_is_not_written(tmp_path, frame, message):
    with pytest.raises(BitstreamError, match=message):
        write_dump(tmp_path / "dump", [frame])


def test_pictures_for_some_frames_only_are_refused(tmp_path):
    picture = np.zeros((16, 16, 3), np.uint8)
    frames = [DumpFrame("I", small_table(0), picture), DumpFrame("P", small_table(2))]
    with pytest.raises(BitstreamError, match="frame 1: pictures for all frames, or for none"):
        write_dump(tmp_path / "dump", frames)


# Reading what is not whole


def test_gap_is_named(dump):
    (dump / "motion_vectors" / "mvs-1.npy").unlink()
    with pytest.raises(BitstreamError, match=r"vectors/mvs-1\.npy is missing"):
        read_dump(dump)


def test_picture_gap_is_named(dump):
    (dump / "frames" / "frame-0.jpg").write_bytes(b"")
    with pytest.raises(BitstreamError, match=r"frame-1\.jpg and 1 more are missing"):
        read_dump(dump)


def test_table_without_kind_is_named(dump):
    (dump / "frame_types.txt").write_text("I\nP\n")
    with pytest.raises(BitstreamError, match=r"2 frames, but \S+mvs-2\.npy is not of them"):
        read_dump(dump)


def test_missing_parts_are_named(dump, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_dump(tmp_path / "nowhere")
    (dump / "frame_types.txt").unlink()
    with pytest.raises(BitstreamError, match=r"frame_types\.txt: cannot be read"):
        read_dump(dump)
    (dump / "frames").rmdir()
    with pytest.raises(BitstreamError, match="frames: not a folder"):
        read_dump(dump)


# Reading what somebody made to do harm


@pytest.mark.parametrize(
    "name",
    ["mvs-01.npy", "mvs-1.npy.bak", "mvs--1.npy", "mvs-\u0661.npy", ".hidden", "mvs-1\n.npy"],
)
def test_other_names_are_refused(dump, name):
    (dump / "motion_vectors" / name).write_bytes(b"")
    with pytest.raises(BitstreamError, match="is not a file of a dump"):
        read_dump(dump)


def test_links_are_not_followed(dump, tmp_path):
    outside = tmp_path / "outside.npy"
    np.save(outside, small_table(3))
    table = dump / "motion_vectors" / "mvs-1.npy"
    table.unlink()
    table.symlink_to(outside)
    with pytest.raises(BitstreamError, match="'mvs-1.npy' is not a file of a dump"):
        read_dump(dump)
    table.unlink()
    np.save(table, small_table(3))
    kinds = dump / "frame_types.txt"
    kinds.rename(tmp_path / "kinds.txt")
    kinds.symlink_to(tmp_path / "kinds.txt")
    with pytest.raises(BitstreamError, match=r"frame_types\.txt: cannot be read"):
        read_dump(dump)


def test_pipe_is_refused_and_not_waited_for(dump):
    kinds = dump / "frame_types.txt"
    kinds.unlink()
    os.mkfifo(kinds)
    with pytest.raises(BitstreamError, match="not a regular file"):
        read_dump(dump)


def test_linked_folder_is_refused(dump, tmp_path):
    (dump / "motion_vectors").rename(tmp_path / "elsewhere")
    (dump / "motion_vectors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BitstreamError, match="motion_vectors: not a folder"):
        read_dump(dump)


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def claim(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<i4", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a NumPy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "not a NumPy file"),
        (pickle.dumps([1]), "not a NumPy file"),
        (npy(np.array([[None] * 10], object), allow_pickle=True), "must be int32"),
        (npy(small_table(4).astype(np.float32)), "must be int32 in C order, got float32"),
        (npy(small_table(4).astype(">i4")), "must be int32"),
        (npy(np.asfortranarray(small_table(4))), "in C order"),
        (npy(small_table(4)[:, :9]), r"\(N, 10\) table, got \(4, 9\)"),
        (npy(small_table(4)[0]), r"\(N, 10\) table, got \(10,\)"),
        (npy(small_table(4))[:-1], "bytes, but its header asks for"),
        (npy(small_table(4)) + b"\x00", "bytes, but its header asks for"),
        (claim((1 << 24, 10)), "bytes, but its header asks for"),
        (claim((1 << 60, 10)), "must be an"),
        (claim((-1, 10)), "must be an"),
        (npy(small_table(4).astype(np.int64) + (1 << 40)), "does not fit into int32"),
    ],
)
def test_hostile_table_is_refused(dump, content, message):
    (dump / "motion_vectors" / "mvs-1.npy").write_bytes(content)
    frames = read_dump(dump)
    assert next(frames).kind == "I"
    with pytest.raises(BitstreamError, match=message) as caught:
        next(frames)
    assert "mvs-1.npy" in str(caught.value)


def test_int64_of_older_releases_is_read(dump):
    table = small_table(4).astype(np.int64)
    np.save(dump / "motion_vectors" / "mvs-1.npy", table)
    frame = list(read_dump(dump))[1]
    assert frame.vectors.dtype == np.int32
    np.testing.assert_array_equal(frame.vectors, table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I\nX\nB\n", "line 2: expected I, P, B or"),
        ("I\n\nB\n", "line 2: expected I, P, B or"),
        ("I\nP\nB\n" * 5000, "too large for the 3 tables"),
        ("\u00e9\nP\nB\n", "line 1: expected"),
    ],
)
def test_hostile_kinds_are_refused(dump, text, message):
    (dump / "frame_types.txt").write_text(text, encoding="utf-8")
    with pytest.raises(BitstreamError, match=message):
        read_dump(dump)


def test_folder_of_the_dump_may_be_anywhere(dump, monkeypatch):
    monkeypatch.chdir(dump.parent)
    assert len(list(read_dump(Path("dump")))) == 3
