"""The residual between any two frames of a clip, along their accumulated motion.

Pure NumPy, no video library. Source: Deformable Video Transformer, CVPR 2022, the RGB-R cue of
Table 1, here of any one plane.

Dimensions: T decoded frames, G groups of J samples, H x W pixels of the plane, Hb x Wb blocks.
"""

from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.accumulation import BLOCK_PIXELS, AccumulatedMotion

_Scalar = TypeVar("_Scalar", bound=np.generic)

_MOST_CROPPED: Final = 32
"""A coded picture is less than this much larger than the shown one: a macroblock, two where it
is interlaced (H.264 clause 7.4.2.1.1)."""


class AccumulatedResidual(NamedTuple):
    """What a frame shows beyond what another frame showed where the content was."""

    residual: npt.NDArray[np.int16]
    """(..., H, W) from -255 to 255; 0 where not valid."""
    valid: npt.NDArray[np.bool_]
    """(..., H, W) False where the block was not followed or the pixel's place lies outside."""


def accumulated_residual(
    planes: npt.NDArray[np.uint8],
    samples: npt.NDArray[np.int64],
    *,
    motion: AccumulatedMotion,
    subsampling: int = 1,
) -> AccumulatedResidual:
    """Subtract from each sample what each other sample of its group showed there.

    ``residual[g, i, j]`` is that of :func:`pair_residual` with the frame ``samples[g, i]``, the
    other frame ``samples[g, j]`` and MD between them.

    Args:
        planes: (T, H, W) one plane of each frame, decoded: coded, or cropped to what is shown
            (then the picture ends there).
        samples: (G, J) indices into ``planes`` of the samples that ``motion`` is between.
        motion: Between the same samples.
        subsampling: Luma pixels per pixel of the plane, in each direction: 2 for 4:2:0 chroma.

    Returns:
        (G, J, J, H, W): three bytes per pair and pixel.

    Raises:
        ValueError: If samples and motion do not belong together, a sample has no plane, or the
            plane does not fit the grid.
    """
    if motion.valid.shape[:3] != (*samples.shape, samples.shape[-1]):
        raise ValueError(
            f"samples {samples.shape} do not belong to motion between {motion.valid.shape[:3]}"
        )
    if samples.min() < 0 or samples.max() >= len(planes):
        raise ValueError(
            f"samples must lie in 0..{len(planes) - 1}, got {samples.min()}..{samples.max()}"
        )
    shape = (*motion.valid.shape[:3], *planes.shape[1:])
    residual, valid = np.empty(shape, np.int16), np.empty(shape, np.bool_)
    for pair in np.ndindex(shape[:3]):
        group, query, key = pair
        residual[pair], valid[pair] = pair_residual(
            planes[samples[group, query]],
            planes[samples[group, key]],
            displacement=motion.displacement[pair],
            followed=motion.valid[pair],
            subsampling=subsampling,
        )
    return AccumulatedResidual(residual, valid)


def pair_residual(
    frame: npt.NDArray[np.uint8],
    other: npt.NDArray[np.uint8],
    *,
    displacement: npt.NDArray[np.float32],
    followed: npt.NDArray[np.bool_],
    subsampling: int = 1,
) -> AccumulatedResidual:
    """Return ``frame[p] - other[p + MD(p)]``, the nearest pixel being looked up.

    All pixels of a block move as its centre does, to the nearest whole pixel (halves go right
    and down). So the residual telescopes: over whole-pixel motion it is the sum of the
    residuals of the single steps, read along the block's way. It is not a sum of residuals of
    the codec, which interpolates between pixels.

    Args:
        frame: (H, W) a plane of the frame t.
        other: (H, W) the same plane of the frame t'.
        displacement: (Hb, Wb, 2) MD(t, t') in luma pixels, (dx, dy).
        followed: (Hb, Wb) where MD is valid.
        subsampling: Luma pixels per pixel of the plane, in each direction.

    Returns:
        (H, W).

    Raises:
        ValueError: If the planes differ in size or do not fit the grid.
    """
    height, width = frame.shape
    side, leftover = divmod(BLOCK_PIXELS, subsampling)
    if leftover or frame.shape != other.shape:
        raise ValueError(
            f"expected two planes of one size with {BLOCK_PIXELS} pixels a block, got "
            f"{frame.shape} and {other.shape} with subsampling {subsampling}"
        )
    for length, blocks in zip(frame.shape, followed.shape, strict=True):
        if not 0 <= blocks * side - length < _MOST_CROPPED // subsampling:
            raise ValueError(
                f"a plane of {width}x{height} with subsampling {subsampling} does not belong to "
                f"a grid of {followed.shape[1]}x{followed.shape[0]} blocks"
            )
    shift = np.floor(displacement / np.float32(subsampling) + np.float32(0.5)).astype(np.int64)
    y = _per_pixel(shift[..., 1], side)[:height, :width] + np.arange(height)[:, None]
    x = _per_pixel(shift[..., 0], side)[:height, :width] + np.arange(width)
    valid = _per_pixel(followed, side)[:height, :width]
    valid = valid & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    residual = np.zeros((height, width), np.int16)
    residual[valid] = frame[valid].astype(np.int16) - other[y[valid], x[valid]]
    return AccumulatedResidual(residual, valid)


def _per_pixel(blocks: npt.NDArray[_Scalar], side: int) -> npt.NDArray[_Scalar]:
    """Repeat each block's value over its pixels."""
    result: npt.NDArray[_Scalar] = blocks.repeat(side, axis=0).repeat(side, axis=1)
    return result
