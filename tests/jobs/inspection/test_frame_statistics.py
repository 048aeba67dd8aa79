"""Numbers of frames, computed by hand for pictures of two by two macroblocks."""

import numpy as np
import pytest

from gopstream.jobs.inspection.frame_statistics import (
    StatisticsMeter,
    frame_statistics,
    statistics_content,
)
from gopstream.jobs.inspection.inspected import InspectedFrame, SignedResidual
from gopstream.pipeline.grid import BlockMotion

MOTION = ("static", "mean_length", "median_length", "p95_length", "max_length", "mean_x", "mean_y")


def frame(kind="P", *, index=0, motion=None, vectors=None, residual=None):
    return InspectedFrame(index, kind, None, index, motion, vectors, residual)


def grid(*lists):
    """Return motion of a 32 x 32 picture; a list maps (row, column) of a block to (dx, dy)."""
    motion = np.zeros((len(lists), 4, 4, 2), np.int16)
    coverage = np.zeros((len(lists), 4, 4), np.uint8)
    for number, blocks in enumerate(lists):
        for place, vector in blocks.items():
            motion[number][place] = vector
            coverage[number][place] = 1
    return BlockMotion(motion, coverage)


def row(source, w, h, motion, *, scale=4):
    return (source, w, h, 0, 0, 8, 8, *motion, scale)


def residual(*, luma=(), cb=(), cr=()):
    """Return zeros of a 32 x 32 picture but for (row, column, value)."""
    planes = SignedResidual(*(np.zeros((side, side), np.int16) for side in (32, 16, 16)))
    for plane, values in zip(planes, (luma, cb, cr), strict=True):
        for y, x, value in values:
            plane[y, x] = value
    return planes


def test_lengths_count_each_predicted_block_and_the_zero_ones():
    # 3-4-5 pixels to the reference at the lower right: the content moves to the upper left.
    motion = grid({(0, 0): (12, 16), (0, 1): (0, 0), (3, 3): (0, 0), (2, 1): (0, -4)})
    found = frame_statistics(frame(motion=motion))
    assert found.covered == found.covered_past == 4 / 16
    assert (found.covered_future, found.intra) == (0, 12 / 16)
    assert found.static == 2 / 4
    assert (found.mean_length, found.max_length) == (6 / 4, 5)
    assert (found.median_length, found.p95_length) == (0, 5)
    assert (found.mean_x, found.mean_y) == (-3 / 4, (-4 + 1) / 4)
    assert found.num_vectors is found.residual_energy is None


def test_a_later_reference_shows_movement_the_other_way():
    """What was to the left and will be to the right moves to the right in either list."""
    motion = grid({(0, 0): (-8, 0)}, {(0, 0): (8, 0), (1, 1): (8, 0)})
    found = frame_statistics(frame("B", motion=motion))
    assert (found.mean_x, found.mean_y, found.max_length) == (2, 0, 2)
    assert (found.covered, found.covered_past, found.covered_future) == (2 / 16, 1 / 16, 2 / 16)
    assert found.intra == 14 / 16


def test_a_frame_without_prediction_is_all_intra_and_has_no_motion():
    found = frame_statistics(frame("I", motion=grid({}), vectors=np.zeros((0, 10), np.int32)))
    assert (found.num_vectors, found.num_past, found.num_future) == (0, 0, 0)
    assert (found.covered, found.intra) == (0, 1)
    assert [getattr(found, name) for name in MOTION] == [None] * 7


def test_without_a_grid_vectors_count_by_their_area_and_scale():
    table = [
        row(-1, 16, 16, (-8, 0)),  # four blocks, two pixels
        row(-1, 8, 16, (0, 4), scale=2),  # two blocks, two pixels
        row(1, 8, 8, (0, 0)),
    ]
    found = frame_statistics(frame("B", vectors=np.array(table, np.int32)))
    assert (found.num_vectors, found.num_past, found.num_future) == (3, 2, 1)
    assert found.mean_length == pytest.approx((4 * 2 + 2 * 2) / 7)
    assert found.static == pytest.approx(1 / 7)
    assert (found.mean_x, found.mean_y) == pytest.approx((4 * 2 / 7, -2 * 2 / 7))
    assert found.covered is found.intra is None


def test_the_energy_of_the_residual_is_its_mean_absolute_value():
    # One macroblock is predicted whole, of another a single block.
    covered = {(0, 0): (0, 0), (0, 1): (0, 0), (1, 0): (0, 0), (1, 1): (0, 0), (2, 2): (0, 0)}
    values = residual(luma=[(17, 17, -100), (0, 31, 50), (8, 8, 6)])
    found = frame_statistics(frame(motion=grid(covered), residual=values))
    assert found.residual_energy == (100 + 50 + 6) / 32**2
    assert found.predicted_energy == (100 + 6) / (5 * 64)
    assert found.zero_macroblocks == 0


@pytest.mark.parametrize(
    ("values", "zero"),
    [
        ({}, 1),
        ({"luma": [(15, 15, -1)]}, 0),
        ({"cb": [(7, 0, 1)]}, 0),
        ({"cr": [(0, 7, -1)]}, 0),
        ({"luma": [(16, 0, 9)], "cb": [(8, 8, 9)], "cr": [(0, 8, 9)]}, 1),
    ],
)
def test_a_macroblock_is_zero_if_all_three_planes_are(values, zero):
    covered = {(y, x): (4, 0) for y in (0, 1) for x in (0, 1)}
    found = frame_statistics(frame(motion=grid(covered), residual=residual(**values)))
    assert found.zero_macroblocks == zero


def test_without_prediction_there_is_no_energy_of_predicted_blocks():
    found = frame_statistics(frame("I", motion=grid({}), residual=residual(luma=[(0, 0, 64)])))
    assert found.residual_energy == 64 / 32**2
    assert found.predicted_energy is found.zero_macroblocks is None


def test_a_percentile_is_a_length_that_occurs():
    blocks = {(number // 4, number % 4): (4 * number, 0) for number in range(10)}
    found = frame_statistics(frame(motion=grid(blocks)))
    # Half of the lengths 0 to 9 do not exceed 4; 95 % are nine and a half of them, so ten.
    assert (found.median_length, found.p95_length) == (4, 9)


def test_frames_of_a_kind_are_summed_up_by_their_blocks_together():
    meter = StatisticsMeter()
    meter.add(frame("I", motion=grid({})))
    meter.add(frame("B", index=1, motion=grid({(0, 0): (-4, 0)}, {})))
    meter.add(frame("P", index=2, motion=grid({(0, 0): (-16, 0)})))
    last = {(0, column): (0, 0) for column in range(3)}
    meter.add(frame("P", index=3, motion=grid(last)))
    i, p, b = meter.kinds()
    assert [(row.kind, row.frames) for row in (i, p, b)] == [("I", 1), ("P", 2), ("B", 1)]
    assert p.covered == (1 / 16 + 3 / 16) / 2
    assert (p.mean_length, p.median_length, p.p95_length, p.max_length) == (1, 0, 4, 4)
    assert (p.mean_x, p.static) == (1, 3 / 4)
    assert b.covered_future == 0
    assert (i.mean_length, i.intra) == (None, 1)


def test_many_frames_have_the_percentiles_of_all_their_lengths():
    rng = np.random.default_rng(0)
    meter, lengths = StatisticsMeter(), []
    for index in range(20):
        places = [(y, x) for y in range(4) for x in range(4)]
        blocks = {place: tuple(rng.integers(-90, 90, 2)) for place in places}
        meter.add(frame(index=index, motion=grid(blocks)))
        lengths += [np.hypot(*vector) / 4 for vector in blocks.values()]
    (found,) = meter.kinds()
    for share, value in ((50, found.median_length), (95, found.p95_length)):
        assert value == pytest.approx(
            np.percentile(lengths, share, method="inverted_cdf"), abs=1 / 32
        )
    assert found.mean_length == pytest.approx(np.mean(lengths))


def test_vectors_beyond_all_pictures_take_no_memory():
    """A dump's table may hold them; a bin for each sixteenth of a pixel would take 64 GiB."""
    table = np.array([row(-1, 8, 8, (2**31 - 1, 0), scale=1)], np.int32)
    meter = StatisticsMeter()
    meter.add(frame(vectors=table))
    (kind,) = meter.kinds()
    assert kind.max_length == 2**31 - 1
    assert kind.median_length == 16384  # or more


def test_for_json_numbers_are_short_and_unknown_ones_null():
    content = statistics_content(frame_statistics(frame(motion=grid({(0, 0): (1, 1)}))))
    assert content["mean_length"] == 0.3536
    assert content["num_vectors"] is None
    assert (content["index"], content["kind"]) == (0, "P")
