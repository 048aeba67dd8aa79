"""A real Chromium for tests of pages; they are skipped where there is none."""

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCREENSHOTS = Path(__file__).parents[1] / "screenshots"
"""Where they are kept, to be looked at; not in the repository."""
DESKTOP = (1280, 860)
PHONE = (390, 844)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def find_chromium():
    """Return the browser's path, or None."""
    debian = Path("/usr/bin/chromium")
    return str(debian) if debian.is_file() else next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def running_browser():
    """Start the browser, once for many pages; skips the test where it is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = find_chromium()
    if path is None:
        pytest.skip("needs chromium or google-chrome on the PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(browser, *, size=DESKTOP, dark=False, touch=False) -> Iterator:
    """Give an empty page; at the end, nothing may have gone wrong in it.

    What its scripts threw, what its policy forbade and what it wrote to the console as an error
    is in ``page.faults``, and makes the test fail. The next test that asks for the same gets the
    page again, emptied: a new one costs the browser a process.
    """
    kept, kind = _kept_pages(browser), (size, dark, touch)
    page = kept.pop(kind, None) or _new_page(browser, size=size, dark=dark, touch=touch)
    page.faults.clear()
    page.requested.clear()
    try:
        yield page
        assert page.faults == []
    except BaseException:
        page.context.close()
        raise
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.goto("about:blank")
    kept[kind] = page


def _kept_pages(browser):
    """Return the browser's emptied pages by their kind."""
    if not hasattr(browser, "kept_pages"):
        browser.kept_pages = {}
    return browser.kept_pages


def _new_page(browser, *, size, dark, touch):
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        has_touch=touch,
        device_scale_factor=2 if touch else 1,
    )
    page = context.new_page()
    page.faults = []
    page.requested = []
    page.on("pageerror", lambda error: page.faults.append(f"thrown: {error}"))
    page.on("console", lambda said: said.type == "error" and page.faults.append(said.text))
    page.on("request", lambda request: page.requested.append(request.url))
    return page


def go_to_frame(page, address, index=0):
    """Open a page of a clip at a frame and wait until it is drawn."""
    page.goto(f"{address}#frame={index}")
    wait_for_frame(page, index)


def wait_for_frame(page, index):
    """Wait until the player has drawn a frame."""
    page.wait_for_selector(f".player[data-frame='{index}'] .stage[data-drawn='{index}']")


def keep_screenshot(page, name, *, whole=False):
    """Write ``screenshots/NAME.png``: what is on the screen, or the whole page."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)


def canvas_pixels(page, selector):
    """Return a canvas as the browser drew it: (H, W, 4) uint8."""
    address = page.eval_on_selector(selector, "(canvas) => canvas.toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))
