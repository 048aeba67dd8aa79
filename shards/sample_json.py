"""The json members: all that is needed to decode a sample's other members without us."""

from collections.abc import Mapping
from typing import Any

from gopstream.pipeline.clip import Clip
from gopstream.shards.encoding import EncodedMember, piece_table
from gopstream.shards.layout import (
    COVERAGE_MEMBER,
    FORMAT_VERSION,
    FRAMES_MEMBER,
    MOTION_MEMBER,
    RESIDUAL_MEMBER,
)


def sample_json(
    key: str, clip: Clip, *, label: int, members: Mapping[str, EncodedMember]
) -> dict[str, Any]:
    """Return the content of ``KEY.json``.

    Args:
        key: The sample's key.
        clip: Its clip.
        label: Class index, -1 without one.
        members: The encoded ``frames``, ``motion``, ``coverage`` and perhaps ``residual``.
    """
    planes: dict[str, Any] = {
        "motion": {
            "member": MOTION_MEMBER,
            "dtype": "<i2",
            "shape": list(clip.motion.shape),
            "unit": "quarter pixels of the coded picture, (dx, dy) to the source",
            "chunks": piece_table(members["motion"].pieces),
        },
        "coverage": {
            "member": COVERAGE_MEMBER,
            "dtype": "|u1",
            "shape": list(clip.coverage.shape),
            "chunks": piece_table(members["coverage"].pieces),
        },
    }
    if clip.jpegs:
        planes["frames"] = {
            "member": FRAMES_MEMBER,
            "jpegs": piece_table(members["frames"].pieces),
        }
    content = {
        "format": FORMAT_VERSION,
        "key": key,
        "label": label,
        "frames": clip.num_frames,
        "first_frame": clip.first_frame,
        "fps": frame_rate(clip),
        "time_base": [clip.time_base.numerator, clip.time_base.denominator],
        "pts": clip.pts.tolist(),
        "frame_types": clip.kinds,
        "coded_size": list(clip.coded_size),
        "display_rect": list(clip.display_rect),
        "frame_size": list(clip.frame_size),
        "rotation": 0,
        "frame_index_of_jpeg": clip.frame_index_of_jpeg.tolist(),
        "planes": planes,
        "decoded_sha256": clip.decoded_sha256,
        "exactness": clip.exactness,
        "damaged_frames": list(clip.damaged_frames),
        "scene_cuts": list(clip.scene_cuts),
        "warnings": list(clip.warnings),
    }
    if clip.residual is not None:
        content["zero_residual_share"] = round(clip.residual.zero_share, 6)
    return content


def residual_json(key: str, clip: Clip, member: EncodedMember) -> dict[str, Any]:
    """Return the content of ``KEY.residual.json``."""
    assert clip.residual is not None
    width, height = clip.coded_size
    return {
        "format": FORMAT_VERSION,
        "key": key,
        "member": RESIDUAL_MEMBER,
        "dtype": "|i1",
        "meaning": "decoded minus predicted, modulo 256; intra blocks are predicted as 128",
        "planes": [["Y", height, width], ["Cb", height // 2, width // 2]]
        + [["Cr", height // 2, width // 2]],
        "frames": clip.num_frames,
        "chunks": piece_table(member.pieces),
        "exceptions": clip.residual.exceptions.tolist(),
    }


def frame_rate(clip: Clip) -> float:
    """Return the mean frames per second by the time stamps, 0 for a single frame."""
    if clip.num_frames < 2:
        return 0.0
    span = float((int(clip.pts[-1]) - int(clip.pts[0])) * clip.time_base)
    return round((clip.num_frames - 1) / span, 6) if span > 0 else 0.0
