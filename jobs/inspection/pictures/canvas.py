"""The area that pictures are drawn on, its scale, and the words around it.

All layers of a clip have one size, so that they line up in a movie and on a sheet: the part of the
coded picture that is shown, small ones enlarged by a whole factor. Lines, letters and the distance
between arrows grow with it.

Dimensions: H x W pixels of the drawn area, h x w of a part of a page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from gopstream.jobs.inspection.inspected import ClipFacts
from gopstream.pipeline.grid import BLOCK

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Item = TypeVar("Item", bound=np.generic)

PAPER: Final[Colour] = (24, 24, 24)
INK: Final[Colour] = (230, 230, 230)
FAINT: Final[Colour] = (165, 165, 165)
_LEAST_SIDE: Final = 640
"""Pixels that the longer side of an enlarged picture has at least."""
_LEAST_PAGE: Final = 480
"""Width in pixels below which a page is too narrow for its words."""
_LEGEND_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Canvas:
    """Where on the drawn area a place of the coded picture lies."""

    origin: tuple[int, int]
    """(x, y) of its upper left corner in the coded picture."""
    shown: tuple[int, int]
    """(width, height) in pixels of the coded picture."""
    factor: int
    """Pixels of the drawn area per pixel of the coded picture."""

    @property
    def size(self) -> tuple[int, int]:
        """(W, H)."""
        return self.shown[0] * self.factor, self.shown[1] * self.factor

    @property
    def font_size(self) -> int:
        """Of words, in pixels."""
        return min(28, max(13, round(max(self.size) / 56)))

    @property
    def spacing(self) -> int:
        """Least distance between two arrows in pixels."""
        return min(36, max(20, round(max(self.size) / 54)))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Turn a place of the coded picture into one of the drawn area."""
        return (x - self.origin[0]) * self.factor, (y - self.origin[1]) * self.factor

    def spread_pixels(self, plane: npt.NDArray[Item]) -> npt.NDArray[Item]:
        """Show a plane of the coded picture: (Hc, Wc, ...) becomes (H, W, ...)."""
        x, y = self.origin
        width, height = self.shown
        return enlarge(plane[y : y + height, x : x + width], self.factor)

    def spread_blocks(self, blocks: npt.NDArray[Item]) -> npt.NDArray[Item]:
        """Show a value per block: (Hb, Wb, ...) becomes (H, W, ...)."""
        columns = (self.origin[0] + np.arange(self.shown[0])) // BLOCK
        rows = (self.origin[1] + np.arange(self.shown[1])) // BLOCK
        return enlarge(blocks[rows[:, None], columns], self.factor)

    def spread_picture(self, picture: Pixels | None) -> Pixels:
        """Show a stored picture, (H', W', 3) of any scale; black where there is none."""
        if picture is None:
            return np.zeros((self.size[1], self.size[0], 3), np.uint8)
        return enlarge(self.display_picture(picture), self.factor)

    def spread_dimmed(self, picture: Pixels | None, *, light: float = 0.5) -> Pixels:
        """Show a stored picture as :func:`dimmed` makes it; before it is enlarged, that is less."""
        if picture is None:
            return self.spread_picture(None)
        return enlarge(dimmed(self.display_picture(picture), light=light), self.factor)

    def display_picture(self, picture: Pixels) -> Pixels:
        """Bring a stored picture to the size in which it was coded."""
        if (picture.shape[1], picture.shape[0]) == self.shown:
            return picture
        image = Image.fromarray(picture).resize(self.shown, Image.Resampling.BICUBIC)
        return np.asarray(image)


def canvas_of(facts: ClipFacts) -> Canvas:
    """Return the canvas on which all layers of a clip are drawn."""
    x, y, width, height = facts.display_rect
    return Canvas((x, y), (width, height), max(1, math.ceil(_LEAST_SIDE / max(width, height))))


def enlarge(picture: npt.NDArray[Item], factor: int) -> npt.NDArray[Item]:
    """Repeat each pixel of an (H, W, ...) picture ``factor`` times both ways."""
    if factor == 1:
        return picture
    # Columns first: then whole rows are copied.
    return np.repeat(np.repeat(picture, factor, axis=1), factor, axis=0)


def paper(height: int, width: int) -> Pixels:
    """Return an empty page, (height, width, 3)."""
    page = np.empty((height, width, 3), np.uint8)
    page[:] = np.full((width, 3), PAPER, np.uint8)  # by rows: by pixels it takes ten times as long
    return page


def dimmed(picture: Pixels, *, light: float = 0.5) -> Pixels:
    """Return a picture in grey and darker, on which colours stand out."""
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32) * np.float32(light)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


class Legend(NamedTuple):
    """What a picture's colours mean."""

    lines: tuple[str, ...]
    """At most two; a third is not shown."""
    keys: tuple[tuple[Colour, str], ...] = ()
    """Squares of a colour with what it stands for; take the first line."""
    bar: Pixels | None = None
    """(n, 3) colours of a scale, with its ``ends`` before and behind it; takes the first line."""
    ends: tuple[str, str] = ("", "")
    badge: Pixels | None = None
    """(n, n, 3) picture to the left of the lines."""


class Drawn(NamedTuple):
    """A layer of a frame, before words are put around it."""

    picture: Pixels
    """(H, W, 3)."""
    legend: Legend


def make_page(drawn: Drawn, *, title: str, font_size: int) -> Pixels:
    """Put a title above a picture and its legend below.

    Returns:
        (h, w, 3). Pictures of one size make pages of one size, whatever the words.
    """
    height, width = drawn.picture.shape[:2]
    line = line_height(font_size)
    page = Image.new("RGB", (max(width, _LEAST_PAGE), height + (1 + _LEGEND_LINES) * line), PAPER)
    page.paste(Image.fromarray(drawn.picture), ((page.width - width) // 2, line))
    pen = ImageDraw.Draw(page)
    margin = font_size // 2
    write(pen, (margin, 0), title, font_size=font_size, room=page.width - 2 * margin)
    _draw_legend(page, drawn.legend, top=line + height, font_size=font_size)
    return np.asarray(page)


def line_height(font_size: int) -> int:
    """Return the pixels that a line of words takes."""
    return round(1.5 * font_size)


def write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    words: str,
    *,
    font_size: int,
    room: float,
    colour: Colour = INK,
) -> float:
    """Write a line from its upper left corner; what does not fit ends in dots.

    Returns:
        Its width in pixels.
    """
    font = font_of(font_size)
    # Names come from users: no line breaks, no other control characters.
    fitting = "".join(letter if letter.isprintable() else "?" for letter in words)
    if pen.textlength(fitting, font=font) > room:
        while fitting and pen.textlength(fitting + "...", font=font) > room:
            fitting = fitting[: max(0, int(len(fitting) * 0.95) - 1)]
        fitting += "..."
    top = place[1] + (line_height(font_size) - font_size) / 2.5
    pen.text((place[0], top), fitting, fill=colour, font=font)
    return pen.textlength(fitting, font=font)


@cache
def font_of(size: int) -> Font:
    """Return Pillow's own font, which needs no file of the machine."""
    return ImageFont.load_default(size)


def _draw_legend(page: Image.Image, legend: Legend, *, top: int, font_size: int) -> None:
    pen, line, margin = ImageDraw.Draw(page), line_height(font_size), font_size // 2
    left = margin
    if legend.badge is not None:
        side = _LEGEND_LINES * line - 4
        badge = Image.fromarray(legend.badge).resize((side, side), Image.Resampling.LANCZOS)
        page.paste(badge, (left, top + 2))
        left += side + margin
    rows: list[str] = list(legend.lines)
    if legend.keys:
        _draw_keys(pen, legend.keys, (left, top), font_size=font_size, end=page.width - margin)
    elif legend.bar is not None:
        _draw_bar(page, legend, (left, top), font_size=font_size)
    first = 1 if legend.keys or legend.bar is not None else 0
    for number, words in enumerate(rows[: _LEGEND_LINES - first], start=first):
        write(
            pen,
            (left, top + number * line),
            words,
            font_size=font_size,
            room=page.width - margin - left,
            colour=FAINT,
        )


def _draw_keys(
    pen: ImageDraw.ImageDraw,
    keys: Sequence[tuple[Colour, str]],
    place: tuple[float, float],
    *,
    font_size: int,
    end: float,
) -> None:
    left, top = place
    line, side = line_height(font_size), 0.8 * font_size
    for colour, words in keys:
        middle = top + line / 2
        pen.rectangle((left, middle - side / 2, left + side, middle + side / 2), fill=colour)
        left += 1.4 * side
        left += write(pen, (left, top), words, font_size=font_size, room=max(0.0, end - left))
        left += font_size


def _draw_bar(page: Image.Image, legend: Legend, place: tuple[int, int], *, font_size: int) -> None:
    assert legend.bar is not None
    pen, (left, top) = ImageDraw.Draw(page), place
    line, width = line_height(font_size), min(page.width // 3, 24 * font_size)
    taken = write(pen, (left, top), legend.ends[0], font_size=font_size, room=page.width / 3)
    bar_left = round(left + taken) + font_size // 2
    bar = Image.fromarray(legend.bar[None]).resize((width, font_size), Image.Resampling.NEAREST)
    page.paste(bar, (bar_left, top + (line - font_size) // 2))
    right = bar_left + width + font_size // 2
    write(
        pen, (right, top), legend.ends[1], font_size=font_size, room=page.width - right - font_size
    )
