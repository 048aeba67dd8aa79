"""Each compiled kernel does what its twin in plain NumPy does, bit for bit."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gopstream.pipeline import compensation, jpeg, motion, residual
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.motion import VECTOR_DTYPE
from gopstream.pipeline.plain import compensation as plain_compensation
from gopstream.pipeline.plain import jpeg as plain_jpeg
from gopstream.pipeline.plain import motion as plain_motion
from gopstream.pipeline.plain import residual as plain_residual
from gopstream.pipeline.transcode import KEPT_MATRICES

SIZES = [(16, 16), (16, 48), (32, 16), (32, 32), (48, 64)]
LAYOUTS = ["side by side", "padded", "padded and readonly", "part of a larger picture", "turned"]
# Cells of a macroblock that share one vector: 16x16, 16x8, 8x16, 8x8, and five odd ones.
DIVISIONS = [
    [0, 0, 0, 0],
    [0, 0, 1, 1],
    [0, 1, 0, 1],
    [0, 1, 2, 3],
    [0, 0, 0, 1],
    [0, 1, 1, 1],
    [0, 1, 1, 0],
    [0, 0, 1, 2],
    [0, 1, 2, 1],
]
REACHES = [0, 3, 8, 60, 2000, 32767]

seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from(SIZES)


def lay_out(plane, layout):
    """Return the same samples in another arrangement of memory."""
    height, width = plane.shape
    if layout == "side by side":
        return plane
    if layout == "turned":
        return np.asfortranarray(plane)
    if layout == "part of a larger picture":
        larger = np.full((height + 7, width + 9), 77, np.uint8)
        larger[4 : 4 + height, 5 : 5 + width] = plane
        return larger[4 : 4 + height, 5 : 5 + width]
    rows = np.full((height, width + 13), 99, np.uint8)
    rows[:, :width] = plane
    # The last row ends with its last sample: what lies behind it may not be ours.
    flat = np.concatenate([rows.reshape(-1), np.full(4, 55, np.uint8)])
    buffer = flat if layout == "padded" else np.frombuffer(flat.tobytes(), np.uint8)
    return buffer[: rows.size].reshape(rows.shape)[:, :width]


def draw_planes(rng, height, width, layout="side by side"):
    def plane(*shape):
        # Extremes are frequent, so that the taps overshoot and the clipping is at work.
        extreme = rng.choice(np.array([0, 255], np.uint8), shape)
        drawn = rng.integers(0, 256, shape, np.uint8)
        return lay_out(np.where(rng.random(shape) < 0.5, extreme, drawn), layout)

    half = (height // 2, width // 2)
    return Planes(plane(height, width), plane(*half), plane(*half))


def draw_motion(rng, height, width, reach):
    """Macroblocks divided in every way, some of their cells not predicted."""
    rows, columns = height // 16, width // 16
    field = np.zeros((2 * rows, 2 * columns, 2), np.int16)
    coverage = np.zeros((2 * rows, 2 * columns), np.uint8)
    for row, column in np.ndindex(rows, columns):
        division = DIVISIONS[rng.integers(len(DIVISIONS))]
        vectors = rng.integers(-reach - 1, reach + 1, (4, 2))
        covered = rng.random(4) < 0.8
        for cell, part in enumerate(division):
            place = 2 * row + cell // 2, 2 * column + cell % 2
            field[place] = vectors[part]
            # One in four macroblocks has intra cells inside of a part.
            mixed = rng.random() < 0.25
            coverage[place] = rng.random() < 0.5 if mixed else covered[part]
    return field, coverage


def assert_same_planes(found, expected):
    for plane, twin in zip(found, expected, strict=True):
        assert plane.dtype == twin.dtype == np.uint8
        np.testing.assert_array_equal(plane, twin)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=25)
@given(seeds, sizes, st.sampled_from(REACHES))
def test_predictions_are_equal(layout, seed, size, reach):
    rng = np.random.default_rng(seed)
    reference = draw_planes(rng, *size, layout)
    field, coverage = draw_motion(rng, *size, reach)
    assert_same_planes(
        compensation.predict_planes(reference, field, coverage),
        plain_compensation.predict_planes(reference, field, coverage),
    )


@pytest.mark.parametrize("division", DIVISIONS)
def test_predictions_are_equal_at_each_fraction_of_each_division(division):
    """Sixteen fractions for luma, 64 for chroma, each at every cell of a macroblock."""
    rng = np.random.default_rng(sum(division))
    planes = draw_planes(rng, 32, 32)
    covered = np.ones((4, 4), np.uint8)
    for first in range(64):
        vectors = [((first + 11 * n) % 8 - 4, (first // 8 + 5 * n) % 8 - 4) for n in range(4)]
        cells = np.array([vectors[part] for part in division], np.int16).reshape(2, 2, 2)
        field = np.tile(cells, (2, 2, 1))
        assert_same_planes(
            compensation.predict_planes(planes, field, covered),
            plain_compensation.predict_planes(planes, field, covered),
        )


@pytest.mark.parametrize("x", [-32768, -32767, -32765, 32764, 32766, 32767])
@pytest.mark.parametrize("y", [-32768, -32767, -32765, 32764, 32766, 32767])
def test_predictions_are_equal_at_the_ends_of_int16(x, y):
    planes = draw_planes(np.random.default_rng(7), 16, 16)
    field = np.full((2, 2, 2), (x, y), np.int16)
    covered = np.ones((2, 2), np.uint8)
    assert_same_planes(
        compensation.predict_planes(planes, field, covered),
        plain_compensation.predict_planes(planes, field, covered),
    )


@settings(max_examples=40)
@given(seeds, sizes)
def test_readonly_motion_of_one_list_of_a_clip_is_read_where_it_is(seed, size):
    """As it comes back from a shard: a slice of (T, L, Hb, Wb, 2) that must not be written."""
    rng = np.random.default_rng(seed)
    reference = draw_planes(rng, *size)
    field, coverage = draw_motion(rng, *size, 60)
    stored = np.stack([field, -field]), np.stack([coverage, 1 - coverage])
    for array in stored:
        array.flags.writeable = False
    assert_same_planes(
        compensation.predict_planes(reference, stored[0][1], stored[1][1]),
        plain_compensation.predict_planes(reference, -field, 1 - coverage),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=15)
@given(seeds, sizes, st.booleans())
def test_residuals_are_equal(layout, seed, size, is_close):
    rng = np.random.default_rng(seed)
    predicted = draw_planes(rng, *size)
    if is_close:  # mostly zero: whole macroblocks without any residual
        hit = [rng.random(plane.shape) < 0.003 for plane in predicted]
        changed = [np.where(h, p ^ 255, p) for h, p in zip(hit, predicted, strict=True)]
        decoded = Planes(*(lay_out(plane, layout) for plane in changed))
    else:
        decoded = draw_planes(rng, *size, layout)
    found = residual.residual_between(decoded, predicted)
    expected = plain_residual.residual_between(decoded, predicted)
    assert_same_planes(found.planes, expected.planes)
    np.testing.assert_array_equal(found.exceptions, expected.exceptions)
    assert found.exceptions.dtype == expected.exceptions.dtype == np.int32
    np.testing.assert_array_equal(
        residual.zero_macroblocks(found.planes), plain_residual.zero_macroblocks(expected.planes)
    )
    assert_same_planes(residual.add_residual(predicted, found.planes), decoded)


def test_every_pair_of_samples_has_an_equal_residual():
    value, guess = np.indices((256, 256), np.uint8)
    decoded, predicted = (Planes(p, p[:128, :128], p[128:, 128:]) for p in (value, guess))
    predicted = Planes(*map(np.ascontiguousarray, predicted))
    found = residual.residual_between(decoded, predicted)
    expected = plain_residual.residual_between(decoded, predicted)
    assert_same_planes(found.planes, expected.planes)
    np.testing.assert_array_equal(found.exceptions, expected.exceptions)


# (left, top, width, height) of the blocks of a macroblock.
BLOCKS = [
    [(0, 0, 16, 16)],
    [(0, 0, 16, 8), (0, 8, 16, 8)],
    [(0, 0, 8, 16), (8, 0, 8, 16)],
    [(0, 0, 8, 8), (8, 0, 8, 8), (0, 8, 8, 8), (8, 8, 8, 8)],
]


def draw_vectors(rng, height, width, *, num_lists, num_odd):
    """Vectors of most macroblocks, in any order, and ``num_odd`` that have something wrong."""
    rows = [
        (source, left + x, top + y, w, h)
        for source in (-1, 1)[:num_lists]
        for top in range(0, height, 16)
        for left in range(0, width, 16)
        for x, y, w, h in BLOCKS[rng.integers(4)] * (rng.random() < 0.8)
    ]
    records = np.zeros(len(rows), VECTOR_DTYPE)
    for record, (source, left, top, w, h) in zip(records, rows, strict=True):
        record["source"], record["w"], record["h"] = source, w, h
        record["dst_x"], record["dst_y"] = left + w // 2, top + h // 2
    records["motion_scale"] = rng.choice([1, 2, 4], len(rows))
    records["motion_x"], records["motion_y"] = rng.integers(-8192, 8192, (2, len(rows)))
    for index in rng.choice(len(rows), min(num_odd, len(rows)), replace=False):
        name = rng.choice(["dst_x", "dst_y", "motion_x", "motion_y", "motion_scale", "source"])
        if name == "source" and num_lists == 2:
            continue  # nothing is wrong with the other list
        records[name][index] += rng.choice([1, 2, 3, 64, -64, 30000])
    return rng.permutation(records)


@settings(max_examples=150)
@given(seeds, sizes, st.sampled_from([1, 2]), st.integers(0, 2), st.booleans())
def test_motion_is_equal_and_the_same_vectors_are_refused(seed, size, lists, num_odd, readonly):
    rng = np.random.default_rng(seed)
    records = draw_vectors(rng, *size, num_lists=lists, num_odd=num_odd)
    records.flags.writeable = not readonly
    shape = {"coded_height": size[0], "coded_width": size[1], "num_lists": lists}
    try:
        expected = plain_motion.rasterise_vectors(records, **shape)
    except BitstreamError:
        with pytest.raises(BitstreamError):
            motion.rasterise_vectors(records, **shape)
        return
    found = motion.rasterise_vectors(records, **shape)
    for array, twin in zip(found, expected, strict=True):
        assert array.dtype == twin.dtype
        np.testing.assert_array_equal(array, twin)


@pytest.mark.parametrize("matrix", KEPT_MATRICES)
@settings(max_examples=10)
@given(seeds, st.sampled_from([(2, 2), (4, 6), (16, 34)]), st.booleans())
@example(0, (128, 128), True)
def test_colours_are_equal(matrix, seed, size, extremes_only):
    rng = np.random.default_rng(seed)
    shape = size[0] * 3 // 2, size[1]
    picture = rng.integers(0, 256, shape, np.uint8)
    if extremes_only:
        picture = rng.choice(np.array([0, 1, 16, 128, 235, 240, 254, 255], np.uint8), shape)
    picture.flags.writeable = False
    assert_same_planes(
        jpeg.to_jpeg_colours(picture, matrix=matrix),
        plain_jpeg.to_jpeg_colours(picture, matrix=matrix),
    )
