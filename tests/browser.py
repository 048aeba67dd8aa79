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
    """Open an empty page; at the end, nothing may have gone wrong in it.

    What its scripts threw, what its policy forbade and what it wrote to the console as an error
    is in ``page.faults``, and makes the test fail.
    """
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
    try:
        yield page
        assert page.faults == []
    finally:
        context.close()


def keep_screenshot(page, name, *, whole=False):
    """Write ``screenshots/NAME.png``: what is on the screen, or the whole page."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)


def canvas_pixels(page, selector):
    """Return a canvas as the browser drew it: (H, W, 4) uint8."""
    address = page.eval_on_selector(selector, "(canvas) => canvas.toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))
