"""Crop, resize and flip: drawn once per clip, applied to every plane.

A transform is a value (:class:`Crop`); each plane has a function that applies it. Pixels are
resampled; motion is looked up at the nearest block and its vectors are scaled by the resize and
negated by the flip, so that frames and motion never part.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of the frame that becomes a square picture."""

    left: float
    """In pixels of the stored frame."""
    top: float
    width: float
    height: float
    size: int
    """Side of the result in pixels."""
    flip: bool = False
    """Mirror left and right, after the crop."""


def random_crop(
    frame_size: tuple[int, int],
    *,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: float,
    rng: np.random.Generator,
) -> Crop:
    """Draw a crop by area and aspect (Inception, CVPR 2015).

    Args:
        frame_size: (width, height) of the stored frames.
        size: Side of the result.
        scale: Range of the crop's area, as a share of the frame's.
        ratio: Range of width over height, drawn in logarithm.
        flip: Probability of mirroring.
        rng: Random numbers.
    """
    width, height = frame_size
    area = width * height * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    # A crop that does not fit is cut down to the frame; nothing is drawn again.
    crop_width = min(float(width), math.sqrt(area * aspect))
    crop_height = min(float(height), math.sqrt(area / aspect))
    left = rng.uniform(0.0, width - crop_width)
    top = rng.uniform(0.0, height - crop_height)
    return Crop(left, top, crop_width, crop_height, size, bool(rng.random() < flip))


def even_crop(frame_size: tuple[int, int], *, size: int, crop: int, num_crops: int) -> Crop:
    """Return one of the square crops that testing spreads evenly along the long side.

    Args:
        frame_size: (width, height) of the stored frames.
        size: Side of the result.
        crop: Which one, from 0.
        num_crops: How many; a single one is central, three lie at both ends and the centre.
    """
    width, height = frame_size
    side = float(min(width, height))
    place = 0.5 if num_crops == 1 else crop / (num_crops - 1)
    return Crop((width - side) * place, (height - side) * place, side, side, size)


def crop_frame(frame: npt.NDArray[np.uint8], crop: Crop) -> npt.NDArray[np.uint8]:
    """Crop and resize one frame: (H, W, 3) uint8 to (size, size, 3) uint8.

    Bilinear with antialiasing, from a box with fractional corners.
    """
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    picture = Image.fromarray(frame).resize(
        (crop.size, crop.size), Image.Resampling.BILINEAR, box=box
    )
    pixels = np.asarray(picture)
    return pixels[:, ::-1] if crop.flip else pixels


def crop_cells(
    crop: Crop,
    grid: int,
    *,
    frame_size: tuple[int, int],
    display_rect: tuple[int, int, int, int],
    blocks: tuple[int, int],
    block_pixels: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the block under the centre of each cell of a square output grid.

    Args:
        crop: The crop.
        grid: Cells on a side of the output.
        frame_size: (width, height) of the stored frames.
        display_rect: (x, y, width, height) of the same picture inside the coded one.
        blocks: (rows, columns) of the coded grid.
        block_pixels: Side of a block in coded pixels.

    Returns:
        Rows and columns, (grid, grid) each.
    """
    centres = (np.arange(grid) + 0.5) / grid
    across = centres[::-1] if crop.flip else centres
    x = (crop.left + across * crop.width) * display_rect[2] / frame_size[0] + display_rect[0]
    y = (crop.top + centres * crop.height) * display_rect[3] / frame_size[1] + display_rect[1]
    rows = np.clip(np.floor(y / block_pixels).astype(np.int64), 0, blocks[0] - 1)
    columns = np.clip(np.floor(x / block_pixels).astype(np.int64), 0, blocks[1] - 1)
    return np.repeat(rows[:, None], grid, axis=1), np.repeat(columns[None, :], grid, axis=0)


def vector_scale(
    crop: Crop, *, frame_size: tuple[int, int], display_rect: tuple[int, int, int, int]
) -> npt.NDArray[np.float32]:
    """Return (2,) factors from coded pixels to pixels of the result, negative x when flipped."""
    x = frame_size[0] / display_rect[2] * crop.size / crop.width
    y = frame_size[1] / display_rect[3] * crop.size / crop.height
    return np.array([-x if crop.flip else x, y], np.float32)
