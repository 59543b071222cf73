"""Explains one image with every model of keras.applications and every preset, and tells what became of relevance.

    python -m lrp_tf.tools.coverage --models ResNet50 VGG16 --presets epsilon_plus

Weights are random, but of the size of trained ones: no download is needed, and no activations vanish.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import gc
import inspect
import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import lrp_tf
from lrp_tf.atomic import atomic

TOLERANCE = 1e-4
# The smallest multiple of 32 with a last map of 2x2. Models without padding need more; Xception takes at least 71.
_SIZE, _SIZES = 64, {"inception_v3": 107, "inception_resnet_v2": 107, "xception": 71}
# The smallest models of their families that are not the first by name.
_SMALL = {"ConvNeXtTiny", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2"}
_BATCH = 16  # Images that set the statistics; with 8, deep nets amplify the difference of another image.


def constructors() -> dict[str, Callable[..., keras.Model]]:
    """Every model of keras.applications by name."""
    return {name: value for name, value in vars(keras.applications).items() if inspect.isfunction(value)}


def _module(name: str) -> str:
    return constructors()[name].__module__.rpartition(".")[2]


FAMILIES: dict[str, list[str]] = {}  # module -> names of its models, the smallest first
for _name in sorted(constructors(), key=lambda name: (name not in _SMALL, name)):
    FAMILIES.setdefault(re.sub(r"\d\d$", "", _module(_name)), []).append(_name)  # vgg16 and vgg19 are one


def build(name: str, seed: int = 0, zero_bias: bool = False) -> keras.Model:
    """A model of `constructors()` with random weights of realistic size; its name is `name`.

    Kernels are initialised by He's scheme, then scaled in one pass, so that each gives values with a mean square of 1
    for `image(model, seed)`; BatchNormalization gets its statistics in that pass.

    Args:
        seed: of weights and images.
        zero_bias: biases, beta and moving means are 0, and moving variances are mean squares.

    Raises:
        ValueError: a last feature map of less than 2x2.
    """
    size = _SIZES.get(_module(name), _SIZE)
    model = constructors()[name](weights=None, input_shape=(size, size, 3))
    model.name = name
    if min(last_map(model)) < 2:
        raise ValueError(f"The last feature map of {name} at {size} pixels is {last_map(model)}. Expected: 2x2 or more")
    rng = np.random.default_rng(seed)
    layers = [
        inner for layer in model.layers for inner in getattr(layer, "layers", [layer])
    ]  # ConvNeXt nests layers, one level deep
    for layer in layers:
        _draw(layer, rng, zero_bias)
        layer.call = functools.partial(_fit, layer, layer.call, zero_bias)
    images = _BATCH if any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers) else 1
    model(np.concatenate([image(model, seed + index) for index in range(images)]), training=False)
    for layer in layers:
        del layer.call
    return model


def last_map(model: keras.Model) -> tuple[int, int]:
    """Height and width of the last feature map, which the last global pooling reads, or Flatten if there is none."""
    pooling = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    readers = [[layer for layer in model.layers if isinstance(layer, of)] for of in (pooling, keras.layers.Flatten)]
    return tuple((readers[0] or readers[1])[-1].input.shape[1:3])


def image(model: keras.Model, seed: int = 0) -> np.ndarray:
    """A seeded image, preprocessed for the model, [1, H, W, 3]: blobs of all sizes and some noise."""
    rng = np.random.default_rng(seed)
    size = model.input_shape[1:3]
    picture = np.zeros((1, *size, 3))
    for cells, contrast in ((2, 45), (4, 30), (8, 20), (16, 15), (size[0], 5)):
        # As in photographs, most of the contrast is common to the three channels.
        blobs = rng.standard_normal((1, cells, cells, 1)) + 0.5 * rng.standard_normal((1, cells, cells, 3))
        blobs = tf.image.resize(blobs, size, "bicubic").numpy()
        picture += contrast * (blobs - blobs.mean()) / blobs.std()
    return _preprocessed(model, np.clip(127.5 + picture, 0, 255))


def bounds(model: keras.Model) -> dict[str, np.ndarray]:
    """`low` and `high` of the model's input after preprocessing, [3] each."""
    return {name: _preprocessed(model, np.full(3, end)) for name, end in (("low", 0.0), ("high", 255.0))}


def _preprocessed(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return getattr(keras.applications, _module(model.name)).preprocess_input(np.array(x, np.float32))  # in place


def _draw(layer: keras.layers.Layer, rng: np.random.Generator, zero_bias: bool) -> None:
    """Draw weights with which the net does not amplify noise, as trained weights do not.

    With random signs everywhere 1 % of noise on its image changes the logits of EfficientNetB0 by 280 %, and rounding
    those of ResNet152 by 0.03 %. A part that is common to all images reduces this to 8 % and 0.0003 %: beta or, without
    biases, the mean of the kernels before BatchNormalization, and values so large that swish acts as ReLU.
    """
    batch_norm = isinstance(layer, keras.layers.BatchNormalization)
    for name in ("depthwise_kernel", "pointwise_kernel", "kernel"):
        if (kernel := getattr(layer, name, None)) is not None:
            depthwise = name == "depthwise_kernel" or isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_in = math.prod(kernel.shape[: 2 if depthwise else -1])
            kernel.assign(rng.standard_normal(kernel.shape, np.float32) * np.float32(math.sqrt(2 / fan_in)))
            if zero_bias and layer.bias is None:
                kernel.assign_add(tf.fill(kernel.shape, 1.7 / fan_in))
    for name in ("bias", "beta"):
        if (shift := getattr(layer, name, None)) is not None:
            drawn = rng.normal(0.7, 0.3, shift.shape) if batch_norm else rng.normal(0.0, 0.1, shift.shape)
            shift.assign(0.0 * drawn if zero_bias else drawn)
    if (gamma := getattr(layer, "gamma", None)) is not None:
        # LayerScale of ConvNeXt starts at 1e-6 and is trained to this.
        scales = not (batch_norm or isinstance(layer, keras.layers.LayerNormalization))
        drawn = rng.uniform(0.1, 1.0, gamma.shape) if scales else rng.normal(1.0, 0.1, gamma.shape)
        gamma.assign(3.0 * drawn if zero_bias and batch_norm else drawn)
    if isinstance(layer, keras.layers.Normalization) and layer.weights:
        # ImageNet's mean and variance, which EfficientNet has among its trained weights.
        layer.set_weights([np.array([0.485, 0.456, 0.406]), np.square([0.229, 0.224, 0.225]), np.array(0)])
        layer.finalize_state()


def _fit(
    layer: keras.layers.Layer, call: Callable[..., tf.Tensor], zero_bias: bool, x: tf.Tensor, **options: Any
) -> tf.Tensor:
    """Replaces the `call` of a layer in the pass that scales its weights by its input."""
    if isinstance(layer, keras.layers.BatchNormalization):
        axes = [axis for axis in range(x.shape.rank) if axis != layer.axis % x.shape.rank]
        # Differences in scale grow with every gate, so all images are scaled to the first one.
        square = tf.reduce_mean(tf.square(x), range(1, x.shape.rank), keepdims=True)
        values = x * tf.sqrt(square[:1] / square)
        mean = tf.zeros_like(layer.moving_mean) if zero_bias else tf.reduce_mean(values, axes)
        variance = tf.reduce_mean(tf.square(values - mean), axes)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(tf.maximum(variance, 0.01 * tf.reduce_mean(variance)))  # no channel is dead
    kernel = getattr(layer, "pointwise_kernel", getattr(layer, "kernel", None))
    if kernel is None:
        return call(x, **options)
    bias = 0.0 if layer.bias is None else layer.bias
    activation, layer.activation = layer.activation, keras.activations.linear
    z = call(x) - bias
    layer.activation = activation
    size = tf.sqrt(tf.reduce_mean(tf.square(z[:1])))
    kernel.assign(kernel / size)
    return activation(z / size + bias)


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one image; shares are relative to the start relevance.

    Attributes:
        steps: of the canonized graph.
        kinds: of layers and operations, including those that canonization folds or absorbs.
        clone: largest difference to the output of the model, and to its logits up to the constant that softmax
            ignores, relative to the largest of these.
        nonfinite: NaN and Inf entries.
        seconds: to build the Explainer and explain once; NaN if it ran eagerly.
        error: first line of the error that ended it.
    """

    model: str
    size: int = 0
    preset: str = ""
    steps: int = 0
    kinds: tuple[str, ...] = ()
    clone: float = math.nan
    relevance: float = math.nan
    bias: float = math.nan
    stabilizer: float = math.nan
    other: float = math.nan
    unexplained: float = math.nan
    nonfinite: int = 0
    seconds: float = math.nan
    error: str = ""

    @property
    def passed(self) -> bool:
        return not (self.error or self.nonfinite) and self.clone <= TOLERANCE and abs(self.unexplained) <= TOLERANCE


_RUN_EAGERLY = threading.Lock()  # The switch belongs to the whole process.


@contextlib.contextmanager
def _eager(wanted: bool) -> Iterator[None]:
    """Run functions eagerly inside the context, if `wanted`."""
    with _RUN_EAGERLY:
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(before or wanted)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(before)


def check(model: keras.Model, x: np.ndarray, preset: str, *, zero_bias: bool = False, timed: bool = True) -> Row:
    """Explain one image with a preset. NaN and Inf give a row; all other errors of lrp_tf are raised.

    Args:
        timed: compile and measure the time, as a user would; otherwise run eagerly, which is faster for one image.
    """
    options = {"zero_bias": zero_bias, **(bounds(model) if lrp_tf.composites.needs_bounds(preset) else {})}
    begin = time.perf_counter()
    explainer = lrp_tf.Explainer(model, lrp_tf.composites.get(preset, **options))
    kinds = tuple(sorted(set(explainer.summary(None).column("operation"))))
    row = functools.partial(Row, model.name, x.shape[1], preset, len(explainer.graph.steps), kinds)
    try:
        with _eager(not timed):
            e = explainer.explain(x)
    except ValueError as error:
        if "NaN or Inf" not in str(error):
            raise
        return row(nonfinite=explainer.report(x, print_fn=None).column("NaN/Inf")[-1], error=str(error).splitlines()[0])
    seconds = time.perf_counter() - begin if timed else math.nan
    output = np.asarray(model(x, training=False))
    shares = {name: float(values[0]) for name, values in e.conservation._asdict().items()}
    start = shares["start"]
    logits, logs = (np.asarray(values) - np.mean(values) for values in (e.logits, np.log(output)))
    clone = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in ((e.output, output), (logits, logs)))
    nonfinite = sum(int(np.sum(~np.isfinite(values))) for values in (e.relevance, e.output, e.logits))
    return row(
        clone=clone,
        relevance=shares["relevance"] / start,
        bias=shares["bias"] / start,
        stabilizer=shares["stabilizer"] / start,
        other=shares["other"] / start,
        unexplained=shares["unexplained"],
        nonfinite=nonfinite,
        seconds=seconds,
    )


def rows(
    names: Iterable[str],
    presets: Sequence[str],
    *,
    zero_bias: bool = False,
    seed: int = 0,
    timed: Sequence[str] | None = None,
) -> Iterator[Row]:
    """A row for each model and preset, as soon as it is computed; an error gives a row too.

    Args:
        timed: presets that are compiled and timed; None: all.
    """
    for name in names:
        model = None
        keras.backend.clear_session()
        for preset in presets:
            gc.collect()  # frees the previous explainer
            try:
                model = build(name, seed, zero_bias) if model is None else model
                clock = timed is None or preset in timed
                row = check(model, image(model, seed), preset, zero_bias=zero_bias, timed=clock)
            except Exception as error:
                row = Row(name, preset=preset, error=f"{type(error).__name__}: {error}".splitlines()[0])
            yield row
            if model is None or row.error.startswith(lrp_tf.UnsupportedLayerError.__name__):
                break  # every other preset would fail too


FOR_IMAGES = [name for name in lrp_tf.composites.PRESETS if name not in lrp_tf.composites.FOR_TRANSFORMERS]
_COLUMNS = {"model": "<17", "size": ">4", "preset": "<25", "steps": ">5", "kinds": ">5", "clone": ">7.1e",
            "relevance": ">9.4f", "bias": ">9.4f", "stabilizer": ">10.1e", "other": ">9.4f", "unexplained": ">11.1e",
            "nonfinite": ">9", "seconds": ">7.1f", "result": "<6"}  # fmt: skip
_LEGEND = """`relevance`, `bias`, `stabilizer`, `other`: shares of the start relevance. `clone`: largest difference to
the model's own output and logits, relative to the largest of these. `kinds`: how many kinds of layers and operations.
`seconds`: to build the Explainer, compile it and explain one image, for presets that `--timed` names; the others run
eagerly. Weights are random, of the size of trained ones."""


def _cells(row: Row) -> list[str]:
    texts = {"kinds": len(row.kinds), "result": row.error or ("ok" if row.passed else "FAILED")}
    cells = (format(texts.get(name, getattr(row, name, None)), form) for name, form in _COLUMNS.items())
    return [cell.replace("nan", "  –") for cell in cells]


def _kinds(found: list[Row]) -> str:
    by_model = {row.model: row.kinds for row in found if row.kinds}
    counts = collections.Counter(kind for kinds in by_model.values() for kind in kinds)
    return "Kinds, in how many models: " + ", ".join(f"{kind} {counts[kind]}" for kind in sorted(counts, key=str.lower))


def _markdown(found: list[Row], made: str) -> str:
    lines = [[cell.strip().replace("|", "\\|") for cell in _cells(row)] for row in found]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in [[*_COLUMNS], ["---"] * len(_COLUMNS), *lines])
    return f"# Coverage of keras.applications\n\n{made}\n\n{_LEGEND}\n\n{table}\n\n{_kinds(found)}."


def main(argv: list[str] | None = None) -> int:
    """The command; 1 if any row failed."""
    from rich.console import Console

    argv = sys.argv[1:] if argv is None else argv
    models, presets = list(constructors()), list(lrp_tf.composites.PRESETS)
    parser = argparse.ArgumentParser(prog="python -m lrp_tf.tools.coverage", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", choices=models, default=models)
    parser.add_argument("--presets", nargs="+", metavar="NAME", choices=presets, default=FOR_IMAGES)
    parser.add_argument("--zero-bias", action="store_true", help="biases are 0 and the composites leave them out")
    timed = parser.add_argument("--timed", nargs="*", metavar="NAME", choices=presets, default=["epsilon_plus_flat"])
    timed.help = "presets that are compiled and timed; the others run eagerly, which is quicker for one image"
    parser.add_argument("--seed", type=int, default=0, help="of weights and image")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, kinds by name")
    options = parser.parse_args(argv)
    show = functools.partial(Console(highlight=False).print, soft_wrap=True, markup=False, emoji=False)
    show("  ".join(format(name, form.split(".")[0]) for name, form in _COLUMNS.items()))
    found = []
    for row in rows(
        options.models, options.presets, zero_bias=options.zero_bias, seed=options.seed, timed=options.timed
    ):
        found.append(row)
        show("  ".join(_cells(row)), style=None if row.passed else "red")
    passed = sum(row.passed for row in found)
    versions = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"
    made = (
        f"`{' '.join(['python -m lrp_tf.tools.coverage', *argv])}`, {versions}: {passed} of {len(found)} rows passed."
    )
    show(f"{_kinds(found)}\n{made}")
    plain = [{k: None if v != v else v for k, v in vars(row).items()} for row in found]  # JSON has no NaN
    data = json.dumps({"made": made, "rows": plain}, indent=1)
    for path, text in ((options.markdown, _markdown(found, made)), (options.json, data)):
        if path:
            atomic(path, functools.partial(Path.write_text, data=text + "\n", encoding="utf-8"))
    return int(passed < len(found))


if __name__ == "__main__":
    sys.exit(main())
