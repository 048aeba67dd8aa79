"""Which frames make a clip: rows worked by hand, and the formulas of the released code."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.shards.loading.sampling import (
    OVERRUNS,
    SAMPLINGS,
    VIEW_RULES,
    clip_positions,
    view_positions,
)

ALMOST_ONE = math.nextafter(1.0, 0.0)


def positions(sampling, draws, *, total, num_frames, stride=1, overrun="last"):
    draws = np.broadcast_to(np.asarray(draws, float), num_frames)
    found = clip_positions(
        sampling, draws, total=total, num_frames=num_frames, stride=stride, overrun=overrun
    )
    return found.tolist()


def view(sampling, number, num_views, *, total, num_frames, stride=1, **options):
    found = view_positions(
        sampling,
        view=number,
        num_views=num_views,
        total=total,
        num_frames=num_frames,
        stride=stride,
        **options,
    )
    return found.tolist()


@pytest.mark.parametrize(
    ("draw", "total", "num_frames", "stride", "expected"),
    [
        (0.0, 10, 4, 1, [0, 1, 2, 3]),
        (0.999, 10, 4, 1, [6, 7, 8, 9]),
        (0.5, 10, 4, 1, [3, 4, 5, 6]),
        (0.0, 10, 4, 3, [0, 3, 6, 9]),
        (0.999, 10, 4, 3, [0, 3, 6, 9]),
        (0.5, 12, 4, 2, [3, 5, 7, 9]),
        (0.5, 3, 4, 2, [0, 2, 2, 2]),  # too short: the last frame repeats
        (0.9, 1, 3, 1, [0, 0, 0]),
    ],
)
def test_dense(draw, total, num_frames, stride, expected):
    found = positions("dense", draw, total=total, num_frames=num_frames, stride=stride)
    assert found == expected


@pytest.mark.parametrize(
    ("draw", "total", "overrun", "expected"),
    [
        (0.0, 10, "loop", [0, 2, 4, 6]),
        (ALMOST_ONE, 10, "loop", [2, 4, 6, 8]),  # 8 frames must fit: 3 starts
        (0.5, 10, "loop", [1, 3, 5, 7]),
        (ALMOST_ONE, 8, "loop", [0, 2, 4, 6]),
        (0.9, 5, "loop", [0, 2, 4, 1]),
        (0.9, 5, "last", [0, 2, 4, 4]),
        (0.9, 5, "reflect", [0, 2, 4, 2]),
        (0.9, 2, "reflect", [0, 0, 0, 0]),
        (0.9, 1, "reflect", [0, 0, 0, 0]),
    ],
)
def test_dense_of_mmaction_leaves_room_for_the_last_gap(draw, total, overrun, expected):
    found = positions("dense_mmaction", draw, total=total, num_frames=4, stride=2, overrun=overrun)
    assert found == expected


def test_reflected_clips_turn_at_both_ends():
    found = positions("dense", 0.0, total=4, num_frames=9, overrun="reflect")
    assert found == [0, 1, 2, 3, 2, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("draw", "total", "expected"),
    [
        (0.0, 100, [0, 5, 10, 15]),  # 16 frames over 3 gaps: 0, 5, 10, 15
        (0.5, 19, [1, 6, 11, 16]),  # from 1.5
        (0.0, 10, [0, 5, 9, 9]),  # too short: the last frame repeats
    ],
)
def test_dense_of_slowfast_spreads_frames_over_the_whole_span(draw, total, expected):
    assert positions("dense_slowfast", draw, total=total, num_frames=4, stride=4) == expected


def test_gaps_of_slowfast_are_not_all_the_stride():
    # 63 / 15 = 4.2 from frame 0: 16x4 is what MViT calls it.
    expected = [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]
    assert positions("dense_slowfast", 0.0, total=300, num_frames=16, stride=4) == expected


@pytest.mark.parametrize(
    ("draws", "total", "num_frames", "expected"),
    [
        (0.0, 8, 4, [0, 2, 4, 6]),
        (0.5, 8, 4, [1, 3, 5, 7]),
        (0.999, 8, 4, [1, 3, 5, 7]),
        ([0.0, 0.9, 0.0, 0.9], 8, 4, [0, 3, 4, 7]),
        (0.5, 10, 4, [1, 3, 6, 8]),
        (0.5, 2, 4, [0, 0, 1, 1]),  # shorter than the clip: frames repeat
        (0.999, 1, 3, [0, 0, 0]),
    ],
)
def test_segment(draws, total, num_frames, expected):
    assert positions("segment", draws, total=total, num_frames=num_frames) == expected


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        # Parts of 41 frames in 4: round(10 i) = 0, 10, 20, 30, 40, both ends included.
        (0.0, [0, 10, 20, 30]),
        (ALMOST_ONE, [10, 20, 30, 40]),
        (0.5, [5, 15, 25, 35]),
    ],
)
def test_segments_of_slowfast_include_both_ends(draws, expected):
    assert positions("segment_slowfast", draws, total=41, num_frames=4) == expected


@pytest.mark.parametrize(
    ("total", "num_frames", "expected"),
    [
        # (N - 1) / T = 2.5: bounds 0, 2 (2.5 to even), 5, 8 (7.5 to even), 10.
        (11, 4, [1, 3, 6, 9]),
        # 1.25: bounds 0, 1, 2 (2.5 to even), 4, 5.
        (6, 4, [0, 1, 3, 4]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_the_middle_of_segments_is_that_of_pst(total, num_frames, expected):
    assert view("segment_slowfast", 0, 1, total=total, num_frames=num_frames) == expected


@pytest.mark.parametrize(
    ("draws", "total", "expected"),
    [
        # Video-FocalNet, interval 4: (35 - 4 + 1) // 8 = 4 frames a part; 32, 33, 34 never come.
        (0.0, 35, [0, 4, 8, 12, 16, 20, 24, 28]),
        (ALMOST_ONE, 35, [3, 7, 11, 15, 19, 23, 27, 31]),
        # (10 - 4 + 1) // 8 = 0, but more than 8 frames: 8 sorted draws of 0 to 6.
        ([0.9, 0.1, 0.5, 0.0, 0.2, 0.3, 0.99, 0.7], 10, [0, 0, 1, 2, 3, 4, 6, 6]),
        # 8 frames: round(i 5 / 8) of 0, 0.625, 1.25, 1.875, 2.5, 3.125, 3.75, 4.375.
        (0.9, 8, [0, 1, 1, 2, 2, 3, 4, 4]),
        (0.9, 2, [0, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_segments_of_mmaction_are_those_that_video_focalnet_released(draws, total, expected):
    assert positions("segment_mmaction", draws, total=total, num_frames=8, stride=4) == expected


@pytest.mark.parametrize(("overrun", "last"), [("loop", 0), ("last", 3)])
def test_mmaction_rounds_beyond_a_short_video_and_loops(overrun, last):
    # round(i 4 / 8): 3.5 becomes 4, the fifth frame of four.
    found = positions("segment_mmaction", 0.9, total=4, num_frames=8, stride=1, overrun=overrun)
    assert found == [0, 0, 1, 2, 2, 2, 3, last]


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (35, [2, 6, 10, 14, 18, 22, 26, 30]),
        (36, [2, 6, 10, 14, 18, 22, 26, 30]),  # 33 / 8 = 4.125: 2.06, 6.19, ...
        (3, [0, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_the_middle_of_shrunk_segments(total, expected):
    assert view("segment_mmaction", 0, 1, total=total, num_frames=8, stride=4) == expected


@pytest.mark.parametrize(("draw", "frame"), [(0.0, 0), (0.5, 5), (0.999, 9)])
def test_still_repeats_one_frame(draw, frame):
    assert positions("still", draw, total=10, num_frames=3) == [frame] * 3


@pytest.mark.parametrize(
    ("rule", "num_views", "expected"),
    [
        # 32 x 2 of 300 frames: 237 starts, 0 to 236.
        ("centred", 4, [29, 88, 148, 207]),  # 59.25 (k + 1/2): PST on Kinetics
        ("centred", 1, [118]),
        ("ends", 4, [0, 79, 157, 236]),  # 78.67 k
        ("ends", 1, [118]),
        ("offset", 4, [0, 78, 156, 234]),  # 78 k: the last start is not reached
        ("offset", 1, [118]),
        ("starts", 4, [0, 59, 118, 177]),  # 59 k
        ("starts", 1, [0]),
    ],
)
def test_where_test_clips_begin(rule, num_views, expected):
    clips = [
        view("dense_mmaction", k, num_views, total=300, num_frames=32, stride=2, rule=rule)
        for k in range(num_views)
    ]
    assert [clip[0] for clip in clips] == expected
    assert all(clip == list(range(clip[0], clip[0] + 64, 2)) for clip in clips)


def test_the_first_and_the_last_of_even_clips_touch_both_ends():
    first, *_, last = (
        view("dense", k, 10, total=97, num_frames=16, stride=3, rule="ends") for k in range(10)
    )
    assert (first[0], last[-1]) == (0, 96)


def test_ten_clips_of_sifa():
    # floor((duration - length) k / n), 16 consecutive frames of 128.
    found = [
        view("dense_mmaction", k, 10, total=128, num_frames=16, rule="starts")[0] for k in range(10)
    ]
    assert found == [0, 11, 22, 33, 44, 56, 67, 78, 89, 100]


def test_five_clips_as_mvit_takes_them():
    # 300 - 64 = 236; 236 // 4 = 59.
    found = [
        view("dense_slowfast", k, 5, total=300, num_frames=16, stride=4, rule="offset")
        for k in range(5)
    ]
    assert [clip[0] for clip in found] == [0, 59, 118, 177, 236]
    assert [clip[-1] for clip in found] == [63, 122, 181, 240, 299]


def test_several_clips_of_segments_take_other_places_in_each_part():
    found = [view("segment", k, 2, total=16, num_frames=4) for k in range(2)]
    assert found == [[1, 5, 9, 13], [3, 7, 11, 15]]


def test_a_view_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="view must be 0 to 3, got 4"):
        view("dense", 4, 4, total=10, num_frames=2)


# The released code computes in floats; written down again from its formulas. For the numbers that
# the papers use, ours must agree at every length of a video.


def test_pst_views_are_mmactions_at_every_length():
    for total in range(1, 700):
        interval = (total - 64 + 1) / 4.0
        for k in range(4):
            start = int(k * interval + interval / 2.0) if total > 63 else 0
            expected = [(start + i * 2) % total for i in range(32)]
            found = view(
                "dense_mmaction", k, 4, total=total, num_frames=32, stride=2, overrun="loop"
            )
            assert found == expected, (total, k)


@pytest.mark.parametrize("num_frames", [8, 16, 32])
def test_segment_middles_are_slowfasts_at_every_length(num_frames):
    for total in range(1, 700):
        size = float(total - 1) / num_frames
        bounds = [int(np.round(size * i)) for i in range(num_frames + 1)]
        expected = [(bounds[i] + bounds[i + 1]) // 2 for i in range(num_frames)]
        assert view("segment_slowfast", 0, 1, total=total, num_frames=num_frames) == expected


def test_segment_middles_are_video_focalnets_at_every_length():
    for total in range(1, 700):
        interval = (total - 4 + 1) / 8.0
        expected = [int(i * interval + interval / 2.0) if total > 3 else 0 for i in range(8)]
        assert view("segment_mmaction", 0, 1, total=total, num_frames=8, stride=4) == expected


def test_sifa_views_are_the_released_ones_at_every_length():
    for total in range(16, 700):
        for k in range(10):
            start = int(float(total - 16) * k / 10)
            found = view("dense_mmaction", k, 10, total=total, num_frames=16, rule="starts")
            assert found == list(range(start, start + 16))


samplings = st.sampled_from(SAMPLINGS)
lengths = st.integers(1, 90)
clips = st.integers(1, 20)
strides = st.integers(1, 9)


@given(
    samplings, st.sampled_from(OVERRUNS), lengths, clips, strides, st.randoms(use_true_random=False)
)
def test_drawn_positions_stay_inside_and_never_fall(
    sampling, overrun, total, num_frames, stride, random
):
    draws = [random.choice([0.0, ALMOST_ONE, random.random()]) for _ in range(num_frames)]
    found = positions(
        sampling, draws, total=total, num_frames=num_frames, stride=stride, overrun=overrun
    )
    assert len(found) == num_frames
    assert min(found) >= 0 and max(found) < total
    if overrun == "last" or total >= num_frames * stride:
        assert found == sorted(found)
    again = positions(
        sampling, draws, total=total, num_frames=num_frames, stride=stride, overrun=overrun
    )
    assert found == again


@given(samplings, st.sampled_from(VIEW_RULES), lengths, clips, strides, st.integers(1, 12))
def test_views_stay_inside_never_fall_and_follow_each_other(
    sampling, rule, total, num_frames, stride, num_views
):
    views = [
        view(sampling, k, num_views, total=total, num_frames=num_frames, stride=stride, rule=rule)
        for k in range(num_views)
    ]
    for found in views:
        assert len(found) == num_frames
        assert min(found) >= 0 and max(found) < total
        assert found == sorted(found)
    assert views == sorted(views)


@given(st.sampled_from(["dense", "dense_mmaction"]), st.integers(40, 90))
def test_draws_reach_every_start_and_no_other(sampling, total):
    starts = total - 12 + 1 if sampling == "dense_mmaction" else total - 9
    found = {
        positions(sampling, i / 1000, total=total, num_frames=4, stride=3)[0] for i in range(1000)
    }
    assert found == set(range(starts))


@given(st.integers(8, 90), st.integers(1, 8))
def test_segments_cover_the_whole_video(total, num_frames):
    drawn = [positions("segment", d / 200, total=total, num_frames=num_frames) for d in range(200)]
    assert {frame for clip in drawn for frame in clip} == set(range(total))


@given(lengths, st.integers(1, 12), strides, st.integers(1, 16))
def test_exact_views_agree_with_float_draws_up_to_one_frame(total, num_frames, stride, num_views):
    for k in range(num_views):
        draws = np.full(num_frames, (k + 0.5) / num_views)
        for sampling in ("dense", "segment", "still"):
            shape = {"total": total, "num_frames": num_frames, "stride": stride}
            drawn = clip_positions(sampling, draws, **shape)
            exact = view_positions(sampling, view=k, num_views=num_views, **shape)
            assert np.abs(drawn - exact).max() <= 1


def test_the_only_view_is_central_and_several_spread_evenly():
    assert view("still", 0, 1, total=1000, num_frames=2) == [500, 500]
    spread = [view("still", k, 4, total=1000, num_frames=1) for k in range(4)]
    assert spread == [[125], [375], [625], [875]]
