"""Byte surgery on video files: what no encoder writes, but disks, networks and liars do.

Every function takes a file's bytes and returns changed ones; nothing is random that is not given
by a seed.
"""

import re
from collections.abc import Callable
from typing import Final

import numpy as np

_START_CODE: Final = b"\x00\x00\x01"
_IDR, _SPS = 5, 7


def cut(content: bytes, share: float) -> bytes:
    """Keep only the beginning of a file."""
    return content[: round(len(content) * share)]


def noise(content: bytes, *, start: float, length: int, seed: int) -> bytes:
    """Overwrite ``length`` bytes from the share ``start`` of the file on."""
    first = round(len(content) * start)
    random = np.random.default_rng(seed).integers(0, 256, length, np.uint8).tobytes()
    return content[:first] + random[: len(content) - first] + content[first + length :]


def zeros(content: bytes, *, start: float, length: int) -> bytes:
    """Zero ``length`` bytes from the share ``start`` of the file on: a lost sector."""
    first = round(len(content) * start)
    length = min(length, len(content) - first)
    return content[:first] + bytes(length) + content[first + length :]


def split_units(stream: bytes) -> list[bytes]:
    """Split a byte stream (ITU-T H.264, annex B) into its units, start codes included."""
    starts = [match.start() for match in re.finditer(b"\x00?\x00\x00\x01", stream, re.DOTALL)]
    return [stream[a:b] for a, b in zip(starts, [*starts[1:], len(stream)], strict=True)]


def unit_type(unit: bytes) -> int:
    """Return nal_unit_type (clause 7.3.1) of a unit with its start code."""
    return unit[unit.index(_START_CODE) + 3] & 31


def drop_units(stream: bytes, drop: Callable[[int, int], bool]) -> bytes:
    """Drop the units for which ``drop(type, number among those of its type)`` holds."""
    kept, seen = [], dict.fromkeys(range(32), 0)
    for unit in split_units(stream):
        kind = unit_type(unit)
        if not drop(kind, seen[kind]):
            kept.append(unit)
        seen[kind] += 1
    return b"".join(kept)


def drop_idr(stream: bytes, *, only_first: bool) -> bytes:
    """Drop the key pictures of an H.264 stream, or the first of them."""
    return drop_units(stream, lambda kind, number: kind == _IDR and not (only_first and number))


def giant_sps(stream: bytes, *, width: int, height: int) -> bytes:
    """Let the first SPS of a baseline stream claim another size (clause 7.3.2.1.1).

    Args:
        stream: Annex B.
        width: In pixels, a multiple of 16.
        height: In pixels, a multiple of 16.
    """
    bits = "".join(
        [
            f"{66:08b}{0xC0:08b}{62:08b}",  # profile_idc, constraint flags, level_idc
            _exp_golomb(0),  # seq_parameter_set_id
            _exp_golomb(0),  # log2_max_frame_num_minus4
            _exp_golomb(2),  # pic_order_cnt_type
            _exp_golomb(1),  # max_num_ref_frames
            "0",  # gaps_in_frame_num_value_allowed_flag
            _exp_golomb(width // 16 - 1),
            _exp_golomb(height // 16 - 1),
            "1",  # frame_mbs_only_flag
            "1",  # direct_8x8_inference_flag
            "0",  # frame_cropping_flag
            "0",  # vui_parameters_present_flag
            "1",  # rbsp_stop_one_bit
        ]
    )
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    escaped = re.sub(rb"\x00\x00([\x00-\x03])", b"\x00\x00\x03\\1", payload)
    units = [
        b"\x00\x00\x00\x01\x67" + escaped if unit_type(unit) == _SPS else unit
        for unit in split_units(stream)
    ]
    return b"".join(units)


def _exp_golomb(value: int) -> str:
    """Return ue(v) of clause 9.1 as a string of bits."""
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def set_edits(content: bytes, edits: list[tuple[int, int]]) -> bytes:
    """Give an MP4 whose index is at its end another edit list (ISO/IEC 14496-12, 8.6.6).

    Args:
        content: The file, with one track that has an edit list.
        edits: Duration in the movie's time scale and start in the track's, of each part.
    """
    body = b"".join(
        duration.to_bytes(4, "big") + start.to_bytes(4, "big") + b"\x00\x01\x00\x00"
        for duration, start in edits
    )
    elst = b"elst" + bytes(4) + len(edits).to_bytes(4, "big") + body
    elst = (len(elst) + 4).to_bytes(4, "big") + elst
    edts = (len(elst) + 8).to_bytes(4, "big") + b"edts" + elst
    start = content.index(b"edts") - 4
    old_size = int.from_bytes(content[start : start + 4], "big")
    content = content[:start] + edts + content[start + old_size :]
    for name in (b"moov", b"trak"):
        place = content.index(name) - 4
        size = int.from_bytes(content[place : place + 4], "big") + len(edts) - old_size
        content = content[:place] + size.to_bytes(4, "big") + content[place + 4 :]
    return content


def change_box(
    content: bytes, name: bytes, offset: int, value: int, *, size: int = 4, number: int = 0
) -> bytes:
    """Overwrite a big-endian field of an MP4 box (ISO/IEC 14496-12).

    Args:
        content: The file.
        name: The box's four letters.
        offset: Of the field from the end of the name.
        value: New value.
        size: Of the field in bytes.
        number: Which of several boxes of the name.

    Raises:
        ValueError: If there is no such box.
    """
    places = [match.end() for match in re.finditer(re.escape(name), content)]
    if number >= len(places):
        raise ValueError(f"box {name.decode()} must occur {number + 1} times, got {len(places)}")
    start = places[number] + offset
    return content[:start] + value.to_bytes(size, "big") + content[start + size :]
