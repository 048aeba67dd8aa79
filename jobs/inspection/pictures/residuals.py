"""Pictures of the residual: what the codec had to add to its prediction."""

import numpy as np

from gopstream.jobs.inspection.inspected import SignedResidual
from gopstream.jobs.inspection.pictures.canvas import Canvas, Drawn, Legend, Pixels
from gopstream.jobs.inspection.pictures.colour_scales import heat_colours, signed_colours
from gopstream.jobs.inspection.pictures.movement import Style, predicted_pixels
from gopstream.pipeline.grid import BlockMotion

_INTRA_GREY = 96
_INTRA_WORDS = "grey: intra, not predicted from another frame"


def draw_residual_heat(
    residual: SignedResidual, motion: BlockMotion | None, *, canvas: Canvas, style: Style
) -> Drawn:
    """Paint the size of the luma residual: black none, pale yellow much."""
    luma = canvas.spread_pixels(residual.y)
    share = np.minimum(np.abs(luma) / np.float32(style.largest_residual), 1)
    scale = heat_colours(np.linspace(0, 1, 256)).astype(np.uint8)
    legend = Legend(
        ("size of the luma residual in levels of 255", _summary(residual, motion)),
        bar=scale,
        ends=("0", f"{style.largest_residual:g} or more"),
    )
    painted = scale[np.rint(share * 255).astype(np.uint8)]
    return _masked(painted, motion, canvas=canvas, legend=legend)


def draw_residual_signed(
    residual: SignedResidual, motion: BlockMotion | None, *, canvas: Canvas, style: Style
) -> Drawn:
    """Paint the luma residual with its sign: red is lighter than predicted, blue darker."""
    luma = canvas.spread_pixels(residual.y)
    share = np.clip(luma / np.float32(style.largest_residual), -1, 1)
    # An odd number of colours has one in the middle: white is exactly zero.
    scale = signed_colours(np.linspace(-1, 1, 255)).astype(np.uint8)
    legend = Legend(
        ("luma: red is lighter than was predicted, blue darker", _summary(residual, motion)),
        bar=scale,
        ends=(f"-{style.largest_residual:g}", f"+{style.largest_residual:g}"),
    )
    painted = scale[np.rint((share + 1) * 127).astype(np.uint8)]
    return _masked(painted, motion, canvas=canvas, legend=legend)


def _masked(
    picture: Pixels, motion: BlockMotion | None, *, canvas: Canvas, legend: Legend
) -> Drawn:
    """Grey out what was not predicted: what is stored there is no error of a prediction."""
    if motion is not None:
        picture[~canvas.spread_pixels(predicted_pixels(motion))] = _INTRA_GREY
    return Drawn(picture, legend)


def _summary(residual: SignedResidual, motion: BlockMotion | None) -> str:
    levels = np.abs(residual.y)
    if motion is not None:
        levels = levels[predicted_pixels(motion)]
    if not levels.size:
        return _INTRA_WORDS
    return f"mean {levels.mean():.2f}, zero in {np.mean(levels == 0):.1%}; {_INTRA_WORDS}"
