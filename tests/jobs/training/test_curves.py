"""Curves stand where their numbers are."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training needs torch")

from gopstream.jobs.errors import UserError  # noqa: E402
from gopstream.jobs.training.curves import Axis, draw_curves, ticks  # noqa: E402

BLUE, RED = (0, 114, 178), (213, 94, 0)


def write_log(out, losses, top1=()):
    out.mkdir()
    rows = [{"kind": "train", "step": step, "loss": loss} for step, loss in losses]
    rows += [{"kind": "validation", "step": step, "top1": value} for step, value in top1]
    (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def picture_of(path):
    return np.asarray(Image.open(path))


def pixels_of(picture, colour):
    """Return (x, y) of the diagram's pixels of a colour, below the legend."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    inside = rows >= 36
    return columns[inside], rows[inside]


@pytest.mark.parametrize(
    ("least", "greatest", "want"),
    [
        (0, 1000, [0, 200, 400, 600, 800, 1000]),
        (0.2, 4.9, [0, 1, 2, 3, 4, 5]),
        (0.5, 0.512, [0.5, 0.505, 0.51, 0.515]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_hold_all_values(least, greatest, want):
    assert ticks(least, greatest) == pytest.approx(want)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-9, 1e9])
def test_a_single_value_has_an_axis(value):
    found = ticks(value, value)
    assert found[0] <= value <= found[-1]
    assert found[0] < found[-1]


def test_an_axis_maps_its_ends():
    up = Axis(1.0, 3.0, 300, 100)
    assert [up.pixel(value) for value in (1, 2, 3)] == [300, 200, 100]


def test_a_falling_loss_falls_and_ends_where_the_run_ends(tmp_path):
    run = write_log(tmp_path / "run", [(0, 4.0), (50, 2.0), (100, 0.0)])
    draw_curves({"run": run}, tmp_path / "curves.png")
    picture = picture_of(tmp_path / "curves.png")
    assert picture.shape == (380, 960, 3)
    x, y = pixels_of(picture, BLUE)
    assert (x.min(), x.max()) == pytest.approx((80, 936), abs=4)
    assert (y.min(), y.max()) == pytest.approx((40, 324), abs=4)
    middle = np.abs(x - 508) <= 1
    assert y[middle].mean() == pytest.approx(182, abs=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "run"]


def test_two_runs_have_their_colours_and_accuracy_its_own_diagram(tmp_path):
    one = write_log(tmp_path / "one", [(1, 2.0), (9, 1.0)], [(5, 0.5)])
    other = write_log(tmp_path / "other", [(1, 3.0), (9, 2.0)])
    draw_curves({"one": one, "other": other / "log.jsonl"}, tmp_path / "curves.png")
    picture = picture_of(tmp_path / "curves.png")
    assert picture.shape == (760, 960, 3)
    above, below = picture[:380], picture[380:]
    assert all(len(pixels_of(above, colour)[0]) > 100 for colour in (BLUE, RED))
    assert len(pixels_of(below, BLUE)[0]) > 10
    assert len(pixels_of(below, RED)[0]) == 0
    assert (above[:36] == RED).all(axis=2).any()  # the legend
    draw_curves({"one": one, "other": other / "log.jsonl"}, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "curves.png").read_bytes()


def test_a_loss_that_is_no_number_is_left_out(tmp_path):
    run = write_log(tmp_path / "run", [(0, 1.0), (5, float("nan")), (10, 2.0)])
    draw_curves({"run": run}, tmp_path / "curves.png")
    assert len(pixels_of(picture_of(tmp_path / "curves.png"), BLUE)[0]) > 100


def test_nothing_to_draw_is_said(tmp_path):
    empty = write_log(tmp_path / "empty", [])
    with pytest.raises(UserError, match="rows with a loss or top1 to draw, there are none in"):
        draw_curves({"empty": empty}, tmp_path / "curves.png")
    with pytest.raises(UserError, match="log.jsonl: expected the log of a run"):
        draw_curves({"none": tmp_path}, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
