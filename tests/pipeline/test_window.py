"""A window holds the frames of the whole video whose times lie in it, and reads no more than it has
to."""

import re
import subprocess
from dataclasses import replace
from fractions import Fraction

import av
import pytest

from gopstream.pipeline.damage import diagnose
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.errors import BitstreamError, TranscodeError
from gopstream.pipeline.extract import extract_clip, extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, transcode_frames
from gopstream.pipeline.window import TimeWindow, locate_window, window_times

KINDS = [
    "b_frames.mp4",
    "late.mp4",
    "fragments.mp4",
    "open_gops.mp4",
    "variable.mp4",
    "interlaced.mp4",
    "b_frames.mkv",
    "late.mkv",
    "open_gops.mkv",
    "variable.mkv",
    "refresh.mkv",
    "vp9.webm",
    "vp8.webm",
    "mpeg4.avi",
    "mjpeg.avi",
    "b_frames.ts",
    "open_gops.ts",
    "mpeg2.ts",
    "mpeg2.mpg",
    "b_frames.flv",
]
X264 = "-c:v libx264 -g 40 -threads 1 -pix_fmt yuv420p"


def cut_by_copying(source, path, *, start):
    """An edit list hides what lies between the key frame before and the start."""
    command = [default_ffmpeg(), "-v", "error", "-y", "-ss", str(start), "-i", source]
    subprocess.run([*command, "-c", "copy", path], check=True)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("windows")


class Whole:
    """A video, and the pictures and times of all of it, as the whole transcode shows them."""

    def __init__(self, path, scratch):
        self.path = path
        self.facts = open_video(path)
        self.pictures, self.times = transcode(self.facts, scratch)

    def inside(self, window):
        end = window.end_seconds
        return [
            index
            for index, time in enumerate(self.times)
            if round(time * 10**6) >= round(window.start_seconds * 10**6)
            and (end is None or round(time * 10**6) < round(end * 10**6))
        ]


def transcode(facts, scratch, *, cut=None, complaints=None):
    stream_path = scratch / "canonical.nut"
    pictures = [
        picture.tobytes()
        for picture in transcode_frames(
            facts,
            stream_path,
            canonical=CanonicalFormat(),
            binary=default_ffmpeg(),
            cut=cut,
            complaints=complaints,
        )
    ]
    with av.open(str(stream_path)) as container:
        stream = container.streams.video[0]
        times = [packet.pts * stream.time_base for packet in container.demux(stream) if packet.size]
    return pictures, times


@pytest.fixture(scope="module", params=[*KINDS, "edit_list.mp4"])
def whole(request, folder, tmp_path_factory, make):
    scratch = tmp_path_factory.mktemp("scratch")
    path = folder / request.param
    if request.param == "edit_list.mp4":
        plain = make(folder / "plain.mp4", f"{X264} -bf 3")
        cut_by_copying(plain, path, start=0.9)
    else:
        make(path)
    return Whole(path, scratch)


def windows_of(whole):
    """Starts and ends on a frame, a microsecond before and after; on a key frame; open ends."""
    times = whole.times
    middle, late = float(times[len(times) // 2]), float(times[-20])
    key = float(next(time for time in times if time >= Fraction(4, 3)))
    step = 2e-6  # times of frames are rounded to microseconds
    yield TimeWindow(key, late)
    yield TimeWindow(middle - step, late - step)
    yield TimeWindow(middle + step, late + step)
    yield TimeWindow(late, None)


def test_windows_hold_the_pictures_and_times_of_the_whole_video(whole, tmp_path):
    for window in windows_of(whole):
        expected = whole.inside(window)
        assert expected
        pictures, times = transcode(whole.facts, tmp_path, cut=locate_window(whole.facts, window))
        assert times == [whole.times[index] for index in expected], str(window)
        assert pictures == [whole.pictures[index] for index in expected], str(window)


def test_a_frame_belongs_to_one_of_two_windows_that_meet(whole):
    edges = [0.0, 0.7, 1.333333, 2.0, 2.0333, 3.1, 60.0]
    held = []
    for start, end in zip(edges, edges[1:], strict=False):
        held += window_times(whole.facts, locate_window(whole.facts, TimeWindow(start, end)))
    everything = window_times(whole.facts, locate_window(whole.facts, TimeWindow(0.0, None)))
    assert held == everything
    assert len(held) == len(whole.times)


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_frames.mkv", "b_frames.ts", "vp9.webm"])
def test_what_is_read_for_a_window_does_not_grow_with_the_file(name, tmp_path, make):
    counts = []
    for num_frames in (180, 720):
        path = make(tmp_path / name, num_frames=num_frames)
        facts = open_video(path)
        end = num_frames / 30
        cut = locate_window(facts, TimeWindow(end - 1.0, end - 0.5))
        packets, complaints = [], []
        with open_coded(
            path, on_packet=lambda p, into=packets: into.append(p.pts), cut=cut
        ) as coded:
            num_decoded = len(list(coded.frames))
        pictures, _ = transcode(facts, tmp_path, cut=cut, complaints=complaints)
        said = re.search(r"(\d+) packets read .*; (\d+) frames decoded", " ".join(complaints))
        counts.append((len(packets), num_decoded, len(pictures), int(said[1]), int(said[2])))
    short, long = counts
    assert short[1:3] == long[1:3] == (15, 15)
    # A GOP has 40 frames; FFmpeg reads ahead, and may begin a GOP earlier.
    for count in (*short, *long):
        assert count <= 2 * 40 + 15 + 20


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_frames.ts", "b_frames.flv", "vp8.webm"])
def test_canonical_clips_of_a_window_are_cut_and_counted_from_its_start(name, tmp_path, make):
    path = make(tmp_path / name)
    whole = extract_clip(path)
    options = ExtractionOptions(segment_frames=24)
    clips = list(extract_segments(path, window=TimeWindow(1.1, 2.6), options=options))
    assert [clip.first_frame for clip in clips] == [0, 24]
    times = [pts * clip.time_base for clip in clips for pts in clip.pts.tolist()]
    assert times == [pts * whole.time_base for pts in whole.pts[33:78].tolist()]
    assert [jpeg for clip in clips for jpeg in clip.jpegs] == whole.jpegs[33:78]
    assert clips[0].kinds == 2 * "IPPPPPPPPPPP"
    assert all(clip.exactness == "exact" and clip.residual is not None for clip in clips)
    assert all(clip.warnings == () and clip.damaged_frames == () for clip in clips)


def test_stored_frames_of_a_window_are_those_of_the_whole_video(tmp_path, make):
    path = make(tmp_path / "b_frames.mkv")
    whole = extract_clip(path)
    (clip,) = extract_segments(path, window=TimeWindow(1.5, 3.0), options=ExtractionOptions(fps=10))
    assert clip.num_frames == 45
    assert clip.frame_index_of_jpeg.tolist() == list(range(0, 45, 3))
    assert clip.jpegs == whole.jpegs[45:90:3]


@pytest.mark.parametrize("name", ["b_frames.mkv", "b_frames.mp4"])
@pytest.mark.parametrize("rate", [7, 15])
@pytest.mark.parametrize("mode", ["canonical", "native"])
def test_a_rate_runs_on_across_segments(tmp_path, mode, rate, name, make):
    """Also where Matroska has rounded the times, and the canonical stream has a finer unit."""
    path = make(tmp_path / name)
    options = ExtractionOptions(mode=mode, fps=rate, segment_frames=24, planes=("frames", "motion"))
    clips = list(extract_segments(path, options=options))
    assert len(clips) > 3
    stored = [
        clip.first_frame + index for clip in clips for index in clip.frame_index_of_jpeg.tolist()
    ]
    # The first frame at or after k / rate s, at 30 per second.
    assert stored == [-(-30 * k // rate) for k in range(5 * rate)]
    assert sum(len(clip.jpegs) for clip in clips) == 5 * rate


@pytest.mark.parametrize("mode", ["canonical", "native"])
@pytest.mark.parametrize(("start", "end"), [(5.0, 6.0), (5.0, None), (900.0, None), (1.001, 1.002)])
def test_a_window_without_frames_is_an_error_that_names_it(tmp_path, mode, start, end, make):
    path = make(tmp_path / "b_frames.mp4")
    clips = extract_segments(
        path, window=TimeWindow(start, end), options=ExtractionOptions(mode=mode)
    )
    until = "the end" if end is None else f"{end:g} s"
    with pytest.raises(
        BitstreamError,
        match=rf"b_frames\.mp4: no frame from {start:g} s to {until}; the video lasts 5 s",
    ):
        next(clips)


@pytest.mark.parametrize("mode", ["canonical", "native"])
@pytest.mark.parametrize("name", ["raw.h264", "reordered.avi"])
def test_frames_whose_times_are_guesses_are_not_cut(tmp_path, mode, name, make):
    """A bare stream has no times; AVI keeps the order of decoding alone."""
    path = make(tmp_path / name, f"{X264} -bf 3")
    clips = extract_segments(
        path, window=TimeWindow(1.0, 2.0), options=ExtractionOptions(mode=mode)
    )
    with pytest.raises(BitstreamError, match="without time stamps of their own"):
        next(clips)


@pytest.mark.parametrize(
    ("start", "end"),
    [(-1.0, 2.0), (2.0, 2.0), (3.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))],
)
def test_times_that_cannot_be_meant_are_refused(start, end):
    with pytest.raises(ValueError, match="a window must"):
        TimeWindow(start, end)


@pytest.fixture
def damaged(tmp_path, make_canonical):
    """A packet of zeros among P-frames: frame 50 of 150 is lost, GOPs of 20."""
    path = make_canonical(tmp_path / "damaged.mkv")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        content = bytes(packets[50])
    whole = path.read_bytes()
    assert whole.count(content) == 1
    path.write_bytes(whole.replace(content, bytes(len(content))))
    return path


@pytest.mark.parametrize("mode", ["canonical", "native"])
def test_damage_counts_where_it_is_seen_in_the_window(damaged, mode):
    options = ExtractionOptions(mode=mode, planes=("frames", "motion"))

    def flags(start, end):
        (clip,) = extract_segments(damaged, window=TimeWindow(start, end), options=options)
        is_said = any("may show damage" in warning for warning in clip.warnings)
        assert is_said == bool(clip.damaged_frames)
        return list(clip.damaged_frames)

    assert flags(0.5, 1.5) == []  # frames 15 to 44
    assert flags(1.5, 2.5) == list(range(4, 14))  # 49, which is suspect, to 59; then a key frame
    assert flags(1.8, 2.5) == list(range(6))  # 54 to 59 are predicted from it
    assert flags(2.1, 3.0) == []  # from 63 on


def test_the_diagnosis_of_a_window_names_its_times(damaged):
    cut = locate_window(open_video(damaged), TimeWindow(1.8, 2.5))
    found = diagnose(damaged, cut=cut)
    assert found.times == window_times(open_video(damaged), cut)
    assert found.damaged == [True] * 6 + [False] * 15


def test_an_ffmpeg_that_lands_too_late_is_found_out(tmp_path, make):
    """Not silently fewer frames, should another version seek otherwise."""
    path = make(tmp_path / "b_frames.mp4")
    script = tmp_path / "ffmpeg"
    script.write_text(
        f"""#!/bin/sh
for argument do
  shift
  case $argument in *us) argument=3000000us ;; esac
  set -- "$@" "$argument"
done
exec '{default_ffmpeg()}' "$@"
"""
    )
    script.chmod(0o755)
    clips = extract_segments(path, window=TimeWindow(2.0, 4.0), ffmpeg_binary=str(script))
    with pytest.raises(TranscodeError, match="the container cannot be cut exactly"):
        next(clips)


def test_a_container_without_an_index_is_read_from_its_beginning(tmp_path, make):
    """Nothing can be sought in a GIF: right, if slow."""
    path = make(tmp_path / "a.gif", "")
    facts = open_video(path)
    pictures, times = transcode(facts, tmp_path)
    got, got_times = transcode(facts, tmp_path, cut=locate_window(facts, TimeWindow(2.0, 3.0)))
    inside = [index for index, time in enumerate(times) if 2 <= time < 3]
    assert got == [pictures[index] for index in inside]
    assert got_times == [times[index] for index in inside]


def test_a_broken_progress_of_a_window_leaves_no_ffmpeg(small_video):
    def stop():
        raise KeyboardInterrupt

    clips = extract_segments(small_video, window=TimeWindow(0.0, None), on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        list(clips)


def test_real_windows_hold_the_frames_of_the_whole_video(real_videos, tmp_path):
    for path in list(real_videos.values())[:2]:
        whole = Whole(path, tmp_path)
        middle = float(whole.times[len(whole.times) // 2])
        window = TimeWindow(middle, middle + 0.5)
        cut = locate_window(whole.facts, window)
        pictures, times = transcode(whole.facts, tmp_path, cut=cut)
        expected = whole.inside(window)
        assert times == [whole.times[index] for index in expected], path.name
        assert pictures == [whole.pictures[index] for index in expected], path.name


def test_landing_before_the_window_when_a_deinterlacer_looks_back(tmp_path, make):
    path = make(tmp_path / "b_frames.mp4")
    facts = open_video(path)
    start = TimeWindow(80 / 30, None)  # a key frame
    cut = locate_window(facts, start)
    assert cut.landing.pts == cut.first_pts
    woven = locate_window(replace(facts, may_be_interlaced=True), start)
    assert woven.landing.pts < woven.first_pts
