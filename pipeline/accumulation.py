"""Accumulate block motion between any two frames of a clip.

MD(t, t') at p is the displacement after which the content that frame t shows at p is found in
frame t': p + MD(t, t')(p) lies in frame t'. The one-step vectors of H.264 lead from each frame
to the one before it; they are chained backwards, and inverted for t' > t
(Deformable Video Transformer, CVPR 2022, section 3.2; rules for I-frames, intra blocks, scene
cuts and forward motion as in this project's design, section 4).

Pure NumPy, no video library: training machines import this module. Its batched form on a device
is ``gopstream.models.layers.accumulated_motion``.

Dimensions: N raw frames of a window, S sampled frames, G groups (sub-clips) of J samples,
P pairs, Hb x Wb blocks, C = Hb * Wb. Inside, positions are int32 in 64ths of a cell, measured
from the corner of the picture, x before y: quarter pixels and the means of two of them are
whole numbers there, so nothing is ever rounded.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK_PIXELS: Final = 8
QUARTERS_PER_CELL: Final = 4 * BLOCK_PIXELS
SCENE_CUT_INTRA_SHARE: Final = 0.6
"""A P-frame with a larger share of intra blocks starts a new scene."""
_UNITS_PER_CELL: Final = 2 * QUARTERS_PER_CELL
_UNIT_BITS: Final = 6
_INVERSION_STEPS: Final = 5
_INVERSION_TOLERANCE: Final = _UNITS_PER_CELL // (2 * BLOCK_PIXELS)
"""Half a pixel."""


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
    steps = motion.astype(np.float32) / np.float32(QUARTERS_PER_CELL)
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
    frames, rows, columns = np.nonzero(missing)
    height, width = covered.shape[1:]
    neighbours = np.full((4, len(frames), 2), np.inf, np.float32)
    for side, (down, right) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
        y, x = rows + down, columns + right
        exists = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        exists[exists] = covered[frames[exists], y[exists], x[exists]]
        neighbours[side, exists] = steps[frames[exists], y[exists], x[exists]]
    count = np.isfinite(neighbours[..., 0]).sum(axis=0)
    neighbours.sort(axis=0)
    block = np.arange(len(frames))
    median = (neighbours[(count - 1) // 2, block] + neighbours[count // 2, block]) / 2
    steps[frames, rows, columns] = np.where(count[:, None] > 0, median, np.float32(0.0))


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
    if samples.min() < 0 or samples.max() >= len(step.steps):
        raise ValueError(
            f"samples must lie in 0..{len(step.steps) - 1}, got {samples.min()}..{samples.max()}"
        )
    if np.any(np.diff(samples, axis=1) < 0):
        raise ValueError(f"the samples of a group must not fall, got {samples.tolist()}")
    num_frames, height, width, _ = step.steps.shape
    units_per_pixel = _UNITS_PER_CELL // BLOCK_PIXELS
    picture = _Picture(
        height, width, display_size[0] * units_per_pixel, display_size[1] * units_per_pixel
    )
    scaled = step.steps * np.float32(_UNITS_PER_CELL)
    units = scaled.astype(np.int32)
    if np.any(units != scaled):
        raise ValueError("steps must be multiples of 1/64 cell, as quarter pixels are")
    units = np.ascontiguousarray(np.moveaxis(units.reshape(num_frames, -1, 2), -1, 0))
    moved, valid = _backward(units, step.valid.reshape(num_frames, -1), samples, picture)
    _forward(moved, valid, picture)
    between = np.cumsum(np.concatenate([[0], step.extrapolated]))
    first, second = samples[:, :, None] + 1, samples[:, None, :] + 1
    # The step of frame f leads from f to f - 1: from t down to t' the steps t' + 1 .. t count.
    extrapolated = between[first] != between[second]
    displacement = np.empty((*valid.shape, 2), np.float32)
    np.multiply(np.moveaxis(moved, 0, -1), np.float32(1 / units_per_pixel), out=displacement)
    grid = (*samples.shape, samples.shape[1], height, width)
    return AccumulatedMotion(displacement.reshape(*grid, 2), valid.reshape(grid), extrapolated)


class _Picture(NamedTuple):
    """The grid of blocks, and where on it the picture ends."""

    rows: int
    columns: int
    width: int
    """In 64ths of a cell, as height is."""
    height: int

    def centres(self) -> npt.NDArray[np.int32]:
        """Return (2, C) positions of the middle of each cell."""
        y, x = np.divmod(np.arange(self.rows * self.columns, dtype=np.int32), self.columns)
        return np.stack([x, y]) * _UNITS_PER_CELL + _UNITS_PER_CELL // 2

    def cells(self, positions: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
        """Return (...) the cell that holds each position (2, ...), clamped to the grid."""
        corner = positions >> _UNIT_BITS
        np.maximum(corner, 0, out=corner)
        np.minimum(corner[0], self.columns - 1, out=corner[0])
        np.minimum(corner[1], self.rows - 1, out=corner[1])
        result: npt.NDArray[np.intp] = (corner[1] * self.columns + corner[0]).astype(np.intp)
        return result

    def inside(self, positions: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Return (...) True where a position (2, ...) lies in the picture."""
        # A negative number is a large one when it is read without its sign.
        unsigned = positions.view(np.uint32)
        result: npt.NDArray[np.bool_] = (unsigned[0] < self.width) & (unsigned[1] < self.height)
        return result


def _backward(
    units: npt.NDArray[np.int32],
    step_valid: npt.NDArray[np.bool_],
    samples: npt.NDArray[np.int64],
    picture: _Picture,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Chain the steps (2, N, C) down from each sample; fills the pairs with t' <= t.

    Returns:
        Displacement (2, G, J, J, C) and validity (G, J, J, C).
    """
    num_groups, num_samples = samples.shape
    centres = picture.centres()
    shape = (num_groups, num_samples, num_samples, centres.shape[1])
    moved, valid = np.zeros((2, *shape), np.int32), np.zeros(shape, np.bool_)
    for group, frames in enumerate(samples.tolist()):
        positions = np.repeat(centres[:, None], num_samples, axis=1)
        alive = np.repeat(picture.inside(centres)[None], num_samples, axis=0)
        valid[group, -1, -1] = alive[-1]
        for target in range(num_samples - 2, -1, -1):
            # All later samples have come to the next one; they go on to this one together.
            walking, following = positions[:, target + 1 :], alive[target + 1 :]
            for frame in range(frames[target + 1], frames[target], -1):
                cells = picture.cells(walking)
                following &= np.take(step_valid[frame], cells)
                walking += np.take(units[:, frame], cells, axis=1)
                following &= picture.inside(walking)
            moved[:, group, target:, target] = positions[:, target:] - centres[:, None]
            valid[group, target:, target] = alive[target:]
    return moved, valid


def _forward(moved: npt.NDArray[np.int32], valid: npt.NDArray[np.bool_], picture: _Picture) -> None:
    """Fill the pairs with t' > t, in place, by inverting MD(t', t).

    Each block of t' writes its negated motion where it came from; where two blocks came from
    one place, the one with the larger motion wins (a moving foreground hides what is behind),
    then the one further down or right. Places that none came from are filled by a fixed-point
    iteration and are valid only if it agrees with itself.
    """
    _, num_groups, num_samples, _, num_cells = moved.shape
    earlier, later = np.triu_indices(num_samples, k=1)
    if len(earlier) == 0:
        return
    centres = picture.centres()
    inverse = moved[:, :, later, earlier].reshape(2, -1, num_cells)  # (2, P, C)
    followed = valid[:, later, earlier].reshape(-1, num_cells)
    winner = _scatter(inverse, followed, picture)
    flat = inverse.reshape(2, -1)
    result, hit = -np.take(flat, winner, axis=1), winner >= 0
    holes = np.flatnonzero(~hit)
    result[:, holes], hit[holes] = _fixed_point(flat, followed.reshape(-1), holes, picture)
    shape = (num_groups, len(earlier), num_cells)
    moved[:, :, earlier, later] = result.reshape(2, *shape)
    valid[:, earlier, later] = hit.reshape(shape) & picture.inside(centres)


def _scatter(
    inverse: npt.NDArray[np.int32], followed: npt.NDArray[np.bool_], picture: _Picture
) -> npt.NDArray[np.int64]:
    """Return (P * C,) which block, counted over all pairs, wrote to each cell; -1 for none."""
    num_pairs, num_cells = followed.shape
    targets = inverse + picture.centres()[:, None]
    writers = np.flatnonzero(followed & picture.inside(targets))
    start = writers - writers % num_cells  # of the writer's pair
    cells = picture.cells(np.take(targets.reshape(2, -1), writers, axis=1)) + start
    # Length first, then the place: the largest of these numbers names the winner.
    length = np.square(np.take(inverse.reshape(2, -1), writers, axis=1).astype(np.int64)).sum(
        axis=0
    )
    best = np.full(num_pairs * num_cells, -1, np.int64)
    np.maximum.at(best, cells, length * len(best) + writers)
    return np.where(best < 0, -1, best % len(best))


def _fixed_point(
    flat: npt.NDArray[np.int32],
    followed: npt.NDArray[np.bool_],
    holes: npt.NDArray[np.intp],
    picture: _Picture,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Solve F(p) = -inverse(p + F(p)) at some blocks; returns F and where it is consistent."""
    centres = picture.centres()
    cell = holes % centres.shape[1]
    start, origin = holes - cell, centres[:, cell]
    forward = -np.take(flat, holes, axis=1)
    for _ in range(_INVERSION_STEPS):
        forward = -np.take(flat, start + picture.cells(origin + forward), axis=1)
    landed = origin + forward
    cells = start + picture.cells(landed)
    error = np.abs(forward + np.take(flat, cells, axis=1)).max(axis=0, initial=0)
    agrees = picture.inside(landed) & followed[cells] & (error <= _INVERSION_TOLERANCE)
    return forward, agrees
