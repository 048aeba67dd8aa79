"""The app of ``gopstream view`` in a real Chromium."""

import contextlib
import math
import re

import numpy as np
import pytest

from app_cases import large_dataset, make_samples, running_app
from browser import DESKTOP, PHONE, keep_screenshot, opened_page, running_browser
from gopstream.jobs.inspection.sample_clip import SampleClip
from gopstream.shards.layout import shard_name
from gopstream.shards.reader import ShardDataset
from inspection_cases import HOSTILE_LABEL, make_video

ONE_PAGE = 48
SHOWN = ".app-card, .app-failure, .app-bars, .player[data-frame]"
"""What is there once a view is."""


@pytest.fixture(scope="module")
def browser():
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def large(browser):
    return large_dataset()


@pytest.fixture(scope="module")
def app(large):
    with running_app(large) as address:
        yield address


@contextlib.contextmanager
def opened(browser, address, **options):
    with opened_page(browser, **options) as page:
        page.goto(address)
        page.locator(SHOWN).first.wait_for()
        yield page


def keys(page):
    """Return the numbers of the samples that are shown."""
    names = page.locator(".app-card").evaluate_all("cards => cards.map(card => card.dataset.key)")
    return [int(name.rpartition("-")[2]) for name in names]


def wait_for_samples(page, expected):
    page.wait_for_function(
        """(expected) => JSON.stringify([...document.querySelectorAll('.app-card')].map(
            (card) => Number(card.dataset.key.split('-').pop()))) === JSON.stringify(expected)""",
        arg=expected,
    )


def wait_for_text(page, selector, text):
    page.locator(selector).filter(has_text=text).first.wait_for()


def wait_for_pictures(page):
    """Wait for those that are in sight."""
    page.locator(SHOWN).first.wait_for()
    page.wait_for_function(
        """() => [...document.images].every((image) =>
            image.complete || image.getBoundingClientRect().top > innerHeight)"""
    )


def asked(page, part):
    return [url for url in page.requested if part in url]


def test_a_shard_of_2000_samples_opens_by_a_page(browser, app):
    with opened(browser, app) as page:
        assert keys(page) == list(range(ONE_PAGE))
        assert page.locator(".app-summary").text_content() == "2,000 samples"
        wait_for_pictures(page)
        assert len(asked(page, "/api/samples")) == 1
        # Below the fold pictures wait until they come near.
        assert 0 < len(asked(page, "/api/thumbnails/")) <= ONE_PAGE
        assert len(asked(page, "/api/")) <= ONE_PAGE + 3
        loaded = "image => image.complete && image.naturalWidth === 64"
        assert page.locator(".app-card img").first.evaluate(loaded)
        page.locator("[data-page=last]").click()
        wait_for_samples(page, list(range(1968, 2000)))
        assert len(asked(page, "/api/samples")) == 2


def test_hostile_names_stay_text(browser, app):
    with opened(browser, app) as page:
        page.on("dialog", lambda dialog: pytest.fail("a name was run"))
        label = page.locator(".app-card-label").nth(1)
        assert label.text_content() == HOSTILE_LABEL
        for place, selector in (
            ("samples", "#field-label option"),
            ("overview", ".app-bar-name"),
            ("failures", ".app-failure-source"),
            ("clip/train/1", ".chip"),
        ):
            page.goto(f"{app}/#/{place}")
            page.locator(selector).filter(has_text=HOSTILE_LABEL).first.wait_for(state="attached")
            assert page.locator("script").count() == 1
            assert page.locator("main b").count() == 0


def test_samples_are_searched(browser, app):
    with opened(browser, app) as page:
        page.keyboard.press("/")
        page.keyboard.type("folder 1/")
        wait_for_text(page, ".app-summary", "286 of 2,000 samples match")
        page.select_option("#field-label", label=f"{HOSTILE_LABEL} (667)")
        page.fill("#field-motion_max", "1")
        wait_for_samples(page, [i for i in range(100) if i % 7 == 1 and i % 3 == 1])
        page.select_option("#field-order", label="Most motion")
        wait_for_samples(page, [85, 64, 43, 22, 1])
        page.fill("#field-where", "damaged_frames > 0")
        wait_for_text(page, ".app-empty", "No sample is like that")
        page.locator(".app-summary a").click()
        wait_for_samples(page, list(range(ONE_PAGE)))
        assert page.input_value("#field-query") == ""


def test_a_condition_that_cannot_be_meant_is_told(browser, app):
    with opened(browser, app) as page:
        page.fill("#field-where", "frame > 3")
        wait_for_text(page, ".app-alert", "did you mean 'frames'")
        page.faults.clear()  # the browser's own line about the answer 400
        page.fill("#field-where", "damaged_frames > 0")
        wait_for_samples(page, [5])


def test_a_search_goes_on_from_clip_to_clip_and_back(browser, app):
    with opened(browser, f"{app}/#/samples?order=-mean_motion_pixels&offset={ONE_PAGE}") as page:
        page.locator(".app-card").nth(1).click()
        wait_for_text(page, "h1", "train/train-00001950")
        wait_for_text(page, ".app-rank", "50 of 2,000")
        page.keyboard.press("n")
        wait_for_text(page, "h1", "train/train-00001949")
        wait_for_text(page, ".app-rank", "51 of 2,000")
        page.locator("a[rel=prev]").click()
        wait_for_text(page, "h1", "train/train-00001950")
        page.keyboard.press("u")
        wait_for_samples(page, list(range(1951, 1951 - ONE_PAGE, -1)))
        page.go_back()
        wait_for_text(page, "h1", "train/train-00001950")
        page.goto(f"{app}/#/clip/train/0")
        wait_for_text(page, ".app-rank", "1 of 2,000")
        assert page.locator("a[rel=prev]").count() == 0
        assert page.locator("a[rel=next]").count() == 1


def test_the_split_is_chosen(browser, app):
    with opened(browser, app) as page:
        page.select_option("#split", "val")
        wait_for_samples(page, [0, 1])
        assert page.locator(".app-card-key").first.text_content() == "val-00000000"
        page.goto(f"{app}/#/constructor")  # no view has such a name
        wait_for_samples(page, list(range(ONE_PAGE)))
        facts = page.locator(".app-card").locator("nth=1").locator(".app-card-facts span")
        assert facts.all_text_contents() == ["4 frames", "0.01 px"]  # its length is not known


def point_at(page, clip, x, y):
    """Move the pointer to the middle of a pixel of the coded picture."""
    box = page.locator(".stage-canvas").bounding_box()
    left, top, width, height = clip.facts.display_rect
    scale = min(box["width"] / width, box["height"] / height)
    page.mouse.move(
        box["x"] + box["width"] / 2 + (x + 0.5 - left - width / 2) * scale,
        box["y"] + box["height"] / 2 + (y + 0.5 - top - height / 2) * scale,
    )


def test_a_block_shows_the_numbers_of_the_arrays(browser, app, large):
    clip = SampleClip(ShardDataset(large, "train"), 42)
    frame = list(clip.frames())[2]
    covered = np.argwhere(frame.motion.coverage[0])
    with opened(browser, f"{app}/#/clip/train/42") as page:  # at frame 1
        page.keyboard.press("ArrowRight")
        page.locator('.player[data-frame="2"]').wait_for()
        for row, column in (covered[0], covered[len(covered) // 2], covered[-1]):
            point_at(page, clip, 8 * column + 3, 8 * row + 5)
            wait_for_text(page, "[data-fact=block]", f"column {column}, row {row}")
            told = page.locator("[data-fact=vector-past]").text_content().replace("\u2212", "-")
            dx, dy = frame.motion.motion[0, row, column] / 4
            pair = re.match(r"\((\S+), (\S+)\) px, length (\S+)", told).groups()
            assert np.allclose([*map(float, pair)], [dx, dy, math.hypot(dx, dy)], atol=0.006)
        # The numbers of all frames have come without being shown.
        page.wait_for_function(
            "count => performance.getEntriesByName(location.origin + "
            "'/api/clips/train/42/statistics/0').length === count",
            arg=1,
        )


def test_a_video_is_played_at_once(browser, tmp_path):
    video = make_video(tmp_path, b_frames=True)
    with running_app(video) as address, opened(browser, address) as page:
        assert page.locator("nav").count() == 0
        wait_for_text(page, "h1", video.name)
        page.locator("[data-action=play]").click()
        # Any later frame: one alone is shown for 40 ms, which is easily missed, over and over.
        page.locator('.player:not([data-frame="0"], [data-frame="1"])').wait_for()
        page.locator("[data-action=play]").click()
        page.keyboard.press("End")
        page.wait_for_url(f"{address}/#/?frame=11")
        page.keyboard.press("Home")
        page.locator('.player[data-frame="0"]').wait_for()


def test_the_address_leads_to_the_frame_and_back_to_the_search(browser, app):
    with opened(browser, f"{app}/#/samples?query=00000042") as page:
        page.locator(".app-card").click()
        page.locator('.player[data-frame="1"]').wait_for()  # the first with vectors
        page.keyboard.press("End")
        page.wait_for_url("**/#/clip/train/42?*frame=3")
        page.reload()
        page.locator('.player[data-frame="3"]').wait_for()
        page.go_back()
        wait_for_samples(page, [42])


def test_a_shard_without_samples_names_its_failures(browser, tmp_path):
    root = make_samples(tmp_path, train=[1, 0])
    with (
        running_app(root / "train" / f"{shard_name(1)}.tar") as address,
        opened_page(browser) as page,
    ):
        page.goto(address)
        wait_for_text(page, ".app-empty", "This shard holds no sample.")
        page.locator(".app-empty a").click()
        page.locator(".app-failure").first.wait_for()


def test_failures_are_chosen_by_reason(browser, app):
    with opened(browser, f"{app}/#/failures") as page:
        assert page.locator(".app-failure").count() == 3
        page.locator(".app-chip", has_text="probe: NotAVideoError").first.click()
        wait_for_text(page, ".app-summary", "1 of 3 failures match")
        assert page.locator(".app-failure-message").all_text_contents() == ["frame 0 is torn"]
        page.locator(".app-chip[aria-pressed=true]").click()
        wait_for_text(page, ".app-summary", "3 failures")


def test_a_bar_of_the_overview_leads_to_its_samples(browser, app):
    with opened(browser, f"{app}/#/overview") as page:
        page.get_by_role("link", name="0.125 \u2013 0.25").click()
        wait_for_samples(page, list(range(13, 25)))


def test_an_app_that_has_ended_is_told(browser, large):
    with opened_page(browser) as page:
        with running_app(large) as address:
            page.goto(address)
            wait_for_pictures(page)
        page.locator("[data-page=next]").click()
        wait_for_text(page, ".app-alert", "Is 'gopstream view' still running?")
        page.faults.clear()  # the browser's own lines about connections


def test_the_secret_leaves_the_address_and_is_kept(browser, large):
    """Also of a link in another page, as in a terminal in the browser."""
    with running_app(large, token="right") as address, opened_page(browser) as page:
        link = f'<a href="{address}/?token=right">the app</a>'
        page.route("http://terminal.example/", lambda route: route.fulfill(body=link))
        page.goto("http://terminal.example/")
        page.get_by_role("link").click()
        page.locator(SHOWN).first.wait_for()
        assert page.url.startswith(f"{address}/")
        assert page.evaluate("location.search") == ""
        assert "token" not in page.url
        assert len(keys(page)) == ONE_PAGE
        assert page.evaluate("document.cookie") == ""


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_views_fit_the_page(browser, app, size):
    width = f"app_{size[0]}"
    with opened(browser, app, size=size, touch=size == PHONE) as page:
        for name, place, selector in (
            ("samples", "samples?split=train&label=run", ".app-card"),
            ("failures", "failures", ".app-failure"),
            ("overview", "overview", "[aria-label='Samples by mean motion']"),
            ("clip", "clip/train/7", ".player[data-frame]"),
        ):
            page.goto(f"{app}/#/{place}")
            page.locator(selector).first.wait_for()
            wait_for_pictures(page)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                keep_screenshot(page, f"{width}_{name}_{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert page.locator(".app-alert").count() == 0
        if size == PHONE:
            page.goto(f"{app}/#/samples?label=run&order=frames")
            wait_for_text(page, ".app-toggle", "Filters (2)")
            assert not page.locator("#field-order").is_visible()
            page.get_by_role("button", name="Filters").click()
            assert page.locator("#field-order").is_visible()
            keep_screenshot(page, f"{width}_filters")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
