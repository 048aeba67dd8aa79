"""Why the residual of a stream would not be what its encoder coded.

Decoded minus prediction is what was coded only where each exported vector means one block of the
one picture before, and nothing happens to a picture behind the prediction. Each condition that a
stream breaks is a sentence for its user.
"""

from collections.abc import Iterator
from typing import Final

from gopstream.pipeline.h264_pictures import PictureTally
from gopstream.pipeline.h264_syntax import SequenceParameters

EXPORTING_CODECS: Final = frozenset(
    ["h264", "mpeg1video", "mpeg2video", "mpeg4", "h261", "h263", "h263p", "flv1"]
    + ["msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "rv10", "rv20"]
)
"""FFmpeg's names of codecs whose decoders were seen to export vectors in pixels or parts of them.
Snow does too, but in eighths and not on the 8x8 grid."""

CHROMA_FORMATS: Final = ("4:0:0", "4:2:0", "4:2:2", "4:4:4")
_TYPE_B: Final = 2


def foreign_reason(codec: str) -> str:
    """Return the reason of a stream that is not H.264."""
    if codec in EXPORTING_CODECS:
        return f"{codec}: its interpolation is not that of H.264"
    return f"{codec}: FFmpeg's decoder exports no motion vectors"


def inexact_reasons(
    pictures: PictureTally,
    sps: SequenceParameters,
    *,
    partitions_below_8x8: bool | None,
    num_damaged_packets: int,
) -> tuple[str, ...]:
    """Return what keeps the residual of an H.264 stream from being exact.

    A lossless stream (transform bypass) is none: its residual is added to the same prediction.

    Args:
        pictures: The finished tally.
        sps: The parameters of its pictures.
        partitions_below_8x8: Whether the encoder may use them; None if unknown.
        num_damaged_packets: Packets of which the headers could not be read.
    """
    reasons = [*_format_reasons(pictures, sps), *_reference_reasons(pictures)]
    if pictures.has_weights:
        reasons.append("weighted prediction: P slices scale or shift their reference")
    if pictures.num_filtered:
        reasons.append("deblocking: pictures are filtered after prediction and residual")
    if sum(pictures.num_by_type[1:]) and partitions_below_8x8 is not False:
        known = "the encoder may use them" if partitions_below_8x8 else "they cannot be excluded"
        reasons.append(f"partitions below 8x8: {known}, and FFmpeg exports one vector per 8x8")
    return (*reasons, *_integrity_reasons(pictures, num_damaged_packets))


def _format_reasons(pictures: PictureTally, sps: SequenceParameters) -> Iterator[str]:
    if sps.bit_depth != 8:
        yield f"bit depth {sps.bit_depth}: only 8 is supported"
    if sps.chroma_format_idc != 1:
        yield f"chroma {CHROMA_FORMATS[sps.chroma_format_idc]}: only 4:2:0 is supported"
    if pictures.has_fields:
        yield "interlaced: field pictures"
    if pictures.has_adaptive_frames:
        yield "interlaced: macroblocks may be predicted by field"
    if pictures.may_have_fields and not (pictures.has_fields or pictures.has_adaptive_frames):
        yield "interlaced: field prediction is possible, the stream does not rule it out"
    if pictures.has_partitions:
        yield "data partitioning: FFmpeg does not decode it"
    if pictures.has_switching_slices:
        yield "switching slices (SP or SI): FFmpeg does not decode them exactly"


def _reference_reasons(pictures: PictureTally) -> Iterator[str]:
    num_b = pictures.num_by_type[_TYPE_B]
    if num_b or pictures.max_references_b:
        yield f"B-frames ({num_b}): which of their two predictions counts is not exported"
    if pictures.max_references_p > 1:
        yield (
            f"several references (up to {pictures.max_references_p} in P slices): "
            "which one a vector points to is not exported"
        )
    if pictures.is_reordered:
        yield "reordered references: the first one need not be the picture before"
    if pictures.is_remarked:
        yield "managed references: by its commands, the first one need not be the picture before"
    if pictures.num_non_reference:
        yield (
            f"pictures that are no reference ({pictures.num_non_reference}): "
            "what follows is predicted from an earlier one"
        )


def _integrity_reasons(pictures: PictureTally, num_damaged_packets: int) -> Iterator[str]:
    if pictures.num_parameter_changes:
        yield f"changed parameters ({pictures.num_parameter_changes}): the stream is several in one"
    if not pictures.starts_with_i:
        yield "no first key picture: what the first pictures are predicted from is missing"
    if pictures.num_number_gaps:
        yield f"missing or doubled pictures: their numbers jump ({pictures.num_number_gaps} times)"
    if num_damaged_packets:
        yield f"damaged packets ({num_damaged_packets}): their headers cannot be read"
