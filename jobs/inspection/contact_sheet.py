"""A first look at a dataset: some samples, each as a row of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from gopstream.jobs.inspection.pictures.canvas import (
    FAINT,
    PAPER,
    Canvas,
    Pixels,
    line_height,
    write,
)
from gopstream.jobs.inspection.pictures.files import tile, write_png
from gopstream.jobs.inspection.pictures.layers import View, draw_picture
from gopstream.jobs.inspection.pictures.movement import fit_style
from gopstream.jobs.inspection.pictures.surroundings import Surroundings
from gopstream.jobs.inspection.sample_clip import SampleClip
from gopstream.shards.reader import ShardDataset

_ROW_HEIGHT: Final = 192
_FONT_SIZE: Final = 13
_TITLES: Final = {
    "frame": "frame",
    "arrows": "arrows: the way things move",
    "colours": "movement by the colour wheel of optical flow",
    "residual_signed": "residual: red lighter, blue darker than predicted",
}


def write_contact_sheet(dataset: ShardDataset, path: Path, *, samples: Sequence[int]) -> None:
    """Write a PNG with one row per sample: frame, arrows, motion as colour, residual.

    Args:
        dataset: The split; needs frames and motion, shows the residual where there is one.
        path: Of the PNG.
        samples: Positions of the samples to show.
    """
    names = [
        name for name in _TITLES if name != "residual_signed" or "residual" in dataset.facts.planes
    ]
    rows = [_sample_row(dataset, sample, names=names) for sample in samples]
    words = _words(" | ".join(_TITLES[name] for name in names), width=rows[0].shape[1])
    write_png(path, tile([*rows, words], columns=1))


def _sample_row(dataset: ShardDataset, sample: int, *, names: Sequence[str]) -> Pixels:
    """Show the stored frame with the most motion of one sample, with words above."""
    place = dataset.sample(sample)
    window = dataset.read_motion(sample, 0, place.num_frames - 1)
    stored = place.frame_index_of_jpeg
    moved = np.abs(window.motion[stored, 0].astype(np.int64)).sum(axis=(1, 2, 3))
    index = int(stored[moved.argmax()])
    clip = SampleClip(dataset, sample)
    facts = clip.facts
    frame = next(clip.frames(index, index + 1))
    x, y, width, height = facts.display_rect
    view = View(
        frame=frame,
        facts=facts,
        canvas=Canvas((x, y), (width, height), max(1, _ROW_HEIGHT // height)),
        style=fit_style([frame]),
        around=Surroundings(),
    )
    pictures = [draw_picture(name, view).picture for name in names]
    row = tile(pictures, columns=len(pictures))
    title = f"{dataset.key(sample)}   {facts.label or 'no label'}   frame {index}"
    return np.concatenate([_words(title, width=row.shape[1]), row])


def _words(words: str, *, width: int) -> Pixels:
    line = Image.new("RGB", (width, line_height(_FONT_SIZE)), PAPER)
    write(ImageDraw.Draw(line), (4, 0), words, font_size=_FONT_SIZE, room=width - 8, colour=FAINT)
    return np.asarray(line)
