"""Prediction against the formulas of ITU-T H.264, one sample at a time."""

import subprocess
import sys

import numpy as np
import pytest

from gopstream.pipeline.compensation import INTRA_PREDICTION, predict_planes, side_by_side
from gopstream.pipeline.grid import Planes

TAPS = (1, -5, 20, 20, -5, 1)


def clip1(value):
    return min(max(value, 0), 255)


class Luma:
    """Clause 8.4.2.2.1; names of samples as in figure 8-4. (x, y) is the whole position of G."""

    def __init__(self, plane):
        self.plane = plane.astype(int).tolist()
        self.height, self.width = plane.shape

    def whole(self, x, y):
        row = self.plane[min(max(y, 0), self.height - 1)]
        return row[min(max(x, 0), self.width - 1)]

    def b1(self, x, y):
        return sum(tap * self.whole(x + i - 2, y) for i, tap in enumerate(TAPS))

    def h1(self, x, y):
        return sum(tap * self.whole(x, y + i - 2) for i, tap in enumerate(TAPS))

    def half_right(self, x, y):
        return clip1((self.b1(x, y) + 16) >> 5)

    def half_down(self, x, y):
        return clip1((self.h1(x, y) + 16) >> 5)

    def centre(self, x, y):
        return clip1((sum(tap * self.b1(x, y + i - 2) for i, tap in enumerate(TAPS)) + 512) >> 10)

    def at(self, x, y, x_frac, y_frac):
        """Table 8-12."""
        G, H, M = self.whole(x, y), self.whole(x + 1, y), self.whole(x, y + 1)
        b, h, j = self.half_right(x, y), self.half_down(x, y), self.centre(x, y)
        m, s = self.half_down(x + 1, y), self.half_right(x, y + 1)
        pairs = {
            (0, 0): (G, G),
            (0, 1): (G, h),  # d
            (0, 2): (h, h),
            (0, 3): (M, h),  # n
            (1, 0): (G, b),  # a
            (1, 1): (b, h),  # e
            (1, 2): (h, j),  # i
            (1, 3): (h, s),  # p
            (2, 0): (b, b),
            (2, 1): (b, j),  # f
            (2, 2): (j, j),
            (2, 3): (j, s),  # q
            (3, 0): (H, b),  # c
            (3, 1): (b, m),  # g
            (3, 2): (j, m),  # k
            (3, 3): (s, m),  # r
        }
        first, second = pairs[x_frac, y_frac]
        return (first + second + 1) >> 1


def predict_luma(plane, motion):
    luma = Luma(plane)
    result = np.zeros_like(plane)
    for y, x in np.ndindex(plane.shape):
        dx, dy = motion[y // 8, x // 8].tolist()
        result[y, x] = luma.at(x + (dx >> 2), y + (dy >> 2), dx & 3, dy & 3)
    return result


def predict_chroma(plane, motion):
    """Clause 8.4.2.2.2: the luma vector in eighths of a chroma sample."""
    luma = Luma(plane)
    result = np.zeros_like(plane)
    for y, x in np.ndindex(plane.shape):
        dx, dy = motion[y // 4, x // 4].tolist()
        left, top, fx, fy = x + (dx >> 3), y + (dy >> 3), dx & 7, dy & 7
        total = (8 - fx) * (8 - fy) * luma.whole(left, top)
        total += fx * (8 - fy) * luma.whole(left + 1, top)
        total += (8 - fx) * fy * luma.whole(left, top + 1)
        total += fx * fy * luma.whole(left + 1, top + 1)
        result[y, x] = (total + 32) >> 6
    return result


def random_planes(rng, height=32, width=48):
    # Extremes are frequent, so that the taps overshoot and the clipping is at work.
    def plane(*shape):
        drawn = rng.integers(0, 256, shape)
        extreme = rng.choice([0, 255], shape)
        return np.where(rng.random(shape) < 0.5, extreme, drawn).astype(np.uint8)

    half = (height // 2, width // 2)
    return Planes(plane(height, width), plane(*half), plane(*half))


def assert_equals_standard(planes, motion):
    predicted = predict_planes(planes, motion, np.ones(motion.shape[:2], np.uint8))
    np.testing.assert_array_equal(predicted.y, predict_luma(planes.y, motion))
    np.testing.assert_array_equal(predicted.cb, predict_chroma(planes.cb, motion))
    np.testing.assert_array_equal(predicted.cr, predict_chroma(planes.cr, motion))


@pytest.mark.parametrize("y_frac", range(4))
@pytest.mark.parametrize("x_frac", range(4))
def test_each_quarter_position_equals_the_standard(x_frac, y_frac):
    rng = np.random.default_rng(4 * y_frac + x_frac)
    planes = random_planes(rng, 16, 32)
    motion = rng.integers(-6, 6, (2, 4, 2)) * 4 + (x_frac, y_frac)
    assert_equals_standard(planes, motion.astype(np.int16))


@pytest.mark.parametrize("reach", [3, 40, 400, 32767])
def test_any_vectors_equal_the_standard_also_far_outside(reach):
    rng = np.random.default_rng(reach)
    motion = rng.integers(-reach - 1, reach + 1, (4, 6, 2)).astype(np.int16)
    assert_equals_standard(random_planes(rng), motion)


@pytest.mark.parametrize("whole", range(-12, 13))
def test_the_border_equals_the_standard_at_each_distance(whole):
    """One block row, moved so that the taps straddle, touch and leave each border."""
    rng = np.random.default_rng(99)
    planes = random_planes(rng, 16, 16)
    motion = np.full((2, 2, 2), 4 * whole, np.int16) + rng.integers(0, 4, (2, 2, 2), np.int16)
    assert_equals_standard(planes, motion)


def test_blocks_without_prediction_are_128_in_all_planes():
    rng = np.random.default_rng(5)
    planes = random_planes(rng)
    motion = rng.integers(-20, 20, (4, 6, 2)).astype(np.int16)
    coverage = rng.integers(0, 2, (4, 6)).astype(np.uint8)
    predicted = predict_planes(planes, motion, coverage)
    everywhere = predict_planes(planes, motion, np.ones_like(coverage))
    assert INTRA_PREDICTION == 128
    for plane, covered, block in zip(predicted, everywhere, (8, 4, 4), strict=True):
        is_predicted = np.kron(coverage, np.ones((block, block))) == 1
        np.testing.assert_array_equal(plane, np.where(is_predicted, covered, 128))


def test_zero_motion_predicts_the_reference_itself():
    planes = random_planes(np.random.default_rng(6))
    predicted = predict_planes(planes, np.zeros((4, 6, 2), np.int16), np.ones((4, 6), np.uint8))
    for plane, reference in zip(predicted, planes, strict=True):
        np.testing.assert_array_equal(plane, reference)


def test_the_reference_is_not_changed():
    planes = random_planes(np.random.default_rng(7))
    before = [plane.copy() for plane in planes]
    predict_planes(planes, np.full((4, 6, 2), 5, np.int16), np.zeros((4, 6), np.uint8))
    for plane, copy in zip(planes, before, strict=True):
        np.testing.assert_array_equal(plane, copy)


# Which cells of a macroblock share a vector.
DIVISIONS = {
    "16x16": [0, 0, 0, 0],
    "16x8": [0, 0, 1, 1],
    "8x16": [0, 1, 0, 1],
    "8x8": [0, 1, 2, 3],
    "three alike": [0, 0, 0, 1],
}


@pytest.mark.parametrize("division", DIVISIONS.values(), ids=DIVISIONS)
def test_each_division_of_a_macroblock_equals_the_standard(division):
    """Blocks are interpolated as large as they are; the samples must not depend on that."""
    rng = np.random.default_rng(11)
    planes = random_planes(rng)
    for _ in range(4):
        vectors = rng.integers(-70, 70, (2, 3, 4, 2))[:, :, division]
        motion = vectors.reshape(2, 3, 2, 2, 2).swapaxes(1, 2).reshape(4, 6, 2)
        assert_equals_standard(planes, motion.astype(np.int16))


def test_padding_behind_the_rows_is_never_read_as_picture():
    """FFmpeg's rows are longer than the picture; beyond its border the border repeats."""
    rng = np.random.default_rng(12)
    planes = random_planes(rng)
    motion = rng.integers(-200, 200, (4, 6, 2)).astype(np.int16)
    covered = np.ones((4, 6), np.uint8)
    expected = predict_planes(planes, motion, covered)
    for filling in (0, 255):
        padded = []
        for plane in planes:
            rows = np.full((plane.shape[0], 64), filling, np.uint8)
            rows[:, : plane.shape[1]] = plane
            buffer = np.frombuffer(rows.tobytes(), np.uint8)
            padded.append(buffer.reshape(rows.shape)[:, : plane.shape[1]])
        for plane, right in zip(
            predict_planes(Planes(*padded), motion, covered), expected, strict=True
        ):
            np.testing.assert_array_equal(plane, right)


@pytest.mark.parametrize(
    ("layout", "copies"),
    [
        ("whole", False),
        ("padded", False),
        ("lower part", False),
        ("every second row", False),
        ("upside down", True),
        ("transposed", True),
    ],
)
def test_planes_are_read_where_they_are_and_copied_only_where_they_must(layout, copies):
    rng = np.random.default_rng(5)
    whole = rng.integers(0, 256, (96, 96), np.uint8)
    luma = {
        "whole": whole[:32].copy(),
        "padded": whole[:32, :48],
        "lower part": whole[50:82, 7:55],
        "every second row": whole[:64:2, 3:51],
        "upside down": whole[31::-1, :48],
        "transposed": whole[:48, :32].T,
    }[layout][:, :48]
    assert (side_by_side(luma) is not luma) == copies
    chroma = [rng.integers(0, 256, (16, 24), np.uint8) for _ in range(2)]
    motion = rng.integers(-99, 99, (4, 6, 2)).astype(np.int16)
    covered = np.ones((4, 6), np.uint8)
    expected = predict_planes(Planes(luma.copy(order="C"), *chroma), motion, covered)
    np.testing.assert_array_equal(
        predict_planes(Planes(luma, *chroma), motion, covered).y, expected.y
    )


@pytest.mark.parametrize(
    ("motion", "coverage"), [((4, 5, 2), (4, 6)), ((4, 6, 2), (3, 6)), ((2, 4, 6, 2), (2, 4, 6))]
)
def test_motion_of_another_size_is_refused(motion, coverage):
    """A kernel would read past the end of it."""
    planes = random_planes(np.random.default_rng(8))
    with pytest.raises(ValueError, match=r"48x32 has motion \(4, 6, 2\) and coverage \(4, 6\)"):
        predict_planes(planes, np.zeros(motion, np.int16), np.ones(coverage, np.uint8))


GUARDED = """
import ctypes, mmap
import subprocess
import sys

import numpy as np
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.residual import residual_between

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE

def fenced(plane, at_end):
    # The samples touch a page that nobody may read.
    num_pages = -(-plane.size // PAGE)
    memory = mmap.mmap(-1, (num_pages + 2) * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = (num_pages + 1) * PAGE - plane.size if at_end else PAGE
    whole[start : start + plane.size] = plane.reshape(-1)
    for page in (0, num_pages + 1):
        address = ctypes.c_void_p(whole.ctypes.data + page * PAGE)
        assert libc.mprotect(address, PAGE, 0) == 0
    kept.append(memory)
    return np.frombuffer(memory, np.uint8, plane.size, start).reshape(plane.shape)

kept = []
rng = np.random.default_rng(0)
shapes = ((48, 64), (24, 32), (24, 32))
drawn = Planes(*(rng.integers(0, 256, shape, np.uint8) for shape in shapes))
covered = np.ones((6, 8), np.uint8)
for at_end in (True, False):
    planes = Planes(*(fenced(plane, at_end) for plane in drawn))
    for _ in range(300):
        motion = rng.integers(-90, 90, (3, 4, 2)).repeat(2, 0).repeat(2, 1).astype(np.int16)
        if rng.random() < 0.5:
            motion = rng.integers(-90, 90, (6, 8, 2)).astype(np.int16)
        predicted = predict_planes(planes, motion, covered)
        expected = predict_planes(drawn, motion, covered)
        for plane, right in zip(predicted, expected, strict=True):
            assert (plane == right).all()
        residual_between(planes, predicted)
print("unharmed")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_nothing_outside_of_the_planes_is_read():
    """The kernels check no index. A read beyond the memory of a plane would kill the process."""
    command = [sys.executable, "-c", GUARDED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "unharmed"), done.stderr
