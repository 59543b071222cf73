"""A headless Chromium for tests of pages. What a page asks of any other place is refused, and recorded."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# A request to one of these leaves the machine for no other; a server under test listens on the second.
_HERE = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:")


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
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
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
        page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
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
