"""How much of a video's accumulated motion can be used, for a clip shape.

Pure NumPy, no video library. Dimensions: N frames, Hb x Wb blocks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.accumulation import BLOCK_PIXELS, StepMotion, accumulate, step_motion


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Which frames of a video a clip holds, and which of them are paired."""

    num_frames: int
    stride: int
    """Between frames of the clip, in frames of the video."""
    subclip_frames: int
    """Frames of a sub-clip; pairs lie within one."""

    def __post_init__(self) -> None:
        """Refuse what has no pairs."""
        if self.num_frames < 1 or self.stride < 1:
            raise ValueError(
                f"frames and stride must be at least 1, got {self.num_frames}x{self.stride}"
            )
        if self.subclip_frames < 2 or self.num_frames % self.subclip_frames != 0:
            raise ValueError(
                f"{self.num_frames} frames must divide into sub-clips of at least 2, "
                f"got {self.subclip_frames}"
            )


class PairShares(NamedTuple):
    """Shares of all (query frame, key frame, block) pairs of some clips."""

    num_pairs: int
    """Pairs that were looked at: blocks of the picture, query and key of one sub-clip, not the
    same of its frames."""
    valid: float
    """Share of pairs whose content was followed all the way."""
    extrapolated: float
    """Share of the valid pairs that have an I-frame on their way; 0 where none is valid."""


def valid_pair_share(
    motion: npt.NDArray[np.int16],
    coverage: npt.NDArray[np.uint8],
    *,
    is_intra_frame: npt.NDArray[np.bool_],
    display_size: tuple[int, int],
    shape: ClipShape,
    num_clips: int = 10,
    scene_cuts: npt.NDArray[np.bool_] | None = None,
) -> PairShares:
    """Count the valid pairs of clips spread evenly through a video.

    Time and memory are those of ``num_clips`` clips and of one sub-clip, however long the video
    is; the arrays may be memory maps. A video that is too short for a clip repeats its last
    frame, as the loader does.

    Args:
        motion: (N, Hb, Wb, 2) int16 quarter pixels, into the frame before.
        coverage: (N, Hb, Wb) uint8, 1 where a block is predicted.
        is_intra_frame: (N,) True at I-frames.
        display_size: (width, height) in coded pixels beyond which the picture ends.
        shape: Of the clips.
        num_clips: From the first clip of the video to the last; a single one is central.
        scene_cuts: (N,) True where a frame starts a new scene, known from the pixels.

    Raises:
        ValueError: If there is no frame or no clip.
    """
    if len(motion) == 0 or num_clips < 1:
        raise ValueError(f"expected frames and clips, got {len(motion)} and {num_clips}")
    totals = np.zeros(3, np.int64)
    for start in _clip_starts(len(motion), shape=shape, num_clips=num_clips).tolist():
        clip = start + np.arange(shape.num_frames) * shape.stride
        clip = np.minimum(clip, len(motion) - 1)
        for samples in clip.reshape(-1, shape.subclip_frames):
            # One frame more at the end: an I-frame there takes the motion of the next.
            first = int(samples[0])
            window = slice(first, int(samples[-1]) + 2)
            step = step_motion(
                motion[window],
                coverage[window],
                is_intra_frame[window],
                scene_cuts=None if scene_cuts is None else scene_cuts[window],
            )
            totals += _count_pairs(step, samples - first, display_size=display_size)
    num_pairs, num_valid, num_extrapolated = totals.tolist()
    return PairShares(num_pairs, num_valid / num_pairs, num_extrapolated / max(1, num_valid))


def _clip_starts(num_frames: int, *, shape: ClipShape, num_clips: int) -> npt.NDArray[np.int64]:
    """Return the first frames of clips spread from the start to the end, each once."""
    last = max(0, num_frames - 1 - (shape.num_frames - 1) * shape.stride)
    if num_clips == 1:
        return np.array([last // 2])
    return np.unique(np.linspace(0, last, num_clips).astype(np.int64))


def _count_pairs(
    step: StepMotion, samples: npt.NDArray[np.int64], *, display_size: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Return the numbers of all, valid, and valid extrapolated pairs of one sub-clip."""
    pairs = accumulate(step, samples[None], display_size=display_size)
    rows, columns = pairs.valid.shape[-2:]
    shown = [
        int((np.arange(cells) * BLOCK_PIXELS + BLOCK_PIXELS // 2 < side).sum())
        for cells, side in zip((columns, rows), display_size, strict=True)
    ]
    others = ~np.eye(len(samples), dtype=np.bool_)
    valid = pairs.valid[0][others].sum(axis=(1, 2))
    through_intra = pairs.extrapolated[0][others]
    return np.array([len(valid) * shown[0] * shown[1], valid.sum(), valid[through_intra].sum()])
