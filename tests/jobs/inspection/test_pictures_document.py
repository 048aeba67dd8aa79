"""docs/reading_motion_vectors.md: its commands run and make the pictures that it shows."""

import importlib.util
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gopstream.jobs.cli import main
from gopstream.jobs.inspection.pictures.layers import LAYERS

PICTURES = Path(__file__).parents[3] / "docs" / "pictures"


def load(name):
    spec = importlib.util.spec_from_file_location(name, PICTURES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE = load("make_pictures")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder in which the page's commands were run."""
    folder = tmp_path_factory.mktemp("page")
    before, words_before = Path.cwd(), sys.argv
    os.chdir(folder)
    try:
        for program, *rest in PAGE.commands():
            if program == "gopstream":
                assert main(rest) == 0, rest
            else:
                sys.argv = rest
                runpy.run_path(str(PAGE.ROOT / rest[0]), run_name="__main__")
    finally:
        os.chdir(before)
        sys.argv = words_before
    return folder


def test_the_commands_make_the_pictures_of_the_page(made):
    shown = PAGE.shown()
    assert len(shown) >= 9
    for name in shown:
        assert (PICTURES / name).stat().st_size <= PAGE.LARGEST, name
        with Image.open(made / name) as new, Image.open(PICTURES / name) as kept:
            pair = [np.asarray(picture.convert("RGB"), float) for picture in (new, kept)]
        assert pair[0].shape == pair[1].shape, name
        # Another machine's encoder may choose a few other blocks.
        assert np.abs(pair[0] - pair[1]).mean() < 8, name
    assert (made / "look.mp4").stat().st_size > 10_000
    assert (made / "look.gif").read_bytes()[:4] == b"GIF8"


def test_pictures_that_no_page_shows_are_not_kept():
    kept = {path.relative_to(PICTURES) for path in PICTURES.rglob("*.png")}
    assert kept == set(PAGE.shown())


def test_the_scene_moves_as_the_page_says():
    scene = load("make_scene")
    frames = scene.draw_scene().astype(int)
    assert (scene.WALL, scene.BALL, scene.BOX) == ((-2, 0), (4, 0), (0, 3))
    np.testing.assert_array_equal(frames[5, 170:, :100], frames[4, 170:, 2:102])  # wall
    np.testing.assert_array_equal(frames[5, 110:130, 60:100], frames[4, 110:130, 56:96])  # ball
    np.testing.assert_array_equal(frames[5, 43:80, 240:280], frames[4, 40:77, 240:280])  # box
    changed = np.abs(frames[scene.POSTER_FROM] - frames[scene.POSTER_FROM - 1])
    assert changed[20:60, 165:215].mean() > 40  # poster


def test_the_table_lists_the_layers():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.PAGE.read_text(), re.MULTILINE)
    assert rows == [(name, layer.shows) for name, layer in LAYERS.items()]
