import hashlib
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from gopstream.pipeline import canonical_clips
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.extract import extract_clip, extract_segments
from gopstream.pipeline.frame_spool import FrameSpool
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.jpeg import decode_frame
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.residual import add_residual
from gopstream.pipeline.transcode import default_ffmpeg


@pytest.fixture(scope="module")
def clip(small_video):
    return extract_clip(small_video)


@pytest.fixture(scope="module")
def segments(small_video):
    return list(extract_segments(small_video, options=ExtractionOptions(segment_frames=13)))


def test_each_frame_has_motion_residual_and_a_picture(clip):
    assert clip.num_frames == len(clip.jpegs) == 30
    assert clip.motion.shape == (30, 1, 8, 12, 2)
    assert clip.coverage.shape == (30, 1, 8, 12)
    assert clip.residual.planes.shape == (30, 96 * 64 * 3 // 2)
    assert clip.frame_index_of_jpeg.tolist() == list(range(30))
    assert clip.coded_size == clip.frame_size == (96, 64)
    assert clip.display_rect == (0, 0, 96, 64)


def test_only_i_and_p_frames_in_gops_of_twelve(clip):
    assert clip.kinds == ("I" + 11 * "P") * 2 + "IPPPPP"
    assert clip.gop_starts == [0, 12, 24]
    is_intra = np.array(list(clip.kinds)) == "I"
    assert not clip.coverage[is_intra].any()
    assert not clip.motion[clip.coverage == 0].any()
    assert clip.coverage[~is_intra].mean() > 0.5


def test_time_stamps_keep_their_distance(clip):
    seconds = clip.pts * float(clip.time_base)
    np.testing.assert_allclose(np.diff(seconds), 1 / 25)


def test_vectors_follow_the_texture(clip):
    """The texture moves by (3, 1) pixels a frame: it came from (-12, -4) quarter pixels."""
    vectors = clip.motion[clip.coverage == 1]
    assert np.median(vectors, axis=0).tolist() == [-12, -4]


def test_frames_rebuilt_from_motion_and_residual_are_those_that_were_decoded(clip):
    height, width = 64, 96
    reference, digests = None, []
    for frame, flat in enumerate(clip.residual.planes):
        luma, cb, cr = np.split(flat, [height * width, height * width * 5 // 4])
        planes = Planes(
            luma.reshape(height, width),
            cb.reshape(height // 2, width // 2),
            cr.reshape(height // 2, width // 2),
        )
        predicted = predict_planes(
            reference or planes, clip.motion[frame, 0], clip.coverage[frame, 0]
        )
        reference = add_residual(predicted, planes)
        if clip.kinds[frame] == "I":
            digests.append(hashlib.sha256())
        for plane in reference:
            digests[-1].update(plane.tobytes())
    assert [digest.hexdigest() for digest in digests] == clip.decoded_sha256


def test_two_extractions_are_equal(clip, small_video):
    assert_same_clip(extract_clip(small_video), clip)


def assert_same_clip(first, second):
    assert first.jpegs == second.jpegs
    assert first.decoded_sha256 == second.decoded_sha256
    assert first.kinds == second.kinds
    for name in ("motion", "coverage", "pts", "frame_index_of_jpeg"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    np.testing.assert_array_equal(first.residual.planes, second.residual.planes)
    np.testing.assert_array_equal(first.residual.exceptions, second.residual.exceptions)


def test_segments_are_cut_on_gops_and_make_up_the_whole(clip, segments):
    assert [segment.num_frames for segment in segments] == [12, 12, 6]
    firsts = [segment.first_frame for segment in segments]
    assert firsts == [0, 12, 24]
    exceptions = []
    for first, segment in zip(firsts, segments, strict=True):
        assert segment.kinds[0] == "I"
        rows = segment.residual.exceptions.copy()
        rows[:, 0] += first
        exceptions.append(rows)

    def joined(name):
        return np.concatenate([getattr(segment, name) for segment in segments])

    residual = replace(
        clip.residual,
        planes=np.concatenate([segment.residual.planes for segment in segments]),
        exceptions=np.concatenate(exceptions),
    )
    whole = replace(
        clip,
        jpegs=[jpeg for segment in segments for jpeg in segment.jpegs],
        motion=joined("motion"),
        coverage=joined("coverage"),
        pts=joined("pts"),
        kinds="".join(segment.kinds for segment in segments),
        decoded_sha256=[digest for segment in segments for digest in segment.decoded_sha256],
        residual=residual,
    )
    assert_same_clip(whole, clip)


@pytest.mark.parametrize("stride", [2, 5, 40])
def test_every_nth_frame_is_stored(clip, small_video, stride):
    strided = extract_clip(
        small_video, options=ExtractionOptions(frame_stride=stride, planes=("frames", "motion"))
    )
    assert strided.frame_index_of_jpeg.tolist() == list(range(0, 30, stride))
    assert strided.jpegs == clip.jpegs[::stride]
    np.testing.assert_array_equal(strided.motion, clip.motion)


def test_the_stride_runs_on_across_segments(clip, small_video):
    """Frames 0, 5, 10, ... of the video, whatever segment they fall into."""
    options = ExtractionOptions(frame_stride=5, segment_frames=12, planes=("frames", "motion"))
    segments = list(extract_segments(small_video, options=options))
    stored = [s.first_frame + s.frame_index_of_jpeg for s in segments]
    assert [rows.tolist() for rows in stored] == [[0, 5, 10], [15, 20], [25]]
    assert [jpeg for segment in segments for jpeg in segment.jpegs] == clip.jpegs[::5]


def test_planes_that_are_not_asked_for_are_not_made(small_video):
    clip = extract_clip(small_video, options=ExtractionOptions(planes=("motion",)))
    assert clip.jpegs == []
    assert len(clip.frame_index_of_jpeg) == 0
    assert clip.residual is None
    assert len(clip.motion) == 30


def test_sides_that_are_not_multiples_of_16_keep_their_coded_picture(odd_video):
    clip = extract_clip(odd_video)
    assert clip.coded_size == (96, 64)
    assert clip.display_rect == (0, 0, 84, 52)
    assert clip.motion.shape == (14, 1, 8, 12, 2)
    assert decode_frame(clip.jpegs[0]).shape == (52, 84, 3)


def test_the_gop_can_be_chosen(small_video):
    options = ExtractionOptions()
    short = replace(options, canonical=replace(options.canonical, gop=5), planes=("motion",))
    assert extract_clip(small_video, options=short).kinds == "IPPPP" * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planes": ("frames",)}, "planes must be"),
        ({"planes": ("motion", "flow")}, "planes must be"),
        ({"quality": 0}, "quality"),
        ({"quality": 101}, "quality"),
        ({"frame_stride": 0}, "frame stride"),
        ({"segment_frames": 11}, "at least one GOP"),
        ({"mode": "exact"}, "mode must be canonical or native"),
        ({"backend": "opencv"}, "backend must be pyav or mvextractor"),
        ({"planes": ("motion", "frames", "sound")}, "got motion, frames, sound"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExtractionOptions(**options)


@pytest.fixture(scope="module")
def p_only(tmp_path_factory, small_video):
    """Three GOPs of one I and nine P."""
    path = tmp_path_factory.mktemp("p_only") / "gops.mp4"
    words = ["-c:v", "libx264", "-bf", "0", "-g", "10", "-sc_threshold", "0", "-threads", "1"]
    subprocess.run([default_ffmpeg(), "-v", "error", "-i", small_video, *words, path], check=True)
    return path


@pytest.fixture(scope="module")
def with_hole(tmp_path_factory, p_only):
    """The bytes of packet 13 are zero: the GOP from frame 10 on loses one frame."""
    with av.open(str(p_only)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][13]
        start, size = packet.pos, packet.size
    content = bytearray(p_only.read_bytes())
    content[start : start + size] = bytes(size)
    path = tmp_path_factory.mktemp("hole") / "hole.mp4"
    path.write_bytes(content)
    return path


MOTION = ExtractionOptions(planes=("motion",))


def test_a_damaged_source_marks_its_frames_and_says_what_was_wrong(with_hole):
    clip = extract_clip(with_hole, options=MOTION)
    assert clip.num_frames == 29
    assert clip.damaged_frames == tuple(range(12, 19))
    assert any(warning.startswith("packet 13 does not decode") for warning in clip.warnings)
    assert "7 of 29 frames may show damage" in clip.warnings
    assert clip.exactness == "exact"  # of the canonical stream, damage and all


def test_damaged_frames_are_counted_from_the_start_of_their_segment(with_hole):
    options = replace(MOTION, segment_frames=12)
    segments = list(extract_segments(with_hole, options=options))
    assert [segment.damaged_frames for segment in segments] == [(), tuple(range(7)), ()]


def test_damage_is_seen_where_the_decoder_drops_pictures_without_a_word(p_only, tmp_path):
    """The key picture is lost, and nine with it."""
    with av.open(str(p_only)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.size)
        start, size = packet.pos, packet.size
    content = bytearray(p_only.read_bytes())
    content[start : start + size] = bytes(size)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    clip = extract_clip(path, options=MOTION)
    assert clip.num_frames == 20
    assert clip.damaged_frames == tuple(range(10))
    assert any("pictures are lost" in warning for warning in clip.warnings)


def test_pictures_that_ffmpeg_drops_without_a_word_are_a_warning(p_only, tmp_path):
    """The key packet is missing; only the counts of packets and pictures tell."""
    path = tmp_path / "a.mp4"
    command = [default_ffmpeg(), "-v", "error", "-i", p_only, "-c", "copy"]
    subprocess.run([*command, "-bsf:v", "noise=drop='eq(n,0)'", path], check=True)
    clip = extract_clip(path, options=MOTION)
    assert clip.num_frames == 20
    assert clip.warnings == ("9 pictures are lost: what they are predicted from is missing",)


def test_a_sound_source_is_decoded_once_and_has_no_warning(small_video, monkeypatch):
    def never(path):
        raise AssertionError("decoded once more")

    monkeypatch.setattr(canonical_clips, "diagnose", never)
    clip = extract_clip(small_video, options=MOTION)
    assert clip.damaged_frames == ()
    assert clip.warnings == ()


def test_sound_real_sources_are_decoded_once(real_videos, monkeypatch):
    def never(path):
        raise AssertionError("decoded once more")

    monkeypatch.setattr(canonical_clips, "diagnose", never)
    for name in ("hevc.mp4", "av1.mkv", "h264_10bit.mp4", "goat_256.mp4"):
        segment = next(
            extract_segments(real_videos[name], options=replace(MOTION, segment_frames=24))
        )
        assert segment.warnings == (), name


def test_a_size_change_is_said_and_is_no_damage(resized_video):
    clip = extract_clip(resized_video, options=MOTION)
    assert clip.num_frames == 60
    assert clip.frame_size == (96, 64)
    assert clip.damaged_frames == ()
    assert clip.warnings == ("picture size or format change mid-stream; all is scaled to one size",)


def test_progress_is_told_in_both_passes(small_video):
    """Every 25 frames, while transcoding and while reading."""
    calls = []
    list(extract_segments(small_video, options=MOTION, on_progress=lambda: calls.append(1)))
    assert len(calls) == 2


def children():
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("call", [1, 2])
def test_progress_may_stop_an_extraction_and_nothing_is_left(
    small_video, tmp_path, monkeypatch, call
):
    """Neither a running FFmpeg nor its files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = children()
    calls = []

    def stop():
        calls.append(children() - before)
        if len(calls) == call:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(extract_segments(small_video, options=MOTION, on_progress=stop))
    assert len(calls) == call
    assert len(calls[0]) == 1  # it was running
    assert children() == before
    assert list(tmp_path.iterdir()) == []


def test_an_iterator_that_is_given_up_leaves_no_files(small_video, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clips = extract_segments(small_video, options=replace(MOTION, segment_frames=12))
    next(clips)
    assert len(list(tmp_path.iterdir())) == 1
    clips.close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_a_missing_file(tmp_path):
    for mode in ("canonical", "native"):
        with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
            extract_clip(tmp_path / "gone.mp4", options=ExtractionOptions(mode=mode))


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"segment_frames": 13}, 12),
        ({"segment_frames": 24}, 24),
        ({"segment_frames": 13, "mode": "native"}, 13),
    ],
)
def test_canonical_segments_are_whole_gops_and_native_ones_as_long_as_asked(options, length):
    assert ExtractionOptions(**options).frames_per_segment == length


def test_the_spool_gives_back_each_stored_frame(tmp_path):
    with (tmp_path / "spool").open("w+b") as file:
        spool = FrameSpool(file, stride=3)
        jpegs = [bytes([number]) * (5 + number) for number in range(4)]  # of frames 0, 3, 6, 9
        for jpeg in jpegs:
            spool.add(jpeg)
        assert spool.read(np.array([6, 0, 9, 3])) == [jpegs[2], jpegs[0], jpegs[3], jpegs[1]]
        assert spool.read(np.array([], np.int64)) == []
    assert (tmp_path / "spool").stat().st_size == sum(map(len, jpegs))
