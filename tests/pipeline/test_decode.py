"""What PyAV decodes is what comes out, whatever is wrong with the packets."""

import gc
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gopstream.pipeline import decode
from gopstream.pipeline.decode import add_fault, coded_planes, open_coded
from gopstream.pipeline.errors import BitstreamError, NotAVideoError
from gopstream.pipeline.transcode import default_ffmpeg

FIELDS = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
NAMES = {1: "I", 2: "P", 3: "B"}


def ffmpeg(*words):
    command = [default_ffmpeg(), "-v", "error", "-y", *map(str, words)]
    subprocess.run(command, check=True)
    return Path(words[-1])


def packets_of(path):
    """(position in the file, size) of each packet."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def overwrite(path, target, changes):
    """Copy a file; ``changes`` maps the numbers of packets to a function of their bytes."""
    content = bytearray(path.read_bytes())
    positions = packets_of(path)
    for number, change in changes.items():
        start, size = positions[number]
        content[start : start + size] = change(bytes(content[start : start + size]))
    target.write_bytes(content)
    return target


def zeroed(packet):
    return bytes(len(packet))


def half_zeroed(packet):
    return packet[: len(packet) // 2] + bytes(len(packet) - len(packet) // 2)


def read(path, **options):
    """Decode, keeping no picture; returns the frames without pictures and vectors, and faults."""
    with open_coded(path, **options) as stream:
        frames = [frame._replace(picture=None, vectors=None) for frame in stream.frames]
        return frames, stream


def kinds_of(frames):
    return "".join(frame.kind for frame in frames)


@pytest.fixture(scope="module")
def gops(tmp_path_factory, small_video):
    """Three GOPs of one I and nine P."""
    path = tmp_path_factory.mktemp("decode") / "gops.mp4"
    words = ["-c:v", "libx264", "-bf", 0, "-g", 10, "-sc_threshold", 0, "-threads", 1]
    return ffmpeg("-i", small_video, *words, path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, small_video, odd_video, gops):
    folder = tmp_path_factory.mktemp("videos")
    return {
        "B-frames": small_video,
        "MPEG-4 with cropping": odd_video,
        "P-frames": gops,
        "MPEG-2": ffmpeg("-i", small_video, "-c:v", "mpeg2video", "-bf", 2, folder / "a.ts"),
        "H.264 with cropping": ffmpeg(
            "-i", odd_video, "-c:v", "libx264", "-threads", 1, folder / "a.mkv"
        ),
    }


@pytest.mark.parametrize(
    "name", ["B-frames", "MPEG-4 with cropping", "P-frames", "MPEG-2", "H.264 with cropping"]
)
def test_pictures_vectors_kinds_and_times_are_pyavs_own(videos, name):
    path = videos[name]
    with av.open(str(path)) as container, open_coded(path) as ours:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.options = {"flags2": "+export_mvs", "apply_cropping": "0"}
        assert ours.time_base == stream.time_base
        count = num_vectors = 0
        for expected, frame in zip(container.decode(stream), ours.frames, strict=True):
            whole = np.concatenate([plane.reshape(-1) for plane in frame.planes])
            np.testing.assert_array_equal(whole, expected.to_ndarray().reshape(-1))
            table = expected.side_data.get("MOTION_VECTORS")
            assert (frame.vectors is None) == (table is None)
            assert frame.vectors is None or frame.kind != "I"
            if table is not None:
                num_vectors += len(frame.vectors)
                for field in FIELDS:
                    np.testing.assert_array_equal(frame.vectors[field], table.to_ndarray()[field])
            assert frame.kind == NAMES[int(expected.pict_type)]
            assert (frame.pts, frame.is_key) == (expected.pts, expected.key_frame)
            assert not frame.is_damaged
            count += 1
        assert ours.faults == []
    assert count == (14 if "cropping" in name else 30)
    assert num_vectors > 100


def test_the_coded_picture_is_whole_and_the_display_size_is_told(videos):
    """Predictions read the columns and rows that cropping hides."""
    with open_coded(videos["H.264 with cropping"]) as stream:
        shapes = {plane.shape for frame in stream.frames for plane in frame.planes}
        assert shapes == {(64, 96), (32, 48)}
        assert (stream.display_width, stream.display_height) == (84, 52)
        assert stream.codec == "h264"


def test_one_thread_decodes(small_video):
    """With frame threads FFmpeg exports wrong vectors, differently in each run."""
    seen = set()
    read(small_video, on_packet=lambda p: seen.add(p.stream.codec_context.thread_type.name))
    assert seen == {"NONE"}


def test_vectors_are_left_out_on_request(small_video):
    with open_coded(small_video, with_vectors=False) as stream:
        assert all(frame.vectors is None for frame in stream.frames)


def test_planes_are_views_of_the_decoders_own_memory(small_video):
    with open_coded(small_video) as stream:
        frame = next(stream.frames)
        first, again = frame.planes, coded_planes(frame.picture)
        for plane, same in zip(first, again, strict=True):
            assert np.shares_memory(plane, same)
            assert plane.strides[0] >= plane.shape[1]
            assert not plane.flags.owndata


def count_pictures():
    """Those made since the collector was stopped: it has not moved them on."""
    return sum(type(thing) is av.VideoFrame for thing in gc.get_objects(generation=0))


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", ["B-frames", "MPEG-4 with cropping"])
def test_pictures_are_gone_as_soon_as_nobody_holds_them(videos, name, no_collector):
    """Without the collector's help: nothing ties a picture into a cycle, nor keeps it."""
    most = 0
    with open_coded(videos[name]) as stream:
        for frame in stream.frames:
            assert frame.planes.y.any()
            assert frame.vectors is None or len(frame.vectors)
            most = max(most, count_pictures())
    del frame
    assert 1 <= most <= 4  # this one, the one before, and what a flush hands out together
    assert count_pictures() == 0


def test_the_cycle_that_this_avoids_is_there(small_video, no_collector):
    """The test above would see it: with ``side_data`` of PyAV pictures pile up."""
    with av.open(str(small_video)) as container:
        for frame in container.decode(video=0):
            frame.side_data.get("MOTION_VECTORS")
        del frame
    assert count_pictures() == 30


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_stays_flat_over_a_large_video(tmp_path, no_collector):
    """60 pictures of 1080p would be 180 MB."""
    source = f"testsrc2=size=1920x1080:rate=25:duration={60 / 25}"
    words = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", 0, "-threads", 2]
    path = ffmpeg("-f", "lavfi", "-i", source, *words, tmp_path / "large.mp4")
    sizes = []
    with open_coded(path) as stream:
        for _ in stream.frames:
            resident = int(Path("/proc/self/statm").read_text().split()[1])
            sizes.append(resident * os.sysconf("SC_PAGESIZE"))
    assert len(sizes) == 60
    assert sizes[-1] - sizes[9] < 30e6


def test_vectors_outlive_the_loop(small_video):
    """They keep FFmpeg's memory alive; a freed one would hold something else by now."""
    with open_coded(small_video) as stream:
        held = [
            (frame.vectors, frame.vectors.copy())
            for frame in stream.frames
            if frame.vectors is not None
        ]
    for kept, copy in held:
        for field in FIELDS:
            np.testing.assert_array_equal(kept[field], copy[field])


def test_no_picture_is_lost_at_the_end(small_video):
    """Half of them come only when the decoder is flushed, after the last packet."""
    seen = []
    frames, stream = read(small_video, on_packet=seen.append)
    assert len(frames) == len(seen) == 30
    assert stream.faults == []
    assert not stream.lost_at_end


def test_each_packet_is_shown_in_the_order_of_the_file(small_video):
    seen = []
    read(small_video, on_packet=lambda packet: seen.append((packet.pos, packet.size)))
    assert seen == packets_of(small_video)


@pytest.mark.parametrize("number", [3, 8, 15])
def test_decoding_goes_on_behind_a_packet_that_does_not_decode(gops, tmp_path, number):
    path = overwrite(gops, tmp_path / "a.mp4", {number: zeroed})
    frames, stream = read(path)
    intact, _ = read(gops)
    expected = [frame.pts for index, frame in enumerate(intact) if index != number]
    assert [frame.pts for frame in frames] == expected
    assert [index for index, frame in enumerate(frames) if frame.is_damaged] == [number]
    (fault,) = stream.faults
    assert fault.startswith(f"packet {number} does not decode (")


def test_a_picture_of_which_half_is_missing_is_damaged(gops, tmp_path):
    frames, _ = read(overwrite(gops, tmp_path / "a.mp4", {12: half_zeroed}))
    assert kinds_of(frames) == ("I" + 9 * "P") * 3
    assert [index for index, frame in enumerate(frames) if frame.is_damaged] == [12]


def test_pictures_that_lack_their_key_picture_are_lost_and_counted(gops, tmp_path):
    frames, stream = read(overwrite(gops, tmp_path / "a.mp4", {0: zeroed}))
    assert len(frames) == 20
    assert frames[0].is_damaged
    assert any("9 pictures are lost" in fault for fault in stream.faults)


def test_a_lost_end_is_known(gops, tmp_path):
    path = overwrite(gops, tmp_path / "a.mp4", {number: zeroed for number in (28, 29)})
    frames, stream = read(path)
    assert len(frames) == 28
    assert stream.lost_at_end
    assert not any(frame.is_damaged for frame in frames)


def test_at_most_twenty_faults_are_listed(gops, tmp_path):
    path = overwrite(gops, tmp_path / "a.mp4", {number: zeroed for number in range(1, 30)})
    frames, stream = read(path)
    assert len(frames) == 1
    assert len(stream.faults) == 21
    assert stream.faults[19].startswith("packet 20 ")
    assert stream.faults[20] == "and more"


def test_faults_beyond_the_limit_only_say_that_there_are_more():
    faults = []
    for number in range(100):
        add_fault(faults, str(number))
    assert faults == [*map(str, range(20)), "and more"]


def test_a_stream_without_any_picture_is_an_error(gops, tmp_path):
    path = overwrite(gops, tmp_path / "a.mp4", dict.fromkeys(range(30), zeroed))
    with (
        pytest.raises(BitstreamError, match=r"^a\.mp4: no picture decodes: packet 0 does not"),
        open_coded(path) as stream,
    ):
        list(stream.frames)


def test_a_stream_that_never_yields_another_picture_is_given_up(gops, tmp_path, monkeypatch):
    """As with a file that repeats garbage for hours: decoding ends, and says where."""
    monkeypatch.setattr(decode, "MAX_PACKETS_WITHOUT_PICTURE", 10)
    path = overwrite(gops, tmp_path / "a.mp4", dict.fromkeys(range(4, 30), zeroed))
    seen = []
    with open_coded(path, on_packet=seen.append) as stream:
        frames = [next(stream.frames).pts for _ in range(4)]
        with pytest.raises(BitstreamError, match=r"a\.mp4: no picture came out of 11 packets"):
            next(stream.frames)
    assert len(frames) == 4
    assert len(seen) == 4 + 11


def test_pictures_between_two_lost_ones_are_shown(gops, tmp_path):
    frames, stream = read(overwrite(gops, tmp_path / "a.mp4", {11: zeroed, 14: zeroed}))
    assert [index for index, frame in enumerate(frames) if frame.is_damaged] == [11, 13]
    assert len(frames) == 28
    assert len(stream.faults) == 2


def test_a_few_barren_packets_are_no_reason_to_give_up(gops, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PACKETS_WITHOUT_PICTURE", 10)
    path = overwrite(
        gops, tmp_path / "a.mp4", dict.fromkeys([*range(1, 10), *range(11, 20)], zeroed)
    )
    frames, _ = read(path)
    assert kinds_of(frames) == "II" + "I" + 9 * "P"


def test_missing_time_stamps_are_counted_at_the_rate(small_video, tmp_path):
    path = ffmpeg("-i", small_video, "-c", "copy", tmp_path / "raw.h264")
    frames, stream = read(path)
    seconds = [frame.pts * stream.time_base for frame in frames]
    assert seconds == [Fraction(number, 25) for number in range(30)]
    assert stream.faults == ["pictures without time stamps; they are counted at 25 per second"]


def test_time_stamps_that_fall_are_kept_and_said_once(small_video, tmp_path):
    """AVI has none; FFmpeg hands out those of the decoding order."""
    raw = ffmpeg("-i", small_video, "-c", "copy", tmp_path / "raw.h264")
    words = ["-fflags", "+nofillin", "-i", raw, "-c", "copy", "-f", "avi"]
    frames, stream = read(ffmpeg(*words, tmp_path / "a.avi"))
    times = [frame.pts for frame in frames]
    assert len(times) == 30
    assert times != sorted(times)
    assert stream.faults.count("time stamps do not rise") == 1


def test_a_file_that_ends_early_says_what_its_header_promised(small_video, tmp_path):
    whole = ffmpeg("-i", small_video, "-c", "copy", tmp_path / "whole.mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    frames, stream = read(path)
    assert 0 < len(frames) < 20
    assert any("the header says 1.20 s, the pictures end at" in fault for fault in stream.faults)


def test_a_whole_file_says_nothing_of_its_length(small_video, tmp_path):
    for name in ("a.mkv", "a.ts", "a.nut", "a.avi"):
        _, stream = read(ffmpeg("-i", small_video, "-c:v", "mpeg4", tmp_path / name))
        assert stream.faults == []


def test_what_an_edit_list_hides_is_decoded_and_counted(small_video, tmp_path):
    path = ffmpeg("-ss", 0.5, "-i", small_video, "-c", "copy", tmp_path / "late.mp4")
    frames, stream = read(path)
    assert len(frames) + stream.num_hidden == 30
    assert stream.num_hidden > 0
    assert kinds_of(frames)[0] == "P"
    assert all(frame.follows_hidden_key for frame in frames)
    assert not any(frame.is_damaged for frame in frames)
    assert stream.faults == []


def test_interlaced_frames_say_so(small_video, tmp_path):
    words = ["-c:v", "mpeg2video", "-flags", "+ilme+ildct"]
    frames, _ = read(ffmpeg("-i", small_video, *words, tmp_path / "a.ts"))
    assert len(frames) == 30
    assert all(frame.is_interlaced for frame in frames)
    assert not any(frame.is_interlaced for frame in read(small_video)[0])


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv422p", "yuv420p10le"])
def test_other_pixels_are_decoded_but_have_no_planes(small_video, tmp_path, pixels):
    words = ["-c:v", "libx264", "-pix_fmt", pixels, "-threads", 1]
    path = ffmpeg("-i", small_video, *words, tmp_path / "a.mkv")
    with open_coded(path) as stream:
        frames = list(stream.frames)
    assert len(frames) == 30
    assert any(frame.vectors is not None for frame in frames)
    with pytest.raises(BitstreamError, match=f"must be 8-bit 4:2:0 .*, got {pixels}"):
        _ = frames[3].planes


def test_full_range_pixels_are_420_too(small_video, tmp_path):
    words = ["-c:v", "libx264", "-pix_fmt", "yuvj420p", "-threads", 1]
    with open_coded(ffmpeg("-i", small_video, *words, tmp_path / "a.mkv")) as stream:
        frame = next(stream.frames)
    assert frame.planes.y.shape == (64, 96)


def test_text_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("words " * 100)
    with pytest.raises(NotAVideoError, match=r"a\.mp4: not a video"), open_coded(path):
        pass


def test_real_videos_decode_without_a_fault(real_videos):
    for name in ("action_340x256_h264.mp4", "nasa_320x180_h264_high_bframes.mp4", "goat_256.mp4"):
        frames, stream = read(real_videos[name])
        assert stream.faults == [], name
        assert not any(frame.is_damaged for frame in frames), name
