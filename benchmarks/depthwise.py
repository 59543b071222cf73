"""Does a preset for depthwise nets beat what is no LRP? Paired intervals on two trained nets.

    python benchmarks/depthwise.py cifar --data cifar10_part.npz --model model.keras --samples 200 --grid
    python benchmarks/depthwise.py cifar --data cifar10_part.npz --model model.keras --out study/cifar
    python benchmarks/depthwise.py photos --data photos --weights mobilenet075.weights.h5 --out study/photos

cifar: the net of `python mnist/train.py --dataset cifar10_part.npz --net mobilenet`. The first half of the test
pictures chooses (`--grid`), the second half compares. photos: MobileNet (alpha 0.75) on photographs with boxes.json
and on those that scikit-image and scikit-learn bring; `--grid` ranks the same composites there. Each photograph is seen
four times: whole and its middle, each also mirrored. A photograph counts once, as the mean of its views. What is
explained is the class that the net predicts for the whole photograph. OUT keeps what is finished. Needs the extra
"evaluate".
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

import lrp_tf
from lrp_tf import composites, evaluate, gradients
from lrp_tf.evaluate.protocol import UndefinedMetricWarning
from lrp_tf.files import images

PRESET, DEFAULT = "epsilon_gamma_wsquare", "epsilon_plus_flat"
SHARES = {"quarter": 1 / 4, "half": 1 / 2, "three quarters": 3 / 4}
SIZE, FULL = 224, 256  # pixels of MobileNet's input; of a photograph, whose middle is one of its views
ON_OBJECTS = ("relevance_mass", "relevance_rank", "pointing_game")
MORE = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")  # of scikit-image


@dataclasses.dataclass(frozen=True)
class Material:
    """A net and what it is shown.

    Attributes:
        x: [n, H, W, C]. target: [n]. masks: [n, H, W] or None.
        views: so many samples in a row are of one picture.
    """

    model: keras.Model
    x: np.ndarray
    target: np.ndarray
    masks: np.ndarray | None
    views: int = 1


def cifar(options: argparse.Namespace) -> Material:
    with np.load(options.data) as file:
        x, y = file["x_test"].astype(np.float32) / 255, file["y_test"].ravel()
    model = keras.models.load_model(options.model)
    predicted = model.predict(x, verbose=0).argmax(1)
    print(f"accuracy on {len(x)} test pictures: {(predicted == y).mean():.3f}")
    half = slice(0, len(x) // 2) if options.grid else slice(len(x) // 2, len(x))
    return Material(model, x[half][: options.samples], predicted[half][: options.samples], None)


def photos(options: argparse.Namespace) -> Material:
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(options.weights)
    boxes = {e["file"]: e["boxes_xyxy"] for e in json.loads((options.data / "boxes.json").read_text("utf-8"))}
    files = sorted(options.data.glob("*.jpg")) + ([] if options.grid else others())
    pixels, masks = [], np.zeros((len(files), FULL, FULL), bool)  # no box: the metrics are undefined
    for file, mask in zip(files, masks, strict=True):
        image = images.read(str(file))
        pixels.append(images.Fit(FULL, FULL, "crop").apply(image))
        for x0, y0, x1, y1 in boxes.get(file.name, []):
            mask[y0:y1, x0:x1] = True
    whole = images.Fit(SIZE, SIZE, "squash")
    edge = (FULL - SIZE) // 2
    middle = (slice(edge, edge + SIZE), slice(edge, edge + SIZE))
    x = [[whole.apply(p), whole.apply(p)[:, ::-1], p[middle], p[middle][:, ::-1]] for p in pixels]
    shrunk = [whole.apply(np.repeat(mask[..., None], 3, -1).astype(np.uint8) * 255)[..., 0] > 127 for mask in masks]
    seen = [[s, s[:, ::-1], m[middle], m[middle][:, ::-1]] for s, m in zip(shrunk, masks, strict=True)]
    views = 1 if options.grid else 4
    flat = np.array([view for row in x for view in row[:views]], np.float32) / 127.5 - 1
    target = np.repeat(model.predict(flat[::views], verbose=0).argmax(1), views)
    return Material(model, flat, target, np.array([view for row in seen for view in row[:views]]), views)


def others() -> list[Path]:
    """Photographs of the two packages, on which nothing was chosen."""
    import skimage.data
    import sklearn.datasets

    folders = Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"
    return [folders[0] / name for name in MORE] + [folders[1] / name for name in ("china.jpg", "flower.jpg")]


def grid(model: keras.Model, pattern: str) -> dict[str, object]:
    """LRP with another rule on the first part of the convolutions, ZPlus or Gamma on the rest, with a contrast."""
    count = len(composites.convolutions().select(lrp_tf.Explainer(model).graph))
    found = {DEFAULT: DEFAULT}
    for part, share in SHARES.items():
        for first in ("flat", "wsquare"):
            for rest in ("zplus", "gamma 0.5", "gamma 1", "gamma 2"):
                text = f"dense: epsilon; first {math.ceil(share * count)}: {first}; all: {rest}"
                found[f"{part}: {first}; rest: {rest}"] = text
    for rest in ("gamma 0.5", "gamma 1", "gamma 2"):
        found[f"first: flat; rest: {rest}"] = f"dense: epsilon; first: flat; all: {rest}"
        text = f"dense: epsilon; first: wsquare; DepthwiseConv2D: wsquare; all: {rest}"
        found[f"first, DepthwiseConv2D: wsquare; rest: {rest}"] = text
    found["magnitude"] = "dense: epsilon; first: flat; all: zplus when_empty=magnitude"
    made: dict[str, object] = {name: explained(model, text) for name, text in found.items()}
    preset, default = explained(model, PRESET), explained(model, DEFAULT)
    made[f"{PRESET}, absolute"] = absolute(preset)
    filtered = lrp_tf.Explainer(model, PRESET, relevance_filter=0.1)
    made[f"{PRESET}, filtered"] = functools.partial(filtered, contrast="softmax")
    for part in (56, 28, 14):
        made[f"{DEFAULT}, smoothed over 1/{part} of the width"] = smoothed(default, model.input_shape[2] / part)
    return {name: explain for name, explain in made.items() if re.search(pattern, name)}


def explained(model: keras.Model, composite: str) -> Callable[..., object]:
    made = composites.parse(composite) if ":" in composite else composites.get(composite)
    return functools.partial(lrp_tf.Explainer(model, made), contrast="softmax")


def rivals(model: keras.Model) -> dict[str, object]:
    """The preset and the default, with and without a contrast, and what is no LRP."""
    found: dict[str, object] = {f"{name}, contrast": explained(model, name) for name in (PRESET, DEFAULT)}
    found |= {name: lrp_tf.Explainer(model, name) for name in (PRESET, DEFAULT)}
    found["SmoothGrad²"] = gradients.SmoothGrad(model, reduce="mean_square")
    found["SmoothGrad, mean |·|"] = gradients.SmoothGrad(model, reduce="mean_abs")
    found["|SmoothGrad|"] = absolute(gradients.SmoothGrad(model))
    found["Grad-CAM"] = gradients.GradCAM(model)
    found["|gradient|"] = absolute(gradients.Gradient(model))
    return found | {"Sobel": "sobel"}


def absolute(explain: Callable[..., object]) -> Callable[..., np.ndarray]:
    return lambda x, target: np.abs(np.asarray(explain(x, target)))


def smoothed(explain: Callable[..., object], sigma: float) -> Callable[..., np.ndarray]:
    """Under a Gaussian of so many pixels."""
    from scipy.ndimage import gaussian_filter

    return lambda x, target: gaussian_filter(np.asarray(explain(x, target)).sum(-1), (0, sigma, sigma))


def clustered(found: evaluate.Comparison, views: int) -> evaluate.Comparison:
    """The results of pictures, each the mean of its views."""
    values = found.values.reshape(*found.values.shape[:2], -1, views)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pictures without a box
        return dataclasses.replace(found, values=np.nanmean(values, axis=-1), target=found.target[::views])


def table(found: evaluate.Comparison, method: str) -> str:
    """The mean of each method, and the mean by which `method` is better, with the interval of the pairs."""
    lines = ["| | " + " | ".join(f"{name} | {method} is better by" for name in found.metrics) + " |"]
    lines.append("|---" + "|---:|---:" * len(found.metrics) + "|")
    for other in found.methods:
        cells = []
        for name in found.metrics:
            mean, low, high, count = found.difference(method, other, name)
            bold = "**" if low > 0 else ""
            better = "" if other == method else f"{bold}{mean:+.3f} ({low:+.3f} to {high:+.3f}){bold}, n = {count}"
            cells.append(f"{np.nanmean(found.of(other, name)):.3f} | {better}")
        lines.append(f"| {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("|gradient|", r"\|gradient\|").replace("|SmoothGrad|", r"\|SmoothGrad\|")


def ranking(found: evaluate.Comparison) -> str:
    means = {m: [float(np.nanmean(found.of(m, name))) for name in found.metrics] for m in found.methods}
    lines = ["| | " + " | ".join(found.metrics) + " |", "|---" + "|---:" * len(found.metrics) + "|"]
    ordered = sorted(means.items(), key=lambda item: -item[1][0])
    return "\n".join(lines + [f"| {m} | " + " | ".join(f"{v:.3f}" for v in row) + " |" for m, row in ordered])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=["cifar", "photos"])
    parser.add_argument("--data", type=Path, required=True, help="cifar10_part.npz, or the folder of photographs")
    parser.add_argument("--model", type=Path, help="of cifar: the .keras file")
    parser.add_argument("--weights", type=Path, help="of photos: MobileNet's")
    parser.add_argument("--samples", type=int, default=500, help="of cifar; default: 500")
    parser.add_argument("--grid", action="store_true", help="rank composites instead of comparing the preset")
    parser.add_argument("--only", metavar="PATTERN", help="of the grid: the composites whose name it matches somewhere")
    parser.add_argument("--out", type=Path, help="default: nothing is kept")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UndefinedMetricWarning)
    given = {"cifar": cifar, "photos": photos}[options.net](options)
    metrics = ("srg",) if given.masks is None else ("srg", *ON_OBJECTS)
    methods = grid(given.model, options.only or "") if options.grid else rivals(given.model)
    found = evaluate.compare(
        methods, given.x, given.target, model=given.model, metrics=metrics, masks=given.masks, batch_size=50,
        resume=options.out, progress=lambda count: print(".", end="", flush=True),
    )  # fmt: skip
    found = clustered(found, given.views)
    print(f"\n{len(found)} pictures, {given.views} views of each")
    print(ranking(found))
    for method in [] if options.grid else [f"{PRESET}, contrast", PRESET]:
        print(f"\n{table(found, method)}")


if __name__ == "__main__":
    main()
