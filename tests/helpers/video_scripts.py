"""The modules of vgg/video.py, films of our own making, and a network that looks for bright squares."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from helpers import REPOSITORY

FOLDER = REPOSITORY / "vgg"
SIZE = (48, 80)  # of films, H and W
SQUARE, GROUND, GREEN = 12, 30, (20, 110, 20)
LOOKS = ("--preprocess", "scale:1/255")


def script(name: str) -> ModuleType:
    """A module of vgg/, which is no package: its files import one another by name."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def column(i: int, count: int) -> int:
    """Left edge of the square in frame i."""
    return round(i * (SIZE[1] - SQUARE) / max(count - 1, 1))


def picture(left: int) -> np.ndarray:
    """Dark ground, a bright square, and a green bar at the top whose left half alone is lit."""
    pixels = np.full((*SIZE, 3), GROUND, np.uint8)
    pixels[:8, : SIZE[1] // 2] = GREEN
    pixels[24 : 24 + SQUARE, left : left + SQUARE] = 250
    return pixels


def film(
    path: Path, count: int = 20, turn: int = 0, make: Callable[[int], np.ndarray] | None = None, rate: int = 25,
    options: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """A film of H.264 whose square moves from left to right.

    Args:
        turn: the pictures lie on their side in the file, and players turn them by so many degrees.
        make: the pixels of frame i.
        options: of the container.
    """
    import av

    make = make or (lambda i: picture(column(i, count)))
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12", "preset": "veryfast", "threads": "1"})
        first = np.rot90(make(0), -turn // 90)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        for i in range(count):
            pixels = np.ascontiguousarray(np.rot90(make(i), -turn // 90))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def frames(path: Path) -> list[np.ndarray]:
    """The frames of a film as a player decodes them, [H, W, 3]."""
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times(path: Path) -> list[float]:
    """The times of the frames of a film."""
    import av

    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def watcher(path: Path, side: int = 32) -> Path:
    """A saved model of two classes: the more bright pixels, the more "square"; without any it says "nothing"."""
    model = keras.Sequential([
        keras.Input((side, side, 3)),
        kl.Conv2D(1, 3, padding="same", activation="relu"),
        kl.GlobalAveragePooling2D(),
        kl.Dense(2, activation="softmax"),
    ], name="watcher")  # fmt: skip
    model.set_weights([np.full((3, 3, 3, 1), 1 / 27), np.array([-0.5]), np.array([[160.0, 0.0]]), np.array([0.0, 0.5])])
    model.save(path)
    path.with_suffix(".txt").write_text("square\nnothing\n")
    return path


def halves(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frame and heatmap in a picture of the film that was written, without captions and the gap."""
    height, width = pixels.shape[:2]
    captions = height - 240
    return pixels[: height - captions, : width // 2 - 3], pixels[: height - captions, width // 2 + 3 :]


def red_at(heatmap: np.ndarray) -> float:
    """Where the middle of the red is, from 0 on the left to 1 on the right."""
    red = np.maximum(heatmap[..., 0].astype(float) - heatmap[..., 1], 0)
    return float((red.sum(0) * np.linspace(0, 1, red.shape[1])).sum() / red.sum())


class Cable:
    """A camera of OpenCV that is pulled out after `count` frames; `ready` is asked for each."""

    def __init__(self, count: int, ready: Callable[[int], Any] = int) -> None:
        self.left, self.count, self.ready = count, count, ready

    def isOpened(self) -> bool:
        return self.count > 0

    def get(self, what: int) -> float:
        return 25.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        if self.left < 0:
            return False, None
        self.ready(self.count - self.left)
        return True, picture(column(self.count - self.left, self.count + 1))[..., ::-1].copy()

    def release(self) -> None:
        self.left = 0
