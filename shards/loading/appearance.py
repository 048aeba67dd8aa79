"""Changes of a frame's colours, and erased boxes: nothing moves, so that motion stays.

Pillow does the work, as in the recipes that name these operations, so that an amount means what
it means there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from gopstream.shards.loading.geometry import Box

Pixels = npt.NDArray[np.uint8]
Draws = npt.NDArray[np.float64]
"""Random numbers in [0, 1)."""
EraseFill = Literal["noise", "colour", "mean"]

JITTER_DRAWS: Final = 8
ERASE_ATTEMPTS: Final = 10
"""Boxes that erasing tries, as timm does."""
_GREY: Final = (128, 128, 128)


class AppearanceOp(NamedTuple):
    """One change of a frame."""

    name: str
    """Key of ``APPEARANCE_OPS``."""
    amount: float = 0.0
    centre: tuple[float, float] = (0.5, 0.5)
    """Of a cut-out, as shares of width and height."""


def apply_ops(frame: Pixels, ops: Sequence[AppearanceOp]) -> Pixels:
    """Change a frame.

    Args:
        frame: (H, W, 3) RGB.
        ops: What to do, in this order.

    Returns:
        (H, W, 3); the frame itself where there is nothing to do.
    """
    if not ops:
        return frame
    picture = Image.fromarray(frame)
    for op in ops:
        picture = APPEARANCE_OPS[op.name](picture, op)
    return np.asarray(picture)


def _hue(picture: Image.Image, op: AppearanceOp) -> Image.Image:
    """Shift the hue by a share of the circle, in steps of 1 / 255 as torchvision does."""
    hue, saturation, value = picture.convert("HSV").split()
    shift = int(op.amount * 255)
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _posterize(picture: Image.Image, op: AppearanceOp) -> Image.Image:
    """Keep some of the high bits of each level."""
    bits = min(8, int(op.amount))
    return picture.point([level & (256 - (1 << (8 - bits))) for level in range(256)] * 3)


def _solarize_add(picture: Image.Image, op: AppearanceOp) -> Image.Image:
    """Brighten the levels below the middle."""
    add = int(op.amount)
    return picture.point([min(255, v + add) if v < 128 else v for v in range(256)] * 3)


def _cutout(picture: Image.Image, op: AppearanceOp) -> Image.Image:
    """Put a grey square whose side is a share of the picture's shorter one."""
    half = op.amount * min(picture.size) / 2
    x, y = op.centre[0] * picture.width, op.centre[1] * picture.height
    left, top = max(0, round(x - half)), max(0, round(y - half))
    right, bottom = min(picture.width, round(x + half)), min(picture.height, round(y + half))
    picture = picture.copy()
    picture.paste(_GREY, (left, top, right, bottom))
    return picture


APPEARANCE_OPS: Final[Mapping[str, Callable[[Image.Image, AppearanceOp], Image.Image]]] = (
    MappingProxyType(
        {
            "brightness": lambda p, op: ImageEnhance.Brightness(p).enhance(op.amount),
            "contrast": lambda p, op: ImageEnhance.Contrast(p).enhance(op.amount),
            "saturation": lambda p, op: ImageEnhance.Color(p).enhance(op.amount),
            "sharpness": lambda p, op: ImageEnhance.Sharpness(p).enhance(op.amount),
            "hue": _hue,
            "greyscale": lambda p, op: p.convert("L").convert("RGB"),
            "blur": lambda p, op: p.filter(ImageFilter.GaussianBlur(op.amount)),
            "autocontrast": lambda p, op: ImageOps.autocontrast(p),
            "equalize": lambda p, op: ImageOps.equalize(p),
            "invert": lambda p, op: ImageOps.invert(p),
            "posterize": _posterize,
            "solarize": lambda p, op: ImageOps.solarize(p, int(op.amount)),
            "solarize_add": _solarize_add,
            "cutout": _cutout,
        }
    )
)
"""Every change of appearance there is. Amounts: a factor (brightness, contrast, saturation,
sharpness), a share of the circle (hue), a standard deviation in pixels (blur), bits that stay
(posterize), the lowest level to invert (solarize), levels to add (solarize_add), a share of the
shorter side (cutout); none for the others."""


def draw_jitter(
    draws: Draws, *, brightness: float, contrast: float, saturation: float, hue: float
) -> tuple[AppearanceOp, ...]:
    """Choose order and amounts of a colour jitter, as torchvision's ColorJitter does.

    Args:
        draws: (JITTER_DRAWS,): four for the order, four for the amounts.
        brightness: The factor lies within 1 - this (not below 0) and 1 + this.
        contrast: Likewise.
        saturation: Likewise.
        hue: The shift lies within - this and this.
    """
    ops = []
    for name, spread, draw in (
        ("brightness", brightness, draws[4]),
        ("contrast", contrast, draws[5]),
        ("saturation", saturation, draws[6]),
    ):
        low = max(0.0, 1.0 - spread)
        ops.append(AppearanceOp(name, low + (1.0 + spread - low) * float(draw)))
    ops.append(AppearanceOp("hue", hue * (2.0 * float(draws[7]) - 1.0)))
    spreads = (brightness, contrast, saturation, hue)
    return tuple(ops[place] for place in np.argsort(draws[:4], kind="stable") if spreads[place] > 0)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A box of a frame that is painted over."""

    box: Box
    fill: EraseFill
    key: int
    """Of the random numbers that the fill is made of."""


def draw_erasure(
    draws: Draws,
    *,
    size: int,
    area: tuple[float, float],
    ratio: float,
    fill: EraseFill,
    key: int,
) -> Erasure | None:
    """Choose a box to erase; None if none of the boxes tried is smaller than the picture.

    Args:
        draws: (ERASE_ATTEMPTS, 4): area, aspect, left, top.
        size: Side of the picture.
        area: Range of the box's share of the picture's area.
        ratio: Least height over width, the greatest being its inverse; even in logarithm.
        fill: What to paint.
        key: Of the fill's random numbers.
    """
    for area_draw, ratio_draw, left, top in draws.tolist():
        target = size * size * (area[0] + (area[1] - area[0]) * area_draw)
        aspect = math.exp(math.log(ratio) * (1.0 - 2.0 * ratio_draw))
        height, width = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < width < size and 0 < height < size:
            place = int(left * (size - width + 1)), int(top * (size - height + 1))
            return Erasure(Box(*place, width, height), fill, key)
    return None


def erase(
    frame: Pixels,
    erasure: Erasure,
    *,
    number: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Paint over a box of a frame, in place.

    The released recipes draw normal numbers after normalisation; here they become levels, cut
    at black and white.

    Args:
        frame: (S, S, 3).
        erasure: The box.
        number: Of the frame in its clip: noise differs between frames, a colour does not.
        mean: What normalisation subtracts, RGB where white is 1.
        std: What it divides by.
    """
    left, top, width, height = erasure.box
    shape = {"noise": (height, width, 3), "colour": (1, 1, 3), "mean": (1, 1, 3)}[erasure.fill]
    levels = np.broadcast_to(np.asarray(mean, np.float32), shape)
    if erasure.fill != "mean":
        stream = number if erasure.fill == "noise" else 0
        rng = np.random.Generator(np.random.Philox(key=np.array([erasure.key, stream], np.uint64)))
        levels = levels + rng.standard_normal(shape, np.float32) * np.asarray(std, np.float32)
    painted = np.clip(np.rint(levels * 255.0), 0, 255).astype(np.uint8)
    frame[top : top + height, left : left + width] = painted
