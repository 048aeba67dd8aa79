"""Write the clip of docs/reading_motion_vectors.md: python make_scene.py scene.mp4.

A wall moves to the left, as if the camera turned to the right; a ball rolls to the right, a box
sinks, and a poster is suddenly there.
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gopstream.jobs.demo_textures import Texture, make_texture, sample_tile
from gopstream.jobs.demo_videos import EncodingSettings, encode_h264

WIDTH, HEIGHT, NUM_FRAMES = 320, 192, 24
WALL, BALL, BOX = (-2, 0), (4, 0), (0, 3)
"""(x, y) pixels per frame."""
POSTER_FROM = 16


def draw_scene() -> npt.NDArray[np.uint8]:
    """Return (T, H, W, 3) RGB."""
    rng = np.random.default_rng(7)
    textures = [make_texture(rng, 256) for _ in range(4)]
    y, x = np.indices((HEIGHT, WIDTH)).astype(np.float32)
    frames = []
    for time in range(NUM_FRAMES):
        picture = _paint(textures[0], x - WALL[0] * time, y, colour=(0.45, 0.5, 0.55))
        ball_x = 60 + BALL[0] * time
        ball = np.hypot(x - ball_x, y - 120) < 40
        box_y = 20 + BOX[1] * time
        box = (np.abs(x - 260) < 28) & (np.abs(y - box_y - 28) < 28)
        poster = (np.abs(x - 190) < 30) & (np.abs(y - 40) < 24) & (time >= POSTER_FROM)
        for mask, texture, place, colour in (
            (poster, textures[3], (0, 0), (0.8, 0.75, 0.3)),
            (box, textures[2], (0, box_y), (0.35, 0.6, 0.35)),
            (ball, textures[1], (ball_x, 0), (0.75, 0.4, 0.3)),
        ):
            picture[mask] = _paint(texture, x - place[0], y - place[1], colour=colour)[mask]
        frames.append(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8))
    return np.stack(frames)


def _paint(
    texture: Texture,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    *,
    colour: tuple[float, float, float],
) -> npt.NDArray[np.float32]:
    """Return (H, W, 3): the texture, in a colour, at places (x, y) of it."""
    detail = sample_tile(texture.detail, x=x.ravel(), y=y.ravel())
    return detail.reshape(HEIGHT, WIDTH, 3) + np.array(colour, np.float32)


if __name__ == "__main__":
    settings = EncodingSettings(preset="medium", crf=20, gop=24, num_b_frames=2, num_references=1)
    encode_h264(Path(sys.argv[1]), draw_scene(), settings=settings)
