import numpy as np
import pytest
from PIL import Image

from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.inspection.contact_sheet import write_contact_sheet
from gopstream.jobs.inspection.draw import (
    draw_arrows,
    enlarge,
    motion_colours,
    residual_picture,
)
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.reader import ShardDataset


@pytest.mark.parametrize("planes", [("frames", "motion", "residual"), ("frames", "motion")])
def test_sheet(tmp_path, planes):
    settings = {"videos_per_class": 1, "seed": 1, "num_frames": 24, "size": 64}
    write_demo_videos(tmp_path, split="train", **settings)
    videos, root = tmp_path / "train", tmp_path / "set"
    shard_folder(
        videos,
        root,
        options=ExtractionOptions(canonical=CanonicalFormat(short_side=64), planes=planes),
        choice=PlanChoice(limit=2),
    )
    path = tmp_path / "sheet.png"
    write_contact_sheet(ShardDataset(root, "train"), path, samples=[0, 1])
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        columns = 3 + ("residual" in planes)
        assert sheet.width == columns * (192 + 6) + 6
        assert 2 * 192 < sheet.height < 2 * 192 + 100
        pixels = np.asarray(sheet)
    assert pixels[22:214, 6:198].std() > 10  # the first frame is no flat area


def test_enlarge():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(picture, 3)
    assert large.shape == (6, 6, 3)
    assert (large[3:, :3] == picture[1, 0]).all()


def field(dx, dy):
    """Five by five blocks of which only the middle one is predicted."""
    motion = np.zeros((5, 5, 2), np.int16)
    motion[2, 2] = 4 * dx, 4 * dy
    coverage = np.zeros((5, 5), np.uint8)
    coverage[2, 2] = 1
    return motion, coverage


@pytest.mark.parametrize(("dx", "dy"), [(6, 0), (-6, 0), (0, 6), (0, -6), (6, -6)])
def test_arrow_points_to_the_source(dx, dy):
    black = np.zeros((40, 40, 3), np.uint8)
    drawn = draw_arrows(black, *field(dx, dy), factor=4).astype(int)
    assert drawn.shape == (160, 160, 3)
    head = np.argwhere((drawn == (80, 255, 120)).all(axis=2)).mean(axis=0)
    np.testing.assert_allclose(head, (80 + 4 * dy, 80 + 4 * dx), atol=1)
    line = np.argwhere((drawn == (255, 220, 60)).all(axis=2)).mean(axis=0)
    np.testing.assert_allclose(line, (80 + 2 * dy, 80 + 2 * dx), atol=2)


def test_blocks_that_are_not_predicted_get_a_red_dot():
    black = np.zeros((40, 40, 3), np.uint8)
    motion, coverage = field(0, 0)
    red = (draw_arrows(black, motion, coverage, factor=4) == (220, 40, 40)).all(axis=2)
    has_dot = red.reshape(5, 32, 5, 32).any(axis=(1, 3))
    assert (has_dot == (coverage == 0)).all()


def test_colours():
    motion, coverage = field(8, 0)
    motion[0, 0] = 99, 99
    picture = motion_colours(motion, coverage, longest=8)
    assert picture.shape == (40, 40, 3)
    blocks = picture.reshape(5, 8, 5, 8, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    colours = blocks[:, 0, :, 0]
    assert (colours[coverage == 0] == 96).all()
    assert colours[2, 2].tolist() == [255, 0, 0]


def test_colours_tell_directions_and_lengths_apart():
    coverage = np.ones((1, 5), np.uint8)
    motion = np.array([[(32, 0), (-32, 0), (0, 32), (16, 0), (0, 0)]], np.int16)
    colours = motion_colours(motion, coverage, longest=8)[0, ::8].astype(int)
    assert len({tuple(colour) for colour in colours.tolist()}) == 5
    assert colours[3].tolist() == [127, 0, 0]
    assert colours[4].tolist() == [0, 0, 0]


def test_residual_is_around_grey():
    residual = np.zeros((16, 16), np.uint8)
    residual[0, 0], residual[0, 1], residual[0, 2], residual[8, 8] = 3, 253, 100, 77
    picture = residual_picture(residual, np.array([[1, 1], [1, 0]], np.uint8))
    assert picture.shape == (16, 16, 3)
    assert picture[0, :4, 0].tolist() == [140, 116, 255, 128]
    assert (picture[8:, 8:] == 128).all()
    assert residual[8, 8] == 77  # the caller's array is left as it was
