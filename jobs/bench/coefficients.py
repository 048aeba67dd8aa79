"""Which macroblocks carry coefficients, asked from the decoder by a change of its dequantisation.

FFmpeg prints no coded block pattern. But the scaling lists of a picture parameter set (PPS, ITU-T
H.264, clauses 7.3.2.2 and 8.5.9) decide how large coefficients become and nothing else: neither
parsing, nor vectors, nor prediction. A P-frame is therefore decoded twice, after the same
references: as it is, and with a PPS in front of it whose weights are 255 instead of 16. An inter
macroblock that comes out the same has no coefficients, or none that show: its samples *are* the
prediction, skipped or not. No predictor of ours is asked.

Dimensions: R x C macroblocks of a frame.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt

from gopstream.pipeline.decode import coded_planes, decoder_options
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.h264_packets import PICTURE_PARAMETERS, split_extradata
from gopstream.pipeline.h264_syntax import BitReader, unescape
from gopstream.pipeline.probe import best_video_stream, open_container

_START_CODE: Final = b"\0\0\0\1"
# The fields of a PPS without slice groups (clause 7.3.2.2): u Exp-Golomb, s signed, else bits.
_FIELDS_BEFORE_LISTS: Final = "uu11uuu12sss1111"
# scaling_list(): the first weight is 8 - 9 modulo 256, then "all others are the same".
_HEAVY_LIST: Final = "1" + "000010011" + "010"
_NUM_LISTS: Final = {"0": 6, "1": 8}
"""By transform_8x8_mode_flag."""


class Unchanged(NamedTuple):
    """Macroblocks of one frame that another dequantisation leaves as they are."""

    y: npt.NDArray[np.bool_]
    """(R, C); all False in an I-frame."""
    cb_cr: npt.NDArray[np.bool_]
    """(R, C); all False in an I-frame."""


def unchanged_macroblocks(stream_path: Path) -> Iterator[Unchanged]:
    """Yield, frame by frame, which macroblocks do not change with the scaling lists.

    Args:
        stream_path: A canonical stream: GOPs that each begin with an instantaneous refresh, no
            B-frames, no deblocking, parameter sets in the container's header.

    Raises:
        BitstreamError: If the stream's head is not that of a canonical one.
    """
    with open_container(stream_path) as container:
        stream = best_video_stream(container, stream_path)
        extradata = stream.codec_context.extradata or b""
        packets = [packet for packet in container.demux(stream) if packet.size]
        coded = [bytes(packet) for packet in packets]
        starts = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    units, length_size = split_extradata(extradata)
    heads = [unit for unit in units if unit[0] & 31 == PICTURE_PARAMETERS]
    if length_size != 0 or len(heads) != 1 or starts[:1] != [0]:
        raise BitstreamError(
            f"{stream_path.name}: a canonical stream has start codes and one picture parameter "
            f"set, and begins with a key frame; got lengths of {length_size} bytes, {len(heads)} "
            f"sets and key frames at {starts[:3]}"
        )
    heavy = _START_CODE + with_heavy_weights(heads[0])
    for start, end in zip(starts, [*starts[1:], len(coded)], strict=True):
        yield from _unchanged_of_gop(coded[start:end], extradata, heavy)


def with_heavy_weights(unit: bytes) -> bytes:
    """Return a picture parameter set with 255 for each weight of each scaling list.

    Args:
        unit: The NAL unit with its header byte; it must have no lists yet.

    Raises:
        BitstreamError: If it has slice groups or scaling lists, or ends before the latter.
    """
    reader = BitReader(unescape(unit, limit=len(unit)), what="the picture parameter set")
    written = ""
    for index, field in enumerate(_FIELDS_BEFORE_LISTS):
        if field in "us":
            value = reader.unsigned("a field")
            if index == 4 and value > 0:
                raise BitstreamError("the picture parameter set has slice groups")
            written += _golomb(value)
        else:
            written += f"{reader.bits(int(field)):0{field}b}"
    if reader.flag():
        raise BitstreamError("the picture parameter set has scaling lists already")
    second_offset = _golomb(reader.unsigned("second_chroma_qp_index_offset"))
    written += "1" + _HEAVY_LIST * _NUM_LISTS[written[-1]] + second_offset + "1"
    written += "0" * (-len(written) % 8)
    payload = int(written, 2).to_bytes(len(written) // 8, "big")
    return unit[:1] + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)


def _golomb(code: int) -> str:
    """Return ue(v) of a code number (clause 9.1)."""
    digits = f"{code + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _unchanged_of_gop(
    packets: Sequence[bytes], extradata: bytes, heavy: bytes
) -> Iterator[Unchanged]:
    pictures = _decode(packets, extradata)
    if len(pictures) != len(packets):
        raise BitstreamError(f"{len(packets)} packets of a GOP gave {len(pictures)} pictures")
    none = np.zeros((pictures[0].y.shape[0] // 16, pictures[0].y.shape[1] // 16), np.bool_)
    yield Unchanged(none, none)
    for index in range(1, len(packets)):
        changed = [*packets[:index], heavy + packets[index]]
        last = _decode(changed, extradata)[-1]
        same = [
            same_macroblocks(plane, other, side=side)
            for plane, other, side in zip(pictures[index], last, (16, 8, 8), strict=True)
        ]
        yield Unchanged(same[0], same[1] & same[2])


def _decode(packets: Sequence[bytes], extradata: bytes) -> list[Planes]:
    """Decode packets with a decoder of their own; the planes keep their pictures alive."""
    context = av.CodecContext.create("h264", "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_type = "NONE"
    context.options = decoder_options(with_vectors=False)
    context.extradata = extradata
    pictures = []
    for index, content in enumerate(packets):
        packet = av.Packet(content)
        packet.pts = packet.dts = index
        pictures += context.decode(packet)
    pictures += context.decode(None)
    return [coded_planes(picture) for picture in pictures]


def same_macroblocks(
    plane: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8], *, side: int
) -> npt.NDArray[np.bool_]:
    """Return (R, C), True where all ``side`` x ``side`` samples of a macroblock are equal."""
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    equal = (plane == other).reshape(rows, side, columns, side)
    result: npt.NDArray[np.bool_] = equal.all(axis=(1, 3))
    return result
