"""Accumulate block motion between any two frames of a clip.

MD(t, t') at p is the displacement after which the content that frame t shows at p is found in
frame t': p + MD(t, t')(p) lies in frame t'. The one-step vectors of H.264 lead from each frame
to the one before it; they are chained backwards, and inverted for t' > t
(Deformable Video Transformer, CVPR 2022, section 3.2; rules for I-frames, intra blocks, scene
cuts and forward motion as in this project's design, section 4).

Pure NumPy, no video library: training machines import this module.

Dimensions: N raw frames of a window, S sampled frames, G groups (sub-clips) of J samples,
Hb x Wb blocks. Positions are in cells of the grid, cell centres at whole numbers, (x, y) order.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK_PIXELS: Final = 8
QUARTERS_PER_CELL: Final = 4 * BLOCK_PIXELS
SCENE_CUT_INTRA_SHARE: Final = 0.6
"""A P-frame with a larger share of intra blocks starts a new scene."""
_INVERSION_STEPS: Final = 5
_INVERSION_TOLERANCE: Final = 0.5 / BLOCK_PIXELS


class StepMotion(NamedTuple):
    """Motion of each frame to the one before it, made ready for chaining."""

    steps: npt.NDArray[np.float32]
    """(N, Hb, Wb, 2) cells, (dx, dy) into the frame before."""
    valid: npt.NDArray[np.bool_]
    """(N, Hb, Wb) False at intra blocks and all over a frame that starts a new scene."""
    extrapolated: npt.NDArray[np.bool_]
    """(N,) True at I-frames, whose motion is that of a neighbouring frame."""


class AccumulatedMotion(NamedTuple):
    """MD(t, t') for all pairs of samples of each group."""

    displacement: npt.NDArray[np.float32]
    """(G, J, J, Hb, Wb, 2) pixels of the coded picture: from sample t (axis 1) to t' (axis 2)."""
    valid: npt.NDArray[np.bool_]
    """(G, J, J, Hb, Wb) False where the content could not be followed all the way."""
    extrapolated: npt.NDArray[np.bool_]
    """(G, J, J) True where an I-frame lies on the way."""


def step_motion(
    motion: npt.NDArray[np.int16],
    coverage: npt.NDArray[np.uint8],
    is_intra_frame: npt.NDArray[np.bool_],
) -> StepMotion:
    """Fill what the stream leaves open, so that motion can be chained through every frame.

    An I-frame takes the motion of the frame after it (or before it, at the end of the window):
    constant velocity, counted as valid, marked ``extrapolated``. An intra block of a P-frame
    takes the median of its predicted neighbours and stays invalid.

    Args:
        motion: (N, Hb, Wb, 2) int16 quarter pixels, first reference list.
        coverage: (N, Hb, Wb) uint8, 1 where a block is predicted.
        is_intra_frame: (N,) True at I-frames.
    """
    covered = coverage.astype(np.bool_)
    steps = motion.astype(np.float32) / np.float32(QUARTERS_PER_CELL)
    num_frames = len(steps)
    predicted = np.flatnonzero(~is_intra_frame)
    for index in predicted.tolist():
        if not covered[index].all():
            steps[index] = _fill_intra(steps[index], covered[index])
    intra_share = 1.0 - covered.mean(axis=(1, 2))
    valid = covered & (intra_share <= SCENE_CUT_INTRA_SHARE)[:, None, None]
    for index in np.flatnonzero(is_intra_frame).tolist():
        neighbours = [i for i in (index + 1, index - 1) if i in predicted and 0 <= i < num_frames]
        if neighbours:
            steps[index] = steps[neighbours[0]]
            valid[index] = valid[neighbours[0]]
    return StepMotion(steps, valid, is_intra_frame.copy())


def _fill_intra(
    steps: npt.NDArray[np.float32], covered: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Give each intra block of one frame the median of its predicted 4-neighbours, or zero."""
    height, width = covered.shape
    padded = np.full((height + 2, width + 2, 2), np.nan, np.float32)
    padded[1:-1, 1:-1][covered] = steps[covered]
    rows, columns = np.nonzero(~covered)
    neighbours = np.stack(
        [
            padded[rows, columns + 1],
            padded[rows + 2, columns + 1],
            padded[rows + 1, columns],
            padded[rows + 1, columns + 2],
        ]
    )  # (4, K, 2)
    known = ~np.isnan(neighbours[..., 0])
    neighbours[~known] = 0.0
    has_known = known.any(axis=0)
    median = np.zeros((len(rows), 2), np.float32)
    for count in range(1, 5):
        chosen = known.sum(axis=0) == count
        values = np.sort(np.where(known[:, chosen, None], neighbours[:, chosen], np.inf), axis=0)
        median[chosen] = (values[(count - 1) // 2] + values[count // 2]) / 2
    filled = steps.copy()
    filled[rows, columns] = np.where(has_known[:, None], median, 0.0)
    return filled


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
        ValueError: If samples fall or lie outside of the window.
    """
    if samples.min() < 0 or samples.max() >= len(step.steps):
        raise ValueError(
            f"samples must lie in 0..{len(step.steps) - 1}, got {samples.min()}..{samples.max()}"
        )
    if np.any(np.diff(samples, axis=1) < 0):
        raise ValueError(f"the samples of a group must not fall, got {samples.tolist()}")
    limits = np.array([side / BLOCK_PIXELS - 0.5 for side in display_size], np.float32)
    displacement, valid = _backward(step, samples, limits)
    _forward(displacement, valid, limits)
    between = np.cumsum(np.concatenate([[0], step.extrapolated]))
    first, second = samples[:, :, None] + 1, samples[:, None, :] + 1
    # The step of frame f leads from f to f - 1: from t down to t' the steps t' + 1 .. t count.
    extrapolated = between[first] != between[second]
    return AccumulatedMotion(displacement * BLOCK_PIXELS, valid, extrapolated)


def _cell_centres(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return (Hb, Wb, 2) positions (x, y) of the cells themselves."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([x, y], axis=-1).astype(np.float32)


def _inside(
    positions: npt.NDArray[np.float32], limits: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Return (...,) True where a position (..., 2) lies in the picture."""
    x, y = positions[..., 0], positions[..., 1]
    result: npt.NDArray[np.bool_] = (x >= -0.5) & (y >= -0.5) & (x < limits[0]) & (y < limits[1])
    return result


def _nearest(positions: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.int64]:
    """Return the flat index of the cell nearest to each position, clamped to the grid."""
    cells = np.floor(positions + np.float32(0.5)).astype(np.int64)
    columns = np.clip(cells[..., 0], 0, width - 1)
    rows = np.clip(cells[..., 1], 0, height - 1)
    result: npt.NDArray[np.int64] = rows * width + columns
    return result


def _backward(
    step: StepMotion, samples: npt.NDArray[np.int64], limits: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Chain the steps down from each sample; fills the pairs with t' <= t, in cells."""
    num_groups, num_samples = samples.shape
    _, height, width, _ = step.steps.shape
    origin = _cell_centres(height, width)
    pairs = (num_groups, num_samples, num_samples, height, width)
    displacement = np.zeros((*pairs, 2), np.float32)
    valid = np.zeros(pairs, np.bool_)
    positions = np.broadcast_to(origin, (num_groups, num_samples, height, width, 2)).copy()
    alive = np.broadcast_to(_inside(origin, limits), pairs[:2] + pairs[3:]).copy()
    for frame in range(int(samples.max()), int(samples.min()) - 1, -1):
        # Record first: whoever has arrived at this frame, at each sample that is this frame.
        for group, target in zip(*np.nonzero(samples == frame), strict=True):
            arrived = samples[group] >= frame
            displacement[group, arrived, target] = positions[group, arrived] - origin
            valid[group, arrived, target] = alive[group, arrived]
        moving = (samples >= frame) & (samples[:, :1] < frame)
        if not moving.any():
            continue
        cells = _nearest(positions[moving], height, width)
        alive[moving] &= step.valid[frame].reshape(-1)[cells]
        positions[moving] += step.steps[frame].reshape(-1, 2)[cells]
        alive[moving] &= _inside(positions[moving], limits)
    return displacement, valid


def _forward(
    displacement: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    limits: npt.NDArray[np.float32],
) -> None:
    """Fill the pairs with t' > t, in place, by inverting MD(t', t).

    Each block of t' writes its negated motion where it came from; where two blocks came from
    one place, the one with the larger motion wins (a moving foreground hides what is behind).
    Places that none came from are filled by a fixed-point iteration and are valid only if it
    agrees with itself.
    """
    num_groups, num_samples, _, height, width, _ = displacement.shape
    earlier, later = np.triu_indices(num_samples, k=1)
    if len(earlier) == 0:
        return
    inverse = displacement[:, later, earlier].reshape(-1, height * width, 2)  # (P, cells, 2)
    followed = valid[:, later, earlier].reshape(-1, height * width)
    origin = _cell_centres(height, width).reshape(-1, 2)
    filled, agrees = _fixed_point(inverse, followed, origin, (height, width), limits)
    landed, hit = _scatter(inverse, followed, origin, (height, width), limits)
    shape = (num_groups, len(earlier), height, width)
    result = np.where(hit[..., None], landed, filled).reshape(*shape, 2)
    displacement[:, earlier, later] = result
    valid[:, earlier, later] = (hit | agrees).reshape(shape)


def _scatter(
    inverse: npt.NDArray[np.float32],
    followed: npt.NDArray[np.bool_],
    origin: npt.NDArray[np.float32],
    grid: tuple[int, int],
    limits: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Write each followed block's negated motion at the cell it came from."""
    height, width = grid
    num_pairs, num_cells, _ = inverse.shape
    targets = origin + inverse
    cells = _nearest(targets, height, width) + np.arange(num_pairs)[:, None] * num_cells
    writes = followed & _inside(targets, limits)
    order = np.argsort(np.square(inverse).sum(axis=-1), axis=1, kind="stable")
    order += np.arange(num_pairs)[:, None] * num_cells
    order = order[writes.reshape(-1)[order]]
    landed = np.zeros((num_pairs * num_cells, 2), np.float32)
    hit = np.zeros(num_pairs * num_cells, np.bool_)
    # NumPy assigns in order: of several writes to one cell the last, largest motion stays.
    landed[cells.reshape(-1)[order]] = -inverse.reshape(-1, 2)[order]
    hit[cells.reshape(-1)[order]] = True
    return landed.reshape(num_pairs, num_cells, 2), hit.reshape(num_pairs, num_cells)


def _fixed_point(
    inverse: npt.NDArray[np.float32],
    followed: npt.NDArray[np.bool_],
    origin: npt.NDArray[np.float32],
    grid: tuple[int, int],
    limits: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Solve F(p) = -inverse(p + F(p)); returns F and where it is consistent."""
    height, width = grid
    pair = np.arange(len(inverse))[:, None]
    forward = -inverse
    for _ in range(_INVERSION_STEPS):
        forward = -inverse[pair, _nearest(origin + forward, height, width)]
    cells = _nearest(origin + forward, height, width)
    error = np.abs(forward + inverse[pair, cells]).max(axis=-1)
    agrees = _inside(origin + forward, limits) & followed[pair, cells]
    return forward, agrees & (error <= _INVERSION_TOLERANCE)
