"""At which packets an H.264 decoder can begin, and show whole pictures at once.

A container's key flag is not enough: FFmpeg also sets it where a gradual refresh begins, which is
complete only many pictures later. Clause numbers are those of ITU-T H.264 (2021-08).
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.h264_packets import SUPPLEMENT, PacketReader, split_extradata
from gopstream.pipeline.h264_slices import IDR
from gopstream.pipeline.h264_syntax import BitReader, unescape

_RECOVERY_POINT: Final = 6
_MAX_MESSAGE_BYTES: Final = 1 << 12


class EntryFinder:
    """Judges the packets of one stream."""

    def __init__(self, extradata: bytes | None) -> None:
        """Start with the container's header data of the stream."""
        length_size = 0
        if extradata:
            with suppress(BitstreamError):  # the decoder will say more of it
                length_size = split_extradata(extradata).length_size
        self._reader = PacketReader(length_size=length_size)

    def is_entry(self, data: bytes) -> bool:
        """Tell whether all that is shown from this picture on decodes without what comes before.

        That is so for an IDR picture (7.4.1.2.4), and for one with a recovery point message whose
        ``recovery_frame_cnt`` is 0 (D.2.8). Others may be one, but do not say so.
        """
        packet = np.frombuffer(data, np.uint8)
        packet.setflags(write=False)
        count, kinds = self._reader.find_units(packet)
        if kinds >> IDR & 1:
            return True
        units = self._reader.units_of(packet, count, kinds=(SUPPLEMENT,))
        return any(
            kind == _RECOVERY_POINT and _recovers_at_once(payload)
            for _, unit in units
            for kind, payload in read_messages(unit)
        )


def _recovers_at_once(payload: bytes) -> bool:
    try:
        return BitReader(payload, what="recovery point").unsigned("recovery_frame_cnt") == 0
    except BitstreamError:
        return False


def read_messages(unit: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield payloadType and payload of a supplemental NAL unit (7.3.2.3); a cut one ends it."""
    rbsp = unescape(unit, limit=_MAX_MESSAGE_BYTES)
    position = 0
    while position + 2 < len(rbsp):
        numbers = []
        for _ in range(2):
            value = 0
            while position < len(rbsp) and rbsp[position] == 255:
                value += 255
                position += 1
            value += rbsp[position] if position < len(rbsp) else 0
            position += 1
            numbers.append(value)
        yield numbers[0], rbsp[position : position + numbers[1]]
        position += numbers[1]
