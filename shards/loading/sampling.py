"""Which frames of a video make a clip: integer arithmetic on numbers drawn elsewhere.

Positions count *stored* frames. A dataset made with ``--frame-stride 2`` holds every second frame
of its videos, so that a stride of 2 is one of 4 in the video; with ``--fps 15`` it is 2/15 s.

Rules named after a code base are what the released code does, those without are what the papers
say. SlowFast is facebookresearch/SlowFast (MViT, on which DVT builds), mmaction is mmaction2 before
1.0, as PST and Video-FocalNet carry it. ``docs/loading.md`` says which family uses which.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

Sampling = Literal[
    "dense",
    "dense_mmaction",
    "dense_slowfast",
    "segment",
    "segment_mmaction",
    "segment_slowfast",
    "still",
]
"""How a clip is taken from a video of N frames; T frames, stride s, a draw d in [0, 1):

``dense``: every s-th frame from start d of the N - (T - 1) s possible ones, the last of which ends
with the last frame. ``dense_mmaction``: T s frames must fit, the last gap too: N - T s + 1 starts
(mmaction; SIFA's starts are the same). ``dense_slowfast``: start d (N - T s), a real number; T
frames spread evenly over the T s frames from there, rounded down: gaps of s and s + 1.

``segment``: one drawn frame in each of T equal parts, N / T long (TSN, ECCV 2016).
``segment_slowfast``: part i goes from round(i (N - 1) / T) to round((i + 1) (N - 1) / T), both
included, halves rounded to even; in the middle (start + end) // 2. ``segment_mmaction``: the parts
are (N - s + 1) // T long, so that the video's end is never drawn; s is its ``frame_interval``.

``still``: one frame, repeated (a control that holds no motion).
"""

SAMPLINGS: Final[tuple[Sampling, ...]] = get_args(Sampling)

ViewRule = Literal["centred", "ends", "offset", "starts"]
"""Where view k of V test clips begins if there are S possible starts, 0 to S - 1:

``centred``: (k + 1/2) S / V, rounded down: the middle of each of V equal parts (mmaction; PST,
Video Swin). ``ends``: k (S - 1) / (V - 1), rounded, halves to even: from the first start to the
last. ``offset``: k ((S - 1) // (V - 1)): SlowFast's, as MViT sets it. ``starts``: k (S - 1) / V,
rounded down: never the last start (SIFA; SlowFast's default). A single view of ``ends`` and
``offset`` is central.
"""

VIEW_RULES: Final[tuple[ViewRule, ...]] = get_args(ViewRule)

Overrun = Literal["last", "loop", "reflect"]
"""What a dense clip takes that is longer than its video: the ``last`` frame again and again
(SlowFast), a ``loop`` from the first one on (mmaction), or back from the last, ``reflect``. With
the latter two positions fall: motion cannot be accumulated along such a clip."""

OVERRUNS: Final[tuple[Overrun, ...]] = get_args(Overrun)

_DRAW_BITS: Final = 53
"""A float below 1 is a whole number of 2**-53, at least those that generators draw."""


class _Share(NamedTuple):
    """A number in [0, 1], ``part / whole``; draws and views become one, and rules serve both."""

    part: int
    whole: int

    def of(self, amount: int) -> int:
        """Return the share of an amount, rounded down."""
        return self.part * amount // self.whole


def clip_positions(
    sampling: Sampling,
    draws: npt.NDArray[np.float64],
    *,
    total: int,
    num_frames: int,
    stride: int,
    overrun: Overrun = "last",
) -> npt.NDArray[np.int64]:
    """Choose the stored frames of a training clip.

    Args:
        sampling: See :data:`Sampling`.
        draws: (num_frames,) in [0, 1); dense and still use the first alone.
        total: Stored frames of the video.
        num_frames: Frames of the clip.
        stride: In stored frames; ``segment``, ``segment_slowfast`` and ``still`` have none.
        overrun: For clips that reach beyond the video: dense ones that are longer. Segments of a
            shorter video than ``num_frames`` share frames.

    Returns:
        (num_frames,) positions 0 .. total - 1, not falling but for ``loop`` and ``reflect``.
    """
    shares = [_Share(int(draw * (1 << _DRAW_BITS)), 1 << _DRAW_BITS) for draw in draws.tolist()]
    if sampling == "segment_mmaction":
        # With a stride of 1, a video of half as many frames as the clip is rounded beyond its end.
        found = _drawn_shrunk_segments(shares, total=total, stride=stride)
        return _back_inside(found, total=total, overrun=overrun)
    if sampling in ("segment", "segment_slowfast"):
        return _segments(sampling, shares, total=total, drawn=True)
    if sampling == "still":
        return np.full(num_frames, shares[0].of(total), np.int64)
    if sampling == "dense_slowfast":
        return _spread_clip(shares[0], total=total, num_frames=num_frames, stride=stride)
    starts = _num_starts(sampling, total=total, num_frames=num_frames, stride=stride)
    positions = shares[0].of(starts) + np.arange(num_frames, dtype=np.int64) * stride
    return _back_inside(positions, total=total, overrun=overrun)


def view_positions(
    sampling: Sampling,
    *,
    view: int,
    num_views: int,
    total: int,
    num_frames: int,
    stride: int,
    rule: ViewRule = "centred",
    overrun: Overrun = "last",
) -> npt.NDArray[np.int64]:
    """Choose the stored frames of one of several test clips; nothing is drawn.

    Args:
        sampling: See :data:`Sampling`. Views of segments take another place in each part; a single
            one its middle, and so do all rules but ``starts``, which takes its first frame.
        view: 0 .. num_views - 1.
        num_views: Test clips of a video.
        total: Stored frames of the video.
        num_frames: Frames of a clip.
        stride: As :func:`clip_positions`.
        rule: Where the clips begin, see :data:`ViewRule`.
        overrun: As :func:`clip_positions`.

    Returns:
        (num_frames,) positions as :func:`clip_positions`.

    Raises:
        ValueError: If there is no such view.
    """
    if not 0 <= view < num_views:
        raise ValueError(f"view must be 0 to {num_views - 1}, got {view}")
    share = _view_share(rule, view, num_views)
    if sampling in ("segment", "segment_mmaction", "segment_slowfast"):
        shrunk = max(1, total - stride + 1) if sampling == "segment_mmaction" else total
        return _segments(sampling, [share] * num_frames, total=shrunk, drawn=False)
    if sampling == "still":
        return np.full(num_frames, min(share.of(total), total - 1), np.int64)
    starts = _num_starts(sampling, total=total, num_frames=num_frames, stride=stride)
    if sampling == "dense_slowfast" and rule != "offset":
        return _spread_clip(share, total=total, num_frames=num_frames, stride=stride)
    start = _view_start(rule, view, num_views, starts)
    if sampling == "dense_slowfast":
        exact = _Share(start, max(1, starts - 1))
        return _spread_clip(exact, total=total, num_frames=num_frames, stride=stride)
    positions = start + np.arange(num_frames, dtype=np.int64) * stride
    return _back_inside(positions, total=total, overrun=overrun)


def _num_starts(sampling: Sampling, *, total: int, num_frames: int, stride: int) -> int:
    """Return how many starts a dense clip has; at least the first frame."""
    length = (num_frames - 1) * stride + 1 if sampling == "dense" else num_frames * stride
    return max(1, total - length + 1)


def _view_share(rule: ViewRule, view: int, num_views: int) -> _Share:
    if rule == "centred" or (num_views == 1 and rule != "starts"):
        return _Share(2 * view + 1, 2 * num_views)
    return _Share(view, num_views if rule == "starts" else num_views - 1)


def _view_start(rule: ViewRule, view: int, num_views: int, starts: int) -> int:
    if rule == "centred":
        return _Share(2 * view + 1, 2 * num_views).of(starts)
    if rule == "starts":
        return _Share(view, num_views).of(starts - 1)
    if num_views == 1:
        return (starts - 1) // 2
    if rule == "offset":
        return view * ((starts - 1) // (num_views - 1))
    return _rounded(view * (starts - 1), num_views - 1)


def _spread_clip(
    start: _Share, *, total: int, num_frames: int, stride: int
) -> npt.NDArray[np.int64]:
    """Spread a clip over its span from a real start, a share of the possible ones."""
    span = num_frames * stride
    room = max(0, total - span)
    gaps = max(1, num_frames - 1)
    # start + i (span - 1) / gaps over one denominator: nothing is rounded before the end.
    begin, whole = start.part * room * gaps, start.whole * gaps
    step = (span - 1) * start.whole if num_frames > 1 else 0
    return np.array(
        [min((begin + i * step) // whole, total - 1) for i in range(num_frames)], np.int64
    )


def _segments(
    sampling: Sampling, shares: Sequence[_Share], *, total: int, drawn: bool
) -> npt.NDArray[np.int64]:
    """Take one frame, a share of the way, in each of as many parts as there are shares."""
    parts = len(shares)
    found = []
    for i, share in enumerate(shares):
        if sampling == "segment_slowfast":
            start = _rounded(i * (total - 1), parts)
            end = _rounded((i + 1) * (total - 1), parts)
            found.append(start + share.of(end - start + 1 if drawn else end - start))
        else:
            place = (i * share.whole + share.part) * total // (parts * share.whole)
            last = ((i + 1) * total - 1) // parts  # the last frame that begins in this part
            found.append(min(place, last))
    return np.array(found, np.int64)


def _drawn_shrunk_segments(
    shares: Sequence[_Share], *, total: int, stride: int
) -> npt.NDArray[np.int64]:
    """Draw as mmaction does, which takes four roads by the length of the video."""
    parts, usable = len(shares), total - stride + 1
    length = usable // parts
    if length > 0:
        found = [i * length + share.of(length) for i, share in enumerate(shares)]
    elif total > max(parts, stride):
        found = sorted(share.of(usable) for share in shares)
    elif length == 0:
        found = [_rounded(i * usable, parts) for i in range(parts)]
    else:
        found = [0] * parts
    return np.array(found, np.int64)


def _rounded(dividend: int, divisor: int) -> int:
    """Divide and round, halves to even, as ``numpy.round`` does."""
    quotient, rest = divmod(dividend, divisor)
    return quotient + (2 * rest > divisor or (2 * rest == divisor and quotient % 2 == 1))


def _back_inside(
    positions: npt.NDArray[np.int64], *, total: int, overrun: Overrun
) -> npt.NDArray[np.int64]:
    """Replace positions behind the video's end."""
    if overrun == "loop":
        return positions % total
    if overrun == "reflect" and total > 1:
        folded = positions % (2 * (total - 1))
        return np.minimum(folded, 2 * (total - 1) - folded)
    return np.minimum(positions, total - 1)
