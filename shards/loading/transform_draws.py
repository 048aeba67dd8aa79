"""The random numbers of a clip's transform: taken in one fixed order, kept as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gopstream.shards.loading.appearance import (
    ERASE_ATTEMPTS,
    JITTER_DRAWS,
    AppearanceOp,
    Erasure,
    draw_erasure,
    draw_jitter,
)
from gopstream.shards.loading.augment_policy import Step, draw_steps, num_draws, parse_policy
from gopstream.shards.loading.geometry import (
    CROP_ATTEMPTS,
    GEOMETRIC_OPS,
    Geometry,
    Matrix,
    area_box,
    compose,
    even_box,
    op_matrix,
    random_box,
    resized_side,
    with_warp,
)
from gopstream.shards.loading.transform_spec import TransformSpec


@dataclass(frozen=True, slots=True)
class ClipTransform:
    """All that was drawn for one clip; two are equal if they do the same."""

    geometry: Geometry
    fill: int = 128
    """Level of grey where the result shows what lies outside of the stored frame."""
    frame_ops: tuple[AppearanceOp, ...] = ()
    """Changes of whole stored frames, before they are resampled."""
    ops: tuple[tuple[AppearanceOp, ...], ...] = ()
    """Changes of the result: a row for each frame of the clip, or one for all, or none."""
    erasures: tuple[Erasure | None, ...] = ()
    """Likewise, after the changes."""
    erase_mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    erase_std: tuple[float, float, float] = (0.225, 0.225, 0.225)


def draw_transform(
    spec: TransformSpec,
    *,
    frame_size: tuple[int, int],
    num_frames: int,
    rng: np.random.Generator,
    label: int | None = None,
) -> ClipTransform:
    """Draw all that is random about a clip's transform, in one fixed order.

    How many numbers are taken from ``rng`` depends on the spec and the number of frames alone,
    never on what was drawn.

    Args:
        spec: The recipe's.
        frame_size: (width, height) of the stored frames.
        num_frames: T.
        rng: Random numbers.
        label: Of the clip, where the spec keeps the direction of some labels.

    Raises:
        ShardError: If the crop does not fit into the frames.
    """
    geometry = _draw_crop(spec, frame_size, rng, label)
    fill, steps = 128, []
    if spec.policy:
        policy = parse_policy(spec.policy)
        fill, steps = policy.fill, draw_steps(policy, rng.random(num_draws(policy)))
    on_frame = spec.policy_on == "frame"
    geometry = _with_steps(geometry, steps, frame_size=frame_size, on_frame=on_frame)
    changes = tuple(AppearanceOp(*step) for step in steps if step.action not in GEOMETRIC_OPS)
    rows = _draw_appearance(spec, num_frames, rng)
    if not on_frame:
        rows = [changes + row for row in rows]
    return ClipTransform(
        geometry,
        fill,
        frame_ops=changes if on_frame else (),
        ops=_folded(rows),
        erasures=_draw_erasures(spec, num_frames, rng),
        erase_mean=spec.erase_mean,
        erase_std=spec.erase_std,
    )


def view_transform(
    spec: TransformSpec, *, frame_size: tuple[int, int], crop: int, num_crops: int
) -> ClipTransform:
    """Return the transform of a test view; nothing is drawn.

    The short side is resized to ``view_short_side``, then square crops are spread evenly along
    the long side: the central one, or three at left, centre and right (or top and bottom).

    Args:
        spec: The recipe's.
        frame_size: (width, height) of the stored frames.
        crop: Which crop, from 0.
        num_crops: How many there are.
    """
    side = resized_side(
        frame_size, size=spec.size, short_side=float(spec.view_short_side or spec.size)
    )
    box = even_box(frame_size, side=side, crop=crop, num_crops=num_crops)
    return ClipTransform(Geometry(box, spec.size))


def _draw_crop(
    spec: TransformSpec,
    frame_size: tuple[int, int],
    rng: np.random.Generator,
    label: int | None,
) -> Geometry:
    """Draw crop and flip."""
    if spec.crop == "area":
        box = area_box(
            frame_size,
            scale=spec.crop_scale,
            ratio=spec.crop_ratio,
            draws=rng.random((CROP_ATTEMPTS, 4)),
        )
    elif spec.crop == "centre":
        box = view_transform(spec, frame_size=frame_size, crop=0, num_crops=1).geometry.box
    else:
        draws = rng.random(3)
        low, high = spec.short_side
        short_side = low + (high - low) * float(draws[0])
        if spec.crop == "random":
            short_side = float(min(frame_size))
        side = resized_side(frame_size, size=spec.size, short_side=short_side)
        box = random_box(frame_size, side=side, draws=draws[1:])
    flip = spec.flip > 0 and bool(rng.random() < spec.flip) and label not in spec.keep_direction
    return Geometry(box, spec.size, flip)


def _with_steps(
    geometry: Geometry, steps: Sequence[Step], *, frame_size: tuple[int, int], on_frame: bool
) -> Geometry:
    """Put the geometric steps of a policy into a clip's map."""
    size = frame_size if on_frame else (geometry.size, geometry.size)
    moved: Matrix | None = None
    for step in steps:
        if step.action in GEOMETRIC_OPS:
            matrix = op_matrix(step.action, step.amount, size=size)
            # Each step's input is the result of the one before it.
            moved = matrix if moved is None else compose(moved, matrix)
    if moved is None:
        return geometry
    cropped = geometry.matrix()
    return with_warp(geometry, compose(moved, cropped) if on_frame else compose(cropped, moved))


def _draw_appearance(
    spec: TransformSpec, num_frames: int, rng: np.random.Generator
) -> list[tuple[AppearanceOp, ...]]:
    """Draw colour jitter, greyscale and blur: one row for each frame."""
    rows: list[tuple[AppearanceOp, ...]] = [()] * num_frames
    if spec.jitter > 0:
        share = rng.random()
        draws = rng.random((num_frames if spec.jitter_per_frame else 1, JITTER_DRAWS))
        jitters = [
            draw_jitter(
                row,
                brightness=spec.brightness,
                contrast=spec.contrast,
                saturation=spec.saturation,
                hue=spec.hue,
            )
            for row in draws
        ]
        if share < spec.jitter:
            rows = jitters if spec.jitter_per_frame else jitters * num_frames
    if spec.greyscale > 0 and rng.random() < spec.greyscale:
        rows = [(*row, AppearanceOp("greyscale")) for row in rows]
    if spec.blur > 0:
        share, place = rng.random(2).tolist()
        low, high = spec.blur_sigma
        if share < spec.blur:
            rows = [(*row, AppearanceOp("blur", low + (high - low) * place)) for row in rows]
    return rows


def _draw_erasures(
    spec: TransformSpec, num_frames: int, rng: np.random.Generator
) -> tuple[Erasure | None, ...]:
    """Draw the boxes to erase: one for all frames, or one for each."""
    if spec.erase == 0:
        return ()
    number = num_frames if spec.erase_per_frame else 1
    draws = rng.random((number, 2 + 4 * ERASE_ATTEMPTS))
    erasures = tuple(
        draw_erasure(
            row[2:].reshape(ERASE_ATTEMPTS, 4),
            size=spec.size,
            area=spec.erase_area,
            ratio=spec.erase_ratio,
            fill=spec.erase_fill,
            key=int(row[1] * 2**53),
        )
        if row[0] < spec.erase
        else None
        for row in draws
    )
    return erasures if any(erasures) else ()


def _folded(rows: list[tuple[AppearanceOp, ...]]) -> tuple[tuple[AppearanceOp, ...], ...]:
    """Leave out rows that say nothing, and keep one of rows that all say the same."""
    if not any(rows):
        return ()
    return (rows[0],) if all(row == rows[0] for row in rows) else tuple(rows)
