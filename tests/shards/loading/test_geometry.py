"""Frames and motion go through the same map."""

import numpy as np
import pytest

from gopstream.shards.errors import ShardError
from gopstream.shards.loading.geometry import (
    CROP_ATTEMPTS,
    Box,
    Geometry,
    area_box,
    cells_under,
    compose,
    even_box,
    op_matrix,
    random_box,
    resized_side,
    vector_matrix,
    with_warp,
)

FRAME, RECT, BLOCKS = (84, 52), (0, 0, 84, 52), (8, 12)


def drawn_geometries(number, frame_size=FRAME):
    """Return crops, every other one turned and shifted as well."""
    rng = np.random.default_rng(0)
    geometries = []
    for turned in range(number):
        box = area_box(
            frame_size, scale=(0.1, 1.0), ratio=(0.5, 2.0), draws=rng.random((CROP_ATTEMPTS, 4))
        )
        geometry = Geometry(box, 56, bool(rng.random() < 0.5))
        if turned % 2:
            moved = op_matrix("rotate", rng.uniform(-40, 40), size=(56, 56))
            moved = compose(moved, op_matrix("translate_x", rng.uniform(-0.4, 0.4), size=(56, 56)))
            geometry = with_warp(geometry, compose(geometry.matrix(), moved))
        geometries.append(geometry)
    return geometries


@pytest.mark.parametrize(("frame_size", "rect"), [(FRAME, RECT), ((42, 26), (4, 8, 84, 52))])
def test_each_cell_of_a_map_is_the_block_under_its_centre(frame_size, rect):
    outside = 0
    for geometry in drawn_geometries(30, frame_size):
        cells = cells_under(
            geometry,
            grid=7,
            frame_size=frame_size,
            display_rect=rect,
            blocks=BLOCKS,
            block_pixels=8,
        )
        matrix = geometry.matrix()
        for row, column in np.ndindex(7, 7):
            x, y = matrix @ [(column + 0.5) * 8, (row + 0.5) * 8, 1.0]
            assert cells.inside[row, column] == (0 <= x < frame_size[0] and 0 <= y < frame_size[1])
            if not cells.inside[row, column]:
                outside += 1
                continue
            x = rect[0] + x * rect[2] / frame_size[0]
            y = rect[1] + y * rect[3] / frame_size[1]
            assert divmod(cells.flat[row, column], BLOCKS[1]) == (int(y // 8), int(x // 8))
    assert 20 < outside < 500


def test_the_corners_of_a_result_are_the_corners_of_its_box():
    for flip in (False, True):
        matrix = Geometry(Box(10, 20, 30, 40), 8, flip).matrix()
        corners = np.array([[0, 0, 1], [8, 0, 1], [0, 8, 1], [8, 8, 1]]) @ matrix.T
        expected = np.array([[10, 20], [40, 20], [10, 60], [40, 60]])
        np.testing.assert_allclose(corners, expected[[1, 0, 3, 2]] if flip else expected)


@pytest.mark.parametrize(("frame_size", "rect"), [(FRAME, RECT), ((42, 26), (4, 8, 84, 78))])
def test_a_vector_is_turned_into_the_difference_of_two_mapped_points(frame_size, rect):
    for geometry in drawn_geometries(30, frame_size):
        matrix, scale = geometry.matrix(), np.divide(rect[2:], frame_size)
        start, end = ((matrix @ [*point, 1.0]) * scale for point in ((10, 20), (13, 15)))
        to_result = vector_matrix(geometry, frame_size=frame_size, display_rect=rect)
        np.testing.assert_allclose(to_result @ (end - start), [3, -5], rtol=1e-9)


def test_maps_are_applied_one_after_the_other():
    first, second = (op_matrix(name, 0.3, size=(40, 30)) for name in ("shear_x", "translate_y"))
    point = np.array([7.0, 5.0])
    after_first = first @ [*point, 1.0]
    expected = second @ [*after_first, 1.0]
    np.testing.assert_allclose(compose(second, first) @ [*point, 1.0], expected)
    np.testing.assert_allclose(expected, [7 + 0.3 * 5, 5 + 0.3 * 30])


def test_a_box_by_area_keeps_to_its_ranges_and_reaches_every_corner():
    rng = np.random.default_rng(0)
    boxes = [
        area_box((84, 52), scale=(0.2, 0.5), ratio=(0.75, 4 / 3), draws=rng.random((10, 4)))
        for _ in range(1500)
    ]
    areas = [box.width * box.height / (84 * 52) for box in boxes]
    ratios = [box.width / box.height for box in boxes]
    assert 0.19 < min(areas) < 0.22
    assert 0.47 < max(areas) < 0.51
    assert 0.7 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.4
    assert min(box.left for box in boxes) == min(box.top for box in boxes) == 0
    assert max(box.left + box.width for box in boxes) == 84
    assert max(box.top + box.height for box in boxes) == 52


@pytest.mark.parametrize(
    ("frame_size", "ratio", "expected"),
    [
        ((200, 20), (0.75, 4 / 3), Box(86, 0, 27, 20)),
        ((20, 200), (0.75, 4 / 3), Box(0, 86, 20, 27)),
        ((40, 40), (0.75, 4 / 3), Box(0, 0, 40, 40)),
    ],
)
def test_the_largest_central_box_is_taken_where_none_of_those_tried_fits(
    frame_size, ratio, expected
):
    draws = np.full((CROP_ATTEMPTS, 4), 0.999)
    assert area_box(frame_size, scale=(1.0, 1.0), ratio=ratio, draws=draws) == expected


def test_the_first_box_that_fits_is_taken():
    draws = np.full((CROP_ATTEMPTS, 4), 0.999)
    draws[2:] = [[0.0, 0.5, 0.999, 0.0]] * 8
    box = area_box((84, 52), scale=(0.25, 1.0), ratio=(1.0, 1.0), draws=draws)
    assert box == Box(51, 0, 33, 33)


def test_a_random_box_lies_anywhere_in_the_frame():
    corners = {(0.0, 0.0): (0, 0), (0.999999, 0.999999): (44, 12), (0.5, 0.0): (22, 0)}
    for draws, place in corners.items():
        assert random_box(FRAME, side=40, draws=np.array(draws)) == Box(*place, 40, 40)


def test_a_crop_after_a_resize_is_a_box_of_stored_pixels():
    assert resized_side((340, 256), size=224, short_side=256) == 224
    assert resized_side((340, 256), size=224, short_side=320) == 179
    assert resized_side((256, 340), size=224, short_side=224) == 256
    with pytest.raises(ShardError, match="crop of 225 pixels does not fit into frames of 340x256"):
        resized_side((340, 256), size=225, short_side=224)


def test_even_boxes_lie_at_both_ends_and_in_the_centre():
    assert [even_box((100, 60), side=50, crop=i, num_crops=3)[:2] for i in range(3)] == [
        (0, 5),
        (25, 5),
        (50, 5),
    ]
    assert [even_box((60, 101), side=60, crop=i, num_crops=3)[:2] for i in range(3)] == [
        (0, 0),
        (0, 21),
        (0, 41),
    ]
    assert even_box((100, 60), side=60, crop=0, num_crops=1) == Box(20, 0, 60, 60)
