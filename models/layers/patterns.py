"""Patch shift patterns: how many frames each cell of a window is moved.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift", ECCV 2022,
Fig. 5 and Table 2. The tables hold the offsets of the authors' code: the token of a cell with
offset s in frame t is taken from frame ``t - s``. The paper prints the same tables and calls a
positive entry the next frame; ``sign="paper"`` negates them.
"""

from collections.abc import Sequence
from typing import Final, Literal, get_args

PatternName = Literal["none", "center-one", "uneven", "even-2", "A", "B", "C", "D"]
Pattern = PatternName | Sequence[Sequence[int]]
OffsetSign = Literal["code", "paper"]

TILES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "none": ((0,),),
    "even-2": ((0, 1), (1, 0)),
    # Even-3 of Table 2(a) is A-3 of Table 2(b).
    "A": ((0, 1), (-1, 0)),
    "B": ((0, 1), (-1, 2)),
    "C": ((-4, 1, 2), (-1, 0, 3), (-2, -3, 4)),
    "D": ((0, 1, 2, 3), (-1, -7, 4, 5), (-2, -4, 7, 6), (-3, -5, -6, 8)),
}


def cell_offsets(
    pattern: Pattern, *, height: int, width: int, sign: OffsetSign = "code"
) -> tuple[int, ...]:
    """Lay a pattern over one window.

    Tiles start in the window's first cell and are cut at its end. The paper draws
    "center-one" in a 3 x 3 crop and "uneven" without numbers: here they move the middle cell,
    and the left half of the columns (the middle one among them), by one frame.

    Args:
        pattern: A name, or the rows of a tile in frames.
        height: Cells of the window.
        width: As above.
        sign: "code" for the authors' code; "paper" moves everything the other way.

    Returns:
        Offsets of height * width cells, row by row, in frames.

    Raises:
        ValueError: As `freeze_pattern` does.
    """
    pattern = freeze_pattern(pattern)
    if pattern == "center-one":
        middle = (height // 2, width // 2)
        cells = [[int((row, column) == middle) for column in range(width)] for row in range(height)]
    elif pattern == "uneven":
        cells = [[int(column < (width + 1) // 2) for column in range(width)]] * height
    else:
        tile = TILES[pattern] if isinstance(pattern, str) else pattern
        cells = [
            [tile[row % len(tile)][column % len(tile[0])] for column in range(width)]
            for row in range(height)
        ]
    factor = 1 if sign == "code" else -1
    return tuple(factor * offset for row in cells for offset in row)


def freeze_pattern(pattern: Pattern) -> PatternName | tuple[tuple[int, ...], ...]:
    """Check a pattern and return it as hashable plain data.

    Raises:
        ValueError: If it is not known, or its rows are not a rectangle.
    """
    if isinstance(pattern, str):
        if pattern not in get_args(PatternName):
            raise ValueError(
                f"pattern must be one of {', '.join(map(repr, get_args(PatternName)))}, or the "
                f"rows of a tile, got {pattern!r}"
            )
        return pattern
    rows = tuple(tuple(int(offset) for offset in row) for row in pattern)
    if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
        raise ValueError(f"pattern must have rows of one length, got {pattern!r}")
    return rows
