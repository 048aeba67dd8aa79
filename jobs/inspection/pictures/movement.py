"""Which way things move, from the vectors of a frame; see ``vector_table`` for their signs."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.jobs.inspection.inspected import InspectedFrame, SignedResidual
from gopstream.jobs.inspection.pictures.colour_scales import nice_ceiling
from gopstream.jobs.inspection.vector_table import LIST_SIGNS
from gopstream.pipeline.grid import BLOCK, QUARTER_PIXELS, BlockMotion

FITTED_FRAMES: Final = 48
"""Of how many frames scales are made: enough to meet a few GOPs, few enough to wait for."""
_LENGTH_PERCENTILE: Final = 95
_FRAME_PERCENTILE: Final = 90
"""Of the frames of a look, so that one wild frame does not make all others pale."""
_RESIDUAL_PERCENTILE: Final = 99.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Scales of the colours and arrows, the same for all frames of a look."""

    longest: float = 8.0
    """Pixels of the coded picture that are painted in full colour."""
    largest_residual: float = 32.0
    """Level of a residual that is painted in full colour."""
    span: int = 8
    """Frames over which motion is accumulated; 8 is a sub-clip of DVT."""


def fit_style(frames: Iterable[InspectedFrame], *, span: int = 8) -> Style:
    """Choose scales that suit the first frames of a look.

    Args:
        frames: Read up to ``FITTED_FRAMES``.
        span: Frames over which motion is accumulated.
    """
    lengths: list[float] = []
    levels: list[float] = []
    for frame in islice(frames, FITTED_FRAMES):
        if frame.motion is not None:
            lengths.append(_usual_length(frame.motion))
        if frame.residual is not None:
            levels.append(_usual_level(frame.residual, frame.motion))
    return Style(
        longest=nice_ceiling(max(1.0, _usual(lengths))),
        largest_residual=nice_ceiling(max(8.0, _usual(levels))),
        span=span,
    )


def list_movement(motion: BlockMotion, number: int) -> npt.NDArray[np.float32]:
    """Return how the content of each block moves by one list: (Hb, Wb, 2) pixels, 0 if unknown.

    From the reference to the frame for list 0, from the frame to the reference for list 1.
    """
    scale = np.float32(LIST_SIGNS[number] / QUARTER_PIXELS)
    moved: npt.NDArray[np.float32] = motion.motion[number].astype(np.float32) * scale
    return moved


def movement(motion: BlockMotion) -> npt.NDArray[np.float32]:
    """Return (Hb, Wb, 2) pixels: by list 0 where it predicts a block, elsewhere by list 1."""
    moved = list_movement(motion, 0)
    for number in range(1, len(motion.coverage)):
        moved = np.where(motion.coverage[0][..., None] > 0, moved, list_movement(motion, number))
    return moved


def predicted_blocks(motion: BlockMotion) -> npt.NDArray[np.bool_]:
    """Return (Hb, Wb): whether any list predicts a block."""
    predicted: npt.NDArray[np.bool_] = np.logical_or.reduce(motion.coverage, axis=0)
    return predicted


def predicted_pixels(motion: BlockMotion) -> npt.NDArray[np.bool_]:
    """Return (Hc, Wc): whether any list predicts a pixel."""
    blocks = predicted_blocks(motion)
    return np.repeat(np.repeat(blocks, BLOCK, axis=0), BLOCK, axis=1)


def _usual(numbers: list[float]) -> float:
    """Return what few of the frames that have something exceed."""
    some = [number for number in numbers if number > 0]
    return float(np.percentile(some, _FRAME_PERCENTILE)) if some else 0.0


def _usual_length(motion: BlockMotion) -> float:
    lengths = np.hypot(*np.moveaxis(motion.motion[motion.coverage > 0], -1, 0).astype(np.float64))
    moving = lengths[lengths > 0] / QUARTER_PIXELS
    return float(np.percentile(moving, _LENGTH_PERCENTILE)) if len(moving) else 0.0


def _usual_level(residual: SignedResidual, motion: BlockMotion | None) -> float:
    levels = np.abs(residual.y)
    if motion is not None:
        levels = levels[predicted_pixels(motion)]
    levels = levels[levels > 0]
    return float(np.percentile(levels, _RESIDUAL_PERCENTILE)) if len(levels) else 0.0
