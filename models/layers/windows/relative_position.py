"""Relative position bias in space and time.

Liu et al., "Video Swin Transformer", CVPR 2022 (the table); Xiang et al., ECCV 2022, Eq. 5
(positions move with the patches). A table has (2 F - 1) * (2 h - 1) * (2 w - 1) rows for F
frames and a window of h x w; the row of a pair is counted from dt, dy, dx = query - key.

The authors' code takes the frame of the key as 0 throughout, so that the bias of a frame
depends on its number; its weights were trained so (rule "official"). Rule "paper" takes dt
between the two tokens.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.models.layers.windows.window_grid import WindowGrid

PositionRule = Literal["official", "paper"]


class PositionTable(NamedTuple):
    """Shape of a table, and how it is read."""

    frames: int
    """F: differences of -(F - 1) to F - 1 frames have rows."""
    window: tuple[int, int]
    """(h, w) of the full window, which a small grid may clip."""
    rule: PositionRule
    moved: bool
    """Whether a token is at the frame it was shifted from."""

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return (2 * self.frames - 1) * (2 * self.window[0] - 1) * (2 * self.window[1] - 1)


def position_rows(grid: WindowGrid, *, table: PositionTable) -> npt.NDArray[np.int64]:
    """Return the row of each pair, (K or 1, N, N) int64; 1 where all windows in time agree.

    Args:
        grid: The windows.
        table: The table; with rule "official" windows must be of one frame.

    Raises:
        ValueError: If the clip has more frames than the table has rows for.
    """
    query, key = _frames_of_places(grid, table)
    dt = query[:, :, None] - key[:, None, :]
    if abs(dt).max() >= table.frames:
        raise ValueError(
            f"{grid.size[0]} token frames in windows of {grid.window[0]} need a table of "
            f"{abs(dt).max() + 1} frames, got {table.frames}; make the model with num_frames= "
            "of the longest clip, or table_frames="
        )
    window_frames, height, width = grid.window
    row, column = np.divmod(np.arange(height * width), width)
    row, column = np.tile(row, window_frames), np.tile(column, window_frames)
    dy = row[:, None] - row + table.window[0] - 1
    dx = column[:, None] - column + table.window[1] - 1
    tall, wide = 2 * table.window[0] - 1, 2 * table.window[1] - 1
    rows: npt.NDArray[np.int64] = ((dt + table.frames - 1) * tall + dy) * wide + dx
    return rows


def _frames_of_places(
    grid: WindowGrid, table: PositionTable
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the frames of queries and of keys, (K or 1, N) each."""
    num_cells = grid.window[1] * grid.window[2]
    offsets = np.array(grid.offsets, np.int64)
    moved = table.moved and bool(offsets.any())
    if table.rule == "official":
        assert grid.window[0] == 1, "the official rule knows windows of one frame only"
        frames = np.arange(grid.size[0])[:, None]
        if not moved:
            return np.repeat(frames, num_cells, 1), np.zeros((1, num_cells), np.int64)
        return (frames - offsets) % grid.size[0], -offsets[None] % grid.size[0]
    if not moved:
        # Within a window, as in Video Swin: a pair that the roll brought together is masked.
        within = np.repeat(np.arange(grid.window[0]), num_cells)[None]
        return within, within
    count, window = grid.counts[0], grid.window[0]
    places = (np.arange(count * window) + grid.shift[0]) % (count * window)
    frames = (places.reshape(count, window, 1) - offsets) % grid.size[0]
    frames = frames.reshape(count, window * num_cells)
    return frames, frames
