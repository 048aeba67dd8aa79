"""Accumulate block motion between any two frames of clips, on a device, for a whole batch.

The batched form of ``gopstream.pipeline.accumulation``, equal to it in every element; see there
for what the motion means and which rules it follows (Deformable Video Transformer, CVPR 2022,
section 3.2; I-frames, intra blocks, scene cuts and forward motion as in this project's design,
section 4). All arithmetic is on whole numbers, so every device gives the same.

Dimensions: B clips, N raw frames of a window, G groups (sub-clips) of J samples, Q of them,
P pairs, Hb x Wb blocks, C = Hb * Wb. Positions are int32 in 64ths of a cell, measured from the
corner of the picture, (x, y) order: quarter pixels and the means of two are whole there.
"""

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_PIXELS: Final = 8
SCENE_CUT_INTRA_SHARE: Final = 0.6
_UNITS_PER_PIXEL: Final = 8
_UNITS_PER_QUARTER: Final = _UNITS_PER_PIXEL // 4
_UNITS_PER_CELL: Final = _UNITS_PER_PIXEL * BLOCK_PIXELS
_INVERSION_STEPS: Final = 5
_INVERSION_TOLERANCE: Final = _UNITS_PER_PIXEL // 2
_UNKNOWN: Final = torch.iinfo(torch.int32).max


class StepMotion(NamedTuple):
    """Motion of each frame to the one before it, made ready for chaining."""

    steps: Tensor
    """(B, N, Hb, Wb, 2) int32 in 64ths of a cell, (dx, dy) into the frame before."""
    valid: Tensor
    """(B, N, Hb, Wb) bool, False at intra blocks and all over a frame that starts a scene."""
    extrapolated: Tensor
    """(B, N) bool, True at I-frames, whose motion is that of a neighbouring frame."""


class AccumulatedMotion(NamedTuple):
    """MD(t, t') for all pairs of samples of each group."""

    displacement: Tensor
    """(B, G, J, J, Hb, Wb, 2) float32 pixels of the coded picture: from sample t (dim 2) to t'
    (dim 3)."""
    valid: Tensor
    """(B, G, J, J, Hb, Wb) bool, False where the content could not be followed all the way."""
    extrapolated: Tensor
    """(B, G, J, J) bool, True where an I-frame lies on the way."""


def step_motion(
    motion: Tensor,
    coverage: Tensor,
    *,
    is_intra_frame: Tensor,
    num_frames: Tensor | None = None,
    scene_cuts: Tensor | None = None,
) -> StepMotion:
    """Fill what the streams leave open, so that motion can be chained through every frame.

    Nothing here waits for the device.

    Args:
        motion: (B, N, Hb, Wb, 2) int16 quarter pixels, first reference list.
        coverage: (B, N, Hb, Wb), not 0 where a block is predicted.
        is_intra_frame: (B, N) bool, True at I-frames.
        num_frames: (B,) frames of each window, the rest of the N being padding; None where all
            windows are full.
        scene_cuts: (B, N) bool, True where a frame shows another scene than the one before it.
    """
    covered = coverage != 0
    cells = covered.shape[-2] * covered.shape[-1]
    cuts = torch.zeros_like(is_intra_frame) if scene_cuts is None else scene_cuts
    steps = motion.to(torch.int32) * _UNITS_PER_QUARTER
    missing = ~covered & ~is_intra_frame[:, :, None, None]
    steps = torch.where(missing[..., None], _neighbour_median(steps, covered), steps)
    # The same operations in the same type as the NumPy form: a share may be the limit itself.
    intra_share = 1.0 - covered.sum(dim=(2, 3)).to(torch.float64) / cells
    valid = covered & (intra_share <= SCENE_CUT_INTRA_SHARE)[:, :, None, None]

    frame = torch.arange(motion.shape[1], device=motion.device)
    gives = ~is_intra_frame & ~cuts
    if num_frames is not None:
        gives = gives & (frame < num_frames.to(motion.device)[:, None])
    after, before = F.pad(gives[:, 1:], (0, 1)), F.pad(gives[:, :-1], (1, 0))
    offset = torch.where(after, 1, torch.where(before, -1, 0))
    source = frame + torch.where(is_intra_frame, offset, 0)
    rows = torch.arange(len(motion), device=motion.device)[:, None]
    valid = valid[rows, source] & ~cuts[:, :, None, None]
    return StepMotion(steps[rows, source], valid, is_intra_frame)


def _neighbour_median(steps: Tensor, covered: Tensor) -> Tensor:
    """Return (B, N, Hb, Wb, 2), for each block the median of its covered 4-neighbours, or 0."""
    known = steps.masked_fill(~covered[..., None], _UNKNOWN)
    padded = F.pad(known, (0, 0, 1, 1, 1, 1), value=_UNKNOWN)
    up, down = padded[:, :, :-2, 1:-1], padded[:, :, 2:, 1:-1]
    left, right = padded[:, :, 1:-1, :-2], padded[:, :, 1:-1, 2:]
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
    return torch.where(first == _UNKNOWN, 0, (lower + upper) // 2)


def accumulate(
    step: StepMotion, samples: Tensor, *, display_size: Tensor, num_frames: Tensor | None = None
) -> AccumulatedMotion:
    """Follow every block between all pairs of samples of each group.

    Deterministic on every device, ties between blocks included. The samples are checked, and
    the number of steps is known, on the host: hand them over on the CPU, or the call waits for
    the device once.

    Args:
        step: From :func:`step_motion`.
        samples: (B, G, J) frame indices into each window, not falling within a group.
        display_size: (B, 2) whole numbers, (width, height) in coded pixels beyond which each
            picture ends.
        num_frames: (B,) frames of each window; None where all windows are full.

    Raises:
        ValueError: If samples fall or lie outside of their window.
    """
    host = samples.cpu()
    _check_samples(host, step.steps.shape[1], num_frames)
    device = step.steps.device
    samples = samples.to(device, torch.int64, non_blocking=True)
    batch, _, rows, columns, _ = step.steps.shape
    limits = display_size.to(device, torch.int32, non_blocking=True) * _UNITS_PER_PIXEL
    picture = _Picture(rows, columns, limits.view(batch, 1, 1, 1, 2))
    moved, valid = _backward(step, samples, picture, gaps=_largest_gaps(host))
    _forward(moved, valid, picture)

    between = F.pad(step.extrapolated.to(torch.int32).cumsum(dim=1), (1, 0))
    passed = between.gather(1, (samples + 1).flatten(1)).view(samples.shape)
    # The step of frame f leads from f to f - 1: from t down to t' the steps t' + 1 .. t count.
    extrapolated = passed[..., :, None] != passed[..., None, :]
    grid = (*samples.shape, samples.shape[2], rows, columns)
    displacement = moved.to(torch.float32) / _UNITS_PER_PIXEL
    return AccumulatedMotion(displacement.view(*grid, 2), valid.view(grid), extrapolated)


def _check_samples(samples: Tensor, window: int, num_frames: Tensor | None) -> None:
    """Refuse samples (on the host) that no window holds."""
    ends = torch.full((len(samples),), window) if num_frames is None else num_frames.cpu()
    wrong = ((samples < 0) | (samples >= ends[:, None, None])).flatten(1).any(dim=1)
    if wrong.any():
        item = int(wrong.to(torch.uint8).argmax())
        raise ValueError(
            f"samples of item {item} must lie in 0..{int(ends[item]) - 1}, "
            f"got {samples[item].tolist()}"
        )
    if (samples.diff(dim=2) < 0).any():
        raise ValueError(f"the samples of a group must not fall, got {samples.tolist()}")


def _largest_gaps(samples: Tensor) -> list[int]:
    """Return for each two neighbouring samples the most frames that lie between them."""
    gaps: list[int] = samples.diff(dim=2).amax(dim=(0, 1)).tolist()
    return gaps


class _Picture(NamedTuple):
    """The grid of blocks, and where on it each picture ends."""

    rows: int
    columns: int
    limits: Tensor
    """(B, 1, 1, 1, 2) int32 width and height in 64ths of a cell."""

    def centres(self) -> Tensor:
        """Return (C, 2) positions of the middle of each cell."""
        device = self.limits.device
        y = torch.arange(self.rows, dtype=torch.int32, device=device)
        x = torch.arange(self.columns, dtype=torch.int32, device=device)
        y, x = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([x, y], dim=-1).view(-1, 2) * _UNITS_PER_CELL + _UNITS_PER_CELL // 2

    def cells(self, positions: Tensor) -> Tensor:
        """Return (...) int64 the cell that holds each position (..., 2), clamped to the grid."""
        corner = positions >> (_UNITS_PER_CELL.bit_length() - 1)
        column = corner[..., 0].clamp(0, self.columns - 1)
        row = corner[..., 1].clamp(0, self.rows - 1)
        return (row * self.columns + column).to(torch.int64)

    def inside(self, positions: Tensor) -> Tensor:
        """Return (B, ..., C) True where a position (B, G, Q, C, 2) lies in its picture."""
        within = (positions >= 0) & (positions < self.limits)
        return within[..., 0] & within[..., 1]


def _backward(
    step: StepMotion, samples: Tensor, picture: _Picture, *, gaps: list[int]
) -> tuple[Tensor, Tensor]:
    """Chain the steps down from each sample; fills the pairs with t' <= t.

    Between two neighbouring samples every group takes as many steps as the widest gap has;
    those that have arrived stand still.

    Returns:
        Displacement (B, G, J, J, C, 2) int32 and validity (B, G, J, J, C).
    """
    batch, groups, num_samples = samples.shape
    window, cells = step.steps.shape[1], picture.rows * picture.columns
    centres = picture.centres()
    moved = centres.new_zeros((batch, groups, num_samples, num_samples, cells, 2))
    valid = torch.zeros(moved.shape[:-1], dtype=torch.bool, device=moved.device)
    # Both halves of a vector travel as one 8-byte word.
    words = step.steps.contiguous().view(torch.int64).view(-1)
    step_valid = step.valid.reshape(-1)
    first_frame = torch.arange(batch, device=moved.device)[:, None] * window
    positions = centres.expand(batch, groups, num_samples, cells, 2).clone()
    alive = picture.inside(positions)
    valid[:, :, -1, -1] = alive[:, :, -1]
    for target in range(num_samples - 2, -1, -1):
        start, end = samples[:, :, target + 1], samples[:, :, target]
        walking, following = positions[:, :, target + 1 :], alive[:, :, target + 1 :]
        for count in range(gaps[target]):
            frame = start - count  # (B, G)
            moves = (frame > end)[:, :, None, None]
            base = (first_frame + frame.clamp(min=0)) * cells
            place = base[:, :, None, None] + picture.cells(walking)
            following &= step_valid[place] | ~moves
            vectors = words[place].unsqueeze(-1).view(torch.int32)
            walking += vectors * moves[..., None]
            following &= picture.inside(walking)
        moved[:, :, target:, target] = positions[:, :, target:] - centres
        valid[:, :, target:, target] = alive[:, :, target:]
    return moved, valid


def _forward(moved: Tensor, valid: Tensor, picture: _Picture) -> None:
    """Fill the pairs with t' > t, in place, by inverting MD(t', t).

    Each block of t' writes its negated motion where it came from; where two blocks came from
    one place, the one with the larger motion wins, then the one further down or right. Places
    that none came from are filled by a fixed-point iteration and are valid only if it agrees
    with itself.
    """
    num_samples = moved.shape[2]
    earlier, later = torch.triu_indices(num_samples, num_samples, offset=1, device=moved.device)
    inverse = moved[:, :, later, earlier]  # (B, G, P, C, 2)
    followed = valid[:, :, later, earlier]
    centres = picture.centres()
    filled, agrees = _fixed_point(inverse, followed, picture)
    winner = _scatter(inverse, followed, picture)
    hit = winner >= 0
    landed = -_take(inverse, winner.clamp(min=0))
    moved[:, :, earlier, later] = torch.where(hit[..., None], landed, filled)
    inside = picture.inside(centres.view(1, 1, 1, -1, 2))
    valid[:, :, earlier, later] = (hit | agrees) & inside


def _take(vectors: Tensor, cells: Tensor) -> Tensor:
    """Return vectors (..., C, 2) int32 at cells (..., C), each within its own pair."""
    words = vectors.contiguous().view(torch.int64).squeeze(-1)
    return words.gather(-1, cells).unsqueeze(-1).view(torch.int32)


def _scatter(inverse: Tensor, followed: Tensor, picture: _Picture) -> Tensor:
    """Return (B, G, P, C) which block of its pair wrote to each cell; -1 for none."""
    num_cells = inverse.shape[3]
    targets = inverse + picture.centres()
    length = inverse.to(torch.int64).square().sum(dim=-1)
    # Length first, then the place: a maximum has no order of writing that could matter, as
    # writing to one place several times has on a GPU.
    key = length * num_cells + torch.arange(num_cells, device=inverse.device)
    key = key.masked_fill(~(followed & picture.inside(targets)), -1)
    best = torch.full_like(key, -1).scatter_reduce(-1, picture.cells(targets), key, "amax")
    return torch.where(best < 0, -1, best % num_cells)


def _fixed_point(inverse: Tensor, followed: Tensor, picture: _Picture) -> tuple[Tensor, Tensor]:
    """Solve F(p) = -inverse(p + F(p)); returns F and where it is consistent."""
    centres = picture.centres()
    forward = -inverse
    for _ in range(_INVERSION_STEPS):
        forward = -_take(inverse, picture.cells(centres + forward))
    landed = centres + forward
    cells = picture.cells(landed)
    error = (forward + _take(inverse, cells)).abs().amax(dim=-1)
    agrees = picture.inside(landed) & followed.gather(-1, cells)
    return forward, agrees & (error <= _INVERSION_TOLERANCE)
