"""How much moves in a frame, and how much of it is the camera, in plain NumPy.

Lists are told apart on the grid of blocks; the kernel does it by the order of the records.
"""

import math

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.motion_statistics import (
    MAX_FIT_BLOCKS,
    MIN_FIT_SHARE,
    MIN_SCALE,
    NUM_BINS,
    NUM_REFITS,
    FrameMotion,
)

_Floats = npt.NDArray[np.float64]


def measure_frame(
    vectors: npt.NDArray[np.void], *, height: int, width: int, steps: int = 1
) -> FrameMotion:
    """Measure the vectors of one frame, as :func:`gopstream.pipeline.motion_statistics` does.

    Args:
        vectors: (K,) records.
        height: Height of the coded picture in pixels.
        width: Its width.
        steps: Frames that the vectors span.
    """
    past = vectors[vectors["source"] < 0]
    future = vectors[vectors["source"] >= 0]
    is_static = (past["motion_x"] == 0) & (past["motion_y"] == 0)
    in_past = _covered(past, height, width)
    in_future = _covered(future, height, width)
    nothing = FrameMotion(
        covered_0=in_past.mean(),
        covered_1=in_future.mean(),
        covered=(in_past | in_future).mean(),
        static=_covered(past[is_static], height, width).mean(),
        **dict.fromkeys(FrameMotion._fields[4:-1], math.nan),
        steps=steps,
    )
    if len(past) == 0:
        return nothing
    areas = past["w"].astype(np.float64) * past["h"]
    motion = np.stack([past["motion_x"], past["motion_y"]]) / past["motion_scale"]
    lengths = np.sqrt(motion[0] * motion[0] + motion[1] * motion[1])
    measured = nothing._replace(
        displacement=float(np.average(lengths, weights=areas)) / steps,
        displacement_p95=_upper_length(lengths, areas, height) / steps,
    )
    if nothing.covered_0 < MIN_FIT_SHARE:
        return measured
    every = slice(None, None, -(-len(past) // MAX_FIT_BLOCKS))
    places = np.stack([past["dst_x"] - width / 2, past["dst_y"] - height / 2])[:, every]
    motion, areas = motion[:, every], areas[every]
    fit = _fit(places, motion, areas)
    rest = np.sqrt(_squared_rest(places, motion, fit))
    return measured._replace(
        camera_x=-fit[0] / steps,
        camera_y=-fit[1] / steps,
        zoom=-fit[2] / steps,
        rotation=-fit[3] / steps,
        explained=float(np.average(rest < 1, weights=areas)),
        object_motion=float(np.average(rest, weights=areas)) / steps,
    )


def _covered(vectors: npt.NDArray[np.void], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return (Hc, Wc) True where a block lies; blocks may stick out at the right and below."""
    pixels = np.zeros((height, width), np.bool_)
    for vector in vectors:
        top = int(vector["dst_y"]) - int(vector["h"]) // 2
        left = int(vector["dst_x"]) - int(vector["w"]) // 2
        pixels[top : top + int(vector["h"]), left : left + int(vector["w"])] = True
    return pixels


def _upper_length(lengths: _Floats, areas: _Floats, height: int) -> float:
    bin_width = max(0.25, height / 1024)
    bins = np.minimum(lengths / bin_width + 0.5, NUM_BINS - 1).astype(np.int64)
    below = np.cumsum(np.bincount(bins, areas, NUM_BINS))
    return float(np.argmax(below >= 0.95 * areas.sum())) * bin_width


def _fit(places: _Floats, motion: _Floats, areas: _Floats) -> _Floats:
    """Return (dx, dy, growth, turn) of v = (dx, dy) + growth * p + turn * (-p_y, p_x)."""
    fit = _solve(places, motion, areas)
    scale = float(np.average(_squared_rest(places, motion, fit), weights=areas))
    if scale == 0:
        return fit
    for _ in range(NUM_REFITS):
        scale = max(scale / 4, MIN_SCALE**2)
        weights = areas / (1 + _squared_rest(places, motion, fit) / scale) ** 2
        fit = _solve(places, motion, weights)
    return fit


def _solve(places: _Floats, motion: _Floats, weights: _Floats) -> _Floats:
    x, y = places
    one, zero = np.ones_like(x), np.zeros_like(x)
    across = np.stack([one, zero, x, -y], 1)
    down = np.stack([zero, one, y, x], 1)
    root = np.sqrt(np.concatenate([weights, weights]))[:, None]
    design = np.concatenate([across, down]) * root
    if len(np.unique(places, axis=1).T) == 1:
        design = design[:, :2]
    values = np.concatenate([motion[0], motion[1]]) * root[:, 0]
    fit: _Floats = np.zeros(4)
    fit[: design.shape[1]] = np.linalg.lstsq(design, values, rcond=None)[0]
    return fit


def _squared_rest(places: _Floats, motion: _Floats, fit: _Floats) -> _Floats:
    x, y = places
    across = motion[0] - (fit[0] + fit[2] * x - fit[3] * y)
    down = motion[1] - (fit[1] + fit[2] * y + fit[3] * x)
    rest: _Floats = across * across + down * down
    return rest
