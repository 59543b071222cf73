"""What the tests of commands share: photographs and a classifier of our own making, and how results are read."""

import csv

import cv2
import keras
import numpy as np
from keras import layers as kl
from PIL import Image

from helpers.checking import randomize


def photo(seed=0, height=48, width=64):
    """A smooth coloured picture with a bright disc."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 200, (4, 5, 3), dtype=np.uint8), (width, height))
    cv2.circle(pixels, (width // 3, height // 2), max(min(height, width) // 6, 1), (255, 240, 60), -1)
    return pixels


def photos(folder, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(photo(i)).save(folder / f"photo{i}.png")
    return folder


def classifier(*ahead, channels=3, size=32, classes=7):
    stack = [kl.Conv2D(4, 5, strides=2, activation="relu"), kl.GlobalAveragePooling2D()]
    stack = [*ahead, *stack, kl.Dense(classes, activation="softmax")]
    return randomize(keras.Sequential([keras.Input((size, size, channels)), *stack], name="small"))


def table(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def rgb(path):
    return cv2.cvtColor(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
