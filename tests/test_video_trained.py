"""vgg/video.py as a user runs it: a film of 100 frames, Ctrl-C, and the live page in Chromium."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import REPOSITORY, video_scripts
from helpers.browser import browsing, expect
from helpers.extras import need
from helpers.video_scripts import GREEN, LOOKS, SIZE, SQUARE, column, film, frames, halves, picture, red_at

need("av", extra="video")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("video")
    video_scripts.watcher(found / "watcher.keras")
    return found


def command(folder: Path, *more: object) -> list[str]:
    given = ["--model", folder / "watcher.keras", *LOOKS, "--classes", folder / "watcher.txt", *more]
    return [sys.executable, str(REPOSITORY / "vgg/video.py"), *map(str, given)]


def started(folder: Path, *more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
    )  # fmt: skip


@pytest.mark.parametrize("turn", [0, 90])
def test_a_film_of_100_frames(folder: Path, turn: int) -> None:
    source, out = film(folder / f"in{turn}.mp4", 100, turn), folder / f"out{turn}.mp4"
    run = subprocess.run(
        command(folder, "--source", source, "--out", out, "--batch", 8), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"100 frames explained in .* frames/s", run.stdout)
    found = frames(out)
    assert len(found) == 100
    places = []
    for i, pixels in enumerate(found):
        shown, heatmap = halves(pixels)
        height, width = shown.shape[:2]
        np.testing.assert_allclose(shown[height // 16, width // 8], GREEN, atol=12)  # lit in the upper left alone
        for row, other in ((1 / 16, 7 / 8), (15 / 16, 1 / 8), (15 / 16, 7 / 8)):
            assert shown[int(row * height), int(other * width)].max() < 60
        places.append(red_at(heatmap))
        assert abs(places[-1] - (column(i, 100) + SQUARE / 2) / SIZE[1]) < 0.03
    assert places[-1] - places[0] > 0.7


def test_ctrl_c_leaves_a_film_that_plays(folder: Path) -> None:
    long = film(folder / "long.mp4", 4000)
    run = started(folder, "--source", long, "--out", "cut.mp4")
    try:
        assert "ready after" in run.stdout.readline()
        while run.poll() is None and not any(path.stat().st_size for path in folder.glob(".tmp-*.mp4")):
            time.sleep(0.02)
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        out, error = run.communicate(timeout=30)
    finally:
        run.kill()
    assert run.returncode == 130, error
    assert "Interrupted" in error
    assert "Traceback" not in error
    told = int(re.search(r"(\d+) frames explained", out)[1])
    assert 1 <= len(frames(folder / "cut.mp4")) <= told < 4000
    assert not list(folder.glob(".tmp-*"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The page of a film whose square hardly moves, so that a patch in the middle hides it."""
    still = film(folder / "still.mp4", 60, make=lambda i: picture(34 + i % 2))
    run = started(folder, "--source", still, "--serve", 0)
    assert "ready after" in run.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", run.stdout.readline())
    assert found
    try:
        yield found[0]
    finally:
        run.send_signal(signal.SIGINT)
        out, error = run.communicate(timeout=20)
        assert run.returncode == 130, error
        assert "Traceback" not in error
        assert "frames explained" in out


# How much red the heatmap of the editor shows.
RED = """async () => {
  const shown = document.querySelector("#map"), canvas = document.createElement("canvas");
  await shown.decode();  // until then the picture before it is shown
  [canvas.width, canvas.height] = [shown.naturalWidth, shown.naturalHeight];
  const pen = canvas.getContext("2d");
  pen.drawImage(shown, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0;
  for (let k = 0; k < pixels.length; k += 4) sum += pixels[k] - pixels[k + 1];
  return sum;
}"""


def numbers(page: Any) -> list[float]:
    """Probability and score before and after."""
    cells = [page.locator(f"#{row} td").nth(k).text_content() for row in ("chance", "score") for k in (0, 1)]
    return [float(cell.replace("−", "-").rstrip(" %")) for cell in cells]


def settled(page: Any, script: str) -> None:
    """Wait until that is true and no answer is on its way. Playwright's waiting needs `eval`, forbidden here."""
    limit = time.monotonic() + 60
    while not page.evaluate(f"!busy && ({script})"):
        assert time.monotonic() < limit, script
        page.wait_for_timeout(20)


def hide_the_square(page: Any, tap: bool) -> None:
    """A black patch, which lowers the score and changes map and class."""
    before, bright = numbers(page), page.evaluate(RED)
    assert before[0] == before[1] > 50
    assert bright > 1000
    page.click("[data-fill=black]")
    page.locator("#side").fill("16")
    box = page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] * 40.5 / SIZE[1], box["y"] + box["height"] * 30 / SIZE[0]
    if tap:
        page.touchscreen.tap(x, y)
    else:
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.up()
    settled(page, "document.querySelector('#chance td:nth-of-type(3)').textContent.startsWith('−')")
    after = numbers(page)
    assert after[0] == before[0]
    assert after[1] < 50
    assert after[3] < 0.2 * before[2]
    expect(page.locator("#top td").nth(1)).to_have_text("nothing")
    assert page.evaluate(RED) < 0.2 * bright


def undo_and_go_on(page: Any, before: list[float], bright: float) -> None:
    """Undo, keys, reset, another class."""
    page.click("#undo")
    settled(page, "document.querySelector('#undo').disabled")
    assert numbers(page) == before
    assert page.evaluate(RED) == bright

    page.locator("#canvas").focus()
    for _ in range(2):
        page.keyboard.press("Enter")
    settled(page, "document.querySelector('#chance td:nth-of-type(3)').textContent.startsWith('−')")
    page.click("#reset")
    settled(page, "document.querySelector('#reset').disabled")
    assert numbers(page) == before

    page.click("#classes button:has-text('nothing')")
    settled(page, "document.querySelector('#scores caption').textContent === 'nothing'")
    page.click("#classes button:has-text('top class')")
    settled(page, "document.querySelector('#scores caption').textContent === 'square'")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("phone", [False, True])
def test_the_page(address: str, phone: bool) -> None:
    size = (390, 844) if phone else (1280, 800)
    with browsing(*size, has_touch=phone) as b:
        page = b.page
        page.goto(address)
        settled(page, "document.querySelector('#stream').naturalWidth > 0")
        shape = page.evaluate(
            "[document.querySelector('#stream').naturalWidth, document.querySelector('#stream').naturalHeight]"
        )
        assert (shape[0] > shape[1]) != phone  # beside one another, or below
        speed = page.locator("#numbers")
        expect(speed).to_have_text(re.compile(r"frame \d+ · [\d.]+ frames/s"))
        expect(speed).not_to_have_text(speed.text_content())
        expect(page.locator("#classes")).to_contain_text("square")

        page.click("#pause")
        page.wait_for_selector("#editor:not([hidden])")
        settled(page, "document.querySelector('#picture').naturalWidth === 32")
        before = numbers(page)
        bright = page.evaluate(RED)

        hide_the_square(page, phone)
        undo_and_go_on(page, before, bright)
        page.click("#pause")
        page.wait_for_selector("#stream:not([hidden])")
        assert b.elsewhere == []
        assert b.errors == []
