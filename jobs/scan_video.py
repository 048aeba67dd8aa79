"""One row of a scan: what a video is, how it moves, and where its shots begin.

The video is decoded once, in the loop that extraction uses. Beside decoding there is little: per
packet the audit, per frame three kernels, so that a scan takes the decoder's time and a tenth.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av.error
import pyarrow as pa

from gopstream.pipeline.audit import AuditBuilder, StreamAudit
from gopstream.pipeline.damage import DamageSpread
from gopstream.pipeline.decode import DecodedFrame, open_coded
from gopstream.pipeline.exactness import EXPORTING_CODECS
from gopstream.pipeline.luma import LUMA_FORMATS, luma_view
from gopstream.pipeline.motion_statistics import MotionMeter, MotionSummary
from gopstream.pipeline.probe import best_video_stream, demux_packets, open_container
from gopstream.pipeline.shots import ShotDetector

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

    VideoPacket = Packet[VideoStream]  # generic in the stubs alone

_PACKETS_AT_A_TIME: Final = 64
_FRAMES_AT_A_TIME: Final = 8
_LARGE_PIXELS: Final = 640 * 480
"""Larger pictures are looked at one by one; there are then never many in memory."""

SCHEMA: Final = pa.schema(
    [
        ("name", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("warnings", pa.list_(pa.string())),
        ("codec", pa.string()),
        ("pixel_format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("fps", pa.float64()),
        ("duration_seconds", pa.float64()),
        ("num_frames", pa.int64()),
        ("num_damaged_frames", pa.int64()),
        ("num_cuts", pa.int32()),
        ("cut_frames", pa.list_(pa.int32())),
        ("exports_motion", pa.bool_()),
        ("is_exact", pa.bool_()),
        ("inexact_reasons", pa.list_(pa.string())),
        ("num_packets", pa.int64()),
        ("num_damaged_packets", pa.int64()),
        ("num_coded_pictures", pa.int64()),
        ("profile", pa.string()),
        ("level", pa.string()),
        ("chroma", pa.string()),
        ("bit_depth", pa.int32()),
        ("entropy_coding", pa.string()),
        ("coded_width", pa.int32()),
        ("coded_height", pa.int32()),
        ("max_reference_frames", pa.int32()),
        ("max_active_references", pa.int32()),
        ("max_reorder_frames", pa.int32()),
        ("num_i", pa.int64()),
        ("num_p", pa.int64()),
        ("num_b", pa.int64()),
        ("num_idr", pa.int64()),
        ("gop_minimum", pa.int64()),
        ("gop_median", pa.int64()),
        ("gop_maximum", pa.int64()),
        ("has_open_gops", pa.bool_()),
        ("weighted_prediction", pa.string()),
        ("weighted_bipred", pa.string()),
        ("deblocking", pa.string()),
        ("interlacing", pa.string()),
        ("max_slices_per_picture", pa.int32()),
        ("num_parameter_set_changes", pa.int32()),
        ("encoder", pa.string()),
        ("encoder_options", pa.string()),
        ("partitions_below_8x8", pa.bool_()),
        ("motion_missing", pa.string()),
        ("motion_kind", pa.string()),
        ("motion_num_predicted", pa.int64()),
        ("motion_num_measured", pa.int64()),
        ("motion_num_fitted", pa.int64()),
        *(
            (f"motion_{name}", pa.float64())
            for name in MotionSummary._fields
            if name != "kind" and not name.startswith("num_")
        ),
    ]
)
"""The columns of the Parquet file; docs/scan.md says what they mean."""


@dataclass(slots=True)
class _Scan:
    """What is known of a video while it is read."""

    is_headers_only: bool
    audit: AuditBuilder | None = None
    codec: str = ""
    meter: MotionMeter = field(default_factory=MotionMeter)
    shots: ShotDetector = field(default_factory=ShotDetector)
    damage: DamageSpread = field(default_factory=DamageSpread)
    cuts: list[int] = field(default_factory=list)
    exports_motion: bool = False
    is_interlaced: bool = False
    """A picture was: the unit of its vectors is not told, so that they are not measured."""
    num_frames: int = 0
    first_pts: int | None = None
    last_pts: int = 0
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)
    """(height, width) of the coded pictures, in the order in which they came."""
    facts: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def scan_video(
    path: Path,
    *,
    is_headers_only: bool = False,
    with_sha256: bool = False,
    beat: Callable[[], None],
) -> dict[str, Any]:
    """Return a video's row of :data:`SCHEMA`, without name; columns that are None may be absent.

    Whatever is wrong with the video becomes ``status``, ``error``, ``message`` and ``warnings``;
    what was learned before it failed is kept.

    Args:
        path: A local file.
        is_headers_only: Whether to read packets without decoding them.
        with_sha256: Whether to hash the file.
        beat: Called now and then.
    """
    scan = _Scan(is_headers_only)
    row: dict[str, Any] = {"status": "ok", "error": None, "message": None}
    try:
        row["bytes"] = path.stat().st_size
        if with_sha256:
            with path.open("rb") as file:
                row["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        _read_headers(path, scan, beat) if is_headers_only else _decode(path, scan, beat)
    except Exception as error:  # the job's boundary: whatever it is becomes a row
        row |= failure(type(error).__name__, str(error).replace(str(path.parent), "").lstrip("/"))
    row |= _result(scan)
    if row["warnings"] and row["status"] == "ok":
        row["status"] = "warned"
    return row


def failure(error: str, message: str) -> dict[str, Any]:
    """Return the columns that say why a video failed."""
    return {"status": "failed", "error": error, "message": message}


def _decode(path: Path, scan: _Scan, beat: Callable[[], None]) -> None:
    packets: list[VideoPacket] = []

    def on_packet(packet: "VideoPacket") -> None:
        if scan.audit is None:
            _audit_packet(packet, scan)
            # Pictures that no other is predicted from are left without deblocking: a thumbnail
            # does not show it, and vectors do not depend on pixels.
            context = packet.stream.codec_context
            context.options = {**context.options, "skip_loop_filter": "noref"}
            return
        packets.append(packet)
        if len(packets) == _PACKETS_AT_A_TIME:
            _audit_packets(packets, scan)

    # Decoding leaves nothing of this code in the processor's caches. Some frames at a time are
    # looked at in half of the time.
    frames: list[DecodedFrame] = []
    limit = 1
    with open_coded(path, on_packet=on_packet) as stream:
        scan.faults = stream.faults
        scan.facts |= {"width": stream.display_width, "height": stream.display_height}
        try:
            for frame in stream.frames:
                frames.append(frame)
                if len(frames) >= limit:
                    _add_frames(frames, scan)
                    pixels = frame.picture.width * frame.picture.height
                    limit = 1 if pixels > _LARGE_PIXELS else _FRAMES_AT_A_TIME
                    beat()
        finally:
            _add_frames(frames, scan)
            _audit_packets(packets, scan)
        if scan.first_pts is not None:
            shown_seconds = float((scan.last_pts - scan.first_pts) * stream.time_base)
            scan.facts.setdefault("duration_seconds", shown_seconds)


def _audit_packets(packets: "list[VideoPacket]", scan: _Scan) -> None:
    for packet in packets:
        _audit_packet(packet, scan)
    packets.clear()


def _read_headers(path: Path, scan: _Scan, beat: Callable[[], None]) -> None:
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        context = stream.codec_context
        scan.facts |= {"width": context.width, "height": context.height}
        try:
            for number, packet in enumerate(demux_packets(container, stream)):
                if packet.size:
                    _audit_packet(packet, scan)
                if number % _PACKETS_AT_A_TIME == 0:
                    beat()
        except av.error.FFmpegError as error:
            scan.faults.append(f"the file cannot be read to its end ({error.strerror})")


def _audit_packet(packet: "VideoPacket", scan: _Scan) -> None:
    if scan.audit is None:
        stream = packet.stream
        context = stream.codec_context
        scan.codec = context.codec.canonical_name
        scan.exports_motion = scan.codec in EXPORTING_CODECS
        scan.audit = AuditBuilder(scan.codec, extradata=context.extradata)
        rate, length = stream.average_rate, stream.duration
        scan.facts["fps"] = float(rate) if rate else None
        if length is not None and stream.time_base is not None:
            scan.facts["duration_seconds"] = float(length * stream.time_base)
    scan.audit.add_demuxed(packet)


def _add_frames(frames: list[DecodedFrame], scan: _Scan) -> None:
    """Take the next frames that are shown, and let go of them."""
    for frame in frames:
        scan.damage.add(frame)
    shares = [_add_motion(frame, scan) for frame in frames]
    for frame, intra_share in zip(frames, shares, strict=True):
        # What is made up in place of damage says nothing of the video.
        if not frame.is_damaged and scan.shots.is_cut(
            kind=frame.kind, intra_share=intra_share, luma=luma_view(frame.picture)
        ):
            scan.cuts.append(scan.num_frames)
        scan.num_frames += 1
    frames.clear()


def _add_motion(frame: DecodedFrame, scan: _Scan) -> float | None:
    """Measure a frame; returns its intra share, where vectors are exported."""
    picture = frame.picture
    size = (picture.height, picture.width)
    if size not in scan.sizes:
        scan.sizes[size] = None
    if scan.first_pts is None:
        scan.first_pts = frame.pts
        scan.facts |= {"rotation": picture.rotation % 360, "pixel_format": picture.format.name}
    scan.last_pts = frame.pts
    scan.is_interlaced |= frame.is_interlaced
    if frame.is_damaged or frame.is_interlaced:
        scan.meter.skip()
        return None
    if not scan.exports_motion:
        return None
    return scan.meter.add(frame.kind, frame.vectors, size=size)


def _result(scan: _Scan) -> dict[str, Any]:
    """Return all columns but those of the file and of the failure."""
    row = scan.facts | {"codec": scan.codec or None, "warnings": list(scan.faults)}
    if scan.audit is not None:
        row |= _audit_columns(scan.audit.finish())
    if scan.is_headers_only:
        if row.get("num_damaged_packets"):
            row["warnings"].append(f"{row['num_damaged_packets']} damaged packets")
        return row | {"motion_missing": "headers only"}
    return row | _frame_columns(scan, row["warnings"]) | _motion_columns(scan)


def _frame_columns(scan: _Scan, warnings: list[str]) -> dict[str, Any]:
    """Return what is counted over frames; adds to the warnings."""
    damaged = scan.damage.flags
    num_damaged = sum(damaged)
    # Neither what damage looks like is a cut, nor where it ends.
    cuts = [cut for cut in scan.cuts if not damaged[cut] and not damaged[cut - 1]]
    if num_damaged:
        warnings.append(f"{num_damaged} frames may show damage")
    if len(scan.sizes) > 1:
        sizes = ", ".join(f"{width}x{height}" for height, width in scan.sizes)
        warnings.append(f"the size of the coded picture changes: {sizes}")
    has_signs = scan.exports_motion or scan.facts.get("pixel_format") in LUMA_FORMATS
    return {
        "num_frames": scan.num_frames,
        "num_damaged_frames": num_damaged,
        "num_cuts": len(cuts) if has_signs else None,
        "cut_frames": cuts if has_signs else None,
    }


def _motion_columns(scan: _Scan) -> dict[str, Any]:
    if not scan.exports_motion:
        why = f"FFmpeg exports no vectors of {scan.codec}" if scan.codec else "no packet"
        return {"motion_missing": why}
    summary = scan.meter.summary()
    row: dict[str, Any] = {f"motion_{name}": x for name, x in summary._asdict().items()}
    if summary.num_measured == 0 and scan.is_interlaced:
        row["motion_missing"] = "interlaced: the vertical unit of its vectors is not told"
    elif summary.num_measured == 0:
        row["motion_missing"] = "no P- or B-frame with vectors"
    return row


def _audit_columns(audit: StreamAudit) -> dict[str, Any]:
    """Return an audit's fields under the names of the columns; pairs and the like flattened."""
    row = {column.name: getattr(audit, column.name) for column in fields(audit)}
    width, height = row.pop("coded_size") or (None, None)
    minimum, median, maximum = row.pop("pictures_per_gop") or (None, None, None)
    del row["display_rect"]  # a container may crop more: width and height are what is shown
    row["num_coded_pictures"] = row.pop("num_pictures")
    row["inexact_reasons"] = list(audit.inexact_reasons)
    return row | {
        "is_exact": audit.is_exact,
        "coded_width": width,
        "coded_height": height,
        "gop_minimum": minimum,
        "gop_median": median,
        "gop_maximum": maximum,
    }
