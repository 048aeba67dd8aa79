import hashlib
from dataclasses import replace

import numpy as np
import pytest

from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.extract import extract_clip, extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.jpeg import decode_frame
from gopstream.pipeline.residual import add_residual


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
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExtractionOptions(**options)
