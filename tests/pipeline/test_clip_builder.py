"""A clip is gathered frame by frame; only the picture before is kept."""

import gc
import hashlib
import weakref

import numpy as np
import pytest

from gopstream.pipeline.clip_builder import ClipBuilder
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import BlockMotion, Planes
from gopstream.pipeline.residual import add_residual

HEIGHT, WIDTH = 32, 48


def planes(rng, height=HEIGHT, width=WIDTH):
    half = (height // 2, width // 2)
    shapes = ((height, width), half, half)
    return Planes(*(rng.integers(0, 256, shape, np.uint8) for shape in shapes))


def fields(rng, kind, height=HEIGHT, width=WIDTH, lists=1):
    grid = (lists, height // 8, width // 8)
    if kind == "I":
        return BlockMotion(np.zeros((*grid, 2), np.int16), np.zeros(grid, np.uint8))
    coverage = rng.integers(0, 2, grid).astype(np.uint8)
    motion = rng.integers(-40, 40, (*grid, 2)).astype(np.int16)
    return BlockMotion(motion * coverage[..., None].astype(np.int16), coverage)


def add(builder, rng, kinds, *, with_planes=True):
    """Add random frames; returns their planes and fields."""
    added = []
    for kind in kinds:
        picture, field = planes(rng), fields(rng, kind)
        builder.add(
            field, kind=kind, pts=7 * len(builder.kinds), planes=picture if with_planes else None
        )
        added.append((picture, field))
    return added


def split(flat):
    luma, chroma = HEIGHT * WIDTH, HEIGHT * WIDTH // 4
    half = (HEIGHT // 2, WIDTH // 2)
    y, cb, cr = np.split(flat, [luma, luma + chroma])
    return Planes(y.reshape(HEIGHT, WIDTH), cb.reshape(half), cr.reshape(half))


@pytest.mark.parametrize("capacity", [0, 1, 3, 7, 64])
def test_every_frame_comes_back_whatever_room_was_expected(capacity):
    rng = np.random.default_rng(capacity)
    builder = ClipBuilder(True, capacity=capacity)
    added = add(builder, rng, "IPPIPPP")
    residual = builder.residual
    assert residual.planes.shape == (7, HEIGHT * WIDTH * 3 // 2)
    reference = added[0][0]
    for flat, (picture, field) in zip(residual.planes, added, strict=True):
        predicted = predict_planes(reference, field.motion[0], field.coverage[0])
        reference = add_residual(predicted, split(flat))
        for plane, original in zip(reference, picture, strict=True):
            np.testing.assert_array_equal(plane, original)


def test_exceptions_name_their_frame():
    rng = np.random.default_rng(1)
    builder = ClipBuilder(True, capacity=4)
    added = add(builder, rng, "IPPP")
    reference = added[0][0]
    signed = []
    for picture, field in added:
        predicted = predict_planes(reference, field.motion[0], field.coverage[0])
        signed.append([p.astype(int) - q for p, q in zip(picture, predicted, strict=True)])
        reference = picture
    expected = [
        [frame, index, y, x, int(plane[y, x])]
        for frame, parts in enumerate(signed)
        for index, plane in enumerate(parts)
        for y, x in np.argwhere((plane < -128) | (plane > 127)).tolist()
    ]
    assert expected
    assert builder.residual.exceptions.tolist() == expected
    assert builder.residual.exceptions.dtype == np.int32


def test_each_gop_has_the_hash_of_its_pictures():
    rng = np.random.default_rng(2)
    builder = ClipBuilder(True, capacity=6)
    added = add(builder, rng, "IPIPPI")
    expected = []
    for start, end in ((0, 2), (2, 5), (5, 6)):
        content = b"".join(p.tobytes() for picture, _ in added[start:end] for p in picture)
        expected.append(hashlib.sha256(content).hexdigest())
    assert builder.gop_hashes == expected


def test_padded_rows_are_hashed_as_the_picture():
    """FFmpeg's rows are longer than the picture."""
    rng = np.random.default_rng(3)
    picture, field = planes(rng), fields(rng, "I")
    padded = Planes(*(np.pad(plane, ((0, 0), (0, 16)))[:, :-16] for plane in picture))
    plain, other = ClipBuilder(True, capacity=1), ClipBuilder(True, capacity=1)
    plain.add(field, kind="I", pts=0, planes=picture)
    other.add(field, kind="I", pts=0, planes=padded)
    assert plain.gop_hashes == other.gop_hashes
    np.testing.assert_array_equal(plain.residual.planes, other.residual.planes)


def test_the_share_of_zero_macroblocks_counts_predicted_ones():
    """Of six macroblocks: two predicted and equal, one predicted and not, three intra."""
    rng = np.random.default_rng(4)
    first = planes(rng)
    builder = ClipBuilder(True, capacity=2)
    builder.add(fields(rng, "I"), kind="I", pts=0, planes=first)
    assert builder.residual.zero_share == 0.0
    coverage = np.zeros((1, 4, 6), np.uint8)
    coverage[0, :2] = 1
    second = Planes(*(plane.copy() for plane in first))
    second.cr[7, 23] ^= 1
    motion = np.zeros((1, 4, 6, 2), np.int16)
    builder.add(BlockMotion(motion, coverage), kind="P", pts=1, planes=second)
    assert builder.residual.zero_share == pytest.approx(2 / 3)


def test_motion_coverage_and_times_are_those_added():
    rng = np.random.default_rng(5)
    builder = ClipBuilder(False, capacity=3)
    added = add(builder, rng, "PBI", with_planes=False)
    np.testing.assert_array_equal(builder.motion, np.stack([f.motion for _, f in added]))
    np.testing.assert_array_equal(builder.coverage, np.stack([f.coverage for _, f in added]))
    assert builder.motion.shape == (3, 1, 4, 6, 2)
    assert builder.pts == [0, 7, 14]
    assert builder.kinds == ["P", "B", "I"]
    assert builder.coded_shape == (HEIGHT, WIDTH)
    assert builder.residual is None
    assert builder.gop_hashes == []


@pytest.mark.parametrize("kinds", ["P", "B", "IB", "IPB"])
def test_a_residual_needs_an_i_frame_first_and_no_b_frames(kinds):
    message = f"frame {len(kinds) - 1} of the clip is a {kinds[-1]}-frame"
    with pytest.raises(BitstreamError, match=message):
        add(ClipBuilder(True, capacity=4), np.random.default_rng(6), kinds)


@pytest.mark.parametrize("size", [(32, 64), (48, 48)])
def test_a_change_of_size_is_refused_with_both_sizes(size):
    rng = np.random.default_rng(7)
    builder = ClipBuilder(False, capacity=4)
    add(builder, rng, "IPP", with_planes=False)
    message = f"from 48x32 to {size[1]}x{size[0]} after 3 frames; canonical mode"
    with pytest.raises(BitstreamError, match=message):
        builder.add(fields(rng, "P", *size), kind="P", pts=0)


@pytest.mark.parametrize(
    ("kinds", "longest", "starts"),
    [
        ("IPPIPP", None, (0, 3)),
        ("IPPPPPPPPP", None, (0,)),
        ("IPPPPPPPPP", 4, (0, 4, 8)),
        ("IPPPPIPPPP", 4, (0, 4, 5, 9)),
        ("PPPPP", None, (0,)),
        ("PPIPP", 3, (0, 2)),
        ("BBBB", 1, (0, 1, 2, 3)),
    ],
)
def test_chunks_begin_at_i_frames_and_are_not_longer_than_asked(kinds, longest, starts):
    builder = ClipBuilder(False, capacity=1)
    add(builder, np.random.default_rng(8), kinds, with_planes=False)
    assert builder.chunk_starts(longest=longest) == starts


class Tracked(np.ndarray):
    """An array of which one can tell when it is gone."""


def test_only_the_picture_before_is_kept():
    """Decoders use their memory again, and a clip may have hundreds of frames."""
    rng = np.random.default_rng(9)
    builder = ClipBuilder(True, capacity=4)
    references = []
    for kind in "IPPP":
        picture = Planes(*(plane.view(Tracked) for plane in planes(rng)))
        references.append(weakref.ref(picture.y))
        builder.add(fields(rng, kind), kind=kind, pts=0, planes=picture)
        del picture
    gc.collect()
    assert [reference() is not None for reference in references] == [False, False, False, True]
