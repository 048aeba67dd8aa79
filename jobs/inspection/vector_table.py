"""Tables of vectors as FFmpeg's decoders export them, and what their numbers mean.

A vector leads from a block of the frame to where that is predicted from. Content that list 0 finds
in the past has moved by minus the vector; content that list 1 finds in the future will move by it.

Dimension: K vectors of a frame.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.mvextractor_backend import TABLE_COLUMNS

COLUMN: Final = {name: number for number, name in enumerate(TABLE_COLUMNS)}
"""Where each column of a (K, 10) table is."""
LIST_SIGNS: Final = (-1, 1)
"""Of the movement that a vector of list 0, of list 1 stands for."""


def is_past(table: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return (K,) whether a vector is of list 0, which leads to earlier frames as a rule."""
    past: npt.NDArray[np.bool_] = table[:, COLUMN["source"]] < 0
    return past


def vector_pixels(table: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return (K, 2) pixels (dx, dy) from each block to what it is predicted from."""
    vectors = table[:, [COLUMN["motion_x"], COLUMN["motion_y"]]].astype(np.float64)
    # Half-pixel codecs have scale 2. A dump can hold any number there; zero is no scale.
    scale = np.maximum(table[:, COLUMN["motion_scale"]], 1).astype(np.float64)
    pixels: npt.NDArray[np.float64] = vectors / scale[:, None]
    return pixels


def upright_vectors(
    table: npt.NDArray[np.int32], turns: int, *, size: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """Turn a table of vectors by quarter turns, as :mod:`gopstream.pipeline.rotation` turns motion.

    Args:
        table: (K, 10), columns as ``TABLE_COLUMNS``.
        turns: Quarter turns, counterclockwise.
        size: (width, height) of the coded picture that is turned.

    Returns:
        (K, 10), a new table.
    """
    turned = table.copy()
    width, height = size
    for _ in range(turns % 4):
        before = turned.copy()
        for x, y in (("src_x", "src_y"), ("dst_x", "dst_y")):
            # Centres of blocks lie between pixels: the left edge 0 becomes the lower one, at width.
            turned[:, COLUMN[x]] = before[:, COLUMN[y]]
            turned[:, COLUMN[y]] = width - before[:, COLUMN[x]]
        turned[:, COLUMN["motion_x"]] = before[:, COLUMN["motion_y"]]
        turned[:, COLUMN["motion_y"]] = -before[:, COLUMN["motion_x"]]
        turned[:, COLUMN["w"]] = before[:, COLUMN["h"]]
        turned[:, COLUMN["h"]] = before[:, COLUMN["w"]]
        width, height = height, width
    return turned
