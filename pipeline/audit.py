"""What a coded stream is, read from its headers alone, and whether its residual can be exact.

No picture is decoded; a stream that is damaged inside its slices shows that only to a decoder.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import av.error
import numpy as np

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.exactness import (
    CHROMA_FORMATS,
    EXPORTING_CODECS,
    foreign_reason,
    inexact_reasons,
)
from gopstream.pipeline.h264_names import level_name, profile_name
from gopstream.pipeline.h264_packets import (
    DAMAGED,
    PICTURE_PARAMETERS,
    SEQUENCE_PARAMETERS,
    SUPPLEMENT,
    PacketReader,
    split_extradata,
)
from gopstream.pipeline.h264_pictures import GroupLengths, PictureTally
from gopstream.pipeline.h264_slices import DATA_PARTITION, IDR, SliceHeader
from gopstream.pipeline.h264_syntax import (
    EncoderNote,
    PictureParameters,
    SequenceParameters,
    find_encoder_note,
    parse_picture_parameters,
    parse_sequence_parameters,
)
from gopstream.pipeline.probe import best_video_stream, demux_packets, open_container
from gopstream.pipeline.window import WindowCut, window_packets

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

    VideoPacket = Packet[VideoStream]  # generic in the stubs alone

_PARAMETERS: Final = (SEQUENCE_PARAMETERS, PICTURE_PARAMETERS, SUPPLEMENT)
_PARAMETER_BITS: Final = sum(1 << kind for kind in _PARAMETERS)
_SLICE_BITS: Final = 1 << 1 | 1 << DATA_PARTITION | 1 << IDR
_MAX_KNOWN_UNITS: Final = 64
_MAX_READ_ERRORS: Final = 100
# Bit of the second number of x264's "analyse" (X264_ANALYSE_PSUB8x8 in x264.h).
_BELOW_8X8: Final = 0x20


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAudit:
    """What the headers of a stream say. None where the codec is not H.264, or nothing is said.

    Where the SPS changes mid-stream, sizes and formats are those of the last pictures.
    """

    codec: str
    """FFmpeg's name of it."""
    exports_motion: bool
    """Whether FFmpeg's decoder of it exports motion vectors."""
    inexact_reasons: tuple[str, ...]
    """Why residual from this stream would not be what its encoder coded; empty if it would."""
    num_packets: int
    num_damaged_packets: int
    """Packets with a cut unit or a header that cannot be; damage inside slices is not seen."""
    num_pictures: int
    """Frames (two fields are one); for other codecs than H.264, packets."""
    profile: str | None = None
    level: str | None = None
    chroma: str | None = None
    """``4:0:0``, ``4:2:0``, ``4:2:2`` or ``4:4:4``."""
    bit_depth: int | None = None
    entropy_coding: str | None = None
    """``CABAC``, ``CAVLC`` or ``mixed``."""
    coded_size: tuple[int, int] | None = None
    """(width, height) in pixels, multiples of 16."""
    display_rect: tuple[int, int, int, int] | None = None
    """(x, y, width, height) inside the coded picture, by the stream; a container may crop more."""
    max_reference_frames: int | None = None
    """What the SPS reserves."""
    max_active_references: int | None = None
    """The most pictures (fields in field pictures) in a reference list of a P or B slice."""
    max_reorder_frames: int | None = None
    num_i: int | None = None
    num_p: int | None = None
    num_b: int | None = None
    num_idr: int | None = None
    pictures_per_gop: GroupLengths | None = None
    """From one I-picture to the next in decoding order; the last group only as the longest."""
    has_open_gops: bool | None = None
    """Whether a picture is shown before a non-IDR I-picture that it follows in the stream. With
    pic_order_cnt_type 1, which keeps the order elsewhere: whether a B-picture follows at once."""
    weighted_prediction: str | None = None
    """``explicit`` if a P slice has a weight other than 1 or an offset, otherwise ``none``."""
    weighted_bipred: str | None = None
    """The same for B slices, or ``implicit``: weights by distance."""
    deblocking: str | None = None
    """``on``, ``off``, or ``mixed`` over the slices."""
    interlacing: str | None = None
    """``progressive``, ``field pictures``, ``macroblock-adaptive``, or ``possible`` where the
    stream reserves fields but its pictures are frames."""
    max_slices_per_picture: int | None = None
    num_parameter_set_changes: int | None = None
    """How often pictures go on with another SPS."""
    encoder: str | None = None
    """As x264 names itself, such as ``x264 - core 165 r3222``."""
    encoder_options: str | None = None
    partitions_below_8x8: bool | None = None
    """By x264's options."""

    @property
    def is_exact(self) -> bool:
        """Whether residual is what the codec coded."""
        return not self.inexact_reasons

    @property
    def is_interlaced(self) -> bool:
        """Whether pictures are coded by fields, whole or in part."""
        return self.interlacing in ("field pictures", "macroblock-adaptive")

    @property
    def has_b_frames(self) -> bool | None:
        """Whether the stream has B-pictures."""
        return None if self.num_b is None else self.num_b > 0


class AuditBuilder:
    """Audits a stream packet by packet; damage is counted, never raised."""

    def __init__(self, codec: str, *, extradata: bytes | None = None) -> None:
        """Start a stream.

        Args:
            codec: FFmpeg's name of the codec (``av1``), not of a decoder (``libdav1d``).
            extradata: The container's header data of the stream.
        """
        self._codec = codec
        self._num_packets = 0
        self._num_damaged = 0
        self._pictures = PictureTally()
        self._reader = PacketReader(length_size=0)
        self._sequences: dict[int, SequenceParameters] = {}
        self._settings: dict[int, PictureParameters] = {}
        self._active: dict[int, tuple[SequenceParameters, PictureParameters]] = {}
        self._known: dict[bytes, SequenceParameters | PictureParameters] = {}
        self._faults: dict[str, None] = {}
        self._note: EncoderNote | None = None
        self._partitions: set[bool | None] = set()
        if extradata:
            self.add_extradata(extradata)

    def add_extradata(self, extradata: bytes) -> None:
        """Take header data, at the start or where a container changes it mid-stream."""
        if self._codec != "h264":
            return
        try:
            units, self._reader.length_size = split_extradata(extradata)
        except BitstreamError as error:
            self._add_fault(str(error))
            return
        for unit in units:
            self._add_unit(unit[0] & 31, unit)

    def add_packet(self, data: "bytes | bytearray | memoryview | VideoPacket") -> None:
        """Audit one packet, in decoding order; an empty one is passed over."""
        packet = np.frombuffer(memoryview(data), np.uint8)
        if packet.size == 0:
            return
        self._num_packets += 1
        if self._codec != "h264":
            return
        packet.setflags(write=False)
        count, kinds = self._reader.find_units(packet)
        is_sound = kinds & DAMAGED == 0
        if kinds & _PARAMETER_BITS:
            for kind, unit in self._reader.units_of(packet, count, kinds=_PARAMETERS):
                is_sound &= self._add_unit(kind, unit)
        if kinds & _SLICE_BITS:
            for header in self._reader.slice_headers(packet, count):
                is_sound &= self._add_slice(header)
        if not is_sound:
            self._num_damaged += 1

    def add_demuxed(self, packet: "VideoPacket") -> None:
        """Audit a packet as the demuxer gives it, with what the container says of it."""
        if packet.has_sidedata("new_extradata"):
            self.add_extradata(bytes(packet.get_sidedata("new_extradata")))
        self.add_packet(packet)
        if packet.is_corrupt:
            self.count_damage()

    def count_damage(self) -> None:
        """Count a packet that was lost, or that the container itself calls corrupt."""
        self._num_damaged += 1

    def finish(self) -> StreamAudit:
        """Return the audit of all packets; the builder is of no use afterwards."""
        if self._codec != "h264":
            return self._bare_audit(foreign_reason(self._codec), num_pictures=self._num_packets)
        self._pictures.finish()
        if self._pictures.sps is None:
            return self._bare_audit("no picture whose headers can be read", num_pictures=0)
        return self._h264_audit(self._pictures, self._pictures.sps)

    def _add_unit(self, kind: int, unit: bytes) -> bool:
        """Take a parameter set or message; False if it is damaged."""
        if kind == SUPPLEMENT:
            self._add_note(find_encoder_note(unit))
            return True
        known = self._known.get(unit)
        try:
            if known is None and kind == SEQUENCE_PARAMETERS:
                known = parse_sequence_parameters(unit)
            elif known is None and kind == PICTURE_PARAMETERS:
                known = parse_picture_parameters(unit)
        except BitstreamError as error:
            self._add_fault(str(error))
            return False
        if len(self._known) >= _MAX_KNOWN_UNITS:
            self._known.clear()
        if isinstance(known, SequenceParameters):
            self._known[unit] = known
            self._sequences[known.sps_id] = known
        elif isinstance(known, PictureParameters):
            self._known[unit] = known
            self._settings[known.pps_id] = known
        self._activate()
        return True

    def _activate(self) -> None:
        """Pair each PPS with its SPS, either of which may have come or changed last."""
        for pps in self._settings.values():
            sps = self._sequences.get(pps.sps_id)
            active = self._active.get(pps.pps_id)
            if sps is not None and (active is None or active[0] is not sps or active[1] is not pps):
                self._active[pps.pps_id] = (sps, pps)
                self._reader.set_parameters(pps, sps)

    def _add_slice(self, header: SliceHeader) -> bool:
        """Take a slice header; False if it cannot be one of this stream."""
        if header.fault:
            return False
        sps, pps = self._active[header.pps_id]
        width, height = sps.coded_size
        if header.first_macroblock >= width * height // 256:
            return False
        self._pictures.add(header, sps=sps, pps=pps)
        return True

    def _add_note(self, note: EncoderNote | None) -> None:
        if note is None:
            return
        self._note = self._note or note
        found = re.search(r"\banalyse=0x[0-9a-f]{1,8}:0x([0-9a-f]{1,8})\b", note.options)
        self._partitions.add(bool(int(found[1], 16) & _BELOW_8X8) if found else None)

    def _add_fault(self, message: str) -> None:
        if len(self._faults) < _MAX_KNOWN_UNITS:
            self._faults[message] = None

    def _bare_audit(self, reason: str, *, num_pictures: int) -> StreamAudit:
        return StreamAudit(
            codec=self._codec,
            exports_motion=self._codec in EXPORTING_CODECS,
            inexact_reasons=(reason, *self._faults),
            num_packets=self._num_packets,
            num_damaged_packets=self._num_damaged,
            num_pictures=num_pictures,
        )

    def _h264_audit(self, pictures: PictureTally, sps: SequenceParameters) -> StreamAudit:
        # Where several notes disagree, the stream may hold what any of them allows.
        below_8x8 = True if True in self._partitions else None
        if self._partitions == {False}:
            below_8x8 = False
        reasons = inexact_reasons(
            pictures,
            sps,
            partitions_below_8x8=below_8x8,
            num_damaged_packets=self._num_damaged,
        )
        num_i, num_p, num_b = pictures.num_by_type
        return StreamAudit(
            codec=self._codec,
            exports_motion=self._codec in EXPORTING_CODECS,
            inexact_reasons=(*reasons, *self._faults),
            num_packets=self._num_packets,
            num_damaged_packets=self._num_damaged,
            num_pictures=num_i + num_p + num_b,
            profile=profile_name(sps),
            level=level_name(sps),
            chroma=CHROMA_FORMATS[sps.chroma_format_idc],
            bit_depth=sps.bit_depth,
            entropy_coding=_entropy_coding(pictures),
            coded_size=sps.coded_size,
            display_rect=sps.display_rect,
            max_reference_frames=sps.max_reference_frames,
            max_active_references=max(pictures.max_references_p, pictures.max_references_b),
            max_reorder_frames=sps.max_reorder_frames,
            num_i=num_i,
            num_p=num_p,
            num_b=num_b,
            num_idr=pictures.num_idr,
            pictures_per_gop=pictures.group_lengths(),
            has_open_gops=pictures.has_open_groups,
            weighted_prediction="explicit" if pictures.has_weights else "none",
            weighted_bipred=_weighted_bipred(pictures),
            deblocking=_deblocking(pictures),
            interlacing=_interlacing(pictures),
            max_slices_per_picture=pictures.max_slices,
            num_parameter_set_changes=pictures.num_parameter_changes,
            encoder=self._note and self._note.name,
            encoder_options=self._note and self._note.options,
            partitions_below_8x8=below_8x8,
        )


def _entropy_coding(pictures: PictureTally) -> str:
    if len(pictures.entropy_codings) > 1:
        return "mixed"
    return "CABAC" if True in pictures.entropy_codings else "CAVLC"


def _weighted_bipred(pictures: PictureTally) -> str:
    if pictures.has_explicit_bi_weights:
        return "explicit"
    return "implicit" if pictures.has_implicit_bi_weights else "none"


def _deblocking(pictures: PictureTally) -> str:
    if pictures.num_filtered and pictures.num_unfiltered:
        return "mixed"
    return "on" if pictures.num_filtered else "off"


def _interlacing(pictures: PictureTally) -> str:
    if pictures.has_fields:
        return "field pictures"
    if pictures.has_adaptive_frames:
        return "macroblock-adaptive"
    return "possible" if pictures.may_have_fields else "progressive"


def audit_stream(path: Path, *, cut: WindowCut | None = None) -> StreamAudit:
    """Audit the best video stream of a file; demultiplexes all of it and decodes nothing.

    Args:
        path: A local file.
        cut: A part of the video. Only the packets that decoding it takes are audited: those of
            the window, and those that lead to it from the key frame before. What x264 says of
            itself stands in front of the stream, and so is mostly not known of a window.

    Raises:
        NotAVideoError: If there is no video stream, or none of a known codec.
    """
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        context = stream.codec_context
        builder = AuditBuilder(context.codec.canonical_name, extradata=context.extradata)
        packets = demux_packets(container, stream)
        if cut is not None:
            packets = window_packets(container, stream, cut, name=path.name)
        for _ in range(_MAX_READ_ERRORS):
            try:
                for packet in packets:
                    builder.add_demuxed(packet)
                break
            except av.error.FFmpegError:
                # Cut or broken in the container; what follows may be whole again.
                builder.count_damage()
                if cut is not None:
                    break
                packets = demux_packets(container, stream)
        return builder.finish()
