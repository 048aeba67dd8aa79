"""Where each pixel of a transformed clip comes from: one map for every plane.

Conventions, for frames, motion and residual alike:

* Points are (x, y) with x to the right and y down, in pixels measured from the picture's upper
  left corner. The centre of the pixel in row i and column j is (j + 0.5, i + 0.5).
* A map goes from a point of the result to the point of the stored frame that is shown there. It
  is affine, a (2, 3) matrix, and the same for all frames of a clip.
* Boxes have whole corners, as the papers' crops have, so that a crop of the result's own size is
  a copy of stored pixels.
* A vector of the stored frame becomes one of the result by the inverse of the map's linear part:
  scaled by a resize, x negated by a flip, turned by a rotation, left alone by a shift.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.shards.errors import ShardError

Matrix = npt.NDArray[np.float64]
"""(2, 3): the last column is added."""

CROP_ATTEMPTS: Final = 10
"""Boxes that a crop by area tries, as torchvision and the released recipes do."""


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the pixels of a square result are taken from a stored frame."""

    box: Box
    """The part of the stored frame that is resized to the result."""
    size: int
    """Side of the result in pixels."""
    flip: bool = False
    """Mirror left and right, after the crop."""
    warp: tuple[float, float, float, float, float, float] | None = None
    """The rows of the whole map where shears, shifts and rotations belong to it; they stand
    beside crop and flip, which are in it too."""

    def matrix(self) -> Matrix:
        """Return the (2, 3) map from a point of the result to one of the stored frame."""
        if self.warp is not None:
            return np.array(self.warp).reshape(2, 3)
        across, down = self.box.width / self.size, self.box.height / self.size
        left = self.box.left
        if self.flip:
            left, across = left + self.box.width, -across
        return np.array([[across, 0.0, left], [0.0, down, self.box.top]])


def with_warp(geometry: Geometry, matrix: Matrix) -> Geometry:
    """Return a geometry whose whole map is another one, about the same box."""
    a, b, c, d, e, f = (float(value) for value in matrix.ravel())
    return Geometry(geometry.box, geometry.size, geometry.flip, (a, b, c, d, e, f))


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Return the map that applies ``inner`` first and ``outer`` to what comes out."""
    linear = outer[:, :2] @ inner[:, :2]
    shift = outer[:, :2] @ inner[:, 2] + outer[:, 2]
    return np.concatenate([linear, shift[:, None]], axis=1)


# Shears are about the upper left corner in Pillow, hence in the published policies; imgaug's are
# about the centre.
GEOMETRIC_OPS: Final = (
    "shear_x",
    "shear_y",
    "centred_shear_x",
    "centred_shear_y",
    "translate_x",
    "translate_y",
    "rotate",
)
"""Operations of augmentation policies that move pixels."""


def op_matrix(name: str, amount: float, *, size: tuple[int, int]) -> Matrix:
    """Return the map of one operation of an augmentation policy, from its result to its input.

    Args:
        name: One of ``GEOMETRIC_OPS``.
        amount: Shear in pixels per pixel; shift as a share of the picture's side; degrees
            against the clock. Signs as ``PIL.Image.transform`` and ``PIL.Image.rotate`` have them.
        size: (width, height) of the picture, which stays.
    """
    assert name in GEOMETRIC_OPS, name
    width, height = size
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    if name.endswith("shear_x"):
        matrix[0, 1] = amount
    elif name.endswith("shear_y"):
        matrix[1, 0] = amount
    elif name == "translate_x":
        matrix[0, 2] = amount * width
    elif name == "translate_y":
        matrix[1, 2] = amount * height
    else:
        sine, cosine = math.sin(math.radians(amount)), math.cos(math.radians(amount))
        matrix[:, :2] = [[cosine, -sine], [sine, cosine]]
    if name == "rotate" or name.startswith("centred"):
        centre = np.array([width / 2.0, height / 2.0])
        matrix[:, 2] = centre - matrix[:, :2] @ centre
    return matrix


def area_box(
    frame_size: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: npt.NDArray[np.float64],
) -> Box:
    """Choose a box by area and aspect (Inception, CVPR 2015), as RandomResizedCrop does.

    The first box that fits is taken; if none does, the largest central one whose aspect is
    allowed.

    Args:
        frame_size: (width, height) of the stored frames.
        scale: Range of the box's area, as a share of the frame's.
        ratio: Range of width over height, even in logarithm.
        draws: (CROP_ATTEMPTS, 4) random numbers in [0, 1): area, aspect, left, top.
    """
    width, height = frame_size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, ratio_draw, left, top in draws.tolist():
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect = math.exp(low + (high - low) * ratio_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(left * (width - w + 1)), int(top * (height - h + 1)), w, h)
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return Box((width - w) // 2, (height - h) // 2, w, h)


def resized_side(frame_size: tuple[int, int], *, size: int, short_side: float) -> int:
    """Return the side, in stored pixels, of a square crop that is made after a resize.

    Args:
        frame_size: (width, height) of the stored frames.
        size: Side of the crop after the resize.
        short_side: What the resize makes of the frame's short side.

    Raises:
        ShardError: If the crop does not fit into the resized frame.
    """
    if size > short_side:
        raise ShardError(
            f"a crop of {size} pixels does not fit into frames of {frame_size[0]}x"
            f"{frame_size[1]} whose short side is {short_side:g}: resize first (crop = "
            "short_side), or crop by area"
        )
    return max(1, math.floor(size * min(frame_size) / short_side + 0.5))


def random_box(frame_size: tuple[int, int], *, side: int, draws: npt.NDArray[np.float64]) -> Box:
    """Choose a place for a square box that fits.

    Args:
        frame_size: (width, height) of the stored frames.
        side: Of the box.
        draws: (2,) random numbers in [0, 1): left, top.
    """
    width, height = frame_size
    left, top = int(draws[0] * (width - side + 1)), int(draws[1] * (height - side + 1))
    return Box(left, top, side, side)


def even_box(frame_size: tuple[int, int], *, side: int, crop: int, num_crops: int) -> Box:
    """Return one of the square boxes that testing spreads evenly along the long side.

    Args:
        frame_size: (width, height) of the stored frames.
        side: Of the box.
        crop: Which one, from 0.
        num_crops: How many; a single one is central, three lie at both ends and the centre.
    """
    width, height = frame_size
    place = 0.5 if num_crops == 1 else crop / (num_crops - 1)
    across, down = (place, 0.5) if width >= height else (0.5, place)
    left, top = math.floor((width - side) * across + 0.5), math.floor((height - side) * down + 0.5)
    return Box(left, top, side, side)


class Cells(NamedTuple):
    """The block under the centre of each cell of a square output grid."""

    flat: npt.NDArray[np.int64]
    """(grid, grid) row * columns + column; the nearest block where the centre lies outside."""
    inside: npt.NDArray[np.bool_]
    """(grid, grid) False where the result shows what lies outside of the stored frame."""


def cells_under(
    geometry: Geometry,
    *,
    grid: int,
    frame_size: tuple[int, int],
    display_rect: tuple[int, int, int, int],
    blocks: tuple[int, int],
    block_pixels: int,
) -> Cells:
    """Look up the block of the coded picture that each cell of the result shows.

    Args:
        geometry: Of the clip.
        grid: Cells on a side of the output.
        frame_size: (width, height) of the stored frames.
        display_rect: (x, y, width, height) of the same picture inside the coded one.
        blocks: (rows, columns) of the coded grid.
        block_pixels: Side of a block in coded pixels.
    """
    points = _cell_centres(geometry, grid)
    size = np.array(frame_size)
    coded = points * (np.array(display_rect[2:]) / size) + display_rect[:2]
    columns, rows = np.moveaxis(np.floor(coded / block_pixels).astype(np.int64), -1, 0)
    rows, columns = np.clip(rows, 0, blocks[0] - 1), np.clip(columns, 0, blocks[1] - 1)
    inside = points_inside(geometry, grid=grid, frame_size=frame_size)
    return Cells(rows * blocks[1] + columns, inside)


def points_inside(
    geometry: Geometry, *, grid: int, frame_size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Return (grid, grid) whether the centre of a cell of the result shows the stored frame."""
    points = _cell_centres(geometry, grid)
    return np.asarray(((points >= 0) & (points < np.array(frame_size))).all(axis=-1))


def _cell_centres(geometry: Geometry, grid: int) -> npt.NDArray[np.float64]:
    """Return (grid, grid, 2), x and y in the stored frame."""
    centres = (np.arange(grid) + 0.5) * (geometry.size / grid)
    matrix = geometry.matrix()
    points = np.stack(np.meshgrid(centres, centres), axis=-1)
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def vector_matrix(
    geometry: Geometry, *, frame_size: tuple[int, int], display_rect: tuple[int, int, int, int]
) -> npt.NDArray[np.float64]:
    """Return (2, 2) that turns a vector of coded pixels into one of the result's pixels."""
    to_frame = np.diag([frame_size[0] / display_rect[2], frame_size[1] / display_rect[3]])
    return np.asarray(np.linalg.inv(geometry.matrix()[:, :2]) @ to_frame, np.float64)
