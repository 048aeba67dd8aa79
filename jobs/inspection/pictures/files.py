"""Write pictures of a clip: a PNG per frame and layer, a movie, a contact sheet."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.inspected import InspectedClip
from gopstream.jobs.inspection.pictures.canvas import Pixels, paper
from gopstream.jobs.inspection.pictures.layers import choose_layers, draw_layer, needs_of
from gopstream.jobs.inspection.pictures.movement import FITTED_FRAMES, Style, fit_style
from gopstream.jobs.inspection.pictures.surroundings import walk
from gopstream.shards.layout import write_atomic

_GAP: Final = 8
_SHEET_WIDTH: Final = 1920
SHEET_FRAMES: Final = 12
"""Frames of a contact sheet, of a clip that has as many."""


@dataclass(frozen=True, slots=True)
class DrawnFrame:
    """All layers of one frame."""

    index: int
    pages: dict[str, Pixels]
    """Of each layer, by name."""


def write_pngs(
    clip: InspectedClip,
    folder: Path,
    *,
    layers: Sequence[str] | None = None,
    first: int = 0,
    last: int | None = None,
    style: Style | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write ``000012_arrows.png`` and so on: a picture of each layer of each frame.

    Args:
        clip: What to look at.
        folder: Made if missing; pictures of the same names are replaced.
        layers: Names; None for the usual ones that the clip has.
        first: First frame.
        last: Last frame; None for the clip's last.
        style: Scales; None to make them of the first frames.
        on_frame: Called after each frame.

    Returns:
        The files, by frame, then by layer.

    Raises:
        UserError: If a layer or a frame is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    drawing = draw_frames(
        clip, layers=layers, first=first, last=last, style=style, on_frame=on_frame
    )
    for drawn in drawing:
        for name, page in drawn.pages.items():
            path = folder / f"{drawn.index:06d}_{name}.png"
            write_png(path, page)
            paths.append(path)
    return paths


def write_sheet(
    clip: InspectedClip,
    path: Path,
    *,
    layers: Sequence[str] | None = None,
    columns: int | None = None,
    num_frames: int = SHEET_FRAMES,
    style: Style | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Path:
    """Write a contact sheet: frames spread evenly over the clip, all layers of each together.

    Args:
        clip: What to look at.
        path: A PNG.
        layers: Names; None for the usual ones that the clip has.
        columns: Frames side by side; None for as many as keep the pictures readable.
        num_frames: How many frames, if the clip has as many.
        style: Scales; None to make them of the frames that are shown.
        on_frame: Called after each frame.

    Raises:
        UserError: If a layer is not there, or a number is too small.
    """
    names = choose_layers(layers, facts=clip.facts)
    across = columns if columns is not None else max(1, 4 // len(names))
    if across < 1 or num_frames < 1:
        raise UserError(
            f"expected at least 1 column and 1 frame, got {columns} columns, {num_frames} frames"
        )
    chosen = sheet_frames(clip.facts.kinds, num_frames)
    scales = style or fit_style(next(clip.frames(index, index + 1)) for index in chosen)
    room = (_SHEET_WIDTH - (across - 1) * _GAP) // across
    tiles = []
    for index in chosen:
        for drawn in draw_frames(
            clip, layers=names, first=index, last=index, style=scales, on_frame=on_frame
        ):
            tiles.append(fitted(tile(list(drawn.pages.values()), columns=len(names)), room, None))
    write_png(path, tile(tiles, columns=across))
    return path


def sheet_frames(kinds: str, count: int) -> list[int]:
    """Return up to ``count`` frames, spread evenly; for an I-frame, without motion, the next."""
    spread = np.linspace(0, len(kinds) - 1, min(count, len(kinds))).round().astype(int).tolist()
    chosen = [
        index + 1 if kinds[index] == "I" and kinds[index + 1 : index + 2] in ("P", "B") else index
        for index in spread
    ]
    return sorted(set(chosen))


def draw_frames(
    clip: InspectedClip,
    *,
    layers: Sequence[str] | None = None,
    first: int = 0,
    last: int | None = None,
    style: Style | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Iterator[DrawnFrame]:
    """Draw layers of frames ``first`` to ``last``, one frame after the other.

    ``on_frame`` is called when a frame is drawn.

    Raises:
        UserError: If a layer or a frame is not there; before the first frame is drawn.
    """
    facts = clip.facts
    names = choose_layers(layers, facts=facts)
    end = facts.num_frames - 1 if last is None else last
    if not 0 <= first <= end < facts.num_frames:
        raise UserError(
            f"{facts.name} has the frames 0 to {facts.num_frames - 1}; expected a first and a last "
            f"one of them, got {first} and {end}"
        )
    scales = style or style_of(clip, first=first, last=end)
    for frame, around in walk(clip, first=first, last=end, needs=needs_of(names, scales)):
        pages = {
            name: draw_layer(name, frame, facts=facts, style=scales, around=around)
            for name in names
        }
        on_frame()
        yield DrawnFrame(frame.index, pages)


def style_of(clip: InspectedClip, *, first: int, last: int) -> Style:
    """Make scales of the first frames of a look; these are read for it."""
    return fit_style(clip.frames(first, min(last + 1, first + FITTED_FRAMES)))


def tile(pages: Sequence[Pixels], *, columns: int) -> Pixels:
    """Set pictures out in rows; those of a column are as wide as the widest of it.

    Returns:
        (h, w, 3).
    """
    rows = [pages[begin : begin + columns] for begin in range(0, len(pages), columns)]
    widths = [
        max(row[column].shape[1] for row in rows if column < len(row))
        for column in range(min(columns, len(pages)))
    ]
    heights = [max(page.shape[0] for page in row) for row in rows]
    if len(pages) == 1:
        return pages[0]
    sheet = paper(sum(heights) + _GAP * (len(rows) - 1), sum(widths) + _GAP * (len(widths) - 1))
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for page, width in zip(row, widths, strict=False):
            sheet[top : top + page.shape[0], left : left + page.shape[1]] = page
            left += width + _GAP
        top += height + _GAP
    return sheet


def fitted(page: Pixels, width: int, height: int | None) -> Pixels:
    """Make a picture smaller until it fits; never larger."""
    scale = min(1.0, width / page.shape[1], 1.0 if height is None else height / page.shape[0])
    if scale == 1.0:
        return page
    size = (max(1, round(page.shape[1] * scale)), max(1, math.floor(page.shape[0] * scale)))
    return np.asarray(Image.fromarray(page).resize(size, Image.Resampling.LANCZOS))


def write_png(path: Path, page: Pixels) -> None:
    """Write an RGB picture, whole or not at all; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(io.BytesIO()) as content:
        Image.fromarray(page).save(content, format="PNG")
        write_atomic(path, content.getvalue())
