"""A gallery of many small pictures, and how long its pages take to open in a headless Chromium.

    python benchmarks/gallery.py --count 2000

A page is open when its first pictures are painted: the time from the request to then, with a new browser for each page.
Needs the extra `browser`, and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import keras
import numpy as np

import lrp_tf
from lrp_tf import gallery
from lrp_tf.files import images, loading

# Until the pictures that are seen are there, and two more frames are drawn.
SEEN = """async () => {
  const seen = () => [...document.querySelectorAll(".card img")].filter((image) => {
    const box = image.getBoundingClientRect();
    return box.height && box.top < innerHeight && box.bottom > 0;
  });
  while (!seen().length || !seen().every((image) => image.src && image.complete && image.naturalWidth)) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  return seen().length;
}"""


def photographs(folder: Path, count: int, side: int) -> None:
    """Smooth coloured pictures with a little noise, as JPEG files of about the size of photographs."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = cv2.resize(
            rng.integers(0, 255, (9, 12, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC
        )
        noise = rng.normal(0, 12, pixels.shape)
        cv2.imwrite(str(folder / f"picture{i:05}.jpg"), np.clip(pixels + noise, 0, 255).astype(np.uint8))


def network(side: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    stack = [keras.Input((side, side, 3)), keras.layers.Conv2D(8, 5, strides=2, activation="relu")]
    stack += [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([*stack, keras.layers.Dense(20, activation="softmax")], name="random")


def opened(page: Path, program: str) -> tuple[float, int]:
    """(seconds until the page is open, pictures that are seen)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        tab.goto(page.resolve().as_uri(), wait_until="commit")
        seen = tab.wait_for_selector(".card") and tab.evaluate(SEEN)
        seconds = time.perf_counter() - began
        browser.close()
    return seconds, int(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description="How long the pages of a gallery take to open.")
    parser.add_argument("--count", type=int, default=2000, help="pictures; default: %(default)s")
    parser.add_argument("--side", type=int, default=224, help="pixels of a picture; default: %(default)s")
    parser.add_argument("--targets", type=int, default=3, help="classes that are explained; default: %(default)s")
    parser.add_argument("--page", type=int, default=500, help="pictures of a page; default: %(default)s")
    parser.add_argument("--out", type=Path, help="folder to keep; default: one that is removed")
    chosen = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise SystemExit("Expected a Chromium. Remedy: apt-get install chromium")
    with tempfile.TemporaryDirectory() as temporary:
        out = chosen.out or Path(temporary) / "out"
        photographs(Path(temporary) / "in", chosen.count, chosen.side)
        explainer = lrp_tf.Explainer(network(chosen.side), "epsilon_plus")
        job = gallery.Gallery(
            explainer, loading.get_preprocessing("scale:1/255"), out, targets=(f"topK:{chosen.targets}",), tiles=True
        )
        began = time.perf_counter()
        outcome = job.run(images.find([Path(temporary) / "in"]))
        seconds = time.perf_counter() - began
        print(f"{outcome.done} pictures of {chosen.side} x {chosen.side} explained in {seconds:.1f} s")
        began = time.perf_counter()
        pages = gallery.write_page(out, page=chosen.page)
        print(f"{len(pages)} page(s) written in {time.perf_counter() - began:.2f} s")
        tiles = sum(path.stat().st_size for path in (out / "gallery").rglob("*") if path.is_file())
        print(f"small pictures: {tiles / 1e6:.1f} MB, {tiles / outcome.done / 1e3:.1f} kB for each picture")
        for page in pages:
            seconds, seen = opened(page, program)
            print(f"{page.name}: {page.stat().st_size / 1e6:.2f} MB, open in {seconds:.2f} s, {seen} pictures seen")


if __name__ == "__main__":
    main()
