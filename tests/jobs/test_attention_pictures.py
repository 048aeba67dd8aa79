"""Points lie where they are and are as large as they count; heat is where it is."""

import numpy as np
import pytest

from gopstream.jobs.inspection.attention_pictures import (
    PointPanel,
    PointStyle,
    between_extremes,
    draw_heat,
    draw_points,
    head_colours,
    heat_colours,
)

SIDE = 32
FACTOR = 10  # to 320 pixels
MARGIN = 40  # an eighth
LEFT, TOP = 10 + MARGIN, 30 + MARGIN  # of the first frame on the sheet


def panel(places, weights, **options):
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    return PointPanel(
        black, "frame 0", np.array(places, float), np.array(weights, float), **options
    )


def draw(*panels, query=(16, 16), **style):
    style = PointStyle(**({"radius": 2.0} | style))
    return np.asarray(draw_points(panels, query=query, title="title", style=style)).astype(int)


def outlined(sheet, colour):
    """Places (K, 2) as (x, y) on the first frame, in its own pixels, that have a colour."""
    rows, columns = np.nonzero((sheet[TOP - MARGIN : TOP + 320 + MARGIN] == colour).all(axis=2))
    rows, columns = rows + TOP - MARGIN, columns
    keep = columns < LEFT + 320 + MARGIN
    return np.stack([(columns[keep] - LEFT), (rows[keep] - TOP)], axis=1) / FACTOR


@pytest.mark.parametrize("place", [(8.0, 24.0), (24.5, 3.5), (-2.0, 16.0), (16.0, 33.0)])
def test_a_point_is_drawn_where_it_lies_also_beside_the_frame(place):
    sheet = draw(panel([[place]], [[1.0]]), query=(28, 28))
    ring = outlined(sheet, head_colours(1)[0])
    np.testing.assert_allclose((ring.min(axis=0) + ring.max(axis=0)) / 2, place, atol=0.15)
    np.testing.assert_allclose(ring.max(axis=0) - ring.min(axis=0), 4.0, atol=0.25)


def test_areas_are_shares_of_the_largest_weight():
    sheet = draw(panel([[(8, 8)], [(24, 24)]], [[0.8], [0.2]]))
    sizes = []
    for colour in head_colours(2):
        ring = outlined(sheet, colour)
        ring = ring[ring[:, 1] < SIDE + 3]  # not the legend
        sizes.append(np.ptp(ring[:, 0]))
    assert sizes[0] == pytest.approx(2 * sizes[1], rel=0.1)


def test_the_largest_weight_is_that_of_all_frames():
    alone = draw(panel([[(8, 8)]], [[0.2]]))
    beside = draw(panel([[(8, 8)]], [[0.2]]), panel([[(8, 8)]], [[0.8]]))
    widths = [np.ptp(outlined(sheet, head_colours(1)[0])[:, 0]) for sheet in (alone, beside)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.1)


def test_negative_weights_are_hollow():
    sheet = draw(panel([[(8, 8), (24, 24)]], [[1.0, -1.0]]))
    assert sheet[TOP + 80, LEFT + 80].max() > 50
    assert sheet[TOP + 240, LEFT + 240].max() == 0
    assert len(outlined(sheet, head_colours(1)[0])) > 100  # both have their rings


def test_far_points_lie_on_the_edge_of_the_margin():
    ring = outlined(draw(panel([[(500, 16)]], [[1.0]])), head_colours(1)[0])
    assert ring[:, 0].max() == pytest.approx(SIDE + 4, abs=0.2)
    assert ring[:, 1].mean() == pytest.approx(16, abs=0.2)


def test_the_query_is_marked_boldly_in_its_own_frame_alone():
    counts = []
    for is_query in (True, False):
        sheet = draw(panel([[(2, 2)]], [[1.0]], is_query=is_query), query=(20, 10))
        cross = outlined(sheet, (255, 235, 0))
        np.testing.assert_allclose(cross.mean(axis=0), (20, 10), atol=0.2)
        counts.append(len(cross))
    assert counts[0] > 3 * counts[1] > 0


def test_the_heaviest_points_are_linked_with_the_query():
    """Weights of 3, 2, 1, -9: two links, and none to the largest negative one."""
    places = [[(28, 16), (16, 28), (4, 16), (16, 4)]]
    sheet = draw(panel(places, [[3, 2, 1, -9]]), num_linked=2)
    linked = outlined(sheet, (200, 80, 255))
    assert linked[:, 0].max() == pytest.approx(28, abs=0.3)
    assert linked[:, 1].max() == pytest.approx(28, abs=0.3)
    assert linked.min() > 15.5
    assert len(outlined(draw(panel(places, [[3, 2, 1, -9]])), (200, 80, 255))) == 0


def test_weights_of_nothing_but_zero_are_drawn():
    ring = outlined(draw(panel([[(8, 8)]], [[0.0]])), head_colours(1)[0])
    assert 0 < np.ptp(ring[:, 0]) < 1


@pytest.mark.parametrize(("side", "factor"), [(32, 10), (224, 2), (400, 1)])
def test_frames_are_enlarged_until_they_can_be_read(side, factor):
    frames = np.zeros((1, side, side, 3), np.uint8)
    image = draw_heat(frames, heat=np.zeros((1, 2, 2)), captions=["frame 0"], title="t")
    assert image.height == side * factor + 30 + 20 + 50
    assert image.width >= side * factor + 20


def test_heat_is_laid_over_grey_where_it_is():
    frames = np.full((2, SIDE, SIDE, 3), (90, 60, 30), np.uint8)
    heat = np.zeros((2, 4, 4))
    heat[0, 3, 0] = 1.0  # lower left cell
    image = draw_heat(frames, heat=heat, captions=["a", "b"], title="title")
    sheet = np.asarray(image).astype(int)
    first, second = sheet[30:350, 10:330], sheet[30:350, 340:660]
    assert (second == 60).all()
    assert (first[:160] == 60).all() and (first[:, 160:] == 60).all()
    hottest = 0.25 * 60 + 0.75 * heat_colours(np.ones(1))[0]
    np.testing.assert_allclose(first[319, 0], hottest, atol=1)


def test_colours_of_heat_grow_lighter():
    levels = heat_colours(np.linspace(0, 1, 50)) @ (0.299, 0.587, 0.114)
    assert (np.diff(levels) > 0).all()


def test_values_are_scaled_from_the_lowest_to_the_highest():
    np.testing.assert_allclose(between_extremes(np.array([2.0, 3, 6])), [0, 0.25, 1])
    np.testing.assert_allclose(between_extremes(np.array([1.0, 4]), lowest=0.0), [0.25, 1])
    assert (between_extremes(np.full((2, 2), 7.0)) == 0).all()
    assert (between_extremes(np.zeros(3), lowest=0.0) == 0).all()


def test_many_frames_are_set_out_in_rows():
    frames = np.zeros((16, 320, 320, 3), np.uint8)
    captions = [str(number) for number in range(16)]
    image = draw_heat(frames, heat=np.zeros((16, 2, 2)), captions=captions, title="t")
    assert image.size == (4 * 330 + 10, 4 * 350 + 70)


def test_heads_have_colours_of_their_own():
    assert len(set(head_colours(12))) == 12
