"""What can be drawn of a frame, by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.inspected import NO_MOTION, ClipFacts, InspectedFrame
from gopstream.jobs.inspection.pictures.accumulated import draw_accumulated
from gopstream.jobs.inspection.pictures.arrows import LIST_COLOURS, arrow_gain, draw_arrows
from gopstream.jobs.inspection.pictures.blocks import (
    draw_colours,
    draw_coverage,
    draw_partition,
)
from gopstream.jobs.inspection.pictures.canvas import (
    INK,
    Canvas,
    Drawn,
    Legend,
    Pixels,
    canvas_of,
    make_page,
    write,
)
from gopstream.jobs.inspection.pictures.colour_scales import INTRA
from gopstream.jobs.inspection.pictures.movement import Style
from gopstream.jobs.inspection.pictures.residuals import (
    draw_residual_heat,
    draw_residual_signed,
)
from gopstream.jobs.inspection.pictures.surroundings import Needs, Surroundings
from gopstream.jobs.inspection.pictures.warped import draw_warped
from gopstream.jobs.inspection.pictures.warped import panel_width as warped_panel_width
from gopstream.pipeline.nearest_name import did_you_mean

DEFAULT_LAYERS: Final = ("frame", "arrows", "colours")
ALL_LAYERS: Final = "all"
"""Stands for all layers that a clip has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a layer is drawn from."""

    frame: InspectedFrame
    facts: ClipFacts
    canvas: Canvas
    style: Style
    around: Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One kind of picture."""

    shows: str
    """For people, one line."""
    planes: frozenset[str]
    """Planes of which the clip must have each."""
    missing: Callable[[View], str | None]
    """Says why a frame has no such picture; None if it has."""
    draw: Callable[[View], Drawn]
    needs_references: bool = False
    needs_span: bool = False


def draw_layer(
    name: str,
    frame: InspectedFrame,
    *,
    facts: ClipFacts,
    style: Style | None = None,
    around: Surroundings | None = None,
) -> Pixels:
    """Draw one layer of a frame, with a title above and a legend below.

    Args:
        name: Of ``LAYERS``.
        frame: The frame.
        facts: Of its clip.
        style: Scales; make them by ``fit_style`` for frames that belong together.
        around: Other frames; only ``accumulated`` and ``warped`` use them, ``walk`` yields them.

    Returns:
        (H, W, 3) uint8 RGB; of one size for all frames of a clip. Where the frame does not have
        what the layer shows, the picture says why.

    Raises:
        UserError: If there is no such layer.
    """
    view = View(
        frame=frame,
        facts=facts,
        canvas=canvas_of(facts),
        style=style or Style(),
        around=around or Surroundings(),
    )
    drawn = draw_picture(name, view)
    title = f"{name}   {frame.kind}-frame {frame.index} of {facts.num_frames}"
    if facts.has_times:
        title += f"   {facts.times[frame.index]:.3f} s"
    title += f"   {facts.name}"
    return make_page(drawn, title=title, font_size=view.canvas.font_size)


def draw_picture(name: str, view: View) -> Drawn:
    """Draw one layer without words around it, for sheets that have their own.

    Raises:
        UserError: If there is no such layer.
    """
    layer = _layer(name)
    reason = layer.missing(view)
    return layer.draw(view) if reason is None else _draw_reason(view, reason, name=name)


def why_not(name: str, facts: ClipFacts) -> str | None:
    """Say why a layer cannot be drawn of any frame of a clip; None if it can.

    Raises:
        UserError: If there is no such layer.
    """
    lacking = _layer(name).planes - facts.planes
    if "residual" in lacking and facts.exactness != "exact":
        reason = facts.exactness.split(";")[0]
        return f"there is no residual ({reason}); canonical shards have one"
    if lacking:
        told = [warning for warning in facts.warnings if warning.startswith(NO_MOTION)]
        if told and "motion" in lacking:
            return told[0]
        return f"{facts.name} has no {' and no '.join(sorted(lacking))}"
    if name == "accumulated" and "B" in facts.kinds:
        return (
            "motion cannot be followed through B-frames: how many frames their vectors span is "
            "not told; canonical shards have none"
        )
    return None


def available_layers(facts: ClipFacts) -> tuple[str, ...]:
    """Return the layers that can be drawn of a clip."""
    return tuple(name for name in LAYERS if why_not(name, facts) is None)


def choose_layers(names: Sequence[str] | None, *, facts: ClipFacts) -> tuple[str, ...]:
    """Check names of layers against a clip.

    Args:
        names: None for the usual ones that the clip has, ``all`` for all that it has.
        facts: Of the clip.

    Raises:
        UserError: If a name is none of ``LAYERS``, or the clip lacks what the layer shows.
    """
    if names is None:
        return tuple(name for name in DEFAULT_LAYERS if why_not(name, facts) is None) or ("frame",)
    check_layers(names)
    if ALL_LAYERS in names:
        return available_layers(facts) or ("frame",)
    for name in names:
        if (reason := why_not(name, facts)) is not None:
            there = ", ".join(available_layers(facts)) or "none"
            raise UserError(f"layer {name} of {facts.name}: {reason}; layers there are: {there}")
    return tuple(dict.fromkeys(names))


def check_layers(names: Sequence[str]) -> None:
    """Check names of layers as far as that needs no clip.

    Raises:
        UserError: If there are none, or a name is neither of ``LAYERS`` nor ``all``.
    """
    if not names:
        raise UserError(f"expected at least one layer of {', '.join(LAYERS)}, got none")
    for name in names:
        if name != ALL_LAYERS:
            _layer(name)


def layers_left_out(names: Sequence[str] | None, *, facts: ClipFacts) -> dict[str, str]:
    """Return why layers are not drawn that nobody named one by one: the usual ones, or all."""
    if names is None:
        wanted: Sequence[str] = DEFAULT_LAYERS
    else:
        wanted = tuple(LAYERS) if ALL_LAYERS in names else ()
    return {name: why for name in wanted if (why := why_not(name, facts)) is not None}


def needs_of(names: Sequence[str], style: Style) -> Needs:
    """Return what ``walk`` has to read for some layers."""
    layers = [_layer(name) for name in names]
    return Needs(
        references=any(layer.needs_references for layer in layers),
        span=style.span if any(layer.needs_span for layer in layers) else 0,
    )


def _layer(name: str) -> Layer:
    if name not in LAYERS:
        raise UserError(
            f"expected a layer of {', '.join(LAYERS)}, got {name!r}{did_you_mean(name, LAYERS)}"
        )
    return LAYERS[name]


def _draw_frame(view: View) -> Drawn:
    frame = view.frame
    words = "the picture"
    if frame.picture_of != frame.index:
        words = f"not every picture is stored: this is frame {frame.picture_of}"
    return Drawn(view.canvas.spread_picture(frame.picture), Legend((words,)))


def _draw_arrows(view: View) -> Drawn:
    motion, canvas = view.frame.motion, view.canvas
    assert motion is not None
    gain = arrow_gain(canvas, view.style)
    picture = draw_arrows(
        canvas.spread_dimmed(view.frame.picture), motion, canvas=canvas, gain=gain
    )
    names = ("came from the past, to its block", "goes to the future, from its block")
    keys = list(zip(LIST_COLOURS, names[: len(motion.coverage)], strict=False))
    length = "true length" if gain == 1 else f"{gain} times their length"
    words = f"arrows point the way things move, {length}; grey dot: still"
    return Drawn(picture, Legend((words,), keys=(*keys, (INTRA, "intra"))))


def _draw_colours(view: View) -> Drawn:
    assert view.frame.motion is not None
    return draw_colours(view.frame.motion, canvas=view.canvas, style=view.style)


def _draw_coverage(view: View) -> Drawn:
    assert view.frame.motion is not None
    return draw_coverage(view.frame, view.frame.motion, canvas=view.canvas)


def _draw_partition(view: View) -> Drawn:
    return draw_partition(view.frame, view.frame.motion, canvas=view.canvas)


def _draw_residual_heat(view: View) -> Drawn:
    frame = view.frame
    assert frame.residual is not None
    return draw_residual_heat(frame.residual, frame.motion, canvas=view.canvas, style=view.style)


def _draw_residual_signed(view: View) -> Drawn:
    frame = view.frame
    assert frame.residual is not None
    return draw_residual_signed(frame.residual, frame.motion, canvas=view.canvas, style=view.style)


def _draw_accumulated(view: View) -> Drawn:
    return draw_accumulated(view.around.steps, view.facts, canvas=view.canvas, style=view.style)


def _draw_warped(view: View) -> Drawn:
    assert view.frame.motion is not None
    return draw_warped(view.frame, view.frame.motion, view.around, canvas=view.canvas)


def _no_picture(view: View) -> str | None:
    return "no picture of this frame is stored" if view.frame.picture is None else None


def _no_motion(view: View) -> str | None:
    return "this frame has no motion" if view.frame.motion is None else None


def _no_partition(view: View) -> str | None:
    return None if view.frame.vectors is not None else _no_motion(view)


def _no_residual(view: View) -> str | None:
    return "this frame has no residual" if view.frame.residual is None else None


def _no_path(view: View) -> str | None:
    steps = view.around.steps
    if len(steps) < 2:
        return "there is no frame before it to follow motion from"
    if any(step.motion is None for step in steps):
        return "a frame on the way has no motion"
    if any(step.kind == "B" for step in steps):
        return "motion cannot be followed through B-frames"
    return None


def _no_warp(view: View) -> str | None:
    used = [other for other in (view.around.past, view.around.future) if other is not None]
    for frame in (view.frame, *used):
        if frame.picture is None or frame.picture_of != frame.index:
            return f"no picture of frame {frame.index} is stored"
    return _no_motion(view)


def _draw_reason(view: View, reason: str, *, name: str) -> Drawn:
    """Say on the darkened frame why the layer is not there."""
    picture = view.canvas.spread_dimmed(view.frame.picture, light=0.3)
    if name == "warped":
        width = warped_panel_width(view.canvas)
        height = round(view.canvas.size[1] * width / view.canvas.size[0])
        small = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
        page = np.full((height, 3 * width + 16, 3), 24, np.uint8)
        page[:, width + 8 : 2 * width + 8] = np.asarray(small)
        picture = page
    image = Image.fromarray(picture)
    pen, size = ImageDraw.Draw(image), view.canvas.font_size
    place = (size, image.height / 2 - size)
    write(pen, place, reason, font_size=size, room=image.width - 2 * size, colour=INK)
    return Drawn(np.asarray(image), Legend(("",)))


_MOTION: Final = frozenset({"motion"})
_RESIDUAL: Final = frozenset({"motion", "residual"})
LAYERS: Final[Mapping[str, Layer]] = MappingProxyType(
    {
        "frame": Layer(
            shows="the picture",
            planes=frozenset({"frames"}),
            missing=_no_picture,
            draw=_draw_frame,
        ),
        "arrows": Layer(
            shows="arrows that point the way things move",
            planes=_MOTION,
            missing=_no_motion,
            draw=_draw_arrows,
        ),
        "colours": Layer(
            shows="movement of each block by the colour wheel of optical flow",
            planes=_MOTION,
            missing=_no_motion,
            draw=_draw_colours,
        ),
        "partition": Layer(
            shows="outlines of the blocks that have a vector",
            planes=_MOTION,
            missing=_no_partition,
            draw=_draw_partition,
        ),
        "coverage": Layer(
            shows="what predicts a block: the past, the future, both, or nothing (intra)",
            planes=_MOTION,
            missing=_no_motion,
            draw=_draw_coverage,
        ),
        "residual_heat": Layer(
            shows="size of the luma residual",
            planes=_RESIDUAL,
            missing=_no_residual,
            draw=_draw_residual_heat,
        ),
        "residual_signed": Layer(
            shows="luma residual, red lighter and blue darker than predicted",
            planes=_RESIDUAL,
            missing=_no_residual,
            draw=_draw_residual_signed,
        ),
        "accumulated": Layer(
            shows="movement since an earlier frame",
            planes=_MOTION,
            missing=_no_path,
            draw=_draw_accumulated,
            needs_span=True,
        ),
        "warped": Layer(
            shows="prediction by the vectors, the frame, and their difference",
            planes=frozenset({"frames", "motion"}),
            missing=_no_warp,
            draw=_draw_warped,
            needs_references=True,
        ),
    }
)
