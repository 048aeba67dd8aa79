"""The pages in a real browser; what they show is compared with the arrays."""

import re
from dataclasses import replace

import numpy as np
import pytest

from browser import (
    DESKTOP,
    PHONE,
    canvas_pixels,
    go_to_frame,
    keep_screenshot,
    opened_page,
    running_browser,
    wait_for_frame,
)
from gopstream.jobs.inspection.clip_payload import block_residual
from gopstream.jobs.inspection.dataset_page import write_dataset_page
from gopstream.jobs.inspection.open_target import open_clip
from gopstream.jobs.inspection.page import write_page
from gopstream.pipeline.mvextractor_backend import TABLE_COLUMNS
from gopstream.shards.reader import ShardDataset
from inspection_cases import HOSTILE_LABEL, make_dataset, make_exact_video, make_video

BACKGROUND = (23, 25, 28)


@pytest.fixture(scope="module")
def browser():
    with running_browser() as running:
        yield running


class Labelled:
    """A clip with a label."""

    def __init__(self, clip):
        self.facts = replace(clip.facts, label=HOSTILE_LABEL)
        self.frames = clip.frames


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Return a clip with residual, and the address of its page."""
    folder = tmp_path_factory.mktemp("exact")
    clip = Labelled(open_clip(str(make_exact_video(folder, num_frames=8))))
    write_page(clip, folder / "clip.html")
    return clip, (folder / "clip.html").as_uri()


@pytest.fixture(scope="module")
def with_b_frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("b_frames")
    clip = open_clip(str(make_video(folder, b_frames=True, size=128, num_frames=12)))
    write_page(clip, folder / "clip.html")
    return clip, (folder / "clip.html").as_uri()


def wait_for_frames(page, number):
    """Wait until so many frames are noted; the page's policy forbids ``wait_for_function``."""
    page.evaluate(
        """(number) => new Promise((done) => {
            const look = () => (window.shown.length >= number ? done() : setTimeout(look, 10));
            look();
        })""",
        number,
    )


def settle(page):
    """Wait until what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def pixel_of_page(page, clip, x, y):
    """Return where a pixel of the coded picture is on the page, at its first zoom."""
    box = page.locator(".stage-canvas").bounding_box()
    left, top, width, height = clip.facts.display_rect
    scale = min(box["width"] / width, box["height"] / height)
    return (
        box["x"] + box["width"] / 2 + (x + 0.5 - left - width / 2) * scale,
        box["y"] + box["height"] / 2 + (y + 0.5 - top - height / 2) * scale,
    )


def facts_at(page, clip, x, y):
    page.mouse.move(*pixel_of_page(page, clip, x, y))
    settle(page)
    values = page.locator(".panel-block [data-fact]")
    return {
        one.get_attribute("data-fact"): one.inner_text().replace("\u2212", "-")
        for one in values.all()
    }


def stage_colours(page, clip, places):
    """Return the (R, G, B) drawn at places of the coded picture: (len(places), 3)."""
    box = page.locator(".stage-canvas").bounding_box()
    drawn = canvas_pixels(page, ".stage-canvas")[..., :3].astype(int)
    at = [pixel_of_page(page, clip, x - 0.5, y - 0.5) for x, y in places]
    return np.array([drawn[int(y - box["y"]), int(x - box["x"])] for x, y in at])


def show_only(page, *names):
    for box in page.locator(".layer input[type=checkbox]").all():
        box.set_checked(box.get_attribute("id").removeprefix("layer-") in names)
    settle(page)


def test_the_page_asks_for_nothing_but_itself(browser, exact):
    clip, address = exact
    with opened_page(browser) as page:
        page.goto(address)
        wait_for_frame(page, 1)
        assert page.requested == [address]
        assert page.locator("h1").inner_text() == clip.facts.name


def test_a_label_stays_text(browser, exact):
    _, address = exact
    with opened_page(browser) as page:
        page.on("dialog", lambda dialog: page.faults.append(dialog.message))
        go_to_frame(page, address)
        assert page.locator(".chip").first.inner_text() == HOSTILE_LABEL
        assert page.locator("[data-fact=label]").inner_text() == HOSTILE_LABEL
        assert page.locator("main b").count() == 0


def test_the_picture_is_the_frames(browser, exact):
    clip, address = exact
    (frame,) = clip.frames(3, 4)
    with opened_page(browser) as page:
        go_to_frame(page, address, 3)
        show_only(page, "picture")
        pixels = [(4, 4), (40, 24), (60, 9), (21, 55)]
        shown = stage_colours(page, clip, [(x + 0.5, y + 0.5) for x, y in pixels])
    stored = np.array([frame.picture[y, x] for x, y in pixels], int)
    # The JPEG halves colour in both directions; brightness stays.
    assert np.abs(shown.mean(1) - stored.mean(1)).max() < 12


def test_play_shows_every_frame_in_turn_to_the_end_or_around(browser, exact):
    _, address = exact
    with opened_page(browser) as page:
        go_to_frame(page, address)
        page.evaluate(
            """() => {
                window.shown = [];
                const player = document.querySelector(".player");
                const note = () => window.shown.push(Number(player.dataset.frame));
                const options = { attributes: true, attributeFilter: ["data-frame"] };
                new MutationObserver(note).observe(player, options);
            }"""
        )
        page.get_by_label("Speed").select_option("4")
        page.get_by_label("Play again from the start (L)").click()
        page.get_by_label("Play (Space)").click()
        wait_for_frames(page, 7)
        page.get_by_label("Play (Space)").wait_for()  # it has stopped at the end
        assert page.evaluate("window.shown") == [1, 2, 3, 4, 5, 6, 7]
        page.locator("h1").click()
        page.keyboard.press("l")
        page.keyboard.press("Space")
        wait_for_frames(page, 19)
        page.keyboard.press("Space")
        page.get_by_label("Play (Space)").wait_for()
        assert page.evaluate("window.shown")[7:19] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]


def test_keys_step_and_toggle(browser, exact):
    clip, address = exact
    second_intra = clip.facts.kinds.index("I", 1)
    with opened_page(browser) as page:
        go_to_frame(page, address)
        for key, index in [
            ("ArrowRight", 1),
            ("ArrowRight", 2),
            ("ArrowLeft", 1),
            ("End", 7),
            ("[", second_intra),
            ("Home", 0),
            ("]", second_intra),
            ("Shift+ArrowLeft", 0),
        ]:
            page.keyboard.press(key)
            wait_for_frame(page, index)
        assert page.locator("#layer-picture").is_checked()
        page.keyboard.press("1")
        assert not page.locator("#layer-picture").is_checked()
        page.keyboard.press("?")
        assert page.locator("dialog.help").is_visible()
        page.keyboard.press("ArrowRight")  # not while the help is read
        page.keyboard.press("Escape")
        assert not page.locator("dialog.help").is_visible()
        assert page.locator(".player").get_attribute("data-frame") == "0"


def test_layers_are_drawn_while_they_are_on(browser, exact):
    _, address = exact
    with opened_page(browser) as page:
        go_to_frame(page, address, 2)
        for layer in ("signed", "heat", "types", "colours", "partition", "arrows"):
            show_only(page, "picture")
            without = canvas_pixels(page, ".stage-canvas").astype(int)
            show_only(page, "picture", layer)
            strong = canvas_pixels(page, ".stage-canvas")
            page.locator(f"[data-layer={layer}] input[type=range]").fill("0.05")
            settle(page)
            faint = canvas_pixels(page, ".stage-canvas")
            assert 0 < np.abs(faint - without).mean() < 0.3 * np.abs(strong - without).mean(), layer
        show_only(page, "picture")
        assert np.array_equal(canvas_pixels(page, ".stage-canvas"), without)


def test_hover_tells_the_arrays_numbers(browser, exact):
    clip, address = exact
    (frame,) = clip.frames(3, 4)
    residual = block_residual(frame.residual)
    with opened_page(browser) as page:
        go_to_frame(page, address, 3)
        for row, column in [*np.ndindex(3, 8), (7, 0), (7, 7)]:
            facts = facts_at(page, clip, 8 * column + 5, 8 * row + 2)
            assert facts["block"] == f"column {column}, row {row}"
            assert facts["pixel"] == f"{8 * column + 5}, {8 * row + 2}"
            is_covered = bool(frame.motion.coverage[0, row, column])
            assert facts["type"].startswith("predicted from the past" if is_covered else "intra")
            mean, total = re.match(r"mean \|r\| ([\d.]+), sum (\d+)", facts["residual"]).groups()
            assert int(total) == residual[row, column]
            assert float(mean) == pytest.approx(int(total) / 64, abs=0.00501)
            assert ("vector-past" in facts) == is_covered
            if is_covered:
                vector = frame.motion.motion[0, row, column]
                assert_vector(facts["vector-past"], vector)
                moved = re.match(r"\((.*), (.*)\) px", facts["moved-past"])
                assert [float(one) for one in moved.groups()] == pytest.approx(
                    -vector / 4, abs=0.01
                )


def test_hover_tells_both_vectors_of_a_b_frame(browser, with_b_frames):
    clip, address = with_b_frames
    frame = next(one for one in clip.frames() if one.kind == "B")
    coverage = frame.motion.coverage
    kinds = {(1, 0): "from the past", (0, 1): "from the future", (1, 1): "from past and future"}
    seen = set()
    with opened_page(browser) as page:
        go_to_frame(page, address, frame.index)
        for kind, words in kinds.items():
            for row, column in np.argwhere((coverage == np.reshape(kind, (2, 1, 1))).all(0))[:3]:
                facts = facts_at(page, clip, 8 * column, 8 * row)
                assert facts["type"] == f"predicted {words}"
                for number, name in enumerate(("past", "future")):
                    assert (f"vector-{name}" in facts) == bool(kind[number])
                    if kind[number]:
                        told = facts[f"vector-{name}"]
                        assert_vector(told, frame.motion.motion[number, row, column])
                seen.add(kind)
    assert (1, 1) in seen and len(seen) > 1


def assert_vector(told, quarter_pixels):
    """Compare ``(dx, dy) px, length LENGTH`` with a vector."""
    numbers = re.fullmatch(r"\((-?[\d.]+), (-?[\d.]+)\) px, length ([\d.]+)", told)
    dx, dy = quarter_pixels / 4
    assert [float(one) for one in numbers.groups()] == pytest.approx(
        [dx, dy, np.hypot(dx, dy)], abs=0.00501
    )


def test_arrows_point_the_way_things_move(browser, exact):
    clip, address = exact
    (frame,) = clip.frames(3, 4)
    # The clip moves by (3, 1) pixels per frame: vectors to the past are (-12, -4).
    columns = [TABLE_COLUMNS.index(name) for name in ("dst_x", "dst_y")]
    is_like_that = (frame.vectors[:, -3:-1] == (-12, -4)).all(1)
    centres = frame.vectors[is_like_that][:, columns]
    assert len(centres) > 4
    with opened_page(browser) as page:
        go_to_frame(page, address, 3)
        show_only(page, "arrows")
        page.get_by_label("Arrows", exact=True).last.select_option("1")
        settle(page)
        # An arrow comes from the upper left and ends at the block's centre.
        behind = stage_colours(page, clip, centres - (1.8, 0.6))
        beyond = stage_colours(page, clip, centres + (1.5, 0.5))
    assert np.abs(behind - BACKGROUND).max(1).min() > 60
    assert np.abs(beyond - BACKGROUND).max() < 20


def test_a_click_keeps_the_block_until_escape(browser, exact):
    clip, address = exact
    with opened_page(browser) as page:
        go_to_frame(page, address, 1)
        page.mouse.click(*pixel_of_page(page, clip, 20, 20))
        assert facts_at(page, clip, 50, 50)["block"] == "column 2, row 2"
        page.keyboard.press("Escape")
        assert facts_at(page, clip, 50, 50)["block"] == "column 6, row 6"


def test_zoom_keeps_the_place_and_hover_stays_right(browser, exact):
    clip, address = exact
    with opened_page(browser) as page:
        go_to_frame(page, address, 1)
        place = pixel_of_page(page, clip, 36, 30)  # no edge comes near
        page.mouse.dblclick(*place)
        settle(page)
        page.keyboard.press("Escape")
        page.mouse.move(place[0] + 1, place[1])
        settle(page)
        assert page.locator("[data-fact=pixel]").inner_text() == "36, 30"
        page.keyboard.press("0")
        assert facts_at(page, clip, 3, 60)["pixel"] == "3, 60"


def test_the_timeline_seeks_and_has_a_bar_for_each_frame(browser, exact):
    clip, address = exact
    with opened_page(browser) as page:
        go_to_frame(page, address)
        assert page.locator(".timeline-head select").input_value() == "mean_length"
        box = page.locator(".timeline-canvas").bounding_box()
        for index in (5, 2):
            x = box["x"] + box["width"] * (index + 0.5) / clip.facts.num_frames
            page.mouse.click(x, box["y"] + 30)
            wait_for_frame(page, index)
            assert page.locator(".timeline").get_attribute("aria-valuenow") == str(index)
        energies = [float(np.abs(one.residual.y).mean()) for one in clip.frames()]
        page.locator(".timeline-head select").select_option("residual_energy")
        page.mouse.move(x, box["y"] + 30)
        note = page.locator(".timeline-note").inner_text()
        assert note.endswith(f"mean |r| {energies[2]:.2f}")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_the_screen_in_both_themes(browser, with_b_frames, size, dark):
    _, address = with_b_frames
    with opened_page(browser, size=size, dark=dark, touch=size == PHONE) as page:
        go_to_frame(page, address, 4)
        scheme = "dark" if dark else "light"
        keep_screenshot(page, f"page_{size[0]}_{scheme}", whole=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", back))) < 60) == dark
        for name in (".stage-canvas", ".timeline-canvas"):
            assert canvas_pixels(page, name)[..., :3].std() > 10
        if size == DESKTOP:  # all that one works with is in sight
            box = page.locator(".timeline-box").bounding_box()
            assert box["y"] + box["height"] <= size[1]


def test_a_touch_reads_a_block(browser, exact):
    clip, address = exact
    with opened_page(browser, size=PHONE, touch=True) as page:
        go_to_frame(page, address, 1)
        page.touchscreen.tap(*pixel_of_page(page, clip, 20, 44))
        assert page.locator("[data-fact=block]").inner_text() == "column 2, row 5"


def test_a_frame_that_cannot_be_read_is_told(browser, exact, tmp_path):
    clip, _ = exact
    write_page(clip, tmp_path / "clip.html")
    text = (tmp_path / "clip.html").read_text("ascii")
    (tmp_path / "torn.html").write_text(text.replace('id="frame-2"', 'id="frame-x"'), "ascii")
    with opened_page(browser) as page:
        go_to_frame(page, (tmp_path / "torn.html").as_uri(), 1)
        page.keyboard.press("ArrowRight")
        page.locator(".problem").wait_for()
        assert page.locator(".problem").inner_text().startswith("Frame 2 cannot be shown:")
        page.keyboard.press("ArrowRight")
        wait_for_frame(page, 3)
        assert not page.locator(".problem").is_visible()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_datasets_page_shows_hostile_classes_as_text(browser, dataset_page, size):
    with opened_page(browser, size=size, dark=size == PHONE) as page:
        page.on("dialog", lambda dialog: page.faults.append(dialog.message))
        page.goto(dataset_page)
        keep_screenshot(page, f"dataset_page_{size[0]}", whole=True)
        assert page.requested[0] == dataset_page
        assert all(one.startswith("data:") for one in page.requested[1:])
        assert page.locator(".bars th").first.inner_text() == HOSTILE_LABEL
        assert page.locator(".gallery figcaption").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        widths = page.locator(".bars").first.locator("rect")
        assert {one.bounding_box()["width"] > 20 for one in widths.all()} == {True}


@pytest.fixture(scope="module")
def dataset_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    root = make_dataset(folder, videos_per_class=1, num_frames=4)
    write_dataset_page(ShardDataset(root, "train"), folder / "set.html")
    return (folder / "set.html").as_uri()
