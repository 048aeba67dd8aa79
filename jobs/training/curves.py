"""Draw a run's loss and accuracy over its steps, or those of several runs to compare."""

import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from gopstream.jobs.errors import UserError
from gopstream.jobs.training.run_logs import LOG_NAME, read_log
from gopstream.shards.layout import write_atomic

_WIDTH, _HEIGHT = 960, 380  # of one diagram, pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 24, 40, 56  # margins, pixels
_INK, _GRID, _PAPER = (40, 40, 40), (225, 225, 225), (255, 255, 255)
# Okabe and Ito, Color Universal Design (2008): told apart by those who do not see all colours.
_COLOURS: Final = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
_DIAGRAMS: Final = (
    ("training loss", "train", "loss"),
    ("validation accuracy (top1)", "validation", "top1"),
)
_NUM_TICKS: Final = 6


class Curve(NamedTuple):
    """Points of one run."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(step, value), by step."""


class Axis(NamedTuple):
    """Maps values to pixels."""

    least: float
    greatest: float
    begin: int
    """Pixel of the least value."""
    end: int

    def pixel(self, value: float) -> float:
        """Return where a value stands."""
        share = (value - self.least) / (self.greatest - self.least)
        return self.begin + share * (self.end - self.begin)


def draw_curves(runs: Mapping[str, Path], target: Path) -> None:
    """Draw training loss above and validation accuracy below, over steps, as a PNG.

    Args:
        runs: Folders of runs, or their logs, by the name that the legend gives them.
        target: File to write.

    Raises:
        UserError: If a run has no log, or no run has a number to draw.
    """
    rows = {name: _rows(path) for name, path in runs.items()}
    diagrams = [(title, _curves(rows, kind, field)) for title, kind, field in _DIAGRAMS]
    diagrams = [(title, curves) for title, curves in diagrams if any(c.points for c in curves)]
    if not diagrams:
        places = ", ".join(str(path) for path in runs.values())
        raise UserError(f"expected rows with a loss or top1 to draw, there are none in {places}")
    picture = Image.new("RGB", (_WIDTH, _HEIGHT * len(diagrams)), _PAPER)
    pen = ImageDraw.Draw(picture)
    for number, (title, curves) in enumerate(diagrams):
        _draw_diagram(pen, curves, title=title, top=number * _HEIGHT)
    content = BytesIO()
    picture.save(content, format="PNG")
    write_atomic(target, content.getvalue())


def ticks(least: float, greatest: float) -> list[float]:
    """Return round numbers from the one at or below the least to that at or above the greatest.

    They stand 1, 2 or 5 times a power of ten apart.
    """
    extent = greatest - least or max(abs(least), 1.0)
    rough = extent / _NUM_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    apart = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(least / apart + 1e-9), math.ceil(greatest / apart - 1e-9)
    return [number * apart for number in range(first, max(last, first + 1) + 1)]


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_log(path / LOG_NAME if path.is_dir() else path)


def _curves(rows: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, field: str) -> list[Curve]:
    """Return a curve of each run; one that has no such number has no points."""
    return [
        Curve(
            name,
            tuple(
                sorted(
                    (row["step"], row[field])
                    for row in of_run
                    if row.get("kind") == kind
                    and isinstance(row.get(field), (int, float))
                    and math.isfinite(row[field])
                )
            ),
        )
        for name, of_run in rows.items()
    ]


def _draw_diagram(
    pen: ImageDraw.ImageDraw, curves: Sequence[Curve], *, title: str, top: int
) -> None:
    points = [point for curve in curves for point in curve.points]
    steps = ticks(0, max(step for step, _ in points))
    values = ticks(min(value for _, value in points), max(value for _, value in points))
    across = Axis(steps[0], steps[-1], _LEFT, _WIDTH - _RIGHT)
    up = Axis(values[0], values[-1], top + _HEIGHT - _BOTTOM, top + _TOP)
    font = ImageFont.load_default(14)
    for step in steps:
        x = across.pixel(step)
        pen.line((x, up.begin, x, up.end), fill=_GRID)
        pen.text((x, up.begin + 6), f"{step:g}", fill=_INK, font=font, anchor="mt")
    for value in values:
        y = up.pixel(value)
        pen.line((across.begin, y, across.end, y), fill=_GRID)
        pen.text((across.begin - 8, y), f"{value:.6g}", fill=_INK, font=font, anchor="rm")
    pen.line((across.begin, up.end, across.begin, up.begin, across.end, up.begin), fill=_INK)
    pen.text((across.begin, top + 12), title, fill=_INK, font=font)
    pen.text((across.end, up.begin + 26), "step", fill=_INK, font=font, anchor="rt")
    for curve, colour in zip(curves, _colours(), strict=False):
        _draw_curve(pen, curve, across=across, up=up, colour=colour)
    _draw_legend(pen, curves, right=across.end, top=top + 12, font=font)


def _draw_curve(
    pen: ImageDraw.ImageDraw, curve: Curve, *, across: Axis, up: Axis, colour: tuple[int, int, int]
) -> None:
    pixels = [(across.pixel(step), up.pixel(value)) for step, value in curve.points]
    if len(pixels) > 1:
        pen.line(pixels, fill=colour, width=2, joint="curve")
    if len(pixels) <= across.end // 16:  # dots that do not touch
        for x, y in pixels:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)


def _draw_legend(
    pen: ImageDraw.ImageDraw,
    curves: Sequence[Curve],
    *,
    right: float,
    top: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Name the runs that have points, from the right, above the diagram."""
    shown = [pair for pair in zip(curves, _colours(), strict=False) if pair[0].points]
    for curve, colour in reversed(shown):
        right -= pen.textlength(curve.name, font=font)
        pen.text((right, top), curve.name, fill=_INK, font=font)
        pen.line((right - 28, top + 8, right - 6, top + 8), fill=colour, width=3)
        right -= 46


def _colours() -> Iterator[tuple[int, int, int]]:
    while True:
        yield from _COLOURS
