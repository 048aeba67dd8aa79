"""Which frames are stored as pictures: every n-th, or so many per second of the video's time."""

import math
from fractions import Fraction


class FrameChooser:
    """Chooses among the frames of one video, or of one window, in presentation order.

    At ``fps``, a frame is stored if it is the first whose time since the first frame reaches the
    next of the times 0, 1 / fps, 2 / fps, ... No frame is stored twice: where the video has fewer
    frames than that, each is stored once, and the times that passed meanwhile are passed over.
    The times count from the first frame, not from the last one stored, so that nothing adds up.

    Containers round time stamps to whole units of their time base, and the first frame's too. A
    frame therefore reaches a time already when it is one unit short of it; where units are coarse,
    only when it is a quarter of d - 1 units short, d being its distance to the frame before: where
    each unit is a frame, nothing was rounded. All arithmetic is exact; ``fps`` is the decimal
    number that it is written as.
    """

    def __init__(
        self,
        *,
        stride: int,
        fps: float | None,
        time_base: Fraction,
        source_time_base: Fraction | None = None,
    ) -> None:
        """Start before the first frame.

        Args:
            stride: Every n-th frame, where ``fps`` is None.
            fps: Frames to store per second.
            time_base: Seconds per unit of the time stamps.
            source_time_base: The unit to which they were rounded, where it was another one.
        """
        self._stride = stride
        self._slots_per_quarter = None if fps is None else time_base * Fraction(str(fps)) / 4
        self._unit = (source_time_base or time_base) / time_base
        self._count = 0
        self._next_slot = 0
        self._first_pts = self._last_pts = 0

    def takes(self, pts: int) -> bool:
        """Tell whether the next frame, of this time stamp, is stored."""
        number, self._count = self._count, self._count + 1
        if self._slots_per_quarter is None:
            return number % self._stride == 0
        if number == 0:
            self._first_pts = self._last_pts = pts
        distance = pts - self._last_pts
        tolerance = min(4 * self._unit, max(Fraction(0), distance - self._unit))
        self._last_pts = pts
        # In quarters of a unit, as the tolerance is.
        quarters = 4 * (pts - self._first_pts) + tolerance
        slot = math.floor(quarters * self._slots_per_quarter)
        if slot < self._next_slot:
            return False
        self._next_slot = slot + 1
        return True
