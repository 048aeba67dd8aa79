"""Accumulate block motion between any two frames of a clip.

MD(t, t') at p is the displacement after which the content that frame t shows at p is found in
frame t': p + MD(t, t')(p) lies in frame t'. The one-step vectors of H.264 lead from each frame
to the one before it; they are chained backwards, and inverted for t' > t
(Deformable Video Transformer, CVPR 2022, section 3.2; rules for I-frames, intra blocks, scene
cuts and forward motion as in this project's design, section 4).

Pure NumPy, no video library: training machines import this module. Its batched form on a device
is ``gopstream.shards.loading.device_motion``.

Dimensions: N raw frames of a window, S sampled frames, G groups (sub-clips) of J samples,
Q queries of all groups, Hb x Wb blocks, g x g cells of a crop.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.block_paths import UNITS_PER_CELL, BlockPaths, Picture, follow

BLOCK_PIXELS: Final = 8
QUARTERS_PER_CELL: Final = 4 * BLOCK_PIXELS
SCENE_CUT_INTRA_SHARE: Final = 0.6
"""A P-frame with a larger share of intra blocks starts a new scene."""
_UNITS_PER_PIXEL: Final = UNITS_PER_CELL // BLOCK_PIXELS
_PIXELS_PER_UNIT: Final = 1 / _UNITS_PER_PIXEL


class OneListMotion(NamedTuple):
    """What :func:`step_motion` takes, of a stream that has one reference list."""

    motion: npt.NDArray[np.int16]
    """(N, Hb, Wb, 2) quarter pixels, into the frame before."""
    coverage: npt.NDArray[np.uint8]
    """(N, Hb, Wb) 1 where a block is predicted."""
    is_intra_frame: npt.NDArray[np.bool_]
    """(N,)."""


class StepMotion(NamedTuple):
    """Motion of each frame to the one before it, made ready for chaining."""

    steps: npt.NDArray[np.float32]
    """(N, Hb, Wb, 2) cells, (dx, dy) into the frame before; multiples of 1/64 cell."""
    valid: npt.NDArray[np.bool_]
    """(N, Hb, Wb) False at intra blocks and all over a frame that starts a new scene."""
    extrapolated: npt.NDArray[np.bool_]
    """(N,) True at I-frames, whose motion is that of a neighbouring frame."""


class AccumulatedMotion(NamedTuple):
    """MD(t, t') for all pairs of samples of each group."""

    displacement: npt.NDArray[np.float32]
    """(G, J, J, Hb, Wb, 2) pixels of the coded picture: from sample t (axis 1) to t' (axis 2)."""
    valid: npt.NDArray[np.bool_]
    """(G, J, J, Hb, Wb) False where the content could not be followed all the way, and at blocks
    whose centre lies outside of the picture."""
    extrapolated: npt.NDArray[np.bool_]
    """(G, J, J) True where an I-frame lies on the way."""


class CellMotion(NamedTuple):
    """MD(t, t') as a crop shows it, of the queries of all groups."""

    motion: npt.NDArray[np.float32]
    """(Q, 2, J, g, g) pixels of the output, (dx, dy); 0 where not valid."""
    valid: npt.NDArray[np.bool_]
    """(Q, J, g, g)."""


def one_list_motion(
    motion: npt.NDArray[np.int16], coverage: npt.NDArray[np.uint8], *, kinds: Sequence[str]
) -> OneListMotion:
    """Return the first reference list, where its vectors are known to lead one frame back.

    Args:
        motion: (N, L, Hb, Wb, 2) int16 quarter pixels.
        coverage: (N, L, Hb, Wb) uint8, 1 where a block is predicted from that list.
        kinds: N letters ``I``, ``P`` or ``B``.

    Raises:
        ValueError: If a frame is a B-frame or has vectors of a second list; if the shapes or the
            letters do not fit.
    """
    if motion.shape[:4] != coverage.shape or motion.shape[4:] != (2,) or len(kinds) != len(motion):
        raise ValueError(
            "expected motion (N, L, Hb, Wb, 2), coverage (N, L, Hb, Wb) and N kinds, got "
            f"{motion.shape}, {coverage.shape} and {len(kinds)}"
        )
    if unknown := set(kinds) - set("IPB"):
        raise ValueError(f"a frame's kind must be I, P or B, got {sorted(unknown)}")
    if "B" in kinds or coverage[:, 1:].any():
        raise ValueError(
            "motion cannot be accumulated through B-frames: with several references the stream's "
            "exported vectors do not name the frame that they lead to, so how far it lies is "
            "unknown; use canonical shards, whose vectors all lead one frame back"
        )
    is_intra = np.array([kind == "I" for kind in kinds], np.bool_)
    return OneListMotion(motion[:, 0], coverage[:, 0], is_intra)


def step_motion(
    motion: npt.NDArray[np.int16],
    coverage: npt.NDArray[np.uint8],
    is_intra_frame: npt.NDArray[np.bool_],
    *,
    scene_cuts: npt.NDArray[np.bool_] | None = None,
) -> StepMotion:
    """Fill what the stream leaves open, so that motion can be chained through every frame.

    An I-frame takes the motion of the frame after it (or before it, where there is none after):
    constant velocity, counted as valid, marked ``extrapolated``. It never takes a step that
    leads across a scene cut: before a cut it goes by the frame before it, and an I-frame with
    no such neighbour stays invalid. An intra block of a P-frame takes the median of its
    predicted neighbours and stays invalid.

    Args:
        motion: (N, Hb, Wb, 2) int16 quarter pixels, first reference list.
        coverage: (N, Hb, Wb) uint8, 1 where a block is predicted.
        is_intra_frame: (N,) True at I-frames.
        scene_cuts: (N,) True where a frame shows another scene than the frame before it, known
            from the pixels; an I-frame has no vectors that could tell. Nothing is valid there,
            as in a P-frame that is mostly intra.

    Raises:
        ValueError: If ``scene_cuts`` does not hold one value per frame.
    """
    num_frames = len(motion)
    cuts = np.zeros(num_frames, np.bool_) if scene_cuts is None else scene_cuts
    if cuts.shape != (num_frames,):
        raise ValueError(f"scene_cuts must have shape ({num_frames},), got {cuts.shape}")
    covered = coverage.astype(np.bool_)
    steps = motion.astype(np.float32, order="C") / np.float32(QUARTERS_PER_CELL)
    _fill_intra(steps, covered, missing=~covered & ~is_intra_frame[:, None, None])
    intra_share = 1.0 - covered.mean(axis=(1, 2))
    valid = covered & (intra_share <= SCENE_CUT_INTRA_SHARE)[:, None, None]
    # Nothing is written to a source: only I-frames take, only others give.
    gives = ~is_intra_frame & ~cuts
    for index in np.flatnonzero(is_intra_frame).tolist():
        for neighbour in (index + 1, index - 1):
            if 0 <= neighbour < num_frames and gives[neighbour]:
                steps[index] = steps[neighbour]
                valid[index] = valid[neighbour]
                break
    valid &= ~cuts[:, None, None]
    return StepMotion(steps, valid, is_intra_frame.copy())


def _fill_intra(
    steps: npt.NDArray[np.float32],
    covered: npt.NDArray[np.bool_],
    *,
    missing: npt.NDArray[np.bool_],
) -> None:
    """Give each missing block the median of its covered 4-neighbours, or zero, in place."""
    height, width = covered.shape[1:]
    place = np.flatnonzero(missing)
    frame, block = np.divmod(place, height * width)
    row, column = np.divmod(block, width)
    known = np.pad(covered, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    at = (frame * (height + 2) + row + 1) * (width + 2) + column + 1
    vectors = steps.reshape(-1, 2)
    near = []
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        exists = np.take(known, at + down * (width + 2) + right)
        vector = np.take(vectors, place + down * width + right, axis=0, mode="clip")
        near.append(np.where(exists[:, None], vector, np.float32(np.inf)))
    first, second, third, last = _sorted_four(*near)
    # Of one the first counts, of two first and second, of three the second, of four the middle.
    lower = np.where(np.isinf(third), first, second)
    upper = np.where(np.isinf(last), second, third)
    upper = np.where(np.isinf(second), first, upper)
    vectors[place] = np.where(np.isinf(first), np.float32(0.0), (lower + upper) / 2)


def _sorted_four(*values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
    """Sort four arrays element by element, by Batcher's network."""
    one, two, three, four = values
    low, high = np.minimum(one, two), np.maximum(one, two)
    low2, high2 = np.minimum(three, four), np.maximum(three, four)
    middle, middle2 = np.maximum(low, low2), np.minimum(high, high2)
    return (
        np.minimum(low, low2),
        np.minimum(middle, middle2),
        np.maximum(middle, middle2),
        np.maximum(high, high2),
    )


def accumulate(
    step: StepMotion, samples: npt.NDArray[np.int64], *, display_size: tuple[int, int]
) -> AccumulatedMotion:
    """Follow every block between all pairs of samples of each group.

    All raw frames between two samples are composed. Positions are never rounded, lookups are
    nearest (block fields are piecewise constant), and a position that has left the picture
    keeps moving with the border but is no longer valid.

    Args:
        step: From :func:`step_motion`.
        samples: (G, J) frame indices into the window, not falling within a group.
        display_size: (width, height) in coded pixels beyond which the picture ends.

    Raises:
        ValueError: If samples fall or lie outside of the window, or steps are no multiples of
            1/64 cell.
    """
    paths = _follow(step, samples, display_size=display_size)
    between = np.cumsum(np.concatenate([[0], step.extrapolated]))
    first, second = samples[:, :, None] + 1, samples[:, None, :] + 1
    # The step of frame f leads from f to f - 1: from t down to t' the steps t' + 1 .. t count.
    extrapolated = between[first] != between[second]
    displacement = np.empty((*paths.valid.shape, 2), np.float32)
    np.multiply(np.moveaxis(paths.moved, 0, -1), np.float32(_PIXELS_PER_UNIT), out=displacement)
    grid = (*samples.shape, samples.shape[1], *step.valid.shape[1:])
    return AccumulatedMotion(
        displacement.reshape(*grid, 2), paths.valid.reshape(grid), extrapolated
    )


def accumulate_cells(
    step: StepMotion,
    samples: npt.NDArray[np.int64],
    *,
    display_size: tuple[int, int],
    query_stride: int,
    cells: npt.NDArray[np.int64],
    linear: npt.NDArray[np.float32],
) -> CellMotion:
    """Follow the blocks that a crop shows, from the queries of each group to all its samples.

    The same numbers as :func:`accumulate` gives for these blocks, in less time: pairs that
    nobody asks for are left out.

    Args:
        step: From :func:`step_motion`.
        samples: (G, J) frame indices into the window, not falling within a group.
        display_size: (width, height) in coded pixels beyond which the picture ends.
        query_stride: Every n-th sample of a group is a query.
        cells: (g, g) the block (row * Wb + column) that each cell of the output shows, negative
            for none.
        linear: (2, 2) from vectors (x, y) of the coded picture to those of the output.

    Raises:
        ValueError: As :func:`accumulate`.
    """
    rows, columns = step.valid.shape[1:]
    flat = np.maximum(cells.reshape(-1), 0)
    wanted = np.zeros(rows * columns, np.bool_)
    wanted[flat] = True
    paths = _follow(
        step, samples, display_size=display_size, query_stride=query_stride, wanted=wanted
    )
    num_samples = samples.shape[1]
    moved = paths.moved.reshape(2, -1, num_samples, rows * columns)
    valid = paths.valid.reshape(moved.shape[1:])
    # Blocks are fewer than cells, so they are made ready before they are spread.
    vectors = (moved * valid).astype(np.float32)
    factors = linear * np.float32(_PIXELS_PER_UNIT)
    field = np.empty((len(valid), 2, *valid.shape[1:]), np.float32)
    for axis in range(2):
        np.multiply(vectors[axis], factors[axis, axis], out=field[:, axis])
        if factors[axis, 1 - axis] != 0:
            field[:, axis] += vectors[1 - axis] * factors[axis, 1 - axis]
    motion, seen = np.take(field, flat, axis=-1), np.take(valid, flat, axis=-1)
    if len(empty := np.flatnonzero(cells < 0)):
        motion[..., empty], seen[..., empty] = 0.0, False
    return CellMotion(
        motion.reshape(*motion.shape[:-1], *cells.shape),
        seen.reshape(*seen.shape[:-1], *cells.shape),
    )


def _follow(
    step: StepMotion,
    samples: npt.NDArray[np.int64],
    *,
    display_size: tuple[int, int],
    query_stride: int = 1,
    wanted: npt.NDArray[np.bool_] | None = None,
) -> BlockPaths:
    if samples.min() < 0 or samples.max() >= len(step.steps):
        raise ValueError(
            f"samples must lie in 0..{len(step.steps) - 1}, got {samples.min()}..{samples.max()}"
        )
    if np.any(np.diff(samples, axis=1) < 0):
        raise ValueError(f"the samples of a group must not fall, got {samples.tolist()}")
    num_frames, height, width, _ = step.steps.shape
    planes = np.moveaxis(step.steps.reshape(num_frames, -1, 2), -1, 0)
    scaled = np.multiply(planes, np.float32(UNITS_PER_CELL), order="C")
    units = scaled.astype(np.int32)
    if np.any(units.astype(np.float32) != scaled):
        raise ValueError("steps must be multiples of 1/64 cell, as quarter pixels are")
    return follow(
        units,
        step.valid.reshape(num_frames, -1),
        samples,
        picture=Picture(height, width, *(side * _UNITS_PER_PIXEL for side in display_size)),
        query_stride=query_stride,
        wanted=wanted,
    )
