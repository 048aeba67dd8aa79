"""Which frames show damage: those that the decoder complains of, and what is predicted from them.

H.264 has no checksums. A damaged packet is noticed where the bits stop making sense, and whatever
was decoded from it is then used to predict other pictures, up to the next key frame.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gopstream.pipeline.decode import DecodedFrame, open_coded
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.window import WindowCut


@dataclass(slots=True)
class DamageSpread:
    """Follows damage through a stream, frame by frame in presentation order.

    Damage spreads from a frame to all that follow, until a key frame. B-frames that are shown
    right before a damaged frame were predicted from it too, and the frame before them is suspect.
    Frames shown before the first key frame lack what they were predicted from: the beginning was
    cut off. In a window, damage before it counts where it spreads into it.
    """

    flags: list[bool] = field(default_factory=list)
    """Per frame so far: whether it may show damage. The flags of the last B-frames, and of the
    frame before them, may still rise."""
    _is_tainted: bool = True  # until a key frame shows that all of the past is there
    _num_trailing_b: int = 0

    def add(self, frame: DecodedFrame) -> None:
        """Take the next frame."""
        if not self.flags and frame.follows_hidden_key:
            self._is_tainted = False
        if frame.is_damaged:
            self.suspect_last()
        if frame.kind == "B":
            self.flags.append(self._is_tainted or frame.is_damaged)
            self._num_trailing_b += 1
            return
        self._num_trailing_b = 0
        self._is_tainted = frame.is_damaged or (self._is_tainted and not frame.is_key)
        self.flags.append(self._is_tainted)

    def suspect_last(self) -> None:
        """Mark what lies right before a damaged frame, or before the damaged end of a stream.

        The B-frames were predicted from it; and damage may begin in the packet before the one
        that does not decode, where a decoder cannot notice it.
        """
        num_suspect = min(len(self.flags), self._num_trailing_b + 1)
        self.flags[len(self.flags) - num_suspect :] = [True] * num_suspect


class Diagnosis(NamedTuple):
    """What is wrong with a source that can be decoded nevertheless."""

    damaged: list[bool]
    """Per decoded frame, in presentation order."""
    faults: list[str]
    """In words."""
    times: list[int]
    """Time stamps of the decoded frames."""


def diagnose(path: Path, *, cut: WindowCut | None = None) -> Diagnosis:
    """Decode a video, or a window of it, only to learn which of its frames are damaged.

    Raises:
        NotAVideoError: If it is none.
    """
    spread = DamageSpread()
    times: list[int] = []
    with open_coded(path, with_vectors=False, cut=cut) as stream:
        try:
            for frame in stream.frames:
                spread.add(frame)
                times.append(frame.pts)
        except BitstreamError as error:
            stream.faults.append(str(error))
        if stream.lost_at_end:
            spread.suspect_last()
        return Diagnosis(spread.flags, stream.faults, times)
