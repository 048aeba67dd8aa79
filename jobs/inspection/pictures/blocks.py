"""Pictures of blocks: their partition, which are predicted, and how they move in colours."""

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from gopstream.jobs.inspection.inspected import InspectedFrame
from gopstream.jobs.inspection.pictures.canvas import (
    Canvas,
    Colour,
    Drawn,
    Legend,
    Pixels,
)
from gopstream.jobs.inspection.pictures.colour_scales import (
    BOTH,
    FUTURE,
    INTRA,
    PAST,
    flow_colours,
    wheel_badge,
)
from gopstream.jobs.inspection.pictures.movement import Style, movement, predicted_blocks
from gopstream.jobs.inspection.vector_table import COLUMN
from gopstream.pipeline.grid import BLOCK, BlockMotion

_LARGE: Final[Colour] = (60, 125, 165)
_HALF: Final[Colour] = (240, 228, 66)
_SMALL: Final[Colour] = (213, 94, 0)
_STRIPES: Final = (70, 90)
"""Levels of the grey stripes where there is no motion to paint."""


def draw_colours(motion: BlockMotion, *, canvas: Canvas, style: Style) -> Drawn:
    """Paint the movement of each block's content by the wheel of optical flow."""
    painted = paint_movement(
        movement(motion), predicted_blocks(motion), canvas=canvas, longest=style.longest
    )
    return Drawn(
        painted,
        Legend(
            (
                f"rim of the wheel: {style.longest:g} pixels or more; white: no movement",
                "stripes: intra, no vector" + _list_words(motion),
            ),
            badge=wheel_badge(),
        ),
    )


def paint_movement(
    moved: npt.NDArray[np.floating],
    known: npt.NDArray[np.bool_],
    *,
    canvas: Canvas,
    longest: float,
) -> Pixels:
    """Paint a field of movement, with grey stripes where it is not known.

    Args:
        moved: (Hb, Wb, 2) pixels.
        known: (Hb, Wb).
        canvas: Of the clip.
        longest: Length in pixels that is painted in full colour.

    Returns:
        (H, W, 3).
    """
    painted = canvas.spread_blocks(flow_colours(moved, longest=longest))
    return _striped(painted, ~canvas.spread_blocks(known))


def draw_coverage(frame: InspectedFrame, motion: BlockMotion, *, canvas: Canvas) -> Drawn:
    """Tint each block by what predicts it: nothing, list 0, list 1, or both."""
    past = motion.coverage[0] > 0
    future = motion.coverage[1] > 0 if len(motion.coverage) > 1 else np.zeros_like(past)
    kinds: tuple[tuple[str, Colour, npt.NDArray[np.bool_]], ...] = (
        ("intra", INTRA, ~past & ~future),
        ("past", PAST, past & ~future),
        ("future", FUTURE, future & ~past),
        ("both", BOTH, past & future),
    )
    if len(motion.coverage) == 1:
        kinds = kinds[:2]
    tints = np.zeros((*past.shape, 3), np.float32)
    for _, colour, mask in kinds:
        tints[mask] = colour
    grey = canvas.spread_dimmed(frame.picture, light=0.8).astype(np.float32)
    mixed = (0.5 * grey + 0.5 * canvas.spread_blocks(tints)).astype(np.uint8)
    keys = tuple((colour, f"{name} {mask.mean():.1%}") for name, colour, mask in kinds)
    words = "share of the 8 x 8 blocks by what predicts them; intra: nothing, they have no vector"
    return Drawn(mixed, Legend((words,), keys=keys))


def draw_partition(frame: InspectedFrame, motion: BlockMotion | None, *, canvas: Canvas) -> Drawn:
    """Outline the blocks that have a vector of their own."""
    picture = canvas.spread_dimmed(frame.picture, light=0.7)
    if frame.vectors is None:
        assert motion is not None
        drawn = _outline_changes(picture, motion, canvas=canvas)
        words = "lines: neighbouring 8 x 8 blocks differ; the source keeps no sizes of blocks"
        return Drawn(drawn, Legend((words,), keys=((_HALF, "edge between vectors"),)))
    drawn, counts = _outline_vectors(picture, frame.vectors, canvas=canvas)
    names = ("16 x 16", "16 x 8 or 8 x 16", "8 x 8")
    keys = tuple(
        (colour, f"{name}: {count}")
        for colour, name, count in zip((_LARGE, _HALF, _SMALL), names, counts, strict=True)
    )
    words = "vectors of each size; FFmpeg tells of none below 8 x 8; without a line: intra"
    return Drawn(drawn, Legend((words,), keys=keys))


def _list_words(motion: BlockMotion) -> str:
    if len(motion.coverage) == 1:
        return ""
    return "; by the past where it predicts, else by the future"


def _striped(picture: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    if not mask.any():
        return picture
    return np.where(mask[..., None], _stripes(*mask.shape), picture)


@lru_cache(maxsize=1)
def _stripes(height: int, width: int) -> Pixels:
    """Return diagonal stripes, (height, width, 1); all frames of a clip have the same."""
    period = max(6, max(height, width) // 80)
    diagonal = (np.arange(height)[:, None] + np.arange(width)) // (period // 2) % 2
    stripes: Pixels = np.asarray(_STRIPES, np.uint8)[diagonal][..., None]
    return stripes


def _outline_vectors(
    picture: Pixels, vectors: npt.NDArray[np.int32], *, canvas: Canvas
) -> tuple[Pixels, tuple[int, int, int]]:
    """Outline blocks by their size; returns also how many of each size there are."""
    image = Image.fromarray(picture)
    pen, wide = ImageDraw.Draw(image), max(1, canvas.spacing // 16)
    area = vectors[:, COLUMN["w"]] * vectors[:, COLUMN["h"]]
    sizes = (area >= 256, (area < 256) & (area > 64), area <= 64)
    # The smallest last: they share edges with larger ones.
    styles = ((_LARGE, 1), (_HALF, wide), (_SMALL, wide))
    for (colour, line), mask in zip(styles, sizes, strict=True):
        for row in vectors[mask].tolist():
            width, height = row[COLUMN["w"]], row[COLUMN["h"]]
            x, y = row[COLUMN["dst_x"]] - width // 2, row[COLUMN["dst_y"]] - height // 2
            left, top = canvas.place(x, y)
            right, bottom = canvas.place(x + width, y + height)
            pen.rectangle((left, top, right, bottom), outline=colour, width=line)
    return np.asarray(image), (int(sizes[0].sum()), int(sizes[1].sum()), int(sizes[2].sum()))


def _outline_changes(picture: Pixels, motion: BlockMotion, *, canvas: Canvas) -> Pixels:
    # One number per block and list that differs where vector or coverage do.
    packed = motion.motion.astype(np.int64)
    code = (packed[..., 0] * 65536 + packed[..., 1]) * 2 + motion.coverage
    image = Image.fromarray(picture)
    pen, line = ImageDraw.Draw(image), max(1, canvas.spacing // 16)
    for row, column in np.argwhere((code[:, 1:] != code[:, :-1]).any(axis=0)).tolist():
        x, y = canvas.place(column * BLOCK, (row + 1) * BLOCK)
        pen.line((x, y, x + BLOCK * canvas.factor, y), fill=_HALF, width=line)
    for row, column in np.argwhere((code[:, :, 1:] != code[:, :, :-1]).any(axis=0)).tolist():
        x, y = canvas.place((column + 1) * BLOCK, row * BLOCK)
        pen.line((x, y, x, y + BLOCK * canvas.factor), fill=_HALF, width=line)
    return np.asarray(image)
