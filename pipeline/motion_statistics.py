"""How much moves in a video, and how much of it is the camera, from block vectors alone.

What can be known, and what not. A vector spans the distance to its reference picture, which
FFmpeg does not export. Figures of motion are therefore taken from list 0 of the P-frames only,
divided by the number of frames since the I- or P-frame shown before: right for the first
reference, too large for older ones. A stream without P-frames is measured by list 0 of its
B-frames, undivided. An encoder chooses vectors for their price, so that flat areas follow their
neighbours, whatever moves there. In interlaced pictures the vectors of field macroblocks count in
rows of a field. For choosing videos this is enough; it is no optical flow.

Lengths are pixels of the coded picture per frame, and once more as shares of the picture's height.

:mod:`gopstream.pipeline.plain.motion_statistics` is the same in plain NumPy.

Dimensions: K blocks, N frames.
"""

import math
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.kernel import kernel
from gopstream.pipeline.motion import VECTOR_DTYPE

NUM_BINS: Final = 512
"""Bins of the histogram of lengths, the last for all that is longer."""
NUM_REFITS: Final = 5
MAX_FIT_BLOCKS: Final = 96
"""The camera is fitted and judged by every n-th block of list 0, that many at most, for speed."""
MIN_FIT_SHARE: Final = 0.25
"""Of the picture: with less of it predicted, nothing is said about the camera."""
MIN_SCALE: Final = 0.5
"""Pixels: the residual whose block still has a quarter of its weight in the last refit."""

_NUM_COLUMNS: Final = 14
_NO_VECTORS: Final = np.empty(0, VECTOR_DTYPE)

Records = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Similarity = tuple[float, float, float, float]


class FrameMotion(NamedTuple):
    """One P- or B-frame. Shares are of the picture's area if nothing else is said."""

    covered_0: float
    """Predicted from list 0, the past as a rule."""
    covered_1: float
    covered: float
    """Predicted from either; the rest is intra."""
    static: float
    """Predicted from list 0 with a zero vector. NaN, like all below, where not measured."""
    displacement: float
    """Mean length of the vectors of list 0, weighted by area."""
    displacement_p95: float
    """What 95 % of that area does not exceed, to 1/4 pixel or 1/1024 of the height."""
    camera_x: float
    """Movement of the picture's content at its centre, to the right: a camera that turns to the
    left. NaN, like all below, if less than a quarter of the picture is predicted."""
    camera_y: float
    """The same, down."""
    zoom: float
    """Relative growth of the content: 0.01 is one per cent per frame."""
    rotation: float
    """Radians per frame, clockwise on the screen."""
    explained: float
    """Share of the predicted area whose vector is less than a pixel off the camera's."""
    object_motion: float
    """Mean length of what is left of the vectors without the camera's, weighted by area."""
    steps: float
    """Frames that the vectors are taken to span, by which all lengths here are divided."""


class MotionSummary(NamedTuple):
    """A video: means over frames, each frame counting alike; None where there is nothing.

    Names that end in ``_of_height`` are the lengths as shares of the picture's height.
    """

    num_predicted: int
    """P- and B-frames that were looked at."""
    kind: str | None
    """``P`` or ``B``: the frames whose vectors give the motion."""
    num_measured: int
    """Frames of that kind."""
    num_fitted: int
    """Those of them with figures for the camera."""
    intra_share: float | None
    intra_share_p95: float | None
    covered_past_share: float | None
    covered_future_share: float | None
    static_share: float | None
    displacement: float | None
    displacement_of_height: float | None
    displacement_p50: float | None
    """Of the frames' means; likewise the next."""
    displacement_p95: float | None
    fast_displacement: float | None
    """Mean over frames of what 95 % of the area does not exceed."""
    camera_x: float | None
    camera_y: float | None
    camera_speed: float | None
    """Mean length of (camera_x, camera_y)."""
    camera_speed_of_height: float | None
    camera_speed_p95: float | None
    zoom: float | None
    zoom_speed: float | None
    """Mean of the absolute value; likewise the next."""
    rotation_speed: float | None
    camera_explained_share: float | None
    object_motion: float | None
    object_motion_of_height: float | None
    object_motion_p95: float | None


def measure_frame(
    vectors: npt.NDArray[np.void], *, height: int, width: int, steps: int = 1
) -> FrameMotion:
    """Measure the vectors of one frame.

    The camera's motion is the similarity (translation, zoom, rotation about the centre) that fits
    the vectors of list 0: a least-squares fit by area, and five refits in which a block counts
    ``1 / (1 + r^2 / s^2)^2`` of its area, r its residual. s begins at the root mean square of r
    and is halved each time, down to half a pixel: graduated non-convexity with the function of
    Geman and McClure (Black and Rangarajan, IJCV 19, 1996). What moves on its own has no part in
    the end, unless it is most of the picture.

    Args:
        vectors: (K,) records of :data:`gopstream.pipeline.motion.VECTOR_DTYPE`. What lies outside
            of the picture is not counted as covered.
        height: Height of the coded picture in pixels.
        width: Its width.
        steps: Frames that the vectors span.
    """
    rows = np.empty((1, _NUM_COLUMNS), np.float32)
    work = np.empty((6, max(NUM_BINS, len(vectors))))
    _measure(vectors, work, height, width, steps, True, rows, 0)
    return FrameMotion._make(rows[0, :-1].tolist())


class MotionMeter:
    """Measures frame after frame of a video, and sums up."""

    def __init__(self) -> None:
        """Start with no frames."""
        self._rows = np.empty((256, _NUM_COLUMNS), np.float32)
        self._num_rows = 0
        self._work = np.empty((6, 1024))
        self._first_p: int | None = None
        self._since_anchor: int | None = None
        """Frames since the last I- or P-frame; None if one is missing."""

    def skip(self) -> None:
        """Pass over the next frame, which is damaged, and over the motion of what comes to it."""
        self._since_anchor = None

    def add(
        self, kind: str, vectors: npt.NDArray[np.void] | None, *, size: tuple[int, int]
    ) -> float:
        """Take in the next frame that is shown; returns its intra share, 1 for an I-frame.

        Args:
            kind: ``I``, ``P`` or ``B``.
            vectors: (K,) records; None counts as no vector.
            size: Height and width of the coded picture in pixels.
        """
        if kind not in ("P", "B"):
            self._since_anchor = 0
            return 1.0
        steps, with_motion = 1, self._first_p is None
        if self._since_anchor is not None:
            self._since_anchor += 1
        if kind == "P":
            with_motion = self._since_anchor is not None
            steps, self._since_anchor = self._since_anchor or 1, 0
            if self._first_p is None:
                self._first_p = self._num_rows
        if vectors is None:
            vectors = _NO_VECTORS
        if len(vectors) > self._work.shape[1]:
            self._work = np.empty((6, 2 * len(vectors)))
        index = self._num_rows
        if index == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        covered: float = _measure(
            vectors,
            self._work,
            size[0],
            size[1],
            steps,
            with_motion,
            self._rows,
            index,
        )
        self._num_rows = index + 1
        return 1.0 - covered

    def summary(self) -> MotionSummary:
        """Sum up what was added so far."""
        rows = self._rows[: self._num_rows].astype(np.float64)
        # Frames before the first P-frame were measured in case that there would be none.
        measured = rows[self._first_p or 0 :]
        measured = measured[~np.isnan(measured[:, 4])]
        fitted = measured[~np.isnan(measured[:, 6])]
        kind = ("B" if self._first_p is None else "P") if len(measured) else None
        speed = np.hypot(fitted[:, 6], fitted[:, 7])
        return MotionSummary(
            num_predicted=self._num_rows,
            kind=kind,
            num_measured=len(measured),
            num_fitted=len(fitted),
            intra_share=_mean(1 - rows[:, 2]),
            intra_share_p95=_percentile(1 - rows[:, 2], 95),
            covered_past_share=_mean(rows[:, 0]),
            covered_future_share=_mean(rows[:, 1]),
            static_share=_mean(measured[:, 3]),
            displacement=_mean(measured[:, 4]),
            displacement_of_height=_mean(measured[:, 4] / measured[:, 13]),
            displacement_p50=_percentile(measured[:, 4], 50),
            displacement_p95=_percentile(measured[:, 4], 95),
            fast_displacement=_mean(measured[:, 5]),
            camera_x=_mean(fitted[:, 6]),
            camera_y=_mean(fitted[:, 7]),
            camera_speed=_mean(speed),
            camera_speed_of_height=_mean(speed / fitted[:, 13]),
            camera_speed_p95=_percentile(speed, 95),
            zoom=_mean(fitted[:, 8]),
            zoom_speed=_mean(np.abs(fitted[:, 8])),
            rotation_speed=_mean(np.abs(fitted[:, 9])),
            camera_explained_share=_mean(fitted[:, 10]),
            object_motion=_mean(fitted[:, 11]),
            object_motion_of_height=_mean(fitted[:, 11] / fitted[:, 13]),
            object_motion_p95=_percentile(fitted[:, 11], 95),
        )


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _percentile(values: npt.NDArray[np.float64], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None


@kernel
def _measure(
    vectors: Records,
    work: Floats,
    height: int,
    width: int,
    steps: int,
    with_motion: bool,
    rows: Rows,
    index: int,
) -> float:
    """Fill ``rows[index]``: the fields of FrameMotion, then the height; returns ``covered``.

    ``work`` is (6, >= K and >= NUM_BINS) float64; what is in it does not matter.
    """
    row = rows[index]
    row[:] = np.nan
    row[12], row[13] = steps, height
    count = _gather(vectors, work, height, width, row)
    if not with_motion:
        row[3] = np.nan
    if not with_motion or count == 0:
        return float(row[2])
    _lengths(work, count, steps, height, row)
    if row[0] >= MIN_FIT_SHARE:
        stride = -(-count // MAX_FIT_BLOCKS)
        fit = _fit(work, count, stride)
        row[6], row[7] = -fit[0] / steps, -fit[1] / steps
        row[8], row[9] = -fit[2] / steps, -fit[3] / steps
        area = near = rest = 0.0
        for i in range(0, count, stride):
            squared = _residual(work, i, fit)
            area += work[4, i]
            rest += work[4, i] * math.sqrt(squared)
            near += work[4, i] if squared < 1 else 0.0
        row[10], row[11] = near / area, rest / area / steps
    return float(row[2])


@kernel
def _gather(vectors: Records, work: Floats, height: int, width: int, row: Rows) -> int:
    """Fill the shares of area, and list 0 into ``work``; returns its number of blocks.

    ``work`` receives x, y (from the picture's centre), dx, dy (all in pixels) and area.

    A macroblock that has vectors of list 1 as well has them right behind those of list 0, and of
    either list for all of its area (libavcodec/mpegutils.c, ff_print_debug_info2).
    """
    centre_x, centre_y = width / 2, height / 2
    count = past = future = both = static = 0
    last_x = last_y = -1
    for index in range(len(vectors)):
        vector = vectors[index]
        x: Any = np.int64(vector.dst_x)
        y: Any = np.int64(vector.dst_y)
        across: Any = np.int64(vector.w)
        down: Any = np.int64(vector.h)
        left, top = x - (across >> 1), y - (down >> 1)
        inside = max(min(left + across, width) - max(left, 0), 0)
        inside *= max(min(top + down, height) - max(top, 0), 0)
        if vector.source >= 0:
            future += inside
            if x >> 4 == last_x and y >> 4 == last_y:
                both += inside
        else:
            past += inside
            last_x, last_y = x >> 4, y >> 4
            dx, dy = np.int64(vector.motion_x), np.int64(vector.motion_y)
            if dx == 0 and dy == 0:
                static += inside
            scale: Any = 1.0 / max(vector.motion_scale, 1)
            work[0, count] = x - centre_x
            work[1, count] = y - centre_y
            work[2, count] = dx * scale
            work[3, count] = dy * scale
            work[4, count] = across * down
            count += 1
    area = height * width
    row[0], row[1] = past / area, future / area
    row[2], row[3] = (past + future - both) / area, static / area
    return count


@kernel
def _lengths(work: Floats, count: int, steps: int, height: int, row: Rows) -> None:
    """Fill the mean length and the 95th percentile of the gathered vectors."""
    histogram = work[5]
    histogram[:NUM_BINS] = 0
    bin_width = max(0.25, height / 1024)
    area = total = 0.0
    for i in range(count):
        length = math.sqrt(work[2, i] * work[2, i] + work[3, i] * work[3, i])
        area += work[4, i]
        total += work[4, i] * length
        histogram[int(min(length / bin_width + 0.5, NUM_BINS - 1.0))] += work[4, i]
    below, place = 0.0, -1
    while below < 0.95 * area:
        place += 1
        below += histogram[place]
    row[4], row[5] = total / area / steps, place * bin_width / steps


@kernel
def _fit(work: Floats, count: int, stride: int) -> Similarity:
    """Return (dx, dy, growth, turn) of v = (dx, dy) + growth * p + turn * (-p_y, p_x)."""
    fit = _solve(work, count, stride, (0.0, 0.0, 0.0, 0.0), math.inf)
    area = squares = 0.0
    for i in range(0, count, stride):
        area += work[4, i]
        squares += work[4, i] * _residual(work, i, fit)
    scale = squares / area
    if scale == 0:
        return fit
    for _ in range(NUM_REFITS):
        scale = max(scale / 4, MIN_SCALE * MIN_SCALE)
        fit = _solve(work, count, stride, fit, scale)
    return fit


@kernel
def _residual(work: Floats, i: int, fit: Similarity) -> float:
    """Return the squared distance of a vector from the fit."""
    x, y = work[0, i], work[1, i]
    across: float = work[2, i] - (fit[0] + fit[2] * x - fit[3] * y)
    down: float = work[3, i] - (fit[1] + fit[2] * y + fit[3] * x)
    return across * across + down * down


@kernel
def _solve(work: Floats, count: int, stride: int, fit: Similarity, scale: float) -> Similarity:
    """Fit every ``stride``-th block, weighted by its squared residual from ``fit``."""
    w = wx = wy = wu = wv = wpp = wpv = wpt = 0.0
    for i in range(0, count, stride):
        x, y, u, v = work[0, i], work[1, i], work[2, i], work[3, i]
        distance = 1 + _residual(work, i, fit) / scale
        weight = work[4, i] / (distance * distance)
        w += weight
        wx += weight * x
        wy += weight * y
        wu += weight * u
        wv += weight * v
        wpp += weight * (x * x + y * y)
        wpv += weight * (x * u + y * v)
        wpt += weight * (x * v - y * u)
    x, y, u, v = wx / w, wy / w, wu / w, wv / w
    spread = wpp - w * (x * x + y * y)
    growth = turn = 0.0
    if spread > w:  # more than one block: 8 pixels from another at least
        growth = (wpv - w * (x * u + y * v)) / spread
        turn = (wpt - w * (x * v - y * u)) / spread
    return (u - growth * x + turn * y, v - growth * y - turn * x, growth, turn)
