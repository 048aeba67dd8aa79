"""Turn pictures and their motion upright by quarter turns.

Quarter turns are exact: the taps of H.264's interpolation are symmetric, so that predicting a
turned picture from turned motion gives the turned prediction, bit for bit.

Turns are counted as :func:`numpy.rot90` counts them, counterclockwise.
"""

import numpy as np

from gopstream.pipeline.grid import BlockMotion, Planes


def rotate_planes(planes: Planes, turns: int) -> Planes:
    """Turn a picture; returns planes whose rows lie side by side."""
    return Planes(*(np.ascontiguousarray(np.rot90(plane, turns)) for plane in planes))


def rotate_motion(fields: BlockMotion, turns: int) -> BlockMotion:
    """Turn the grid, and the vectors on it."""
    motion = np.rot90(fields.motion, turns, axes=(1, 2))
    for _ in range(turns % 4):
        # Counterclockwise, what points right points up: (dx, dy) becomes (dy, -dx).
        # int16 has no 32768, which only a damaged stream would need.
        motion = np.stack([motion[..., 1], -np.maximum(motion[..., 0], -32767)], axis=-1)
    coverage = np.rot90(fields.coverage, turns, axes=(1, 2))
    return BlockMotion(np.ascontiguousarray(motion), np.ascontiguousarray(coverage))


def rotate_rect(
    rect: tuple[int, int, int, int], turns: int, *, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Turn (x, y, width, height) inside a picture of ``size`` (width, height)."""
    for _ in range(turns % 4):
        x, y, width, height = rect
        rect = (y, size[0] - x - width, height, width)
        size = (size[1], size[0])
    return rect
