"""Frames per second of vgg/video.py beside what its explainer alone allows, in turn in one process: --help."""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import cv2
import numpy as np
import tensorflow as tf
from timing import ratio, seconds

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "vgg"), str(HERE.parent)]  # first: this file is called `video`, too
running, video = (importlib.import_module(name) for name in ("running", "video"))
filming, views = (importlib.import_module(name) for name in ("filming", "views"))


def film(path: Path, count: int, size: tuple[int, int]) -> Path:
    """A film of smooth colours and a disc that moves."""
    colours = np.random.default_rng(0).integers(0, 200, (5, 8, 3), dtype=np.uint8)
    ground = cv2.resize(colours, size[::-1], interpolation=cv2.INTER_CUBIC)

    def picture(i: int) -> np.ndarray:
        pixels = ground.copy()
        cv2.circle(pixels, (size[1] * i // count, size[0] // 2), size[0] // 6, (255, 240, 60), -1)
        return pixels

    filming.write(path, (filming.Picture(picture(i), i / 25) for i in range(count)), None, 25.0)
    return path


def job(chosen: argparse.Namespace, folder: Path) -> Any:
    """The script's own job for a film of its own."""
    made = film(folder / "in.mp4", chosen.frames, (360, 640))
    given = [
        "--model",
        chosen.model,
        "--weights",
        chosen.weights,
        "--source",
        str(made),
        "--out",
        str(folder / "o.mp4"),
    ]
    options = video.make_parser().parse_args([*given, "--batch", str(chosen.batch), *chosen.more])
    source, explaining = running.opened(options.source, options.max_pixels), running.explaining_of(options)
    size = views.shown_size(source.size, options.height)
    return running.Job(
        explaining, source, views.Scale(options.scale), size, options.style, options.out, batch=chosen.batch
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vgg16", help="as vgg/video.py takes it; default: vgg16")
    parser.add_argument("--weights", default="none", help="as vgg/video.py takes it; default: none")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=100, help="of the film; default: 100")
    parser.add_argument("--runs", type=int, default=2, help="of both, in turn; default: 2")
    chosen, chosen.more = parser.parse_known_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        once = job(chosen, Path(folder))
        form = once.explaining.form
        pixels = np.random.default_rng(0).integers(0, 255, (form.height, form.width, 3), dtype=np.uint8)
        x = tf.constant(once.explaining.fed([pixels] * chosen.batch))
        explain = once.explaining.explainer
        for _ in range(2):
            seconds(explain, x), once.explaining(x)
        alone, whole, used = [], [], []
        half = -(-chosen.frames // chosen.batch) // 2
        for _ in range(chosen.runs):  # half of the calls before the film and half behind it, against drift
            calls, work = _calls(explain, x, half)
            once.count, began, cpu = 0, time.perf_counter(), time.process_time()
            once.run()
            whole.append((time.perf_counter() - began) / once.count)
            film_work = (time.process_time() - cpu) / once.count
            more, more_work = _calls(explain, x, half)
            alone.append((calls + more) / (2 * half * chosen.batch))
            used.append((work + more_work) / (2 * half * chosen.batch) / film_work)
            print(
                f"explainer alone {1000 * alone[-1]:.1f} ms a frame, film {1000 * whole[-1]:.1f} ms a frame, "
                f"{1 / whole[-1]:.2f} frames/s: {alone[-1] / whole[-1]:.3f} of the explainer's rate; the explainer is "
                f"{used[-1]:.3f} of the film's processor time",
                flush=True,
            )
    if chosen.runs > 1:
        print(f"median: {1 / ratio(alone, whole)['ratio']:.3f}, of processor time {statistics.median(used):.3f}")


def _calls(explain: Any, x: tf.Tensor, count: int) -> tuple[float, float]:
    """Seconds of so many calls, and their processor time."""
    cpu = time.process_time()
    passed = sum(seconds(explain, x) for _ in range(count))
    return passed, time.process_time() - cpu


if __name__ == "__main__":
    main()
