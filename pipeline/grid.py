"""The block grid of the coded picture, on which motion is kept.

Apart from the code that fills it, so that training machines, which read motion and extract none,
import it without compiled kernels or a video library.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK: Final = 8
"""Side of a grid block in pixels of the coded picture."""
QUARTER_PIXELS: Final = 4
"""Motion values per pixel."""
MACROBLOCK: Final = 16
"""Side in pixels; blocks with a vector of their own are not larger."""


def whole_macroblocks(side: int) -> int:
    """Round a side in pixels up to whole macroblocks."""
    return -(-side // MACROBLOCK) * MACROBLOCK


class BlockMotion(NamedTuple):
    """Motion of one frame on the grid."""

    motion: npt.NDArray[np.int16]
    """(L, Hb, Wb, 2) quarter pixels (dx, dy): the pixel (x, y) was predicted from
    (x + dx / 4, y + dy / 4) of its reference. Zero where there is no prediction."""
    coverage: npt.NDArray[np.uint8]
    """(L, Hb, Wb) 1 where the block is predicted, 0 where it is not (intra, or other list)."""


class Planes(NamedTuple):
    """The three planes of one coded 4:2:0 picture."""

    y: npt.NDArray[np.uint8]
    """(Hc, Wc), multiples of 16."""
    cb: npt.NDArray[np.uint8]
    """(Hc / 2, Wc / 2)."""
    cr: npt.NDArray[np.uint8]
    """(Hc / 2, Wc / 2)."""
