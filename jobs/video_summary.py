"""What ``info`` prints of a video: container, stream, motion, exactness."""

import re
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gopstream.jobs.errors import UserError
from gopstream.jobs.summaries import Summary, fact_table, render
from gopstream.pipeline.accumulation import one_list_motion
from gopstream.pipeline.audit import StreamAudit, audit_stream
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.pair_shares import ClipShape, PairShares, valid_pair_share
from gopstream.pipeline.probe import VideoFacts, open_video

SUBCLIP_FRAMES = 8
"""Frames of a sub-clip of DVT, within which motion is accumulated (T' = 8)."""


def clip_shape(text: str) -> ClipShape:
    """Read ``16x4``.

    Raises:
        UserError: If it is not frames x stride.
    """
    match = re.fullmatch(r"(\d{1,4})x(\d{1,3})", text)
    if match is None or int(match[1]) < 2 or int(match[2]) < 1:
        raise UserError(f"--clip must be frames x stride, such as 16x4, got {text!r}")
    frames = int(match[1])
    subclip = SUBCLIP_FRAMES if frames % SUBCLIP_FRAMES == 0 else frames
    return ClipShape(frames, int(match[2]), subclip)


def video_summary(path: Path, *, shape: ClipShape | None, ffmpeg_binary: str) -> Summary:
    """Summarise a video file.

    Args:
        path: A local file.
        shape: Also tell how much motion can be followed in clips of this shape.
        ffmpeg_binary: The FFmpeg that makes the canonical stream for that.

    Raises:
        FileNotFoundError: If there is no such file.
        NotAVideoError: If it is no video.
    """
    facts = open_video(path)
    audit = audit_stream(path)
    content: dict[str, Any] = {
        "file": _plain(asdict(facts)),
        "stream": _plain(asdict(audit)) | {"exact": audit.is_exact},
    }
    parts: list[Any] = [
        fact_table(_file_rows(facts)),
        "",
        fact_table(_stream_rows(audit)),
        "",
        fact_table(_use_rows(audit)),
    ]
    if shape is not None:
        shares = _canonical_shares(path, shape, ffmpeg_binary)
        content["pairs"] = {
            "frames": shape.num_frames,
            "stride": shape.stride,
            "subclip_frames": shape.subclip_frames,
            **shares._asdict(),
        }
        parts += ["", fact_table(_pair_rows(shape, shares))]
    return Summary(render(*parts), content)


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Return values that JSON has."""
    return {
        name: str(value) if isinstance(value, (Path, Fraction)) else value
        for name, value in facts.items()
    }


def _file_rows(facts: VideoFacts) -> dict[str, object]:
    seconds = "unknown" if facts.duration_seconds is None else f"{facts.duration_seconds:.3f} s"
    colours = f"{facts.matrix}, {'full' if facts.full_range else 'limited'} range"
    return {
        "file": facts.path.name,
        "container": facts.container,
        "video stream": f"{facts.stream_index} ({facts.codec})",
        "picture": f"{facts.width}x{facts.height}, pixels {facts.sample_aspect_ratio}, "
        f"turned by {facts.rotation} degrees",
        "format": f"{facts.pixel_format}, {colours}",
        "duration": f"{seconds}, {float(facts.average_rate):.3f} frames per second, "
        f"{facts.num_frames_by_header or 'no'} frames by the header",
    }


def _stream_rows(audit: StreamAudit) -> dict[str, object]:
    if audit.profile is None:
        return {"stream": f"{audit.codec}: {audit.num_packets} packets"}
    gop = audit.pictures_per_gop
    gops = "no I-picture" if gop is None else f"{gop.minimum} / {gop.median} / {gop.maximum}"
    return {
        "profile": f"{audit.profile}, level {audit.level}, {audit.entropy_coding}",
        "samples": f"{audit.chroma}, {audit.bit_depth} bit, coded {audit.coded_size}, "
        f"shown {audit.display_rect}",
        "pictures": f"{audit.num_pictures}: I {audit.num_i} (IDR {audit.num_idr}), "
        f"P {audit.num_p}, B {audit.num_b}",
        "pictures per GOP": f"{gops} (shortest, median, longest)"
        + (", open GOPs" if audit.has_open_gops else ""),
        "references": f"{audit.max_active_references} used, {audit.max_reference_frames} reserved",
        "weighted prediction": f"P {audit.weighted_prediction}, B {audit.weighted_bipred}",
        "deblocking": audit.deblocking,
        "interlacing": audit.interlacing,
        "slices": f"{audit.max_slices_per_picture} per picture",
        "encoder": audit.encoder or "unknown",
        "damaged packets": audit.num_damaged_packets,
    }


def _use_rows(audit: StreamAudit) -> dict[str, object]:
    if not audit.exports_motion:
        native = "not possible: FFmpeg exports no motion vectors of this codec"
    elif audit.is_interlaced:
        native = "not possible: interlaced"
    else:
        native = "motion and coverage"
    rows: dict[str, object] = {"shard --mode canonical": "motion and exact residual"}
    if audit.is_exact:
        rows["shard --mode native"] = f"{native}, exact residual"
        return rows
    rows["shard --mode native"] = native
    rows["why no residual"] = "\n".join(audit.inexact_reasons)
    return rows


def _canonical_shares(path: Path, shape: ClipShape, ffmpeg_binary: str) -> PairShares:
    clip = extract_clip(
        path, options=ExtractionOptions(planes=("motion",)), ffmpeg_binary=ffmpeg_binary
    )
    motion = one_list_motion(clip.motion, clip.coverage, kinds=clip.kinds)
    cuts = [index in clip.scene_cuts for index in range(clip.num_frames)]
    return valid_pair_share(
        motion.motion,
        motion.coverage,
        is_intra_frame=motion.is_intra_frame,
        display_size=clip.display_rect[2:],
        shape=shape,
        scene_cuts=np.array(cuts, np.bool_),
    )


def _pair_rows(shape: ClipShape, shares: PairShares) -> dict[str, object]:
    return {
        f"{shape.num_frames}x{shape.stride} clips": f"{shares.num_pairs} pairs of frames within "
        f"sub-clips of {shape.subclip_frames}",
        "blocks that can be followed": f"{shares.valid:.1%}",
        "of them across an I-frame": f"{shares.extrapolated:.1%}",
    }
