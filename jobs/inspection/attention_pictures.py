"""Draw where a model looks: points with weights, and heat maps, over the frames of a clip.

Frames are enlarged until their longer side has some hundred pixels, and set out in rows.

Dimensions: T frames, H, W pixels, h heads, N points.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from gopstream.jobs.inspection.pictures.canvas import enlarge
from gopstream.jobs.inspection.pictures.colour_scales import heat_colours

_SIDE: Final = 320
"""Pixels that the longer side of an enlarged frame has at least."""
_LEAST_RADIUS: Final = 2.5
_GAP: Final = 10
_LINE: Final = 20
_BACKGROUND: Final = (24, 24, 24)
_WORDS: Final = (225, 225, 225)
_BORDER: Final = (150, 150, 150)
_CROSS: Final = (255, 235, 0)
_LINK: Final = (200, 80, 255)


@dataclass(frozen=True, slots=True)
class PointPanel:
    """One frame of a picture of points."""

    frame: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""
    caption: str
    places: npt.NDArray[np.float64] | None = None
    """(h, N, 2) as (x, y) in pixels, from the frame's upper left corner; None for no points."""
    weights: npt.NDArray[np.float64] | None = None
    """(h, N); of either sign."""
    is_query: bool = False
    """Whether the query is in this frame; elsewhere its place is marked faintly."""


class PointStyle(NamedTuple):
    """How points are drawn."""

    radius: float
    """Of the point with the largest weight of the picture, in pixels of the frame."""
    num_linked: int = 0
    """How many points of a frame, the heaviest, are linked with the query."""


def draw_points(
    panels: Sequence[PointPanel], *, query: tuple[float, float], title: str, style: PointStyle
) -> Image.Image:
    """Draw points as discs whose area is their weight's share of the largest.

    Each head has a colour; discs of negative weights are hollow. Around a frame is a margin, on
    whose edge lie the points that are further away; the line below counts those outside.

    Args:
        panels: The frames, in order.
        query: (x, y) in pixels of the frames.
        title: Line above.
        style: How points are drawn.

    Returns:
        RGB.
    """
    weights = [panel.weights for panel in panels if panel.weights is not None]
    largest = max((float(np.abs(part).max()) for part in weights), default=0.0)
    num_heads = max((len(part) for part in weights), default=0)
    colours = head_colours(num_heads)
    images = [
        _draw_panel(panel, query=query, largest=largest, colours=colours, style=style)
        for panel in panels
    ]
    captions = [panel.caption for panel in panels]
    sheet = _lay_out(images, captions, title=title, footer=_count_outside(panels))
    if num_heads > 1:
        _draw_legend(sheet, colours)
    return sheet


def draw_heat(
    frames: npt.NDArray[np.uint8],
    *,
    heat: npt.NDArray[np.floating],
    captions: Sequence[str],
    title: str,
) -> Image.Image:
    """Lay heat maps over frames in grey: dark red to pale yellow, nothing where there is none.

    Args:
        frames: (T, H, W, 3) RGB.
        heat: (T, h, w) from 0 to 1, on any grid that spans the frames.
        captions: Of each frame.
        title: Line above.

    Returns:
        RGB.
    """
    images = []
    for frame, values in zip(frames, heat, strict=True):
        large = enlarge(frame, _factor(frame))
        height, width = large.shape[:2]
        small = Image.fromarray(values.astype(np.float32))
        share = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR), np.float64)
        share = share.clip(0.0, 1.0)[..., None]
        grey = large.mean(axis=2, keepdims=True)
        opacity = 0.75 * np.sqrt(share)
        mixed = (1 - opacity) * grey + opacity * heat_colours(share[..., 0])
        images.append(Image.fromarray(np.rint(mixed).astype(np.uint8)))
    footer = "dark: least, pale: most, of this clip"
    return _lay_out(images, captions, title=title, footer=footer)


def between_extremes(
    values: npt.NDArray[np.floating], *, lowest: float | None = None
) -> npt.NDArray[np.float64]:
    """Scale values to 0 at the lowest and 1 at the highest; all 0 where they are all the same.

    Args:
        values: Any shape.
        lowest: What becomes 0; None for the least value.
    """
    wide = values.astype(np.float64)
    low = float(wide.min()) if lowest is None else lowest
    spread = float(wide.max()) - low
    return (wide - low) / spread if spread > 0 else np.zeros_like(wide)


def head_colours(num_heads: int) -> list[tuple[int, int, int]]:
    """Return a colour for each head, spread over the hues."""
    colours = []
    for head in range(num_heads):
        red, green, blue = colorsys.hsv_to_rgb((0.55 + head / num_heads) % 1.0, 0.75, 1.0)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def _draw_panel(
    panel: PointPanel,
    *,
    query: tuple[float, float],
    largest: float,
    colours: Sequence[tuple[int, int, int]],
    style: PointStyle,
) -> Image.Image:
    factor = _factor(panel.frame)
    large = enlarge(panel.frame, factor)
    height, width = large.shape[:2]
    margin = max(height, width) // 8
    canvas = Image.new("RGB", (width + 2 * margin, height + 2 * margin), _BACKGROUND)
    # Darker, so that points stand out.
    canvas.paste(Image.fromarray((large * 0.6).astype(np.uint8)), (margin, margin))
    pen = ImageDraw.Draw(canvas, "RGBA")
    pen.rectangle((margin - 1, margin - 1, margin + width, margin + height), outline=_BORDER)
    centre = (query[0] * factor + margin, query[1] * factor + margin)
    if panel.places is not None and panel.weights is not None:
        furthest = (width + 2 * margin - 1, height + 2 * margin - 1)
        places = (panel.places * factor + margin).clip(0, furthest)
        order = np.argsort(-np.abs(panel.weights), axis=None)
        for head, point in zip(*np.unravel_index(order, panel.weights.shape), strict=True):
            share = float(panel.weights[head, point]) / largest if largest else 0.0
            radius = max(_LEAST_RADIUS, style.radius * factor * math.sqrt(abs(share)))
            _draw_disc(pen, places[head, point], radius, colours[head], is_filled=share >= 0)
        heaviest = np.argsort(-panel.weights, axis=None)[: style.num_linked]
        for head, point in zip(*np.unravel_index(heaviest, panel.weights.shape), strict=True):
            pen.line((*centre, *places[head, point].tolist()), fill=_LINK, width=2)
    _draw_cross(pen, centre, is_bold=panel.is_query)
    return canvas


def _draw_disc(
    pen: ImageDraw.ImageDraw,
    place: npt.NDArray[np.float64],
    radius: float,
    colour: tuple[int, int, int],
    *,
    is_filled: bool,
) -> None:
    x, y = place.tolist()
    box = (x - radius, y - radius, x + radius, y + radius)
    pen.ellipse(box, fill=(*colour, 120) if is_filled else None, outline=(*colour, 255))


def _draw_cross(pen: ImageDraw.ImageDraw, centre: tuple[float, float], *, is_bold: bool) -> None:
    x, y = centre
    arm, width = (10, 3) if is_bold else (6, 1)
    for line in ((x - arm, y - arm, x + arm, y + arm), (x - arm, y + arm, x + arm, y - arm)):
        if is_bold:
            pen.line(line, fill=(0, 0, 0), width=width + 2)
        pen.line(line, fill=_CROSS, width=width)


def _factor(frame: npt.NDArray[np.uint8]) -> int:
    longer = int(max(frame.shape[0], frame.shape[1]))
    return max(1, math.ceil(_SIDE / longer))


def _count_outside(panels: Sequence[PointPanel]) -> str:
    outside = total = 0
    for panel in panels:
        if panel.places is None:
            continue
        height, width = panel.frame.shape[:2]
        inside = ((panel.places >= 0) & (panel.places < (width, height))).all(axis=-1)
        outside += int((~inside).sum())
        total += inside.size
    return f"{outside} of {total} points outside of the frames (far ones on the edge); cross: query"


def _draw_legend(sheet: Image.Image, colours: Sequence[tuple[int, int, int]]) -> None:
    pen = ImageDraw.Draw(sheet)
    left, top = 4 * _GAP + int(pen.textlength("heads", font=_font())), sheet.height - _LINE
    pen.text((_GAP, top), "heads", fill=_WORDS, font=_font())
    for head, colour in enumerate(colours):
        pen.text((left + 28 * head, top), str(head), fill=colour, font=_font())


def _lay_out(
    images: Sequence[Image.Image], captions: Sequence[str], *, title: str, footer: str
) -> Image.Image:
    """Set pictures of one size out in rows, each above its caption; one line is left below."""
    columns = max(min(len(images), 4), math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    longest = max(pen.textlength(words, font=_font()) for words in (title, footer))
    size = (
        max(columns * (width + _GAP) + _GAP, int(longest) + 2 * _GAP),
        rows * (height + _LINE + _GAP) + 3 * _LINE + _GAP,
    )
    sheet = Image.new("RGB", size, _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP // 2), title, fill=_WORDS, font=_font())
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        left = _GAP + column * (width + _GAP)
        top = _LINE + _GAP + row * (height + _LINE + _GAP)
        sheet.paste(image, (left, top))
        pen.text((left, top + height), caption, fill=_WORDS, font=_font())
    pen.text((_GAP, size[1] - 2 * _LINE), footer, fill=_BORDER, font=_font())
    return sheet


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
