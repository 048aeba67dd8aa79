"""Slice headers of H.264, read at a small share of decoding's cost.

Names with underscores are those of ITU-T H.264 (2021-08), clauses 7.3.3 and 7.4.3. Nothing is
copied but the first bytes of each slice, and nothing here raises on damaged packets.

Dimensions: N bytes of a packet, U its NAL units, S its slices.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from gopstream.pipeline.h264_syntax import PictureParameters, SequenceParameters

Bytes = npt.NDArray[np.uint8]
Table = npt.NDArray[np.int64]

IDR: Final = 5
DATA_PARTITION: Final = 2
# Enough for the header of nearly every slice; the longest that the standard allows (32 weights
# for each of two lists) stays below the second.
_SHORT, LONGEST_HEADER = 64, 4096
_MAX_REFERENCES: Final = 32

# Columns of the table of parameters.
_VALID, _SEPARATE, _NUMBER_BITS, _FRAMES_ONLY, _ORDER_TYPE, _ORDER_BITS, _NO_DELTAS = range(7)
_ORDER_IN_FRAME, _REDUNDANT, _NUM_L0, _NUM_L1, _WEIGHTED, _BI_WEIGHTED, _CABAC = range(7, 14)
_DEBLOCKING_CONTROL, _HAS_CHROMA, NUM_PARAMETERS = range(14, 17)


class SliceHeader(NamedTuple):
    """The fields of a slice header that tell pictures apart, and what their decoding takes."""

    unit_kind: int
    """nal_unit_type: 1, 2 (data partition A) or 5 (IDR)."""
    reference_idc: int
    fault: int
    """0 if it was read; otherwise the fields below are not to be used."""
    first_macroblock: int
    kind: int
    """slice_type modulo 5: 0 P, 1 B, 2 I, 3 SP, 4 SI."""
    pps_id: int
    frame_number: int
    is_field: int
    is_bottom: int
    idr_pic_id: int
    order_lsb: int
    order_delta_bottom: int
    order_delta_0: int
    order_delta_1: int
    redundant_count: int
    num_references_l0: int
    num_references_l1: int
    is_reordered: int
    """1 if a reference list is modified."""
    has_weights: int
    """1 if the table of weights holds one that changes the prediction."""
    marking: int
    """Bit 0: references are marked otherwise than by the sliding window; bit 1: all are unmarked
    (memory_management_control_operation 5)."""
    deblocking_idc: int
    """disable_deblocking_filter_idc: 1 is off."""


NUM_FIELDS: Final = len(SliceHeader._fields)
(
    _UNIT_KIND,
    _REFERENCE_IDC,
    _FAULT,
    _FIRST_MACROBLOCK,
    _KIND,
    _PPS_ID,
    _FRAME_NUMBER,
    _IS_FIELD,
    _IS_BOTTOM,
    _IDR_PIC_ID,
    _ORDER_LSB,
    _DELTA_BOTTOM,
    _DELTA_0,
    _DELTA_1,
    _REDUNDANT_COUNT,
    _NUM_REFERENCES_L0,
    _NUM_REFERENCES_L1,
    _IS_REORDERED,
    _HAS_WEIGHTS,
    _MARKING,
    _DEBLOCKING_IDC,
) = range(NUM_FIELDS)
_P, _B, _I, _SP, _SI = range(5)
# States of a cursor: position in bits, number of bits, fault.
_RAN_OUT, _INVALID = 1, 2
_ANY: Final = (1 << 32) - 2


def parameter_row(pps: PictureParameters, sps: SequenceParameters) -> tuple[int, ...]:
    """Return the row of :func:`read_slices`' table of parameters for slices that name a PPS."""
    return (
        1,
        sps.separate_colour_planes,
        sps.frame_number_bits,
        sps.frames_only,
        sps.order_count_type,
        sps.order_count_bits,
        sps.order_deltas_are_zero,
        pps.order_in_frame_present,
        pps.redundant_count_present,
        *pps.num_references,
        pps.weighted_pred,
        pps.weighted_bipred_idc,
        pps.is_cabac,
        pps.deblocking_control_present,
        sps.chroma_format_idc != 0 and not sps.separate_colour_planes,
    )


@njit(cache=True)
def read_slices(
    data: Bytes, units: Table, parameters: Table, rbsp: Bytes, cursor: Table, headers: Table
) -> int:
    """Fill ``headers`` (S, fields) int64 from the units that are slices; returns how many."""
    count = 0
    for unit in range(len(units)):
        kind = units[unit, 0]
        if kind not in (1, DATA_PARTITION, IDR):
            continue
        header = headers[count]
        header[:] = 0
        header[_UNIT_KIND] = kind
        header[_REFERENCE_IDC] = units[unit, 1]
        size = units[unit, 3] - units[unit, 2]
        for limit in (_SHORT, LONGEST_HEADER):
            _unescape(data, units[unit, 2], min(size, limit), rbsp, cursor)
            _read_header(rbsp, cursor, parameters, header)
            if cursor[2] != _RAN_OUT or size <= limit:
                break
        header[_FAULT] = cursor[2]
        count += 1
    return count


@njit(cache=True)
def _unescape(data: Bytes, start: int, size: int, rbsp: Bytes, cursor: Table) -> None:
    """Copy ``size`` bytes without their emulation prevention (7.4.1) and reset the cursor."""
    length, zeros = 0, 0
    for index in range(start, start + size):
        value = data[index]
        if zeros >= 2 and value == 3:
            zeros = 0
            continue
        zeros = zeros + 1 if value == 0 else 0
        rbsp[length] = value
        length += 1
    cursor[0], cursor[1], cursor[2] = 0, 8 * length, 0


@njit(cache=True)
def _bits(rbsp: Bytes, cursor: Table, count: int) -> int:
    """Read u(count); 0 and a fault behind the end."""
    if cursor[0] + count > cursor[1]:
        cursor[0] = cursor[1]
        cursor[2] |= _RAN_OUT
        return 0
    value = 0
    for position in range(cursor[0], cursor[0] + count):
        value = value << 1 | (rbsp[position >> 3] >> (7 - (position & 7)) & 1)
    cursor[0] += count
    return value


@njit(cache=True)
def _unsigned(rbsp: Bytes, cursor: Table, limit: int) -> int:
    """Read ue(v) (clause 9.1); 0 and a fault if it is above ``limit`` or no code at all."""
    zeros = 0
    while cursor[2] == 0 and _bits(rbsp, cursor, 1) == 0:
        zeros += 1
        if zeros > 31:
            cursor[2] |= _INVALID
    if cursor[2] != 0:
        return 0
    value = (1 << zeros) - 1 + _bits(rbsp, cursor, zeros)
    if value > limit:
        cursor[2] |= _INVALID
        return 0
    return value


@njit(cache=True)
def _signed(rbsp: Bytes, cursor: Table) -> int:
    """Read se(v) (clause 9.1.1)."""
    code = _unsigned(rbsp, cursor, _ANY)
    return (code + 1) // 2 if code % 2 else -(code // 2)


@njit(cache=True)
def _read_header(rbsp: Bytes, cursor: Table, parameters: Table, header: Table) -> None:
    """Read slice_header() (7.3.3) into one row; a fault is left in the cursor."""
    header[_FIRST_MACROBLOCK] = _unsigned(rbsp, cursor, _ANY)
    kind = _unsigned(rbsp, cursor, 9) % 5
    header[_KIND] = kind
    header[_PPS_ID] = _unsigned(rbsp, cursor, 255)
    known = parameters[header[_PPS_ID]]
    if cursor[2] == 0 and known[_VALID] == 0:
        cursor[2] = _INVALID
    if cursor[2] != 0:
        return
    _read_order(rbsp, cursor, known, header)
    if kind == _B:
        _bits(rbsp, cursor, 1)  # direct_spatial_mv_pred_flag
    if kind not in (_I, _SI):
        _read_references(rbsp, cursor, known, header)
        if (known[_WEIGHTED] and kind != _B) or (known[_BI_WEIGHTED] == 1 and kind == _B):
            _read_weights(rbsp, cursor, known, header)
    if header[_REFERENCE_IDC] != 0:
        _read_marking(rbsp, cursor, header)
    if known[_CABAC] and kind not in (_I, _SI):
        _unsigned(rbsp, cursor, 2)  # cabac_init_idc
    _signed(rbsp, cursor)  # slice_qp_delta
    if kind == _SP:
        _bits(rbsp, cursor, 1)
    if kind in (_SP, _SI):
        _signed(rbsp, cursor)
    if known[_DEBLOCKING_CONTROL]:
        header[_DEBLOCKING_IDC] = _unsigned(rbsp, cursor, 2)


@njit(cache=True)
def _read_order(rbsp: Bytes, cursor: Table, known: Table, header: Table) -> None:
    """Read what places the picture among others: colour_plane_id to redundant_pic_cnt."""
    if known[_SEPARATE]:
        _bits(rbsp, cursor, 2)
    header[_FRAME_NUMBER] = _bits(rbsp, cursor, known[_NUMBER_BITS])
    if not known[_FRAMES_ONLY]:
        header[_IS_FIELD] = _bits(rbsp, cursor, 1)
        if header[_IS_FIELD]:
            header[_IS_BOTTOM] = _bits(rbsp, cursor, 1)
    if header[_UNIT_KIND] == IDR:
        header[_IDR_PIC_ID] = _unsigned(rbsp, cursor, 65535)
    has_second = known[_ORDER_IN_FRAME] and not header[_IS_FIELD]
    if known[_ORDER_TYPE] == 0:
        header[_ORDER_LSB] = _bits(rbsp, cursor, known[_ORDER_BITS])
        if has_second:
            header[_DELTA_BOTTOM] = _signed(rbsp, cursor)
    if known[_ORDER_TYPE] == 1 and not known[_NO_DELTAS]:
        header[_DELTA_0] = _signed(rbsp, cursor)
        if has_second:
            header[_DELTA_1] = _signed(rbsp, cursor)
    if known[_REDUNDANT]:
        header[_REDUNDANT_COUNT] = _unsigned(rbsp, cursor, 127)


@njit(cache=True)
def _read_references(rbsp: Bytes, cursor: Table, known: Table, header: Table) -> None:
    """Read num_ref_idx_active and ref_pic_list_modification() (7.3.3.1)."""
    is_b = header[_KIND] == _B
    header[_NUM_REFERENCES_L0] = known[_NUM_L0]
    header[_NUM_REFERENCES_L1] = known[_NUM_L1] if is_b else 0
    if _bits(rbsp, cursor, 1):
        header[_NUM_REFERENCES_L0] = 1 + _unsigned(rbsp, cursor, _MAX_REFERENCES - 1)
        if is_b:
            header[_NUM_REFERENCES_L1] = 1 + _unsigned(rbsp, cursor, _MAX_REFERENCES - 1)
    for _ in range(2 if is_b else 1):
        if _bits(rbsp, cursor, 1) == 0:
            continue
        # At most one operation per reference, and the end (7.4.3.1).
        for _ in range(_MAX_REFERENCES + 1):
            if _unsigned(rbsp, cursor, 3) == 3 or cursor[2] != 0:
                break
            header[_IS_REORDERED] = 1
            _unsigned(rbsp, cursor, _ANY)


@njit(cache=True)
def _read_weights(rbsp: Bytes, cursor: Table, known: Table, header: Table) -> None:
    """Read pred_weight_table() (7.3.3.2); a weight of 1 without an offset changes nothing."""
    luma_one = 1 << _unsigned(rbsp, cursor, 7)
    chroma_one = 1 << _unsigned(rbsp, cursor, 7) if known[_HAS_CHROMA] else 0
    for count in (header[_NUM_REFERENCES_L0], header[_NUM_REFERENCES_L1]):
        for _ in range(count):
            if _bits(rbsp, cursor, 1):
                if _signed(rbsp, cursor) != luma_one:
                    header[_HAS_WEIGHTS] = 1
                if _signed(rbsp, cursor) != 0:
                    header[_HAS_WEIGHTS] = 1
            if known[_HAS_CHROMA] and _bits(rbsp, cursor, 1):
                for _ in range(2):
                    if _signed(rbsp, cursor) != chroma_one:
                        header[_HAS_WEIGHTS] = 1
                    if _signed(rbsp, cursor) != 0:
                        header[_HAS_WEIGHTS] = 1


@njit(cache=True)
def _read_marking(rbsp: Bytes, cursor: Table, header: Table) -> None:
    """Read dec_ref_pic_marking() (7.3.3.3)."""
    if header[_UNIT_KIND] == IDR:
        _bits(rbsp, cursor, 1)
        header[_MARKING] = _bits(rbsp, cursor, 1)  # long_term_reference_flag
        return
    if _bits(rbsp, cursor, 1) == 0:
        return
    # The standard sets no short limit; no stream can need more operations than fields.
    for _ in range(2 * _MAX_REFERENCES + 2):
        operation = _unsigned(rbsp, cursor, 6)
        if operation == 0 or cursor[2] != 0:
            return
        header[_MARKING] |= 2 if operation == 5 else 1
        if operation != 5:
            _unsigned(rbsp, cursor, _ANY)
        if operation == 3:
            _unsigned(rbsp, cursor, _ANY)
    cursor[2] = _INVALID
