"""Windows of tokens: padding, cyclic roll, partition and patch shift as one table of rows.

Liu et al., "Swin Transformer", ICCV 2021 and "Video Swin Transformer", CVPR 2022 (windows,
roll, mask); Xiang et al., ECCV 2022 (patch shift).

Dimensions: T frames, H, W token grid; K windows in time, S windows in space; N tokens of a
window; P = K * S * N places in windows.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.models.layers.patterns import OffsetSign, Pattern, cell_offsets

Triple = tuple[int, int, int]

MASKED: Final = -100.0
"""Added to the logit of a pair whose tokens the roll brought together, as in Swin's code."""


class WindowGrid(NamedTuple):
    """How a token grid is cut into windows."""

    size: Triple
    """(T, H, W) tokens."""
    window: Triple
    """Tokens of a window along each axis, at most the axis."""
    shift: Triple
    """Cyclic roll towards the origin; 0 along an axis of one window."""
    offsets: tuple[int, ...]
    """Frames that each cell of a window in space is moved; all 0 without patch shift."""

    @property
    def counts(self) -> Triple:
        """Windows along each axis."""
        frames, rows, columns = (
            -(-size // window) for size, window in zip(self.size, self.window, strict=True)
        )
        return frames, rows, columns

    @property
    def tokens_per_window(self) -> int:
        """N."""
        return self.window[0] * self.window[1] * self.window[2]


def plan_windows(
    size: Triple,
    *,
    window: Triple,
    rolled: bool,
    pattern: Pattern = "none",
    sign: OffsetSign = "code",
) -> WindowGrid:
    """Cut a grid: windows no larger than it, rolled by half a window where there are several."""
    clipped = [min(axis, wanted) for axis, wanted in zip(size, window, strict=True)]
    shift = [
        wanted // 2 if rolled and axis > wanted else 0
        for axis, wanted in zip(size, window, strict=True)
    ]
    offsets = cell_offsets(pattern, height=clipped[1], width=clipped[2], sign=sign)
    return WindowGrid(
        size, (clipped[0], clipped[1], clipped[2]), (shift[0], shift[1], shift[2]), offsets
    )


def window_rows(grid: WindowGrid) -> npt.NDArray[np.int64]:
    """Return the token of each place, (K, S, N) int64 rows of (T H W); -1 for padding.

    Padding comes after the tokens along each axis and is rolled with them. The patch shift
    counts frames without padding and ends where it began: it is cyclic in T.
    """
    frames, rows, columns = grid.size
    frame, row, column = (_rolled(grid, axis) for axis in range(3))
    offsets = np.array(grid.offsets).reshape(grid.window[1:])
    # (K, a, H windows, r, W windows, c)
    frame = frame[:, :, None, None, None, None]
    row = row[None, None, :, :, None, None]
    column = column[None, None, None, None, :, :]
    source = (frame - offsets[None, None, None, :, None, :]) % frames
    place = (source * rows + row) * columns + column
    place = np.where((frame < frames) & (row < rows) & (column < columns), place, -1)
    counts = grid.counts
    ordered = place.transpose(0, 2, 4, 1, 3, 5)
    return ordered.reshape(counts[0], counts[1] * counts[2], grid.tokens_per_window)


def _rolled(grid: WindowGrid, axis: int) -> npt.NDArray[np.int64]:
    """Return the place before the roll, (windows, places of a window), along an axis."""
    count, window = grid.counts[axis], grid.window[axis]
    places = (np.arange(count * window) + grid.shift[axis]) % (count * window)
    return places.reshape(count, window)


class WindowMask(NamedTuple):
    """Which pairs of a window's tokens the roll brought together; few windows differ in it."""

    apart: npt.NDArray[np.bool_]
    """(M, N, N), the pairs that must not see each other, of each of at most 8 kinds."""
    kinds: npt.NDArray[np.int64]
    """(K, S), the kind of each window."""


def window_mask(grid: WindowGrid) -> WindowMask | None:
    """Return what keeps rolled tokens apart; None where no axis is rolled.

    The roll brings the two ends of an axis into its last window: they do not see each other.
    """
    if not any(grid.shift):
        return None
    last = [
        np.arange(count) == count - 1 if shift else np.zeros(count, np.bool_)
        for count, shift in zip(grid.counts, grid.shift, strict=True)
    ]
    kind = 4 * last[0][:, None, None] + 2 * last[1][:, None] + last[2]
    found, kinds = np.unique(kind, return_inverse=True)
    # An axis that is not rolled has no place past the seam.
    time, row, column = (
        np.arange(window) >= window - shift
        for window, shift in zip(grid.window, grid.shift, strict=True)
    )
    sides = 4 * time[:, None, None] + 2 * row[:, None] + column
    region = sides.ravel() & found[:, None]
    apart = region[:, :, None] != region[:, None, :]
    return WindowMask(apart, kinds.reshape(grid.counts[0], -1))
