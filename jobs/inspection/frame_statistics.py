"""Numbers of one frame, and of all frames of a kind.

Lengths are pixels of the coded picture, from the frame to its reference: FFmpeg does not say which
picture that is, so that they are not speeds. Each predicted 8 x 8 block counts once per reference
list, whatever the size of the partition that it belongs to. Directions are those in which things
move: content that comes from the left moves to the right.

Dimensions: M pairs of a block and a list that predicts it; others as in ``inspected``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.jobs.inspection.inspected import InspectedFrame
from gopstream.jobs.inspection.vector_table import (
    COLUMN,
    LIST_SIGNS,
    is_past,
    vector_pixels,
)
from gopstream.pipeline.grid import BLOCK, MACROBLOCK, QUARTER_PIXELS, BlockMotion

KIND_ORDER: Final = "IPB?"
"""In which order kinds of frames are told."""

_BIN: Final = 1 / 16
"""Width of the bins in pixels by which the lengths of many frames are counted."""
_MOST_BINS: Final = 1 << 18
"""Twice the longest vector of the grid; a dump's table may hold longer ones."""
_DIGITS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameStatistics:
    """One frame. None where the source does not have what a number is made of.

    Shares are of the blocks of the coded picture, 0 to 1.
    """

    index: int
    kind: str
    num_vectors: int | None
    """The decoder's own; None where only the grid of blocks is stored."""
    num_past: int | None
    """Vectors of list 0, to earlier frames as a rule."""
    num_future: int | None
    """Vectors of list 1, to later frames as a rule."""
    covered: float | None
    """Share of blocks that are predicted by either list."""
    covered_past: float | None
    covered_future: float | None
    intra: float | None
    """Share of blocks without any vector: 1 - ``covered``."""
    static: float | None
    """Share of the M pairs whose vector is zero; None, like the next six, if M is 0."""
    mean_length: float | None
    median_length: float | None
    """What half of the M lengths do not exceed."""
    p95_length: float | None
    """What 95 % of them do not exceed."""
    max_length: float | None
    mean_x: float | None
    """Mean movement of the content in pixels, to the right."""
    mean_y: float | None
    """The same, down."""
    residual_energy: float | None
    """Mean of abs(r) of luma, 0 to 255, over all pixels. What is not predicted counts as
    predicted by 128, as it is stored."""
    predicted_energy: float | None
    """The same over the predicted blocks alone; None if there are none."""
    zero_macroblocks: float | None
    """Share of the predicted macroblocks whose residual is zero in all three planes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindStatistics:
    """All frames of a kind. Numbers of motion are of all their blocks together."""

    kind: str
    frames: int
    num_vectors: float | None
    """Mean per frame, like all of the next seven; fields as in `FrameStatistics`."""
    num_past: float | None
    num_future: float | None
    covered: float | None
    covered_past: float | None
    covered_future: float | None
    intra: float | None
    static: float | None
    mean_length: float | None
    median_length: float | None
    """To 1/16 pixel, like the next."""
    p95_length: float | None
    max_length: float | None
    mean_x: float | None
    mean_y: float | None
    residual_energy: float | None
    """Mean per frame, like the next two."""
    predicted_energy: float | None
    zero_macroblocks: float | None


def frame_statistics(frame: InspectedFrame) -> FrameStatistics:
    """Measure one frame."""
    return _measure(frame, _movements(frame))


def statistics_content(statistics: FrameStatistics | KindStatistics) -> dict[str, Any]:
    """Return them for JSON: fields by name, shares and pixels with four digits."""
    return {
        name: round(value, _DIGITS) if isinstance(value, float) else value
        for name, value in asdict(statistics).items()
    }


class StatisticsMeter:
    """Measures frame after frame of a clip, and sums up by kind.

    Holds a few numbers per frame, and a histogram of lengths per kind.
    """

    def __init__(self) -> None:
        """Start with no frames."""
        self._frames: dict[str, list[FrameStatistics]] = {}
        self._lengths: dict[str, _Lengths] = {}

    def add(self, frame: InspectedFrame) -> FrameStatistics:
        """Take in a frame; returns its own numbers."""
        movements = _movements(frame)
        statistics = _measure(frame, movements)
        self._frames.setdefault(frame.kind, []).append(statistics)
        self._lengths.setdefault(frame.kind, _Lengths()).add(movements)
        return statistics

    def kinds(self) -> tuple[KindStatistics, ...]:
        """Return what was added so far, a row for each kind there was."""
        order = sorted(self._frames, key=lambda kind: (KIND_ORDER.find(kind) % 5, kind))
        return tuple(
            _sum_up(kind, self._frames[kind], lengths=self._lengths[kind]) for kind in order
        )


def _movements(frame: InspectedFrame) -> npt.NDArray[np.float64]:
    """Return (M, 2) pixels (x, y) by which the content of each block moves.

    Content moves from its reference to the block where the reference is earlier, and on from the
    block to the reference where that is later.
    """
    if frame.motion is not None:
        parts = [
            sign * frame.motion.motion[number][frame.motion.coverage[number] == 1]
            for number, sign in enumerate(LIST_SIGNS[: len(frame.motion.motion)])
        ]
        return np.concatenate(parts).astype(np.float64) / QUARTER_PIXELS
    if frame.vectors is None:
        return np.zeros((0, 2))
    signs = np.where(is_past(frame.vectors), *LIST_SIGNS)
    moves = vector_pixels(frame.vectors) * signs[:, None]
    areas = frame.vectors[:, COLUMN["w"]] * frame.vectors[:, COLUMN["h"]]
    return np.repeat(moves, areas // BLOCK**2, axis=0)


def _measure(frame: InspectedFrame, movements: npt.NDArray[np.float64]) -> FrameStatistics:
    lengths = np.hypot(movements[:, 0], movements[:, 1])
    is_moving = bool(len(lengths))
    past, future = _sources(frame)
    return FrameStatistics(
        index=frame.index,
        kind=frame.kind,
        num_vectors=None if frame.vectors is None else len(frame.vectors),
        num_past=past,
        num_future=future,
        **_coverage(frame.motion),
        static=float((lengths == 0).mean()) if is_moving else None,
        mean_length=float(lengths.mean()) if is_moving else None,
        median_length=_not_exceeded(lengths, 0.5) if is_moving else None,
        p95_length=_not_exceeded(lengths, 0.95) if is_moving else None,
        max_length=float(lengths.max()) if is_moving else None,
        mean_x=float(movements[:, 0].mean()) if is_moving else None,
        mean_y=float(movements[:, 1].mean()) if is_moving else None,
        **_residual(frame),
    )


def _sources(frame: InspectedFrame) -> tuple[int | None, int | None]:
    if frame.vectors is None:
        return None, None
    past = int(np.count_nonzero(is_past(frame.vectors)))
    return past, len(frame.vectors) - past


def _coverage(motion: BlockMotion | None) -> Mapping[str, float | None]:
    if motion is None:
        return dict.fromkeys(("covered", "covered_past", "covered_future", "intra"))
    is_covered = motion.coverage == 1
    covered = float(is_covered.any(axis=0).mean())
    return {
        "covered": covered,
        "covered_past": float(is_covered[0].mean()),
        "covered_future": float(is_covered[1].mean()) if len(is_covered) > 1 else 0.0,
        "intra": 1 - covered,
    }


def _residual(frame: InspectedFrame) -> Mapping[str, float | None]:
    if frame.residual is None:
        return dict.fromkeys(("residual_energy", "predicted_energy", "zero_macroblocks"))
    absolute = np.abs(frame.residual.y)
    measured: dict[str, float | None] = {
        "residual_energy": float(absolute.mean()),
        "predicted_energy": None,
        "zero_macroblocks": None,
    }
    if frame.motion is None:
        return measured
    is_covered = (frame.motion.coverage == 1).any(axis=0)
    blocks = block_sums(absolute, BLOCK)
    if is_covered.any():
        measured["predicted_energy"] = float(blocks[is_covered].mean()) / BLOCK**2
    side = MACROBLOCK // BLOCK
    is_predicted = block_sums(is_covered.astype(np.int64), side) == side**2
    if is_predicted.any():
        chroma = np.abs(frame.residual.cb) + np.abs(frame.residual.cr)
        energy = block_sums(blocks, side) + block_sums(chroma, BLOCK)
        measured["zero_macroblocks"] = float((energy[is_predicted] == 0).mean())
    return measured


def block_sums(plane: npt.NDArray[Any], side: int) -> npt.NDArray[np.int64]:
    """Return the sums of squares of ``side`` x ``side`` values, whose number must come out."""
    rows, columns = plane.shape
    cut = plane.reshape(rows // side, side, columns // side, side)
    sums: npt.NDArray[np.int64] = cut.sum(axis=(1, 3), dtype=np.int64)
    return sums


def _not_exceeded(lengths: npt.NDArray[np.float64], share: float) -> float:
    """Return the shortest length that this share of them does not exceed."""
    place = max(int(np.ceil(share * len(lengths))) - 1, 0)
    return float(np.partition(lengths, place)[place])


class _Lengths:
    """The movements of many blocks, counted."""

    def __init__(self) -> None:
        self._counts = np.zeros(1, np.int64)
        self._sums = np.zeros(2)
        self._total = self._longest = 0.0
        self._num_static = 0

    def add(self, movements: npt.NDArray[np.float64]) -> None:
        lengths = np.hypot(movements[:, 0], movements[:, 1])
        if not len(lengths):
            return
        bins = np.minimum(np.rint(lengths / _BIN), _MOST_BINS).astype(np.int64)
        counts = np.bincount(bins, minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        self._sums += movements.sum(axis=0)
        self._total += float(lengths.sum())
        self._longest = max(self._longest, float(lengths.max()))
        self._num_static += int(np.count_nonzero(lengths == 0))

    def content(self) -> Mapping[str, float | None]:
        number = int(self._counts.sum())
        if not number:
            names = ("static", "mean_length", "median_length", "p95_length", "max_length")
            return dict.fromkeys((*names, "mean_x", "mean_y"))
        below = np.cumsum(self._counts)
        return {
            "static": self._num_static / number,
            "mean_length": self._total / number,
            "median_length": float(np.searchsorted(below, np.ceil(0.5 * number))) * _BIN,
            "p95_length": float(np.searchsorted(below, np.ceil(0.95 * number))) * _BIN,
            "max_length": self._longest,
            "mean_x": float(self._sums[0]) / number,
            "mean_y": float(self._sums[1]) / number,
        }


_FRAME_MEANS: Final = (
    "num_vectors",
    "num_past",
    "num_future",
    "covered",
    "covered_past",
    "covered_future",
    "intra",
    "residual_energy",
    "predicted_energy",
    "zero_macroblocks",
)


def _sum_up(kind: str, frames: list[FrameStatistics], *, lengths: _Lengths) -> KindStatistics:
    means = {
        name: _mean([value for frame in frames if (value := getattr(frame, name)) is not None])
        for name in _FRAME_MEANS
    }
    return KindStatistics(kind=kind, frames=len(frames), **means, **lengths.content())


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
