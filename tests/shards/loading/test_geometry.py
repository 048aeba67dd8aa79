"""Frames and motion go through the same map."""

import numpy as np
import pytest

from gopstream.shards.loading.geometry import (
    Crop,
    crop_cells,
    crop_frame,
    even_crop,
    random_crop,
    vector_scale,
)

FRAME, RECT, BLOCKS = (84, 52), (0, 0, 84, 52), (8, 12)


def cells(crop, grid, frame_size=FRAME, display_rect=RECT):
    return crop_cells(
        crop,
        grid,
        frame_size=frame_size,
        display_rect=display_rect,
        blocks=BLOCKS,
        block_pixels=8,
    )


def to_coded(crop, u, v, frame_size, display_rect):
    """Map a point of the result (in pixels) to the coded picture."""
    if crop.flip:
        u = crop.size - u
    x = crop.left + u * crop.width / crop.size
    y = crop.top + v * crop.height / crop.size
    return (
        display_rect[0] + x * display_rect[2] / frame_size[0],
        display_rect[1] + y * display_rect[3] / frame_size[1],
    )


def drawn_crops(number, frame_size=FRAME):
    rng = np.random.default_rng(0)
    return [
        random_crop(frame_size, size=56, scale=(0.1, 1.0), ratio=(0.75, 1.33), flip=0.5, rng=rng)
        for _ in range(number)
    ]


@pytest.mark.parametrize(("frame_size", "rect"), [(FRAME, RECT), ((42, 26), (4, 8, 84, 52))])
def test_each_cell_is_the_block_under_its_centre(frame_size, rect):
    for crop in drawn_crops(30, frame_size):
        rows, columns = cells(crop, 7, frame_size, rect)
        for row, column in np.ndindex(7, 7):
            centre = (column + 0.5) * 8, (row + 0.5) * 8
            x, y = to_coded(crop, *centre, frame_size, rect)
            assert (rows[row, column], columns[row, column]) == (int(y // 8), int(x // 8))


@pytest.mark.parametrize(("frame_size", "rect"), [(FRAME, RECT), ((42, 26), (4, 8, 84, 52))])
def test_a_vector_is_the_difference_of_two_mapped_points(frame_size, rect):
    for crop in drawn_crops(30, frame_size):
        scale = vector_scale(crop, frame_size=frame_size, display_rect=rect)
        start = np.array(to_coded(crop, 10.0, 20.0, frame_size, rect))
        end = np.array(to_coded(crop, 13.0, 15.0, frame_size, rect))
        np.testing.assert_allclose((end - start) * scale, [3, -5], rtol=1e-5)


def test_a_drawn_crop_lies_inside_the_frame_and_keeps_its_limits():
    flips = 0
    for crop in drawn_crops(300):
        assert crop.left >= 0
        assert crop.top >= 0
        assert crop.left + crop.width <= 84 + 1e-9
        assert crop.top + crop.height <= 52 + 1e-9
        assert 0 < crop.width * crop.height <= 84 * 52
        flips += crop.flip
    assert 100 < flips < 200


def test_test_crops_lie_at_both_ends_and_in_the_centre():
    lefts = [even_crop((100, 60), size=32, crop=i, num_crops=3).left for i in range(3)]
    assert lefts == [0, 20, 40]
    tops = [even_crop((60, 100), size=32, crop=i, num_crops=3).top for i in range(3)]
    assert tops == [0, 20, 40]
    only = even_crop((100, 60), size=32, crop=0, num_crops=1)
    assert (only.left, only.top, only.width, only.height) == (20, 0, 60, 60)


def test_a_whole_crop_of_the_same_size_is_the_frame_itself():
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop_frame(frame, Crop(0, 0, 32, 32, 32)), frame)
    flipped = crop_frame(frame, Crop(0, 0, 32, 32, 32, flip=True))
    np.testing.assert_array_equal(flipped, frame[:, ::-1])


@pytest.mark.parametrize("flip", [False, True])
def test_motion_and_frames_stay_together_under_crop_resize_and_flip(flip):
    """A bright square is found, in the transformed later frame, where its vector says."""

    def picture(x, y):
        frame = np.zeros((64, 96, 3), np.uint8)
        frame[y : y + 8, x : x + 8] = 255
        return frame

    def centre(frame):
        weights = frame[..., 0].astype(float)
        y, x = np.indices(weights.shape) + 0.5
        return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()

    crop = Crop(16.0, 8.0, 64.0, 48.0, 40, flip)
    earlier, later = (crop_frame(picture(*place), crop) for place in ((40, 24), (52, 19)))
    field = np.zeros((8, 12, 2))
    field[3, 5] = (12, -5)  # of the block at (40, 24)
    rows, columns = cells(crop, 40, (96, 64), (0, 0, 96, 64))
    scale = vector_scale(crop, frame_size=(96, 64), display_rect=(0, 0, 96, 64))
    moved = field[rows, columns] * scale
    x, y = centre(earlier)
    np.testing.assert_allclose(centre(earlier) + moved[int(y), int(x)], centre(later), atol=0.3)
    # The cells that carry the vector are those that show the square.
    np.testing.assert_array_equal(moved.any(axis=-1), earlier[..., 0] > 127)
