"""Native clips hold what the original stream says, upright; a residual only where it is exact."""

import hashlib
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gopstream.pipeline import native_clips
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.extract import extract_clip, extract_segments
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.jpeg import decode_frame
from gopstream.pipeline.native import PictureScaler, plan_native
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.residual import add_residual
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, transcode_frames

NATIVE = ExtractionOptions(mode="native")
MOTION = replace(NATIVE, planes=("motion",))
ROTATIONS = [90, 180, 270]


def ffmpeg(*words):
    subprocess.run([default_ffmpeg(), "-v", "error", "-y", *map(str, words)], check=True)
    return Path(words[-1])


def x264(source, path, *options):
    return ffmpeg("-i", source, "-c:v", "libx264", "-threads", 1, *options, path)


def make_exact(source, path, *, gop=12):
    """An MP4 that holds the canonical stream of a video, as a user may have made it."""
    stream = path.with_suffix(".nut")
    for _ in transcode_frames(
        open_video(source),
        stream,
        canonical=CanonicalFormat(gop=gop),
        binary=default_ffmpeg(),
    ):
        pass
    return ffmpeg("-i", stream, "-c", "copy", path)


def turn(path, degrees):
    """The same stream with a display matrix."""
    target = path.with_name(f"{path.stem}_{degrees}.mp4")
    return ffmpeg("-display_rotation", degrees, "-i", path, "-c", "copy", target)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("native")


@pytest.fixture(scope="module")
def exact(folder, small_video):
    return make_exact(small_video, folder / "exact.mp4")


@pytest.fixture(scope="module")
def exact_odd(folder, odd_video):
    """84x52 shown of 96x64 coded."""
    return make_exact(odd_video, folder / "exact_odd.mp4")


@pytest.fixture(scope="module")
def long_gop(folder, small_video):
    """One I-frame, then 29 P: exact, but of one piece."""
    return make_exact(small_video, folder / "long.mp4", gop=100)


@pytest.fixture(scope="module")
def p_only(folder, small_video):
    return x264(small_video, folder / "p.mp4", "-bf", 0, "-refs", 1, "-g", 10)


def paint(path):
    """Put each vector of PyAV on each cell of its block, by loops."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.options = {"flags2": "+export_mvs", "apply_cropping": "0"}
        motion, coverage = [], []
        for frame in container.decode(stream):
            rows, columns = -(-frame.height // 16) * 2, -(-frame.width // 16) * 2
            field = np.zeros((2, rows, columns, 2), np.int16)
            covered = np.zeros((2, rows, columns), np.uint8)
            for vector in frame.side_data.get("MOTION_VECTORS") or ():
                number = 0 if vector.source < 0 else 1
                top, left = vector.dst_y - vector.h // 2, vector.dst_x - vector.w // 2
                cells = (
                    slice(top // 8, (top + vector.h) // 8),
                    slice(left // 8, (left + vector.w) // 8),
                )
                scale = 4 // vector.motion_scale
                field[number][cells] = (vector.motion_x * scale, vector.motion_y * scale)
                covered[number][cells] = 1
            motion.append(field)
            coverage.append(covered)
    return np.stack(motion), np.stack(coverage)


@pytest.mark.parametrize(
    ("name", "lists"), [("small_video", 2), ("odd_video", 2), ("p_only", 1), ("exact_odd", 1)]
)
def test_motion_is_that_of_the_stream(name, lists, request):
    path = request.getfixturevalue(name)
    clip = extract_clip(path, options=MOTION)
    motion, coverage = paint(path)
    np.testing.assert_array_equal(clip.motion, motion[:, :lists])
    np.testing.assert_array_equal(clip.coverage, coverage[:, :lists])
    assert not coverage[:, lists:].any()
    assert clip.coverage.any()


def test_a_stream_with_b_frames_has_two_lists_and_says_what_is_unknown(small_video):
    clip = extract_clip(small_video, options=NATIVE)
    kinds = np.array(list(clip.kinds))
    assert clip.motion.shape[1] == 2
    assert clip.coverage[kinds == "B", 1].any()
    assert not clip.coverage[kinds != "B", 1].any()
    assert clip.residual is None
    assert clip.decoded_sha256 == []
    assert "B-frames" in clip.exactness
    assert any("B-frames: which frame a vector leads to is not known" in w for w in clip.warnings)


def test_several_references_are_a_warning(small_video, folder):
    path = x264(small_video, folder / "refs.mp4", "-bf", 0, "-refs", 4)
    clip = extract_clip(path, options=MOTION)
    assert any("references: which one a vector leads to" in warning for warning in clip.warnings)


def test_times_and_kinds_are_those_of_the_stream(small_video):
    clip = extract_clip(small_video, options=MOTION)
    with open_coded(small_video) as stream:
        frames = [(frame.kind, frame.pts) for frame in stream.frames]
        assert clip.time_base == stream.time_base
    assert list(zip(clip.kinds, clip.pts.tolist(), strict=True)) == frames


def test_a_cropped_stream_keeps_its_coded_picture(exact_odd, odd_video):
    """84x52: cropped on the right and below."""
    for path in (exact_odd, odd_video):
        clip = extract_clip(path, options=NATIVE)
        assert clip.coded_size == (96, 64)
        assert clip.display_rect == (0, 0, 84, 52)
        assert decode_frame(clip.jpegs[0]).shape == (52, 84, 3)


@pytest.mark.parametrize(("left", "top"), [(0, 4), (8, 4), (64, 0)])
def test_a_stream_cropped_at_the_left_and_above_is_shown_as_canonical_mode_shows_it(
    small_video, folder, left, top
):
    """Unless told otherwise, FFmpeg's decoder keeps columns at the left for its alignment."""
    crop = f"h264_metadata=crop_left={left}:crop_top={top}:crop_right=4:crop_bottom=2"
    path = ffmpeg("-i", small_video, "-c", "copy", "-bsf:v", crop, folder / "crop.mp4")
    native, canonical = extract_clip(path, options=NATIVE), extract_clip(path)
    assert native.coded_size == (96, 64)
    assert native.frame_size == canonical.frame_size == (92 - left, 62 - top)
    assert native.display_rect == (left, top, 92 - left, 62 - top)
    assert native.jpegs == canonical.jpegs


def rebuild(clip):
    """Predict, add, hash: each GOP's SHA-256."""
    width, height = clip.coded_size
    shapes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    reference, digests = None, []
    for frame, flat in enumerate(clip.residual.planes):
        parts = np.split(flat, [height * width, height * width * 5 // 4])
        planes = Planes(*(p.reshape(shape) for p, shape in zip(parts, shapes, strict=True)))
        if clip.kinds[frame] == "I":
            digests.append(hashlib.sha256())
        predicted = predict_planes(
            reference or planes, clip.motion[frame, 0], clip.coverage[frame, 0]
        )
        reference = add_residual(predicted, planes)
        for plane in reference:
            digests[-1].update(plane.data)
    return [digest.hexdigest() for digest in digests]


@pytest.mark.parametrize("name", ["small_video", "odd_video"])
def test_an_exact_stream_has_the_residual_of_canonical_extraction(name, folder, request):
    source = request.getfixturevalue(name)
    native = extract_clip(make_exact(source, folder / f"{name}.mp4"), options=NATIVE)
    canonical = extract_clip(source)
    assert native.exactness == "exact"
    assert native.warnings == ()
    assert rebuild(native) == native.decoded_sha256 == canonical.decoded_sha256
    np.testing.assert_array_equal(native.motion, canonical.motion)
    np.testing.assert_array_equal(native.coverage, canonical.coverage)
    np.testing.assert_array_equal(native.residual.planes, canonical.residual.planes)
    np.testing.assert_array_equal(native.residual.exceptions, canonical.residual.exceptions)
    assert native.residual.zero_share == canonical.residual.zero_share
    assert native.kinds == canonical.kinds
    assert native.display_rect == canonical.display_rect


@pytest.mark.parametrize("degrees", ROTATIONS)
@pytest.mark.parametrize("name", ["exact", "exact_odd"])
def test_a_turned_exact_stream_rebuilds_turned_pictures(name, degrees, request):
    path = request.getfixturevalue(name)
    upright = extract_clip(path, options=NATIVE)
    turned_path = turn(path, degrees)
    turned = extract_clip(turned_path, options=NATIVE)
    turns = open_video(turned_path).rotation // 90
    assert turns in (1, 2, 3)
    assert turned.exactness == "exact"
    assert rebuild(turned) == turned.decoded_sha256
    motion = np.rot90(upright.motion, turns, axes=(2, 3)).astype(int)
    x, y = motion[..., 0], motion[..., 1]
    expected = {1: (y, -x), 2: (-x, -y), 3: (-y, x)}[turns]
    np.testing.assert_array_equal(turned.motion, np.stack(expected, axis=-1))
    np.testing.assert_array_equal(turned.coverage, np.rot90(upright.coverage, turns, axes=(2, 3)))
    assert turned.residual.zero_share == upright.residual.zero_share
    width, height = upright.coded_size
    luma, expected_luma = (
        clip.residual.planes[:, : width * height].reshape(-1, *clip.coded_size[::-1])
        for clip in (turned, upright)
    )
    np.testing.assert_array_equal(luma, np.rot90(expected_luma, turns, axes=(1, 2)))


@pytest.mark.parametrize("short_side", [256, 40])
@pytest.mark.parametrize("degrees", ROTATIONS)
@pytest.mark.parametrize("name", ["exact", "exact_odd", "small_video"])
def test_stored_frames_are_those_of_canonical_mode(name, degrees, short_side, request, folder):
    """Upright, cropped, scaled: bit for bit the same JPEGs."""
    path = request.getfixturevalue(name)
    turned = turn(ffmpeg("-i", path, "-c", "copy", folder / f"{name}_copy.mp4"), degrees)
    native, canonical = (
        extract_clip(
            turned,
            options=ExtractionOptions(
                mode=mode,
                planes=("frames", "motion"),
                canonical=CanonicalFormat(short_side=short_side),
            ),
        )
        for mode in ("native", "canonical")
    )
    assert native.frame_size == canonical.frame_size
    assert native.jpegs == canonical.jpegs
    x, y, width, height = native.display_rect
    assert (width > height) == (degrees == 180)
    assert x + width <= native.coded_size[0]
    assert y + height <= native.coded_size[1]


def test_pixels_that_are_not_square_become_so(tmp_path, write_video):
    path = write_video(tmp_path / "wide.mp4", 4, aspect=Fraction(4, 3))
    native = extract_clip(path, options=NATIVE)
    assert native.frame_size == (128, 64)
    assert native.coded_size == (96, 64)
    assert native.jpegs == extract_clip(path).jpegs


@pytest.mark.parametrize(
    "words",
    [
        ["-pix_fmt", "yuvj420p"],
        ["-pix_fmt", "yuv422p"],
        ["-colorspace", "bt709"],
        ["-vf", "setsar=2"],
    ],
    ids=["full range", "4:2:2", "BT.709", "wide pixels"],
)
def test_other_colours_and_shapes_are_stored_as_canonical_mode_does(small_video, tmp_path, words):
    path = x264(small_video, tmp_path / "a.mkv", *words)
    options = ExtractionOptions(planes=("frames", "motion"))
    native = extract_clip(path, options=replace(options, mode="native"))
    assert native.jpegs == extract_clip(path, options=options).jpegs


def test_ten_bits_have_motion_and_frames(small_video, folder):
    path = x264(small_video, folder / "ten.mp4", "-pix_fmt", "yuv420p10le")
    clip = extract_clip(path, options=NATIVE)
    assert clip.residual is None
    assert "bit depth 10" in clip.exactness
    assert len(clip.jpegs) == 30
    assert clip.coverage.any()


def interlaced_h264(source, folder):
    return x264(source, folder / "i.mp4", "-flags", "+ilme+ildct", "-x264-params", "tff=1")


def interlaced_mpeg2(source, folder):
    return ffmpeg("-i", source, "-c:v", "mpeg2video", "-flags", "+ilme+ildct", folder / "i.ts")


def mpeg4_with_b(source, folder):
    return ffmpeg("-i", source, "-c:v", "mpeg4", "-bf", 2, folder / "b.avi")


def hevc(source, folder):
    options = ["-c:v", "libx265", "-x265-params", "log-level=none"]
    return ffmpeg("-i", source, *options, folder / "h.mp4")


def motion_jpeg(source, folder):
    return ffmpeg("-i", source, "-c:v", "mjpeg", folder / "m.avi")


def changing_size(source, folder):
    """Two streams one after the other."""
    small = x264(source, folder / "s.h264", "-bf", 0)
    large = x264(source, folder / "l.h264", "-bf", 0, "-vf", "scale=160:96")
    path = folder / "change.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (hevc, r"h\.mp4: hevc has no motion vectors .*; canonical mode re-encodes"),
        (motion_jpeg, r"m\.avi: mjpeg has no motion vectors .*; canonical mode re-encodes"),
        (interlaced_h264, r"i\.mp4: interlaced \(macroblock-adaptive\): .*; canonical mode dein"),
        (interlaced_mpeg2, r"i\.ts: interlaced: .*; canonical mode deinterlaces"),
        (mpeg4_with_b, r"b\.avi: FFmpeg exports wrong vectors for the B-frames of mpeg4"),
        (changing_size, "size changes from 96x64 to 160x96 after 30 frames; canonical mode"),
    ],
)
def test_what_has_no_right_vectors_is_refused_and_canonical_mode_takes_it(
    make, message, small_video, tmp_path
):
    path = make(small_video, tmp_path)
    with pytest.raises(BitstreamError, match=message):
        extract_clip(path, options=NATIVE)
    assert extract_clip(path, options=replace(MOTION, mode="canonical")).num_frames >= 30


def assert_whole(segments, clip):
    """Clips one after the other are the clip."""
    for name in ("motion", "coverage", "pts"):
        parts = [getattr(segment, name) for segment in segments]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(clip, name))
    assert "".join(segment.kinds for segment in segments) == clip.kinds
    assert [jpeg for segment in segments for jpeg in segment.jpegs] == clip.jpegs
    firsts = np.cumsum([0, *(segment.num_frames for segment in segments)])
    assert [segment.first_frame for segment in segments] == firsts[:-1].tolist()
    stored = [s.first_frame + s.frame_index_of_jpeg for s in segments]
    np.testing.assert_array_equal(np.concatenate(stored), clip.frame_index_of_jpeg)
    damaged = [s.first_frame + frame for s in segments for frame in s.damaged_frames]
    assert damaged == list(clip.damaged_frames)


@pytest.mark.parametrize("length", [12, 13, 23, 24, 25, 30, 300])
def test_segments_with_a_residual_end_before_a_gop_and_make_up_the_whole(exact, length):
    options = replace(NATIVE, segment_frames=length, frame_stride=4)
    segments, clip = (
        list(extract_segments(exact, options=options)),
        extract_clip(exact, options=options),
    )
    expected = [12, 12, 6] if length < 24 else [24, 6] if length < 36 else [30]
    assert [segment.num_frames for segment in segments] == expected
    assert_whole(segments, clip)
    planes = [segment.residual.planes for segment in segments]
    np.testing.assert_array_equal(np.concatenate(planes), clip.residual.planes)
    assert [d for segment in segments for d in segment.decoded_sha256] == clip.decoded_sha256
    for segment in segments:
        assert rebuild(segment) == segment.decoded_sha256
        assert segment.chunk_starts == tuple(segment.gop_starts)


@pytest.mark.parametrize("length", [12, 13, 29, 30])
def test_segments_without_a_residual_have_the_length_asked_for(small_video, length):
    options = replace(NATIVE, segment_frames=length)
    segments = list(extract_segments(small_video, options=options))
    assert [s.num_frames for s in segments] == [
        min(length, 30 - first) for first in range(0, 30, length)
    ]
    assert_whole(segments, extract_clip(small_video, options=options))


def test_a_gop_longer_than_a_segment_costs_the_residual_not_the_video(long_gop):
    options = replace(NATIVE, segment_frames=20)
    segments = list(extract_segments(long_gop, options=options))
    assert [segment.num_frames for segment in segments] == [20, 10]
    for segment in segments:
        assert segment.residual is None
        assert segment.exactness == "a GOP of 30 frames is longer than a segment of 20"
    whole = extract_clip(long_gop, options=options)
    assert whole.exactness == "exact"
    assert rebuild(whole) == whole.decoded_sha256


def test_a_residual_too_large_for_memory_is_left_out_with_the_sum(exact, monkeypatch):
    monkeypatch.setattr(native_clips, "MAX_RESIDUAL_BYTES", 2**20)
    options = replace(NATIVE, segment_frames=200)
    clip = next(extract_segments(exact, options=options))
    assert clip.residual is None
    assert "a segment of 200 frames of 96x64 has 1 MiB of residual, more than 1" in clip.exactness
    fewer = next(extract_segments(exact, options=replace(NATIVE, segment_frames=100)))
    assert fewer.exactness == "exact"


def test_long_gops_are_cut_into_chunks_of_at_most_64(tmp_path, write_video):
    source = write_video(tmp_path / "long.mp4", 150, width=32, height=32)
    path = x264(source, tmp_path / "p.mp4", "-bf", 0, "-g", 100, "-sc_threshold", 0)
    clip = extract_clip(path, options=MOTION)
    assert clip.gop_starts == [0, 100]
    assert clip.chunk_starts == (0, 64, 100)


def test_a_residual_that_nobody_asked_for_is_not_made(exact):
    clip = extract_clip(exact, options=MOTION)
    assert clip.residual is None
    assert clip.jpegs == []
    assert clip.exactness == "exact"


def test_a_first_picture_that_is_no_i_frame_costs_the_residual(long_gop, folder):
    """An edit list hides the one I-frame."""
    path = ffmpeg("-ss", 0.4, "-i", long_gop, "-c", "copy", folder / "late.mp4")
    clip = extract_clip(path, options=NATIVE)
    assert clip.kinds[0] == "P"
    assert clip.residual is None
    assert clip.exactness == "the first picture shown is no I-frame"
    assert clip.damaged_frames == ()


def test_a_damaged_stream_marks_its_frames(p_only, tmp_path):
    with av.open(str(p_only)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        start, size = packets[13].pos, packets[13].size
    content = bytearray(p_only.read_bytes())
    content[start : start + size] = bytes(size)
    path = tmp_path / "hole.mp4"
    path.write_bytes(content)
    clip = extract_clip(path, options=MOTION)
    assert clip.num_frames == 29
    assert clip.damaged_frames == tuple(range(12, 19))
    assert any(warning.startswith("packet 13 does not decode") for warning in clip.warnings)
    assert "7 of 29 frames may show damage" in clip.warnings
    options = replace(MOTION, segment_frames=13)
    segments = list(extract_segments(path, options=options))
    # The frame before a damage that begins the next segment is suspect too.
    assert [segment.damaged_frames for segment in segments] == [(12,), (0, 1, 2, 3, 4, 5), ()]


def test_two_extractions_are_equal(small_video):
    first, second = (extract_clip(small_video, options=NATIVE) for _ in range(2))
    assert first.jpegs == second.jpegs
    assert first.motion.tobytes() == second.motion.tobytes()
    assert first.coverage.tobytes() == second.coverage.tobytes()


def test_progress_is_told_and_may_stop(small_video):
    calls = []
    list(extract_segments(small_video, options=NATIVE, on_progress=lambda: calls.append(1)))
    assert len(calls) == 30 // 25

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(extract_segments(small_video, options=NATIVE, on_progress=stop))


def test_the_plan_is_known_before_any_picture(exact_odd):
    native = plan_native(open_video(turn(exact_odd, 90)), short_side=40)
    assert native.coded_size == (64, 96)
    assert native.display_rect[2:] == (52, 84)
    assert native.frame_size == (40, 64)
    assert native.num_lists == 1
    assert native.audit.is_exact


def test_the_scaler_gives_limited_range_planes(exact):
    native = plan_native(open_video(exact), short_side=32)
    scaler = PictureScaler(native)
    with open_coded(exact) as stream:
        for frame in stream.frames:
            scaled = scaler.scale(frame.picture)
            assert scaled.shape == (48, 48)
            assert scaled.dtype == np.uint8


def test_real_streams_match_pyav(real_videos):
    for name in ("street_720p_mpeg4part2.mp4", "goat_256.mp4"):
        path = real_videos[name]
        with open_coded(path) as stream:
            frames = [frame.vectors for _, frame in zip(range(6), stream.frames, strict=False)]
        clip = next(extract_segments(path, options=replace(MOTION, segment_frames=12)))
        covered = [
            0 if vectors is None else int((vectors["w"] // 8 * (vectors["h"] // 8)).sum())
            for vectors in frames
        ]
        assert clip.coverage[:6].sum(axis=(1, 2, 3)).tolist() == covered
