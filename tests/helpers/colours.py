"""A net whose channels are colours, and squares of these colours: what an atlas of it must show is known."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import cv2
import keras
import numpy as np
from keras import layers as kl

SIDE, RED, GREEN = 24, 0, 1


def make_net(sign: float = -0.5, size: tuple[int | None, int | None] = (SIDE, SIDE)) -> keras.Model:
    """Class 0 counts red and class 1 green; channel 0 is red, channel 1 green, channel 2 blue, which nothing reads."""
    net = keras.Sequential([
        keras.Input((*size, 3)),
        kl.Conv2D(3, 3, activation="relu", name="colours"),
        kl.Conv2D(3, 1, name="same"),
        kl.GlobalAveragePooling2D(),
        kl.Dense(2, name="scores"),
    ])  # fmt: skip
    kernel = np.zeros((3, 3, 3, 3), "float32")
    kernel[:, :, range(3), range(3)] = 1
    same, scores = np.eye(3, dtype="float32")[None, None], np.float32([[1, sign], [sign, 1], [0, 0]])
    net.set_weights([kernel, np.zeros(3), same, np.zeros(3), scores, np.zeros(2)])
    return net


def squares(place: Path, count: int = 6) -> Path:
    """Red squares in `r` and green ones in `g`, by turns, the stronger the later."""
    for i in range(count):
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        first, strength = 2 + i % 12, min(140 + 20 * i, 255)
        picture[first : first + 8, 4:12, i % 2] = strength
        (place / "rg"[i % 2]).mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(place / "rg"[i % 2] / f"{i}.png"), picture[..., ::-1])
    return place


def read(path: Path) -> np.ndarray:
    """A picture as int [H, W, 3], red first."""
    return cv2.imread(str(path))[..., ::-1].astype(int)


def coloured(sheet: np.ndarray, channel: int) -> int:
    """How many pixels are clearly of the colour of a channel, RED or GREEN."""
    return int((sheet[..., channel] - sheet[..., 1 - channel] > 150).sum())


def data_of(out: Path) -> dict:
    text = (out / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def shown(out: Path) -> dict[tuple[str, int, int], np.ndarray]:
    """(file, number of the composite, class) -> its atlas, as the page finds it."""
    found = {}
    for item in data_of(out)["items"]:
        for run, targets in enumerate(item["runs"]):
            for target in targets:
                found[item["name"], run, target["class"]] = read(out / unquote(target["atlas"]))
    return found


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def check_colours(atlases: dict[tuple[str, int, int], np.ndarray]) -> None:
    """The channel of an atlas is that of the photograph's colour, for its class or against the other one."""
    for (name, _, label), sheet in atlases.items():
        channel, colour = sheet[len(sheet) // 2 :], colour_of(name)
        assert coloured(channel, colour) > 3000 > 0 == coloured(channel, 1 - colour), (name, label)


def colour_of(name: str) -> int:
    return int(Path(name).stem) % 2
