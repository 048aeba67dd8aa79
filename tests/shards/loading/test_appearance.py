"""Changes of appearance mean what they mean in torchvision; erased boxes are what was drawn."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from gopstream.shards.loading.appearance import (
    ERASE_ATTEMPTS,
    JITTER_DRAWS,
    AppearanceOp,
    Erasure,
    apply_ops,
    draw_erasure,
    draw_jitter,
    erase,
)
from gopstream.shards.loading.geometry import Box

FRAME = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)


@pytest.mark.parametrize(
    ("op", "torchvision"),
    [
        (AppearanceOp("brightness", 1.3), lambda p: functional.adjust_brightness(p, 1.3)),
        (AppearanceOp("contrast", 0.4), lambda p: functional.adjust_contrast(p, 0.4)),
        (AppearanceOp("saturation", 1.8), lambda p: functional.adjust_saturation(p, 1.8)),
        (AppearanceOp("sharpness", 0.1), lambda p: functional.adjust_sharpness(p, 0.1)),
        (AppearanceOp("hue", 0.07), lambda p: functional.adjust_hue(p, 0.07)),
        (AppearanceOp("hue", -0.09), lambda p: functional.adjust_hue(p, -0.09)),
        (AppearanceOp("greyscale"), lambda p: functional.to_grayscale(p, 3)),
        (AppearanceOp("autocontrast"), functional.autocontrast),
        (AppearanceOp("equalize"), functional.equalize),
        (AppearanceOp("invert"), functional.invert),
        (AppearanceOp("posterize", 3.0), lambda p: functional.posterize(p, 3)),
        (AppearanceOp("posterize", 8.0), lambda p: p),
        (AppearanceOp("solarize", 100.0), lambda p: functional.solarize(p, 100)),
        (AppearanceOp("solarize", 256.0), lambda p: p),
    ],
    ids=lambda value: f"{value.name} {value.amount}" if isinstance(value, AppearanceOp) else "",
)
def test_a_change_is_the_one_torchvision_makes(op, torchvision):
    dull = (FRAME // 2 + 40).astype(np.uint8)
    expected = np.asarray(torchvision(Image.fromarray(dull)))
    np.testing.assert_array_equal(apply_ops(dull, (op,)), expected)


def test_no_bits_left_is_black_and_adding_spares_the_bright_half():
    assert not apply_ops(FRAME, (AppearanceOp("posterize", 0.0),)).any()
    added = apply_ops(FRAME, (AppearanceOp("solarize_add", 50.0),))
    np.testing.assert_array_equal(added, np.where(FRAME < 128, FRAME + 50.0, FRAME))


def test_a_blur_spreads_a_point_by_its_standard_deviation():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    point[18:23, 18:23] = 255
    for sigma in (1.0, 2.0):
        spread = apply_ops(point, (AppearanceOp("blur", sigma),))[..., 0].astype(float)
        places = np.arange(41) - 20
        variance = (spread.sum(axis=0) * places**2).sum() / spread.sum()
        assert variance == pytest.approx(sigma**2 + 2.0, rel=0.1)  # and of the square itself


def test_a_cut_out_is_a_grey_square_cut_at_the_borders():
    cut = apply_ops(FRAME, (AppearanceOp("cutout", 0.5, (0.0, 0.5)),))
    expected = FRAME.copy()
    expected[6:18, :6] = 128
    np.testing.assert_array_equal(cut, expected)
    assert (FRAME[6:18, :6] != 128).any(), "the frame itself stays"


def test_changes_are_made_in_their_order():
    first = apply_ops(FRAME, (AppearanceOp("invert"), AppearanceOp("brightness", 0.5)))
    np.testing.assert_allclose(first, (255 - FRAME.astype(float)) * 0.5, atol=1)
    assert apply_ops(FRAME, ()) is FRAME


def test_jitter_draws_amounts_within_their_ranges_in_every_order():
    rng = np.random.default_rng(0)
    spreads = {"brightness": 0.4, "contrast": 1.6, "saturation": 0.2, "hue": 0.1}
    orders, amounts = set(), {name: [] for name in spreads}
    for _ in range(600):
        ops = draw_jitter(rng.random(JITTER_DRAWS), **spreads)
        orders.add(tuple(op.name for op in ops))
        for op in ops:
            amounts[op.name].append(op.amount)
    assert len(orders) == 24
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.0, 2.6),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        assert low <= min(amounts[name]) < low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) < max(amounts[name]) <= high


def test_jitter_leaves_out_what_is_off():
    ops = draw_jitter(np.full(JITTER_DRAWS, 0.5), brightness=0, contrast=0.2, saturation=0, hue=0)
    assert [op.name for op in ops] == ["contrast"]


def test_erased_boxes_keep_to_area_and_aspect():
    rng = np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(500):
        erasure = draw_erasure(
            rng.random((ERASE_ATTEMPTS, 4)), size=64, area=(0.1, 0.2), ratio=0.5, fill="mean", key=0
        )
        left, top, width, height = erasure.box
        assert left >= 0 <= top
        assert left + width <= 64 >= top + height
        areas.append(width * height / 64**2)
        ratios.append(height / width)
    assert 0.095 < min(areas) < 0.11
    assert 0.19 < max(areas) < 0.21
    assert 0.45 < min(ratios) < 0.55
    assert 1.8 < max(ratios) < 2.15


def test_a_drawn_box_is_higher_than_wide_where_its_aspect_says_so():
    draws = np.array([[0.0, 0.0, 0.0, 0.999]] * ERASE_ATTEMPTS)
    erasure = draw_erasure(draws, size=100, area=(0.09, 0.2), ratio=0.25, fill="mean", key=0)
    assert erasure.box == Box(0, 85, 60, 15)


def test_no_box_is_erased_where_none_is_smaller_than_the_picture():
    draws = np.full((ERASE_ATTEMPTS, 4), 0.5)
    assert draw_erasure(draws, size=64, area=(1.0, 1.0), ratio=1.0, fill="mean", key=0) is None
    draws[3, 1] = 0.0
    later = draw_erasure(draws, size=64, area=(0.9, 0.9), ratio=0.999, fill="mean", key=0)
    assert later is not None


def painted(fill, number, key=5):
    frame = np.zeros((64, 64, 3), np.uint8)
    erase(frame, Erasure(Box(2, 3, 60, 58), fill, key), number=number, mean=MEAN, std=STD)
    assert not frame[:3].any()
    assert not frame[:, :2].any()
    return frame[3:61, 2:62]


def test_noise_has_the_mean_and_spread_asked_for_and_is_new_in_each_frame():
    noise = painted("noise", 0)
    np.testing.assert_allclose(noise.mean(axis=(0, 1)), np.multiply(MEAN, 255), atol=4)
    np.testing.assert_allclose(noise.std(axis=(0, 1)), np.multiply(STD, 255), rtol=0.15)
    np.testing.assert_array_equal(painted("noise", 0), noise)
    assert (painted("noise", 1) != noise).mean() > 0.9
    assert (painted("noise", 0, key=6) != noise).mean() > 0.9


def test_one_colour_is_the_same_in_all_frames_of_a_clip():
    colour = painted("colour", 0)
    assert (colour == colour[0, 0]).all()
    np.testing.assert_array_equal(painted("colour", 3), colour)
    assert (painted("colour", 0, key=6) != colour).any()


def test_the_mean_is_what_normalisation_makes_zero():
    np.testing.assert_array_equal(np.unique(painted("mean", 0), axis=1)[0], [[102, 128, 153]])
