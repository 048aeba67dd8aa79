"""Pixels come out as a float64 reference has them, within one level."""

import numpy as np
import pytest
import torch
from PIL import Image

from gopstream.shards.loading.geometry import Box, Geometry, compose, op_matrix, with_warp
from gopstream.shards.loading.resampling import resample_frames, resample_plane

FRAME = np.random.default_rng(0).integers(0, 256, (2, 52, 84, 3), dtype=np.uint8)
BOXES = {
    "copy": Box(7, 9, 32, 32),
    "whole": Box(0, 0, 84, 52),
    "larger": Box(60, 30, 11, 17),
    "smaller": Box(3, 1, 77, 50),
    "wide": Box(5, 20, 79, 9),
    "one pixel": Box(83, 51, 1, 1),
}


def weights(length, size):
    """The triangle filter of a resize: (size, length) float64."""
    scale = length / size
    rows = []
    for place in range(size):
        centre = (place + 0.5) * scale
        row = [max(0.0, 1 - abs(i + 0.5 - centre) / max(scale, 1.0)) for i in range(length)]
        rows.append(np.array(row) / sum(row))
    return np.array(rows)


def reference(frames, box, size, flip):
    part = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    down, across = weights(box.height, size), weights(box.width, size)
    result = np.einsum("ih,thwc,jw->tijc", down, part.astype(np.float64), across)
    return result[:, :, ::-1] if flip else result


def resampled(frames, geometry, fill=128):
    out = np.zeros((len(frames), geometry.size, geometry.size, 3), np.uint8)
    resample_frames(frames, geometry, fill=fill, out=out)
    return out


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", BOXES)
def test_a_box_is_resized_with_antialiasing_within_a_level(name, flip):
    got = resampled(FRAME, Geometry(BOXES[name], 32, flip))
    expected = reference(FRAME, BOXES[name], 32, flip)
    assert np.abs(got - expected).max() <= 1.0
    if name == "copy":
        np.testing.assert_array_equal(got, expected)


def test_a_clip_comes_out_the_same_in_any_memory_order():
    geometry = Geometry(BOXES["smaller"], 32, True)
    expected = resampled(FRAME, geometry)
    strided = np.zeros((4, 2, 40, 32, 3), np.uint8)[1, :, 4:36]
    resample_frames(np.asfortranarray(FRAME), geometry, fill=0, out=strided)
    assert np.abs(strided.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", BOXES)
def test_signed_planes_are_resized_as_the_frames_are(name):
    plane = FRAME[..., 0].astype(np.int16) - 128
    whole = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    geometry = Geometry(BOXES[name], 32, True)
    got = resample_plane(plane, geometry, to_plane=whole).numpy()
    expected = reference(FRAME, BOXES[name], 32, True)[..., 0] - 128
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_plane_of_half_the_size_is_sampled_at_the_same_points():
    """A ramp, whose value at each point is known: x + 2 y in pixels of the frame."""
    x, y = np.meshgrid(2 * np.arange(42) + 1, 2 * np.arange(26) + 1)
    half = np.array([[0.5, 0, 0], [0, 0.5, 0]])
    box = Box(11, 7, 60, 40)
    crop = Geometry(box, 20, True)
    turned = with_warp(crop, compose(crop.matrix(), op_matrix("rotate", 9.0, size=(20, 20))))
    for geometry in (crop, turned):
        got = resample_plane((x + 2 * y)[None].astype(np.int16), geometry, to_plane=half)[0].numpy()
        centres = np.stack(np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5), axis=-1)
        points = centres @ geometry.matrix()[:, :2].T + geometry.matrix()[:, 2]
        np.testing.assert_allclose(got[2:-2, 2:-2], (points @ [1, 2])[2:-2, 2:-2], atol=0.2)


def bilinear(frame, points):
    """Sample at points, edges repeated; outside of the picture NaN. float64 reference."""
    height, width = frame.shape[:2]
    result = np.full((*points.shape[:2], 3), np.nan)
    for place in np.ndindex(points.shape[:2]):
        x, y = points[place]
        if not (0 <= x < width and 0 <= y < height):
            continue
        left, top = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
        u, v = x - 0.5 - left, y - 0.5 - top
        value = np.zeros(3)
        for i, j, weight in (
            (0, 0, (1 - u) * (1 - v)),
            (0, 1, u * (1 - v)),
            (1, 0, (1 - u) * v),
            (1, 1, u * v),
        ):
            value += (
                weight * frame[min(max(top + i, 0), height - 1), min(max(left + j, 0), width - 1)]
            )
        result[place] = value
    return result


def test_a_warp_samples_between_pixels_and_fills_what_lies_outside():
    crop = Geometry(Box(10, 5, 30, 30), 32, True)
    geometry = with_warp(crop, compose(crop.matrix(), op_matrix("rotate", 40.0, size=(32, 32))))
    geometry = with_warp(
        geometry, compose(geometry.matrix(), op_matrix("translate_x", -0.4, size=(32, 32)))
    )
    centres = np.stack(np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5), axis=-1)
    points = centres @ geometry.matrix()[:, :2].T + geometry.matrix()[:, 2]
    got = resampled(FRAME, geometry, fill=77)
    for frame, result in zip(FRAME, got, strict=True):
        expected = bilinear(frame, points)
        outside = np.isnan(expected[..., 0])
        assert 20 < outside.sum() < 500
        assert (result[outside] == 77).all()
        assert np.abs(result - expected)[~outside].max() <= 1.0


def test_a_warp_of_a_large_box_is_antialiased():
    """Stripes of one pixel become grey, as they do in a plain resize, and no pattern."""
    stripes = np.zeros((1, 120, 120, 3), np.uint8)
    stripes[:, :, ::2] = 200
    crop = Geometry(Box(0, 0, 120, 120), 30)
    turned = with_warp(crop, compose(crop.matrix(), op_matrix("rotate", 5.0, size=(30, 30))))
    plane = stripes[..., 0].astype(np.int16)
    whole = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    for geometry in (crop, turned):
        inner = resampled(stripes, geometry)[0, 4:-4, 4:-4]
        assert np.abs(inner.astype(int) - 100).max() <= 8
        signed = resample_plane(plane, geometry, to_plane=whole)[0, 4:-4, 4:-4]
        assert (signed - 100).abs().max() <= 8


@pytest.mark.parametrize(
    ("name", "amount", "pillow"),
    [
        ("rotate", 17.0, lambda p, how: p.rotate(17.0, how)),
        ("shear_x", 0.2, lambda p, how: p.transform(p.size, 0, (1, 0.2, 0, 0, 1, 0), how)),
        ("shear_y", -0.2, lambda p, how: p.transform(p.size, 0, (1, 0, 0, -0.2, 1, 0), how)),
        ("translate_x", 0.25, lambda p, how: p.transform(p.size, 0, (1, 0, 21, 0, 1, 0), how)),
        ("translate_y", -0.25, lambda p, how: p.transform(p.size, 0, (1, 0, 0, 0, 1, -13), how)),
    ],
)
def test_an_operation_moves_a_picture_as_pillow_does(name, amount, pillow):
    """The published policies are defined by Pillow's signs and centres."""
    picture = Image.fromarray(FRAME[0]).resize((84, 52), box=(0, 0, 20, 12))
    expected = np.asarray(pillow(picture, Image.Resampling.BILINEAR)).astype(int)
    moved = op_matrix(name, amount, size=(84, 52))
    # A square result that shows the same pixels from the upper left corner.
    geometry = with_warp(Geometry(Box(0, 0, 52, 52), 52), moved)
    got = resampled(np.asarray(picture)[None].copy(), geometry, fill=0)[0]
    differs = np.abs(got - expected[:, :52]).max(axis=-1) > 2
    assert differs.mean() < 0.01, "but for the edge of what lies outside"
    assert (np.abs(got.astype(int) - np.asarray(picture)[:, :52]) > 20).mean() > 0.2


def test_threads_of_torch_do_not_change_pixels():
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(resampled(FRAME, Geometry(BOXES["smaller"], 32)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)
