"""Accumulated motion of clips, made in the worker or on the device from the same window.

In the worker :func:`accumulated_clip` makes the fields of one clip. Or the worker sends the window
as it was read, which is several times fewer bytes than the fields of all pairs, and
:func:`accumulated_motion` makes those of a whole batch on the device, bit for bit the same.

Dimensions: B clips, N raw frames of the longest window, R x S blocks of the largest grid, G
sub-clips of J sampled frames, Q queries of a clip, g x g cells of the output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gopstream.pipeline.accumulation import CellMotion, accumulate_cells, step_motion
from gopstream.shards.loading import device_accumulation as batched
from gopstream.shards.sample_parts import MotionWindow


@dataclass(frozen=True, slots=True)
class ClipMotion:
    """What accumulation needs of one clip."""

    motion: npt.NDArray[np.int16]
    """(N, R, S, 2) quarter pixels of the coded picture, into the frame before."""
    coverage: npt.NDArray[np.uint8]
    """(N, R, S) 1 where a block is predicted."""
    is_intra_frame: npt.NDArray[np.bool_]
    """(N,)."""
    is_scene_cut: npt.NDArray[np.bool_]
    """(N,)."""
    samples: npt.NDArray[np.int64]
    """(G, J) frames of the window that the clip shows, not falling within a group."""
    display_size: tuple[int, int]
    """(width, height) in coded pixels beyond which the picture ends."""
    cells: npt.NDArray[np.int64]
    """(g, g) the block (row * S + column) that each cell of the output shows, negative for none."""
    linear: npt.NDArray[np.float32]
    """(2, 2) from vectors (x, y) of the coded picture to those of the clip."""


@dataclass(frozen=True, slots=True)
class MotionBatch:
    """Several :class:`ClipMotion`, padded to the largest with zeros; on one device."""

    gaps: tuple[int, ...]
    """J - 1: the most raw frames between two neighbouring samples, over all sub-clips. Plain
    numbers, so that nobody has to ask the device for them."""
    motion: Tensor
    """(B, N, R, S, 2) int16."""
    coverage: Tensor
    """(B, N, R, S) uint8."""
    is_intra_frame: Tensor
    """(B, N) bool."""
    is_scene_cut: Tensor
    """(B, N) bool."""
    samples: Tensor
    """(B, G, J) int64."""
    num_frames: Tensor
    """(B,) int64 frames of each window."""
    grid: Tensor
    """(2, B) int32 columns and rows of each grid."""
    display_size: Tensor
    """(2, B) int32 width and height in coded pixels."""
    cells: Tensor
    """(B, g, g) int64 block of the padded grid, negative for none."""
    linear: Tensor
    """(B, 2, 2) float32."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "MotionBatch":
        """Return the batch on a device."""
        moved = [tensor.to(device, non_blocking=non_blocking) for tensor in self._tensors()]
        return MotionBatch(self.gaps, *moved)

    def pin_memory(self) -> "MotionBatch":
        """Return the batch in page-locked memory, as ``DataLoader(pin_memory=True)`` asks."""
        return MotionBatch(self.gaps, *[tensor.pin_memory() for tensor in self._tensors()])

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self) if field.name != "gaps"]


def clip_motion(
    window: MotionWindow,
    sampled: npt.NDArray[np.int64],
    *,
    subclip_frames: int,
    display_size: tuple[int, int],
    cells: npt.NDArray[np.int64],
    linear: npt.NDArray[np.float32],
) -> ClipMotion:
    """Cut out of the GOPs that were read what a clip needs; copies no motion.

    Args:
        window: What ``ShardDataset.read_motion`` returned for the clip's first frame to the one
            after its last (an I-frame takes the motion that follows), where there is one.
        sampled: (G * J,) frame indices of the clip, not falling.
        subclip_frames: J; a query is answered for all frames of its own sub-clip.
        display_size: (width, height) in coded pixels beyond which the picture ends.
        cells: (g, g) the block (row * S + column) that each cell of the output shows, negative
            for none.
        linear: (2, 2) from vectors of the coded picture to those of the clip.

    Raises:
        ValueError: If the window has B-frames, or the samples fall or lie outside of it.
    """
    if window.is_bidirectional.any():
        raise ValueError(
            "motion cannot be accumulated through B-frames, whose vectors lead to frames that "
            "the stream does not name; shard with --mode canonical"
        )
    samples = sampled.reshape(-1, subclip_frames) - window.first_frame
    first, last = int(samples.min()), int(samples.max())
    if first < 0 or last >= len(window.motion) or (np.diff(samples, axis=1) < 0).any():
        raise ValueError(
            f"samples must not fall and lie in 0..{len(window.motion) - 1} of the window, "
            f"got {samples.tolist()}"
        )
    # The step into the first sample leads out of the clip, but an I-frame after it may take it.
    needed = slice(first, last + 2)
    return ClipMotion(
        motion=window.motion[needed, 0],
        coverage=window.coverage[needed, 0],
        is_intra_frame=window.is_intra_frame[needed],
        is_scene_cut=window.is_scene_cut[needed],
        samples=samples - first,
        display_size=display_size,
        cells=cells,
        linear=linear,
    )


def accumulated_clip(clip: ClipMotion, *, query_stride: int) -> CellMotion:
    """Accumulate motion between the frames of a clip in the worker.

    Args:
        clip: From :func:`clip_motion`.
        query_stride: Every n-th frame of a sub-clip is a query.
    """
    step = step_motion(
        clip.motion, clip.coverage, clip.is_intra_frame, scene_cuts=clip.is_scene_cut
    )
    return accumulate_cells(
        step,
        clip.samples,
        display_size=clip.display_size,
        query_stride=query_stride,
        cells=clip.cells,
        linear=clip.linear,
    )


def collate_motion(clips: Sequence[ClipMotion]) -> MotionBatch:
    """Pad the clips' windows to the longest and their grids to the largest, with zeros.

    Args:
        clips: B clips of the same number of sub-clips and samples, and of one output grid.
    """
    sizes = np.array([clip.coverage.shape for clip in clips], np.int64)
    shape = (len(clips), *sizes.max(axis=0).tolist())
    motion, coverage = np.zeros((*shape, 2), np.int16), np.zeros(shape, np.uint8)
    flags = np.zeros((2, *shape[:2]), np.bool_)
    for row, clip in enumerate(clips):
        frames, rows, columns = clip.coverage.shape
        motion[row, :frames, :rows, :columns] = clip.motion
        coverage[row, :frames, :rows, :columns] = clip.coverage
        flags[:, row, :frames] = clip.is_intra_frame, clip.is_scene_cut
    samples = np.stack([clip.samples for clip in clips])
    cells = np.stack([clip.cells for clip in clips])
    columns = sizes[:, 2].reshape(-1, 1, 1)
    cells = cells // columns * shape[3] + cells % columns  # negative ones stay negative
    display_size = np.array([clip.display_size for clip in clips], np.int32).T
    return MotionBatch(
        motion=torch.from_numpy(motion),
        coverage=torch.from_numpy(coverage),
        is_intra_frame=torch.from_numpy(flags[0]),
        is_scene_cut=torch.from_numpy(flags[1]),
        samples=torch.from_numpy(samples),
        num_frames=torch.from_numpy(sizes[:, 0]),
        grid=torch.from_numpy(sizes[:, :0:-1].T.astype(np.int32)),
        display_size=torch.from_numpy(display_size),
        cells=torch.from_numpy(cells),
        linear=torch.from_numpy(np.stack([clip.linear for clip in clips])),
        gaps=tuple(np.diff(samples, axis=2).max(axis=(0, 1)).tolist()),
    )


def accumulated_motion(batch: MotionBatch, *, query_stride: int) -> tuple[Tensor, Tensor]:
    """Accumulate motion between the frames of each clip, on the batch's device.

    Equal in every bit to the NumPy form where ``linear`` is diagonal; elsewhere the products
    may be rounded otherwise. Never waits for the device. It may be compiled
    (``torch.compile(accumulated_motion, fullgraph=True)``): one graph for each ``gaps``, so
    dense sampling needs one and segment sampling many.

    Args:
        batch: From :func:`collate_motion`.
        query_stride: Every n-th frame of a sub-clip is a query.

    Returns:
        Motion (B, Q, 2, J, g, g) float32 in pixels of the clip, 0 where it is not valid, and
        validity (B, Q, J, g, g) bool.
    """
    size, side = len(batch.motion), batch.cells.shape[-1]
    pictures = batched.Pictures(
        batch.motion.shape[2],
        batch.motion.shape[3],
        batch.grid.view(2, size, 1, 1, 1) - 1,
        batch.display_size.view(2, size, 1, 1, 1) * batched.UNITS_PER_PIXEL,
    )
    step = batched.step_motion(
        batch.motion,
        batch.coverage,
        is_intra_frame=batch.is_intra_frame,
        scene_cuts=batch.is_scene_cut,
        num_frames=batch.num_frames,
        pictures=pictures,
    )
    moved, known = batched.accumulate(
        step, batch.samples, pictures=pictures, gaps=batch.gaps, query_stride=query_stride
    )
    places = batch.cells.view(size, 1, 1, 1, -1)
    index = places.clamp(min=0).expand(*known.shape[:-1], -1)
    valid = known.gather(-1, index) & (places >= 0)
    x, y = (plane.gather(-1, index).to(torch.float32) / batched.UNITS_PER_PIXEL for plane in moved)
    linear = batch.linear.view(size, 2, 2, 1, 1, 1, 1)
    motion = torch.stack(
        [linear[:, axis, 0] * x + linear[:, axis, 1] * y for axis in range(2)], dim=3
    )  # (B, G, Q / G, 2, J, g * g)
    motion = torch.where(valid.unsqueeze(3), motion, 0.0)
    num_samples = batch.samples.shape[2]
    return (
        motion.view(size, -1, 2, num_samples, side, side),
        valid.view(size, -1, num_samples, side, side),
    )
