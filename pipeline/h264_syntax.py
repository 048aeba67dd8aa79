"""Parameter sets of an H.264 stream: what its pictures have in common, and who made them.

Names with underscores are those of ITU-T H.264 (2021-08), clauses 7.3 and 7.4 and annexes D and
E. Everything here may come from a damaged or hostile file: loops are bounded by the standard's
limits, and what breaks them is a BitstreamError.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from gopstream.pipeline.errors import BitstreamError

# Parameter sets and the messages of encoders are far shorter; what follows is not looked at.
_MAX_PARAMETER_BYTES: Final = 1 << 12
_MAX_MESSAGE_BYTES: Final = 1 << 16
_MAX_SIDE_IN_MACROBLOCKS: Final = 4096
# User data that x264 writes about itself (its encoder/set.c, x264_sei_version_write).
_X264_UUID: Final = bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef")
_USER_DATA_UNREGISTERED: Final = 5
# profile_idc with chroma format, bit depth and scaling lists in the SPS (7.3.2.1.1).
_HIGH_PROFILES: Final = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_EXTENDED_SAR: Final = 255


class BitReader:
    """Reads the fields of one raw byte sequence payload (RBSP), most significant bit first."""

    __slots__ = ("_num_bits", "_position", "_value", "_what")

    def __init__(self, rbsp: bytes, *, what: str) -> None:
        """Start at the first bit; ``what`` names the payload in errors."""
        self._value = int.from_bytes(rbsp, "big")
        self._num_bits = 8 * len(rbsp)
        self._position = 0
        self._what = what

    def bits(self, count: int) -> int:
        """Read an unsigned number of ``count`` bits, u(n).

        Raises:
            BitstreamError: If the payload ends before.
        """
        self._position += count
        if self._position > self._num_bits:
            raise BitstreamError(f"{self._what} ends too early")
        return (self._value >> (self._num_bits - self._position)) & ((1 << count) - 1)

    def flag(self) -> bool:
        """Read one bit."""
        return self.bits(1) == 1

    def unsigned(self, name: str, *, limit: int = (1 << 32) - 2) -> int:
        """Read an unsigned Exp-Golomb code, ue(v) (clause 9.1).

        Raises:
            BitstreamError: If it is longer than the standard allows, or above ``limit``.
        """
        num_zeros = 0
        while not self.flag():
            num_zeros += 1
            if num_zeros > 31:
                raise BitstreamError(f"{self._what}: {name} is no Exp-Golomb code")
        value = (1 << num_zeros) - 1 + self.bits(num_zeros)
        if value > limit:
            raise BitstreamError(f"{self._what}: {name} is {value}, at most {limit} is allowed")
        return value

    def signed(self, name: str) -> int:
        """Read a signed Exp-Golomb code, se(v) (clause 9.1.1)."""
        code = self.unsigned(name)
        return (code + 1) // 2 if code % 2 else -(code // 2)

    def has_more_data(self) -> bool:
        """Tell whether fields follow before the stop bit, more_rbsp_data() (clause 7.2)."""
        num_left = self._num_bits - self._position
        rest = self._value & ((1 << num_left) - 1)
        return num_left > 0 and rest not in (0, 1 << (num_left - 1))


@dataclass(frozen=True, slots=True)
class SequenceParameters:
    """One sequence parameter set (SPS); two are equal if their fields here are."""

    sps_id: int
    profile_idc: int
    constraint_flags: int
    """constraint_set0_flag is bit 7, constraint_set5_flag bit 2."""
    level_idc: int
    chroma_format_idc: int
    separate_colour_planes: bool
    bit_depth: int
    """The larger of luma's and chroma's."""
    lossless_allowed: bool
    """qpprime_y_zero_transform_bypass_flag."""
    frame_number_bits: int
    order_count_type: int
    order_count_bits: int
    """Of pic_order_cnt_lsb; 0 unless the type is 0."""
    order_deltas_are_zero: bool
    max_reference_frames: int
    frame_number_gaps_allowed: bool
    coded_size: tuple[int, int]
    """(width, height) in pixels, multiples of 16."""
    display_rect: tuple[int, int, int, int]
    """(x, y, width, height) inside the coded picture."""
    frames_only: bool
    """frame_mbs_only_flag: no fields, and no macroblocks of fields."""
    macroblock_adaptive: bool
    max_reorder_frames: int | None
    """From the VUI; None if it does not say."""
    max_frame_buffering: int | None
    """max_dec_frame_buffering of the VUI; None if it does not say."""


@dataclass(frozen=True, slots=True)
class PictureParameters:
    """One picture parameter set (PPS), up to the flag of the 8x8 transform."""

    pps_id: int
    sps_id: int
    is_cabac: bool
    order_in_frame_present: bool
    """bottom_field_pic_order_in_frame_present_flag."""
    num_references: tuple[int, int]
    """Default number of active references of list 0 and list 1."""
    weighted_pred: bool
    weighted_bipred_idc: int
    deblocking_control_present: bool
    redundant_count_present: bool
    transform_8x8: bool


def unescape(unit: bytes, *, limit: int) -> bytes:
    """Return the RBSP of a NAL unit's first ``limit`` bytes, without its header (clause 7.3.1)."""
    # Both go from left to right and start afresh behind each match, so that this is the rule.
    return unit[1:limit].replace(b"\0\0\3", b"\0\0")


def parse_sequence_parameters(unit: bytes) -> SequenceParameters:
    """Parse an SPS (clause 7.3.2.1.1).

    A damaged VUI is passed over, as FFmpeg does: nothing that decodes a picture is in it.

    Args:
        unit: The NAL unit with its header byte.

    Raises:
        BitstreamError: If it is cut, or a field is beyond the standard's limits.
    """
    reader = BitReader(
        unescape(unit, limit=_MAX_PARAMETER_BYTES), what="the sequence parameter set"
    )
    profile_idc, constraint_flags, level_idc = reader.bits(8), reader.bits(8), reader.bits(8)
    sps_id = reader.unsigned("seq_parameter_set_id", limit=31)
    chroma_format_idc, separate_planes, bit_depth, lossless = 1, False, 8, False
    if profile_idc in _HIGH_PROFILES:
        chroma_format_idc = reader.unsigned("chroma_format_idc", limit=3)
        separate_planes = chroma_format_idc == 3 and reader.flag()
        luma_depth = 8 + reader.unsigned("bit_depth_luma_minus8", limit=6)
        bit_depth = max(luma_depth, 8 + reader.unsigned("bit_depth_chroma_minus8", limit=6))
        lossless = reader.flag()
        if reader.flag():
            _skip_scaling_lists(reader, num_lists=12 if chroma_format_idc == 3 else 8)
    frame_number_bits = 4 + reader.unsigned("log2_max_frame_num_minus4", limit=12)
    order_type, order_bits, deltas_are_zero = _read_order_count(reader)
    max_references = reader.unsigned("max_num_ref_frames", limit=16)
    gaps_allowed = reader.flag()
    width, height, frames_only, adaptive = _read_size(reader)
    chroma_array_type = 0 if separate_planes else chroma_format_idc
    rect = _read_cropping(reader, (width, height), chroma_array_type, frames_only=frames_only)
    try:
        max_reorder, max_buffering = _read_vui(reader) if reader.flag() else (None, None)
    except BitstreamError:
        max_reorder = max_buffering = None
    return SequenceParameters(
        sps_id=sps_id,
        profile_idc=profile_idc,
        constraint_flags=constraint_flags,
        level_idc=level_idc,
        chroma_format_idc=chroma_format_idc,
        separate_colour_planes=separate_planes,
        bit_depth=bit_depth,
        lossless_allowed=lossless,
        frame_number_bits=frame_number_bits,
        order_count_type=order_type,
        order_count_bits=order_bits,
        order_deltas_are_zero=deltas_are_zero,
        max_reference_frames=max_references,
        frame_number_gaps_allowed=gaps_allowed,
        coded_size=(width, height),
        display_rect=rect,
        frames_only=frames_only,
        macroblock_adaptive=adaptive,
        max_reorder_frames=max_reorder,
        max_frame_buffering=max_buffering,
    )


def _skip_scaling_lists(reader: BitReader, *, num_lists: int) -> None:
    """Read over scaling_list() of clause 7.3.2.1.1.1."""
    for index in range(num_lists):
        if not reader.flag():
            continue
        last = 8
        for _ in range(16 if index < 6 else 64):
            last = (last + reader.signed("delta_scale")) % 256
            if last == 0:
                break


def _read_order_count(reader: BitReader) -> tuple[int, int, bool]:
    """Return pic_order_cnt_type, the bits of its lsb, and whether deltas are left out."""
    order_type = reader.unsigned("pic_order_cnt_type", limit=2)
    if order_type == 0:
        return 0, 4 + reader.unsigned("log2_max_pic_order_cnt_lsb_minus4", limit=12), False
    if order_type == 2:
        return 2, 0, False
    deltas_are_zero = reader.flag()
    reader.signed("offset_for_non_ref_pic")
    reader.signed("offset_for_top_to_bottom_field")
    for _ in range(reader.unsigned("num_ref_frames_in_pic_order_cnt_cycle", limit=255)):
        reader.signed("offset_for_ref_frame")
    return 1, 0, deltas_are_zero


def _read_size(reader: BitReader) -> tuple[int, int, bool, bool]:
    """Return coded width and height in pixels, frame_mbs_only and MBAFF flags."""
    limit = _MAX_SIDE_IN_MACROBLOCKS - 1
    width = 16 * (1 + reader.unsigned("pic_width_in_mbs_minus1", limit=limit))
    height = 16 * (1 + reader.unsigned("pic_height_in_map_units_minus1", limit=limit))
    frames_only = reader.flag()
    adaptive = not frames_only and reader.flag()
    reader.flag()  # direct_8x8_inference_flag concerns B-frames alone
    return width, height if frames_only else 2 * height, frames_only, adaptive


def _read_cropping(
    reader: BitReader, size: tuple[int, int], chroma_array_type: int, *, frames_only: bool
) -> tuple[int, int, int, int]:
    """Return the display rectangle (equations 7-19 to 7-22)."""
    if not reader.flag():
        return (0, 0, *size)
    unit_x = 2 if chroma_array_type in (1, 2) else 1
    unit_y = (2 if chroma_array_type == 1 else 1) * (1 if frames_only else 2)
    left, right = (unit_x * reader.unsigned("frame_crop_offset") for _ in range(2))
    top, bottom = (unit_y * reader.unsigned("frame_crop_offset") for _ in range(2))
    width, height = size[0] - left - right, size[1] - top - bottom
    if width <= 0 or height <= 0:
        raise BitstreamError("the sequence parameter set crops the whole picture away")
    return left, top, width, height


def _read_vui(reader: BitReader) -> tuple[int | None, int | None]:
    """Return max_num_reorder_frames and max_dec_frame_buffering (clause E.1.1)."""
    if reader.flag() and reader.bits(8) == _EXTENDED_SAR:
        reader.bits(32)
    if reader.flag():  # overscan_info_present_flag
        reader.flag()
    if reader.flag():  # video_signal_type_present_flag
        reader.bits(4)
        if reader.flag():
            reader.bits(24)
    if reader.flag():  # chroma_loc_info_present_flag
        reader.unsigned("chroma_sample_loc_type_top_field")
        reader.unsigned("chroma_sample_loc_type_bottom_field")
    if reader.flag():  # timing_info_present_flag
        reader.bits(65)
    has_rates = False
    for _ in range(2):  # NAL, then VCL hypothetical reference decoder
        if reader.flag():
            has_rates = True
            _skip_hrd(reader)
    if has_rates:
        reader.flag()
    reader.flag()  # pic_struct_present_flag
    if not reader.flag():  # bitstream_restriction_flag
        return None, None
    reader.flag()
    for name in ("max_bytes", "max_bits", "log2_max_mv_horizontal", "log2_max_mv_vertical"):
        reader.unsigned(name)
    max_reorder = reader.unsigned("max_num_reorder_frames", limit=16)
    return max_reorder, reader.unsigned("max_dec_frame_buffering", limit=16)


def _skip_hrd(reader: BitReader) -> None:
    """Read over hrd_parameters() (clause E.1.2)."""
    count = 1 + reader.unsigned("cpb_cnt_minus1", limit=31)
    reader.bits(8)
    for _ in range(count):
        reader.unsigned("bit_rate_value_minus1")
        reader.unsigned("cpb_size_value_minus1")
        reader.flag()
    reader.bits(20)


def parse_picture_parameters(unit: bytes) -> PictureParameters:
    """Parse a PPS (clause 7.3.2.2); the scaling lists behind its last flag are left unread.

    Args:
        unit: The NAL unit with its header byte.

    Raises:
        BitstreamError: If it is cut, a field is beyond the standard's limits, or it has slice
            groups (flexible macroblock ordering), which FFmpeg does not decode.
    """
    reader = BitReader(unescape(unit, limit=_MAX_PARAMETER_BYTES), what="the picture parameter set")
    pps_id = reader.unsigned("pic_parameter_set_id", limit=255)
    sps_id = reader.unsigned("seq_parameter_set_id", limit=31)
    is_cabac = reader.flag()
    order_present = reader.flag()
    if reader.unsigned("num_slice_groups_minus1", limit=7) > 0:
        raise BitstreamError("the picture parameter set has slice groups, which are not audited")
    references = tuple(
        1 + reader.unsigned(f"num_ref_idx_l{index}_default_active_minus1", limit=31)
        for index in range(2)
    )
    weighted_pred, weighted_bipred_idc = reader.flag(), reader.bits(2)
    for name in ("pic_init_qp_minus26", "pic_init_qs_minus26", "chroma_qp_index_offset"):
        reader.signed(name)
    deblocking_control = reader.flag()
    reader.flag()  # constrained_intra_pred_flag
    redundant = reader.flag()
    return PictureParameters(
        pps_id=pps_id,
        sps_id=sps_id,
        is_cabac=is_cabac,
        order_in_frame_present=order_present,
        num_references=(references[0], references[1]),
        weighted_pred=weighted_pred,
        weighted_bipred_idc=weighted_bipred_idc,
        deblocking_control_present=deblocking_control,
        redundant_count_present=redundant,
        transform_8x8=reader.has_more_data() and reader.flag(),
    )


class EncoderNote(NamedTuple):
    """What x264 writes about itself into the stream's first message."""

    name: str
    """Such as ``x264 - core 165 r3222``."""
    options: str
    """Such as ``cabac=1 ref=3 ... analyse=0x3:0x113 ...``."""


def find_encoder_note(unit: bytes) -> EncoderNote | None:
    """Return x264's own message out of a supplemental NAL unit, or None (clauses 7.3.2.3, D.1).

    Never raises: a damaged message is none.
    """
    rbsp = unescape(unit, limit=_MAX_MESSAGE_BYTES)
    position = 0
    while position + 2 < len(rbsp):
        kind, position = _read_message_number(rbsp, position)
        size, position = _read_message_number(rbsp, position)
        payload = rbsp[position : position + size]
        if kind == _USER_DATA_UNREGISTERED and payload[:16] == _X264_UUID:
            text = payload[16:].decode("ascii", "replace").rstrip("\0")
            text = re.sub(r"[^ -~]", "?", text)
            name, _, options = text.partition(" - options: ")
            return EncoderNote(name.partition(" - H.264")[0], options)
        position += size
    return None


def _read_message_number(rbsp: bytes, position: int) -> tuple[int, int]:
    """Return a payload type or size, in bytes of 255 and one rest, and where it ends."""
    value = 0
    while position < len(rbsp):
        value += rbsp[position]
        position += 1
        if rbsp[position - 1] != 255:
            break
    return value, position
