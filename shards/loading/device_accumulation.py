"""Accumulate block motion between frames of clips of any size, a whole batch at once.

The batched form of ``gopstream.pipeline.accumulation``, equal to it in every element; see there
for what the motion means and which rules it follows (Deformable Video Transformer, CVPR 2022,
section 3.2; I-frames, intra blocks, scene cuts and forward motion as in this project's design,
section 4). All arithmetic is on whole numbers, so every device gives the same, every time.

Dimensions: B clips, N raw frames of the longest window, G groups (sub-clips) of J samples, of
which every n-th is one of Q queries, R x S blocks of the largest grid, C = R * S, P pairs of a
query and a later sample. Vectors and positions are int32 planes (2, ...), x before y, in 64ths of
a cell from the corner of the picture: quarter pixels and the means of two are whole there.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gopstream.pipeline.accumulation import BLOCK_PIXELS, SCENE_CUT_INTRA_SHARE

UNITS_PER_PIXEL: Final = 8
_UNITS_PER_QUARTER: Final = UNITS_PER_PIXEL // 4
_UNITS_PER_CELL: Final = UNITS_PER_PIXEL * BLOCK_PIXELS
_UNIT_BITS: Final = 6
_INVERSION_STEPS: Final = 5
_INVERSION_TOLERANCE: Final = UNITS_PER_PIXEL // 2
"""Half a pixel."""
_UNKNOWN: Final = torch.iinfo(torch.int32).max


class Pictures(NamedTuple):
    """How large each clip's grid of blocks is, inside the largest of the batch."""

    rows: int
    """Of the largest grid, which is that of all tensors."""
    columns: int
    last: Tensor
    """(2, B, 1, 1, 1) int32 last column and last row of each clip's own grid."""
    limits: Tensor
    """(2, B, 1, 1, 1) int32 width and height where each picture ends, in 64ths of a cell."""

    def centres(self) -> Tensor:
        """Return (2, 1, 1, 1, C) positions of the middle of each cell."""
        device = self.last.device
        y = torch.arange(self.rows, dtype=torch.int32, device=device)
        x = torch.arange(self.columns, dtype=torch.int32, device=device)
        both = torch.stack([x.expand(self.rows, -1), y[:, None].expand(-1, self.columns)]).view(
            2, 1, 1, 1, -1
        )
        return both * _UNITS_PER_CELL + _UNITS_PER_CELL // 2

    def cells(self, positions: Tensor) -> Tensor:
        """Return (B, ...) int32 the cell that holds each position, clamped to the clip's grid."""
        corner = (positions >> _UNIT_BITS).clamp(min=0).minimum(self.last)
        return torch.add(corner[0], corner[1], alpha=self.columns)

    def inside(self, positions: Tensor) -> Tensor:
        """Return (B, ...) True where a position (2, B, G, P, C) lies in its picture."""
        within = (positions >= 0) & (positions < self.limits)
        return within[0] & within[1]


class StepMotion(NamedTuple):
    """Motion of each frame to the one before it, made ready for chaining."""

    steps: Tensor
    """(2, B, N + 1, C) int32. The last frame is none: nothing moves there."""
    valid: Tensor
    """(B, N + 1, C) bool, False at intra blocks and all over a frame that starts a scene."""


def step_motion(
    motion: Tensor,
    coverage: Tensor,
    *,
    is_intra_frame: Tensor,
    scene_cuts: Tensor,
    num_frames: Tensor,
    pictures: Pictures,
) -> StepMotion:
    """Fill what the streams leave open, so that motion can be chained through every frame.

    Nothing here waits for the device. What stands in the padding plays no part.

    Args:
        motion: (B, N, R, S, 2) int16 quarter pixels, first reference list.
        coverage: (B, N, R, S), not 0 where a block is predicted.
        is_intra_frame: (B, N) bool, True at I-frames.
        scene_cuts: (B, N) bool, True where a frame shows another scene than the one before it.
        num_frames: (B,) frames of each window, the rest of the N being padding.
        pictures: The clips' sizes.
    """
    batch, window, rows, columns, _ = motion.shape
    device = motion.device
    grid = pictures.last.view(2, batch, 1, 1, 1) + 1
    own = torch.arange(columns, device=device) < grid[0]
    own = own & (torch.arange(rows, device=device)[:, None] < grid[1])
    covered = (coverage != 0) & own
    steps = motion.permute(4, 0, 1, 2, 3).to(torch.int32) * _UNITS_PER_QUARTER
    missing = ~covered & ~is_intra_frame[:, :, None, None]
    steps = torch.where(missing, _neighbour_median(steps, covered), steps)
    # The same operations in the same type as the NumPy form: a share may be the limit itself.
    cells = (grid[0] * grid[1]).view(batch, 1)
    intra_share = 1.0 - covered.sum(dim=(2, 3)).to(torch.float64) / cells
    valid = covered & (intra_share <= SCENE_CUT_INTRA_SHARE)[:, :, None, None]

    frame = torch.arange(window, device=device)
    gives = ~is_intra_frame & ~scene_cuts & (frame < num_frames[:, None])
    after, before = F.pad(gives[:, 1:], (0, 1)), F.pad(gives[:, :-1], (1, 0))
    offset = torch.where(after, 1, torch.where(before, -1, 0))
    source = frame + torch.where(is_intra_frame, offset, 0)
    clip = torch.arange(batch, device=device)[:, None]
    valid = valid.flatten(2)[clip, source] & ~scene_cuts[:, :, None]
    steps = steps.flatten(3)[:, clip, source]
    return StepMotion(F.pad(steps, (0, 0, 0, 1)), F.pad(valid, (0, 0, 0, 1), value=True))


def _neighbour_median(steps: Tensor, covered: Tensor) -> Tensor:
    """Return (2, B, N, R, S), for each block the median of its covered 4-neighbours, or 0."""
    padded = F.pad(steps.masked_fill(~covered, _UNKNOWN), (1, 1, 1, 1), value=_UNKNOWN)
    up, down = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    left, right = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    # Batcher's network for four; the unknown come last.
    low, high = torch.minimum(up, down), torch.maximum(up, down)
    low2, high2 = torch.minimum(left, right), torch.maximum(left, right)
    first, last = torch.minimum(low, low2), torch.maximum(high, high2)
    middle, middle2 = torch.maximum(low, low2), torch.minimum(high, high2)
    second, third = torch.minimum(middle, middle2), torch.maximum(middle, middle2)
    # Of one the first counts, of two first and second, of three the second, of four the middle.
    lower = torch.where(third == _UNKNOWN, first, second)
    upper = torch.where(second == _UNKNOWN, first, second)
    upper = torch.where(last == _UNKNOWN, upper, third)
    # Even numbers, so that half of the sum is whole.
    return torch.where(first == _UNKNOWN, 0, (lower + upper) >> 1)


def accumulate(
    step: StepMotion,
    samples: Tensor,
    *,
    pictures: Pictures,
    gaps: Sequence[int],
    query_stride: int,
) -> tuple[Tensor, Tensor]:
    """Follow every block from each query to all samples of its group.

    Nothing here waits for the device, and all shapes are known beforehand: under
    ``torch.compile`` this is one graph, another one for each other ``gaps``.

    Args:
        step: From :func:`step_motion`.
        samples: (B, G, J) int64 frame indices into each window, not falling within a group.
        pictures: The clips' sizes.
        gaps: J - 1 numbers of frames that lie at most between two neighbouring samples.
        query_stride: Every n-th sample of a group is a query.

    Returns:
        Displacement (2, B, G, Q, J, C) int32 and validity (B, G, Q, J, C), False where the
        content could not be followed all the way.
    """
    moved, valid = _backward(step, samples, pictures, gaps)
    _forward(moved, valid, pictures, query_stride)
    return moved[:, :, :, ::query_stride], valid[:, :, ::query_stride]


def _backward(
    step: StepMotion, samples: Tensor, pictures: Pictures, gaps: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Chain the steps down from each sample; fills the pairs with t' <= t.

    Between two neighbouring samples every group takes as many steps as the widest gap has;
    those that have arrived stand still, in the frame where nothing moves.

    Returns:
        Displacement (2, B, G, J, J, C) int32 and validity (B, G, J, J, C).
    """
    batch, groups, num_samples = samples.shape
    frames, num_cells = step.valid.shape[1:]
    centres = pictures.centres()
    moved = centres.new_zeros((2, batch, groups, num_samples, num_samples, num_cells))
    valid = torch.zeros(moved.shape[1:], dtype=torch.bool, device=moved.device)
    steps, step_valid = step.steps.reshape(2, -1), step.valid.reshape(-1)
    first_frame = torch.arange(batch, device=moved.device)[:, None, None] * frames
    positions = centres.expand(2, batch, groups, num_samples, num_cells).clone()
    alive = pictures.inside(positions)
    valid[:, :, -1, -1] = alive[:, :, -1]
    for target in range(num_samples - 2, -1, -1):
        # All later samples have come to the next one; they go on to this one together.
        walking, following = positions[:, :, :, target + 1 :], alive[:, :, target + 1 :]
        start, end = samples[:, :, target + 1, None], samples[:, :, target, None]
        frame = start - torch.arange(gaps[target], device=moved.device)  # (B, G, steps)
        frame = torch.where(frame > end, frame, frames - 1)
        begins = ((first_frame + frame) * num_cells)[..., None, None]
        for count in range(gaps[target]):
            place = begins[:, :, count] + pictures.cells(walking)
            following &= step_valid[place]
            walking += steps[:, place]
            following &= pictures.inside(walking)
        moved[:, :, :, target:, target] = positions[:, :, :, target:] - centres
        valid[:, :, target:, target] = alive[:, :, target:]
    return moved, valid


def _forward(moved: Tensor, valid: Tensor, pictures: Pictures, query_stride: int) -> None:
    """Fill the pairs of a query t and a later t', in place, by inverting MD(t', t).

    Each block of t' writes its negated motion where it came from; where two blocks came from
    one place, the one with the larger motion wins, then the one further down or right. Places
    that none came from are filled by a fixed-point iteration and are valid only if it agrees
    with itself.
    """
    num_samples = moved.shape[3]
    queries = range(0, num_samples - 1, query_stride)
    if not queries:
        return
    inverse = torch.cat([moved[:, :, :, query + 1 :, query] for query in queries], dim=3)
    followed = torch.cat([valid[:, :, query + 1 :, query] for query in queries], dim=2)
    filled, agrees = _fixed_point(inverse, followed, pictures)
    winner = _scatter(inverse, followed, pictures)
    hit = winner >= 0
    landed = -_take(inverse, winner.clamp(min=0))
    result = torch.where(hit, landed, filled)
    reached = (hit | agrees) & pictures.inside(pictures.centres())
    sizes = [num_samples - 1 - query for query in queries]
    for query, motion, seen in zip(
        queries, torch.split(result, sizes, dim=3), torch.split(reached, sizes, dim=2), strict=True
    ):
        moved[:, :, :, query, query + 1 :] = motion
        valid[:, :, query, query + 1 :] = seen


def _take(vectors: Tensor, cells: Tensor) -> Tensor:
    """Return vectors (2, B, G, P, C) at cells (B, G, P, C) int64, each within its own pair."""
    return vectors.gather(-1, cells.expand_as(vectors))


def _scatter(inverse: Tensor, followed: Tensor, pictures: Pictures) -> Tensor:
    """Return (B, G, P, C) which block of its pair wrote to each cell; -1 for none."""
    num_cells = inverse.shape[-1]
    targets = inverse + pictures.centres()
    wide = inverse.to(torch.int64)
    length = wide[0] * wide[0] + wide[1] * wide[1]
    # Length first, then the place: a maximum has no order of writing that could matter, as
    # writing to one place several times has on a GPU.
    key = length * num_cells + torch.arange(num_cells, device=inverse.device)
    key = torch.where(followed & pictures.inside(targets), key, -1)
    cells = pictures.cells(targets).to(torch.int64)
    best = torch.full_like(key, -1).scatter_reduce(-1, cells, key, "amax")
    return torch.where(best < 0, -1, best % num_cells)


def _fixed_point(inverse: Tensor, followed: Tensor, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Solve F(p) = -inverse(p + F(p)); returns F and where it is consistent."""
    centres = pictures.centres()
    forward = -inverse
    for _ in range(_INVERSION_STEPS):
        cells = pictures.cells(centres + forward).to(torch.int64)
        forward = -_take(inverse, cells)
    landed = centres + forward
    cells = pictures.cells(landed).to(torch.int64)
    error = (forward + _take(inverse, cells)).abs()
    close = (error[0] <= _INVERSION_TOLERANCE) & (error[1] <= _INVERSION_TOLERANCE)
    return forward, close & pictures.inside(landed) & followed.gather(-1, cells)
