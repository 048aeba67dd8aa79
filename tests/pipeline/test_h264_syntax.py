"""Parameter sets, NAL units and slice headers, against bits written by hand and FFmpeg's trace."""

import contextlib
import re
import subprocess

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.h264_packets import DAMAGED, PacketReader, split_extradata
from gopstream.pipeline.h264_syntax import (
    BitReader,
    find_encoder_note,
    parse_picture_parameters,
    parse_sequence_parameters,
)
from gopstream.pipeline.transcode import default_ffmpeg

X264_UUID = bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef")


def u(value, count):
    return f"{value:0{count}b}" if count else ""


def ue(value):
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def se(value):
    return ue(2 * value - 1 if value > 0 else -2 * value)


def to_bytes(bits):
    return bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))


def escape(rbsp):
    """Insert emulation prevention the obvious way (7.4.1)."""
    out = bytearray()
    for value in rbsp:
        if value <= 3 and out[-2:] == b"\0\0":
            out.append(3)
        out.append(value)
    return bytes(out)


def unit(header, *fields):
    return bytes([header]) + escape(to_bytes("".join(fields) + "1"))


def sps_unit(
    *,
    profile=77,
    flags=0,
    level=41,
    high=None,
    number_bits=4,
    order="11",
    references=1,
    size=(5, 4),
    frame_bits="11",
    crop="0",
    vui="0",
):
    """Return an SPS of 6x5 macroblocks; ``high`` are the fields of the high profiles."""
    head = u(profile, 8) + u(flags, 8) + u(level, 8) + ue(0) + (high or "") + ue(number_bits - 4)
    body = order + ue(references) + "0" + ue(size[0]) + ue(size[1]) + frame_bits
    return unit(0x67, head, body, crop, vui)


def pps_unit(*, cabac=1, references=(1, 1), weighted="000", last="100", groups=0, pps_id=0):
    head = ue(pps_id) + ue(0) + u(cabac, 1) + "0" + ue(groups)
    numbers = ue(references[0] - 1) + ue(references[1] - 1)
    return unit(0x68, head, numbers, weighted, se(0), se(0), se(-2), last)


def packet_reader(sps=None, pps=None):
    reader = PacketReader(length_size=0)
    sps = parse_sequence_parameters(sps or sps_unit())
    reader.set_parameters(parse_picture_parameters(pps or pps_unit()), sps)
    return reader


def read_packet(reader, data):
    packet = np.frombuffer(data, np.uint8)
    packet.setflags(write=False)
    count, kinds = reader.find_units(packet)
    return reader.slice_headers(packet, count), kinds


def slice_header(fields, *, header=0x41, **parameters):
    """Read one hand-made slice, followed by bits that stand for its macroblocks."""
    data = b"\0\0\1" + unit(header, fields, "1100" * 30)
    (found,), kinds = read_packet(packet_reader(**parameters), data)
    assert not kinds & DAMAGED
    return found


@given(st.lists(st.integers(0, 2**32 - 2), max_size=20))
def test_unsigned_codes_come_back(values):
    reader = BitReader(to_bytes("".join(map(ue, values))), what="x")
    assert [reader.unsigned("y") for _ in values] == values


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=20))
def test_signed_codes_come_back(values):
    reader = BitReader(to_bytes("".join(map(se, values))), what="x")
    assert [reader.signed("y") for _ in values] == values


def test_codes_of_the_standard():
    # ITU-T H.264, tables 9-2 and 9-3.
    bits = ["1", "010", "011", "00100", "00101", "00110", "00111", "0001000"]
    reader = BitReader(to_bytes("".join(bits)), what="x")
    assert [reader.unsigned("y") for _ in bits] == [0, 1, 2, 3, 4, 5, 6, 7]
    reader = BitReader(to_bytes("".join(bits)), what="x")
    assert [reader.signed("y") for _ in bits] == [0, 1, -1, 2, -2, 3, -3, 4]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "ends too early"), (b"\0\0", "ends too early"), (bytes(9), "no Exp-Golomb code")],
)
def test_a_code_that_is_none_is_refused(data, message):
    with pytest.raises(BitstreamError, match=f"^the set.*{message}"):
        BitReader(data, what="the set").unsigned("y")


@pytest.mark.parametrize(
    ("bits", "expected"),
    [("10000000", False), ("01000000", True), ("11000000", True), ("00000000", False), ("", False)],
)
def test_the_stop_bit_is_no_data(bits, expected):
    assert BitReader(to_bytes(bits), what="x").has_more_data() == expected
    assert BitReader(to_bytes(bits) + b"\0", what="x").has_more_data() == expected


def test_a_small_sps():
    sps = parse_sequence_parameters(sps_unit(number_bits=7, references=3))
    assert (sps.profile_idc, sps.level_idc, sps.sps_id) == (77, 41, 0)
    assert (sps.chroma_format_idc, sps.bit_depth) == (1, 8)
    assert (sps.frame_number_bits, sps.order_count_type, sps.order_count_bits) == (7, 0, 4)
    assert sps.max_reference_frames == 3
    assert sps.coded_size == (96, 80)
    assert sps.display_rect == (0, 0, 96, 80)
    assert sps.frames_only
    assert sps.max_reorder_frames is None


@pytest.mark.parametrize(
    ("chroma", "frame_bits", "expected"),
    [
        (ue(0), "11", (1, 3, 93, 73)),
        (ue(1), "11", (2, 6, 90, 66)),
        (ue(2), "11", (2, 3, 90, 73)),
        (ue(3) + "0", "11", (1, 3, 93, 73)),
        (ue(3) + "1", "11", (1, 3, 93, 73)),
        (ue(1), "001", (2, 12, 90, 132)),  # fields: rows count twice
    ],
)
def test_cropping_counts_in_units_of_chroma(chroma, frame_bits, expected):
    high = chroma + ue(2) + ue(1) + "00"
    crop = "1" + ue(1) + ue(2) + ue(3) + ue(4)
    sps = parse_sequence_parameters(
        sps_unit(profile=244, high=high, frame_bits=frame_bits, crop=crop)
    )
    assert sps.display_rect == expected
    assert sps.bit_depth == 10


def test_scaling_lists_are_read_over():
    # One list ends early (delta -8 makes the next scale 0), one is whole, one 8x8 is whole.
    lists = "1" + se(-8) + "1" + se(1) * 16 + "0000" + "1" + se(0) * 64 + "0"
    high = ue(1) + ue(0) + ue(0) + "01" + lists
    assert parse_sequence_parameters(sps_unit(profile=100, high=high)).coded_size == (96, 80)


def test_a_cycle_of_order_counts_is_read_over():
    order = ue(1) + "1" + se(-3) + se(5) + ue(2) + se(1) + se(-70)
    sps = parse_sequence_parameters(sps_unit(order=order))
    assert (sps.order_count_type, sps.order_deltas_are_zero) == (1, True)
    assert sps.coded_size == (96, 80)


def hrd():
    return ue(1) + u(0, 8) + (ue(900) + ue(70000) + "1") * 2 + u(0, 20)


def test_the_vui_tells_of_reordering():
    aspect, video = "1" + u(255, 8) + u(0, 32), "1" + u(5, 3) + "0" + "1" + u(1, 24)
    head = aspect + "11" + video + "1" + ue(0) + ue(3) + "1" + u(1, 32) + u(50, 32) + "1"
    vui = head + "1" + hrd() + "1" + hrd() + "0" + "1" + "1" + "1" + ue(0) * 2 + ue(11) * 2
    sps = parse_sequence_parameters(sps_unit(vui="1" + vui + ue(2) + ue(4)))
    assert (sps.max_reorder_frames, sps.max_frame_buffering) == (2, 4)


def test_a_damaged_vui_is_passed_over():
    sps = parse_sequence_parameters(sps_unit(vui="1" + "1" + u(255, 8)))
    assert sps.max_reorder_frames is None
    assert sps.coded_size == (96, 80)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": 17}, "max_num_ref_frames is 17, at most 16"),
        ({"number_bits": 17}, "log2_max_frame_num_minus4 is 13, at most 12"),
        ({"order": ue(3)}, "pic_order_cnt_type is 3"),
        ({"size": (2**20, 4)}, "pic_width_in_mbs_minus1 is 1048576"),
        ({"crop": "1" + ue(20) + ue(28) + ue(0) + ue(0)}, "crops the whole picture away"),
        ({"profile": 100, "high": ue(4)}, "chroma_format_idc is 4"),
        ({"profile": 100, "high": ue(1) + ue(7)}, "bit_depth_luma_minus8 is 7"),
        ({"order": ue(1) + "1" + se(0) * 2 + ue(256)}, "cycle is 256, at most 255"),
    ],
)
def test_an_sps_beyond_the_standard_is_refused(changes, message):
    with pytest.raises(BitstreamError, match=message):
        parse_sequence_parameters(sps_unit(**changes))


@pytest.mark.parametrize("length", range(1, 8))
def test_a_cut_sps_is_refused(length):
    with pytest.raises(BitstreamError, match="the sequence parameter set"):
        parse_sequence_parameters(sps_unit(size=(119, 67))[:length])


@pytest.mark.parametrize(
    ("last", "transform_8x8"), [("100", False), ("1001", True), ("0010", False)]
)
def test_a_small_pps(last, transform_8x8):
    pps = parse_picture_parameters(pps_unit(references=(3, 2), weighted="110", last=last))
    assert pps.num_references == (3, 2)
    assert (pps.weighted_pred, pps.weighted_bipred_idc) == (True, 2)
    assert pps.is_cabac
    assert pps.deblocking_control_present == (last[0] == "1")
    assert pps.redundant_count_present == (last[2] == "1")
    assert pps.transform_8x8 == transform_8x8


def test_slice_groups_are_not_audited():
    with pytest.raises(BitstreamError, match="slice groups"):
        parse_picture_parameters(pps_unit(groups=1))


def test_the_note_of_x264_is_found_behind_other_messages():
    text = b"x264 - core 165 r3222 - H.264/MPEG-4 AVC codec - x - options: cabac=1 a=\xff\0"
    payload = X264_UUID + text + bytes(300)
    size = b"\xff" * (len(payload) // 255) + bytes([len(payload) % 255])
    other = b"\5\x11" + bytes(16) + b"x"
    note = find_encoder_note(b"\6" + escape(other + b"\5" + size + payload + b"\x80"))
    assert note == ("x264 - core 165 r3222", "cabac=1 a=?")
    assert find_encoder_note(b"\6" + escape(other + b"\x80")) is None


def test_an_avcc_record_is_split():
    sps, pps = sps_unit(), pps_unit()
    head = b"\1\x4d\0\x29\xfd\xe1"
    record = head + len(sps).to_bytes(2, "big") + sps + b"\1" + len(pps).to_bytes(2, "big") + pps
    assert split_extradata(record) == ([sps, pps], 2)
    for length in range(1, len(record)):
        with pytest.raises(BitstreamError, match="the avcC record ends"):
            split_extradata(record[:length])


def test_start_codes_are_split():
    sps, pps = sps_unit(), pps_unit()
    data = b"\0\0\0\1" + sps + b"\0\0\1" + pps + b"\0\0"
    assert split_extradata(data) == ([sps, pps], 0)


def test_a_slice_header_field_by_field():
    # P, frame 5 of 16, order 9, 3 references, one swapped, qp 2, deblocking off.
    references = "1" + ue(2) + "1" + ue(0) + ue(1) + ue(3)
    fields = ue(7) + ue(5) + ue(0) + u(5, 4) + u(9, 4) + references + "0" + ue(1) + se(2) + ue(1)
    found = slice_header(fields)
    assert found.fault == 0
    assert (found.unit_kind, found.reference_idc) == (1, 2)
    assert (found.first_macroblock, found.kind, found.pps_id) == (7, 0, 0)
    assert (found.frame_number, found.order_lsb) == (5, 9)
    assert (found.num_references_l0, found.num_references_l1) == (3, 0)
    assert (found.is_reordered, found.has_weights, found.marking) == (1, 0, 0)
    assert found.deblocking_idc == 1


@pytest.mark.parametrize(
    ("luma", "chroma", "expected"),
    [
        ("0", "0", 0),
        ("1" + se(32) + se(0), "1" + (se(4) + se(0)) * 2, 0),  # signalled, but 1 and 0
        ("1" + se(31) + se(0), "0", 1),
        ("1" + se(32) + se(-1), "0", 1),
        ("0", "1" + se(4) + se(0) + se(5) + se(0), 1),
        ("0", "1" + se(4) + se(0) + se(4) + se(1), 1),
    ],
)
def test_only_weights_that_change_something_count(luma, chroma, expected):
    fields = ue(0) + ue(5) + ue(0) + u(5, 4) + u(9, 4) + "00" + ue(5) + ue(2) + luma + chroma
    found = slice_header(fields + "0" + ue(0) + se(0) + ue(2), pps=pps_unit(weighted="100"))
    assert (found.has_weights, found.deblocking_idc, found.fault) == (expected, 2, 0)


def test_a_b_slice_has_two_lists():
    lists = "1" + ue(1) + ue(3) + "0" + "1" + ue(2) + ue(0) + ue(3)
    fields = ue(0) + ue(6) + ue(0) + u(5, 4) + u(9, 4) + "1" + lists
    found = slice_header(fields + ue(2) + se(0) + ue(1), header=0x01)
    assert (found.kind, found.reference_idc) == (1, 0)
    assert (found.num_references_l0, found.num_references_l1) == (2, 4)
    assert (found.is_reordered, found.deblocking_idc) == (1, 1)


@pytest.mark.parametrize(
    ("marking", "expected"),
    [
        ("0", 0),
        ("1" + ue(0), 0),
        ("1" + ue(1) + ue(0) + ue(0), 1),
        ("1" + ue(3) + ue(0) + ue(1) + ue(0), 1),
        ("1" + ue(5) + ue(0), 2),
        ("1" + ue(4) + ue(0) + ue(5) + ue(6) + ue(2) + ue(0), 3),
    ],
)
def test_commands_that_mark_references(marking, expected):
    fields = ue(0) + ue(7) + ue(0) + u(5, 4) + u(9, 4) + marking + se(0) + ue(1)
    found = slice_header(fields)
    assert (found.kind, found.marking, found.deblocking_idc) == (2, expected, 1)


def test_a_field_of_an_idr_picture():
    fields = ue(0) + ue(7) + ue(0) + u(0, 4) + "11" + ue(300) + u(1, 4) + "01" + se(0) + ue(1)
    found = slice_header(fields, header=0x65, sps=sps_unit(frame_bits="001"))
    assert (found.is_field, found.is_bottom, found.idr_pic_id) == (1, 1, 300)
    assert (found.marking, found.deblocking_idc) == (1, 1)


def test_emulation_prevention_inside_a_slice_header():
    # Sixteen bits of frame number and order: zeros that only an escape lets through.
    sps = sps_unit(number_bits=16, order=ue(0) + ue(12))
    fields = ue(0) + ue(7) + ue(0) + u(0, 16) + u(1, 16) + "0" + se(0) + ue(1)
    assert b"\0\0\3" in unit(0x41, fields)
    found = slice_header(fields, sps=sps)
    assert (found.frame_number, found.order_lsb, found.deblocking_idc) == (0, 1, 1)


def test_a_header_longer_than_the_short_look():
    weights = ("1" + se(-128) + se(127) + "1" + (se(-128) + se(127)) * 2) * 32
    fields = ue(0) + ue(5) + ue(0) + u(5, 4) + u(9, 4) + "1" + ue(31) + "0" + ue(7) * 2 + weights
    found = slice_header(fields + "0" + ue(0) + se(0) + ue(1), pps=pps_unit(weighted="100"))
    assert len(fields) > 8 * 64
    assert (found.fault, found.has_weights, found.deblocking_idc) == (0, 1, 1)


@pytest.mark.parametrize(
    "fields",
    [
        ue(0) + ue(10),  # no such type
        ue(0) + ue(7) + ue(1),  # no such PPS
        ue(0) + ue(5) + ue(0) + u(5, 4) + u(9, 4) + "1" + ue(32),  # too many references
        ue(0) + ue(7) + ue(0) + u(5, 4) + u(9, 4) + "0" + se(0) + ue(3),  # no such deblocking
        ue(0) + ue(7) + ue(0) + u(5, 4) + u(9, 4) + "1" + (ue(1) + ue(0)) * 70,  # no end
        "0" * 40,
    ],
)
def test_an_impossible_slice_header_is_a_fault(fields):
    assert slice_header(fields).fault != 0


def test_a_cut_slice_header_is_a_fault():
    data = b"\0\0\1\x41" + to_bytes(ue(0) + ue(5) + ue(0) + u(5, 4))
    (found,), _ = read_packet(packet_reader(), data)
    assert found.fault != 0


I_SLICE = unit(0x65, ue(0), ue(7), ue(0), u(0, 4), ue(0), u(1, 4), "00", se(0), ue(1), "0" * 99)


@pytest.mark.parametrize("length_size", [1, 2, 3, 4])
def test_units_with_lengths_are_found(length_size):
    reader = packet_reader()
    reader.length_size = length_size
    units = [b"\6\5\1x\x80", I_SLICE, b"", I_SLICE]
    data = b"".join(len(one).to_bytes(length_size, "big") + one for one in units)
    headers, kinds = read_packet(reader, data)
    assert len(headers) == 2
    assert kinds == 1 << 6 | 1 << 5
    _, kinds = read_packet(reader, data[:-1])
    assert kinds == 1 << 6 | 1 << 5 | DAMAGED


def test_start_codes_where_lengths_are_announced():
    reader = packet_reader()
    reader.length_size = 4
    headers, kinds = read_packet(reader, b"\0\0\0\1" + I_SLICE)
    assert (len(headers), kinds) == (1, 1 << 5)


def test_more_units_than_the_first_table_holds():
    headers, _ = read_packet(packet_reader(), (b"\0\0\1" + I_SLICE) * 500)
    assert len(headers) == 500
    assert {header.fault for header in headers} == {0}


def test_units_without_end_are_bounded():
    headers, kinds = read_packet(packet_reader(), b"\0\0\1\x41" * 200_000)
    assert len(headers) == 2**15
    assert kinds & DAMAGED


@pytest.mark.parametrize("data", [b"\0", b"noise" * 9, b"\0\0\1", b"\0\0\1\xe5\x88", bytes(50)])
def test_a_packet_without_a_whole_unit_is_damaged(data):
    _, kinds = read_packet(packet_reader(), data)
    assert kinds & DAMAGED


@given(st.lists(st.sampled_from([b"\0", b"\1", b"\0\0\1", b"\0\0", b"\2", b"a"]), max_size=30))
def test_units_are_found_at_every_start_code(parts):
    # Zeros before a start code belong to it, and what precedes the first is noise.
    data = b"".join(parts)
    expected = [part.rstrip(b"\0") for part in data.split(b"\0\0\1")[1:]]
    packet = np.frombuffer(data, np.uint8)
    packet.setflags(write=False)
    reader = PacketReader(length_size=0)
    count, _ = reader.find_units(packet)
    found = reader.units_of(packet, count, kinds=tuple(range(32)))
    assert [one for _, one in found] == [part for part in expected if part]


@given(st.binary(max_size=80))
def test_noise_is_a_parameter_set_or_a_bitstream_error(data):
    for parse in (parse_sequence_parameters, parse_picture_parameters, split_extradata):
        with contextlib.suppress(BitstreamError):
            parse(data)
    find_encoder_note(data)


@given(st.data())
def test_a_mutated_parameter_set_is_one_or_a_bitstream_error(data):
    vui = "1" + "00001" + u(1, 32) + u(50, 32) + "1" + "1" + hrd() + "0001" + "1" + ue(3) * 6
    high = ue(1) + ue(0) + ue(0) + "01" + ("1" + se(0) * 16) * 6 + "00"
    original = bytearray(sps_unit(profile=100, high=high, vui=vui))
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(1, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        sps = parse_sequence_parameters(bytes(original))
    except BitstreamError:
        return
    assert sps.display_rect[2] <= sps.coded_size[0] <= 65536


def traced_fields(path, name, *, default=None):
    """Return a field of each slice header as FFmpeg's own parser sees it."""
    command = [default_ffmpeg(), "-hide_banner", "-nostdin", "-i", path, "-map", "0:v:0"]
    command += ["-c", "copy", "-bsf:v", "trace_headers", "-f", "null", "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    values = []
    for part in re.split(r"\] Slice Header", text)[1:]:
        found = re.search(rf"\d+ +{name} .* = (-?\d+)", part)
        values.append(int(found[1]) if found else default)
    return values


@pytest.mark.parametrize(
    "parameters",
    [
        "bframes=3:b-pyramid=normal:ref=4:weightp=2:weightb=1:deblock=1,1",
        "bframes=2:interlaced=1:slices=2:cabac=0:weightp=1",
    ],
)
def test_slice_headers_equal_those_of_ffmpegs_parser(parameters, tmp_path):
    path = tmp_path / "video.mp4"
    source = "testsrc2=s=160x96:r=25,fade=in:0:12,fade=out:14:10"
    command = [default_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", source, "-frames:v", "25"]
    command += ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-threads", "1"]
    subprocess.run([*command, "-x264-params", parameters, path], check=True)
    headers = []
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata
        (sps, pps), length_size = split_extradata(extradata)
        reader = packet_reader(sps, pps)
        reader.length_size = length_size
        for packet in container.demux(video=0):
            if packet.size:
                headers += read_packet(reader, bytes(packet))[0]
    assert {header.fault for header in headers} == {0}
    assert {header.kind for header in headers} == {0, 1, 2}
    for field, name in [
        ("first_macroblock", "first_mb_in_slice"),
        ("frame_number", "frame_num"),
        ("order_lsb", "pic_order_cnt_lsb"),
        ("deblocking_idc", "disable_deblocking_filter_idc"),
        ("reference_idc", "nal_ref_idc"),
    ]:
        assert [getattr(one, field) for one in headers] == traced_fields(path, name), field
    modified = traced_fields(path, r"ref_pic_list_modification_flag_l0", default=0)
    reordered = [one.is_reordered for one in headers if one.kind == 0]
    assert reordered == [flag for flag, one in zip(modified, headers, strict=True) if one.kind == 0]
