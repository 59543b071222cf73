"""Atlases and concept sheets of trained nets, for docs/reference-samples.md.

    python benchmarks/atlas.py cifar model.keras cifar10_part.npz --out pictures
    python benchmarks/atlas.py photos mobilenet075.weights.h5 photos --out pictures

cifar: a CNN that takes values from 0 to 1; reference samples are the training pictures, the atlases of test pictures.
photos: MobileNet (alpha 0.75) with ImageNet weights; the atlases are of three photographs of a folder with labels.json,
and the reference samples all others. OUT gets the pictures and keeps the reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import lrp_tf
from lrp_tf.concepts import atlas, build_reference, concept_sheet
from lrp_tf.files import images
from lrp_tf.training.sources import CIFAR10

PHOTOS = ("n02123045_tabby", "n03344393_fireboat", "n02056570_king_penguin")


class Study(NamedTuple):
    """A net, its reference data and the samples to explain.

    Attributes:
        show: a sample as the net takes it -> a picture.
        names: of classes.
        drawn: name of a file -> sample.
    """

    model: keras.Model
    x: np.ndarray
    y: np.ndarray
    drawn: dict[str, np.ndarray]
    show: Callable[[np.ndarray], np.ndarray]
    names: Sequence[str]


def cifar(options: argparse.Namespace) -> Study:
    with np.load(options.data) as file:
        x, y, test = file["x_train"].astype(np.float32) / 255, file["y_train"].ravel(), file["x_test"]
    drawn = {f"cifar{i}": test[i].astype(np.float32) / 255 for i in options.pictures}
    return Study(keras.models.load_model(options.model), x, y, drawn, lambda x: x, CIFAR10)


def photos(options: argparse.Namespace) -> Study:
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(options.model)
    fit, files = images.Fit(224, 224, "squash"), sorted(options.data.glob("*.jpg"))
    x = {file.stem: fit.apply(images.read(str(file))).astype(np.float32) / 127.5 - 1 for file in files}
    listed = json.loads((options.data / "labels.json").read_text(encoding="utf-8"))
    labels = {Path(entry["file"]).stem: int(entry["label"]) for entry in listed}
    names = json.loads((options.data.parent / "imagenet_class_index.json").read_text(encoding="utf-8"))
    rest = [stem for stem in x if stem not in PHOTOS]
    return Study(
        model,
        np.stack([x[stem] for stem in rest]),
        np.array([labels[stem] for stem in rest]),
        {stem.split("_", 1)[1]: x[stem] for stem in PHOTOS},
        lambda x: (x + 1) / 2,
        [names[str(i)][1].replace("_", " ") for i in range(len(names))],
    )


def main() -> None:
    """Build the reference and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=["cifar", "photos"])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layer", help="default: block3_relu2, conv_pw_11_relu")
    parser.add_argument("--composite", default="epsilon_plus_flat")
    parser.add_argument("--pictures", type=int, nargs="+", default=[0, 1, 2], help="test pictures of CIFAR-10")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--suffix", default=".png", help="of the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    study = {"cifar": cifar, "photos": photos}[options.net](options)
    layer = options.layer or {"cifar": "block3_relu2", "photos": "conv_pw_11_relu"}[options.net]
    explainer = lrp_tf.Explainer(study.model, options.composite)
    path = options.out / f"{options.net}-{layer}.h5"
    reference = build_reference(explainer, (study.x, study.y), layer, path=path, batch=20)
    draw: dict[str, Any] = {"layer": layer, "images": study.x, "show": study.show, "names": study.names}
    for name, x in study.drawn.items():
        atlas(explainer, x, reference, path=options.out / f"atlas-{name}{options.suffix}", top=options.top, **draw)
        channel = int(np.asarray(explainer.concepts(x[None], layer=layer, top=1).channels)[0, 0])
        sheet = options.out / f"sheet-{name}{options.suffix}"
        concept_sheet(reference, channel, explainer=explainer, by=("relevance", "activation"), path=sheet, **draw)
        print(f"{name}: channel {channel}, {sheet}")


if __name__ == "__main__":
    main()
