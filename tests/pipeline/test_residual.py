import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gopstream.pipeline.grid import Planes
from gopstream.pipeline.residual import add_residual, residual_between, zero_macroblocks

EXTREMES = st.sampled_from([0, 1, 127, 128, 129, 254, 255])


def planes():
    values = EXTREMES | st.integers(0, 255)
    return st.builds(
        Planes,
        arrays(np.uint8, (16, 32), elements=values),
        arrays(np.uint8, (8, 16), elements=values),
        arrays(np.uint8, (8, 16), elements=values),
    )


def zeros(height=32, width=48):
    half = (height // 2, width // 2)
    return Planes(*(np.zeros(shape, np.uint8) for shape in ((height, width), half, half)))


@given(planes(), planes())
def test_the_frame_comes_back_from_prediction_and_residual(decoded, predicted):
    rebuilt = add_residual(predicted, residual_between(decoded, predicted).planes)
    for plane, original in zip(rebuilt, decoded, strict=True):
        np.testing.assert_array_equal(plane, original)


@given(planes(), planes())
def test_int8_and_exceptions_give_the_signed_residual(decoded, predicted):
    residual = residual_between(decoded, predicted)
    signed = [plane.view(np.int8).astype(int) for plane in residual.planes]
    for plane, y, x, value in residual.exceptions.tolist():
        assert not -128 <= value <= 127
        signed[plane][y, x] = value
    for found, plane, prediction in zip(signed, decoded, predicted, strict=True):
        np.testing.assert_array_equal(found, plane.astype(int) - prediction)


def test_the_limits_of_int8_are_no_exceptions():
    decoded, predicted = zeros(), zeros()
    for x, (value, prediction) in enumerate([(127, 0), (0, 128), (128, 0), (0, 129), (255, 0)]):
        decoded.cb[3, x], predicted.cb[3, x] = value, prediction
    exceptions = residual_between(decoded, predicted).exceptions
    assert exceptions.tolist() == [[1, 3, 2, 128], [1, 3, 3, -129], [1, 3, 4, 255]]
    assert exceptions.dtype == np.int32


def test_equal_planes_have_no_residual():
    residual = residual_between(zeros(), zeros())
    assert residual.exceptions.shape == (0, 4)
    assert not any(plane.any() for plane in residual.planes)


def test_a_macroblock_is_zero_only_if_all_three_planes_are():
    residual = zeros()
    assert zero_macroblocks(residual).all()
    residual.y[15, 16] = 1
    residual.cb[8, 0] = 255
    residual.cr[15, 23] = 3
    expected = [[True, False, True], [False, True, False]]
    np.testing.assert_array_equal(zero_macroblocks(residual), expected)


def test_the_signed_residual_by_hand():
    decoded, predicted = zeros(16, 16), zeros(16, 16)
    decoded.y[0, :4], predicted.y[0, :4] = (10, 0, 200, 5), (7, 1, 71, 205)
    residual = residual_between(decoded, predicted)
    assert residual.planes.y[0, :4].tolist() == [3, 255, 129, 56]
    assert residual.exceptions.tolist() == [[0, 0, 2, 129], [0, 0, 3, -200]]


def test_exceptions_are_listed_by_plane_and_from_the_top():
    decoded, predicted = zeros(), zeros()
    for plane, y, x in [("cr", 0, 5), ("y", 31, 0), ("y", 2, 47), ("cb", 1, 1), ("y", 2, 3)]:
        getattr(decoded, plane)[y, x] = 200
    rows = residual_between(decoded, predicted).exceptions[:, :3].tolist()
    assert rows == [[0, 2, 3], [0, 2, 47], [0, 31, 0], [1, 1, 1], [2, 0, 5]]


def test_padding_behind_the_rows_is_no_residual():
    padded = [np.full((plane.shape[0], 64), 200, np.uint8) for plane in zeros()]
    decoded = Planes(*(p[:, : z.shape[1]] for p, z in zip(padded, zeros(), strict=True)))
    for plane in decoded:
        plane[:] = 3
    residual = residual_between(decoded, zeros())
    assert all((plane == 3).all() for plane in residual.planes)
    assert len(residual.exceptions) == 0


def test_a_single_sample_anywhere_makes_its_macroblock_not_zero():
    for side, name in ((16, "y"), (8, "cb"), (8, "cr")):
        for y, x in np.ndindex(2 * side, 3 * side):
            residual = zeros()
            getattr(residual, name)[y, x] = 1
            found = zero_macroblocks(residual)
            assert not found[y // side, x // side]
            assert found.sum() == 5
