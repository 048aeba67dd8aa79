"""Frames are stored at a rate by their time stamps, however these were rounded."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.pipeline.frame_choice import FrameChooser
from gopstream.pipeline.options import ExtractionOptions

MILLISECOND = Fraction(1, 1000)


def choose(times, fps, time_base, source_time_base=None):
    chooser = FrameChooser(
        stride=1, fps=fps, time_base=time_base, source_time_base=source_time_base
    )
    return [index for index, pts in enumerate(times) if chooser.takes(pts)]


def stamps(rate, count, time_base, *, rounded=round, start=Fraction(0)):
    return [int(rounded((start + index / rate) / time_base)) for index in range(count)]


@pytest.mark.parametrize("rounded", [round, int], ids=["to nearest", "down"])
@pytest.mark.parametrize("time_base", [MILLISECOND, Fraction(1, 90_000)], ids=str)
@pytest.mark.parametrize("start", [Fraction(0), Fraction(1, 7), Fraction(4, 10_000), Fraction(33)])
@pytest.mark.parametrize(("rate", "fps", "step"), [(30, 10, 3), (30, 15, 2), (24, 8, 3)])
def test_rounded_time_stamps_give_every_nth_frame(rate, fps, step, time_base, rounded, start):
    times = stamps(Fraction(rate), 300, time_base, rounded=rounded, start=start)
    assert choose(times, fps, time_base) == list(range(0, 300, step))


@pytest.mark.parametrize("time_base", [MILLISECOND, Fraction(1, 25), Fraction(1, 12_800)], ids=str)
def test_half_the_rate_is_every_other_frame(time_base):
    times = stamps(Fraction(25), 100, time_base)
    assert choose(times, 12.5, time_base) == list(range(0, 100, 2))


def test_ntsc_rates_do_not_drift():
    """29.97 to 10: every third, and once in a thousand frames a second one is enough."""
    time_base = Fraction(1, 30_000)
    chosen = choose([1001 * index for index in range(30_000)], 10, time_base)
    assert chosen[:5] == [0, 3, 6, 9, 12]
    assert len(chosen) == 10_010  # 30000 * 1001 / 30000 seconds, ten in each
    gaps = [b - a for a, b in zip(chosen, chosen[1:], strict=False)]
    assert set(gaps) == {2, 3}
    # The k-th stands for the time k / 10, to less than a frame.
    assert all(
        -time_base <= Fraction(1001 * frame, 30_000) - Fraction(k, 10) < Fraction(1001, 30_000)
        for k, frame in enumerate(chosen)
    )


@pytest.mark.parametrize(
    ("rate", "fps"), [(12, 30), (25, 25), (30, 30), (Fraction(30000, 1001), 30)]
)
@pytest.mark.parametrize("time_base", [MILLISECOND, Fraction(1, 90_000)], ids=str)
def test_a_rate_that_the_video_does_not_have_keeps_each_frame_once(rate, fps, time_base):
    times = stamps(Fraction(rate), 200, time_base)
    assert choose(times, fps, time_base) == list(range(200))


def test_the_first_frame_that_reaches_a_time_is_stored():
    """Variable rate: 0.0, then a pause until 0.35, then dense frames."""
    times = [0, 350, 380, 400, 410, 499, 500, 620]
    # 0.1 to 0.3 passed in the pause; 350 stands for them. Then 0.4, 0.5 (499 is a unit short), 0.6.
    assert choose(times, 10, MILLISECOND) == [0, 1, 3, 5, 7]


def test_where_a_unit_is_a_frame_nothing_is_taken_too_early():
    """25 to 24 per second: 1 / 24 s lies behind frame 1, at 1.0417 frames."""
    assert choose(list(range(6)), 24, Fraction(1, 25)) == [0, 2, 3, 4, 5]


def test_the_unit_of_the_source_counts_where_the_stream_has_a_finer_one():
    """Milliseconds, written into a stream that counts in 64000ths."""
    times = [64 * time for time in stamps(Fraction(30), 90, MILLISECOND)]
    fine = Fraction(1, 64_000)
    assert choose(times, 15, fine, MILLISECOND) == list(range(0, 90, 2))
    assert choose(times, 15, fine) != list(range(0, 90, 2))


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=60),
    st.sampled_from([1, 2.5, 10, 29.97, 240]),
)
def test_never_more_than_the_rate_and_never_a_gap_that_frames_could_fill(steps, fps):
    times = [sum(steps[:index]) for index in range(len(steps))]
    chosen = choose(times, fps, MILLISECOND)
    assert chosen[0] == 0
    seconds = times[-1] / 1000
    assert len(chosen) <= seconds * fps + 2
    # Between two stored frames, none was late for the slot after the first one's.
    for a, b in zip(chosen, chosen[1:], strict=False):
        slot = int((times[a] + 1) * fps / 1000 + 1e-9) + 1
        assert all(times[index] * fps / 1000 < slot for index in range(a + 1, b))


def test_a_stride_counts_frames():
    chooser = FrameChooser(stride=3, fps=None, time_base=MILLISECOND)
    assert [chooser.takes(pts) for pts in (0, 900, 901, 902, 5, 6, 7)] == [
        True, False, False, True, False, False, True,
    ]  # fmt: skip


def test_a_rate_and_a_stride_exclude_each_other():
    with pytest.raises(ValueError, match=r"by fps \(10\) or by a stride \(2\)"):
        ExtractionOptions(fps=10, frame_stride=2)


@pytest.mark.parametrize("fps", [0, -1, 1001, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_meant_is_refused(fps):
    with pytest.raises(ValueError, match="fps must be above 0"):
        ExtractionOptions(fps=fps)
