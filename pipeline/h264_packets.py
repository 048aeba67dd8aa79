"""NAL units of H.264 packets, found without copying them.

The byte stream with start codes is that of ITU-T H.264 (2021-08), annex B; the record in front of
an MP4 or Matroska stream (``avcC``), and the lengths that go with it, are those of
ISO/IEC 14496-15, clause 5.3.3.1.

Dimensions: N bytes of a packet, U its NAL units.
"""

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.h264_slices import (
    LONGEST_HEADER,
    NUM_FIELDS,
    NUM_PARAMETERS,
    Bytes,
    SliceHeader,
    Table,
    parameter_row,
    read_slices,
)
from gopstream.pipeline.h264_syntax import PictureParameters, SequenceParameters

SUPPLEMENT: Final = 6
SEQUENCE_PARAMETERS: Final = 7
PICTURE_PARAMETERS: Final = 8
DAMAGED: Final = 1 << 32
"""In the kinds that a packet holds: a NAL unit that is cut or broken, or no unit at all."""

MAX_PICTURE_PARAMETERS: Final = 256
# The standard allows fewer slices, and so only noise has as many start codes in one packet.
_FIRST_UNITS, _MAX_UNITS = 32, 32 * 4**5


class ParameterUnits(NamedTuple):
    """What stands in front of a stream: its parameter sets, and how packets are cut."""

    units: list[bytes]
    """NAL units, each with its header byte, still escaped."""
    length_size: int
    """Bytes of the length in front of each NAL unit; 0 for start codes (annex B)."""


def split_extradata(extradata: bytes) -> ParameterUnits:
    """Split a container's header data of an H.264 stream into NAL units.

    Raises:
        BitstreamError: If it is an ``avcC`` record that is cut.
    """
    if extradata[:1] != b"\1":
        units = [unit.rstrip(b"\0") for unit in extradata.split(b"\0\0\1")[1:]]
        return ParameterUnits([unit for unit in units if unit], 0)
    units = []
    position = 5
    for mask in (0x1F, 0xFF):  # at most 31 SPS, then at most 255 PPS
        if position >= len(extradata):
            raise BitstreamError("the avcC record ends too early")
        count = extradata[position] & mask
        position += 1
        for _ in range(count):
            size = int.from_bytes(extradata[position : position + 2], "big")
            unit = extradata[position + 2 : position + 2 + size]
            if len(unit) < size or size == 0:
                raise BitstreamError("the avcC record ends inside a parameter set")
            units.append(unit)
            position += 2 + size
    return ParameterUnits(units, (extradata[4] & 3) + 1)


class PacketReader:
    """Reads packet after packet of one stream; keeps its tables from one to the next."""

    __slots__ = ("_cursor", "_headers", "_parameters", "_rbsp", "_units", "length_size")

    def __init__(self, *, length_size: int) -> None:
        """Start without parameter sets; ``length_size`` is that of :class:`ParameterUnits`."""
        self.length_size = length_size
        self._parameters = np.zeros((MAX_PICTURE_PARAMETERS, NUM_PARAMETERS), np.int64)
        self._units = np.zeros((_FIRST_UNITS, 4), np.int64)
        self._headers = np.zeros((_FIRST_UNITS, NUM_FIELDS), np.int64)
        self._cursor = np.zeros(3, np.int64)
        self._rbsp = np.zeros(LONGEST_HEADER + 1, np.uint8)

    def set_parameters(self, pps: PictureParameters, sps: SequenceParameters) -> None:
        """Read the slices that name this PPS with these parameters from now on."""
        self._parameters[pps.pps_id] = parameter_row(pps, sps)

    def find_units(self, packet: Bytes) -> tuple[int, int]:
        """Find the NAL units of a packet, which the other methods then speak of.

        Args:
            packet: (N,) bytes, not writable (two kinds of array would be compiled twice).

        Returns:
            Number of units, and the kinds among them: bit k for nal_unit_type k, and
            :data:`DAMAGED`.
        """
        size = 0 if _starts_with_code(packet) else self.length_size
        count, kinds = _find_units(packet, size, self._units)
        while count == len(self._units) < _MAX_UNITS:  # full, and perhaps cut off
            self._units = np.zeros((4 * count, 4), np.int64)
            self._headers = np.zeros((4 * count, NUM_FIELDS), np.int64)
            count, kinds = _find_units(packet, size, self._units)
        return int(count), int(kinds) | (DAMAGED if count == _MAX_UNITS else 0)

    def units_of(
        self, packet: Bytes, count: int, *, kinds: tuple[int, ...]
    ) -> list[tuple[int, bytes]]:
        """Copy the units of some kinds out of a packet as (nal_unit_type, unit with header)."""
        return [
            (kind, packet[start - 1 : end].tobytes())
            for kind, _, start, end in self._units[:count].tolist()
            if kind in kinds
        ]

    def slice_headers(self, packet: Bytes, count: int) -> list[SliceHeader]:
        """Read the headers of a packet's slices (clause 7.3.3, as far as deblocking)."""
        num_slices = read_slices(
            packet, self._units[:count], self._parameters, self._rbsp, self._cursor, self._headers
        )
        return [SliceHeader._make(row) for row in self._headers[:num_slices].tolist()]


def _starts_with_code(packet: Bytes) -> bool:
    """Tell whether a packet begins with a start code although its stream counts lengths.

    Read as a length, the four bytes would make a unit of one byte; FFmpeg looks at what follows
    (libavcodec/h264dec.c, decode_nal_units).
    """
    if len(packet) <= 8 or packet[0] or packet[1] or packet[2] or packet[3] != 1:
        return False
    return int.from_bytes(packet[5:9].tobytes(), "big") > len(packet)


@njit(cache=True)
def _find_units(data: Bytes, length_size: int, units: Table) -> tuple[int, int]:
    """Fill ``units`` (U, 4) int64 with nal_unit_type, nal_ref_idc, start and end of payload.

    Returns the number of units, and their kinds as bits.
    """
    count, kinds, position = 0, 0, 0
    while position < len(data) and count < len(units):
        if length_size == 0:
            start = _next_code(data, position) + 3
            end = _next_code(data, start)
            position = end
            while end > start and data[end - 1] == 0:
                end -= 1
        else:
            start = position + length_size
            end = 0
            for index in range(position, min(start, len(data))):
                end = end << 8 | data[index]
            end += start
            position = end
            if end > len(data):
                kinds |= 1 << 32
        if end > len(data) or start >= len(data):
            break
        if start == end:
            continue
        kinds |= (1 << 32) if data[start] & 0x80 else 1 << (data[start] & 31)
        units[count, 0] = data[start] & 31
        units[count, 1] = data[start] >> 5 & 3
        units[count, 2] = start + 1
        units[count, 3] = end
        count += 1
    return count, kinds if count else kinds | 1 << 32


@njit(cache=True)
def _next_code(data: Bytes, position: int) -> int:
    """Return where the next start code begins, or the end of the data."""
    while position + 2 < len(data):
        if data[position + 2] > 1:
            position += 3
        elif data[position + 2] == 1 and data[position + 1] == 0 and data[position] == 0:
            return position
        else:
            position += 1
    return len(data)
