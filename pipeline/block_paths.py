"""Where the blocks of a frame have been in earlier and later frames, in whole numbers.

The work behind ``gopstream.pipeline.accumulation``, which says what it means (Deformable Video
Transformer, CVPR 2022, section 3.2; forward motion as in this project's design, section 4).

Dimensions: N raw frames of a window, G groups of J samples, of which every n-th is one of Q
queries, P pairs of a query and a later sample of its group, C blocks. Positions are int32 in
64ths of a cell, measured from the corner of the picture, x before y: quarter pixels and the means
of two of them are whole numbers there, so nothing is ever rounded.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

UNITS_PER_CELL: Final = 64
_UNIT_BITS: Final = 6
_INVERSION_STEPS: Final = 5
_INVERSION_TOLERANCE: Final = UNITS_PER_CELL // 16
"""Half a pixel of a block of 8."""


class Picture(NamedTuple):
    """The grid of blocks, and where on it the picture ends."""

    rows: int
    columns: int
    width: int
    """In 64ths of a cell, as height is."""
    height: int

    def centres(self) -> npt.NDArray[np.int32]:
        """Return (2, C) positions of the middle of each cell."""
        y, x = np.divmod(np.arange(self.rows * self.columns, dtype=np.int32), self.columns)
        return np.stack([x, y]) * UNITS_PER_CELL + UNITS_PER_CELL // 2

    def cells(self, positions: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
        """Return (...) the cell that holds each position (2, ...), clamped to the grid."""
        last = np.array([self.columns - 1, self.rows - 1], np.int32)
        corner = positions >> _UNIT_BITS
        np.clip(corner, 0, last.reshape(2, *(1,) * (positions.ndim - 1)), out=corner)
        cells: npt.NDArray[np.intp] = (corner[1] * self.columns + corner[0]).astype(np.intp)
        return cells

    def inside(self, positions: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Return (...) True where a position (2, ...) lies in the picture."""
        # A negative number is a large one when it is read without its sign.
        unsigned = positions.view(np.uint32)
        result: npt.NDArray[np.bool_] = (unsigned[0] < self.width) & (unsigned[1] < self.height)
        return result


class BlockPaths(NamedTuple):
    """What blocks have done between queries and samples."""

    moved: npt.NDArray[np.int32]
    """(2, G, Q, J, C) from query to sample."""
    valid: npt.NDArray[np.bool_]
    """(G, Q, J, C)."""


def follow(
    units: npt.NDArray[np.int32],
    step_valid: npt.NDArray[np.bool_],
    samples: npt.NDArray[np.int64],
    *,
    picture: Picture,
    query_stride: int = 1,
    wanted: npt.NDArray[np.bool_] | None = None,
) -> BlockPaths:
    """Follow every block from each n-th sample of each group to all of its samples.

    Args:
        units: (2, N, C) int32, the step from each frame to the one before it.
        step_valid: (N, C) False where that step is not known.
        samples: (G, J) frames, not falling within a group.
        picture: The grid of blocks.
        query_stride: The n above.
        wanted: (C,) blocks whose paths are asked for, and only where they are valid: the
            others hold anything. None asks for all, invalid ones too.
    """
    paths, inverse, followed = _backward(units, step_valid, samples, picture, query_stride)
    _forward(paths, inverse, followed, picture, query_stride=query_stride, wanted=wanted)
    return paths


def _backward(
    units: npt.NDArray[np.int32],
    step_valid: npt.NDArray[np.bool_],
    samples: npt.NDArray[np.int64],
    picture: Picture,
    query_stride: int,
) -> tuple[BlockPaths, npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Chain the steps (2, N, C) down from each sample; fills the pairs with t' <= t.

    Returns:
        The pairs, and of those with t' > t, P of a group, what leads back from t' to t:
        displacement (2, G, P, C) and validity (G, P, C).
    """
    num_groups, num_samples = samples.shape
    centres = picture.centres()
    queries = range(0, num_samples, query_stride)
    shape = (num_groups, len(queries), num_samples, centres.shape[1])
    moved, valid = np.zeros((2, *shape), np.int32), np.zeros(shape, np.bool_)
    num_later = sum(num_samples - 1 - query for query in queries)
    inverse = np.empty((2, num_groups, num_later, centres.shape[1]), np.int32)
    followed = np.empty(inverse.shape[1:], np.bool_)
    for group, frames in enumerate(samples.tolist()):
        positions = np.repeat(centres[:, None], num_samples, axis=1)
        alive = np.repeat(picture.inside(centres)[None], num_samples, axis=0)
        end = num_later
        for target in range(num_samples - 1, -1, -1):
            # All later samples have come to the next one; they go on to this one together.
            walking, following = positions[:, target + 1 :], alive[target + 1 :]
            for frame in range(frames[min(target + 1, num_samples - 1)], frames[target], -1):
                cells = picture.cells(walking)
                following &= np.take(step_valid[frame], cells)
                walking += np.take(units[:, frame], cells, axis=1)
                following &= picture.inside(walking)
            first = -(-target // query_stride)
            asking = slice(first * query_stride, None, query_stride)
            moved[:, group, first:, target] = positions[:, asking] - centres[:, None]
            valid[group, first:, target] = alive[asking]
            if target % query_stride == 0:
                start = end - (num_samples - 1 - target)
                np.subtract(walking, centres[:, None], out=inverse[:, group, start:end])
                followed[group, start:end] = following
                end = start
    return BlockPaths(moved, valid), inverse, followed


def _forward(
    paths: BlockPaths,
    inverse: npt.NDArray[np.int32],
    followed: npt.NDArray[np.bool_],
    picture: Picture,
    *,
    query_stride: int,
    wanted: npt.NDArray[np.bool_] | None,
) -> None:
    """Fill the pairs with t' > t, in place, by inverting MD(t', t).

    Each block of t' writes its negated motion where it came from; where two blocks came from
    one place, the one with the larger motion wins (a moving foreground hides what is behind),
    then the one further down or right. Places that none came from are filled by a fixed-point
    iteration and are valid only if it agrees with itself.
    """
    num_samples = paths.valid.shape[2]
    shape = inverse.shape
    flat, known = inverse.reshape(2, -1), followed.reshape(-1, shape[-1])
    winner = _scatter(inverse.reshape(2, -1, shape[-1]), known, picture, wanted)
    result, hit = -np.take(flat, winner, axis=1), winner >= 0
    holes = np.flatnonzero(
        ~hit if wanted is None else ~hit & _worth_filling(known, wanted, picture)
    )
    result[:, holes], hit[holes] = _fixed_point(flat, known.reshape(-1), holes, picture)
    found, seen = result.reshape(shape), hit.reshape(shape[1:]) & picture.inside(picture.centres())
    start = 0
    for number, query in enumerate(range(0, num_samples, query_stride)):
        end = start + num_samples - 1 - query
        paths.moved[:, :, number, query + 1 :] = found[:, :, start:end]
        paths.valid[:, number, query + 1 :] = seen[:, start:end]
        start = end


def _worth_filling(
    followed: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_], picture: Picture
) -> npt.NDArray[np.bool_]:
    """Return (P * C,) True where a path could be valid and somebody asks for it."""
    asked = wanted & picture.inside(picture.centres())
    worth: npt.NDArray[np.bool_] = np.any(followed, axis=1, keepdims=True) & asked
    return worth.reshape(-1)


def _scatter(
    inverse: npt.NDArray[np.int32],
    followed: npt.NDArray[np.bool_],
    picture: Picture,
    wanted: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[np.int64]:
    """Return (P * C,) which block, counted over all pairs, wrote to each cell; -1 for none."""
    num_pairs, num_cells = followed.shape
    targets = inverse + picture.centres()[:, None]
    writers = np.flatnonzero(followed & picture.inside(targets))
    cells = picture.cells(np.take(targets.reshape(2, -1), writers, axis=1))
    if wanted is not None:
        needed = np.take(wanted, cells)
        writers, cells = writers[needed], cells[needed]
    cells += writers - writers % num_cells  # where the writer's pair begins
    # Length first, then the place: the largest of these numbers names the winner.
    x, y = np.take(inverse.reshape(2, -1), writers, axis=1).astype(np.int64)
    length = x * x + y * y
    best = np.full(num_pairs * num_cells, -1, np.int64)
    np.maximum.at(best, cells, length * len(best) + writers)
    return np.where(best < 0, -1, best % len(best))


def _fixed_point(
    flat: npt.NDArray[np.int32],
    followed: npt.NDArray[np.bool_],
    holes: npt.NDArray[np.intp],
    picture: Picture,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Solve F(p) = -inverse(p + F(p)) at some blocks; returns F and where it is consistent."""
    centres = picture.centres()
    cell = holes % centres.shape[1]
    start, origin = holes - cell, centres[:, cell]
    forward = before = -np.take(flat, holes, axis=1)
    # One that has come to rest stays there: only those that move go on.
    moving, near, base = np.arange(len(holes)), origin, start
    for _ in range(_INVERSION_STEPS):
        after = -np.take(flat, base + picture.cells(near + before), axis=1)
        changed = np.flatnonzero((after[0] != before[0]) | (after[1] != before[1]))
        moving, base = moving[changed], base[changed]
        before, near = np.take(after, changed, axis=1), np.take(near, changed, axis=1)
        forward[:, moving] = before
    landed = origin + forward
    cells = start + picture.cells(landed)
    error = np.abs(forward + np.take(flat, cells, axis=1))
    close = (error[0] <= _INVERSION_TOLERANCE) & (error[1] <= _INVERSION_TOLERANCE)
    agrees = picture.inside(landed) & followed[cells] & close
    return forward, agrees
