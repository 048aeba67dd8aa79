"""Turn clips and frames into what the player reads: JSON, with arrays as packed text.

The page and the app send the same. An array is ``{"dtype", "shape", "data"}``: ``data`` is base64
of zlib of the little-endian bytes in C order. Names and labels are in it as they are: the player
shows them as text and never as markup.
"""

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.jobs.inspection.frame_statistics import (
    block_sums,
    frame_statistics,
    statistics_content,
)
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedFrame, SignedResidual
from gopstream.jobs.inspection.pictures.movement import predicted_pixels
from gopstream.jobs.inspection.vector_table import COLUMN, vector_pixels
from gopstream.pipeline.grid import BLOCK, QUARTER_PIXELS

VECTOR_COLUMNS: Final = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y")
"""Of the decoder's vectors; ``motion_x`` and ``motion_y`` are in quarter pixels here."""
RESIDUAL_GAIN: Final = 4
"""What the signed residual is multiplied by in its picture, around the grey 128."""

_PICTURE_QUALITY: Final = 85
_COMPRESSION: Final = 6


def clip_payload(facts: ClipFacts) -> dict[str, Any]:
    """Return what the player must know before it asks for frames.

    Args:
        facts: Of the clip.

    Returns:
        An object for JSON, without NaN. ``first`` and ``last`` are the frames that can be asked
        for: here all. ``num_lists`` is how many reference lists have vectors. ``statistics`` is
        None: who knows those of all these frames puts the list there, else the player fills its
        timeline as frames come.
    """
    return facts_content(facts) | {
        "kinds": facts.kinds,
        "first": 0,
        "last": facts.num_frames - 1,
        "times": [_seconds(facts, index) for index in range(facts.num_frames)],
        "num_lists": lists_with_vectors(facts),
        "block": BLOCK,
        "residual_gain": RESIDUAL_GAIN,
        "statistics": None,
    }


def facts_content(facts: ClipFacts) -> dict[str, Any]:
    """Return what everybody is told of a clip, for JSON, without NaN."""
    return {
        "name": facts.name,
        "source": facts.source,
        "mode": facts.mode,
        "coded_size": list(facts.coded_size),
        "display_rect": list(facts.display_rect),
        "planes": sorted(facts.planes),
        "exactness": facts.exactness,
        "damaged_frames": list(facts.damaged_frames),
        "scene_cuts": list(facts.scene_cuts),
        "warnings": list(facts.warnings),
        "label": facts.label,
        "stream": plain(facts.stream),
    }


def frame_payload(frame: InspectedFrame, facts: ClipFacts) -> dict[str, Any]:
    """Return one frame for the player; what the source has not is None.

    Args:
        frame: As the clip yields it.
        facts: Of its clip.

    Returns:
        An object for JSON: ``index``, ``kind``, ``time`` in seconds, ``picture`` (of the display
        rectangle) and ``residual_picture`` (luma of the same, signed around grey) as data URLs of
        JPEG, ``picture_of``, ``statistics`` (`statistics_content`), and packed arrays: ``motion``
        (L, Hb, Wb, 2) int16 quarter pixels, ``coverage`` (L, Hb, Wb) uint8, ``residual`` (Hb, Wb)
        uint16, the sum of absolute luma differences of each block, and ``vectors`` (K, 7) int16,
        columns as `VECTOR_COLUMNS`.
    """
    field = frame.motion
    signed = _signed_picture(frame, facts)
    blocks = None if frame.residual is None else block_residual(frame.residual)
    return {
        "index": frame.index,
        "kind": frame.kind,
        "time": _seconds(facts, frame.index),
        "picture": None if frame.picture is None else _jpeg(frame.picture),
        "picture_of": frame.picture_of,
        "motion": None if field is None else pack_array(field.motion),
        "coverage": None if field is None else pack_array(field.coverage),
        "residual": None if blocks is None else pack_array(blocks),
        "residual_picture": None if signed is None else _jpeg(signed),
        "vectors": None if frame.vectors is None else pack_array(player_vectors(frame.vectors)),
        "statistics": statistics_content(frame_statistics(frame)),
    }


def block_residual(residual: SignedResidual) -> npt.NDArray[np.uint16]:
    """Return the sum of absolute luma differences of each 8 x 8 block: (Hb, Wb) uint16."""
    return block_sums(np.abs(residual.y), BLOCK).astype(np.uint16)  # at most 64 * 255


def player_vectors(vectors: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
    """Return the columns that the player needs, motion in quarter pixels: (K, 7) int16.

    Args:
        vectors: (K, 10) int32, columns as ``TABLE_COLUMNS``, with any ``motion_scale``.
    """
    table = vectors[:, [COLUMN[name] for name in VECTOR_COLUMNS]].astype(np.float64)
    table[:, -2:] = np.rint(QUARTER_PIXELS * vector_pixels(vectors))
    limits = np.iinfo(np.int16)  # a dump can hold any numbers
    return np.clip(table, limits.min, limits.max).astype(np.int16)


def pack_array(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array as an object for JSON."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(zlib.compress(little.tobytes(), _COMPRESSION)).decode("ascii"),
    }


def unpack_array(packed: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the array that `pack_array` packed."""
    content = zlib.decompress(base64.b64decode(packed["data"]))
    dtype = np.dtype(packed["dtype"]).newbyteorder("<")
    return np.frombuffer(content, dtype).reshape(packed["shape"])


def lists_with_vectors(facts: ClipFacts) -> int:
    """Return how many lists have vectors: without B-frames, no frame looks into the future."""
    if not facts.planes & {"motion", "vectors"}:
        return 0
    return facts.num_lists if set(facts.kinds) & set("B?") else 1


def _signed_picture(frame: InspectedFrame, facts: ClipFacts) -> npt.NDArray[np.uint8] | None:
    """Return the luma residual of what is shown around grey, or None: (H, W, 1) uint8.

    Blocks that are not predicted stay grey: what is stored of them is their picture less 128.
    """
    if frame.residual is None:
        return None
    x, y, width, height = facts.display_rect
    signed = frame.residual.y[y : y + height, x : x + width] * np.int16(RESIDUAL_GAIN)
    if frame.motion is not None:
        signed *= predicted_pixels(frame.motion)[y : y + height, x : x + width]
    levels: npt.NDArray[np.uint8] = np.clip(128 + signed, 0, 255).astype(np.uint8)
    return levels[..., None]


def _jpeg(picture: npt.NDArray[np.uint8]) -> str:
    """Return an (H, W, 3) RGB or (H, W, 1) grey picture as the data URL of a JPEG."""
    pixels = np.ascontiguousarray(picture)
    colours = "RGB" if pixels.shape[2] == 3 else "GRAY"
    encoded: bytes = simplejpeg.encode_jpeg(
        pixels,
        quality=_PICTURE_QUALITY,
        colorspace=colours,
        colorsubsampling="420" if colours == "RGB" else "Gray",
    )
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")


def _seconds(facts: ClipFacts, index: int) -> float | None:
    """Return the time of a frame, None where its number alone is known."""
    return _number(float(facts.times[index])) if facts.has_times else None


def _number(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return value if math.isfinite(value) else None


def plain(value: object) -> object:
    """Return a fact as JSON holds it; what it cannot hold, as people read it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    return str(value)
