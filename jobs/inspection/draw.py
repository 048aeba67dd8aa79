"""Draw frames, vectors and residuals as RGB arrays."""

import colorsys

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from gopstream.pipeline.grid import BLOCK, QUARTER_PIXELS


def enlarge(picture: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Repeat each pixel of an (H, W, 3) picture ``factor`` times both ways."""
    return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)


def draw_arrows(
    picture: npt.NDArray[np.uint8],
    motion: npt.NDArray[np.int16],
    coverage: npt.NDArray[np.uint8],
    *,
    factor: int,
    gain: float = 1.0,
) -> npt.NDArray[np.uint8]:
    """Draw where each predicted block came from.

    Args:
        picture: (H, W, 3) frame of the display size.
        motion: (Hb, Wb, 2) quarter pixels.
        coverage: (Hb, Wb); blocks that are not predicted get a red dot.
        factor: Enlargement of the result.
        gain: Length of an arrow over the length of its vector.

    Returns:
        (H * factor, W * factor, 3) uint8. An arrow starts at the block and its dot marks the
        head, the place the content came from.
    """
    canvas = Image.fromarray(enlarge(picture, factor) // 2)
    pen = ImageDraw.Draw(canvas)
    # Dots first: an arrow may end at the centre of a block that is not predicted.
    for row, column in np.argwhere(coverage == 0).tolist():
        x, y = (column + 0.5) * BLOCK * factor, (row + 0.5) * BLOCK * factor
        pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(220, 40, 40))
    for row, column in np.argwhere(coverage).tolist():
        x, y = (column + 0.5) * BLOCK * factor, (row + 0.5) * BLOCK * factor
        dx, dy = motion[row, column] / QUARTER_PIXELS * factor * gain
        pen.line((x, y, x + dx, y + dy), fill=(255, 220, 60))
        pen.ellipse((x + dx - 1, y + dy - 1, x + dx + 1, y + dy + 1), fill=(80, 255, 120))
    return np.asarray(canvas)


def motion_colours(
    motion: npt.NDArray[np.int16], coverage: npt.NDArray[np.uint8], *, longest: float
) -> npt.NDArray[np.uint8]:
    """Paint direction as hue and length as brightness; grey where a block is not predicted.

    Args:
        motion: (Hb, Wb, 2) quarter pixels.
        coverage: (Hb, Wb).
        longest: Length in pixels that is shown at full brightness.

    Returns:
        (Hb * 8, Wb * 8, 3) uint8.
    """
    pixels = motion.astype(np.float64) / QUARTER_PIXELS
    length = np.minimum(np.hypot(pixels[..., 0], pixels[..., 1]) / max(longest, 1e-9), 1.0)
    hue = (np.arctan2(pixels[..., 1], pixels[..., 0]) / (2 * np.pi)) % 1.0
    colours = np.array(
        [colorsys.hsv_to_rgb(h, 1.0, v) for h, v in zip(hue.flat, length.flat, strict=True)]
    )
    picture = (colours.reshape(*length.shape, 3) * 255).astype(np.uint8)
    picture[coverage == 0] = 96
    return enlarge(picture, BLOCK)


def residual_picture(
    residual: npt.NDArray[np.uint8], coverage: npt.NDArray[np.uint8], *, gain: int = 4
) -> npt.NDArray[np.uint8]:
    """Show a luma residual around grey, amplified; intra blocks are left grey.

    Args:
        residual: (Hc, Wc) uint8, decoded minus predicted modulo 256.
        coverage: (Hb, Wb).
        gain: Amplification.

    Returns:
        (Hc, Wc, 3) uint8.
    """
    signed = residual.view(np.int8).astype(np.int32)
    signed[np.repeat(np.repeat(coverage == 0, BLOCK, axis=0), BLOCK, axis=1)] = 0
    grey = np.clip(128 + gain * signed, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
