"""Put FFmpeg's block vectors on the 8x8 grid of the coded picture.

FFmpeg exports one record per predicted block (``AVMotionVector`` in
libavutil/motion_vector.h), never for a block smaller than 8x8. The grid therefore loses
nothing of what is exported.

Dimensions: K blocks, L reference lists, Hb = Hc / 8 and Wb = Wc / 8 blocks of the grid.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.errors import BitstreamError

BLOCK: Final = 8
"""Side of a grid block in pixels of the coded picture."""
QUARTER_PIXELS: Final = 4
"""Motion values per pixel."""

_INT16 = np.iinfo(np.int16)


class BlockMotion(NamedTuple):
    """Motion of one frame on the grid."""

    motion: npt.NDArray[np.int16]
    """(L, Hb, Wb, 2) quarter pixels (dx, dy): the pixel (x, y) was predicted from
    (x + dx / 4, y + dy / 4) of its reference. Zero where there is no prediction."""
    coverage: npt.NDArray[np.uint8]
    """(L, Hb, Wb) 1 where the block is predicted, 0 where it is not (intra, or other list)."""


def rasterise_vectors(
    vectors: npt.NDArray[np.void] | None, *, coded_height: int, coded_width: int, num_lists: int = 1
) -> BlockMotion:
    """Place each block's vector on the grid cells that the block covers.

    Args:
        vectors: (K,) records of one frame, or None for an intra frame.
        coded_height: Height of the coded picture in pixels, a multiple of 8.
        coded_width: Width of the coded picture in pixels, a multiple of 8.
        num_lists: 1 for a stream of I- and P-frames, 2 with B-frames.

    Raises:
        BitstreamError: If a vector belongs to a list beyond ``num_lists``, lies off the grid
            or outside the picture, has a unit other than pixels, half or quarter pixels, or
            is too long for int16.
    """
    grid = (num_lists, coded_height // BLOCK, coded_width // BLOCK)
    motion = np.zeros((*grid, 2), np.int16)
    coverage = np.zeros(grid, np.uint8)
    if vectors is None or len(vectors) == 0:
        return BlockMotion(motion, coverage)
    lists = np.where(vectors["source"] < 0, 0, 1)
    if lists.max() >= num_lists:
        raise BitstreamError("a vector points to a future frame, but the stream is to have none")
    values = _quarter_pixels(vectors)
    # dst is the block's centre, not its corner (libavcodec/mpegutils.c, add_mb).
    tops = vectors["dst_y"].astype(np.int64) - vectors["h"] // 2
    lefts = vectors["dst_x"].astype(np.int64) - vectors["w"] // 2
    if np.any((tops % BLOCK != 0) | (lefts % BLOCK != 0)):
        raise BitstreamError("a predicted block does not lie on the 8x8 grid")
    # A 16x16 block covers four cells: paint cell by cell, all blocks at once.
    for down in range(0, int(vectors["h"].max()), BLOCK):
        for right in range(0, int(vectors["w"].max()), BLOCK):
            has_cell = (vectors["h"] > down) & (vectors["w"] > right)
            rows = (tops[has_cell] + down) // BLOCK
            columns = (lefts[has_cell] + right) // BLOCK
            _check_inside(rows, columns, grid)
            motion[lists[has_cell], rows, columns] = values[has_cell]
            coverage[lists[has_cell], rows, columns] = 1
    return BlockMotion(motion, coverage)


def _quarter_pixels(vectors: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """Return (K, 2) displacements in quarter pixels; MPEG-4 part 2 counts in half pixels."""
    scales = vectors["motion_scale"].astype(np.int64)
    if np.any(~np.isin(scales, (1, 2, 4))):
        raise BitstreamError(
            f"motion_scale must be 1, 2 or 4 per pixel, got {np.unique(scales).tolist()}"
        )
    # motion_x and motion_y, never src_x and src_y, which FFmpeg truncates to whole pixels.
    values = np.stack([vectors["motion_x"], vectors["motion_y"]], axis=1).astype(np.int64)
    values *= (QUARTER_PIXELS // scales)[:, None]
    if values.min() < _INT16.min or values.max() > _INT16.max:
        raise BitstreamError(f"a vector of {np.abs(values).max()} quarter pixels exceeds int16")
    return values


def _check_inside(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], grid: tuple[int, int, int]
) -> None:
    if np.any((rows < 0) | (rows >= grid[1]) | (columns < 0) | (columns >= grid[2])):
        raise BitstreamError(
            f"a predicted block lies outside of the {grid[2] * BLOCK}x{grid[1] * BLOCK} picture"
        )
