"""What becomes of a clip: drawn once, then applied to frames, motion, masks and residual.

A :class:`TransformSpec` is a recipe's plain numbers. :func:`draw_transform` and
:func:`view_transform` turn it into a :class:`ClipTransform`, the drawn numbers of one clip; the
functions here apply that to each plane. Conventions of the geometry are those of
:mod:`gopstream.shards.loading.geometry`.

The order of a clip's steps: crop and resize, flip, augmentation policy, colour jitter, greyscale,
blur, erasing. The geometric steps are one map, so that pixels are resampled once and what a
shift or rotation brings into view comes from the stored frame where there is one. With
``policy_on="frame"`` the policy comes first, on the whole stored frame. Motion and residual
follow the geometry alone: no change of appearance and no erasing reaches them.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gopstream.shards.loading.appearance import apply_ops, erase
from gopstream.shards.loading.geometry import cells_under, points_inside, vector_matrix
from gopstream.shards.loading.resampling import resample_frames, resample_plane
from gopstream.shards.loading.transform_draws import (
    ClipTransform,
    draw_transform,
    view_transform,
)
from gopstream.shards.loading.transform_spec import TransformSpec

__all__ = [
    "ClipTransform",
    "TransformSpec",
    "draw_transform",
    "rows_shown",
    "transform_field",
    "transform_frames",
    "transform_mask",
    "transform_residual",
    "view_transform",
]

_Row = TypeVar("_Row")


def _of_frame(rows: Sequence[_Row], number: int) -> _Row | None:
    """Return what holds for one frame of a clip."""
    if not rows:
        return None
    return rows[0] if len(rows) == 1 else rows[number]


def rows_shown(transform: ClipTransform, *, height: int) -> int:
    """Return how many rows of a stored frame, from the top on, can be seen in the result."""
    if transform.frame_ops or transform.geometry.warp is not None:
        return height
    return min(height, transform.geometry.box.top + transform.geometry.box.height)


def transform_frames(
    frames: npt.NDArray[np.uint8],
    transform: ClipTransform,
    *,
    first: int = 0,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Transform frames of one clip, faster together than one by one.

    Args:
        frames: (T, H, W, 3) RGB.
        transform: The clip's.
        first: Number in the clip of the first of them.
        out: (T, size, size, 3) uint8 for the result, any strides; a new array by default.

    Returns:
        (T, size, size, 3), which is ``out`` where that was given.
    """
    size = transform.geometry.size
    if out is None:
        out = np.empty((len(frames), size, size, 3), np.uint8)
    if transform.frame_ops:
        frames = np.stack([apply_ops(frame, transform.frame_ops) for frame in frames])
    resample_frames(frames, transform.geometry, fill=transform.fill, out=out)
    if not transform.ops and not transform.erasures:
        return out
    for number, frame in enumerate(out, first):
        ops = _of_frame(transform.ops, number)
        if ops:
            frame[...] = apply_ops(frame, ops)
        erasure = _of_frame(transform.erasures, number)
        if erasure is not None:
            mean, std = transform.erase_mean, transform.erase_std
            erase(frame, erasure, number=number, mean=mean, std=std)
    return out


def transform_field(
    motion: npt.NDArray[np.floating],
    transform: ClipTransform,
    *,
    grid: int,
    frame_size: tuple[int, int],
    display_rect: tuple[int, int, int, int],
    block_pixels: int = 8,
) -> npt.NDArray[np.float32]:
    """Transform motion: looked up at the nearest block, vectors by the map's linear part.

    Args:
        motion: (..., Hb, Wb, 2) pixels of the coded picture, (dx, dy).
        transform: The clip's.
        grid: Cells on a side of the result.
        frame_size: (width, height) of the stored frames.
        display_rect: (x, y, width, height) of the same picture inside the coded one.
        block_pixels: Side of a block in coded pixels.

    Returns:
        (..., grid, grid, 2) pixels of the result; 0 at what lies outside of the stored frame.
    """
    rows, columns = motion.shape[-3:-1]
    cells = cells_under(
        transform.geometry,
        grid=grid,
        frame_size=frame_size,
        display_rect=display_rect,
        blocks=(rows, columns),
        block_pixels=block_pixels,
    )
    linear = vector_matrix(transform.geometry, frame_size=frame_size, display_rect=display_rect)
    linear = linear.astype(np.float32)
    flat = motion.reshape(*motion.shape[:-3], rows * columns, 2).astype(np.float32, copy=False)
    taken = np.take(flat, cells.flat, axis=-2)
    if transform.geometry.warp is None:
        # Long rows: NumPy is ten times slower where the last axis has two values.
        vectors = taken.reshape(*taken.shape[:-3], -1)
        vectors *= np.tile(np.diag(linear), grid * grid)
        return taken
    moved = np.empty_like(taken)
    for axis, (of_x, of_y) in enumerate(linear):
        moved[..., axis] = taken[..., 0] * of_x + taken[..., 1] * of_y
    moved[..., ~cells.inside, :] = 0.0
    return moved


_Mask = TypeVar("_Mask", bound=np.generic)


def transform_mask(
    mask: npt.NDArray[_Mask],
    transform: ClipTransform,
    *,
    grid: int,
    frame_size: tuple[int, int],
    display_rect: tuple[int, int, int, int],
    block_pixels: int = 8,
) -> npt.NDArray[_Mask]:
    """Transform coverage or validity: looked up as :func:`transform_field` looks motion up.

    Args:
        mask: (..., Hb, Wb) of any type.
        transform: The clip's.
        grid: Cells on a side of the result.
        frame_size: (width, height) of the stored frames.
        display_rect: (x, y, width, height) of the same picture inside the coded one.
        block_pixels: Side of a block in coded pixels.

    Returns:
        (..., grid, grid); 0 or False at what lies outside of the stored frame.
    """
    rows, columns = mask.shape[-2:]
    cells = cells_under(
        transform.geometry,
        grid=grid,
        frame_size=frame_size,
        display_rect=display_rect,
        blocks=(rows, columns),
        block_pixels=block_pixels,
    )
    taken = np.take(mask.reshape(*mask.shape[:-2], rows * columns), cells.flat, axis=-1)
    taken[..., ~cells.inside] = 0
    return taken


def transform_residual(
    planes: Sequence[npt.NDArray[np.int16]],
    transform: ClipTransform,
    *,
    frame_size: tuple[int, int],
    display_rect: tuple[int, int, int, int],
) -> npt.NDArray[np.int16]:
    """Transform signed planes at 4:2:0, linearly up to one rounding.

    Chroma samples count as centred between the luma samples that share them, as in the JPEG
    files of the frames.

    Args:
        planes: Y (T, Hc, Wc), Cb and Cr (T, Hc / 2, Wc / 2) of the coded picture.
        transform: The clip's.
        frame_size: (width, height) of the stored frames.
        display_rect: (x, y, width, height) of the same picture inside the coded one.

    Returns:
        (T, 3, size, size): Y, Cb, Cr; 0 at what lies outside of the stored frame.
    """
    size = transform.geometry.size
    result = np.empty((len(planes[0]), 3, size, size), np.int16)
    x, y, width, height = display_rect
    to_coded = np.array([[width / frame_size[0], 0.0, x], [0.0, height / frame_size[1], y]])
    for number, (plane, step) in enumerate(zip(planes, (1, 2, 2), strict=True)):
        resampled = resample_plane(plane, transform.geometry, to_plane=to_coded / step)
        result[:, number] = resampled.round_().numpy()
    # The coded picture goes on where the frame ends.
    result[..., ~points_inside(transform.geometry, grid=size, frame_size=frame_size)] = 0
    return result
