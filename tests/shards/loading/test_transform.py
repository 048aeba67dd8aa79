"""Frames, motion, masks and residual go through one map, whatever transform is drawn.

The central promise: take the transformed previous frame where the transformed motion points, and
the transformed frame comes out. It is checked for every option and every operation there is; the
lists are compared with the code's own, so that a new one cannot be left out.
"""

import dataclasses
from typing import get_args

import numpy as np
import pytest

from gopstream.shards.loading.appearance import APPEARANCE_OPS, AppearanceOp, EraseFill
from gopstream.shards.loading.augment_policy import POLICIES
from gopstream.shards.loading.geometry import (
    GEOMETRIC_OPS,
    Box,
    Geometry,
    compose,
    op_matrix,
    with_warp,
)
from gopstream.shards.loading.transform import (
    ClipTransform,
    TransformSpec,
    draw_transform,
    transform_field,
    transform_frames,
    transform_mask,
    transform_residual,
    view_transform,
)
from gopstream.shards.loading.transform_spec import CropKind, PolicyPlace
from moving_clips import FRAME, WHOLE, check_consistent, grown, moving_clip, smooth_picture

SIZE = 64

# One or more specs for every option; each is drawn several times.
OPTIONS = {
    "size": [{"size": 40}, {"size": 96, "crop_scale": (0.1, 0.4)}],
    "crop": [{"crop": kind, "short_side": (70, 90)} for kind in get_args(CropKind)],
    "crop_scale": [{"crop_scale": (0.3, 0.6)}],
    "crop_ratio": [{"crop_ratio": (0.5, 2.0)}],
    "short_side": [{"crop": "short_side", "short_side": (64, 128)}],
    "flip": [{"flip": 1.0}, {"flip": 0.5, "crop": "random"}],
    "keep_direction": [{"flip": 1.0, "keep_direction": (0,)}],
    "policy": [{"policy": kind} for kind in POLICIES] + [{"policy": "rand-m9-n4-p1-inc1"}],
    "policy_on": [
        {"policy": "rand-m9-n4-p1", "policy_on": place, "flip": 0.5}
        for place in get_args(PolicyPlace)
    ],
    "jitter": [{"jitter": 1.0, "brightness": 0.4}],
    "brightness": [{"jitter": 1.0, "brightness": 0.4}],
    "contrast": [{"jitter": 1.0, "contrast": 0.4}],
    "saturation": [{"jitter": 1.0, "saturation": 0.4}],
    "hue": [{"jitter": 1.0, "hue": 0.1}],
    "jitter_per_frame": [{"jitter": 1.0, "hue": 0.1, "jitter_per_frame": True}],
    "greyscale": [{"greyscale": 1.0}],
    "blur": [{"blur": 1.0}],
    "blur_sigma": [{"blur": 1.0, "blur_sigma": (1.0, 1.5)}],
    "erase": [{"erase": 1.0}],
    "erase_area": [{"erase": 1.0, "erase_area": (0.1, 0.2)}],
    "erase_ratio": [{"erase": 1.0, "erase_ratio": 0.9}],
    "erase_fill": [{"erase": 1.0, "erase_fill": fill} for fill in get_args(EraseFill)],
    "erase_mean": [{"erase": 1.0, "erase_mean": (0.0, 0.5, 1.0)}],
    "erase_std": [{"erase": 1.0, "erase_std": (0.0, 0.0, 0.0)}],
    "erase_per_frame": [{"erase": 1.0, "erase_per_frame": True}],
    "view_short_side": [{"crop": "centre", "view_short_side": 80}],
}
SPECS = [spec for specs in OPTIONS.values() for spec in specs]
CHAIN = {"flip": 0.5, "policy": "rand-m10-n6-p0.9-mstd2", "crop_scale": (0.2, 1.0)}


def geometry_of(transform):
    return ClipTransform(transform.geometry, transform.fill)


def test_every_option_of_a_transform_has_a_case_here():
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(TransformSpec)}


@pytest.mark.parametrize("motion_kind", ["translating", "rotating"])
@pytest.mark.parametrize("options", SPECS, ids=str)
def test_motion_leads_to_the_same_content_after_a_drawn_transform(options, motion_kind):
    frames, motion = moving_clip(motion_kind)
    spec = TransformSpec(**{"size": SIZE, "crop_scale": (0.4, 1.0), **options})
    for seed in range(4):
        rng = np.random.default_rng(seed)
        transform = draw_transform(spec, frame_size=FRAME, num_frames=2, rng=rng, label=0)
        # Shears and shifts in a row may leave little of the frame in view.
        check_consistent(frames, motion, geometry_of(transform), share=0.05)


@pytest.mark.parametrize("motion_kind", ["translating", "rotating"])
def test_motion_leads_to_the_same_content_after_long_random_chains(motion_kind):
    frames, motion = moving_clip(motion_kind)
    compared, warped = 0.0, 0
    for seed in range(40):
        place = "frame" if seed % 2 else "crop"
        spec = TransformSpec(size=SIZE, policy_on=place, **CHAIN)
        rng = np.random.default_rng(seed)
        transform = draw_transform(spec, frame_size=FRAME, num_frames=2, rng=rng)
        warped += transform.geometry.warp is not None
        compared += check_consistent(frames, motion, geometry_of(transform), share=-1.0)
    assert warped > 30
    assert compared / 40 > 0.3


@pytest.mark.parametrize("motion_kind", ["translating", "rotating"])
@pytest.mark.parametrize("on_frame", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", GEOMETRIC_OPS)
def test_motion_leads_to_the_same_content_after_each_operation(name, flip, on_frame, motion_kind):
    frames, motion = moving_clip(motion_kind)
    crop = Geometry(Box(10, 5, 100, 80), SIZE, flip)
    for amount in (12.0, -25.0) if name == "rotate" else (0.13, -0.2):
        matrix = op_matrix(name, amount, size=FRAME if on_frame else (SIZE, SIZE))
        pair = (matrix, crop.matrix()) if on_frame else (crop.matrix(), matrix)
        geometry = with_warp(crop, compose(*pair))
        check_consistent(frames, motion, ClipTransform(geometry))


@pytest.mark.parametrize("crop", range(3))
@pytest.mark.parametrize("short_side", [0, 80])
def test_motion_leads_to_the_same_content_in_each_test_view(crop, short_side):
    spec = TransformSpec(size=SIZE, view_short_side=short_side)
    for frame_size in (FRAME, FRAME[::-1]):
        frames, motion = moving_clip("rotating", frame_size)
        transform = view_transform(spec, frame_size=frame_size, crop=crop, num_crops=3)
        where = {"frame_size": frame_size, "display_rect": (0, 0, *frame_size)}
        check_consistent(frames, motion, transform, where=where)


AMOUNTS = {
    "brightness": 1.4,
    "contrast": 0.6,
    "saturation": 1.7,
    "sharpness": 1.9,
    "hue": 0.08,
    "greyscale": 0.0,
    "blur": 1.3,
    "autocontrast": 0.0,
    "equalize": 0.0,
    "invert": 0.0,
    "posterize": 3.0,
    "solarize": 100.0,
    "solarize_add": 50.0,
    "cutout": 0.3,
}


def rolled_clip():
    """Return two square frames of noise, the same but for a shift around the borders."""
    noise = np.random.default_rng(3).integers(30, 220, (SIZE, SIZE, 3), dtype=np.uint8)
    frames = np.stack([noise, np.roll(noise, (-4, 7), (0, 1))])
    motion = np.broadcast_to(np.array([-7, 4], np.float32), (SIZE, SIZE, 2))
    return frames, motion


def test_every_change_of_appearance_has_a_case_here():
    assert set(AMOUNTS) == set(APPEARANCE_OPS)


@pytest.mark.parametrize("on_frame", [False, True])
@pytest.mark.parametrize("name", sorted(APPEARANCE_OPS))
def test_a_change_of_appearance_moves_nothing(name, on_frame):
    """Exact: the same picture is moved by whole pixels, then changed; blur reaches 3 pixels."""
    frames, motion = rolled_clip()
    ops = (AppearanceOp(name, AMOUNTS[name]),)
    geometry = Geometry(Box(0, 0, SIZE, SIZE), SIZE)
    transform = ClipTransform(
        geometry, frame_ops=ops if on_frame else (), ops=() if on_frame else (ops,)
    )
    covered = np.zeros((SIZE, SIZE), bool)
    covered[20:44, 20:44] = name == "cutout"  # stands still, unlike the picture
    whole = {"frame_size": (SIZE, SIZE), "display_rect": (0, 0, SIZE, SIZE)}
    # At the borders a blur takes from beyond the picture, which is not what was moved there.
    covered = grown(covered, 2)
    exact = {"most": 0.0, "mean": 0.0, "share": 0.05}
    check_consistent(frames, motion, transform, where=whole, unclear=covered, **exact)
    assert (transform_frames(frames, transform) != frames).any()


@pytest.mark.parametrize("fill", get_args(EraseFill))
def test_erasing_paints_one_box_and_leaves_frames_and_motion_elsewhere(fill):
    frames, motion = moving_clip("rotating")
    spec = TransformSpec(size=SIZE, erase=1.0, erase_fill=fill, crop_scale=(0.6, 1.0))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        transform = draw_transform(spec, frame_size=FRAME, num_frames=2, rng=rng)
        plain = geometry_of(transform)
        (erasure,) = transform.erasures
        box = np.zeros((SIZE, SIZE), bool)
        left, top, width, height = erasure.box
        box[top : top + height, left : left + width] = True
        erased, whole = transform_frames(frames, transform), transform_frames(frames, plain)
        np.testing.assert_array_equal(erased[:, ~box], whole[:, ~box])
        assert (erased[:, box] != whole[:, box]).mean() > 0.8
        assert 0.015 < box.mean() < 0.35
        fields = [
            transform_field(motion, t, grid=8, block_pixels=1, **WHOLE) for t in (transform, plain)
        ]
        np.testing.assert_array_equal(*fields)
        check_consistent(frames, motion, transform, unclear=box, share=0.05)


def test_a_frame_alone_comes_out_as_in_its_clip():
    frames = np.random.default_rng(0).integers(0, 256, (5, 96, 128, 3), dtype=np.uint8)
    spec = TransformSpec(
        size=40, flip=0.5, policy="rand-m7-n2", jitter=1.0, brightness=0.4, hue=0.1,
        jitter_per_frame=True, erase=1.0, erase_per_frame=True,
    )  # fmt: skip
    for seed in range(6):
        rng = np.random.default_rng(seed)
        transform = draw_transform(spec, frame_size=FRAME, num_frames=5, rng=rng)
        batch = np.zeros((2, 5, 40, 40, 3), np.uint8)
        together = transform_frames(frames, transform, out=batch[1])
        assert together is not None
        np.testing.assert_array_equal(together, batch[1])
        assert not batch[0].any()
        alone = np.zeros_like(batch[0])
        for number, frame in enumerate(frames):
            one = frame.reshape(1, *frame.shape)
            transform_frames(one, transform, first=number, out=alone[number : number + 1])
        np.testing.assert_array_equal(alone, together)
        rest = transform_frames(frames[3:], transform, first=3)
        np.testing.assert_array_equal(rest, together[3:])


def test_frames_that_must_not_be_written_to_are_read_all_the_same():
    frames, _ = moving_clip("translating")
    transform = ClipTransform(Geometry(Box(3, 4, 50, 60), SIZE, True))
    expected = transform_frames(frames, transform)
    frames.flags.writeable = False
    np.testing.assert_array_equal(transform_frames(frames, transform), expected)


def test_motion_and_masks_keep_their_type_and_are_empty_outside():
    geometry = Geometry(Box(0, 0, 96, 96), 32)
    geometry = with_warp(
        geometry, compose(geometry.matrix(), op_matrix("translate_x", 0.5, size=(32, 32)))
    )
    for dtype in (np.bool_, np.uint8):
        mask = np.ones((2, 3, 12, 12), dtype)
        shown = transform_mask(
            mask, ClipTransform(geometry), grid=8, frame_size=(96, 96), display_rect=(0, 0, 96, 96)
        )
        assert shown.dtype == dtype
        assert shown.shape == (2, 3, 8, 8)
        np.testing.assert_array_equal(shown[0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0])
    motion = np.ones((2, 12, 12, 2), np.float32)
    moved = transform_field(
        motion, ClipTransform(geometry), grid=8, frame_size=(96, 96), display_rect=(0, 0, 96, 96)
    )
    np.testing.assert_allclose(moved[1, 0, :, 0], [1 / 3] * 4 + [0] * 4, rtol=1e-6)


def planes_of_noise(rng, low, high):
    shapes = ((2, 96, 128), (2, 48, 64), (2, 48, 64))
    return [rng.integers(low, high, shape).astype(np.int16) for shape in shapes]


GEOMETRIES = {
    "copy": Geometry(Box(8, 6, SIZE, SIZE), SIZE),
    "smaller": Geometry(Box(3, 5, 117, 87), SIZE, True),
    "larger": Geometry(Box(21, 17, 30, 41), SIZE),
    "turned": with_warp(
        Geometry(Box(10, 8, 90, 80), SIZE, True),
        compose(
            Geometry(Box(10, 8, 90, 80), SIZE, True).matrix(),
            op_matrix("rotate", 11.0, size=(SIZE, SIZE)),
        ),
    ),
}


@pytest.mark.parametrize("rect", [(0, 0, 128, 96), (4, 2, 120, 90)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_prediction_and_residual_still_add_up_to_the_frame(name, rect):
    rng = np.random.default_rng(0)
    transform = ClipTransform(GEOMETRIES[name])
    decoded = planes_of_noise(rng, 0, 256)
    residual = planes_of_noise(rng, -255, 256)
    predicted = [a - b for a, b in zip(decoded, residual, strict=True)]
    where = {"frame_size": FRAME, "display_rect": rect}
    whole, part, rest = (
        transform_residual(planes, transform, **where) for planes in (decoded, predicted, residual)
    )
    assert whole.shape == (2, 3, SIZE, SIZE)
    assert whole.dtype == np.int16
    # Three roundings of half a level each.
    assert np.abs(whole - (part + rest)).max() <= 1
    assert rest.min() < -20
    assert rest.max() > 20


def test_the_residual_ends_with_the_frame_though_the_coded_picture_goes_on():
    crop = Geometry(Box(10, 8, 80, 80), SIZE)
    moved = op_matrix("translate_x", 0.6, size=(SIZE, SIZE))
    transform = ClipTransform(with_warp(crop, compose(crop.matrix(), moved)))
    planes = [np.full(shape, 9, np.int16) for shape in ((1, 96, 160), (1, 48, 80), (1, 48, 80))]
    shown = transform_residual(planes, transform, **WHOLE)
    # The frame ends 128 - 10 - 0.6 * 80 = 70 pixels from the left, of 80 that become 64.
    assert (shown[..., :56] == 9).all()
    assert not shown[..., 56:].any()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_residual_is_shown_where_the_frames_show_the_same_pixels(name):
    """A picture whose luma is also its grey level; chroma as smooth waves."""
    transform = ClipTransform(GEOMETRIES[name], fill=0)
    frames, _ = moving_clip("rotating")
    luma = frames[..., 0]
    moved = transform_residual(
        [luma.astype(np.int16)] + [np.zeros((2, 48, 64), np.int16)] * 2, transform, **WHOLE
    )
    grey = transform_frames(np.repeat(luma[..., None], 3, axis=-1), transform)[..., 0]
    shown = transform_mask(np.ones((96, 128), bool), transform, grid=SIZE, block_pixels=1, **WHOLE)
    assert np.abs(moved[:, 0] - grey)[:, shown].max() <= 1
    x, y = np.meshgrid(2 * np.arange(64) + 1.0, 2 * np.arange(48) + 1.0)
    chroma = np.rint(smooth_picture(x, y)[..., 0] - 128).astype(np.int16)
    planes = [np.zeros((1, 96, 128), np.int16), chroma[None], chroma[None]]
    centres = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), axis=-1)
    matrix = transform.geometry.matrix()
    points = centres @ matrix[:, :2].T + matrix[:, 2]
    expected = smooth_picture(points[..., 0], points[..., 1])[..., 0] - 128
    got = transform_residual(planes, transform, **WHOLE)[0]
    inner = ~grown(~shown, 2)
    for plane in got[1:]:
        assert np.abs(plane - expected)[inner].max() < 7
        assert np.abs(plane - expected)[inner].mean() < 2
    assert not got[0].any()
