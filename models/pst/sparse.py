"""Sparse attention: a quarter of the patches of each window attend, over all their frames.

The baseline "Sparse" of Xiang et al., ECCV 2022, Table 2(e), of which the paper says only that
it takes half of the patches in space. Half along each axis is what gives its 72 GFLOPs: every
second row and column of a window, from (0, 1) in even blocks and from (1, 0) in odd ones, 12 of
49 cells each. The other tokens pass through the block's attention with nothing added but the
projection's bias.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.models.pst.windows import WindowGrid

Phase = tuple[int, int]

PHASES: Final[tuple[Phase, Phase]] = ((0, 1), (1, 0))
"""First row and column that attend, in even and in odd blocks."""


def kept_places(grid: WindowGrid, *, phase: Phase) -> npt.NDArray[np.int64]:
    """Return the places within a window that attend, (M,) int64 of 0 to N - 1, ascending.

    A window of one row or column keeps it, whatever the phase.
    """
    frames, height, width = grid.window
    places = np.arange(frames * height * width).reshape(grid.window)
    kept = places[:, min(phase[0], height - 1) :: 2, min(phase[1], width - 1) :: 2]
    return kept.ravel()
