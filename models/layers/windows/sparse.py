"""Sparse attention: a quarter of the patches of each window attend, over all their frames.

The baseline "Sparse" of Xiang et al., ECCV 2022, Table 2(e), was not published: the paper says
only that it takes half of the patches in space and all frames. Read as half along each axis,
with queries, keys and values of all tokens, it has the 72 GFLOPs of the table; half of the
patches would have 79.

Which half is a choice made here: every second row and column of a window, from (0, 1) in even
blocks and from (1, 0) in odd ones, 12 of the 49 cells of a full window each. The rows and columns
of odd blocks are those of the displaced window. To the other tokens attention adds the bias of
its projection and nothing else; they pass through the MLP as all do.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.models.layers.windows.window_grid import WindowGrid

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
