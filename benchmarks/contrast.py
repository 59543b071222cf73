"""What a contrast does to the maps of two classes: how alike they are, and on which object their relevance lies.

    python benchmarks/contrast.py --weights mobilenet075.weights.h5 --photos photos --picture docs/contrast.jpg

MobileNet (alpha 0.75). Needs the extra "photos" for the picture, and "evaluate". PHOTOS holds photographs, and
boxes.json: a list of {"file", "class", "boxes_xyxy"}. Every two of the boxed objects are pasted side by side into one
picture, which counts where the net has both classes among its five highest.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import cv2
import keras
import numpy as np
from scipy import stats

import lrp_tf
from lrp_tf import heatmap
from lrp_tf.files import images

SIDE = 224
KINDS = ("none", "softmax", "mean", "the other class")
Box = tuple[int, int, int, int]


def maps(explainer: lrp_tf.Explainer, x: np.ndarray, target: np.ndarray, other: np.ndarray, kind: str) -> np.ndarray:
    """Relevance [B, H, W] of targets [B] with one of KINDS."""
    contrast = {"none": None, "the other class": other}.get(kind, kind)
    return explainer(x, target, contrast=contrast, max_batch=16).numpy().sum(-1)


def alike(explainer: lrp_tf.Explainer, x: np.ndarray, kind: str) -> np.ndarray:
    """Spearman correlation [B] of the maps of the first and of the second class."""
    logits = np.concatenate([explainer.clone(part).numpy() for part in np.array_split(x, -(-len(x) // 16))])
    first, second = np.argsort(-logits, axis=1)[:, :2].T
    pairs = zip(maps(explainer, x, first, second, kind), maps(explainer, x, second, first, kind), strict=True)
    return np.array([stats.spearmanr(a.ravel(), b.ravel())[0] for a, b in pairs])


def half(image: np.ndarray, box: Box | None = None) -> np.ndarray:
    """The object as half a picture, uint8 [SIDE, SIDE / 2, 3]; without a box the middle."""
    height, width = image.shape[:2]
    left, top, right, bottom = box or (0, 0, width, height)
    tall = min(max(bottom - top, 2 * (right - left)), height)
    wide = tall // 2
    x = int(np.clip((left + right - wide) / 2, 0, width - wide))
    y = int(np.clip((top + bottom - tall) / 2, 0, height - tall))
    return cv2.resize(image[y : y + tall, x : x + wide], (SIDE // 2, SIDE), interpolation=cv2.INTER_AREA)


def pasted(model: keras.Model, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of two objects that the net both sees: inputs [N, H, W, 3], classes left and right [N, 2]."""
    boxes = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    halves = [(half(images.read(str(folder / b["file"])), tuple(b["boxes_xyxy"][0])), b["class"]) for b in boxes]
    pairs = [pair for pair in itertools.combinations(halves, 2) if pair[0][1] != pair[1][1]]
    x = fed(np.stack([np.concatenate([a, b], axis=1) for (a, _), (b, _) in pairs]))
    classes = np.array([[a, b] for (_, a), (_, b) in pairs])
    best = np.argsort(-model.predict(x, batch_size=16, verbose=0), axis=1)[:, :5]
    seen = (best[:, :, None] == classes[:, None]).any(1).all(1)
    return x[seen], classes[seen]


def own_share(explainer: lrp_tf.Explainer, x: np.ndarray, classes: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """For |R| and for positive relevance: the share of it on the class's own object, [N, 2] for left and right."""
    left, right = classes.T
    both = maps(explainer, x, left, right, kind), maps(explainer, x, right, left, kind)
    found = {}
    for name, of in (("|R|", np.abs), ("positive", lambda r: np.maximum(r, 0))):
        a, b = (of(r)[:, :, : SIDE // 2].sum((1, 2)) / of(r).sum((1, 2)) for r in both)
        found[name] = np.stack([a, 1 - b], axis=1)
    return found


def fed(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 127.5 - 1


def mobilenet(weights: Path) -> keras.Model:
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(weights)
    return model


def draw(explainer: lrp_tf.Explainer, path: Path) -> None:
    """One cat and two classes for it; a cat beside a cup and a class of each: maps without and with a contrast."""
    from skimage import data

    cat = cv2.resize(data.chelsea()[:, 75:375], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    both = np.concatenate([half(data.chelsea()), half(data.coffee())], axis=1)
    tabby, egyptian, espresso = ("tabby", 281), ("Egyptian cat", 285), ("espresso", 967)
    rows, labels = [], []
    for pixels, classes in ((cat, (tabby, egyptian)), (both, (egyptian, espresso))):
        rows.append([heatmap.image_to_rgb(pixels)])
        labels.append("")
        for kind, text in (("none", ""), ("softmax", ", softmax contrast")):
            for (name, target), (_, rival) in itertools.permutations(classes):
                r = maps(explainer, fed(pixels[None]), np.array([target]), np.array([rival]), kind)[0]
                rows[-1].append(heatmap.overlay(pixels, r, smooth=1, scale="99.5%"))
                labels.append(f"{name}{text}")
    heatmap.grid(path, rows, labels=labels, tile_inches=2.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--composite", default="epsilon_plus_flat")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    model = mobilenet(options.weights)
    explainer = lrp_tf.Explainer(model, options.composite)
    files = sorted(options.photos.glob("*.jpg"))
    fit = images.Fit(SIDE, SIDE, "squash")
    x = fed(np.stack([fit.apply(images.read(str(file))) for file in files]))
    two, classes = pasted(model, options.photos)
    print(f"{options.composite}, {len(x)} photographs, {len(two)} pictures of two objects\n")
    print("| contrast | classes 1 and 2, Spearman (median) | own object's share of \\|R\\| | of positive relevance |")
    print("|---|---|---|---|")
    for kind in KINDS:
        shares = own_share(explainer, two, classes, kind)
        cells = [np.median(alike(explainer, x, kind)), shares["|R|"].mean(), shares["positive"].mean()]
        print(f"| {kind} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    if options.picture:
        draw(explainer, options.picture)


if __name__ == "__main__":
    main()
