"""Periodic textures that look natural, and their sampling at any position, angle and scale.

The picture is a plane tiled by one square of noise, so every crop of it is as likely as
every other one: where a clip looks, at which angle and how far moved, can say nothing.

Dimensions: P texture side in texels, N points.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_MAX_FREQUENCY: Final = 0.22
"""Cut-off of the low-pass filter in cycles per texel. Below Nyquist by so much that bilinear
samples at half size do not alias visibly."""

_MIN_FREQUENCY: Final = 0.02
"""Cycles per texel below which the spectrum is flat: stronger long waves would leave whole
apertures without an edge."""

_LUMA: Final = np.array([0.2126, 0.7152, 0.0722], np.float32)  # BT.709, the encoder's matrix


class Texture(NamedTuple):
    """One tile of texture, split so that two can be blended without losing contrast."""

    detail: FloatArray
    """(P, P, 3) float32, RGB around zero; 1 is the range of a picture."""
    mean: FloatArray
    """(3,) float32, RGB in 0..1."""


def make_texture(rng: np.random.Generator, side: int) -> Texture:
    """Make a tile of coloured patches with bent, sharp borders and finer shading inside.

    Noise of natural spectrum (amplitude ``1 / f ** a``) is bent by other noise and cut at
    random levels; each level gets a colour. Thresholds give the edges that motion search
    needs, and the tile stays periodic since all filters are circular.

    Args:
        rng: Source of every draw.
        side: Texels along one side. A power of two: wrapping is then a bit mask.

    Returns:
        The tile, low-passed; its contrast in luma is drawn too.

    Raises:
        ValueError: If ``side`` is not a power of two of at least 64.
    """
    if side < 64 or side & (side - 1):
        raise ValueError(f"side must be a power of two of at least 64, got {side}")
    exponents = (1.5, 2.2, 2.2, 1.0, 1.4)
    shape, bend_x, bend_y, shade, tint = _natural_noise(rng, side, exponents=exponents)
    axis = np.arange(side, dtype=np.float32)
    strength = np.float32(rng.uniform(4.0, 10.0))
    bent = sample_tile(
        np.stack([shape, shade, tint], axis=-1),
        x=(axis[None, :] + strength * bend_x).ravel(),
        y=(axis[:, None] + strength * bend_y).ravel(),
    ).reshape(side, side, 3)
    levels = np.sort(rng.normal(0.0, 0.8, rng.integers(3, 6))).astype(np.float32)
    colours = _draw_palette(rng, len(levels) + 1)
    picture = np.broadcast_to(colours[0], bent.shape)
    for level, colour in zip(levels, colours[1:], strict=True):
        inside = np.clip(0.5 + 12.0 * (bent[..., 0:1] - level), 0.0, 1.0)
        picture = picture + inside * (colour - picture)
    picture = picture + np.float32(rng.uniform(0.08, 0.16)) * bent[..., 1:2]
    picture = picture + 0.06 * bent[..., 2:3] * _draw_tint(rng)
    return _normalise(_low_pass(picture.astype(np.float32)), contrast=float(rng.uniform(0.15, 0.2)))


def sample_tile(tile: FloatArray, *, x: FloatArray, y: FloatArray) -> FloatArray:
    """Sample a periodic tile bilinearly.

    Args:
        tile: (P, P, C) float32, P a power of two.
        x: (N,) float32 columns in texels, any value; 0 is the centre of the first texel.
        y: (N,) float32 rows in texels.

    Returns:
        (N, C) float32.
    """
    side = tile.shape[0]
    flat = tile.reshape(side * side, -1)
    floor_x, floor_y = np.floor(x), np.floor(y)
    right, down = (x - floor_x)[:, None], (y - floor_y)[:, None]
    column, row = floor_x.astype(np.int32), floor_y.astype(np.int32)
    columns = (column & (side - 1), (column + 1) & (side - 1))
    rows = ((row & (side - 1)) * side, ((row + 1) & (side - 1)) * side)
    top = flat.take(rows[0] + columns[0], axis=0)
    top += right * (flat.take(rows[0] + columns[1], axis=0) - top)
    bottom = flat.take(rows[1] + columns[0], axis=0)
    bottom += right * (flat.take(rows[1] + columns[1], axis=0) - bottom)
    return np.asarray(top + down * (bottom - top), np.float32)


def _natural_noise(
    rng: np.random.Generator, side: int, *, exponents: tuple[float, ...]
) -> FloatArray:
    """Make (len(exponents), P, P) float32 periodic noise of zero mean, unit deviation."""
    frequency = _frequencies(side)
    white = rng.standard_normal((len(exponents), side, side), np.float32)
    exponent = np.array(exponents, np.float32)[:, None, None]
    envelope = np.maximum(frequency, _MIN_FREQUENCY) ** -exponent * (frequency > 0)
    noise = np.fft.irfft2(np.fft.rfft2(white) * envelope, s=white.shape[1:])
    return np.asarray(noise / noise.std(axis=(1, 2), keepdims=True), np.float32)


def _frequencies(side: int) -> FloatArray:
    """Return (P, P // 2 + 1) float32 radial frequencies of ``rfft2``, in cycles per texel."""
    rows, columns = np.fft.fftfreq(side), np.fft.rfftfreq(side)
    return np.asarray(np.hypot(rows[:, None], columns[None, :]), np.float32)


def _low_pass(picture: FloatArray) -> FloatArray:
    """Remove from (P, P, 3) what bilinear sampling would turn into shimmer."""
    keep = np.exp(-0.5 * (_frequencies(len(picture)) / (_MAX_FREQUENCY / 2)) ** 4)
    spectrum = np.fft.rfft2(picture, axes=(0, 1)) * keep[..., None]
    return np.asarray(np.fft.irfft2(spectrum, s=picture.shape[:2], axes=(0, 1)), np.float32)


def _draw_palette(rng: np.random.Generator, count: int) -> FloatArray:
    """Draw (count, 3) RGB colours in 0..1: free brightness, two related hues, as in nature."""
    hues = _draw_tint(rng), _draw_tint(rng)
    mix = rng.uniform(size=(count, 1))
    chroma = rng.uniform(0.05, 0.2, (count, 1)) * (mix * hues[0] + (1 - mix) * hues[1])
    brightness = rng.permutation(np.linspace(0.1, 0.9, count))[:, None]
    return np.asarray(brightness + chroma, np.float32)


def _draw_tint(rng: np.random.Generator) -> FloatArray:
    """Draw a (3,) RGB direction of zero luma and unit length."""
    tint = rng.standard_normal(3).astype(np.float32)
    tint -= tint @ _LUMA
    return np.asarray(tint / np.linalg.norm(tint), np.float32)


def _normalise(picture: FloatArray, *, contrast: float) -> Texture:
    """Split (P, P, 3) into mean and detail whose luma has the given deviation."""
    mean = picture.mean(axis=(0, 1))
    detail = picture - mean
    return Texture(detail * np.float32(contrast / (detail @ _LUMA).std()), mean)
