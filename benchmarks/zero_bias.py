"""What becomes of maps on a trained net with BatchNormalization when biases get nothing: region flipping and boxes.

    python benchmarks/zero_bias.py DATA

DATA holds `mobilenet075.weights.h5` (weights of keras.applications.MobileNet(alpha=0.75)), `photos/*.jpg`,
`photos/labels.json` ([{"file": ...}]) and `photos/boxes.json` ([{"file": ..., "class": ..., "boxes_xyxy": [...]}],
boxes around the object of that class, in pixels of the file).

Region flipping: the picture falls into 14 x 14 regions of 16 x 16 pixels, which are replaced by the blurred picture
(a Gaussian of 10 pixels), a fourteenth of them at a time, the most relevant first (MoRF) or last (LeRF). The figure is
the area between the two curves of the top class's probability: 0 for an order at random, larger is better. Relevance of
a region is the signed sum over its pixels and channels. ± is half of the 95 % interval of the mean, by 1000 bootstrap
samples of photographs; views of one photograph stay together. "less the default" compares picture by picture.

Boxes: the share of positive relevance (of pixels, after the sum over the channels) that lies inside the boxes, for
photographs whose boxes are those of the top class.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import keras
import numpy as np
import tensorflow as tf

import lrp_tf
from lrp_tf import composites

SIDE, REGIONS, STEPS = 224, 14, 14
DEFAULT = "epsilon_plus_flat"
BOUNDS = {"low": -1.0, "high": 1.0}


class Views(NamedTuple):
    """Photographs as fed [N, 224, 224, 3], their blurred twins, and the photograph that each is a view of."""

    x: np.ndarray
    blurred: np.ndarray
    photo: np.ndarray


def variants() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> preset and its options. Without `zero_bias` ZPlus and Gamma leave nothing for `when_empty` here."""
    found = {}
    for preset in (DEFAULT, "epsilon_alpha2_beta1_flat", "epsilon_gamma_box", "tutorial"):
        found[preset] = (preset, {})
        if preset in (DEFAULT, "epsilon_alpha2_beta1_flat"):
            found[f"{preset} magnitude"] = (preset, {"when_empty": "magnitude"})
        found[f"{preset} zero_bias"] = (preset, {"zero_bias": True})
        for how in ("magnitude", "uniform"):
            found[f"{preset} zero_bias {how}"] = (preset, {"zero_bias": True, "when_empty": how})
    return found | {"epsilon": ("epsilon", {}), "epsilon zero_bias": ("epsilon", {"zero_bias": True})}


def read(folder: Path, mirrored: bool) -> tuple[Views, list[str]]:
    """The photographs, squashed to the model's size, and their names."""
    names = [entry["file"] for entry in json.loads((folder / "labels.json").read_text(encoding="utf-8"))]
    pictures = []
    for name in names:
        picture = cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2RGB)
        pictures.append(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype("float32"))
    photo = np.arange(len(names))
    if mirrored:
        pictures, photo = pictures + [p[:, ::-1] for p in pictures], np.concatenate([photo, photo])
    blurred = [cv2.GaussianBlur(p, (0, 0), 10.0) for p in pictures]
    scaled = [np.stack(p) / 127.5 - 1.0 for p in (pictures, blurred)]
    return Views(*scaled, photo), names


def of_regions(maps: np.ndarray) -> np.ndarray:
    """[N, 224, 224] -> [N, 196]: sums over the regions."""
    size = SIDE // REGIONS
    return maps.reshape(-1, REGIONS, size, REGIONS, size).sum((2, 4)).reshape(len(maps), -1)


def flipped(views: Views, scores: np.ndarray, probability: Callable) -> np.ndarray:
    """The area between the curves of each view, [N]."""
    areas = []
    for x, blurred, score, index in zip(views.x, views.blurred, scores, range(len(scores)), strict=True):
        order = np.argsort(-score, kind="stable")
        curves = []
        for ranked in (order[::-1], order):  # least relevant first, most relevant first
            at = np.empty(len(order), int)
            at[ranked] = np.arange(len(order))
            counts = np.linspace(0, len(order), STEPS + 1)[:-1]  # all of them: the same for both
            masks = (at < counts[:, None]).reshape(-1, REGIONS, REGIONS)
            masks = np.kron(masks, np.ones((1, SIDE // REGIONS, SIDE // REGIONS), bool))[..., None]
            curves.append(probability(np.where(masks, blurred, x), index))
        gap = curves[0] - curves[1]  # 0 at both ends
        areas.append(gap.sum() / STEPS)
    return np.array(areas)


def half_width(values: np.ndarray, photo: np.ndarray, seed: int = 0) -> float:
    """Half of the 95 % interval of the mean over photographs."""
    means = np.array([values[photo == p].mean() for p in np.unique(photo)])
    draws = np.random.default_rng(seed).integers(0, len(means), (1000, len(means)))
    low, high = np.quantile(means[draws].mean(1), [0.025, 0.975])
    return float(high - low) / 2


def inside(maps: np.ndarray, names: list[str], top: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Share of positive relevance inside the boxes, and of the area, for each photograph that has them."""
    shares, areas = [], []
    for entry in json.loads((folder / "boxes.json").read_text(encoding="utf-8")):
        index = names.index(entry["file"])
        if top[index] != entry["class"]:
            continue
        height, width = cv2.imread(str(folder / entry["file"])).shape[:2]
        mask = np.zeros((height, width), "float32")
        for left, upper, right, lower in entry["boxes_xyxy"]:
            mask[upper:lower, left:right] = 1.0
        mask = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        positive = np.maximum(maps[index], 0.0)
        shares.append((positive * mask).sum() / max(positive.sum(), 1e-300))
        areas.append(mask.mean())
    return np.array(shares), np.array(areas)


def explained(
    model: keras.Model, x: np.ndarray, preset: str, options: dict
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Maps [N, 224, 224] in float64, and by name the shares of the start and |R| over it, [N] each."""
    bounds = BOUNDS if composites.needs_bounds(preset) else {}
    explainer = lrp_tf.Explainer(model, composites.get(preset, **bounds, **options))
    maps, shares = [], {name: [] for name in ("relevance", "other", "size")}
    for first in range(0, len(x), 16):
        found = explainer.explain(x[first : first + 16])
        relevance, parts = np.asarray(found.relevance, "float64"), found.conservation
        maps.append(relevance.sum(-1))
        shares["relevance"].append(np.asarray(parts.relevance / parts.start))
        shares["other"].append(np.asarray(parts.other / parts.start))
        shares["size"].append(np.abs(relevance).sum((1, 2, 3)) / np.abs(np.asarray(parts.start)))
    return np.concatenate(maps), {name: np.concatenate(values) for name, values in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--mirrored", action="store_true", help="mirror images too: twice as many views")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="variants whose name contains one of these")
    options = parser.parse_args()
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(options.data / "mobilenet075.weights.h5")
    views, names = read(options.data / "photos", options.mirrored)
    run = tf.function(lambda x: model(x, training=False), autograph=False)
    top = np.concatenate([run(views.x[i : i + 32]).numpy().argmax(-1) for i in range(0, len(views.x), 32)])
    probability = lambda x, index: run(x.astype("float32")).numpy()[:, top[index]].astype("float64")  # noqa: E731

    row, columns, centre = np.random.default_rng(0), np.arange(REGIONS), (REGIONS - 1) / 2
    distance = np.hypot(*np.meshgrid(columns - centre, columns - centre)).reshape(-1)
    controls = {
        "random": row.normal(size=(len(views.x), REGIONS**2)),
        "centre": np.tile(-distance, (len(views.x), 1)),
    }
    wanted = {k: v for k, v in variants().items() if not options.only or any(text in k for text in options.only)}
    wanted = {DEFAULT: variants()[DEFAULT]} | wanted
    print(f"{len(views.x)} views of {len(names)} photographs; shares and |R| are of the logit, by median and maximum\n")
    print("| variant | area | less the default | ΣR | other | Σ\\|R\\|, max | inside boxes |")
    print("|---|---|---|---|---|---|---|")
    areas: dict[str, np.ndarray] = {}
    for name, (preset, rule_options) in wanted.items():
        maps, shares = explained(model, views.x.astype("float32"), preset, rule_options)
        areas[name] = flipped(views, of_regions(maps), probability)
        found, area_of_boxes = inside(maps, names, top, options.data / "photos")
        less = areas[name] - areas[DEFAULT]
        print(
            f"| {name} | {areas[name].mean():.3f} ± {half_width(areas[name], views.photo):.3f} "
            f"| {less.mean():+.3f} ± {half_width(less, views.photo):.3f} | {np.median(shares['relevance']):.3g} "
            f"| {np.median(shares['other']):.3g} | {shares['size'].max():.3g} "
            f"| {found.mean():.3f} ± {half_width(found, np.arange(len(found))):.3f} |",
            flush=True,
        )
    for name, scores in controls.items():
        area = flipped(views, scores, probability)
        print(f"| {name} | {area.mean():.3f} ± {half_width(area, views.photo):.3f} | | | | | |", flush=True)
    print(f"\nBoxes: {len(found)} photographs, {area_of_boxes.mean():.3f} of the area")


if __name__ == "__main__":
    main()
