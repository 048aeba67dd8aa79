"""A clip as the inspector sees it, whatever it came from: facts, and frames one after the other.

A video, a sample of a shard, a folder of ``gopstream extract`` and a dump of mvextractor all become
an `InspectedClip`. What tells about it (statistics, pictures, pages) knows no more than that.

Dimensions: T frames, L reference lists, Hc x Wc pixels of the upright coded picture (multiples of
16), Hb x Wb its 8 x 8 blocks, H x W pixels of the picture that is shown, K vectors of a frame.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.grid import BlockMotion

SourceKind = Literal["video", "sample", "folder", "dump"]
NO_MOTION: Final = "no motion: "
"""How the warning begins that says why no frame has motion, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What is known of a clip without its arrays."""

    name: str
    """For people: the file's name, or split/shard/key."""
    source: SourceKind
    mode: Literal["native", "canonical"]
    """Whose vectors these are: the original stream's, or those of the stream that gopstream made
    of it."""
    kinds: str
    """(T,) letters ``I``, ``P`` or ``B``; ``?`` where a dump does not know."""
    times: npt.NDArray[np.float64] = field(repr=False)
    """(T,) seconds; numbers of frames where ``has_times`` is False."""
    coded_size: tuple[int, int]
    """(width, height) of the upright coded picture."""
    display_rect: tuple[int, int, int, int]
    """(x, y, width, height) of the upright picture to show, inside the coded one."""
    num_lists: int
    """L."""
    planes: frozenset[str]
    """Which of ``frames``, ``motion``, ``residual`` and ``vectors`` the frames have."""
    exactness: str
    """``exact``, or why there is no residual that is the codec's own."""
    has_times: bool = True
    """Whether the source has time stamps, or a frame rate that they are counted by."""
    damaged_frames: tuple[int, ...] = ()
    scene_cuts: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    label: str | None = None
    """Of a sample: its class's name; as hostile as any text of a user."""
    stream: Mapping[str, Any] = field(default_factory=dict)
    """Further facts by name, for people: codec, profile, references, encoder, source file."""

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.kinds)


class SignedResidual(NamedTuple):
    """Decoded minus predicted of one frame, -255 to 255."""

    y: npt.NDArray[np.int16]
    """(Hc, Wc)."""
    cb: npt.NDArray[np.int16]
    """(Hc / 2, Wc / 2)."""
    cr: npt.NDArray[np.int16]
    """(Hc / 2, Wc / 2)."""


class InspectedFrame(NamedTuple):
    """One frame; what the source has not is None."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """0 to T - 1."""
    kind: str
    picture: npt.NDArray[np.uint8] | None
    """(H, W, 3) RGB, upright, what is shown: ``display_rect`` of the coded picture, stored perhaps
    smaller than it."""
    picture_of: int
    """The frame that ``picture`` shows: an earlier one where not every frame is stored."""
    motion: BlockMotion | None
    """Upright, of all blocks of the coded picture."""
    vectors: npt.NDArray[np.int32] | None
    """(K, 10) the decoder's own, upright, columns as ``mvextractor_backend.TABLE_COLUMNS``: K is 0
    in an I-frame. ``dst_x``, ``dst_y`` are the block's centre, ``w`` x ``h`` its size."""
    residual: SignedResidual | None


class InspectedClip(Protocol):
    """Frames of one clip, read when they are asked for."""

    @property
    def facts(self) -> ClipFacts:
        """What is known without reading frames."""

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[InspectedFrame]:
        """Yield frames ``start`` to ``stop`` - 1, one in memory at a time.

        Raises:
            IndexError: If there are no such frames.
            PipelineError, ShardError: If the source is damaged; names it.
        """
