"""A first look at a dataset: some samples, each as a row of pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageDraw

from gopstream.jobs.inspection.draw import (
    draw_arrows,
    enlarge,
    motion_colours,
    residual_picture,
)
from gopstream.shards.reader import ShardDataset

_ROW_HEIGHT = 192
_GAP = 6
_TEXT = 16
_TITLES = ("frame", "where each block came from", "direction and length", "residual x 4")


def write_contact_sheet(dataset: ShardDataset, path: Path, *, samples: Sequence[int]) -> None:
    """Write a PNG with one row per sample: frame, arrows, motion as colour, residual.

    Args:
        dataset: The split; needs frames and motion, shows the residual where there is one.
        path: Of the PNG.
        samples: Positions of the samples to show.
    """
    rows = [_sample_row(dataset, sample) for sample in samples]
    width = max(sum(p.shape[1] + _GAP for p in pictures) for _, pictures in rows) + _GAP
    height = sum(max(p.shape[0] for p in pictures) + _TEXT + _GAP for _, pictures in rows) + _GAP
    sheet = Image.new("RGB", (width, height + _TEXT), (24, 24, 24))
    pen = ImageDraw.Draw(sheet)
    top = _GAP
    for title, pictures in rows:
        pen.text((_GAP, top), title, fill=(230, 230, 230))
        left = _GAP
        for picture in pictures:
            sheet.paste(Image.fromarray(picture), (left, top + _TEXT))
            left += picture.shape[1] + _GAP
        top += max(picture.shape[0] for picture in pictures) + _TEXT + _GAP
    pen.text((_GAP, top), " | ".join(_TITLES), fill=(150, 150, 150))
    sheet.save(path)


def _sample_row(dataset: ShardDataset, sample: int) -> tuple[str, list[npt.NDArray[np.uint8]]]:
    """Show the P-frame with the most motion of one sample; returns a title and the pictures."""
    facts = dataset.sample(sample)
    window = dataset.read_motion(sample, 0, facts.num_frames - 1)
    motion, coverage = window.motion[:, 0], window.coverage[:, 0]
    stored = facts.frame_index_of_jpeg
    number = int(np.abs(motion[stored]).sum(axis=(1, 2, 3)).argmax())
    frame = int(stored[number])
    picture = simplejpeg.decode_jpeg(dataset.read_jpegs(sample, np.array([number]))[0])
    factor = max(1, _ROW_HEIGHT // picture.shape[0])
    height, width = picture.shape[:2]
    longest = float(np.percentile(np.abs(motion[frame]), 95)) / 4
    pictures = [
        enlarge(picture, factor),
        draw_arrows(picture, motion[frame], coverage[frame], factor=factor),
        enlarge(
            motion_colours(motion[frame], coverage[frame], longest=longest)[:height, :width],
            factor,
        ),
    ]
    if "residual" in dataset.facts.planes:
        coded_width, coded_height = facts.coded_size
        flat = dataset.read_residual(sample, frame, frame)[0][: coded_width * coded_height]
        shown = residual_picture(flat.reshape(coded_height, coded_width), coverage[frame])
        pictures.append(enlarge(shown[:height, :width], factor))
    label = int(dataset.labels[sample])
    name = dataset.facts.classes[label] if label >= 0 else "no label"
    return f"{dataset.keys[sample]}  {name}  frame {frame}", pictures
