"""Draws docs/tables.png: a small network on scikit-learn's breast cancer data, all samples as a beeswarm."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer

import lrp_tf
from lrp_tf import heatmap

OUT = Path(__file__).resolve().parent.parent / "docs/tables.png"
MALIGNANT = 0


def main() -> None:
    data = load_breast_cancer()
    x, y = data.data.astype("float32"), data.target
    keras.utils.set_random_seed(0)
    scaling = keras.layers.Normalization()
    scaling.adapt(x)
    stack = [keras.Input((x.shape[1],)), scaling, keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2)]
    model = keras.Sequential(stack)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:400], order[400:]
    model.fit(x[train], y[train], epochs=40, batch_size=32, verbose=0)
    accuracy = model.evaluate(x[test], y[test], verbose=0)[1]
    relevance = lrp_tf.Explainer(model, "epsilon")(x, target=MALIGNANT)
    title = f"breast cancer, {len(x)} samples: relevance for malignant\naccuracy {accuracy:.3f} on {len(test)} others"
    heatmap.beeswarm(OUT, relevance, x, list(data.feature_names), title, top=12)


if __name__ == "__main__":
    main()
