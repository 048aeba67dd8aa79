"""Two frames of a picture that moves in a known way, and the check that a transform keeps it."""

import numpy as np

from gopstream.shards.loading.transform import (
    transform_field,
    transform_frames,
    transform_mask,
)

FRAME = (128, 96)
WHOLE = {"frame_size": FRAME, "display_rect": (0, 0, *FRAME)}


def smooth_picture(x, y):
    """Return levels (..., 3) at points: long waves, which bilinear sampling takes well."""
    waves = [((0.06, 0.11), 0.3), ((-0.1, 0.06), 1.0), ((0.04, -0.13), 2.0), ((0.12, 0.05), 4.0)]
    parts = [np.sin(a * x + b * y + phase) for (a, b), phase in waves]
    mixed = [parts[0] + parts[1], parts[1] - parts[2], parts[3] + parts[0]]
    return 127.5 + 55 * np.stack(mixed, axis=-1)


def moving_clip(kind, frame_size=FRAME):
    """Return two frames, and dense motion from each pixel of the later one to the earlier one."""
    width, height = frame_size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    if kind == "translating":
        dx, dy = np.full_like(x, 5.25), np.full_like(y, -3.5)
    else:  # rotating and zooming about a point
        turn = 1.06 * np.array([[np.cos(0.06), -np.sin(0.06)], [np.sin(0.06), np.cos(0.06)]])
        dx = turn[0, 0] * (x - 60) + turn[0, 1] * (y - 44) - (x - 60)
        dy = turn[1, 0] * (x - 60) + turn[1, 1] * (y - 44) - (y - 44)
    # The later frame shows at p what the earlier one shows at p + motion.
    pictures = smooth_picture(x, y), smooth_picture(x + dx, y + dy)
    frames = np.clip(np.rint(np.stack(pictures)), 0, 255).astype(np.uint8)
    return frames, np.stack([dx, dy], axis=-1).astype(np.float32)


def sample(picture, points):
    """Return bilinear values of a (H, W, ...) picture at (..., 2) points, and which are inside."""
    height, width = picture.shape[:2]
    x, y = points[..., 0] - 0.5, points[..., 1] - 0.5
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    u, v = (x - left)[..., None], (y - top)[..., None]
    corners = [[picture[top + i, left + j].astype(float) for j in (0, 1)] for i in (0, 1)]
    rows = [row[0] * (1 - u) + row[1] * u for row in corners]
    return rows[0] * (1 - v) + rows[1] * v, inside


def grown(mask, margin):
    """Return a mask with everything near it and near the borders set too."""
    padded = np.pad(mask, margin, constant_values=True)  # and so is all beyond the picture
    shifts = range(2 * margin + 1)
    rows, columns = mask.shape
    parts = [padded[i : i + rows, j : j + columns] for i in shifts for j in shifts]
    return np.logical_or.reduce(parts)


def check_consistent(frames, motion, transform, *, where=WHOLE, unclear=None, **tolerance):
    """Warp the transformed earlier frame by the transformed motion; expect the later one."""
    size = transform.geometry.size
    earlier, later = transform_frames(frames, transform)
    field = transform_field(motion, transform, grid=size, block_pixels=1, **where)
    known = np.ones(motion.shape[:2], bool)
    shown = transform_mask(known, transform, grid=size, block_pixels=1, **where)
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    targets = np.stack([x, y], axis=-1) + field
    warped, inside = sample(earlier, targets)
    unclear = ~shown if unclear is None else unclear | ~shown
    border = grown(unclear, 3)
    reached, _ = sample(border[..., None], targets)
    trusted = inside & ~border & (reached[..., 0] == 0)
    error = np.abs(warped - later).max(axis=-1)[trusted]
    assert trusted.mean() > tolerance.get("share", 0.25), "too little is left to compare"
    assert error.max(initial=0.0) <= tolerance.get("most", 4.0)
    assert error.sum() <= error.size * tolerance.get("mean", 1.0)
    return trusted.mean()
