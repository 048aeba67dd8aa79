import shutil
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import av
import numpy as np
import pytest

from gopstream.jobs.conformance.check import SUITE
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.errors import BitstreamError, NotAVideoError, PipelineError
from gopstream.pipeline.motion import VECTOR_DTYPE
from gopstream.pipeline.mvextractor_backend import (
    MissingPackageError,
    _read_captured,
    new_capture,
    read_vector_tables,
    records_from_table,
    table_from_records,
)
from gopstream.pipeline.transcode import default_ffmpeg

STREAMS = SUITE / "streams"


@pytest.fixture
def mvextractor():
    return pytest.importorskip("mvextractor.videocap", reason="mvextractor is not installed")


def run_ffmpeg(*arguments):
    subprocess.run([default_ffmpeg(), "-v", "error", "-y", *map(str, arguments)], check=True)


def random_table(num_vectors, *, seed=0):
    rng = np.random.default_rng(seed)
    table = rng.integers(-3000, 3000, (num_vectors, 10)).astype(np.int32)
    table[:, 0] = rng.choice([-1, 1], num_vectors)
    table[:, 1:3] = rng.choice([8, 16], (num_vectors, 2))
    table[:, 9] = 4
    return table


# Against our own decoder


def assert_same_vectors(path):
    num_vectors = 0
    with open_coded(path) as stream:
        for ours, theirs in zip_longest(stream.frames, read_vector_tables(path)):
            assert ours.kind == theirs.kind
            assert theirs.vectors.dtype == np.int32
            np.testing.assert_array_equal(table_from_records(ours.vectors), theirs.vectors)
            num_vectors += len(theirs.vectors)
    assert num_vectors > 1000


@pytest.mark.parametrize(
    "name",
    [
        "p_only.mp4",
        "multi_reference.mp4",
        "baseline_cavlc.mp4",
        "mpeg4_half.avi",
        "mpeg4_quarter.avi",
    ],
)
def test_each_vector_is_ours_in_the_same_order(mvextractor, name):
    assert_same_vectors(STREAMS / name)


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_each_vector_of_mpeg_1_and_2_is_ours(mvextractor, tmp_path, write_video, codec):
    path = tmp_path / "moving.mkv"
    write_video(path, 20, width=176, height=144, codec=codec)
    run_ffmpeg("-i", path, "-c:v", codec, "-bf", "0", "-q:v", "4", tmp_path / "p.mkv")
    assert_same_vectors(tmp_path / "p.mkv")


@pytest.mark.parametrize(
    "name", ["street_720p_h264_main_p_only.mp4", "street_720p_mpeg4part2.mp4", "goat_256.mp4"]
)
def test_each_vector_of_a_real_video_is_ours(mvextractor, real_videos, name):
    assert_same_vectors(real_videos[name])


# Refusals, all of them before the first frame


@pytest.mark.parametrize("name", ["b_pyramid.mp4", "b_temporal.mp4", "open_gop.mp4", "mpeg2_b.ts"])
def test_b_frames_are_refused(mvextractor, name):
    with pytest.raises(BitstreamError, match=f"{name}: .*B-frames"):
        read_vector_tables(STREAMS / name)


def test_b_frames_behind_many_other_frames_are_refused(mvextractor, tmp_path):
    for name, start in (("plain", "bframes=0"), ("late", "bframes=2:b-adapt=0")):
        run_ffmpeg(
            *("-i", STREAMS / "p_only.mp4", "-c:v", "libx264", "-x264-params", f"{start}:ref=1"),
            *("-bsf:v", "h264_mp4toannexb", "-f", "h264", tmp_path / f"{name}.h264"),
        )
    path = tmp_path / "joined.h264"
    joined = (tmp_path / "plain.h264").read_bytes() * 3 + (tmp_path / "late.h264").read_bytes()
    path.write_bytes(joined)
    with pytest.raises(BitstreamError, match="B-frames"):
        read_vector_tables(path)


def test_video_behind_audio_is_refused(mvextractor):
    with pytest.raises(BitstreamError, match="its video is stream 1, and it loses the last frames"):
        read_vector_tables(STREAMS / "audio_first.mp4")


def test_several_video_streams_are_refused(mvextractor, tmp_path):
    path = tmp_path / "two.mkv"
    small, large = STREAMS / "multi_reference.mp4", STREAMS / "p_only.mp4"
    run_ffmpeg("-i", large, "-i", small, "-map", "0", "-map", "1", "-c", "copy", path)
    with pytest.raises(BitstreamError, match=r"several video streams \[0, 1\]"):
        read_vector_tables(path)


def test_codec_without_vectors_is_refused(mvextractor, tmp_path, write_video):
    path = write_video(tmp_path / "clip.mkv", 3, codec="ffv1")
    with pytest.raises(BitstreamError, match="no vectors of ffv1"):
        read_vector_tables(path)


@pytest.mark.parametrize("offset", [3000, 5000, 9000, 12000, 15000])
def test_damaged_stream_is_refused(mvextractor, tmp_path, offset):
    content = bytearray((STREAMS / "p_only.mp4").read_bytes())
    content[offset : offset + 400] = bytes((37 * i + 11) % 256 for i in range(400))
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with pytest.raises(BitstreamError, match=r"damaged\.mp4: .*(decoding fails|is damaged)"):
        read_vector_tables(path)


def test_stream_that_only_allows_b_frames_is_refused(mvextractor, tmp_path):
    # All its pictures are output one later than decoded, which is what races.
    path = tmp_path / "without_b.mp4"
    with av.open(str(STREAMS / "b_exact.mp4")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            # A slice that nothing refers to: nal_ref_idc 0, nal_unit_type 1 (H.264, 7.4.1).
            if packet.dts is not None and bytes(packet)[4] != 0b0_00_00001:
                packet.stream = stream
                target.mux(packet)
    with open_coded(path) as stream:
        assert {frame.kind for frame in stream.frames} == {"I", "P"}
    with pytest.raises(BitstreamError, match="output late"):
        read_vector_tables(path)


def test_what_is_no_video_is_refused(mvextractor, tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(NotAVideoError, match=r"text\.mp4"):
        read_vector_tables(path)
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        read_vector_tables(tmp_path / "none.mp4")


def test_name_like_an_address_is_a_file(mvextractor, tmp_path, monkeypatch):
    shutil.copy(STREAMS / "baseline_cavlc.mp4", tmp_path / "http:x%d.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(read_vector_tables(Path("http:x%d.mp4")))) == 20


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mvextractor", None)
    monkeypatch.setitem(sys.modules, "mvextractor.videocap", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'gopstream\[mvextractor\]'"):
        read_vector_tables(STREAMS / "p_only.mp4")
    assert issubclass(MissingPackageError, PipelineError)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("I" + 18 * "P", "frame 19 is of kind P, the stream's is missing"),
        ("I" + 20 * "P", "gave 20 of 21 frames"),
        ("IPI" + 17 * "P", "frame 2 is of kind P, the stream's is I"),
    ],
)
def test_frames_that_are_not_the_streams_are_an_error(mvextractor, kinds, message):
    capture = new_capture()
    assert capture.open(str(STREAMS / "baseline_cavlc.mp4"))
    capture.set_decode_frames(False)
    with pytest.raises(BitstreamError, match=message):
        list(_read_captured(capture, kinds, name="clip"))


# Tables and records


def test_records_come_back_from_the_table():
    table = random_table(50)
    records = records_from_table(table)
    assert records.dtype == VECTOR_DTYPE
    assert (records["motion_y"] == table[:, 8]).all()
    assert (records["flags"] == 0).all()
    np.testing.assert_array_equal(table_from_records(records), table)


def test_intra_frame_is_an_empty_table():
    table = table_from_records(None)
    assert table.shape == (0, 10)
    assert table.dtype == np.int32
    assert len(records_from_table(table)) == 0


@pytest.mark.parametrize(("column", "value"), [(1, 256), (3, 40000), (6, -40000), (9, -1)])
def test_value_that_does_not_fit_is_refused(column, value):
    table = random_table(5)
    table[3, column] = value
    with pytest.raises(BitstreamError, match=str(value)):
        records_from_table(table)


def test_table_of_another_shape_is_refused():
    with pytest.raises(BitstreamError, match=r"\(N, 10\) table, got \(4, 9\)"):
        records_from_table(np.zeros((4, 9), np.int32))
