"""The value that extraction hands over: one video, or one segment of a long one."""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.grid import BLOCK


@dataclass(frozen=True, slots=True)
class ClipResidual:
    """Residual of each frame of a clip."""

    planes: npt.NDArray[np.uint8]
    """(T, Hc * 3 / 2 * Wc) uint8: per frame Y, Cb, Cr one after the other (I420), decoded minus
    predicted modulo 256."""
    exceptions: npt.NDArray[np.int32]
    """(E, 5) rows of frame, plane (0 Y, 1 Cb, 2 Cr), y, x, signed value outside of int8."""
    zero_share: float
    """Share of the predicted macroblocks whose residual is zero in all three planes."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames, motion and residual of T consecutive frames, checked to agree."""

    jpegs: list[bytes] = field(repr=False)
    """One JPEG for each entry of ``frame_index_of_jpeg``; empty when no frames were asked for."""
    frame_index_of_jpeg: npt.NDArray[np.int32] = field(repr=False)
    """(J,) the frame that each JPEG shows, 0 to T - 1, rising."""
    motion: npt.NDArray[np.int16] = field(repr=False)
    """(T, L, Hb, Wb, 2) quarter pixels of the coded picture, (dx, dy) to the source."""
    coverage: npt.NDArray[np.uint8] = field(repr=False)
    """(T, L, Hb, Wb) 1 where a block is predicted."""
    residual: ClipResidual | None = field(repr=False)
    """None when it was not asked for."""
    decoded_sha256: list[str] = field(repr=False)
    """One hash per GOP of its decoded coded planes (Y, Cb, Cr of each frame); empty without a
    residual, from which alone they can be rebuilt."""
    kinds: str
    """(T,) letters, ``I`` or ``P``; in native clips also ``B``."""
    pts: npt.NDArray[np.int64] = field(repr=False)
    """(T,) presentation times in units of ``time_base``."""
    time_base: Fraction
    """Seconds per unit of ``pts``."""
    coded_size: tuple[int, int]
    """(width, height) of the coded picture, multiples of 16."""
    display_rect: tuple[int, int, int, int]
    """(x, y, width, height) of the picture to show, inside the coded one."""
    frame_size: tuple[int, int]
    """(width, height) of the JPEGs."""
    first_frame: int
    """Index of the clip's first frame in its video: 0 but for later segments."""
    chunk_starts: tuple[int, ...]
    """Frames at which a new chunk of motion begins: every I-frame, and in native clips also in
    the middle of long GOPs."""
    exactness: str
    """``exact``, or why the clip has no residual that is the codec's own."""
    damaged_frames: tuple[int, ...] = ()
    """Frames that may show damage of the source, rising."""
    scene_cuts: tuple[int, ...] = ()
    """Frames that show another scene than the one before, rising."""
    warnings: tuple[str, ...] = ()
    """What a user should know of this video, in words."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together; says which."""
        num_frames = len(self.kinds)
        width, height = self.coded_size
        expected = (num_frames, self.motion.shape[1], height // BLOCK, width // BLOCK)
        if self.motion.shape != (*expected, 2) or self.coverage.shape != expected:
            raise ValueError(
                f"motion and coverage must be {(*expected, 2)} and {expected}, "
                f"got {self.motion.shape} and {self.coverage.shape}"
            )
        if len(self.pts) != num_frames:
            raise ValueError(f"{num_frames} frames but {len(self.pts)} time stamps")
        if len(self.jpegs) != len(self.frame_index_of_jpeg):
            raise ValueError(f"{len(self.jpegs)} JPEGs for {len(self.frame_index_of_jpeg)} frames")
        if self.residual is not None and len(self.residual.planes) != num_frames:
            raise ValueError(f"{num_frames} frames but {len(self.residual.planes)} residuals")
        starts = list(self.chunk_starts)
        if starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= num_frames:
            raise ValueError(f"chunks must start at 0 and rise below {num_frames}, got {starts}")

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.kinds)

    @property
    def gop_starts(self) -> list[int]:
        """Index of each I-frame; a clip with a residual begins with one."""
        return [index for index, kind in enumerate(self.kinds) if kind == "I"]
