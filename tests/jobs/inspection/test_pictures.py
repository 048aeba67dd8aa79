import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.pictures.accumulated import accumulated_movement
from gopstream.jobs.inspection.pictures.arrows import (
    LIST_COLOURS,
    Arrow,
    arrow_gain,
    chosen_blocks,
    draw_arrows,
    paint_arrows,
)
from gopstream.jobs.inspection.pictures.blocks import (
    draw_colours,
    draw_coverage,
    draw_partition,
)
from gopstream.jobs.inspection.pictures.canvas import Canvas, canvas_of, enlarge
from gopstream.jobs.inspection.pictures.colour_scales import (
    FUTURE,
    PAST,
    flow_colours,
    nice_ceiling,
)
from gopstream.jobs.inspection.pictures.layers import (
    LAYERS,
    available_layers,
    choose_layers,
    draw_layer,
    needs_of,
)
from gopstream.jobs.inspection.pictures.movement import Style, fit_style, movement
from gopstream.jobs.inspection.pictures.residuals import (
    draw_residual_heat,
    draw_residual_signed,
)
from gopstream.jobs.inspection.pictures.surroundings import Needs, Step, walk
from gopstream.jobs.inspection.pictures.warped import predict
from gopstream.pipeline.grid import BlockMotion
from picture_cases import (
    GivenClip,
    make_facts,
    make_frame,
    make_motion,
    make_residual,
)

CANVAS = Canvas((0, 0), (64, 48), 10)
STRIPES = {70, 90}


def one_block(number, vector, *, num_lists=2, row=3, column=4):
    """Only one block is predicted, by one list."""
    motion = np.zeros((num_lists, 6, 8, 2), np.int16)
    coverage = np.zeros((num_lists, 6, 8), np.uint8)
    motion[number, row, column] = 4 * np.asarray(vector)
    coverage[number, row, column] = 1
    return BlockMotion(motion, coverage)


def spread_along(picture, colour, start, end):
    """Return how wide the coloured pixels lie across a line near its start and near its end."""
    y, x = np.nonzero((picture == colour).all(axis=2))
    along = np.subtract(end, start) / np.hypot(*np.subtract(end, start))
    offset = np.stack([x, y], axis=1) + 0.5 - start
    place, across = offset @ along, np.abs(offset @ [-along[1], along[0]])
    length = np.hypot(*np.subtract(end, start))
    assert -2 < place.min() < 6
    assert abs(place.max() - length) < 4
    return across[place < length / 3].max(), across[place > length * 2 / 3].max()


@pytest.mark.parametrize("vector", [(9, 0), (-9, 0), (0, 9), (0, -9), (7, -7)])
def test_an_arrow_from_the_past_ends_at_its_block(vector):
    black = np.zeros((480, 640, 3), np.uint8)
    picture = draw_arrows(black, one_block(0, vector), canvas=CANVAS, gain=1)
    block = np.array([4.5 * 80, 3.5 * 80])
    shaft, head = spread_along(picture, LIST_COLOURS[0], block + 10 * np.array(vector), block)
    assert head > 1.8 * shaft


@pytest.mark.parametrize("vector", [(9, 0), (0, -9), (-7, 7)])
def test_an_arrow_to_the_future_begins_at_its_block(vector):
    black = np.zeros((480, 640, 3), np.uint8)
    picture = draw_arrows(black, one_block(1, vector), canvas=CANVAS, gain=1)
    block = np.array([4.5 * 80, 3.5 * 80])
    shaft, head = spread_along(picture, LIST_COLOURS[1], block, block + 10 * np.array(vector))
    assert head > 1.8 * shaft


def test_slow_movement_has_long_arrows():
    """Of half a pixel, and still with a shaft."""
    canvas = canvas_of(make_facts("P", size=(336, 256)))
    gain = arrow_gain(canvas, Style(longest=1))
    assert canvas.spacing / 2 < canvas.factor * gain <= 2.5 * canvas.spacing
    length = 0.5 * canvas.factor * gain
    black = np.zeros((60, 200, 3), np.uint8)
    arrow = Arrow((20.0, 30.0), (20.0 + length, 30.0), LIST_COLOURS[0])
    painted = paint_arrows(black, [arrow], [], width=canvas.spacing / 12)[..., 2] > 120
    shaft, head = (painted[:, begin : begin + 6].sum(axis=0) for begin in (22, 33))
    assert 1 <= shaft.min() <= shaft.max() < head.max()


def test_the_block_of_an_arrow_is_one_that_is_there_and_near_the_median():
    moved = np.zeros((4, 4, 2))
    moved[:2, :2] = [[(1, 0), (2, 0)], [(3, 0), (50, 0)]]
    covered = np.zeros((4, 4), np.bool_)
    covered[:2, :2] = True
    covered[3, 3] = True
    small = Canvas((0, 0), (32, 32), 2)  # two blocks of sixteen pixels to a cell
    assert chosen_blocks(moved, covered, canvas=small) == [(0, 1), (3, 3)]


def test_the_wheel_is_that_of_optical_flow():
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 5, (2, 40, 50)).astype(np.float32)
    longest = float(np.hypot(*flow).max())
    known = flow_to_image(torch.from_numpy(flow)).permute(1, 2, 0).numpy().astype(int)
    ours = flow_colours(np.moveaxis(flow, 0, -1), longest=longest).astype(int)
    assert np.abs(ours - known).max() <= 1


def test_movement_is_against_the_vector_to_the_past_and_along_that_to_the_future():
    both = make_motion((4, -2), (8, 6))
    assert (movement(both) == (-4, 2)).all()
    both.coverage[0, 2, 3] = 0
    assert movement(both)[2, 3].tolist() == [8, 6]


def test_colours_of_blocks():
    motion = make_motion((-8, 0))  # the content comes from the left
    motion.coverage[0, 0, 0] = 0
    drawn = draw_colours(motion, canvas=CANVAS, style=Style(longest=8))
    assert drawn.picture.shape == (480, 640, 3)
    assert drawn.picture[200, 200].tolist() == [255, 0, 0]
    assert set(np.unique(drawn.picture[:80, :80])) == STRIPES
    assert "8 pixels" in drawn.legend.lines[0]


def test_a_shown_part_is_cut_out_of_the_coded_picture():
    facts = make_facts("P", size=(64, 48), display_rect=(4, 8, 50, 36))
    canvas = canvas_of(facts)
    plane = np.arange(48 * 64).reshape(48, 64)
    np.testing.assert_array_equal(
        canvas.spread_pixels(plane), enlarge(plane[8:44, 4:54], canvas.factor)
    )
    blocks = np.arange(48).reshape(6, 8)
    full = np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    np.testing.assert_array_equal(canvas.spread_blocks(blocks), canvas.spread_pixels(full))
    assert canvas.place(4, 8) == (0, 0)


@pytest.mark.parametrize(("size", "factor"), [((64, 48), 10), ((340, 256), 2), ((1920, 1080), 1)])
def test_small_pictures_are_enlarged_and_words_grow_with_the_picture(size, factor):
    canvas = canvas_of(make_facts("P", size=size))
    assert canvas.factor == factor
    assert 1 / 70 < canvas.font_size / max(canvas.size) < 1 / 40


def test_coverage_tints_and_counts():
    motion = make_motion(num_lists=2, covered=0)
    motion.coverage[0, :, :4] = 1
    motion.coverage[1, :, 2:6] = 1
    black = make_frame(motion=motion, picture=np.zeros((48, 64, 3), np.uint8))
    drawn = draw_coverage(black, motion, canvas=CANVAS)
    told = [words for _, words in drawn.legend.keys]
    assert told == ["intra 25.0%", "past 25.0%", "future 25.0%", "both 25.0%"]
    colours = {words.split()[0]: colour for colour, words in drawn.legend.keys}
    for name, column in (("past", 0), ("both", 2), ("future", 4), ("intra", 6)):
        level = drawn.picture[100, column * 80 + 40]
        np.testing.assert_array_equal(level, np.array(colours[name]) // 2)
    assert (colours["past"], colours["future"]) == (PAST, FUTURE)


def vector_row(x, y, width, height):
    return [-1, width, height, x, y, x + width // 2, y + height // 2, 0, 0, 4]


def test_partition_outlines_the_blocks_that_have_vectors():
    rows = [vector_row(0, 0, 16, 16), vector_row(16, 0, 16, 8), vector_row(32, 0, 8, 8)]
    frame = make_frame(vectors=np.array(rows, np.int32))
    drawn = draw_partition(frame, None, canvas=CANVAS)
    assert [words for _, words in drawn.legend.keys] == [
        "16 x 16: 1",
        "16 x 8 or 8 x 16: 1",
        "8 x 8: 1",
    ]
    colours = [colour for colour, _ in drawn.legend.keys]
    for colour, (left, top, right, bottom) in zip(
        colours, [(0, 0, 160, 160), (160, 0, 320, 80), (320, 0, 400, 80)], strict=True
    ):
        y, x = np.nonzero((drawn.picture == colour).all(axis=2))
        assert left <= x.min() <= left + 1
        assert right - 1 <= x.max() <= right
        assert top == y.min()
        assert bottom - 1 <= y.max() <= bottom


def test_partition_of_a_grid_draws_where_neighbours_differ():
    motion = make_motion()
    motion.motion[0, :, 4:] = 5
    drawn = draw_partition(make_frame(motion=motion), motion, canvas=CANVAS)
    colour = drawn.legend.keys[0][0]
    y, x = np.nonzero((drawn.picture == colour).all(axis=2))
    assert set(x.tolist()) == {320}
    assert len(set(y.tolist())) == 480


def test_residual_colours():
    luma = np.zeros((48, 64))
    luma[0, :3] = 10, -10, 99
    luma[8, 0] = 50
    motion = make_motion()
    motion.coverage[0, 1, 0] = 0  # the block of row 8 is intra
    residual = make_residual(luma)
    style = Style(largest_residual=20)
    heat = draw_residual_heat(residual, motion, canvas=CANVAS, style=style)
    signed = draw_residual_signed(residual, motion, canvas=CANVAS, style=style)
    at = heat.picture[::10, ::10].astype(int), signed.picture[::10, ::10].astype(int)
    assert at[0][0, 5].tolist() == [0, 0, 0]
    assert at[0][0, 0].tolist() == at[0][0, 1].tolist()
    assert at[0][0, 0].sum() < at[0][0, 2].sum()
    assert at[1][0, 5].tolist() == [255, 255, 255]
    assert at[1][0, 0, 0] > at[1][0, 0, 2] + 50  # lighter than predicted: red
    assert at[1][0, 1, 2] > at[1][0, 1, 0] + 50  # darker: blue
    for picture in at:
        assert (picture[8:16, :8] == 96).all()
    assert heat.legend.ends == ("0", "20 or more")


def test_accumulated_movement_is_the_sum_of_the_steps():
    steps = [Step(i, "IPPP"[i], make_motion((-3, 1), covered=int(i > 0))) for i in range(4)]
    path = accumulated_movement(steps, make_facts("IPPP"))
    assert path.since == 0
    assert path.valid[2:-1, 2:].all()
    assert (path.moved[path.valid] == (9, -3)).all()
    assert not path.valid[:, 0].any()  # came from beyond the left border
    cut = accumulated_movement(steps, make_facts("IPPP", scene_cuts=(2,)))
    assert not cut.valid.any()


def test_a_prediction_is_fetched_from_both_references():
    x = np.arange(64, dtype=np.float32)
    ramp = np.repeat(np.tile(x[None, :, None], (48, 1, 1)), 3, axis=2).astype(np.uint8)
    motion = make_motion((2.5, 0), (-3, 0))
    canvas = Canvas((0, 0), (64, 48), 1)
    past = predict(motion, (ramp, None), canvas=canvas)
    np.testing.assert_allclose(past.picture[:, 10:50, 0], np.tile(x[10:50] + 2.5, (48, 1)))
    motion.coverage[1, :3] = 0
    both = predict(motion, (ramp, ramp + 100), canvas=canvas)
    assert both.known.all()
    expected = (x[10:50] + 2.5 + x[10:50] - 3 + 100) / 2
    np.testing.assert_allclose(both.picture[30, 10:50, 1], expected)
    np.testing.assert_allclose(both.picture[10, 10:50, 1], x[10:50] + 2.5)
    motion.coverage[:, 5] = 0
    assert not predict(motion, (ramp, ramp), canvas=canvas).known[40:].any()


def test_references_are_the_i_and_p_frames_around():
    clip = GivenClip([make_frame(i, kind) for i, kind in enumerate("IBBPBP")])
    found = {
        frame.index: tuple(None if o is None else o.index for o in (around.past, around.future))
        for frame, around in walk(clip, first=2, last=4, needs=Needs(references=True))
    }
    assert found == {2: (0, 3), 3: (0, None), 4: (3, 5)}
    assert clip.ranges == [(0, 6)]


def test_steps_before_a_frame_are_kept():
    clip = GivenClip([make_frame(i, "P") for i in range(9)])
    found = [
        [step.index for step in around.steps]
        for _, around in walk(clip, first=1, last=5, needs=Needs(span=3))
    ]
    assert found == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    assert clip.ranges == [(0, 6)]


def test_only_what_a_layer_needs_is_read():
    clip = GivenClip([make_frame(i, kind) for i, kind in enumerate("IBBPBP")])
    [(frame, around)] = walk(clip, first=4, last=4, needs=needs_of(["arrows"], Style()))
    assert (frame.index, around.past, around.future) == (4, None, None)
    assert clip.ranges == [(4, 5)]


def test_scales_are_those_of_usual_vectors_and_residuals():
    luma = np.zeros((48, 64))
    luma[:, ::2] = 17
    frame = make_frame(motion=make_motion((3, 4)), residual=make_residual(luma))
    style = fit_style([frame] * 3)
    assert (style.longest, style.largest_residual) == (5, 20)
    still = fit_style([make_frame()])
    assert (still.longest, still.largest_residual) == (1, 8)
    assert [nice_ceiling(value) for value in (1, 1.2, 7, 10, 61)] == [1, 1.5, 8, 10, 80]


@pytest.mark.parametrize("name", LAYERS)
def test_pages_of_a_clip_have_one_size_and_take_any_name(name):
    frames = [
        make_frame(0, "I", motion=make_motion(covered=0)),
        make_frame(1, residual=make_residual(np.ones((48, 64)))),
        make_frame(2, picture=None, motion=None),
    ]
    hostile = "<script>\n\x00\x1b" + "w" * 500
    clip = GivenClip(frames, name=hostile)
    needs = needs_of([name], Style())
    pages = [
        draw_layer(name, frame, facts=clip.facts, around=around)
        for frame, around in walk(clip, first=0, last=2, needs=needs)
    ]
    assert len({page.shape for page in pages}) == 1
    assert pages[1].dtype == np.uint8
    assert pages[1].shape[1] >= 640


def test_a_frame_says_why_it_has_no_such_picture():
    facts = make_facts("PP")
    page = draw_layer("residual_heat", make_frame(1), facts=facts)
    assert page[:, :300].max() > 200  # words
    missing = draw_layer("warped", make_frame(1), facts=facts)
    assert missing.shape[1] == 3 * 640 + 16


def test_layers_are_those_that_a_clip_has():
    whole = make_facts("IPP")
    assert available_layers(whole) == tuple(LAYERS)
    video = make_facts(
        "IBP", planes=frozenset({"frames", "motion"}), exactness="B-frames: no; deblocking: no"
    )
    assert set(LAYERS) - set(available_layers(video)) == {
        "accumulated",
        "residual_heat",
        "residual_signed",
    }
    assert choose_layers(None, facts=video) == ("frame", "arrows", "colours")
    assert choose_layers(["warped", "warped"], facts=video) == ("warped",)
    with pytest.raises(UserError, match=r"no residual \(B-frames: no\); canonical shards have"):
        choose_layers(["residual_heat"], facts=video)
    with pytest.raises(UserError, match="cannot be followed through B-frames"):
        choose_layers(["accumulated"], facts=video)
    with pytest.raises(UserError, match="expected a layer of frame, arrows, .* got 'arrow'"):
        choose_layers(["arrow"], facts=video)
    with pytest.raises(UserError, match="at least one layer"):
        choose_layers([], facts=video)
