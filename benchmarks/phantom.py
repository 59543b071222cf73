"""Synthetic scans with a planted lesion: a small Conv3D net learns them; its relevance is drawn for docs/volumes.md.

    python -m benchmarks.phantom docs/volumes.png
    python -m benchmarks.phantom --compare

Heads are ellipsoids with folds, skull and noise. Each has a bright ball on one side; the class is the side. Prints
accuracy, how much of the relevance lies in the ball, and how often its largest entry does; with --compare for every
preset for images, gradients and filters that see no net.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, evaluate, gradients, heatmap

SHAPE = (16, 40, 36)  # slices from the feet to the head, rows from the front to the back, columns from right to left
SPACING = (4.0, 1.5, 1.5)  # mm
AFFINE = np.array([[0, 0, -1.5, 27], [0, -1.5, 0, 30], [4.0, 0, 0, -32], [0, 0, 0, 1]])
RADIUS = 6.0  # mm of a lesion


def phantom(seed: int) -> tuple[np.ndarray, int, np.ndarray]:
    """One head: voxels float32 [D, H, W, 1], class (1: lesion on the patient's left), bool [D, H, W] of the lesion."""
    rng = np.random.default_rng(seed)
    z, y, x = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE, SPACING, strict=True))
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    inside = (z / 29) ** 2 + (y / 27) ** 2 + (x / 24) ** 2
    phase = rng.uniform(0, 6.3, 3)
    folds = np.sin(z / 4 + phase[0]) + np.sin(y / 3 + phase[1]) + np.sin(x / 3 + phase[2])
    voxels = np.where(inside < 1, 0.5 + 0.06 * folds, 0.0)
    voxels = np.where((inside >= 0.86) & (inside < 1), 0.95, voxels)  # the skull
    left = int(rng.integers(2))
    centre = rng.uniform([-12, -12, 7], [12, 12, 13]) * [1, 1, 1 if left else -1]
    lesion = sum((axis - c) ** 2 for axis, c in zip((z, y, x), centre, strict=True)) < RADIUS**2
    voxels = np.where(lesion, 0.85, voxels) + rng.normal(0, 0.05, SHAPE)
    return voxels[..., None].astype("float32"), left, lesion


def heads(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels [N, D, H, W, 1], classes [N], lesions [N, D, H, W]."""
    voxels, classes, lesions = zip(*(phantom(seed + i) for i in range(count)), strict=True)
    return np.stack(voxels), np.array(classes), np.stack(lesions)


def network() -> keras.Model:
    """Three convolutions, and a layer that sees left and right apart."""
    return keras.Sequential([
        keras.Input((*SHAPE, 1)),
        kl.Conv3D(8, 3, padding="same", activation="relu"),
        kl.MaxPooling3D(2),
        kl.Conv3D(16, 3, padding="same", activation="relu"),
        kl.MaxPooling3D(2),
        kl.Conv3D(16, 3, padding="same", activation="relu"),
        kl.Flatten(),
        kl.Dense(2, activation="softmax"),
    ], name="phantom")  # fmt: skip


def trained(count: int = 200, epochs: int = 12) -> keras.Model:
    """The network after a few seconds of training."""
    keras.utils.set_random_seed(0)
    voxels, classes, _ = heads(count, 0)
    model = network()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(voxels, classes, batch_size=16, epochs=epochs, verbose=0)
    return model


def compared(model: keras.Model, voxels: np.ndarray, lesions: np.ndarray) -> evaluate.Comparison:
    """Share of positive relevance in the lesion, and whether the largest entry lies there, for all methods."""
    bounds: dict[str, Any] = {"low": float(voxels.min()), "high": float(voxels.max())}
    methods: dict = {
        name: lrp_tf.Explainer(model, name, **(bounds if composites.needs_bounds(name) else {}))
        for name in composites.PRESETS
        if name not in composites.FOR_TRANSFORMERS
    }
    methods |= {"gradient": gradients.Gradient(model), "gradient × input": gradients.InputTimesGradient(model)}
    methods |= {"SmoothGrad": gradients.SmoothGrad(model), "Grad-CAM": gradients.GradCAM(model)}
    methods |= {"|x|": "absolute", "Sobel": "sobel", "random": "random"}
    metrics = ["relevance_mass", "relevance_rank", "pointing_game"]
    return evaluate.compare(methods, voxels, metrics=metrics, masks=lesions, batch_size=20)


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", help="the picture")
    parser.add_argument("--composite", default="epsilon")
    parser.add_argument("--compare", action="store_true", help="print a table of all methods in place of a picture")
    options = parser.parse_args()
    if (options.out is None) != options.compare:
        parser.error("expected either OUT, the picture, or --compare")
    model = trained()
    voxels, classes, lesions = heads(60, 10_000)
    if options.compare:
        print(compared(model, voxels, lesions).overview())
        return
    right = model.predict(voxels, verbose=0).argmax(axis=1) == classes
    explainer = lrp_tf.Explainer(model, options.composite)
    relevance = np.concatenate([*explainer.map(voxels, batch=20)])[..., 0]
    positive = np.maximum(relevance, 0)
    share = (positive * lesions).sum(axis=(1, 2, 3)) / positive.sum(axis=(1, 2, 3))
    largest = np.abs(relevance).reshape(len(relevance), -1).argmax(axis=1)
    hit = lesions.reshape(len(lesions), -1)[np.arange(len(lesions)), largest]
    print(f"accuracy {right.mean():.3f}; share of positive relevance in the lesion {share.mean():.2f}, of the volume "
          f"{lesions.mean():.4f}; largest |R| in the lesion {hit.mean():.2f}")  # fmt: skip
    shown = int(np.flatnonzero(right)[0])
    title = f"lesion on the {('right', 'left')[classes[shown]]}, composite {options.composite}"
    heatmap.save(options.out, relevance[shown], image=voxels[shown], title=title, axis="peak", affine=AFFINE,
                 colorbar=True)  # fmt: skip


if __name__ == "__main__":
    main()
