"""Why relevance in float32 differs between jax and TensorFlow: what the forward pass decides, and how steep it is.

    python benchmarks/stablehlo_flips.py vgg16 resnet50
    python benchmarks/stablehlo_flips.py vgg16 --average                   # average in place of max pooling
    python benchmarks/stablehlo_flips.py vgg16 trained --data DIR          # photographs of DIR/photos in place of noise
    python benchmarks/stablehlo_flips.py resnet50 --relative 0.25          # with larger stabilizers
    TF_ENABLE_ONEDNN_OPTS=0 python benchmarks/stablehlo_flips.py vgg16 --xla     # TensorFlow by the same compiler

A row for each image. Deviations are the largest difference of relevance, relative to its largest value: of jax and
TensorFlow, and of either from TensorFlow in float64. *Moved winners* are windows of max pooling whose winner is another
one, *signs* units of other ReLUs that are on in one program and off in the other: jax against TensorFlow, TensorFlow
against float64, jax against float64. Both are seen where relevance is zero in one program alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import models
import numpy as np
import peers
import stablehlo as benchmark
import tensorflow as tf

import lrp_tf
from lrp_tf import composites, rules
from lrp_tf.exporting import stablehlo, text

COLUMNS = ("net", "preset", "image", "jax – TF", "TF – float64", "jax – float64", "moved winners", "signs")
Found = dict[str, np.ndarray]


class Taps:
    """The layers of a net whose relevance shows what the forward pass decided.

    Attributes:
        pooled: what max pooling reads: relevance is there at the winners alone.
        active: outputs of ReLUs that go elsewhere: relevance is there where they are on.
    """

    def __init__(self, model: keras.Model) -> None:
        read = [layer.input for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
        self.pooled = [tensor._keras_history.operation.name for tensor in read]
        relus = [layer.name for layer in model.layers if _is_relu(layer)]
        self.active = [name for name in relus if name not in self.pooled]

    def function(self, explainer: lrp_tf.Explainer) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
        """Relevance of the top class at the input and at the taps. The target that a runner gives has no effect."""

        def explain(x: tf.Tensor, given: tf.Tensor) -> dict[str, tf.Tensor]:
            found = explainer.explain(x, layers=[*self.pooled, *self.active])
            return {"relevance": found.relevance, "target": found.target, "given": given, **found.layers}

        return explain

    def flips(self, one: Found, other: Found) -> tuple[int, int]:
        """Moved winners and other signs."""
        lost = lambda a, b, names: sum(np.count_nonzero((a[n] != 0) & (b[n] == 0)) for n in names)  # noqa: E731
        moved = max(lost(one, other, self.pooled), lost(other, one, self.pooled))
        return moved, lost(one, other, self.active) + lost(other, one, self.active)


def _is_relu(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu


def in_jax(explain: Callable, kind: str, x: np.ndarray) -> Iterator[Found]:
    """What the function gives in jax for each image."""
    specs = [tf.TensorSpec([1, *x.shape[1:]], kind), tf.TensorSpec([1], tf.int32)]
    inputs = [("x", (1, *x.shape[1:]), kind), ("target", (1,), "int32")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "export").mkdir()
        stablehlo.write(folder / "export", text.lowered(explain, specs), inputs, {"target": -1})
        command = [sys.executable, str(Path(__file__).with_name("stablehlo_child.py")), str(folder / "export")]
        for i, image in enumerate(x):
            np.save(folder / f"{i}.npy", image[None])
        files = [str(folder / f"{i}.{end}") for i in range(len(x)) for end in ("npy", "npz")]
        subprocess.run([*command, *files], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for i in range(len(x)):
            with np.load(folder / f"{i}.npz") as file:
                yield dict(file)


def averaging(model: keras.Model) -> keras.Model:
    """The same net with average in place of max pooling."""

    def swap(layer: keras.Layer) -> keras.Layer:
        settings = layer.get_config()
        if not isinstance(layer, keras.layers.MaxPooling2D):
            return type(layer).from_config(settings)
        return keras.layers.AveragePooling2D(**{k: settings[k] for k in ("name", "pool_size", "strides", "padding")})

    found = keras.models.clone_model(model, clone_function=swap)
    found.set_weights(model.get_weights())
    return found


def options_of(preset: str, x: np.ndarray, relative: float | None) -> dict[str, object]:
    """Of the preset: bounds, and with `relative` stabilizers that are this fraction of activations."""
    options: dict[str, object] = {"low": x.min(), "high": x.max()} if composites.needs_bounds(preset) else {}
    if relative is not None:
        names = ("epsilon",) if preset == "epsilon" else ("epsilon", "stabilizer")
        options |= dict.fromkeys(names, rules.Relative(relative))
    return options


def rows(
    name: str, model: keras.Model, x: np.ndarray, preset: str, options: argparse.Namespace
) -> Iterator[tuple[float, bool]]:
    """Print a row for each image; yield how far jax is from TensorFlow, and whether all winners are the same."""
    taps, more = Taps(model), options_of(preset, x, options.relative)
    ours, double = (taps.function(lrp_tf.Explainer(m, preset, **more)) for m in (model, peers.in_float64(model)))
    compiled, doubled = tf.function(ours, jit_compile=options.xla), tf.function(double)
    given = tf.zeros([1], tf.int32)
    for i, jax in enumerate(in_jax(ours, "float32", x)):
        image = tf.constant(x[i : i + 1])
        plain = {key: value.numpy() for key, value in compiled(image, given).items()}
        wanted = {key: value.numpy() for key, value in doubled(tf.cast(image, tf.float64), given).items()}
        if not jax["target"] == plain["target"] == wanted["target"]:
            print(f"| {name} | {preset} | {i} | top classes differ |", flush=True)
            continue
        pairs = ((jax, plain), (plain, wanted), (jax, wanted))
        far = [peers.deviation(a["relevance"], b["relevance"]) for a, b in pairs]
        moved, signs = zip(*(taps.flips(a, b) for a, b in pairs), strict=True)
        counts = " | ".join(", ".join(map(str, kind)) for kind in (moved, signs))
        print(f"| {name} | {preset} | {i} | {' | '.join(f'{value:.1e}' for value in far)} | {counts} |", flush=True)
        yield far[0], moved[0] == 0


def told(values: np.ndarray) -> str:
    return f"median {np.median(values):.1e}, worst {values.max():.1e} of {len(values)}" if len(values) else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="+", choices=["trained", *models.MODELS], metavar="NET")
    parser.add_argument("--presets", nargs="+", default=["epsilon_plus_flat"], choices=composites.PRESETS)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--data", type=Path, metavar="DIR", help="photographs of DIR/photos in place of noise")
    parser.add_argument("--average", action="store_true", help="average in place of max pooling")
    parser.add_argument("--relative", type=float, metavar="F", help="stabilizers of this fraction of activations")
    parser.add_argument("--xla", action="store_true", help="TensorFlow compiles with XLA, too")
    options = parser.parse_args()
    if "trained" in options.nets and options.data is None:
        parser.error("trained needs --data")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name in options.nets:
        model, x = net(name, options)
        for preset in options.presets:
            found = list(rows(name, model, x, preset, options))
            far, same = np.array([value for value, _ in found]), np.array([alike for _, alike in found], bool)
            print(f"\n{name}, {preset}, jax – TF: {told(far)}; same winners in both: {told(far[same])}\n", flush=True)


def net(name: str, options: argparse.Namespace) -> tuple[keras.Model, np.ndarray]:
    """A network, and images as it takes them."""
    if name == "trained":
        return benchmark.trained(options.data, options.images)
    model = models.build(name)
    x = models.image(model, options.images).numpy()
    if options.data:
        x = benchmark.photographs(options.data, options.images) / 255
    return averaging(model) if options.average else model, x


if __name__ == "__main__":
    main()
