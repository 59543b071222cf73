"""What bfloat16 saves convolution by convolution, and what it costs in accuracy on trained networks: --help."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models
import numpy as np
import tensorflow as tf

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.engine.savings import bfloat16

EXPLAINED: dict[str, Any] = {
    "Epsilon": rules.Epsilon(),
    "Epsilon(0.01)": rules.Epsilon(0.01),
    "ZPlus": rules.ZPlus(),
    "AlphaBeta(2, 1)": rules.AlphaBeta(2, 1),
    "Gamma(0.25)": rules.Gamma(0.25),
    "WSquare": rules.WSquare(),
    "epsilon_plus_flat": composites.get("epsilon_plus_flat"),
    "epsilon_alpha2_beta1_flat": composites.get("epsilon_alpha2_beta1_flat"),
}


# --- speed: the convolutions of a network, one by one --------------------------------------------


def speed(name: str, batch: int, runs: int) -> list[dict[str, Any]]:
    """A row for each distinct plain 2-D convolution of a network, and the sums over all of them."""
    graph = lrp_tf.Explainer(models.build(name), rules.ZPlus(), fast="auto").graph
    shapes: dict[tuple, int] = {}
    for step in graph.steps:
        if bfloat16.is_plain(step):
            size, out = step.inputs[step.signals[0]].shape, step.outputs[0].shape
            key = (size, out, bfloat16.kernel_shape(step), step.op.strides, step.op.padding, bfloat16.intensity(step))
            shapes[key] = shapes.get(key, 0) + 1
    rows = []
    for key, count in shapes.items():
        rows.append({"times": count, **_timed(batch, key, runs)})
        _show(rows[-1])
    total = {name: sum(row["times"] * row[name] for row in rows) for name in ("sum", "share")}
    for name in total:
        fast = sum(row["times"] * row[name] * row[f"{name}_cast"] for row in rows)
        best = sum(row["times"] * row[name] * min(1, row[f"{name}_cast"]) for row in rows)
        bare = sum(row["times"] * row[name] * min(1, row[f"{name}_bare"]) for row in rows)
        print(
            f"{name}: float32 {total[name]:.1f} ms; bfloat16 everywhere {fast / total[name]:.2f}, where faster "
            f"{best / total[name]:.2f}, without casts {bare / total[name]:.2f}"
        )
    return rows


def _timed(batch: int, key: tuple, runs: int) -> dict[str, Any]:
    size, out, kernel, strides, padding, intensity = key
    x, g = tf.random.uniform([batch, *size]), tf.random.uniform([batch, *out])
    w = tf.random.normal(kernel)

    def forward(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(x, w, strides, padding.upper())

    def back(g: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=[batch, *size],
            filter=w,
            out_backprop=g,
            strides=[1, *([strides] * 2 if isinstance(strides, int) else strides), 1],
            padding=padding.upper(),
        )

    row: dict[str, Any] = {"input": size, "output": out, "kernel": kernel, "intensity": intensity}
    for name, function, value in (("sum", forward, x), ("share", back, g)):
        half, half_w = tf.cast(value, tf.bfloat16), tf.cast(w, tf.bfloat16)
        variants = [
            (_compiled(function, False), value, w),
            (_compiled(function, True), value, w),
            (_compiled(function, False), half, half_w),
        ]
        times: list[list[float]] = [[] for _ in variants]
        for _ in range(runs + 2):
            for found, (run, *tensors) in zip(times, variants, strict=True):
                begin = time.perf_counter()
                run(*tensors).numpy()
                found.append(time.perf_counter() - begin)
        plain, cast, bare = (found[2:] for found in times)
        row[name] = 1000 * statistics.median(plain)
        row[f"{name}_cast"] = statistics.median(a / b for a, b in zip(cast, plain, strict=True))
        row[f"{name}_bare"] = statistics.median(a / b for a, b in zip(bare, plain, strict=True))
    return row


def _compiled(function: Callable, casts: bool) -> Callable:
    """The function with its first number alone as result, so that nothing is copied out; in bfloat16 if it casts."""

    def run(value: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        if casts:
            value, w = tf.cast(value, tf.bfloat16), tf.cast(w, tf.bfloat16)
        found = function(value, w)
        return (tf.cast(found, tf.float32) if casts else found)[0, 0, 0, 0]

    return tf.function(run, autograph=False)


def _show(row: dict[str, Any]) -> None:
    shapes = f"{row['times']:3d} x {row['input']!s:17s} -> {row['output']!s:17s} {row['kernel']!s:20s}"
    parts = [
        f"{name} {row[name]:7.2f} ms, {row[name + '_cast']:.2f}, {row[name + '_bare']:.2f}" for name in ("sum", "share")
    ]
    print(f"{shapes}{row['intensity']:6.0f} per entry   {'   '.join(parts)}", flush=True)


# --- accuracy: trained networks ------------------------------------------------------------------


def accuracy(name: str, data: Path) -> list[dict[str, Any]]:
    """For each rule how relevance in bfloat16 agrees with float32, at every plain 2-D convolution whatever its size."""
    model, x = TRAINED[name](data)
    rows = []
    for label, composite in EXPLAINED.items():
        exact = lrp_tf.Explainer(model, composite).explain(x)
        with mock.patch.multiple(bfloat16, LIMITS=bfloat16.Limits(0, 0), LEAST_WORK=0, obstacle=lambda: None):
            explainer = lrp_tf.Explainer(model, composite, fast="bfloat16")
        found = explainer.explain(x)
        a, b = (np.reshape(e.relevance, [len(x), -1]).astype(np.float64) for e in (exact, found))
        each = [float(np.corrcoef(p, q)[0, 1]) for p, q in zip(a, b, strict=True)]
        deviation = np.abs(a - b).max(1) / np.abs(a).max(1)
        row = {"name": label, "correlation": statistics.median(each), "least": min(each)}
        row |= {"deviation": float(np.median(deviation)), "largest": float(deviation.max())}
        row |= {"rest": float(np.abs(found.conservation.unexplained).max()), **_books(explainer, x)}
        rows.append(row)
        print(
            f"{label:28s} correlation {row['correlation']:.6f}, least {row['least']:.6f}; "
            f"deviation {row['deviation']:.1e}, largest {row['largest']:.1e}; rest "
            f"{row['rest']:.1e}, of a step {row['books']:.1e}, check: {row['check']}",
            flush=True,
        )
    return rows


def _books(explainer: lrp_tf.Explainer, x: np.ndarray) -> dict[str, Any]:
    """What `check` says, and the largest rest of a step that it finds."""
    check = explainer.check(x[:2], print_fn=None)
    (books,) = (finding.measured for finding in check.findings if finding.name == "books")
    return {"books": float(books), "check": bool(check)}


def _mobilenet(data: Path) -> tuple[keras.Model, np.ndarray]:
    """MobileNet 0.75 with the weights of ImageNet, and photographs."""
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(data / "mobilenet075.weights.h5")
    files = sorted((data / "photos").glob("*.jpg"))[:8]
    images = [keras.utils.img_to_array(keras.utils.load_img(file, target_size=(224, 224))) for file in files]
    return model, keras.applications.mobilenet.preprocess_input(np.stack(images))


def _fitted(model: keras.Model, file: Path, size: int) -> tuple[keras.Model, np.ndarray]:
    """A network trained for two epochs on `size` pictures, and eight pictures that it has not seen."""
    with np.load(file) as arrays:
        x, y = (arrays[name] for name in ("x_train", "y_train"))
        chosen = np.random.default_rng(0).permutation(len(x))[: size + 500]
    x = x[chosen].reshape(-1, *model.input_shape[1:]).astype("float32") / 255
    y = y[chosen].reshape(-1)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:size], y[:size], epochs=2, batch_size=64, verbose=0)
    reached = model.evaluate(x[size:], y[size:], verbose=0)[1]
    print(f"trained on {size} pictures to an accuracy of {reached:.2f}", flush=True)
    return model, x[size : size + 8]


def _digits(data: Path) -> tuple[keras.Model, np.ndarray]:
    return _fitted(models.build("mnist"), data / "mnist.npz", 10_000)


def _cifar(data: Path) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for filters in (32, 64, 128):
        for _ in range(2):
            model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
            model.add(layers.BatchNormalization(momentum=0.9))
            model.add(layers.ReLU())
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(10, activation="softmax"))
    return _fitted(model, data / "cifar10_part.npz", 8_000)


TRAINED: dict[str, Callable[[Path], tuple[keras.Model, np.ndarray]]] = {
    "mobilenet": _mobilenet,
    "digits": _digits,
    "cifar": _cifar,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--speed", choices=models.MODELS, metavar="MODEL", help=f"one of {', '.join(models.MODELS)}")
    what.add_argument("--accuracy", choices=TRAINED, metavar="MODEL", help=f"one of {', '.join(TRAINED)}")
    needed = "mobilenet075.weights.h5 and photos/, mnist.npz or cifar10_part.npz"
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"for --accuracy, with {needed}")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(f"bfloat16 by {bfloat16.kind() or 'emulation'}, TensorFlow {tf.__version__}", flush=True)
    if options.speed:
        rows = speed(options.speed, options.batch, options.runs)
    elif options.data is None:
        parser.error("--accuracy needs --data")
    else:
        rows = accuracy(options.accuracy, options.data)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
