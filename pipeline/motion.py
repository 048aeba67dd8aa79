"""Put FFmpeg's block vectors on the 8x8 grid of the coded picture.

FFmpeg exports one record per predicted block (``AVMotionVector`` in
libavutil/motion_vector.h), never for a block smaller than 8x8. The grid therefore loses
nothing of what is exported.

:mod:`gopstream.pipeline.plain.motion` is the same in plain NumPy.

Dimensions: K blocks, L reference lists, Hb = Hc / 8 and Wb = Wc / 8 blocks of the grid.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import BLOCK, QUARTER_PIXELS, BlockMotion
from gopstream.pipeline.kernel import kernel

VECTOR_DTYPE: Final = np.dtype(
    [
        ("source", "<i4"),
        ("w", "u1"),
        ("h", "u1"),
        ("src_x", "<i2"),
        ("src_y", "<i2"),
        ("dst_x", "<i2"),
        ("dst_y", "<i2"),
        ("flags", "<u8"),
        ("motion_x", "<i4"),
        ("motion_y", "<i4"),
        ("motion_scale", "<u2"),
    ],
    align=True,
)
"""``AVMotionVector``: 40 bytes, of which six are padding that FFmpeg leaves uninitialised."""

_FAULTS: Final = {
    1: "a vector points to a future frame, but the stream is to have none",
    2: "motion_scale must be 1, 2 or 4 per pixel",
    3: "a predicted block does not lie on the 8x8 grid",
    4: "a predicted block lies outside of the {width}x{height} picture",
    5: "a vector of {longest} quarter pixels exceeds int16",
}

_SHOWN: Final = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")


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
    if vectors is not None and len(vectors) > 0:
        fault, index = _paint(vectors, motion, coverage)
        if fault:
            raise BitstreamError(_describe(fault, vectors[index], coded_width, coded_height))
    return BlockMotion(motion, coverage)


def _describe(fault: int, vector: np.void, width: int, height: int) -> str:
    values = {name: int(vector[name]) for name in _SHOWN}
    longest = max(abs(values["motion_x"]), abs(values["motion_y"])) * QUARTER_PIXELS
    longest //= max(1, values["motion_scale"])
    message = _FAULTS[fault].format(width=width, height=height, longest=longest)
    return f"{message} (vector {', '.join(f'{name} {value}' for name, value in values.items())})"


@kernel
def _paint(
    vectors: npt.NDArray[np.void], motion: npt.NDArray[np.int16], coverage: npt.NDArray[np.uint8]
) -> tuple[int, int]:
    """Paint all vectors; returns (0, 0), or a key of ``_FAULTS`` and the vector at fault."""
    num_lists, rows, columns = coverage.shape
    for index in range(len(vectors)):
        vector = vectors[index]
        reference = 0 if vector["source"] < 0 else 1
        if reference >= num_lists:
            return 1, index
        scale = int(vector["motion_scale"])
        if scale != 4 and scale != 2 and scale != 1:
            return 2, index
        # motion_x and motion_y, never src_x and src_y, which FFmpeg truncates to whole pixels.
        dx, dy = int(vector["motion_x"]) * (4 // scale), int(vector["motion_y"]) * (4 // scale)
        if dx < -32768 or dx > 32767 or dy < -32768 or dy > 32767:
            return 5, index
        # dst is the block's centre, not its corner (libavcodec/mpegutils.c, add_mb).
        height, width = int(vector["h"]), int(vector["w"])
        top, left = int(vector["dst_y"]) - height // 2, int(vector["dst_x"]) - width // 2
        if top & 7 or left & 7:
            return 3, index
        first_row, first_column = top >> 3, left >> 3
        end_row, end_column = first_row + (height + 7) // 8, first_column + (width + 7) // 8
        if first_row < 0 or first_column < 0 or end_row > rows or end_column > columns:
            return 4, index
        for row in range(first_row, end_row):
            for column in range(first_column, end_column):
                motion[reference, row, column, 0] = dx
                motion[reference, row, column, 1] = dy
                coverage[reference, row, column] = 1
    return 0, 0
