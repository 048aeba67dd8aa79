"""A picture of the motion accumulated between two frames."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.jobs.inspection.inspected import ClipFacts
from gopstream.jobs.inspection.pictures.arrows import Arrow, chosen_blocks, paint_arrows
from gopstream.jobs.inspection.pictures.blocks import paint_movement
from gopstream.jobs.inspection.pictures.canvas import Canvas, Drawn, Legend
from gopstream.jobs.inspection.pictures.colour_scales import nice_ceiling, wheel_badge
from gopstream.jobs.inspection.pictures.movement import Style
from gopstream.jobs.inspection.pictures.surroundings import Step
from gopstream.pipeline.accumulation import accumulate, one_list_motion, step_motion
from gopstream.pipeline.grid import BLOCK

_ARROW = (40, 40, 40)


class Accumulated(NamedTuple):
    """Where the content of each block has moved from since an earlier frame."""

    moved: npt.NDArray[np.float32]
    """(Hb, Wb, 2) pixels; 0 where it is not known."""
    valid: npt.NDArray[np.bool_]
    """(Hb, Wb)."""
    since: int
    """The earlier frame."""


def accumulated_movement(steps: Sequence[Step], facts: ClipFacts) -> Accumulated:
    """Follow the blocks of the last of some frames back to the first of them.

    Args:
        steps: Frames in a row, each with motion; the vectors of the first are not used.
        facts: Of the clip.

    Raises:
        ValueError: If there are B-frames, through which motion cannot be followed.
    """
    fields = [step.motion for step in steps if step.motion is not None]
    assert len(fields) == len(steps)
    # What a letter of a dump hides matters to I-frames alone, and those have no vectors.
    kinds = [
        step.kind if step.kind != "?" else ("P" if field.coverage.any() else "I")
        for step, field in zip(steps, fields, strict=True)
    ]
    one_list = one_list_motion(
        np.stack([field.motion for field in fields]),
        np.stack([field.coverage for field in fields]),
        kinds=kinds,
    )
    cuts = np.array([step.index in facts.scene_cuts for step in steps], np.bool_)
    ready = step_motion(*one_list, scene_cuts=cuts)
    x, y, width, height = facts.display_rect
    samples = np.array([[0, len(steps) - 1]], np.int64)
    paths = accumulate(ready, samples, display_size=(x + width, y + height))
    valid = paths.valid[0, 1, 0]
    moved = np.where(valid[..., None], -paths.displacement[0, 1, 0], np.float32(0))
    return Accumulated(moved, valid, steps[0].index)


def draw_accumulated(
    steps: Sequence[Step], facts: ClipFacts, *, canvas: Canvas, style: Style
) -> Drawn:
    """Paint how far the content of each block has moved since the first of some frames.

    Arrows begin where the content was in that frame and end at its block, in true length.
    """
    path = accumulated_movement(steps, facts)
    longest = nice_ceiling(style.longest * max(1, len(steps) - 1))
    picture = paint_movement(path.moved, path.valid, canvas=canvas, longest=longest)
    arrows = []
    for row, column in chosen_blocks(path.moved, path.valid, canvas=canvas):
        head = canvas.place((column + 0.5) * BLOCK, (row + 0.5) * BLOCK)
        dx, dy = (path.moved[row, column] * canvas.factor).tolist()
        if max(abs(dx), abs(dy)) >= 1:
            arrows.append(Arrow((head[0] - dx, head[1] - dy), head, _ARROW))
    picture = paint_arrows(picture, arrows, [], width=canvas.spacing / 16)
    words = (
        f"since frame {path.since}, arrows in true length; rim of the wheel: {longest:g} pixels",
        "stripes: cannot be followed (intra, uncovered, scene cut, out of the picture)",
        *(f"careful: {warning}" for warning in facts.warnings if "references" in warning),
    )
    return Drawn(picture, Legend(words, badge=wheel_badge()))
