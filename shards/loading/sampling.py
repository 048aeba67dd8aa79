"""Which frames of a video make a clip: integer arithmetic on numbers drawn elsewhere.

Each function takes draws in [0, 1). Training draws them at random, testing spreads them evenly,
so that the same rule serves both.
"""

from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

Sampling = Literal["dense", "segment", "still"]
SAMPLINGS: Final[tuple[Sampling, ...]] = get_args(Sampling)


def clip_positions(
    sampling: Sampling,
    draws: npt.NDArray[np.float64],
    *,
    total: int,
    num_frames: int,
    stride: int,
) -> npt.NDArray[np.int64]:
    """Choose the stored frames of a clip.

    Args:
        sampling: ``dense``: every ``stride``-th frame from a drawn start; ``segment``: one drawn
            frame in each of ``num_frames`` equal parts of the video (TSN, ECCV 2016);
            ``still``: one drawn frame, repeated (a control that holds no motion).
        draws: (num_frames,) in [0, 1); dense and still use the first alone.
        total: Stored frames of the video.
        num_frames: Frames of the clip.
        stride: Of dense sampling, in stored frames.

    Returns:
        (num_frames,) positions 0 .. total - 1, not falling. A video that is too short for a
        dense clip repeats its last frame.
    """
    if sampling == "segment":
        parts = (np.arange(num_frames) + draws) * total / num_frames
        return np.minimum(np.floor(parts).astype(np.int64), total - 1)
    if sampling == "still":
        return np.full(num_frames, int(draws[0] * total), np.int64)
    span = (num_frames - 1) * stride
    start = int(draws[0] * max(1, total - span))
    return np.minimum(start + np.arange(num_frames) * stride, total - 1)


def view_draws(view: int, *, num_views: int, num_frames: int) -> npt.NDArray[np.float64]:
    """Return the draws of one of several evenly spread test clips; the only one is central."""
    return np.full(num_frames, (view + 0.5) / num_views)
