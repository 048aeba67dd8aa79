import subprocess
from dataclasses import replace

import av
import imageio_ffmpeg
import numpy as np
import pytest

from gopstream.jobs.inspection import video_clip
from gopstream.jobs.inspection.vector_table import upright_vectors
from gopstream.jobs.inspection.video_clip import SEEK_FROM, VideoClip
from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.motion import rasterise_vectors
from gopstream.pipeline.mvextractor_backend import TABLE_COLUMNS, records_from_table
from gopstream.pipeline.mvextractor_dump import read_dump
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.rotation import rotate_motion
from gopstream.shards.sample_parts import signed_residual
from inspection_cases import (
    encode_pictures,
    make_dump,
    make_exact_video,
    make_pictures,
    make_video,
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        "b_frames": make_video(folder, b_frames=True),
        "p_only": make_video(folder, width=80),
        "exact": make_exact_video(folder),
        "long": make_exact_video(folder / "long", num_frames=72),
        "long_b": make_video(folder / "long", b_frames=True, num_frames=72),
    }


def same_frames(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.index, one.kind, one.picture_of) == (other.index, other.kind, other.picture_of)
        np.testing.assert_array_equal(one.picture, other.picture)
        np.testing.assert_array_equal(one.motion.motion, other.motion.motion)
        np.testing.assert_array_equal(one.motion.coverage, other.motion.coverage)
        np.testing.assert_array_equal(one.vectors, other.vectors)
        assert (one.residual is None) == (other.residual is None)
        for plane, expected in zip(one.residual or (), other.residual or (), strict=True):
            np.testing.assert_array_equal(plane, expected)


def field_of(frame, facts):
    """Rasterise a frame's own table of vectors."""
    width, height = facts.coded_size
    return rasterise_vectors(
        records_from_table(frame.vectors),
        coded_width=width,
        coded_height=height,
        num_lists=facts.num_lists,
    )


# What it shows


@pytest.mark.parametrize("name", ["b_frames", "p_only", "exact"])
def test_video_shows_what_native_extraction_extracts(videos, name):
    clip = VideoClip(videos[name])
    extracted = extract_clip(
        videos[name], options=ExtractionOptions(mode="native", planes=("motion", "residual"))
    )
    facts, frames = clip.facts, list(clip.frames())
    assert facts.kinds == extracted.kinds == "".join(frame.kind for frame in frames)
    assert (facts.coded_size, facts.display_rect) == (extracted.coded_size, extracted.display_rect)
    assert (facts.exactness, facts.scene_cuts) == (extracted.exactness, extracted.scene_cuts)
    np.testing.assert_allclose(facts.times, np.arange(12) / 25, atol=1e-9)
    np.testing.assert_array_equal([f.motion.motion for f in frames], extracted.motion)
    np.testing.assert_array_equal([f.motion.coverage for f in frames], extracted.coverage)
    assert facts.num_lists == extracted.motion.shape[1] == (2 if name == "b_frames" else 1)
    assert extracted.coverage.any()


def test_vectors_are_the_dump_of_the_same_video(videos, tmp_path):
    clip = VideoClip(videos["b_frames"])
    dumped = list(read_dump(make_dump(videos["b_frames"], tmp_path / "dump")))
    frames = list(clip.frames())
    for frame, expected in zip(frames, dumped, strict=True):
        np.testing.assert_array_equal(frame.vectors, expected.vectors)
        assert frame.vectors.dtype == np.int32
    assert {len(frame.vectors) for frame in frames if frame.kind == "I"} == {0}
    assert sum(len(frame.vectors) for frame in frames) > 100


def test_picture_is_what_was_encoded(videos):
    clip = VideoClip(videos["p_only"])
    assert clip.facts.display_rect == (0, 0, 80, 64)
    drawn = make_pictures(width=80).astype(int)
    for frame in clip.frames():
        # Chroma has half the resolution; a neighbour differs by more than 20.
        difference = np.abs(drawn - frame.picture).mean(axis=(1, 2, 3))
        assert difference.argmin() == frame.index
        assert difference.min() < 10


def test_colours_are_those_of_the_named_matrix(tmp_path):
    colour = np.array([200, 40, 90])
    pictures = np.broadcast_to(colour, (2, 64, 64, 3)).astype(np.uint8)
    path = encode_pictures(
        tmp_path / "full.mp4",
        pictures,
        options={"x264-params": "colormatrix=smpte170m:qp=1"},
    )
    shown = next(VideoClip(path).frames()).picture.reshape(-1, 3)
    assert np.abs(shown - colour).max() <= 3


def test_residual_is_that_of_the_extraction_where_it_is_exact(videos):
    clip = VideoClip(videos["exact"])
    extracted = extract_clip(videos["exact"], options=ExtractionOptions(mode="native"))
    assert clip.facts.exactness == "exact"
    assert clip.facts.planes == {"frames", "motion", "vectors", "residual"}
    expected = signed_residual(
        extracted.residual.planes,
        extracted.residual.exceptions.astype(np.int64),
        first_frame=0,
        frames=np.arange(12),
        coded_size=extracted.coded_size,
    )
    for index, frame in enumerate(clip.frames()):
        for plane, values in zip(frame.residual, expected, strict=True):
            assert plane.dtype == np.int16
            np.testing.assert_array_equal(plane, values[index])


def test_video_that_is_not_exact_says_why_and_has_no_residual(videos):
    clip = VideoClip(videos["p_only"])
    assert clip.facts.exactness.startswith("deblocking: ")
    assert clip.facts.planes == {"frames", "motion", "vectors"}
    assert all(frame.residual is None for frame in clip.frames())


# Which frames


@pytest.mark.parametrize("name", ["exact", "b_frames"])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (4, 7), (6, 8), (11, None)])
def test_part_shows_the_same_frames(videos, name, start, stop):
    clip = VideoClip(videos[name])
    same_frames(list(clip.frames(start, stop)), list(clip.frames())[start:stop])


@pytest.mark.parametrize("name", ["long", "long_b"])
@pytest.mark.parametrize("start", [SEEK_FROM, 61, 66, 71])
def test_far_frames_are_sought_and_the_same(videos, name, start, monkeypatch):
    clip = VideoClip(videos[name])
    expected = list(clip.frames())[start:]
    cuts = []

    def noting(path, *, cut=None, with_vectors):
        cuts.append(cut)
        return open_coded(path, cut=cut, with_vectors=with_vectors)

    open_coded = video_clip.open_coded
    monkeypatch.setattr(video_clip, "open_coded", noting)
    same_frames(list(clip.frames(start)), expected)
    assert [cut.landing is not None for cut in cuts] == [True]


def test_where_seeking_leads_to_no_frame_all_is_decoded(videos, monkeypatch):
    clip = VideoClip(videos["long"])
    expected = list(clip.frames())[60:]
    cut_at = VideoClip._cut_at
    monkeypatch.setattr(
        VideoClip, "_cut_at", lambda self, first: replace(cut_at(self, first), first_pts=10**9)
    )
    same_frames(list(clip.frames(60)), expected)


@pytest.mark.parametrize(("start", "stop"), [(12, None), (-1, 2), (3, 3), (0, 13)])
def test_frames_that_are_not_there_are_refused(videos, start, stop):
    with pytest.raises(IndexError, match=r"b_frames.mp4 has frames 0 to 11, got a range from"):
        VideoClip(videos["b_frames"]).frames(start, stop)


def test_first_reading_tells_its_progress_and_can_be_stopped(videos):
    class StoppedError(Exception):
        pass

    told = []

    def stop(count):
        told.append(count)
        if count >= 50:
            raise StoppedError

    with pytest.raises(StoppedError):
        VideoClip(videos["long"], on_frames=stop).facts  # noqa: B018 - reading it is the test
    assert told == [25, 50]


# Turned videos


def test_turned_video_is_upright(rotated_video, small_video):
    turned, plain = VideoClip(rotated_video), VideoClip(small_video)
    assert turned.facts.coded_size == plain.facts.coded_size[::-1]
    assert turned.facts.stream["rotation"] == 90
    for frame, lying in zip(turned.frames(), plain.frames(), strict=True):
        np.testing.assert_array_equal(frame.picture, np.rot90(lying.picture, 1))
        expected = rotate_motion(lying.motion, 1)
        np.testing.assert_array_equal(frame.motion.motion, expected.motion)
        again = field_of(frame, turned.facts)
        np.testing.assert_array_equal(again.motion, frame.motion.motion)
        np.testing.assert_array_equal(again.coverage, frame.motion.coverage)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turned_vectors_make_the_turned_field(videos, turns):
    clip = VideoClip(videos["p_only"])
    facts = clip.facts
    width, height = facts.coded_size
    assert width != height
    for frame in clip.frames(1, 4):
        table = upright_vectors(frame.vectors, turns, size=(width, height))
        shown = (height, width) if turns % 2 else (width, height)
        field = rasterise_vectors(
            records_from_table(table), coded_width=shown[0], coded_height=shown[1], num_lists=1
        )
        expected = rotate_motion(frame.motion, turns)
        np.testing.assert_array_equal(field.motion, expected.motion)
        np.testing.assert_array_equal(field.coverage, expected.coverage)
        column = {name: table[:, number] for number, name in enumerate(TABLE_COLUMNS)}
        for axis in "xy":
            exact = column[f"dst_{axis}"] + column[f"motion_{axis}"] / 4
            assert np.abs(exact - column[f"src_{axis}"]).max() < 1


# What cannot be had is said


def test_codec_without_vectors_shows_pictures(tmp_path):
    path = encode_pictures(tmp_path / "lossless.mkv", make_pictures(3), codec="ffv1")
    clip = VideoClip(path)
    assert clip.facts.planes == {"frames"}
    (warning,) = clip.facts.warnings
    assert warning.startswith("no motion: FFmpeg's decoder of ffv1 exports no motion vectors; ")
    assert "gopstream extract FILE --mode canonical" in warning
    assert [(frame.motion, frame.vectors) for frame in clip.frames()] == 3 * [(None, None)]


def test_of_two_video_streams_the_taken_one_is_told(tmp_path):
    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = [container.add_stream("ffv1", rate=25) for _ in range(2)]
        for stream, side in zip(streams, (64, 32), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        for stream, side in zip(streams, (64, 32), strict=True):
            picture = np.zeros((side, side, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
    facts = VideoClip(tmp_path / "two.mkv").facts
    assert facts.coded_size == (64, 64)
    assert facts.warnings[0].startswith("the file has 2 video streams; taken is")
    assert facts.warnings[0].endswith("its stream 0")


def test_b_frames_of_mpeg4_have_no_motion_but_the_others_do(tmp_path):
    path = encode_pictures(
        tmp_path / "mpeg4.mp4", make_pictures(), codec="mpeg4", options={"bf": "2", "g": "6"}
    )
    clip = VideoClip(path)
    num_b = clip.facts.kinds.count("B")
    assert num_b > 3
    assert (
        f"{num_b} of 12 frames have no motion: FFmpeg exports wrong vectors for the B-frames of "
        "mpeg4"
    ) in clip.facts.warnings
    for frame in clip.frames():
        assert (frame.motion is None) == (frame.vectors is None) == (frame.kind == "B")
        assert frame.kind != "P" or frame.motion.coverage.any()


def test_interlaced_video_has_pictures_but_no_motion(tmp_path):
    path = encode_pictures(
        tmp_path / "interlaced.mp4", make_pictures(4), options={"x264-params": "tff=1:bframes=0"}
    )
    clip = VideoClip(path)
    assert clip.facts.planes == {"frames"}
    assert any(text.startswith("no motion: interlaced") for text in clip.facts.warnings)
    assert all(frame.motion is None and frame.picture is not None for frame in clip.frames())


def test_picture_of_another_size_is_shown_without_motion(resized_video):
    clip = VideoClip(resized_video)
    frames = list(clip.frames())
    assert len(frames) == 60
    assert {frame.picture.shape for frame in frames} == {(64, 96, 3)}
    with_motion = [frame.motion is not None for frame in frames]
    assert with_motion.count(True) == 30
    assert any(
        "30 of 60 frames have no motion: the picture has another size" in text
        for text in clip.facts.warnings
    )


def test_hidden_reference_is_a_reason_for_no_residual(videos, tmp_path):
    path = tmp_path / "edited.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", "0.1", "-i", videos["exact"]]
    subprocess.run([*command, "-c", "copy", path], check=True)
    clip = VideoClip(path)
    assert clip.facts.kinds[0] == "P"
    assert clip.facts.exactness == "an edit list hides what frame 0 is predicted from"
    assert all(frame.residual is None and frame.motion is not None for frame in clip.frames())


def test_damaged_video_is_shown_as_far_as_it_decodes(videos, tmp_path):
    content = bytearray(videos["long"].read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    (tmp_path / "broken.mp4").write_bytes(content)
    clip = VideoClip(tmp_path / "broken.mp4")
    facts = clip.facts
    assert facts.damaged_frames
    assert any("may show damage" in text for text in facts.warnings)
    assert len(list(clip.frames())) == facts.num_frames > 60
    assert next(clip.frames(60)).index == 60


def test_text_is_no_video(tmp_path):
    (tmp_path / "notes.txt").write_text("no video\n" * 100)
    with pytest.raises(NotAVideoError, match="notes.txt: not a video"):
        VideoClip(tmp_path / "notes.txt")


# Real videos


def test_real_videos_are_shown_whatever_their_codec(real_videos):
    for name, path in real_videos.items():
        if name.startswith("street"):
            continue  # large, and of codecs that others have
        clip = VideoClip(path)
        frames = list(clip.frames(3, 6))
        _, _, width, height = clip.facts.display_rect
        assert {frame.picture.shape for frame in frames} == {(height, width, 3)}, name
        assert ("motion" in clip.facts.planes) == (name not in ("hevc.mp4", "av1.mkv"))
