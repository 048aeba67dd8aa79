"""What goes wrong in a stream while it is decoded: packets without pictures, impossible times."""

import heapq
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import av
import av.container
import av.packet
import av.video.frame
import av.video.stream

if TYPE_CHECKING:
    VideoPacket = av.packet.Packet[av.video.stream.VideoStream]  # generic in the stubs alone

_MAX_LISTED_FAULTS: Final = 20
_ONE_PICTURE_PER_PACKET: Final = ("h264", "mpeg1video", "mpeg2video")
_JUMP_STEPS: Final = 8
"""A longer pause, in frames of the average rate, is reported."""
_EARLY_END_SHARE, _EARLY_END_SECONDS = 0.1, 0.25


def add_fault(faults: list[str], fault: str) -> None:
    """List a fault; after the first twenty only say that there are more."""
    if len(faults) < _MAX_LISTED_FAULTS:
        faults.append(fault)
    elif len(faults) == _MAX_LISTED_FAULTS:
        faults.append("and more")


class PacketAccount:
    """Which packets went in, and whether their pictures came out."""

    def __init__(self, codec: str, faults: list[str], *, first_pts: int | None = None) -> None:
        """Start a stream.

        Args:
            codec: FFmpeg's name of it.
            faults: Receives what is wrong, in words.
            first_pts: Where decoding begins in the middle of a stream, the time of the key
                picture. What is shown before it may not decode, and does not count.
        """
        self._faults = faults
        self._first_pts = first_pts
        self.lost_at_end = False
        """Packets after the last picture did not decode."""
        self.num_hidden = 0
        """Pictures so far that an edit list of the container hides."""
        self._is_one_to_one = codec in _ONE_PICTURE_PER_PACKET
        self._times: list[int] = []
        """A heap: of pictures that have not come out."""
        self._corrupt_times: set[int] = set()
        self._num_lost = 0
        self._has_loss = False
        self._said_corrupt = False
        self.hides_key = False

    def add(self, packet: "VideoPacket") -> None:
        """Take a packet, before it is decoded."""
        if self._is_before(packet.pts):
            return
        if packet.is_discard:
            self.num_hidden += 1
            self.hides_key |= packet.is_keyframe
        elif packet.size:
            self._num_lost += 1
            if packet.pts is not None:
                heapq.heappush(self._times, packet.pts)
            if packet.is_corrupt:
                self._take_corrupt(packet)

    def _take_corrupt(self, packet: "VideoPacket") -> None:
        if not self._said_corrupt:
            self._said_corrupt = True
            add_fault(self._faults, "the container marks packets as corrupt")
        if packet.pts is None:
            self._has_loss = True
        else:
            self._corrupt_times.add(packet.pts)

    def _is_before(self, pts: int | None) -> bool:
        return self._first_pts is not None and pts is not None and pts < self._first_pts

    def lose(self, packet: "VideoPacket") -> bool:
        """Take note of a packet that does not decode; returns whether it counts."""
        if self._is_before(packet.pts):
            return False
        self._has_loss = True
        self._num_lost -= not packet.is_discard
        return True

    def take(self, picture: av.video.frame.VideoFrame) -> bool:
        """Take a picture that has come out; returns whether it may be damaged."""
        if self._is_before(picture.pts):
            return False
        self._num_lost -= 1
        is_damaged = self._has_loss or picture.pts in self._corrupt_times
        self._has_loss = False
        if picture.pts is not None:
            self._corrupt_times.discard(picture.pts)  # times may fall and come again
        while self._times and picture.pts is not None and self._times[0] <= picture.pts:
            # The decoder has dropped what was to be shown before this picture.
            was_dropped = heapq.heappop(self._times) < picture.pts
            is_damaged |= was_dropped and self._is_one_to_one and not picture.key_frame
        return is_damaged

    def close(self) -> None:
        """Report what never came out, and was not reported before."""
        self.lost_at_end = self._has_loss
        if self._is_one_to_one and self._num_lost > 0:
            are = (
                "pictures are lost: what they are"
                if self._num_lost > 1
                else "picture is lost: what it is"
            )
            add_fault(self._faults, f"{self._num_lost} {are} predicted from is missing")


class PictureClock:
    """Presentation times; made up from the frame rate where the file has none."""

    def __init__(self, stream: av.video.stream.VideoStream, faults: list[str]) -> None:
        """Start a stream; ``faults`` receives what is wrong, in words."""
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        time_base = stream.time_base or Fraction(1, av.time_base)
        self._step = max(1, round(1 / (rate * time_base)))
        self._rate = rate
        self._faults = faults
        self._time_base = time_base
        self._end = 0
        self._last: int | None = None
        self._said_missing = self._said_falling = self._said_jump = False

    def read(self, picture: av.video.frame.VideoFrame) -> int:
        """Return the presentation time of the next picture."""
        pts = picture.pts
        if pts is None:
            pts = 0 if self._last is None else self._last + self._step
            if not self._said_missing:
                self._said_missing = True
                add_fault(
                    self._faults,
                    f"pictures without time stamps; they are counted at {float(self._rate):g} per "
                    "second",
                )
        elif self._last is not None and pts <= self._last and not self._said_falling:
            self._said_falling = True
            add_fault(self._faults, "time stamps do not rise")
        elif self._last is not None and pts - self._last > _JUMP_STEPS * self._step:
            self._say_jump(pts)
        self._last = pts
        self._end = max(self._end, pts + max(self._step, picture.duration or 0))
        return pts

    def _say_jump(self, pts: int) -> None:
        if not self._said_jump:
            self._said_jump = True
            assert self._last is not None
            seconds = float((pts - self._last) * self._time_base)
            start = float(self._last * self._time_base)
            add_fault(
                self._faults,
                f"no picture for {seconds:.2f} s after {start:.2f} s: pictures may be missing",
            )

    def check_end(
        self, container: av.container.InputContainer, stream: av.video.stream.VideoStream
    ) -> None:
        """Say when the header promises more: some containers end early without an error."""
        if stream.duration is not None:
            promised = float(stream.duration * self._time_base)
            start = float((stream.start_time or 0) * self._time_base)
        elif container.duration is not None:
            promised = container.duration / av.time_base
            start = (container.start_time or 0) / av.time_base
        else:
            return
        shown = float(self._end * self._time_base) - start
        if self._said_falling:
            return
        if promised - shown > max(_EARLY_END_SECONDS, _EARLY_END_SHARE * promised):
            add_fault(
                self._faults, f"the header says {promised:.2f} s, the pictures end at {shown:.2f} s"
            )
