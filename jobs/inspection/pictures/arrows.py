"""Arrows that point the way things move."""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from gopstream.jobs.inspection.pictures.canvas import Canvas, Colour, Pixels
from gopstream.jobs.inspection.pictures.colour_scales import FUTURE, INTRA, PAST
from gopstream.jobs.inspection.pictures.movement import Style, list_movement, predicted_blocks
from gopstream.pipeline.grid import BLOCK, BlockMotion

LIST_COLOURS: Final = (PAST, FUTURE)
_STILL: Final = 0.125
"""Pixels of the coded picture below which a block is shown as still."""
_DOT: Final[Colour] = (200, 200, 200)
_GAINS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24)
_SMOOTH: Final = 2
"""Pillow's lines have steps; drawn larger by this and reduced they have none."""


class Arrow(NamedTuple):
    """One arrow on the drawn area, in its pixels."""

    tail: tuple[float, float]
    head: tuple[float, float]
    colour: Colour


def arrow_gain(canvas: Canvas, style: Style) -> int:
    """Return by how much arrows are longer than what they stand for, so that they are seen."""
    longest = style.longest * canvas.factor
    fitting = [gain for gain in _GAINS if longest * gain <= 2.5 * canvas.spacing]
    return fitting[-1] if fitting else 1


def draw_arrows(picture: Pixels, motion: BlockMotion, *, canvas: Canvas, gain: int) -> Pixels:
    """Draw where the content of blocks comes from (list 0) and goes to (list 1).

    An arrow of list 0 ends at its block, one of list 1 begins there. Where blocks are smaller
    than the distance between arrows, one of them stands for its neighbours.

    Args:
        picture: (H, W, 3) to draw on.
        motion: Of the frame.
        canvas: Of the clip.
        gain: From :func:`arrow_gain`.

    Returns:
        (H, W, 3). Blocks without movement get a grey dot, unpredicted ones a pink one.
    """
    arrows: list[Arrow] = []
    dots: list[tuple[float, float, Colour]] = []
    for number in range(len(motion.coverage)):
        moved, covered = list_movement(motion, number), motion.coverage[number] > 0
        for row, column in chosen_blocks(moved, covered, canvas=canvas):
            x, y = canvas.place((column + 0.5) * BLOCK, (row + 0.5) * BLOCK)
            dx, dy = (moved[row, column] * (canvas.factor * gain)).tolist()
            if math.hypot(dx, dy) < _STILL * canvas.factor * gain:
                dots.append((x, y, _DOT))
            elif number == 0:
                arrows.append(Arrow((x - dx, y - dy), (x, y), LIST_COLOURS[0]))
            else:
                arrows.append(Arrow((x, y), (x + dx, y + dy), LIST_COLOURS[1]))
    unpredicted = ~predicted_blocks(motion)
    for row, column in chosen_blocks(np.zeros((*unpredicted.shape, 2)), unpredicted, canvas=canvas):
        dots.append((*canvas.place((column + 0.5) * BLOCK, (row + 0.5) * BLOCK), INTRA))
    return paint_arrows(picture, arrows, dots, width=canvas.spacing / 12)


def chosen_blocks(
    moved: npt.NDArray[np.floating], covered: npt.NDArray[np.bool_], *, canvas: Canvas
) -> list[tuple[int, int]]:
    """Return one (row, column) for each cell of the arrows' grid that has a covered block.

    Of a cell's blocks it is the one whose movement is nearest to their median: a vector that is
    there, not an average that nobody coded.

    Args:
        moved: (Hb, Wb, 2).
        covered: (Hb, Wb).
        canvas: Of the clip.
    """
    side = 1
    while BLOCK * canvas.factor * side < canvas.spacing:
        side *= 2
    rows, columns = (math.ceil(length / side) for length in covered.shape)
    padding = ((0, rows * side - covered.shape[0]), (0, columns * side - covered.shape[1]))
    cells = (rows, side, columns, side)
    known = np.pad(covered, padding).reshape(cells).swapaxes(1, 2).reshape(-1, side * side)
    padded = np.pad(moved.astype(np.float64), (*padding, (0, 0))).reshape(*cells, 2)
    vectors = padded.swapaxes(1, 2).reshape(-1, side * side, 2)
    filled = np.flatnonzero(known.any(axis=1))
    known, vectors = known[filled], vectors[filled]
    vectors = np.where(known[..., None], vectors, np.nan)
    distance = np.abs(vectors - np.nanmedian(vectors, axis=1, keepdims=True)).sum(axis=2)
    best = np.where(known, distance, np.inf).argmin(axis=1)
    row, column = np.divmod(filled, columns)
    down, right = np.divmod(best, side)
    return list(zip((row * side + down).tolist(), (column * side + right).tolist(), strict=True))


def paint_arrows(
    picture: Pixels,
    arrows: list[Arrow],
    dots: list[tuple[float, float, Colour]],
    *,
    width: float,
) -> Pixels:
    """Paint arrows with dark rims, and dots below them, with smooth edges.

    Args:
        picture: (H, W, 3).
        arrows: In the picture's pixels.
        dots: (x, y, colour).
        width: Of an arrow's shaft in pixels.
    """
    height, long = picture.shape[:2]
    canvas = Image.fromarray(picture).resize(
        (long * _SMOOTH, height * _SMOOTH), Image.Resampling.NEAREST
    )
    pen, thick = ImageDraw.Draw(canvas), width * _SMOOTH
    for x, y, colour in dots:
        radius = 0.8 * thick
        box = (x * _SMOOTH - radius, y * _SMOOTH - radius, x * _SMOOTH + radius)
        pen.ellipse((*box, y * _SMOOTH + radius), fill=colour)
    for arrow in arrows:
        _paint_arrow(pen, arrow, thick=thick)
    return np.asarray(canvas.reduce(_SMOOTH))


def _paint_arrow(pen: ImageDraw.ImageDraw, arrow: Arrow, *, thick: float) -> None:
    (x0, y0), (x1, y1) = ((x * _SMOOTH, y * _SMOOTH) for x, y in (arrow.tail, arrow.head))
    length = math.hypot(x1 - x0, y1 - y0)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    # The head of a short arrow shrinks with it: a head alone is read as a mark, not as an arrow.
    head = min(4.2 * thick, 0.6 * length)
    neck = (x1 - head * ux, y1 - head * uy)
    wing = 0.45 * head
    triangle = [
        (x1, y1),
        (neck[0] - wing * uy, neck[1] + wing * ux),
        (neck[0] + wing * uy, neck[1] - wing * ux),
    ]
    rim = max(1, round(0.9 * thick))
    pen.line((x0, y0, *neck), fill=(0, 0, 0), width=round(thick) + rim)
    pen.line([*triangle, triangle[0]], fill=(0, 0, 0), width=rim)
    pen.line((x0, y0, *neck), fill=arrow.colour, width=max(1, round(thick)))
    pen.polygon(triangle, fill=arrow.colour)
