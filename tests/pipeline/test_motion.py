import av
import numpy as np
import pytest

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.motion import VECTOR_DTYPE, rasterise_vectors

# libavutil/motion_vector.h, without the padding.
RECORD = np.dtype(
    [
        ("source", "i4"),
        ("w", "u1"),
        ("h", "u1"),
        ("src_x", "i2"),
        ("src_y", "i2"),
        ("dst_x", "i2"),
        ("dst_y", "i2"),
        ("flags", "u8"),
        ("motion_x", "i4"),
        ("motion_y", "i4"),
        ("motion_scale", "u2"),
    ]
)


def vectors(*blocks, source=-1, scale=4):
    """Each block is (left, top, width, height, dx, dy)."""
    records = np.zeros(len(blocks), RECORD)
    for record, (left, top, width, height, dx, dy) in zip(records, blocks, strict=True):
        record["source"], record["motion_scale"] = source, scale
        record["w"], record["h"] = width, height
        record["dst_x"], record["dst_y"] = left + width // 2, top + height // 2
        record["motion_x"], record["motion_y"] = dx, dy
        # Truncated by FFmpeg; must not be read.
        record["src_x"] = record["src_y"] = 12345
    return records


def rasterise(records, **options):
    return rasterise_vectors(records, coded_height=32, coded_width=32, **options)


@pytest.mark.parametrize(
    ("block", "cells"),
    [
        ((16, 0, 16, 16), [(0, 2), (0, 3), (1, 2), (1, 3)]),
        ((16, 8, 16, 8), [(1, 2), (1, 3)]),
        ((8, 16, 8, 16), [(2, 1), (3, 1)]),
        ((24, 24, 8, 8), [(3, 3)]),
    ],
    ids=["16x16", "16x8", "8x16", "8x8"],
)
def test_a_block_fills_its_cells_and_no_others(block, cells):
    fields = rasterise(vectors((*block, -7, 5)))
    expected = np.zeros((1, 4, 4), np.uint8)
    for row, column in cells:
        expected[0, row, column] = 1
    np.testing.assert_array_equal(fields.coverage, expected)
    np.testing.assert_array_equal(fields.motion, expected[..., None] * np.array([-7, 5]))
    assert fields.motion.dtype == np.int16
    assert fields.coverage.dtype == np.uint8


def test_several_blocks_of_one_frame_lie_side_by_side():
    fields = rasterise(
        vectors((0, 0, 16, 8, 1, 2), (0, 8, 16, 8, 3, 4), (16, 0, 8, 16, 5, 6), (24, 8, 8, 8, 7, 8))
    )
    np.testing.assert_array_equal(fields.motion[0, :2, :, 0], [[1, 1, 5, 0], [3, 3, 5, 7]])
    np.testing.assert_array_equal(fields.motion[0, :2, :, 1], [[2, 2, 6, 0], [4, 4, 6, 8]])
    np.testing.assert_array_equal(fields.coverage[0, :2], [[1, 1, 1, 0], [1, 1, 1, 1]])
    assert not fields.coverage[0, 2:].any()


@pytest.mark.parametrize(("scale", "expected"), [(4, (3, -5)), (2, (6, -10)), (1, (12, -20))])
def test_every_unit_becomes_quarter_pixels(scale, expected):
    fields = rasterise(vectors((0, 0, 8, 8, 3, -5), scale=scale))
    assert tuple(fields.motion[0, 0, 0]) == expected


@pytest.mark.parametrize("records", [None, vectors()], ids=["none", "empty"])
def test_a_frame_without_vectors_covers_nothing(records):
    fields = rasterise(records, num_lists=2)
    assert fields.motion.shape == (2, 4, 4, 2)
    assert not fields.motion.any()
    assert not fields.coverage.any()


def test_a_still_block_is_covered():
    fields = rasterise(vectors((0, 0, 8, 8, 0, 0)))
    assert fields.coverage[0, 0, 0] == 1


def test_the_two_lists_are_kept_apart():
    records = np.concatenate(
        [vectors((0, 0, 8, 8, 1, 2)), vectors((0, 0, 8, 8, 3, 4), (8, 0, 8, 8, 5, 6), source=1)]
    )
    fields = rasterise(records, num_lists=2)
    np.testing.assert_array_equal(fields.motion[:, 0, 0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(fields.coverage[:, 0, :2], [[1, 0], [1, 1]])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (vectors((0, 0, 8, 8, 1, 1), source=1), "future frame"),
        (vectors((4, 0, 8, 8, 1, 1)), "8x8 grid"),
        (vectors((0, 2, 8, 8, 1, 1)), "8x8 grid"),
        (vectors((24, 0, 16, 8, 1, 1)), "outside of the 32x32"),
        (vectors((0, 32, 8, 8, 1, 1)), "outside"),
        (vectors((-8, 0, 8, 8, 1, 1)), "outside"),
        (vectors((0, -16, 16, 16, 1, 1)), "outside"),
        (vectors((0, 0, 8, 8, 32768, 0)), "32768 .* exceeds int16"),
        (vectors((0, 0, 8, 8, 0, -8193), scale=1), "32772 .* exceeds int16"),
        (vectors((0, 0, 8, 8, 1, 1), scale=8), "motion_scale"),
        (vectors((0, 0, 8, 8, 1, 1), scale=0), "motion_scale"),
        (vectors((0, 0, 8, 8, 1, 1), scale=3), "motion_scale"),
    ],
)
def test_what_does_not_fit_is_refused(records, message):
    with pytest.raises(BitstreamError, match=message):
        rasterise(records)


@pytest.mark.parametrize("value", [-32768, 32767])
def test_the_longest_vectors_of_int16_are_kept(value):
    assert rasterise(vectors((0, 0, 8, 8, value, value))).motion[0, 0, 0].tolist() == [value] * 2


def test_the_record_is_that_of_the_library(small_video):
    """Field by field PyAV's own; the last six bytes are padding, never to be compared."""
    with av.open(str(small_video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.options = {"flags2": "+export_mvs"}
        tables = [frame.side_data.get("MOTION_VECTORS") for frame in container.decode(stream)]
    known = [table for table in tables if table is not None]
    assert len(known) > 20
    for table in known:
        records, expected = np.frombuffer(table, VECTOR_DTYPE), table.to_ndarray()
        assert set(records.dtype.names) == set(expected.dtype.names)
        for name in records.dtype.names:
            np.testing.assert_array_equal(records[name], expected[name], err_msg=name)
    assert (VECTOR_DTYPE.itemsize, VECTOR_DTYPE.fields["motion_scale"][1]) == (40, 32)


def test_the_vector_at_fault_is_shown():
    records = vectors((0, 0, 8, 8, 1, 1), (8, 4, 8, 8, -3, 2))
    message = "8x8 grid .*w 8, h 8, dst_x 12, dst_y 8, motion_x -3, motion_y 2, motion_scale 4"
    with pytest.raises(BitstreamError, match=message):
        rasterise(records)


@pytest.mark.parametrize("is_last", [True, False])
def test_one_bad_vector_among_good_ones_is_enough(is_last):
    records = vectors((0, 0, 16, 16, 1, 1), (16, 16, 16, 16, 1, 1), (24, 24, 16, 16, 1, 1))
    with pytest.raises(BitstreamError, match="outside of the 32x32"):
        rasterise(records if is_last else records[::-1].copy())


def test_readonly_records_are_read():
    """As they come from FFmpeg's own memory."""
    records = vectors((0, 0, 8, 8, 9, -9)).astype(VECTOR_DTYPE)
    assert rasterise(np.frombuffer(records.tobytes(), VECTOR_DTYPE)).motion[0, 0, 0, 0] == 9
