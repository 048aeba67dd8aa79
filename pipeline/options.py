"""What a user chooses of an extraction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from gopstream.pipeline.transcode import CanonicalFormat

PLANES: Final = ("frames", "motion", "residual")
MAX_FPS: Final = 1000
FRAMES_PER_BEAT: Final = 25
"""How many frames lie between two calls of a progress function."""

OnProgress = Callable[[], None]
"""Called every few frames; may raise to stop."""


@dataclass(frozen=True, slots=True)
class ExtractionOptions:
    """What is extracted from each video, and how."""

    canonical: CanonicalFormat = CanonicalFormat()
    """In native mode only its short side counts, for the stored frames."""
    mode: Literal["canonical", "native"] = "canonical"
    """Re-encode, so that motion and residual are exact; or take what the stream has."""
    backend: Literal["pyav", "mvextractor"] = "pyav"
    """Who reads the vectors; mvextractor reads streams without B-frames alone."""
    planes: tuple[str, ...] = PLANES
    """Which of ``frames``, ``motion`` and ``residual``; motion is always extracted."""
    quality: int = 90
    """JPEG quality of the stored frames, 1 to 100."""
    frame_stride: int = 1
    """Store every n-th frame as JPEG; motion and residual are kept for each frame."""
    fps: float | None = None
    """Store so many frames per second of the video's time, by time stamps, never more than it
    has; instead of a stride. See :class:`gopstream.pipeline.frame_choice.FrameChooser`."""
    segment_frames: int = 300
    """A longer video becomes several clips of this many frames (rounded to whole GOPs)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.mode not in ("canonical", "native"):
            raise ValueError(f"mode must be canonical or native, got {self.mode!r}")
        if self.backend not in ("pyav", "mvextractor"):
            raise ValueError(f"backend must be pyav or mvextractor, got {self.backend!r}")
        unknown = [plane for plane in self.planes if plane not in PLANES]
        if unknown or "motion" not in self.planes:
            raise ValueError(
                f"planes must be motion and any of frames, residual; got {', '.join(self.planes)}"
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be between 1 and 100, got {self.quality}")
        if self.frame_stride < 1:
            raise ValueError(f"frame stride must be at least 1, got {self.frame_stride}")
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, got {self.fps}")
        if self.fps is not None and self.frame_stride > 1:
            raise ValueError(
                f"frames are stored either by fps ({self.fps:g}) or by a stride "
                f"({self.frame_stride}); choose one"
            )
        if self.segment_frames < self.canonical.gop:
            raise ValueError(
                f"a segment must hold at least one GOP of {self.canonical.gop} frames, "
                f"got {self.segment_frames}"
            )

    @property
    def frames_per_segment(self) -> int:
        """``segment_frames``; in canonical mode rounded down to whole GOPs."""
        if self.mode == "native":
            return self.segment_frames
        return self.segment_frames // self.canonical.gop * self.canonical.gop
