"""Where one shot ends and the next begins, frame by frame.

Two signs of a cut. A P- or B-frame that is mostly intra found nothing to be predicted from. And
the picture is another one: a thumbnail of its luma changed much more than in the frames before,
and what changed does not go up and down with what was there. Only the second sees a cut at an
I-frame, names the right frame among B-frames, and tells a cut from a flash or a fade, which keep
the picture and change its brightness. Where there is luma it decides, therefore, and the intra
share may only object.

Nothing is looked at that comes later, so that a frame is judged as soon as it is there. What
follows from that: a picture without contrast (black, a white flash) begins no shot; the picture
that comes after it does, unless it is the one that was there before.

Dimensions: Hc x Wc luma samples, h x w samples of the thumbnail.
"""

import math
from collections import deque
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.kernel import kernel

INTRA_CUT: Final = 0.6
"""Without luma, a P- or B-frame begins a shot if more of it than this is intra."""
INTRA_NO_CUT: Final = 0.25
"""A P-frame begins no shot if less of it than this is intra: it is predicted well."""
STEP: Final = 8
"""Samples of luma to one of the thumbnail, in both directions."""
MIN_CHANGE: Final = 5.0
"""Grey levels, on average over the picture."""
CHANGE_RATIO: Final = 2.5
"""How many times the recent level the change must be."""
MAX_CORRELATION: Final = 0.6
"""Of the samples that changed, with what they were before."""
MIN_CONTRAST: Final = 4.0
"""Standard deviation in grey levels, below which there is no picture."""
WINDOW: Final = 8
"""Frames that make the recent level: the largest change among them."""
MIN_HISTORY: Final = 3
"""Changes that must be known before luma is believed."""
NOISE: Final = 3
"""A sample that changed by no more is the same: the bars beside a picture say nothing of it."""

Luma = npt.NDArray[np.uint8]


class Comparison(NamedTuple):
    """A thumbnail, against an earlier one."""

    change: float
    """Mean absolute difference in grey levels."""
    correlation: float
    """Of the samples that differ, -1 to 1; 1 if there are none, 0 if they are all alike in one of
    the two."""
    contrast: float
    """Standard deviation of the later one, in grey levels."""


def thumbnail(luma: Luma) -> Luma:
    """Average four samples, spread evenly, of each whole cell of 8x8 samples, rounded down.

    Args:
        luma: (Hc, Wc) uint8; any strides.

    Returns:
        (h, w) uint8, h = Hc // 8, w = Wc // 8.
    """
    small = np.empty((luma.shape[0] // STEP, luma.shape[1] // STEP), np.uint8)
    _shrink(luma, small)
    return small


def compare_thumbnails(later: Luma, earlier: Luma) -> Comparison:
    """Compare two thumbnails of one size.

    Raises:
        ValueError: If their sizes differ.
    """
    if later.shape != earlier.shape:
        raise ValueError(f"thumbnails must be of one size, got {later.shape} and {earlier.shape}")
    return Comparison._make(_compare(later, earlier))


class ShotDetector:
    """Judges the frames of one video, in the order in which they are shown."""

    def __init__(self) -> None:
        """Start before the first frame."""
        self._now = np.empty((0, 0), np.uint8)
        self._before = np.empty((0, 0), np.uint8)
        self._picture: Luma | None = None
        """The last thumbnail with contrast, while the video shows one without."""
        self._changes: deque[float] = deque(maxlen=WINDOW)
        """Within the present shot."""
        self._has_begun = False

    def is_cut(
        self, *, kind: str, intra_share: float | None = None, luma: Luma | None = None
    ) -> bool:
        """Tell whether a shot begins with the next frame; never with the first one.

        Args:
            kind: ``I``, ``P`` or ``B``.
            intra_share: Share of the picture that is not predicted; ignored for an I-frame. None
                where the codec exports no vectors.
            luma: (Hc, Wc) uint8, a view will do; None if it cannot be had. Without it, a cut at
                an I-frame is not seen, and a flash is taken for one.
        """
        if luma is None:
            begun, self._has_begun = self._has_begun, True
            self._before = np.empty((0, 0), np.uint8)  # the next luma has no neighbour
            return begun and kind != "I" and intra_share is not None and intra_share > INTRA_CUT
        self._has_begun = True
        shape = (luma.shape[0] // STEP, luma.shape[1] // STEP)
        if self._before.shape != shape or 0 in shape:
            self._before = thumbnail(luma)
            self._now = np.empty(shape, np.uint8)
            self._picture = None
            self._changes.clear()
            return False
        _shrink(luma, self._now)
        seen = Comparison._make(_compare(self._now, self._before))
        is_cut = self._judge(seen, kind, intra_share)
        self._now, self._before = self._before, self._now
        return is_cut

    def _judge(self, seen: Comparison, kind: str, intra_share: float | None) -> bool:
        if seen.contrast < MIN_CONTRAST:
            if self._picture is None:
                self._picture = self._before.copy()
            return False
        is_jump = (
            seen.change > MIN_CHANGE
            and seen.correlation < MAX_CORRELATION
            and len(self._changes) >= MIN_HISTORY
            and seen.change > CHANGE_RATIO * max(self._changes)
        )
        if self._picture is not None:
            earlier, self._picture = self._picture, None
            back = _compare(self._now, earlier)
            is_jump = is_jump and back[0] > MIN_CHANGE and back[1] < MAX_CORRELATION
            if not is_jump:
                return False
        is_predicted = kind == "P" and intra_share is not None and intra_share < INTRA_NO_CUT
        if is_jump and not is_predicted:
            self._changes.clear()  # the new shot has a level of its own
            return True
        self._changes.append(seen.change)
        return False


@kernel
def _shrink(luma: Luma, small: Luma) -> None:
    for row in range(small.shape[0]):
        for column in range(small.shape[1]):
            y, x = row * STEP + 2, column * STEP + 2
            above = np.int64(luma[y, x]) + np.int64(luma[y, x + 4])
            below = np.int64(luma[y + 4, x]) + np.int64(luma[y + 4, x + 4])
            small[row, column] = (above + below) >> 2


@kernel
def _compare(now: Luma, before: Luma) -> tuple[float, float, float]:
    """Return the fields of Comparison; all sums are integers, exact in any order."""
    total = squares = difference = 0
    count = sum_a = sum_b = sum_aa = sum_bb = sum_ab = 0
    for row in range(now.shape[0]):
        for column in range(now.shape[1]):
            # Numba's int() of a byte would have no sign.
            a: Any = np.int64(now[row, column])
            b: Any = np.int64(before[row, column])
            total += a
            squares += a * a
            gap = abs(a - b)
            difference += gap
            if gap > NOISE:
                count += 1
                sum_a += a
                sum_b += b
                sum_aa += a * a
                sum_bb += b * b
                sum_ab += a * b
    size = now.size
    contrast = math.sqrt(max(squares * size - total * total, 0)) / size
    correlation = 1.0
    if count > 0:
        spread = float(sum_aa * count - sum_a * sum_a) * float(sum_bb * count - sum_b * sum_b)
        shared = float(sum_ab * count - sum_a * sum_b)
        correlation = shared / math.sqrt(spread) if spread > 0 else 0.0
    return difference / size, correlation, contrast
