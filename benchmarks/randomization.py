"""What becomes of the maps of each preset while the layers of a trained net are randomised (Adebayo et al. 2018).

    python benchmarks/randomization.py                                        # a small net for scikit-learn's digits
    python benchmarks/randomization.py --weights WEIGHTS --photos FOLDER      # MobileNet(alpha=0.75) on photographs

WEIGHTS are those of keras.applications.MobileNet(alpha=0.75), FOLDER holds *.jpg. The net is copied; from the output
down the weights of each layer are permuted (--how initialize makes new ones), and they stay so while the next layers
follow. The figure is the similarity of the map of the top class that the net gave before, by default Spearman's
correlation of |R| over the pixels: 1, the map does not depend on the weights that are random; 0, it is another one.
± is half of the 95 % interval of the mean over the pictures (1000 bootstrap samples).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import keras
import numpy as np
from sklearn.datasets import load_digits

import lrp_tf
from lrp_tf import composites, evaluate

# By what the hidden convolutions have: where negative contributions count like positive ones, where hardly, where not.
FAMILIES = {
    "ε": ["epsilon"],
    "γ": ["epsilon_gamma_box", "tutorial"],
    "αβ": ["epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"],
    "z⁺": ["epsilon_plus", "epsilon_plus_flat"],
}
PRESETS = [name for names in FAMILIES.values() for name in names]
COLOURS = {"ε": "#0072b2", "γ": "#009e73", "αβ": "#cc79a7", "z⁺": "#d55e00"}
THIRD = 1 / 3


def digits() -> tuple[keras.Model, np.ndarray, tuple[float, float]]:
    """A net with BatchNormalization, trained on scikit-learn's digits, 200 digits that it never saw, their bounds."""
    keras.utils.set_random_seed(0)
    pictures, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pictures))
    x, y = (pictures[order].reshape(-1, 8, 8, 1) / 16).astype("float32"), classes[order]
    layers = [keras.Input((8, 8, 1))]
    for filters in (16, 32, 32):
        layers += [keras.layers.Conv2D(filters, 3, padding="same"), keras.layers.BatchNormalization()]
        layers += [keras.layers.ReLU()]
    layers += [keras.layers.MaxPooling2D(), keras.layers.Flatten(), keras.layers.Dense(64, "relu")]
    model = keras.Sequential([*layers, keras.layers.Dense(10, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:-200], y[:-200], epochs=15, batch_size=64, verbose=0)
    print(f"digits: {model.evaluate(x[-200:], y[-200:], verbose=0)[1]:.3f} of the 200 held out are right")
    return model, x[-200:], (0.0, 1.0)


def mobilenet(weights: Path, folder: Path) -> tuple[keras.Model, np.ndarray, tuple[float, float]]:
    """The net, the photographs as it takes them, their bounds."""
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(weights)
    pictures = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted(folder.glob("*.jpg"))]
    x = np.stack([cv2.resize(p, (224, 224), interpolation=cv2.INTER_AREA) for p in pictures]).astype("float32")
    return model, x / 127.5 - 1, (-1.0, 1.0)


def half_width(values: np.ndarray) -> float:
    """Half of the 95 % interval of the mean."""
    draws = np.random.default_rng(0).integers(0, len(values), (1000, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(high - low) / 2


def at_a_third(found: evaluate.Randomization) -> int:
    """The first stage with at least a third of the layers."""
    return int(np.argmax(found.share >= THIRD - 1e-9))


def draw(path: Path, found: dict[str, evaluate.Randomization], title: str) -> None:
    """The curves, those of a family in its colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for family, names in FAMILIES.items():
        for name, style in zip([name for name in names if name in found], ["-", "--"], strict=False):
            curve, mean = found[name], np.nanmean(found[name].values, axis=1)
            share = np.concatenate([[0], curve.share])
            axes.plot(share, [1, *mean], style, color=COLOURS[family], label=name, linewidth=1.8)
            low, high = np.nanquantile(curve.values, [0.25, 0.75], axis=1)
            axes.fill_between(share, [1, *low], [1, *high], color=COLOURS[family], alpha=0.10, linewidth=0)
    axes.axvline(THIRD, color="0.6", linewidth=0.8, zorder=0)
    axes.text(THIRD + 0.01, 0.02, "a third", color="0.4", transform=axes.get_xaxis_transform(), fontsize=8)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    some = next(iter(found.values()))
    what = "|R|" if some.absolute else "R"
    axes.set(xlim=(0, 1), ylim=(min(0, axes.get_ylim()[0]), 1.02), title=title)
    axes.set_xlabel(f"share of the layers that are random, {some.order.replace('_', ' ')}")
    axes.set_ylabel(f"{some.kind.capitalize()} of {what} with the net's own map")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="of MobileNet(alpha=0.75)")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="of *.jpg, with --weights")
    parser.add_argument("--composites", nargs="+", default=PRESETS, metavar="NAME")
    parser.add_argument("--how", choices=["permute", "initialize"], default="permute")
    parser.add_argument("--order", choices=["top_down", "bottom_up", "independent"], default="top_down")
    parser.add_argument("--kind", choices=["spearman", "pearson", "ssim"], default="spearman")
    parser.add_argument("--signed", action="store_true", help="of R, not of |R|")
    parser.add_argument("--stages", type=int, default=12, help="explanations on the way (12)")
    parser.add_argument("--keep-norms", action="store_true", help="leave BatchNormalization as it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if (options.weights is None) != (options.photos is None):
        parser.error("--weights and --photos go together")
    model, x, (low, high) = mobilenet(options.weights, options.photos) if options.weights else digits()
    top = evaluate.Predictor(model)(x).argmax(axis=1)
    how = {name: getattr(options, name) for name in ("how", "order", "kind", "stages", "seed")}
    norms = keras.layers.BatchNormalization
    layers = [layer.name for layer in model.layers if layer.weights and not isinstance(layer, norms)]
    how["layers"] = layers if options.keep_norms else None
    found: dict[str, evaluate.Randomization] = {}
    what = f"{len(layers)} layers, " if options.keep_norms else ""
    print(f"{model.name}, {len(x)} pictures, {what}{options.order}, {options.how}, {options.kind}\n")
    print("| preset | a third random | all random | mean of the curve |\n|---|---|---|---|")
    for name in options.composites:
        bounds = {"low": low, "high": high} if composites.needs_bounds(name) else {}
        explainer = lrp_tf.Explainer(model, name, max_batch=8, **bounds)
        found[name] = evaluate.randomization(explainer, x, top, absolute=not options.signed, **how)
        values = found[name].values
        figures = [values[at_a_third(found[name])], values[-1], values.mean(axis=0)]
        print(f"| {name} | " + " | ".join(f"{v.mean():.2f} ± {half_width(v):.2f}" for v in figures) + " |", flush=True)
    if options.json:
        rows = {
            n: {"layers": f.layers, "share": f.share.tolist(), "values": f.values.tolist()} for n, f in found.items()
        }
        options.json.write_text(json.dumps({"options": {**how, "signed": options.signed}, "curves": rows}), "utf-8")
    if options.plot:
        net = "MobileNet, photographs" if options.weights else "A small net, digits"
        draw(options.plot, found, f"{net} (n = {len(x)})")


if __name__ == "__main__":
    main()
