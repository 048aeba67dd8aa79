"""A frame predicted from its neighbours by the vectors, next to the frame and their difference."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from gopstream.jobs.inspection.inspected import InspectedFrame
from gopstream.jobs.inspection.pictures.canvas import Canvas, Drawn, Legend, Pixels, enlarge
from gopstream.jobs.inspection.pictures.colour_scales import signed_colours
from gopstream.jobs.inspection.pictures.surroundings import Surroundings
from gopstream.pipeline.grid import BLOCK, QUARTER_PIXELS, BlockMotion

_GAP: Final = 8
_LONGEST_PANEL: Final = 960
"""Width in pixels above which the three panels are made smaller."""
_STRIP: Final = 64
"""Rows that are warped at a time."""
_FULL: Final = 32
"""Difference in levels that is painted in full colour."""
_UNKNOWN: Final = 96
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)


class Prediction(NamedTuple):
    """What the vectors make of other frames."""

    picture: npt.NDArray[np.float32]
    """(h, w, 3) levels, in the size of the picture as it was coded."""
    known: npt.NDArray[np.bool_]
    """(h, w): whether a list with a reference at hand predicts a pixel."""


def predict(
    motion: BlockMotion, references: tuple[Pixels | None, Pixels | None], *, canvas: Canvas
) -> Prediction:
    """Fetch each block from where its vectors lead; two predictions are averaged.

    Samples between pixels are bilinear, not by the six taps of H.264.

    Args:
        motion: Of the frame.
        references: (h, w, 3) pictures of list 0 and list 1; None where there is none at hand.
        canvas: Of the clip.
    """
    width, height = canvas.shown
    total = np.zeros((height, width, 3), np.float32)
    weight = np.zeros((height, width), np.uint8)
    columns = (canvas.origin[0] + np.arange(width)) // BLOCK
    for number, reference in enumerate(references[: len(motion.coverage)]):
        if reference is None:
            continue
        for top in range(0, height, _STRIP):
            ys = np.arange(top, min(height, top + _STRIP))
            rows = (canvas.origin[1] + ys) // BLOCK
            blocks = (rows[:, None], columns)
            vectors = motion.motion[number][blocks].astype(np.float32) / QUARTER_PIXELS
            covered = motion.coverage[number][blocks]
            x = np.arange(width, dtype=np.float32) + vectors[..., 0]
            y = ys[:, None].astype(np.float32) + vectors[..., 1]
            total[ys] += sample_bilinear(reference, x, y) * covered[..., None]
            weight[ys] += covered
    known = weight > 0
    total[known] /= weight[known][:, None]
    return Prediction(total, known)


def sample_bilinear(
    picture: Pixels, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return (..., 3) levels of a picture at places whose whole numbers are pixels' centres.

    Beyond the picture its border repeats.
    """
    height, width = picture.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = x.astype(np.int32), y.astype(np.int32)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = picture[top, left] * (1 - across) + picture[top, right] * across
    lower = picture[below, left] * (1 - across) + picture[below, right] * across
    mixed: npt.NDArray[np.float32] = upper * (1 - down) + lower * down
    return mixed


def draw_warped(
    frame: InspectedFrame, motion: BlockMotion, around: Surroundings, *, canvas: Canvas
) -> Drawn:
    """Show the prediction, the frame, and their difference side by side."""
    assert frame.picture is not None
    shown = canvas.display_picture(frame.picture)
    references = tuple(
        None if other is None or other.picture is None else canvas.display_picture(other.picture)
        for other in (around.past, around.future)
    )
    prediction = predict(motion, (references[0], references[1]), canvas=canvas)
    difference = _luma(shown) - _luma(prediction.picture)
    panels = [np.rint(prediction.picture).astype(np.uint8), shown, _signed(difference)]
    for panel in (panels[0], panels[2]):
        panel[~prediction.known] = _UNKNOWN
    legend = Legend(
        (
            "prediction from " + _names(around) + " | frame | difference (red: lighter)",
            _summary(difference, shown, references[0], prediction.known),
        ),
        bar=_scale(),
        ends=(f"-{_FULL}", f"+{_FULL} levels; grey: not predicted"),
    )
    return Drawn(_side_by_side(panels, canvas=canvas), legend)


def panel_width(canvas: Canvas) -> int:
    """Return the width in pixels of one of the three panels."""
    return min(canvas.size[0], _LONGEST_PANEL)


def _side_by_side(panels: list[Pixels], *, canvas: Canvas) -> Pixels:
    width = panel_width(canvas)
    height = round(canvas.size[1] * width / canvas.size[0])
    page = np.full((height, 3 * width + 2 * _GAP, 3), 24, np.uint8)
    for number, panel in enumerate(panels):
        image = Image.fromarray(enlarge(panel, canvas.factor))
        if image.width != width:
            image = image.resize((width, height), Image.Resampling.BOX)
        left = number * (width + _GAP)
        page[:, left : left + width] = np.asarray(image)
    return page


def _luma(picture: Pixels | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    grey: npt.NDArray[np.float32] = np.einsum("hwc,c->hw", picture.astype(np.float32), _LUMA)
    return grey


def _scale() -> Pixels:
    return signed_colours(np.linspace(-1, 1, 255)).astype(np.uint8)


def _signed(difference: npt.NDArray[np.float32]) -> Pixels:
    share = np.clip(difference / np.float32(_FULL), -1, 1)
    painted: Pixels = _scale()[np.rint((share + 1) * 127).astype(np.uint8)]
    return painted


def _names(around: Surroundings) -> str:
    names = [
        f"{other.kind}-frame {other.index}"
        for other in (around.past, around.future)
        if other is not None
    ]
    return " and ".join(names) if names else "no frame"


def _summary(
    difference: npt.NDArray[np.float32],
    shown: Pixels,
    past: Pixels | None,
    known: npt.NDArray[np.bool_],
) -> str:
    if not known.any():
        return "nothing is predicted from another frame"
    words = f"mean difference {np.abs(difference[known]).mean():.1f} levels"
    if past is None:
        return words
    still = np.abs(_luma(shown) - _luma(past))[known].mean()
    return f"{words}; {still:.1f} if everything had stayed where it was"
