"""Protects the figures of motion: their units, signs and robustness, and the kernel itself."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.pipeline import motion_statistics
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.motion import VECTOR_DTYPE
from gopstream.pipeline.motion_statistics import MotionMeter, measure_frame
from gopstream.pipeline.plain import motion_statistics as plain

HEIGHT, WIDTH = 128, 192


def blocks(field, *, source=-1, scale=4, height=HEIGHT, width=WIDTH, side=16):
    """Records of a full grid; ``field`` gives (dx, dy) in pixels at (x, y) from the centre."""
    records = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            x, y = left + side // 2, top + side // 2
            dx, dy = field(x - width / 2, y - height / 2)
            moved = (round(dx * scale), round(dy * scale))
            records.append((source, side, side, 0, 0, x, y, 0, *moved, scale))
    return np.array(records, VECTOR_DTYPE)


def test_a_pan_is_translation_and_nothing_else():
    # The content was 3 pixels to the left of here: it moves right, and so down by half a pixel.
    seen = measure_frame(blocks(lambda x, y: (-3, -0.5)), height=HEIGHT, width=WIDTH)
    assert (seen.camera_x, seen.camera_y) == pytest.approx((3, 0.5))
    assert (seen.zoom, seen.rotation) == pytest.approx((0, 0), abs=1e-9)
    assert (seen.explained, seen.object_motion) == pytest.approx((1, 0), abs=1e-6)
    assert seen.displacement == pytest.approx(math.hypot(3, 0.5))
    assert seen.displacement_p95 == 3.0  # in quarter pixels, rounded
    assert (seen.covered_0, seen.covered_1, seen.covered, seen.static) == (1, 0, 1, 0)


def test_zoom_and_rotation_are_told_apart():
    # Content that grows by 2 % came from nearer to the centre.
    grown = measure_frame(blocks(lambda x, y: (-0.02 * x, -0.02 * y)), height=HEIGHT, width=WIDTH)
    assert grown.zoom == pytest.approx(0.02, abs=1e-3)
    assert grown.rotation == pytest.approx(0, abs=1e-3)
    # Clockwise on a screen whose y points down: what is right of the centre moves down.
    turned = measure_frame(blocks(lambda x, y: (0.03 * y, -0.03 * x)), height=HEIGHT, width=WIDTH)
    assert turned.rotation == pytest.approx(0.03, abs=2e-3)
    assert turned.zoom == pytest.approx(0, abs=1e-3)
    assert turned.explained == grown.explained == 1


def test_an_object_does_not_move_the_camera():
    def field(x, y):
        return (-20, 12) if x < -40 else (-2, -1)  # 29 % of the picture

    seen = measure_frame(blocks(field), height=HEIGHT, width=WIDTH)
    assert (seen.camera_x, seen.camera_y) == pytest.approx((2, 1), abs=0.02)
    share = np.mean([x * 16 + 8 - 96 < -40 for x in range(12)])
    assert seen.explained == pytest.approx(1 - share)
    assert seen.object_motion == pytest.approx(share * math.hypot(18, 13), rel=0.02)


def test_a_static_picture_has_no_motion():
    seen = measure_frame(blocks(lambda x, y: (0, 0)), height=HEIGHT, width=WIDTH)
    assert seen.static == seen.covered == seen.explained == 1
    assert seen.displacement == seen.displacement_p95 == seen.object_motion == 0
    assert (seen.camera_x, seen.camera_y, seen.zoom, seen.rotation) == (0, 0, 0, 0)


def test_units_of_vectors_are_honoured():
    half = measure_frame(blocks(lambda x, y: (4, 0), scale=2), height=HEIGHT, width=WIDTH)
    assert half.displacement == half.displacement_p95 == 4


def test_lengths_are_per_frame_of_the_span():
    seen = measure_frame(blocks(lambda x, y: (-6, 0)), height=HEIGHT, width=WIDTH, steps=3)
    assert (seen.camera_x, seen.displacement, seen.displacement_p95) == pytest.approx((2, 2, 2))


def test_two_lists_of_one_macroblock_cover_it_once():
    past, future = (blocks(lambda x, y: (1, 1), source=source) for source in (-1, 1))
    both = np.stack([past, future], 1).ravel()  # FFmpeg's order: list 1 behind list 0
    records = np.concatenate([both[:40], future[20:30]])
    seen = measure_frame(records, height=HEIGHT, width=WIDTH)
    assert seen.covered_0 == pytest.approx(20 / 96)
    assert seen.covered_1 == seen.covered == pytest.approx(30 / 96)


def test_little_prediction_says_nothing_of_the_camera():
    seen = measure_frame(blocks(lambda x, y: (1, 0))[:20], height=HEIGHT, width=WIDTH)
    assert seen.displacement == 1
    assert math.isnan(seen.camera_x)
    nothing = measure_frame(np.empty(0, VECTOR_DTYPE), height=HEIGHT, width=WIDTH)
    assert nothing.covered == 0
    assert math.isnan(nothing.displacement)


def same(ours, twin):
    assert ours._fields == twin._fields
    np.testing.assert_allclose(ours, twin, rtol=2e-5, atol=2e-5)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4]), st.integers(1, 4))
def test_kernel_equals_twin_on_random_motion(seed, scale, steps):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(2, 9, 2) * 16 - rng.integers(0, 8, 2))
    camera = rng.normal(0, [4, 4, 0.02, 0.02])

    def field(x, y):
        moved = camera[:2] + camera[2] * np.array([x, y]) + camera[3] * np.array([-y, x])
        return moved + (rng.normal(0, 12, 2) if rng.random() < 0.2 else 0)

    side = int(rng.choice([8, 16]))
    records = blocks(field, scale=scale, height=height, width=width, side=side)
    kept = records[rng.random(len(records)) < rng.random() + 0.2]
    ours = measure_frame(kept, height=height, width=width, steps=steps)
    same(ours, plain.measure_frame(kept, height=height, width=width, steps=steps))


def test_kernel_equals_twin_on_real_frames(small_video, odd_video):
    num_frames = 0
    for path in (small_video, odd_video):
        with open_coded(path) as stream:
            for frame in stream.frames:
                if frame.vectors is not None:
                    size = {"height": frame.picture.height, "width": frame.picture.width}
                    same(
                        measure_frame(frame.vectors, **size),
                        plain.measure_frame(frame.vectors, **size),
                    )
                    num_frames += 1
    assert num_frames > 30


def test_video_pans_as_it_was_drawn(tmp_path, write_video):
    path = write_video(tmp_path / "pan.mp4", 40, width=192, height=128, velocity=(3, 1))
    meter = MotionMeter()
    with open_coded(path) as stream:
        for frame in stream.frames:
            size = (frame.picture.height, frame.picture.width)
            meter.add(frame.kind, frame.vectors, size=size)
    summary = meter.summary()
    assert summary.kind == "P"
    assert (summary.camera_x, summary.camera_y) == pytest.approx((3, 1), abs=0.35)
    assert summary.camera_speed_of_height == pytest.approx(summary.camera_speed / 128)
    assert summary.camera_explained_share > 0.8


def test_p_frames_are_divided_by_the_b_frames_before_them():
    meter = MotionMeter()
    size = (HEIGHT, WIDTH)
    assert meter.add("I", None, size=size) == 1
    for kind in "BBPPBP":
        moved = blocks(lambda x, y: (-6, 0))
        assert meter.add(kind, moved, size=size) == 0
    summary = meter.summary()
    assert (summary.num_predicted, summary.num_measured) == (6, 3)
    assert summary.camera_x == pytest.approx((6 / 3 + 6 + 6 / 2) / 3)


def test_without_p_frames_b_frames_are_measured():
    meter = MotionMeter()
    meter.add("I", None, size=(HEIGHT, WIDTH))
    for _ in range(3):
        meter.add("B", blocks(lambda x, y: (-6, 0)), size=(HEIGHT, WIDTH))
    assert (meter.summary().kind, meter.summary().camera_x) == ("B", pytest.approx(6))


def test_motion_across_a_skipped_frame_is_not_measured():
    meter = MotionMeter()
    meter.add("I", None, size=(HEIGHT, WIDTH))
    meter.skip()
    for _ in range(2):
        meter.add("P", blocks(lambda x, y: (-6, 0)), size=(HEIGHT, WIDTH))
    assert (meter.summary().num_predicted, meter.summary().num_measured) == (2, 1)


def test_figures_outgrow_the_first_tables():
    meter = MotionMeter()
    meter.add("I", None, size=(512, 512))
    small = {"height": 512, "width": 512, "side": 8}
    field = blocks(lambda x, y: (-1, 0), **small)
    assert len(field) > 1024
    for _ in range(300):
        meter.add("P", field, size=(512, 512))
    assert meter.summary().num_fitted == 300
    assert meter.summary().camera_x == pytest.approx(1)


def test_nothing_gives_nothing():
    summary = MotionMeter().summary()
    assert summary.kind is None
    assert summary.displacement is summary.intra_share is None


def test_the_fit_takes_few_blocks_of_the_whole_picture():
    # One moving row more than that the first blocks would show.
    records = blocks(lambda x, y: (0, 0) if y < -50 else (-4, 0), side=8)
    assert len(records) > 2 * motion_statistics.MAX_FIT_BLOCKS
    seen = measure_frame(records, height=HEIGHT, width=WIDTH)
    assert seen.camera_x == pytest.approx(4, abs=0.05)
