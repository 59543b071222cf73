"""A headless Chromium for tests of pages. What a page asks of any other place is refused, and recorded."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from helpers.extras import missing_here

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# A request to one of these leaves the machine for no other; a server under test listens on the second.
_HERE = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:")
# Milliseconds that a condition may take to become true, on a machine that does much else.
PATIENCE = 30_000
# Frames fill the cards that come near the window; their pictures are decoded; the last two frames show them.
_SETTLED = """async () => {
  const frames = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  await frames();
  await Promise.all([...document.images].filter((image) => image.src).map((image) => image.decode().catch(() => {})));
  await frames();
}"""


class Browsing(NamedTuple):
    """A page of the browser.

    Attributes:
        page: of playwright's synchronous API.
        elsewhere: addresses that the page asked for and that lie neither on disk nor on 127.0.0.1.
        errors: what it wrote on the console as an error, and exceptions that nothing caught.
    """

    page: Any
    elsewhere: list[str]
    errors: list[str]


def chromium() -> str:
    """The path of the browser. Without one a test is skipped; where CI is set, which installs one, it fails."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        reason = "needs Chromium: apt-get install chromium"
        missing_here(reason)
    return found


@contextlib.contextmanager
def browsing(width: int = 1280, height: int = 800, **options: Any) -> Iterator[Browsing]:
    """A window of that many pixels.

    Args:
        options: of playwright's `new_context`: `color_scheme="dark"`, `has_touch=True`, `device_scale_factor=2`.
    """
    program = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        options = {"viewport": {"width": width, "height": height}, "reduced_motion": "reduce"} | options
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(PATIENCE)
        elsewhere: list[str] = []
        errors: list[str] = []

        def decide(route: Any) -> None:
            if route.request.url.startswith(_HERE):
                route.continue_()
            else:
                elsewhere.append(route.request.url)
                route.abort()

        page.route("**/*", decide)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        try:
            yield Browsing(page, elsewhere, errors)
        finally:
            browser.close()


def expect(locator: Any) -> Any:
    """Playwright's `expect`: `expect(page.locator("#count")).to_have_text("1 shown")` asks until it is so.

    What was just put in a page may have no text yet: `inner_text()` is "" until the browser has rendered it.
    """
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    return expect(locator)


def settle(page: Any) -> None:
    """Wait until the pictures of the page are decoded, and what it holds is drawn."""
    page.evaluate(_SETTLED)


def pixels(page: Any, place: str) -> np.ndarray:
    """What is seen at the first such place, int [h, w, 3]."""
    settle(page)
    picture = Image.open(io.BytesIO(page.locator(place).first.screenshot())).convert("RGB")
    return np.asarray(picture).astype(int)
