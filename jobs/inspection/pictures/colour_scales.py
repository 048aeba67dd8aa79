"""Colours that stand for numbers."""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.jobs.inspection.pictures.canvas import Colour

# Okabe and Ito, Color Universal Design (2008): told apart by those who do not see all colours.
PAST: Final[Colour] = (86, 180, 233)
FUTURE: Final[Colour] = (230, 159, 0)
BOTH: Final[Colour] = (0, 158, 115)
INTRA: Final[Colour] = (204, 80, 150)
"""Of blocks that no reference list predicts: their reddish purple, stronger."""

# Black, violet, red, orange, pale yellow: each lighter than the one before.
_HEAT: Final = np.array(
    [(0, 0, 0), (70, 15, 110), (190, 40, 80), (250, 140, 20), (255, 250, 180)], np.float64
)
# Blue, white, red: below, at, and above zero.
_SIGNED: Final = np.array(
    [(5, 48, 97), (67, 147, 195), (255, 255, 255), (214, 96, 77), (103, 0, 31)], np.float64
)
_WHEEL_STEPS: Final = (15, 6, 4, 11, 13, 6)
"""Red to yellow, yellow to green, ... magenta to red: steps by which people tell hues apart."""
_WHEEL_ENDS: Final = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255)) + (
    (255, 0, 255),
)
_BADGE_SIDE: Final = 129
_NICE: Final = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)


def heat_colours(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return (..., 3) RGB levels for values from 0 to 1."""
    return _between(_HEAT, values)


def signed_colours(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return (..., 3) RGB levels for values from -1 (blue) over 0 (white) to 1 (red)."""
    return _between(_SIGNED, (values + 1) / 2)


def flow_colours(moved: npt.NDArray[np.floating], *, longest: float) -> npt.NDArray[np.uint8]:
    """Paint movement as optical flow is usually painted: hue is direction, paleness is slowness.

    The wheel is that of Baker et al., A Database and Evaluation Methodology for Optical Flow
    (IJCV 2011), figure 7 and its colorcode.cpp: right is red, down yellow, left blue-green, up
    violet; no movement is white, and what exceeds ``longest`` is darker.

    Args:
        moved: (..., 2) pixels, x to the right, y down.
        longest: Length in pixels that is painted in full colour.

    Returns:
        (..., 3) uint8.
    """
    wheel = _wheel()
    length = np.hypot(moved[..., 0], moved[..., 1]) / max(longest, 1e-9)
    # Right is both -1 and 1, where the wheel begins and ends; 0 - x has no negative zero,
    # with which half of what moves right would be at its end.
    turn = np.arctan2(-(0.0 + moved[..., 1]), 0.0 - moved[..., 0]) / np.pi
    place = (turn + 1) / 2 * (len(wheel) - 1)
    low = np.floor(place).astype(np.int64)
    share = (place - low)[..., None]
    hue = (1 - share) * wheel[low] + share * wheel[(low + 1) % len(wheel)]
    pale = 1 - np.minimum(length, 1)[..., None] * (1 - hue)
    colours = np.where(length[..., None] <= 1, pale, 0.75 * hue)
    painted: npt.NDArray[np.uint8] = np.floor(255 * colours).astype(np.uint8)
    return painted


@cache
def wheel_badge() -> npt.NDArray[np.uint8]:
    """Return a disc of :func:`flow_colours` on black, for legends; its rim is ``longest``."""
    middle = _BADGE_SIDE // 2
    y, x = np.mgrid[-middle : middle + 1, -middle : middle + 1]
    badge = flow_colours(np.stack([x, y], axis=-1).astype(np.float64), longest=middle)
    badge[np.hypot(x, y) > middle] = 24
    return badge


def nice_ceiling(value: float) -> float:
    """Round up to a number that is easily read: 1, 1.5, 2, 3, ... times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(power * step for step in _NICE if power * step >= value * (1 - 1e-9)))


@cache
def _wheel() -> npt.NDArray[np.float64]:
    """Return (55, 3) hues, 0 to 1, from red back to red."""
    hues = []
    for number, steps in enumerate(_WHEEL_STEPS):
        begin = np.array(_WHEEL_ENDS[number], np.float64)
        end = np.array(_WHEEL_ENDS[(number + 1) % len(_WHEEL_ENDS)], np.float64)
        hues.append(begin + (end - begin) * (np.arange(steps) / steps)[:, None])
    return np.concatenate(hues) / 255


def _between(
    stops: npt.NDArray[np.float64], values: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Return the colours of stops that are evenly spread from 0 to 1."""
    places = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.interp(values, places, channel) for channel in stops.T], axis=-1)
