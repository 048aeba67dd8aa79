"""Audits of coded streams, against what their encoder was told and what their decoder says."""

import subprocess
from collections import Counter

import av
import pytest
from av.video.frame import PictureType
from hypothesis import given
from hypothesis import strategies as st

from gopstream.pipeline.audit import AuditBuilder, audit_stream
from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, transcode_frames

# What x264 must be told for an exact stream; the tests change one of these at a time.
EXACT = {
    "bframes": "0",
    "ref": "1",
    "weightp": "0",
    "no-deblock": "1",
    "partitions": "p8x8,i8x8,i4x4",
    "keyint": "12",
    "min-keyint": "12",
    "scenecut": "0",
}
BELOW_8X8 = "partitions below 8x8"
B_FRAMES = {"B-frames", "pictures that are no reference"}


def encode(path, size="100x70", *, pixels="yuv420p", filters="null", num_frames=30, **changes):
    """Encode moving test pictures with x264, exact but for the changes; returns the path."""
    changes = {name.replace("_", "-"): value for name, value in changes.items()}
    parameters = ":".join(f"{name}={value}" for name, value in (EXACT | changes).items())
    command = [default_ffmpeg(), "-v", "error", "-f", "lavfi"]
    command += ["-i", f"testsrc2=s={size}:r=25,{filters}", "-frames:v", str(num_frames)]
    command += ["-pix_fmt", pixels, "-c:v", "libx264", "-preset", "veryfast", "-threads", "1"]
    subprocess.run([*command, "-x264-params", parameters, path], check=True)
    return path


def remux(source, path):
    command = [default_ffmpeg(), "-v", "error", "-i", source, "-c", "copy", path]
    subprocess.run(command, check=True)
    return path


def decoded(path):
    """Return the types of the decoded pictures, their coded size, and the size shown."""
    types = Counter()
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        shown = (stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.options = {"apply_cropping": "0"}
        for frame in container.decode(stream):
            types[PictureType(frame.pict_type).name] += 1
    return types, (frame.width, frame.height), shown


def assert_equals_decoder(audit, path):
    types, coded_size, shown = decoded(path)
    assert (audit.num_i, audit.num_p, audit.num_b) == (types["I"], types["P"], types["B"])
    assert audit.num_pictures == types.total()
    assert audit.coded_size == coded_size
    assert audit.display_rect == (0, 0, *shown)


def kinds(audit):
    """Return each reason as far as its first bracket or colon."""
    return {reason.partition(":")[0].partition(" (")[0] for reason in audit.inexact_reasons}


def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        extradata = stream.codec_context.extradata
        return extradata, [bytes(packet) for packet in container.demux(stream) if packet.size]


def audit_packets(extradata, data):
    builder = AuditBuilder("h264", extradata=extradata)
    for packet in data:
        builder.add_packet(packet)
    return builder.finish()


@pytest.fixture(scope="module")
def exact_video(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("exact") / "exact.mp4")


@pytest.fixture(scope="module")
def b_video(tmp_path_factory):
    path = tmp_path_factory.mktemp("b") / "b.mp4"
    return encode(path, bframes="3", ref="3", b_pyramid="normal", b_adapt="0", keyint="30")


def test_the_canonical_stream_is_exact(small_video, tmp_path):
    path = tmp_path / "canonical.nut"
    canonical = CanonicalFormat()
    facts = open_video(small_video)
    num_frames = sum(
        1 for _ in transcode_frames(facts, path, canonical=canonical, binary=default_ffmpeg())
    )
    audit = audit_stream(path)
    assert audit.inexact_reasons == ()
    assert audit.is_exact
    assert audit.exports_motion
    assert audit.num_pictures == audit.num_packets == num_frames == 30
    assert audit.pictures_per_gop == (12, 12, 12)
    assert (audit.num_i, audit.num_p, audit.num_b, audit.num_idr) == (3, 27, 0, 3)
    assert audit.has_b_frames is False
    assert (audit.max_reference_frames, audit.max_active_references) == (1, 1)
    assert (audit.weighted_prediction, audit.weighted_bipred) == ("none", "none")
    assert (audit.deblocking, audit.interlacing) == ("off", "progressive")
    assert audit.partitions_below_8x8 is False
    assert audit.encoder.startswith("x264 - core ")
    assert "analyse=0x3:0x13 " in audit.encoder_options or "0x113 " in audit.encoder_options
    assert_equals_decoder(audit, path)


@pytest.mark.parametrize(
    ("changes", "expected", "fields"),
    [
        ({}, set(), {"profile": "High", "level": "1.0", "bit_depth": 8, "chroma": "4:2:0"}),
        ({"slices": "3"}, set(), {"max_slices_per_picture": 3}),
        ({"cabac": "0"}, set(), {"entropy_coding": "CAVLC"}),
        ({"keyint": "1", "min_keyint": "1"}, set(), {"num_p": 0, "pictures_per_gop": (1, 1, 1)}),
        ({"partitions": "all"}, {BELOW_8X8}, {"partitions_below_8x8": True}),
        ({"no_deblock": "0"}, {"deblocking"}, {"deblocking": "on"}),
        ({"ref": "3"}, {"several references"}, {"max_active_references": 3}),
        (
            {"bframes": "2", "b_pyramid": "none", "weightb": "0"},
            B_FRAMES,
            {"weighted_bipred": "none"},
        ),
        ({"bframes": "2", "b_pyramid": "none"}, B_FRAMES, {"weighted_bipred": "implicit"}),
        (
            {"size": "96x64", "interlaced": "1"},
            {"interlaced"},
            {"interlacing": "macroblock-adaptive"},
        ),
        (
            {"size": "96x64", "fake_interlaced": "1"},
            {"interlaced"},
            {"interlacing": "possible", "num_p": 27},
        ),
        ({"pixels": "yuv420p10le"}, {"bit depth 10"}, {"profile": "High 10"}),
        (
            {"pixels": "yuv422p"},
            {"chroma 4"},
            {"profile": "High 4:2:2", "chroma": "4:2:2", "bit_depth": 8},
        ),
        ({"pixels": "yuv444p"}, {"chroma 4"}, {"profile": "High 4:4:4 Predictive"}),
        ({"pixels": "gray"}, {"chroma 4"}, {"chroma": "4:0:0"}),
        ({"weightp": "1", "filters": "fade=out:4:20"}, {"weighted prediction"}, {}),
        ({"weightp": "1"}, set(), {"weighted_prediction": "none"}),
    ],
)
def test_each_broken_condition_has_its_own_reason(changes, expected, fields, tmp_path):
    path = encode(tmp_path / "video.mp4", **changes)
    audit = audit_stream(path)
    assert kinds(audit) == expected
    assert audit.is_exact == (not expected)
    assert {name: getattr(audit, name) for name in fields} == fields
    assert audit.num_damaged_packets == 0
    assert_equals_decoder(audit, path)


def test_duplicated_references_with_weights_have_three_reasons(tmp_path):
    path = encode(tmp_path / "fade.mp4", weightp="2", ref="2", filters="fade=out:4:20")
    audit = audit_stream(path)
    assert {"weighted prediction", "several references"} <= kinds(audit)
    assert audit.weighted_prediction == "explicit"


@pytest.mark.parametrize("size", ["64x64", "66x82", "340x256", "2x2"])
def test_sizes_that_are_cropped(size, tmp_path):
    path = encode(tmp_path / "video.mp4", size=size, num_frames=3)
    audit = audit_stream(path)
    width, height = map(int, size.split("x"))
    assert audit.display_rect == (0, 0, width, height)
    assert_equals_decoder(audit, path)


def test_the_structure_of_b_frames(b_video):
    audit = audit_stream(b_video)
    assert audit.has_b_frames
    assert audit.num_b > audit.num_p
    assert audit.max_reference_frames >= audit.max_active_references == 3
    assert audit.max_reorder_frames == 2
    assert not audit.has_open_gops
    assert {*B_FRAMES, "several references"} <= kinds(audit)
    assert_equals_decoder(audit, b_video)


@pytest.mark.parametrize(("open_gop", "num_idr"), [("0", 3), ("1", 1)])
def test_open_gops_are_seen(open_gop, num_idr, tmp_path):
    path = encode(tmp_path / "video.mp4", bframes="2", b_adapt="0", open_gop=open_gop)
    audit = audit_stream(path)
    assert audit.has_open_gops == (open_gop == "1")
    assert (audit.num_i, audit.num_idr) == (3, num_idr)
    assert_equals_decoder(audit, path)


def test_an_i_picture_without_leading_ones_opens_no_gop(tmp_path):
    # With bframes=0 x264 still makes non-IDR I-pictures where it may not yet start a GOP.
    path = encode(tmp_path / "video.mp4", open_gop="1")
    audit = audit_stream(path)
    assert not audit.has_open_gops


@pytest.mark.parametrize("suffix", [".h264", ".ts", ".mkv", ".nut", ".avi", ".flv"])
@pytest.mark.parametrize("video", ["exact_video", "b_video"])
def test_the_container_makes_no_difference(video, suffix, tmp_path, request):
    source = request.getfixturevalue(video)
    other = remux(source, tmp_path / f"video{suffix}")
    assert audit_stream(other) == audit_stream(source)


def test_the_real_videos_agree_with_their_decoder(real_videos):
    for name in ("k400_arm_wrestling_340x256_h264.mp4", "nasa_320x180_h264_high_bframes.mp4"):
        audit = audit_stream(real_videos[name])
        assert_equals_decoder(audit, real_videos[name])
        assert {"B-frames", "weighted prediction", "deblocking"} <= kinds(audit)
    street = audit_stream(real_videos["street_720p_h264_main_p_only.mp4"])
    assert street.profile == "Main"
    assert street.encoder is street.partitions_below_8x8 is None
    assert kinds(street) == {"deblocking", BELOW_8X8}
    assert "cannot be excluded" in street.inexact_reasons[1]
    ten_bit = audit_stream(real_videos["h264_10bit.mp4"])
    assert (ten_bit.bit_depth, ten_bit.profile) == (10, "High 10")
    assert_equals_decoder(ten_bit, real_videos["h264_10bit.mp4"])


@pytest.mark.parametrize(
    ("name", "codec", "exports_motion"),
    [("hevc.mp4", "hevc", False), ("av1.mkv", "av1", False), ("goat_256.mp4", "mpeg4", True)],
)
def test_other_codecs_have_one_reason(name, codec, exports_motion, real_videos):
    audit = audit_stream(real_videos[name])
    assert (audit.codec, audit.exports_motion) == (codec, exports_motion)
    (reason,) = audit.inexact_reasons
    assert reason.startswith(f"{codec}: ")
    assert ("no motion vectors" in reason) != exports_motion
    assert audit.num_pictures == audit.num_packets > 0
    assert audit.coded_size is audit.profile is audit.has_b_frames is None


EXPORTING = {
    "mpeg1video": ".mpg",
    "mpeg2video": ".mpg",
    "mpeg4": ".avi",
    "h263": ".avi",
    "h263p": ".avi",
    "flv": ".flv",
    "msmpeg4v2": ".avi",
    "msmpeg4": ".avi",
    "wmv1": ".avi",
    "wmv2": ".avi",
    "h261": ".nut",
    "rv10": ".rm",
    "rv20": ".rm",
    "mjpeg": ".avi",
    "libvpx-vp9": ".mkv",
    "svq1": ".mov",
}


@pytest.mark.parametrize("encoder", EXPORTING)
def test_codecs_said_to_export_motion_do(encoder, tmp_path):
    path = tmp_path / f"video{EXPORTING[encoder]}"
    command = [default_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=176x144:r=30"]
    subprocess.run([*command, "-frames:v", "6", "-c:v", encoder, path], check=True)
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = {"flags2": "+export_mvs"}
        frames = list(container.decode(video=0))
    assert len(frames) >= 5
    exported = any(frame.side_data.get("MOTION_VECTORS") is not None for frame in frames)
    assert audit_stream(path).exports_motion == exported


def test_what_is_no_video_is_refused(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(NotAVideoError, match=r"^text\.mp4: not a video"):
        audit_stream(path)


def test_an_unknown_codec_is_refused(exact_video, tmp_path):
    path = tmp_path / "unknown.mp4"
    path.write_bytes(exact_video.read_bytes().replace(b"avc1", b"xyz1"))
    with pytest.raises(NotAVideoError, match=r"^unknown\.mp4: FFmpeg does not know the codec"):
        audit_stream(path)


def test_a_change_of_size_is_a_change_of_parameters(exact_video, tmp_path):
    second = encode(tmp_path / "second.mp4", size="80x64")
    joined = tmp_path / "joined.h264"
    parts = [remux(path, tmp_path / f"{path.stem}.h264") for path in (exact_video, second)]
    joined.write_bytes(b"".join(part.read_bytes() for part in (*parts, parts[0])))
    audit = audit_stream(joined)
    assert audit.num_parameter_set_changes == 2
    assert kinds(audit) == {"changed parameters"}
    assert audit.num_pictures == 90


def test_the_same_parameters_again_are_no_change(exact_video, tmp_path):
    part = remux(exact_video, tmp_path / "part.h264").read_bytes()
    joined = tmp_path / "joined.h264"
    joined.write_bytes(part + part)
    audit = audit_stream(joined)
    assert audit.is_exact
    assert (audit.num_pictures, audit.num_idr) == (60, 6)


def test_new_header_data_may_come_mid_stream(exact_video, tmp_path):
    first, first_packets = packets(exact_video)
    second, second_packets = packets(encode(tmp_path / "second.mp4", size="80x64"))
    builder = AuditBuilder("h264", extradata=first)
    for packet in first_packets:
        builder.add_packet(packet)
    builder.add_extradata(second)
    for packet in second_packets:
        builder.add_packet(packet)
    audit = builder.finish()
    assert (audit.num_pictures, audit.num_parameter_set_changes) == (60, 1)
    assert audit.coded_size == (80, 64)


def test_a_container_may_bring_new_header_data(tmp_path):
    first = encode(tmp_path / "first.flv").read_bytes()
    second = encode(tmp_path / "second.flv", size="80x64").read_bytes()
    joined = tmp_path / "joined.flv"
    joined.write_bytes(first + second[13:])  # without the second file's own header
    audit = audit_stream(joined)
    assert audit.num_parameter_set_changes == 1
    assert audit.coded_size == (80, 64)
    assert audit.num_damaged_packets == 0


def test_notes_of_several_encodes_are_joined(exact_video, tmp_path):
    small = encode(tmp_path / "small.h264", partitions="all").read_bytes()
    joined = tmp_path / "joined.h264"
    joined.write_bytes(remux(exact_video, tmp_path / "part.h264").read_bytes() + small)
    assert audit_stream(joined).partitions_below_8x8 is True


def test_a_lost_packet_is_a_reason(exact_video):
    extradata, data = packets(exact_video)
    audit = audit_packets(extradata, data[:5] + data[6:])
    assert kinds(audit) == {"missing or doubled pictures"}
    assert audit.num_pictures == 29


def test_a_doubled_packet_is_a_reason(exact_video):
    extradata, data = packets(exact_video)
    audit = audit_packets(extradata, data[:5] + data[4:])
    assert kinds(audit) == {"missing or doubled pictures"}
    assert audit.num_pictures == 31


def test_a_stream_without_its_first_key_picture_says_so(exact_video):
    extradata, data = packets(exact_video)
    audit = audit_packets(extradata, data[3:])
    assert "no first key picture" in kinds(audit)
    assert audit.pictures_per_gop == (12, 12, 12)


def test_damaged_packets_are_counted(exact_video):
    extradata, data = packets(exact_video)
    data[4] = data[4][: len(data[4]) // 2]  # cut inside its unit
    data[7] = b"\xff" * len(data[7])
    data[9] = b"\0\0\0\x40\x41" + bytes(63)  # whole, but no slice header
    audit = audit_packets(extradata, data)
    assert audit.num_damaged_packets == 3
    assert {"damaged packets", "missing or doubled pictures"} == kinds(audit)
    assert audit.num_packets == 30


def test_a_stream_without_parameter_sets_has_no_picture(exact_video):
    extradata, data = packets(exact_video)
    assert audit_packets(None, data).inexact_reasons == ("no picture whose headers can be read",)
    audit = audit_packets(extradata[:20], data)
    assert "avcC record ends" in audit.inexact_reasons[1]
    assert audit.coded_size is None


def test_empty_packets_are_passed_over(exact_video):
    extradata, data = packets(exact_video)
    assert audit_packets(extradata, [b"", *data, b""]) == audit_packets(extradata, data)


def test_lost_packets_can_be_reported_from_outside():
    builder = AuditBuilder("h264")
    builder.count_damage()
    assert builder.finish().num_damaged_packets == 1


def test_a_cut_file_is_audited_as_far_as_it_goes(exact_video, tmp_path):
    whole = remux(exact_video, tmp_path / "whole.mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    audit = audit_stream(path)
    assert 0 < audit.num_pictures < 30
    assert audit.profile == "High"


@pytest.mark.parametrize(
    ("profile", "flags", "level", "expected"),
    [
        (66, 0xC0, 11, ("Constrained Baseline", "1.1")),
        (66, 0xD0, 11, ("Constrained Baseline", "1b")),
        (66, 0x80, 30, ("Baseline", "3.0")),
        (77, 0x40, 31, ("Main", "3.1")),
        (88, 0x00, 9, ("Extended", "1b")),
        (99, 0x00, 40, ("profile 99", "4.0")),
    ],
)
def test_names_of_profiles_and_levels(profile, flags, level, expected, tmp_path):
    video = encode(tmp_path / "video.h264", num_frames=1, **{"8x8dct": "0", "cabac": "0"})
    data = bytearray(video.read_bytes())
    # Profile, flags and level; the profiles here have the same fields behind them.
    position = data.index(b"\0\0\1\x67") + 4
    assert data[position] == 66
    data[position : position + 3] = bytes([profile, flags, level])
    audit = audit_packets(None, [bytes(data)])
    assert (audit.profile, audit.level) == expected


@given(st.binary(max_size=200), st.lists(st.binary(max_size=100), max_size=5))
def test_noise_is_audited_without_an_error(extradata, data):
    audit = audit_packets(extradata, data)
    assert not audit.is_exact


@given(st.data())
def test_mutated_streams_are_audited_without_an_error(b_video, data):
    extradata, stream = packets(b_video)
    parts = [bytearray(extradata), *map(bytearray, stream[:6])]
    for _ in range(data.draw(st.integers(1, 6))):
        part = data.draw(st.sampled_from(parts))
        # Mutations in the first bytes hit headers; behind them is what nothing here reads.
        part[data.draw(st.integers(0, min(len(part), 60) - 1))] = data.draw(st.integers(0, 255))
    audit = audit_packets(bytes(parts[0]), [bytes(part) for part in parts[1:]])
    assert audit.num_packets == 6
