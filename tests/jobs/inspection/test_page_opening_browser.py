"""What a page shows when it opens, in a real browser."""

import re

import numpy as np
import pytest

from browser import (
    canvas_pixels,
    go_to_frame,
    keep_screenshot,
    opened_page,
    running_browser,
    wait_for_frame,
)
from gopstream.jobs.inspection.open_target import open_clip
from gopstream.jobs.inspection.page import write_page
from inspection_cases import encode_pictures, make_exact_video, make_pictures


@pytest.fixture(scope="module")
def browser():
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Return a clip and the address of its page."""
    folder = tmp_path_factory.mktemp("opening")
    clip = open_clip(str(make_exact_video(folder, size=128, num_frames=8)))
    write_page(clip, folder / "clip.html")
    return clip, (folder / "clip.html").as_uri()


def test_a_page_opens_at_the_first_frame_with_vectors_and_shows_them(browser, exact):
    _, address = exact
    with opened_page(browser) as page:
        page.goto(address)
        wait_for_frame(page, 1)
        assert page.locator(".stage-note").is_hidden()
        shown = canvas_pixels(page, ".stage-canvas").astype(int)
        page.locator("#layer-arrows").uncheck()
        page.evaluate("() => new Promise(requestAnimationFrame)")
        without = canvas_pixels(page, ".stage-canvas")
        assert (np.abs(shown - without).max(2) > 60).mean() > 0.01
        page.locator("#layer-arrows").check()
        page.keyboard.press("Home")
        wait_for_frame(page, 0)
        assert page.locator(".stage-note").inner_text() == "I-frame: no vectors"


def test_the_length_of_arrows_follows_the_clips_motion(browser, exact):
    clip, address = exact
    lengths = []
    for frame in clip.frames():
        vectors = frame.motion.motion[frame.motion.coverage > 0] / 4
        lengths += [np.percentile(np.hypot(*vectors.T), 95)] if len(vectors) else []
    usual = sorted(lengths)[len(lengths) // 2]
    with opened_page(browser) as page:
        go_to_frame(page, address, 2)
        pixel = page.locator(".stage-canvas").bounding_box()["height"] / 128
        scale = max(one for one in (1, 2, 3, 4, 6, 8) if one * usual * pixel <= 32)
        assert scale > 1
        told = page.locator("[data-told=arrows]")
        assert told.inner_text() == f"drawn {scale} \u00d7 as long"
        page.locator(".panel-layers select").last.select_option("1")
        page.evaluate("() => new Promise(requestAnimationFrame)")
        assert told.inner_text() == "drawn 1 \u00d7 as long"


def test_the_address_names_the_frame(browser, exact):
    _, address = exact
    with opened_page(browser) as page:
        go_to_frame(page, address, 3)
        page.keyboard.press("ArrowRight")
        page.wait_for_url(f"{address}#frame=4")
        page.goto(f"{address}#frame=6")  # the page stays
        wait_for_frame(page, 6)


def test_a_video_without_vectors_offers_nothing_for_them_but_a_remedy(browser, tmp_path):
    pictures = make_pictures(2)
    clip = open_clip(str(encode_pictures(tmp_path / "still.mkv", pictures, codec="ffv1")))
    write_page(clip, tmp_path / "clip.html")
    with opened_page(browser, size=(1280, 800)) as page:
        go_to_frame(page, (tmp_path / "clip.html").as_uri())
        keep_screenshot(page, "page_without_vectors")
        assert page.locator(".chip").first.inner_text() == "no vectors"
        assert page.locator(".panel-layers select").count() == 0
        assert re.search("gopstream extract .* --mode canonical", page.inner_text(".warnings"))
        box = page.locator(".timeline-box").bounding_box()
        assert box["y"] + box["height"] <= 800
